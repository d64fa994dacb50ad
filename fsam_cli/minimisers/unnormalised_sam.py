"""Unnormalised SAM (USAM).

    eps = ρ g                               no fixed radius: ‖eps‖ = ρ ‖g‖

Andriushchenko, Flammarion: "Towards Understanding Sharpness-Aware Minimization", ICML 2022, whose
theory drops the division by ‖g‖; Compagnoni et al., "An SDE for Modeling SAM", ICML 2023, name it
USAM. Departures: none. ρ depends on the scale of the loss, as a learning rate does. Cost: 2
gradients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from fsam_cli.minimisers._contract import Chunk, LogRange
from fsam_cli.minimisers.sam import Sam

if TYPE_CHECKING:
    from torch import Tensor


class UnnormalisedSam(Sam):
    """SAM without the normalisation: a plain gradient step upwards of size `rho`."""

    search: ClassVar[dict[str, LogRange]] = {"rho": LogRange(0.01, 1.0)}

    rho: float = Field(0.1, gt=0)

    def sums(self, at: Chunk) -> tuple[Tensor, ...]:
        return (at.g.new_ones(()),)  # nothing to add up

    def length(self, sums: tuple[Tensor, ...]) -> Tensor:
        (count,) = sums
        return count.new_full((), self.rho)


PROVIDES = {"usam": UnnormalisedSam}
