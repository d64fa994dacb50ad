"""The base optimiser over the flat weights; it never writes a non-finite update."""

from __future__ import annotations

from collections.abc import Mapping
from math import isfinite
from typing import Any, Protocol

import torch
from torch import Tensor

from fsam_cli.engine.flat import FlatWeights
from fsam_cli.engine.sgd import MomentumSgd
from fsam_cli.engine.torch_optimizer import TorchOptimizer
from fsam_cli.errors import UsageError
from fsam_cli.recipe.optimizers import is_common_sgd
from fsam_cli.recipe.schema import Optimizer


class _Inner(Protocol):
    def update(self, lr: float | Tensor, skip: Tensor) -> None: ...
    def momentum(self) -> Tensor | None: ...
    def state_by_name(self) -> dict[str, dict[str, Any]]: ...
    def load_state_by_name(self, by_name: Mapping[str, Mapping[str, Any]]) -> None: ...


class FlatOptimizer:
    """Momentum SGD of our own, any other optimiser torch's.

    `nonfinite` is sticky: once a gradient was not finite it stays 1, and every later step is
    skipped, on a GPU without waiting for the queue.

    Args:
        settings: the recipe's.
        flat: weights and gradient.
        compiled: momentum SGD as one compiled loop.
    """

    def __init__(self, settings: Optimizer, flat: FlatWeights, *, compiled: bool = False) -> None:
        self.flat, self._name = flat, settings.name
        self.nonfinite = torch.zeros((), dtype=torch.float32, device=flat.weights.device)
        self.inner: _Inner = (
            MomentumSgd(settings, flat, compiled=compiled)
            if is_common_sgd(settings)
            else TorchOptimizer(settings, flat)
        )

    def step(self, lr: float | Tensor) -> None:
        """Step with the flat gradient; nothing changes where it is not finite.

        Args:
            lr: learning rate; a 0-dim tensor where a captured step reads it.
        """
        total = self.flat.gradient.sum()
        if total.device.type != "cpu":  # the host must not wait for it
            torch.maximum(self.nonfinite, (~total.isfinite()).float(), out=self.nonfinite)
        elif not isfinite(total.item()):
            self.nonfinite.fill_(1)
        if total.device.type != "cpu" or not self.nonfinite.item():
            self.inner.update(lr, self.nonfinite)

    def momentum(self) -> Tensor:
        """The running mean of gradients (SGD's is a sum), flat, to be read only; 0 before the
        first step.

        Raises:
            UsageError: this optimiser keeps none.
        """
        found = self.inner.momentum()
        if found is None:
            raise UsageError(f"the base optimiser {self._name} keeps no momentum")
        return found

    def state_by_name(self) -> dict[str, dict[str, Any]]:
        """State per parameter name: contiguous tensors, and numbers as they are."""
        return self.inner.state_by_name()

    def load_state_by_name(self, by_name: Mapping[str, Mapping[str, Any]]) -> None:
        """The inverse of `state_by_name`."""
        self.inner.load_state_by_name(by_name)
