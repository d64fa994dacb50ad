"""`small_resnet`: the smallest network of the CIFAR family, for images of 8x8 to 32x32.

The stages of He et al. 2016 (see `cifar_resnet.py`), 16, 32 and 64 channels, with one basic block
each: depth 8, small enough to train on digits in seconds on one core, and still with shortcuts
and norms as the networks of the paper have them. No paper publishes it; 78,042 parameters for
three input channels and 10 classes, 77,754 for one.
"""

from __future__ import annotations

from torch import nn

from fsam_cli.models._contract import Model, Norm
from fsam_cli.models.cifar_resnet import basic_resnet


class SmallResNet(Model):
    """One basic block per stage."""

    norm: Norm = "batch"

    def build(self, *, channels: int, classes: int, image_size: int) -> nn.Module:
        return basic_resnet(
            channels=channels,
            classes=classes,
            widths=(16, 32, 64),
            blocks=(1, 1, 1),
            norm=self.norm,
        )


PROVIDES = {"small_resnet": SmallResNet}
