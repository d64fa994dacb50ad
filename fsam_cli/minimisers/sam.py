"""Sharpness-aware minimisation (SAM).

    eps = ρ g / ‖g‖                         in the Euclidean ball  ‖eps‖ ≤ ρ

Foret, Kleiner, Mobahi, Neyshabur: "Sharpness-Aware Minimization for Efficiently Improving
Generalization", ICLR 2021, eq. (2) of the Fisher SAM paper. Departures: none. Cost: 2 gradients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from pydantic import Field

from fsam_cli.minimisers._contract import Chunk, LogRange, Minimiser

if TYPE_CHECKING:
    from torch import Tensor


class Sam(Minimiser):
    """SAM with radius `rho` in the Euclidean norm of all trainable weights together."""

    search: ClassVar[dict[str, LogRange]] = {"rho": LogRange(0.02, 0.5)}

    rho: float = Field(0.05, gt=0)

    @property
    def radius(self) -> float:
        return self.rho

    def direction(self, at: Chunk) -> Tensor:
        return at.g


PROVIDES = {"sam": Sam}
