"""Fisher SAM (FSAM): the neighbourhood is a ball of the Fisher information's metric.

    eps = γ F⁻¹g / sqrt(gᵀ F⁻¹ g)           in  epsᵀ F eps ≤ γ²

Kim, Li, Hu, Hospedales: "Fisher SAM: Information Geometry and Sharpness Aware Minimisation",
ICML 2022, eq. (10). F is diagonal, F = diag(f):

    fisher: gradient_magnitude   f = g²                              eq. (12), the paper's choice
            empirical            f = mean_i (∇ log p(y_i|x_i))²      eq. (11)
            model                the same with y drawn from, or summed over, p(y|x_i)    eq. (7)
    inverse: anti_regularised    F⁻¹ = 1 / (1 + η f)                 Sec. 5, the paper's choice
             damped              F⁻¹ = 1 / (f + η)                   Sec. 3

Departures: none, but for a smoothed loss: f = g² then squares that loss's gradient, where eq. (12)
has log p's (the paper, whose Table 1 smooths, does not say which it took). Two things a user
should know. f is not scale-free: g must be the gradient of the mean loss, unscaled. And with
`gradient_magnitude`, the f of all weights sum to ‖g‖², so for η ≤ 1 nearly every 1/(1 + η f) is 1
and FSAM(γ, η) is nearly SAM(ρ = γ); `sam_matched` and the recorded diagnostics measure how
nearly. Cost: 2 gradients; `empirical` 3, `model` 2 + one for each drawn label, or each class
(`labels: all`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field, model_validator

from fsam_cli.minimisers._contract import (
    Chunk,
    FisherSource,
    Inverse,
    LogRange,
    Minimiser,
    inverse_fisher_times,
    inverse_square_times,
    refuse_singular,
    square_divisor,
)

if TYPE_CHECKING:
    from torch import Tensor


class FisherMetric(Minimiser):
    """The Fisher settings that `fsam` and its control `sam_matched` share."""

    search: ClassVar[dict[str, LogRange]] = {
        "gamma": LogRange(0.02, 0.5),
        "eta": LogRange(1e-3, 1e3),
    }

    gamma: float = Field(0.1, gt=0)
    eta: float = Field(1.0, ge=0)
    fisher: Literal["gradient_magnitude", "empirical", "model"] = "gradient_magnitude"
    inverse: Inverse = "anti_regularised"
    # For `fisher: model`: how many labels to draw from the prediction, or `all` classes exactly.
    labels: Annotated[int, Field(gt=0)] | Literal["all"] = 1

    @model_validator(mode="after")
    def _one_fisher(self) -> FisherMetric:
        refuse_singular(self.eta, self.inverse)
        if self.natural_gradient is not None and self.natural_gradient.model_fields_set:
            raise ValueError(
                "natural_gradient: write true; the method's own Fisher information is used, with "
                "its eta and inverse"
            )
        return self

    @property
    def radius(self) -> float:
        return self.gamma

    @property
    def fisher_source(self) -> FisherSource | None:
        return None if self.fisher == "gradient_magnitude" else self.fisher

    @property
    def fisher_labels(self) -> int | Literal["all"]:
        return self.labels

    def gradients(self, classes: int) -> int:
        if self.fisher == "model":
            return 2 + (classes if self.labels == "all" else self.labels)
        return 3 if self.fisher == "empirical" else 2

    def information(self, at: Chunk) -> Tensor:
        """The diagonal f of the Fisher information on this chunk."""
        return at.g * at.g if at.f is None else at.f

    def preconditioned(self, step: Tensor, at: Chunk) -> Tensor:
        """F⁻¹ times the step, F the method's own."""
        if at.f is None:
            return inverse_square_times(step, at.g, self.eta, self.inverse, at.scratch)
        return inverse_fisher_times(step, at.f, self.eta, self.inverse)

    def reshaped(self, at: Chunk) -> Tensor:
        f = self.information(at)
        return f > 0.1 * self.eta if self.inverse == "damped" else self.eta * f > 0.1


class FisherSam(FisherMetric):
    """Fisher SAM with radius `gamma` and (anti-)regulariser `eta`."""

    def direction(self, at: Chunk) -> Tensor:
        return self.preconditioned(at.g, at)  # F⁻¹g

    def w_plus_direction(self, at: Chunk, factor: float, out: Tensor | None) -> Tensor:
        if type(self) is not FisherSam or at.f is not None:
            return super().w_plus_direction(at, factor, out)
        import torch

        divisor = square_divisor(at.g, self.eta, self.inverse, at.scratch)
        return torch.addcdiv(at.w, at.g, divisor, value=factor, out=out)


PROVIDES = {"fsam": FisherSam}
