"""SAM-ON: only the normalisation layers climb.

    eps = ρ ∇_N L / ‖∇_N L‖ on N,  0 elsewhere        in  ‖eps‖ ≤ ρ
    N = scales and shifts of the normalisation layers

Mueller, Vlaar, Rolnick, Hein: "Normalization Layers Are All That Sharpness-Aware Minimization
Needs", NeurIPS 2023 (arXiv 2306.04226). Departures: the Euclidean ball only, of the paper's
several; batch statistics move in the first pass, in the authors' code in both. Cost: 2 gradients.
"""

from __future__ import annotations

from typing import ClassVar

from pydantic import Field

from fsam_cli.minimisers._contract import Kind, LogRange
from fsam_cli.minimisers.sam import Sam


class SamOn(Sam):
    """SAM with radius `rho` over scales and shifts of normalisation layers alone."""

    search: ClassVar[dict[str, LogRange]] = {"rho": LogRange(0.05, 2.0)}

    rho: float = Field(0.5, gt=0)

    def perturbs(self, kind: Kind) -> bool:
        return kind in ("norm_weight", "norm_bias")


PROVIDES = {"sam_on": SamOn}
