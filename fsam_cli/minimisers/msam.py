"""Momentum-SAM (MSAM): perturbs along the base optimiser's momentum, at the price of SGD.

    eps = -ρ v / ‖v‖                        v the momentum before this step; eps = 0 at the first

The perturbation goes where the momentum is about to carry the weights, far enough to overshoot the
valley. Becker, Altrock, Risse: "Momentum-SAM: Sharpness Aware Minimization without Computational
Overhead", 2024 (arXiv 2401.12033); the sign is that of the authors' code, which runs ρ = 3 on
CIFAR-100.

Departures: weight decay acts on w, in the authors' code on w + eps; running batch statistics are
those seen at w + eps, the only pass, and are not estimated again after training. Recorded train
loss and accuracy are at w + eps. Cost: 1 gradient.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from fsam_cli.minimisers._contract import Chunk, LogRange, inner
from fsam_cli.minimisers.sam import Sam

if TYPE_CHECKING:
    from torch import Tensor


class MomentumSam(Sam):
    """MSAM with radius `rho`; the base optimiser must keep a momentum."""

    climbs_along: ClassVar[Literal["gradient", "momentum"]] = "momentum"
    search: ClassVar[dict[str, LogRange]] = {"rho": LogRange(0.1, 4.0)}

    rho: float = Field(0.3, gt=0)

    def direction(self, at: Chunk) -> Tensor:
        return -self._momentum(at)

    def sums(self, at: Chunk) -> tuple[Tensor, ...]:
        v = self._momentum(at)
        return (inner(v, v),)

    @staticmethod
    def _momentum(at: Chunk) -> Tensor:
        if at.v is None:
            raise ValueError("MSAM was given no momentum")
        return at.v


PROVIDES = {"msam": MomentumSam}
