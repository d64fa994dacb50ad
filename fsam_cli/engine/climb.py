"""From w to w + eps on flat memory: eager in cache-sized pieces, or compiled to one loop a pass.

Both take `Minimiser.sums`, `length` and `direction` as they are (eager on a CPU `w_plus_direction`,
which says the same); they agree to float32 rounding.
Both write w + eps over the gradient, which is no longer needed; w is only read.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from fsam_cli.engine.ascent import ascent_length, climb_, in_range
from fsam_cli.engine.compiled import as_one_loop
from fsam_cli.engine.flat import FlatWeights
from fsam_cli.minimisers._contract import Chunk, Kind, Minimiser


class EagerClimb:
    """Piece by piece, so that the few passes over a piece find it in the cache.

    Args:
        method: whose climb it is.
        flat: weights and gradient.
        memory: of the method, flat, if it keeps one.
    """

    def __init__(self, method: Minimiser, flat: FlatWeights, memory: Tensor | None) -> None:
        self.method, self.flat, self.memory = method, flat, memory
        self._plain: dict[int, list[Chunk]] = {}  # by where the gradient lies; mostly enough

    def __call__(
        self, share: float | Tensor, *, fisher: Tensor | None, momentum: Tensor | None
    ) -> None:
        """Climb with the gradient at hand.

        Args:
            share: of the radius; a 0-dim tensor where a captured step reads it.
            fisher: flat diagonal of the Fisher information, for methods that ask for one.
            momentum: flat, for methods that climb along it.
        """
        chunks = self._chunks(fisher, momentum)
        factor = ascent_length(self.method, chunks) * share
        climb_(self.method, factor, chunks, [at.g for at in chunks])

    def _chunks(self, fisher: Tensor | None, momentum: Tensor | None) -> list[Chunk]:
        flat, place = self.flat, self.flat.gradient.data_ptr()
        if fisher is None and momentum is None and place in self._plain:
            return self._plain[place]
        # Until the next gradient the spare buffer is free, and its first piece stays in the cache.
        chunks = flat.chunks(
            fisher=fisher, momentum=momentum, memory=self.memory, scratch=flat.spare
        )
        if fisher is None and momentum is None:
            self._plain[place] = chunks
        return chunks


class CompiledClimb:
    """One loop for each kind of weights that adds up, and one that writes.

    The vectors are cut by kind before the compiled functions are entered: cut inside, the loops
    take half as long again. Called as `EagerClimb` is.
    """

    def __init__(self, method: Minimiser, flat: FlatWeights, memory: Tensor | None) -> None:
        self.method, self.flat, self.memory = method, flat, memory
        kinds: tuple[Kind, ...] = tuple(flat.ranges)
        self._cuts = [slice(*flat.ranges[kind]) for kind in kinds]

        def length(chunks: list[_Tensors]) -> tuple[Tensor, ...]:
            moving = [
                method.sums(Chunk(w, g, f, kind, v, m))
                for (w, g, f, v, m), kind in zip(chunks, kinds, strict=True)
                if method.perturbs(kind)
            ]
            sums = tuple(_total(column) for column in zip(*moving, strict=True))
            return method.length(sums), *sums

        def climb(chunks: list[_Tensors], factor: Tensor) -> None:
            for (w, g, f, v, m), kind in zip(chunks, kinds, strict=True):
                above = w
                if method.perturbs(kind):
                    above = w + method.direction(Chunk(w, g, f, kind, v, m)) * factor
                if m is not None:
                    method.remember(m, g)
                if method.perturbs(kind):
                    g.copy_(above)

        self._length = as_one_loop(length)
        self._climb = as_one_loop(climb)

    @torch.no_grad()
    def __call__(
        self, share: float | Tensor, *, fisher: Tensor | None, momentum: Tensor | None
    ) -> None:
        flat = self.flat
        vectors = (flat.weights, flat.gradient, fisher, momentum, self.memory)
        chunks: list[_Tensors] = [
            tuple(None if each is None else each[at] for each in vectors) for at in self._cuts
        ]
        factor, *sums = self._length(chunks)
        if factor.device.type == "cpu" and not in_range(factor, *sums):  # see `ascent_length`
            pieces = flat.chunks(fisher=fisher, momentum=momentum, memory=self.memory)
            factor = ascent_length(self.method, pieces)
        self._climb(chunks, factor * share)


_Tensors = tuple[Any, ...]  # w, g, f, v, m of one kind; the last three may be None


def _total(column: Sequence[Tensor]) -> Tensor:
    total = column[0]
    for term in column[1:]:
        total = total + term
    return total
