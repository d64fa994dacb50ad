"""From w to w + eps on flat memory: eager in cache-sized pieces, or compiled to one loop a pass.

Both take `Minimiser.sums`, `length` and `direction` as they are; they agree to float32 rounding.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

import torch
from torch import Tensor

from fsam_cli.engine.ascent import ascent_length, perturb_
from fsam_cli.engine.compiled import as_one_loop
from fsam_cli.engine.flat import FlatWeights
from fsam_cli.minimisers._contract import Chunk, Kind, Minimiser


class Climb(Protocol):
    """Perturbs the flat weights in place."""

    def __call__(
        self,
        saved: Tensor,
        share: float | Tensor,
        *,
        fisher: Tensor | None,
        momentum: Tensor | None,
    ) -> None:
        """Climb with the gradient at hand.

        Args:
            saved: flat, for the weights as they are.
            share: of the radius; a 0-dim tensor where a captured step reads it.
            fisher: flat diagonal of the Fisher information, for methods that ask for one.
            momentum: flat, for methods that climb along it.
        """


class EagerClimb:
    """Piece by piece, so that the few passes over a piece find it in the cache."""

    def __init__(self, method: Minimiser, flat: FlatWeights, memory: Tensor | None) -> None:
        self.method, self.flat, self.memory = method, flat, memory
        lent = method.climbs and flat.weights.device.type == "cpu"  # elsewhere a piece is the whole
        self._scratch = flat.weights.new_empty(flat.largest_piece) if lent else None
        self._plain = flat.chunks(memory=memory, scratch=self._scratch)  # for most steps enough

    def __call__(
        self,
        saved: Tensor,
        share: float | Tensor,
        *,
        fisher: Tensor | None,
        momentum: Tensor | None,
    ) -> None:
        chunks = self._plain
        if fisher is not None or momentum is not None:
            chunks = self.flat.chunks(
                fisher=fisher, momentum=momentum, memory=self.memory, scratch=self._scratch
            )
        pieces = [chunk for _, chunk in chunks]
        perturb_(self.method, pieces, [saved[at] for at, _ in chunks], share=share)


class CompiledClimb:
    """One loop for each kind of weights that adds up, and one that writes.

    The vectors are cut by kind before the compiled functions are entered: cut inside, the loops
    take half as long again.
    """

    def __init__(self, method: Minimiser, flat: FlatWeights, memory: Tensor | None) -> None:
        self.method, self.flat, self.memory = method, flat, memory
        kinds: tuple[Kind, ...] = tuple(flat.ranges)
        self._cuts = [slice(*flat.ranges[kind]) for kind in kinds]

        def length(chunks: list[_Tensors]) -> Tensor:
            moving = [
                method.sums(Chunk(w, g, f, kind, v, m))
                for (w, g, f, v, m), kind in zip(chunks, kinds, strict=True)
                if method.moves(kind)
            ]
            return method.length(tuple(_total(column) for column in zip(*moving, strict=True)))

        def perturb(
            chunks: list[_Tensors], saved: list[Tensor], factor: Tensor, one: Tensor
        ) -> None:
            for (w, g, f, v, m), keep, kind in zip(chunks, saved, kinds, strict=True):
                # Times one, which is exact: as a mere copy of w, whose place w + eps then takes,
                # torch's compiler (2.14) may read it after the write and save w + eps.
                keep.copy_(w * one)
                if method.moves(kind):
                    w.add_(method.direction(Chunk(w, g, f, kind, v, m)) * factor)
                if m is not None:
                    method.remember(m, g)

        self._length = as_one_loop(length)
        self._perturb = as_one_loop(perturb)
        self._one = torch.ones((), device=flat.weights.device)

    @torch.no_grad()
    def __call__(
        self,
        saved: Tensor,
        share: float | Tensor,
        *,
        fisher: Tensor | None,
        momentum: Tensor | None,
    ) -> None:
        flat = self.flat
        vectors = (flat.weights, flat.gradient, fisher, momentum, self.memory)
        chunks: list[_Tensors] = [
            tuple(None if each is None else each[at] for each in vectors) for at in self._cuts
        ]
        factor = self._length(chunks)
        if factor.device.type == "cpu" and factor.item() == 0:  # rare; see `ascent_length`
            pieces = flat.chunks(fisher=fisher, momentum=momentum, memory=self.memory)
            factor = ascent_length(self.method, [chunk for _, chunk in pieces])
        self._perturb(chunks, [saved[at] for at in self._cuts], factor * share, self._one)


_Tensors = tuple[Any, ...]  # w, g, f, v, m of one kind; the last three may be None


def _total(column: Sequence[Tensor]) -> Tensor:
    total = column[0]
    for term in column[1:]:
        total = total + term
    return total
