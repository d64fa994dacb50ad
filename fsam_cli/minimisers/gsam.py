"""Surrogate gap guided SAM (GSAM).

    eps = ρ_t g₁ / ‖g₁‖                     ρ_t = ρ, or from ρ_min to ρ with the learning rate
    step along  g₂ - α g₁⊥,                 g₁⊥ the part of g₁ orthogonal to g₂ = ∇L(w + eps)

Zhuang, Gong, Yuan, Cui, Adam, Dvornek, Tatikonda, Duncan, Liu: "Surrogate Gap Minimization Improves
Sharpness-Aware Training", ICLR 2022 (arXiv 2203.08065), Algorithm 1. Departures: ρ_t follows the
learning rate only where `rho_min` is given; the lowest learning rate of the schedule counts as 0,
so ρ_t = ρ_min + (ρ - ρ_min) lr_t / lr. Extra memory: one vector more than SAM, for g₁. Cost: 2
gradients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator

from fsam_cli.minimisers._contract import LogRange, inner, zero_unless_finite
from fsam_cli.minimisers.sam import Sam

if TYPE_CHECKING:
    from torch import Tensor


class Gsam(Sam):
    """GSAM with radius `rho` down to `rho_min` and weight `alpha` of the surrogate gap."""

    combines: ClassVar[bool] = True
    search: ClassVar[dict[str, LogRange]] = {
        "rho": LogRange(0.02, 0.5),
        "alpha": LogRange(0.02, 1.0),
    }

    alpha: float = Field(0.1, ge=0)
    rho_min: float | None = Field(None, ge=0)  # None: the radius stays `rho`

    @model_validator(mode="after")
    def _radii_in_order(self) -> Gsam:
        if self.rho_min is not None and self.rho_min > self.rho:
            raise ValueError(f"rho_min {self.rho_min} is above rho {self.rho}; it is the smaller")
        return self

    def share_of_radius(self, lr_share: float) -> float:
        if self.rho_min is None:
            return 1.0
        return (self.rho_min + (self.rho - self.rho_min) * lr_share) / self.rho

    def descent_sums(self, g1: Tensor, g2: Tensor) -> tuple[Tensor, ...]:
        return inner(g1, g2), inner(g2, g2)

    def descent(self, g1: Tensor, g2: Tensor, sums: tuple[Tensor, ...]) -> Tensor:
        dot, square = sums
        orthogonal = g1 - zero_unless_finite(dot / square) * g2
        return g2 - self.alpha * orthogonal


PROVIDES = {"gsam": Gsam}
