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
        if not self._scales(at):
            return at.g  # T = 1
        return self._t_squared(at).mul_(at.g)  # T²g

    def w_plus_direction(self, at: Chunk, factor: float, out: Tensor | None) -> Tensor:
        if type(self) is not Asam or not self._scales(at):
            return super().w_plus_direction(at, factor, out)
        import torch

        return torch.addcmul(at.w, at.g, self._t_squared(at), value=factor, out=out)

    def _scales(self, at: Chunk) -> bool:
        return self.scope == "all" or at.kind in ("weight", "norm_weight")

    def _t_squared(self, at: Chunk) -> Tensor:
        import torch

        t = torch.abs(at.w, out=at.scratch).add_(self.eta)  # T = |w| + η
        return t.mul_(t)


PROVIDES = {"asam": Asam}
