"""The networks that are stepped: built, laid on flat buffers, given a gradient or a batch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

import torch
from torch import Tensor, nn

from fsam_cli.engine.batches import Batch
from fsam_cli.engine.flat import FlatWeights
from fsam_cli.engine.optimizer import FlatOptimizer
from fsam_cli.engine.step import StepInfo, Stepper
from fsam_cli.minimisers._contract import Minimiser
from fsam_cli.models._contract import Model
from fsam_cli.plugins import PluginFile
from fsam_cli.recipe.plan import Compile
from fsam_cli.recipe.schema import Optimizer, Recipe

CHANNELS, SIZE, CLASSES = 3, 32, 10  # CIFAR-10
SGD = Optimizer(name="sgd", settings={"momentum": 0.9, "weight_decay": 5e-4})
COMPILE: Compile = Recipe.model_fields["compile"].default  # as training does
# So small that millions of timed steps do not move the weights; no time depends on it.
LR = 1e-12
# The last epoch of many, in which methods that climb late climb.
WHEN = StepInfo(number=0, epoch=99, epochs=100, lr=LR, peak_lr=LR)
GRADIENT_NORM = 0.7  # as in mid-training, and no round number that hides rounding

Implementation = Literal["eager", "compiled"]


@dataclass(frozen=True)
class BenchMethod:
    """A minimiser under its label."""

    label: str
    name: str
    settings: Minimiser


@dataclass(frozen=True)
class BenchProtocol:
    """What surrounds the minimiser, equal for all of them."""

    # That provide models or methods: first, so that a process that is sent a protocol loads them
    # before what they define.
    plugins: tuple[PluginFile, ...] = field(default=(), kw_only=True)
    models: Mapping[str, Model]  # by name
    methods: tuple[BenchMethod, ...]
    optimizer: Optimizer = SGD
    label_smoothing: float = 0.0
    classes: int = CLASSES
    compile: Compile = COMPILE  # of the whole step


def build(model: Model, *, classes: int, device: torch.device, channels_last: bool) -> nn.Module:
    """The network in training mode, the same initial weights every time."""
    torch.manual_seed(0)
    built = model.build(channels=CHANNELS, classes=classes, image_size=SIZE).to(device)
    if channels_last:
        built = built.to(memory_format=torch.channels_last)
    return built.train()


def random_gradient(flat: FlatWeights) -> Tensor:
    """Flat random numbers of a gradient's size, the padding left at zero."""
    random = torch.Generator().manual_seed(1)
    gradient = torch.zeros_like(flat.weights)
    for segment in flat.segments:
        drawn = torch.randn(segment.shape, generator=random)
        flat.view(gradient, segment).copy_(drawn)
    # torch's vector_norm of tens of millions of float32 is off in the third digit on a CPU.
    return gradient.mul_(GRADIENT_NORM / gradient.square().sum().sqrt())


def put_gradient(flat: FlatWeights, gradient: Tensor) -> None:
    """The same for both passes of a step, as if they had found it.

    A method that works in scratch, which is lent from the second, leaves its working there.
    """
    flat.gradient.copy_(gradient)
    flat.spare.copy_(gradient)


def random_batch(
    size: int, classes: int, *, device: torch.device, channels_last: bool = False
) -> Batch:
    """Normalised images of noise with random labels."""
    random = torch.Generator().manual_seed(2)
    memory = torch.channels_last if channels_last else torch.contiguous_format
    images = torch.randn(size, CHANNELS, SIZE, SIZE, generator=random)
    labels: Tensor = torch.randint(classes, (size,), generator=random)
    return Batch(
        images.to(device).contiguous(memory_format=memory),
        labels.to(device),
        torch.zeros(size, dtype=torch.bool, device=device),
    )


def stepper_of(
    model: nn.Module,
    flat: FlatWeights,
    method: Minimiser,
    protocol: BenchProtocol,
    *,
    compiled: bool = False,
    bf16: bool = False,
) -> Stepper:
    """fsam's own step, as training takes it."""
    return Stepper(
        model,
        method,
        FlatOptimizer(protocol.optimizer, flat, compiled=compiled),
        seed=0,
        label_smoothing=protocol.label_smoothing,
        micro_batch_size=None,
        clip_norm=None,
        bf16=bf16,
        compiled=compiled,
        classes=protocol.classes,
    )
