"""Exponential moving average of the weights and floating-point buffers, for evaluation.

    average <- d average + (1 - d) w,   d = min(decay, (1 + n) / (10 + n)) at update n

The ramp keeps the first steps from being remembered for ever in short runs.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fsam_cli.engine.flat import FlatWeights


class Average:
    """The averaged copy of a network's weights and running statistics."""

    def __init__(self, model: nn.Module, flat: FlatWeights, decay: float) -> None:
        self.decay, self.updates = decay, 0
        self.weights = flat.weights.clone()
        self._flat = flat
        self.buffers = {
            name: buffer.clone()
            for name, buffer in model.named_buffers()
            if buffer.is_floating_point()
        }
        parts = {name: name.rpartition(".") for name in self.buffers}
        self._places = {  # found once: in a large network that takes a millisecond
            name: (model.get_submodule(module), key) for name, (module, _, key) in parts.items()
        }

    @torch.no_grad()
    def update(self) -> None:
        """Take in the weights as they are now."""
        decay = min(self.decay, (1 + self.updates) / (10 + self.updates))
        self.updates += 1
        self.weights.lerp_(self._flat.weights, 1 - decay)
        if self.buffers:  # in one launch on a GPU, where a network may have a hundred
            live = list(self._live().values())
            torch._foreach_lerp_(list(self.buffers.values()), live, 1 - decay)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The network holds the averages inside, exactly its own weights again outside."""
        saved = {name: buffer.clone() for name, buffer in self._live().items()}
        with self._flat.holding(self.weights), torch.no_grad():
            self._copy(self.buffers)
            try:
                yield
            finally:
                self._copy(saved)

    def state(self) -> dict[str, object]:
        return {
            "updates": self.updates,
            "weights": self._flat.by_name(self.weights),
            "buffers": {name: buffer.clone() for name, buffer in self.buffers.items()},
        }

    def load_state(
        self, updates: int, weights: dict[str, Tensor], buffers: dict[str, Tensor]
    ) -> None:
        self.updates = updates
        self._flat.fill(self.weights, weights)
        for name, buffer in self.buffers.items():
            buffer.copy_(buffers[name])

    def _live(self) -> dict[str, Tensor]:
        """The network's own, as of now: a pass may put another tensor in a buffer's place."""
        return {name: getattr(module, key) for name, (module, key) in self._places.items()}

    def _copy(self, values: dict[str, Tensor]) -> None:
        for name, buffer in self._live().items():
            buffer.copy_(values[name])
