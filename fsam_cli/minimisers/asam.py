"""Adaptive SAM (ASAM).

    eps = ρ T²g / ‖Tg‖                      in  ‖T⁻¹ eps‖ ≤ ρ,  T = |w| + η

Kwon, Kim, Park, Choi: "ASAM: Adaptive Sharpness-Aware Minimization for Scale-Invariant Learning
of Deep Neural Networks", ICML 2021; eq. (5) of the Fisher SAM paper.

Departures: `scope: weights` (default) is the form of the ASAM authors' code, whose η the Fisher
SAM paper quotes: T = |w| + η on parameters with "weight" in their name, normalisation scales
included, and T = 1 on all others. `scope: all` with `eta: 0` is eq. (5) literally; it wants
another ρ. Cost: 2 gradients.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from fsam_cli.minimisers._contract import Chunk, LogRange, Minimiser

if TYPE_CHECKING:
    from torch import Tensor


class Asam(Minimiser):
    """ASAM with radius `rho`, regulariser `eta` and the parameters that T scales."""

    search: ClassVar[dict[str, LogRange]] = {"rho": LogRange(0.2, 4.0), "eta": LogRange(0.001, 0.3)}

    rho: float = Field(0.5, gt=0)
    eta: float = Field(0.01, ge=0)
    scope: Literal["weights", "all"] = "weights"

    @property
    def radius(self) -> float:
        return self.rho

    def direction(self, at: Chunk) -> Tensor:
        import torch

        w, g = at.w, at.g
        if self.scope == "weights" and at.kind not in ("weight", "norm_weight"):
            return g  # T = 1
        t = torch.abs(w, out=at.scratch).add_(self.eta)
        return t.mul_(t).mul_(g)  # T²g


PROVIDES = {"asam": Asam}
