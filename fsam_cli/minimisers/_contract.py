"""The contract of a minimiser: it is its perturbation.

A sharpness-aware minimiser climbs from `w` to the worst point of a neighbourhood. For an
ellipsoid, the first-order solution of

    max  g·eps   subject to   epsᵀ M eps ≤ r²        is        eps = r · M⁻¹g / sqrt(gᵀ M⁻¹ g)

so a method that climbs in an ellipsoid says only what M⁻¹g is (`direction`) and what r is
(`radius`). SAM's M is the identity, ASAM's T⁻², Fisher SAM's the Fisher information. A method
that takes another length also replaces `sums` and `length`.

All are elementwise or sums of elementwise terms, and they are called on `Chunk`s: any
piece of the weights, whole parameters in somebody's own loop, cache-sized pieces of one flat
buffer in fsam's engine. So one definition serves both, and none of them may look across a chunk.
(`w_plus_direction` says the same once more, where that is faster.)

Methods that do more say so by further hooks, each with a default: `perturbs` (only some kinds of
weights), `active_in` (only in some epochs), `period` (only in every so many-th step, with `between`
for the others), `share_of_radius` (a radius that follows the learning rate), `climbs_along`
(momentum instead of a gradient), `remember` and `remember_both` (a vector kept between steps),
`descent` (a step along more than the second gradient).

The engine does everything else: shift, second gradient, restore, and the base optimiser's step.
This folder needs no torch at import: a recipe is validated without it.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Iterable
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, NamedTuple

from pydantic import BeforeValidator, Field, model_validator

from fsam_cli.recipe.schema import Settings

if TYPE_CHECKING:
    from torch import Tensor

# What a parameter is. `weight` and `norm_weight` have "weight" in their name, as ASAM's authors
# tell them apart; the norm kinds belong to a normalisation layer.
Kind = Literal["weight", "norm_weight", "norm_bias", "bias"]
KINDS: tuple[Kind, ...] = ("weight", "norm_weight", "norm_bias", "bias")

FisherSource = Literal["empirical", "model"]
Inverse = Literal["anti_regularised", "damped"]


class Chunk(NamedTuple):
    """A piece of the weights at which a method is asked for its direction."""

    w: Tensor  # weights
    g: Tensor  # gradient of the mean loss at w, unscaled; not for methods that climb along v
    f: Tensor | None  # diagonal of the Fisher information, for methods that ask for one
    kind: Kind
    v: Tensor | None = None  # the base optimiser's momentum, for methods that climb along it
    m: Tensor | None = None  # the method's memory, for methods that keep one
    # If there: memory of this size to work in (out=), and a direction may lie there.
    scratch: Tensor | None = None


class LogRange(NamedTuple):
    """Where to search a setting, evenly on a logarithmic scale."""

    low: float
    high: float


class NaturalGradient(Settings):
    """The inverse Fisher information put before the step itself, F = diag(g²) of the first pass."""

    eta: float = Field(1.0, ge=0)
    inverse: Inverse = "anti_regularised"

    @model_validator(mode="after")
    def _positive(self) -> NaturalGradient:
        refuse_singular(self.eta, self.inverse)
        return self


def _yes_or_no(value: Any) -> Any:
    """`natural_gradient: true` takes every default."""
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


class Minimiser(Settings):
    """Base of every method; its fields are the keys of the recipe's `methods` entry.

    Two of them every method has: `m_sharpness` (each micro-batch of so many images climbs from w
    on its own, and the step follows the mean of their second gradients; Foret et al. 2021,
    Section 4.1) and `natural_gradient` (the step is along F⁻¹ times the gradient it would have
    been along, before momentum and weight decay; the Fisher SAM paper's future work). With both,
    each micro-batch's second gradient has F⁻¹ of its own, and the step follows the mean of those.
    """

    # What `fsam sweep --tune` searches: own settings, or the protocol's as `train.lr`.
    search: ClassVar[dict[str, LogRange]] = {}

    climbs: ClassVar[bool] = True  # False: no perturbation, one gradient a step
    # `momentum`: eps needs no gradient at w, so the only gradient of a step is the one at w + eps.
    climbs_along: ClassVar[Literal["gradient", "momentum"]] = "gradient"
    # True: `remember` or `remember_both` fills `Chunk.m`, zero at first
    remembers: ClassVar[bool] = False
    combines: ClassVar[bool] = False  # True: `descent` makes the step from both gradients

    m_sharpness: int | None = Field(None, gt=0)
    natural_gradient: Annotated[NaturalGradient | None, BeforeValidator(_yes_or_no)] = None

    @model_validator(mode="after")
    def _hills_are_for_climbers(self) -> Minimiser:
        if self.m_sharpness is not None and self._passes() == 1:
            raise ValueError("m_sharpness needs a method that climbs along its own gradient")
        return self

    def gradients(self, classes: int) -> int:
        """Forward-backward passes per image of a step that climbs, the Fisher's included."""
        return self._passes()

    def passes(self, epochs: int, classes: int) -> float:
        """Forward-backward passes per image of a whole training, on average over the images."""
        climbing = sum(self.climbs_in(epoch, epochs) for epoch in range(epochs))
        return epochs + climbing * (self.gradients(classes) - 1) / self.period

    @property
    @abstractmethod
    def radius(self) -> float:
        """The size r of the neighbourhood."""

    @abstractmethod
    def direction(self, at: Chunk) -> Tensor:
        """M⁻¹g on this chunk: where to climb, up to one positive factor for all weights."""

    def w_plus_direction(self, at: Chunk, factor: float, out: Tensor | None) -> Tensor:
        """w + factor · direction on this chunk, on a CPU: what `direction` says, to rounding.

        Replaced only to be faster, where the direction's last operation can take the sum along, and
        only for the very class whose direction that is: a subclass may have another.

        Args:
            at: the chunk.
            factor: from `length`.
            out: where to write, perhaps over the gradient or the scratch; None for new memory.
        """
        import torch

        return torch.add(at.w, self.direction(at), alpha=factor, out=out)

    def sums(self, at: Chunk) -> tuple[Tensor, ...]:
        """Scalars to be added up over all chunks before `length` is asked; here gᵀM⁻¹g."""
        return (inner(at.g, self.direction(at)),)

    def length(self, sums: tuple[Tensor, ...]) -> Tensor:
        """The factor of `direction`, a scalar tensor; 0 where there is nowhere to climb."""
        (squared_dual_norm,) = sums  # gᵀ M⁻¹ g
        return zero_unless_finite(self.radius / squared_dual_norm.sqrt())

    def perturbs(self, kind: Kind) -> bool:
        """Whether weights of this kind are perturbed, and counted in `sums`."""
        return True

    def active_in(self, epoch: int, epochs: int) -> bool:
        """Whether the steps of `epoch` (from 0) of `epochs` climb, for a method that `climbs`."""
        return True

    def climbs_in(self, epoch: int, epochs: int) -> bool:
        """Whether the steps of `epoch` (from 0) of `epochs` climb; the others are plain ones."""
        return self.climbs and self.active_in(epoch, epochs)

    @property
    def period(self) -> int:
        """Steps from one that climbs to the next, counted from the first of the training."""
        return 1

    def climbs_at(self, step: int, epoch: int, epochs: int) -> bool:
        """Whether step number `step` of the training (from 0), in `epoch`, climbs."""
        return step % self.period == 0 and self.climbs_in(epoch, epochs)

    def share_of_radius(self, lr_share: float) -> float:
        """Share of the radius to climb, by the learning rate as a share of its peak."""
        return 1.0

    def remember(self, m: Tensor, g: Tensor) -> None:
        """Update the memory in place with the gradient at w, after the climb has used it."""

    def descent_sums(self, g1: Tensor, g2: Tensor) -> tuple[Tensor, ...]:
        """Scalars to be added up over all chunks before `descent`; g2 was found at w + eps."""
        return ()

    def descent(self, g1: Tensor, g2: Tensor, sums: tuple[Tensor, ...]) -> Tensor:
        """What the base optimiser steps along, for methods that combine both gradients."""
        return g2

    def remember_both(self, m: Tensor, g1: Tensor, g2: Tensor, sums: tuple[Tensor, ...]) -> None:
        """Update the memory in place when both gradients are known; sums as for `descent`."""

    def between_sums(self, g: Tensor, m: Tensor) -> tuple[Tensor, ...]:
        """Scalars to be added up over all chunks before `between`."""
        return ()

    def between(self, g: Tensor, m: Tensor, sums: tuple[Tensor, ...]) -> Tensor:
        """What a step between two that climb goes along, for methods with `period` and memory."""
        return g

    @property
    def fisher_source(self) -> FisherSource | None:
        """The Fisher information to be computed from per-image gradients, if any."""
        return None

    @property
    def fisher_labels(self) -> int | Literal["all"]:
        """For the Fisher information of the model: labels drawn of each image, or all classes."""
        return 1

    def preconditioned(self, step: Tensor, at: Chunk) -> Tensor:
        """F⁻¹ times the step, F of the first pass (`at`); for `natural_gradient`."""
        settings = self.natural_gradient or NaturalGradient()
        return inverse_square_times(step, at.g, settings.eta, settings.inverse, at.scratch)

    def reshaped(self, at: Chunk) -> Tensor | None:
        """Mask of the weights whose direction the Fisher metric scales by more than 10 %.

        None for methods without a Fisher metric.
        """
        return None

    def _passes(self) -> int:
        return 2 if self.climbs and self.climbs_along == "gradient" else 1


def added_up(terms: Iterable[tuple[Tensor, ...]]) -> tuple[Tensor, ...]:
    """What `sums`, or another hook of its kind, gave for each chunk, over all of them."""
    import torch

    return tuple(torch.stack(column).sum() for column in zip(*terms, strict=True))


def inner(a: Tensor, b: Tensor) -> Tensor:
    """a·b over a chunk of any shape; one pass over memory where the chunk is flat."""
    return a.dot(b) if a.dim() == 1 else (a * b).sum()


def inverse_fisher_times(vector: Tensor, f: Tensor, eta: float, inverse: Inverse) -> Tensor:
    """F⁻¹ vector, F = diag(f): 1/(1 + η f) or 1/(f + η) elementwise."""
    return vector / (f + eta) if inverse == "damped" else vector / (1 + eta * f)


def inverse_square_times(
    vector: Tensor, g: Tensor, eta: float, inverse: Inverse, scratch: Tensor | None = None
) -> Tensor:
    """The same with f = g², in two passes; in `scratch` if there is one."""
    import torch

    if scratch is not None and scratch.data_ptr() == vector.data_ptr():
        scratch = None  # the vector itself lies there
    return torch.div(vector, square_divisor(g, eta, inverse, scratch), out=scratch)


def square_divisor(g: Tensor, eta: float, inverse: Inverse, scratch: Tensor | None) -> Tensor:
    """1 + η g² or g² + η: what F⁻¹ with f = g² divides by; in `scratch` if there is one."""
    import torch

    start, slope = (eta, 1.0) if inverse == "damped" else (1.0, eta)
    return torch.addcmul(g.new_full((), start), g, g, value=slope, out=scratch)


def refuse_singular(eta: float, inverse: Inverse) -> None:
    """Raise ValueError where a weight without a gradient would make the inverse 0/0."""
    if inverse == "damped" and eta == 0:
        raise ValueError("eta: the damped inverse 1 / (f + eta) needs an eta above 0")


def zero_unless_finite(factor: Tensor) -> Tensor:
    """A zero gradient leaves nowhere to climb: 0/0 and 1/0 become 0."""
    return factor.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
