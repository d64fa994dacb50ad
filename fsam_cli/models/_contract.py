"""The contract of a model: a frozen settings object with one verb, `build`.

A file of this folder provides classes by name (`PROVIDES`). The engine seeds the random state
before `build` and moves the network to its device afterwards, so the initial weights of a seed
are the same on every device and for every method.
"""

from __future__ import annotations

from abc import abstractmethod
from typing import Literal

import torch
from torch import nn

from fsam_cli.errors import UsageError, counted
from fsam_cli.recipe.schema import Settings

Norm = Literal["batch", "group"]


class Model(Settings):
    """Base of every model; its fields are the keys of the recipe's `model` section."""

    def check(self) -> None:
        """Say before anything is planned that it cannot be built here; most always can.

        Raises:
            UsageError: a package is missing, or a name unknown to it; the message says what to do.
        """

    @abstractmethod
    def build(self, *, channels: int, classes: int, image_size: int) -> nn.Module:
        """A freshly initialised network from (batch, channels, height, width) images to
        (batch, classes) logits.

        Args:
            channels: of the input images.
            classes: number of logits.
            image_size: height and width in pixels, for networks whose shape depends on it.
        """


def normalisation(norm: Norm, width: int) -> nn.Module:
    """The normalisation layer over `width` channels.

    `group` uses 8 groups, or 4, 2 or 1 where more do not divide the width, for methods that need
    one gradient per image and therefore no statistics across the batch.
    """
    if norm == "batch":
        return nn.BatchNorm2d(width)
    groups = next(groups for groups in (8, 4, 2, 1) if width % groups == 0)
    return nn.GroupNorm(groups, width)


def initialise(model: nn.Module) -> None:
    """Kaiming fan-out normal for convolutions (He et al. 2015), ones and zeros for norms.

    Linear layers keep torch's default.
    """
    for module in model.modules():
        if isinstance(module, nn.Conv2d):
            nn.init.kaiming_normal_(module.weight, mode="fan_out", nonlinearity="relu")
            if module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm2d | nn.GroupNorm):
            nn.init.ones_(module.weight)
            nn.init.zeros_(module.bias)


def trainable_parameters(model: nn.Module) -> int:
    """How many weights the optimiser moves."""
    return sum(parameter.numel() for parameter in model.parameters() if parameter.requires_grad)


def refuse_no_logits(given: object, images: int, classes: int) -> None:
    """Raise UsageError where a network's output is no (images, classes) tensor; looks at no number
    in it, so it waits for no device."""
    if isinstance(given, torch.Tensor) and given.shape == (images, classes):
        return
    what = type(given).__name__
    if isinstance(given, torch.Tensor):
        what = f"a tensor of shape {tuple(given.shape)}"
    raise UsageError(
        f"the network gives {what} for {counted(images, 'image')}; give the logits alone, of shape "
        f"(batch, classes), which is {(images, classes)} here"
    )


def on_meta(settings: Model, *, channels: int, classes: int, image_size: int) -> nn.Module:
    """The network without memory for its weights, as `build` makes it."""
    with torch.device("meta"):
        return settings.build(channels=channels, classes=classes, image_size=image_size)


def multiply_adds(
    network: nn.Module, shape: tuple[int, int, int], classes: int | None = None
) -> int:
    """Multiply-adds of convolutions, matrix products and attention for one image.

    Args:
        network: from `on_meta`.
        shape: channels, height and width of the image.
        classes: that it must have logits for; None: not looked at.

    Raises:
        UsageError: it has others.
    """
    from torch.utils.flop_counter import FlopCounterMode

    with FlopCounterMode(display=False) as counter, torch.no_grad(), torch.device("meta"):
        given = network.eval()(torch.empty(1, *shape))
    if classes is not None:
        refuse_no_logits(given, 1, classes)
    return int(counter.get_total_flops()) // 2
