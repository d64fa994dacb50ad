"""Any of torch's optimisers over the flat weights, state kept by parameter name."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from fsam_cli.engine.flat import FlatWeights, contiguous_on_cpu
from fsam_cli.recipe.optimizers import ELEMENTWISE, can_fuse, construct, keeps_momentum
from fsam_cli.recipe.schema import Optimizer


class TorchOptimizer:
    """A torch optimiser on the flat tensor, or on its views where it must see shapes."""

    def __init__(self, settings: Optimizer, flat: FlatWeights) -> None:
        self.flat, self._settings = flat, settings
        self._fused = can_fuse(settings, flat.weights.device)
        self._elementwise = settings.name.lower() in ELEMENTWISE
        self._parameters = (
            [nn.Parameter(flat.weights)]
            if self._elementwise
            else [segment.parameter for segment in flat.segments]
        )
        self.torch = construct(settings, self._parameters, lr=0.0, fused=self._fused)

    def update(self, lr: float | Tensor, skip: Tensor) -> None:
        """One step with the flat gradient.

        Optimisers with a fused kernel skip on the device, so a GPU's queue is not waited for; the
        others look first.

        Args:
            lr: learning rate.
            skip: 0-dim float32 on the device; where it is 1 nothing changes.
        """
        for group in self.torch.param_groups:
            group["lr"] = lr
        if self._fused:
            # torch's own protocol of gradient scaling, used here for its skip on the device.
            self.torch.found_inf = skip  # type: ignore[attr-defined]
            self.torch.grad_scale = None  # type: ignore[attr-defined]
        elif skip.item():
            return
        if self._elementwise:
            self._parameters[0].grad = self.flat.gradient  # a climb puts another in its place
        self.torch.step()

    def momentum(self) -> Tensor | None:
        """The running mean of gradients (SGD's is a sum), flat, to be read only; zeros before the
        first step, None for an optimiser that keeps none."""
        if not keeps_momentum(self._settings):
            return None
        found = momentum_in(self.torch.state.get(self._parameters[0], {}))
        return torch.zeros_like(self.flat.weights) if found is None else found

    def state_by_name(self) -> dict[str, dict[str, Any]]:
        """State per parameter name: contiguous tensors, and numbers as they are."""
        if not self._elementwise:
            return {
                each.name: {k: _plain(v) for k, v in self.torch.state[each.parameter].items()}
                for each in self.flat.segments
            }
        state = self.torch.state.get(self._parameters[0], {})
        by_name: dict[str, dict[str, Any]] = {s.name: {} for s in self.flat.segments}
        for key, value in state.items():
            spread = (
                self.flat.by_name(value)
                if isinstance(value, Tensor) and value.shape == self.flat.weights.shape
                else dict.fromkeys(by_name, _plain(value))
            )
            for name in by_name:
                by_name[name][key] = spread[name]
        return by_name

    def load_state_by_name(self, by_name: Mapping[str, Mapping[str, Any]]) -> None:
        """The inverse of `state_by_name`."""
        if not self._elementwise:
            for segment in self.flat.segments:
                named = by_name[segment.name].items()
                placed = {key: self._placed(value) for key, value in named}
                self.torch.state[segment.parameter] = placed
            return
        first = by_name[self.flat.segments[0].name]
        state: dict[str, Any] = {}
        for key, value in first.items():
            values = {name: entry[key] for name, entry in by_name.items()}
            if all(_has_shape(values[each.name], each.shape) for each in self.flat.segments):
                state[key] = torch.zeros_like(self.flat.weights)
                self.flat.fill(state[key], values)
            else:  # one number for all, as a count of steps is
                state[key] = self._placed(value)
        if state:
            self.torch.state[self._parameters[0]] = state

    def _placed(self, value: Any) -> Any:
        """Where torch keeps it: counts of steps on the CPU, unless a fused kernel counts them."""
        if not isinstance(value, Tensor):
            return value
        return value.to(
            self.flat.weights.device if value.dim() or self._fused else "cpu", copy=True
        )


def momentum_in(state: Mapping[str, Any]) -> Tensor | None:
    """The running mean of gradients (SGD's is a sum) in what a torch optimiser keeps of a
    parameter; None where it keeps none, or none yet."""
    found = state.get("momentum_buffer", state.get("exp_avg"))
    return found if isinstance(found, Tensor) else None


def _has_shape(value: Any, shape: torch.Size) -> bool:
    return isinstance(value, Tensor) and value.shape == shape


def _plain(value: Any) -> Any:
    return contiguous_on_cpu(value) if isinstance(value, Tensor) else value
