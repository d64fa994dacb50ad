"""Length-matched SAM: a control for Fisher SAM that separates direction from radius.

    eps = ‖eps_FSAM‖ g / ‖g‖,   ‖eps_FSAM‖ = γ ‖F⁻¹g‖ / sqrt(gᵀ F⁻¹ g)

SAM's direction with, at each step, the Euclidean length that FSAM would have taken. What FSAM
gains over this it gains by its direction; what this gains over SAM, by its radius. Source: fsam's
own control, from eqs. (2) and (10) of the Fisher SAM paper. Cost: as FSAM's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from fsam_cli.minimisers._contract import Chunk, inner, zero_unless_finite
from fsam_cli.minimisers.fsam import FisherMetric

if TYPE_CHECKING:
    from torch import Tensor


class SamMatched(FisherMetric):
    """SAM along g, as far as FSAM(`gamma`, `eta`) would have gone."""

    def direction(self, at: Chunk) -> Tensor:
        return at.g

    def sums(self, at: Chunk) -> tuple[Tensor, ...]:
        g, natural = at.g, self.preconditioned(at.g, at)
        return inner(g, g), inner(g, natural), inner(natural, natural)

    def length(self, sums: tuple[Tensor, ...]) -> Tensor:
        gg, g_finv_g, natural_squared = sums
        fsam_length = self.gamma * (natural_squared / g_finv_g).sqrt()
        return zero_unless_finite(fsam_length / gg.sqrt())


PROVIDES = {"sam_matched": SamMatched}
