"""LookSAM: climbs in every k-th step, and reuses in between what the climb had added.

    every k-th step   eps = ρ g / ‖g‖  in  ‖eps‖ ≤ ρ;  step along g₂ = ∇L(w + eps)
                      m <- g₂ - (g·g₂ / g·g) g,        the part of g₂ orthogonal to g
    the others        step along  g + α (‖g‖ / ‖m‖) m

Liu, Mai, Chen, Hsieh, You: "Towards Efficient and Scalable Sharpness-Aware Minimization", CVPR 2022
(arXiv 2203.02714), Algorithm 1, which has k = 5, α = 0.7. Norms are over all weights together; some
public code takes them parameter by parameter. (Look-LayerSAM is another method.) Extra memory: two
vectors more than SAM, for g and m. Cost: 1 + 1/k gradients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field, model_validator

from fsam_cli.minimisers._contract import LogRange, inner, zero_unless_finite
from fsam_cli.minimisers.sam import Sam

if TYPE_CHECKING:
    from torch import Tensor


class LookSam(Sam):
    """LookSAM with radius `rho`, a climb in every `k`-th step, and weight `alpha` in between."""

    remembers: ClassVar[bool] = True
    combines: ClassVar[bool] = True
    search: ClassVar[dict[str, LogRange]] = {
        "rho": LogRange(0.02, 0.5),
        "alpha": LogRange(0.1, 1.0),
    }

    k: int = Field(5, ge=1)
    alpha: float = Field(0.7, ge=0)

    @model_validator(mode="after")
    def _one_hill(self) -> LookSam:
        if self.m_sharpness is not None:
            raise ValueError(
                "m_sharpness: LookSAM remembers one climb, and hills make several; leave it out"
            )
        return self

    @property
    def period(self) -> int:
        return self.k

    def descent_sums(self, g1: Tensor, g2: Tensor) -> tuple[Tensor, ...]:
        return inner(g1, g2), inner(g1, g1)

    def remember_both(self, m: Tensor, g1: Tensor, g2: Tensor, sums: tuple[Tensor, ...]) -> None:
        dot, square = sums
        m.copy_(g2 - zero_unless_finite(dot / square) * g1)

    def between_sums(self, g: Tensor, m: Tensor) -> tuple[Tensor, ...]:
        return inner(g, g), inner(m, m)

    def between(self, g: Tensor, m: Tensor, sums: tuple[Tensor, ...]) -> Tensor:
        squares = zero_unless_finite(sums[0] / sums[1])  # nothing remembered: g
        return g + self.alpha * squares.sqrt() * m


PROVIDES = {"look_sam": LookSam}
