"""Small networks and batches for the engine's tests."""

from __future__ import annotations

import copy

import torch
from torch import nn

from fsam_cli.engine.batches import Batch
from fsam_cli.engine.flat import FlatWeights
from fsam_cli.engine.optimizer import FlatOptimizer
from fsam_cli.engine.step import StepInfo, Stepper
from fsam_cli.recipe.schema import Optimizer


def network(norm: str = "batch", dropout: float = 0.0, seed: int = 0) -> nn.Module:
    """Conv, norm, (dropout,) linear: every kind of parameter."""
    torch.manual_seed(seed)
    layer = {
        "batch": lambda: nn.BatchNorm2d(4),
        "group": lambda: nn.GroupNorm(2, 4),
        "none": nn.Identity,
    }
    return nn.Sequential(
        nn.Conv2d(2, 4, 3, padding=1),
        layer[norm](),
        nn.Tanh(),
        nn.Dropout(dropout),
        nn.Flatten(),
        nn.Linear(4 * 6 * 6, 3),
    )


def batch(size: int = 12, seed: int = 1) -> Batch:
    random = torch.Generator().manual_seed(seed)
    return Batch(
        torch.randn(size, 2, 6, 6, generator=random),
        torch.randint(3, (size,), generator=random),
        torch.zeros(size, dtype=torch.bool),
    )


def at_step(number=0, lr=0.1, *, epoch=0, epochs=1, peak_lr=None) -> StepInfo:
    """A moment of a training; by default of one epoch, at the peak learning rate."""
    return StepInfo(number, epoch, epochs, lr, peak_lr or lr or 1.0)


def stepper(model, method, *, optimizer=None, flat=None, **settings) -> Stepper:
    optimizer = optimizer or Optimizer(name="sgd", settings={"momentum": 0.9, "weight_decay": 5e-4})
    model.train()
    flat = flat or FlatWeights(model)
    defaults = {
        "seed": 0,
        "label_smoothing": 0.0,
        "micro_batch_size": None,
        "clip_norm": None,
        "bf16": False,
    }
    settings = {**defaults, **settings}
    compiled = settings.get("compiled", False)
    base = FlatOptimizer(optimizer, flat, compiled=compiled)
    return Stepper(model, method, base, **settings)


def trained(model, method, batches, *, lr=0.1, **settings) -> Stepper:
    """A stepper of a copy of the model that has taken a step with every batch."""
    model = copy.deepcopy(model)
    s = stepper(model, method, **settings)
    for number, b in enumerate(batches):
        s.step(b, at_step(number, lr))
    return s


class Elsewhere(torch.Tensor):
    """Numbers on the CPU that say they lie on a device, whose queue the host must not wait for."""

    device = torch.device("meta")

    def item(self):
        raise AssertionError("the host has asked for a value")
