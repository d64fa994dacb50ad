"""Friendly SAM: climbs along what is special to this batch.

    d = g - σ m,   eps = ρ d / ‖d‖          in  ‖eps‖ ≤ ρ
    m <- λ m + (1 - λ) g                    after the climb

Li, Zhou, He, Cheng, Huang: "Friendly Sharpness-Aware Minimization", CVPR 2024 (arXiv 2403.12350);
the order is that of the authors' code, which runs σ = 1, λ = 0.95, ρ = 0.2 on CIFAR-100. For σ = 1
updating m first would give the same eps. Departures: m starts at 0, in the authors' code at the
first gradient; the difference fades as λ^t. Others call this method FSAM too: here that is Fisher
SAM. With `m_sharpness` every hill is remembered in turn. Extra memory: one vector more than SAM,
for m. Cost: 2 gradients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from fsam_cli.minimisers._contract import Chunk, inner
from fsam_cli.minimisers.sam import Sam

if TYPE_CHECKING:
    from torch import Tensor


class FriendlySam(Sam):
    """Friendly SAM with radius `rho`, weight `sigma` of the mean gradient and its `decay` λ."""

    remembers: ClassVar[bool] = True

    sigma: float = Field(1.0, ge=0)
    decay: float = Field(0.9, ge=0, lt=1)

    def direction(self, at: Chunk) -> Tensor:
        import torch

        return at.g if at.m is None else torch.sub(at.g, at.m, alpha=self.sigma, out=at.scratch)

    def sums(self, at: Chunk) -> tuple[Tensor, ...]:
        d = self.direction(at)
        return (inner(d, d),)

    def remember(self, m: Tensor, g: Tensor) -> None:
        m.lerp_(g, 1 - self.decay)


PROVIDES = {"friendly_sam": FriendlySam}
