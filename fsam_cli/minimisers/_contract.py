"""The contract of a minimiser: it is its perturbation.

A sharpness-aware minimiser climbs from `w` to the worst point of a neighbourhood. For an
ellipsoid, the first-order solution of

    max  g·eps   subject to   epsᵀ M eps ≤ r²        is        eps = r · M⁻¹g / sqrt(gᵀ M⁻¹ g)

so a method that climbs in an ellipsoid says only what M⁻¹g is (`direction`) and what r is
(`radius`). SAM's M is the identity, ASAM's T⁻², Fisher SAM's the Fisher information. A method
that takes another length also replaces `sums` and `length`.

All three are elementwise or sums of elementwise terms, and they are called on `Chunk`s: any
piece of the weights, whole parameters in somebody's own loop, cache-sized pieces of one flat
buffer in fsam's engine. So one definition serves both, and none of them may look across a chunk.

The engine does everything else: shift, second gradient, restore, and the base optimiser's step.
This folder needs no torch at import: a recipe is validated without it.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import TYPE_CHECKING, ClassVar, Literal, NamedTuple

from fsam_cli.recipe.schema import Settings

if TYPE_CHECKING:
    from torch import Tensor

# What a parameter is. `weight` and `norm_weight` have "weight" in their name, as ASAM's authors
# tell them apart; the norm kinds belong to a normalisation layer.
Kind = Literal["weight", "norm_weight", "norm_bias", "bias"]
KINDS: tuple[Kind, ...] = ("weight", "norm_weight", "norm_bias", "bias")

FisherSource = Literal["empirical", "model"]


class Chunk(NamedTuple):
    """A piece of the weights at which a method is asked for its direction."""

    w: Tensor  # weights
    g: Tensor  # gradient of the mean loss at w, unscaled
    f: Tensor | None  # diagonal of the Fisher information, for methods that ask for one
    kind: Kind


class LogRange(NamedTuple):
    """Where to search a setting, evenly on a logarithmic scale."""

    low: float
    high: float


class Minimiser(Settings):
    """Base of every method; its fields are the keys of the recipe's `methods` entry."""

    # What `fsam sweep --tune` searches: own settings, or the protocol's as `train.lr`.
    search: ClassVar[dict[str, LogRange]] = {}

    climbs: ClassVar[bool] = True  # False: no perturbation, one gradient a step

    def gradients(self, classes: int) -> int:
        """Forward-backward passes per image and step, those of the Fisher included."""
        del classes
        return 2 if self.climbs else 1

    @property
    @abstractmethod
    def radius(self) -> float:
        """The size r of the neighbourhood."""

    @abstractmethod
    def direction(self, at: Chunk) -> Tensor:
        """M⁻¹g on this chunk: where to climb, up to one positive factor for all weights."""

    def sums(self, at: Chunk) -> tuple[Tensor, ...]:
        """Scalars to be added up over all chunks before `length` is asked; here gᵀM⁻¹g."""
        return ((at.g * self.direction(at)).sum(),)

    def length(self, sums: tuple[Tensor, ...]) -> Tensor:
        """The factor of `direction`, a scalar tensor; 0 where there is nowhere to climb."""
        (squared_dual_norm,) = sums  # gᵀ M⁻¹ g
        return zero_unless_finite(self.radius / squared_dual_norm.sqrt())

    @property
    def fisher_source(self) -> FisherSource | None:
        """The Fisher information to be computed from per-image gradients, if any."""
        return None

    def reshaped(self, at: Chunk) -> Tensor | None:  # noqa: ARG002 (a hook)
        """Mask of weights on which the metric departs from Euclid's by over a tenth.

        None for methods without a Fisher metric.
        """
        return None


def zero_unless_finite(factor: Tensor) -> Tensor:
    """A zero gradient leaves nowhere to climb: 0/0 and 1/0 become 0."""
    return factor.nan_to_num(nan=0.0, posinf=0.0, neginf=0.0)
