"""`resnet34` with a CIFAR stem.

He, Zhang, Ren, Sun: "Deep Residual Learning for Image Recognition", CVPR 2016, Table 1: four
stages of 64, 128, 256 and 512 channels with 3, 4, 6 and 3 basic blocks, option-B shortcuts. The
ImageNet stem (7x7 convolution with stride 2, then max-pooling) leaves 32x32 images only 8x8
pixels, so, as is usual on CIFAR, one 3x3 convolution stands in its place. The Fisher SAM paper
(Figure 4) does not say which stem it used.

21,282,122 parameters for 10 classes, 21,328,292 for 100; 1,159,402,496 multiply-adds for one
3x32x32 image.
"""

from __future__ import annotations

from torch import nn

from fsam_cli.models._contract import Model, Norm
from fsam_cli.models.cifar_resnet import basic_resnet


class ResNet34(Model):
    """The 34-layer network of basic blocks."""

    norm: Norm = "batch"

    def build(self, *, channels: int, classes: int, image_size: int) -> nn.Module:
        return basic_resnet(
            channels=channels,
            classes=classes,
            widths=(64, 128, 256, 512),
            blocks=(3, 4, 6, 3),
            norm=self.norm,
        )


PROVIDES = {"resnet34": ResNet34}
