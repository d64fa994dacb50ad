"""From w to w + eps on flat memory: eager in cache-sized pieces, or compiled to one loop a pass.

Both take `Minimiser.sums`, `length` and `direction` as they are; they agree to float32 rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import torch
from torch import Tensor

from fsam_cli.engine.ascent import ascent_length, perturb_
from fsam_cli.engine.compiled import as_one_loop
from fsam_cli.engine.flat import FlatWeights
from fsam_cli.minimisers._contract import Chunk, Kind, Minimiser


class Climb(Protocol):
    """Perturbs the flat weights in place."""

    def __call__(
        self, saved: Tensor, share: float, *, fisher: Tensor | None, momentum: Tensor | None
    ) -> None:
        """Climb with the gradient at hand.

        Args:
            saved: flat, for the weights as they are.
            share: of the radius.
            fisher: flat diagonal of the Fisher information, for methods that ask for one.
            momentum: flat, for methods that climb along it.
        """


class EagerClimb:
    """Piece by piece, so that the few passes of a piece find it in the cache."""

    def __init__(self, method: Minimiser, flat: FlatWeights, memory: Tensor | None) -> None:
        self.method, self.flat, self.memory = method, flat, memory
        self._plain = flat.chunks(memory=memory)  # for the many steps without more than this

    def __call__(
        self, saved: Tensor, share: float, *, fisher: Tensor | None, momentum: Tensor | None
    ) -> None:
        chunks = self._plain
        if fisher is not None or momentum is not None:
            chunks = self.flat.chunks(fisher=fisher, momentum=momentum, memory=self.memory)
        pieces = [chunk for _, chunk in chunks]
        perturb_(self.method, pieces, [saved[at] for at, _ in chunks], share=share)


class CompiledClimb:
    """Two loops over the whole vectors, one that adds up and one that writes."""

    def __init__(self, method: Minimiser, flat: FlatWeights, memory: Tensor | None) -> None:
        self.method, self.flat, self.memory = method, flat, memory
        moving = [(kind, slice(*at)) for kind, at in flat.ranges.items() if method.moves(kind)]

        def length(w: Tensor, g: Tensor, f: _Maybe, v: _Maybe, m: _Maybe) -> Tensor:
            terms = [method.sums(_chunk(w, g, f, v, m, at, kind)) for kind, at in moving]
            return method.length(tuple(_total(column) for column in zip(*terms, strict=True)))

        def perturb(
            w: Tensor, g: Tensor, f: _Maybe, v: _Maybe, m: _Maybe, saved: Tensor, factor: Tensor
        ) -> None:
            saved.copy_(w)
            for kind, at in moving:
                direction = method.direction(_chunk(saved, g, f, v, m, at, kind))
                w[at] = saved[at] + direction * factor
            if m is not None:
                method.remember(m, g)

        self._length = as_one_loop(length)
        self._perturb = as_one_loop(perturb)

    @torch.no_grad()
    def __call__(
        self, saved: Tensor, share: float, *, fisher: Tensor | None, momentum: Tensor | None
    ) -> None:
        flat = self.flat
        at = (flat.weights, flat.gradient, fisher, momentum, self.memory)
        factor = self._length(*at)
        if factor.device.type == "cpu" and factor.item() == 0:  # rare; see `ascent_length`
            chunks = flat.chunks(fisher=fisher, momentum=momentum, memory=self.memory)
            factor = ascent_length(self.method, [chunk for _, chunk in chunks])
        self._perturb(*at, saved, factor * share)


_Maybe = Tensor | None


def _chunk(w: Tensor, g: Tensor, f: _Maybe, v: _Maybe, m: _Maybe, at: slice, kind: Kind) -> Chunk:
    f, v, m = (None if each is None else each[at] for each in (f, v, m))
    return Chunk(w[at], g[at], f, kind, v, m)


def _total(column: Sequence[Tensor]) -> Tensor:
    total = column[0]
    for term in column[1:]:
        total = total + term
    return total
