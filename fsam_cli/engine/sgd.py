"""Momentum SGD on flat memory.

    v <- μ v + (g + λ w);   w <- w - lr v

torch's SGD with momentum and weight decay (no dampening, no Nesterov), whose fused kernel it is
when eager. Compiled, it is one loop of our own over w, g and v. Going past torch.optim spares every
process its import, which brings torch's compiler along and takes a second.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from fsam_cli.engine.compiled import as_one_loop_for_all
from fsam_cli.engine.flat import FlatWeights
from fsam_cli.recipe.schema import Optimizer


class MomentumSgd:
    """The base optimiser of nearly every recipe.

    Args:
        settings: `momentum` and `weight_decay`, both optional.
        flat: weights and gradient; the momentum is one more vector of their size.
        compiled: run as one compiled loop of our own.
    """

    def __init__(self, settings: Optimizer, flat: FlatWeights, *, compiled: bool = False) -> None:
        self.flat = flat
        self.mu = float(settings.settings.get("momentum", 0.0))
        self.decay = float(settings.settings.get("weight_decay", 0.0))
        self._v = torch.zeros_like(flat.weights) if self.mu else None
        self._lr = torch.zeros((), device=flat.weights.device)  # where the compiled loop reads it
        self._loop = as_one_loop_for_all(_compiled_update) if compiled else None

    @torch.no_grad()
    def update(self, lr: float | Tensor, skip: Tensor) -> None:
        """One step with the flat gradient.

        Args:
            lr: learning rate; a 0-dim tensor where a captured step reads it.
            skip: 0-dim float32 on the device; where it is 1 nothing changes.
        """
        if self._loop is not None:
            at = lr if isinstance(lr, Tensor) else self._lr.fill_(lr)
            w, g = self.flat.weights, self.flat.gradient
            self._loop(w, g, self._v, at, self.mu, self.decay, skip)
            return
        torch._fused_sgd_(
            [self.flat.weights],
            [self.flat.gradient],
            [] if self._v is None else [self._v],
            weight_decay=self.decay,
            momentum=self.mu,
            lr=lr,
            dampening=0.0,
            nesterov=False,
            maximize=False,
            is_first_step=False,  # v begins at 0, which makes the first step like the others
            found_inf=None if skip.device.type == "cpu" else skip,  # the caller has looked already
        )

    def momentum(self) -> Tensor | None:
        """The running sum of gradients v, flat, to be read only; None without momentum."""
        return self._v

    def state_by_name(self) -> dict[str, dict[str, Any]]:
        """The momentum per parameter name, contiguous."""
        if self._v is None:
            return {segment.name: {} for segment in self.flat.segments}
        by_name = self.flat.by_name(self._v)
        return {name: {"momentum_buffer": v} for name, v in by_name.items()}

    def load_state_by_name(self, by_name: Mapping[str, Mapping[str, Any]]) -> None:
        """The inverse of `state_by_name`."""
        if self._v is not None:
            self.flat.fill(
                self._v, {name: state["momentum_buffer"] for name, state in by_name.items()}
            )


def _compiled_update(
    w: Tensor,
    g: Tensor,
    v: Tensor | None,
    lr: Tensor,
    mu: float,
    decay: float,
    skip: Tensor,
) -> None:
    step = g + decay * w
    if v is not None:
        step = torch.where(skip > 0, v, mu * v + step)
        v.copy_(step)
    w.copy_(torch.where(skip > 0, w, w - lr * step))
