"""SGD, the baseline: no neighbourhood, no perturbation, one gradient a step.

    eps = 0

Cost: 1 gradient. The paper gives it twice the epochs, so that it spends as many gradients as the
others: in a recipe, `epochs_factor: 2`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar

from fsam_cli.minimisers._contract import Chunk, LogRange, Minimiser

if TYPE_CHECKING:
    from torch import Tensor


class Sgd(Minimiser):
    """The base optimiser alone."""

    climbs: ClassVar[bool] = False
    search: ClassVar[dict[str, LogRange]] = {"train.lr": LogRange(0.02, 0.5)}

    @property
    def radius(self) -> float:
        return 0.0

    def direction(self, at: Chunk) -> Tensor:
        return at.g


PROVIDES = {"sgd": Sgd}
