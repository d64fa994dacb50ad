"""The CIFAR residual networks: `resnet20`, `resnet32`, `resnet56`.

He, Zhang, Ren, Sun: "Deep Residual Learning for Image Recognition", CVPR 2016, Section 4.2:
three stages of 16, 32 and 64 channels with n basic blocks each, depth 6n + 2, post-activation.

Where the shape changes, the shortcut is a 1x1 convolution with a norm (`shortcut: conv`, the
original's option B). The original used the parameter-free option A on CIFAR: every second pixel,
padded with channels of zeros (`shortcut: pad`). Option B is the default because the Fisher SAM
paper names neither, and B is the likelier choice of the code it builds on.

    parameters    conv, 10 classes    conv, 100 classes    pad, 10 classes    multiply-adds (conv)
    resnet20               272,474              278,324            269,722              40,813,184
    resnet32               466,906              472,756            464,154              69,124,736
    resnet56               855,770              861,620            853,018             125,747,840

The original reports 0.27, 0.46 and 0.85 million. Multiply-adds are for one 3x32x32 image and 10
classes.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import ClassVar, Literal

from torch import Tensor, nn
from torch.nn.functional import relu

from fsam_cli.models._contract import Model, Norm, normalisation
from fsam_cli.models._layers import ZeroPad, classifier, convolution, projection, stages, stem

Shortcut = Literal["conv", "pad"]


class BasicBlock(nn.Module):
    """Two 3x3 convolutions beside a shortcut, each sum activated after the addition."""

    def __init__(
        self, inputs: int, outputs: int, *, stride: int, norm: Norm, shortcut: Shortcut
    ) -> None:
        super().__init__()
        self.conv1 = convolution(inputs, outputs, 3, stride=stride)
        self.norm1 = normalisation(norm, outputs)
        self.conv2 = convolution(outputs, outputs, 3)
        self.norm2 = normalisation(norm, outputs)
        if shortcut == "conv":
            self.shortcut = projection(inputs, outputs, stride=stride, norm=norm)
        else:
            self.shortcut = padding(inputs, outputs, stride=stride)

    def forward(self, x: Tensor) -> Tensor:
        residual = relu(self.norm1(self.conv1(x)))
        residual = self.norm2(self.conv2(residual))
        return relu(residual + self.shortcut(x))


def padding(inputs: int, outputs: int, *, stride: int) -> nn.Module:
    """Option A: every `stride`-th pixel, and zeros in the channels that are new."""
    if inputs == outputs and stride == 1:
        return nn.Identity()
    every_nth_pixel = nn.AvgPool2d(kernel_size=1, stride=stride)
    return nn.Sequential(every_nth_pixel, ZeroPad(outputs - inputs))


def basic_resnet(
    *,
    channels: int,
    classes: int,
    widths: Sequence[int],
    blocks: Sequence[int],
    norm: Norm,
    shortcut: Shortcut = "conv",
) -> nn.Module:
    """A post-activation network of basic blocks behind a CIFAR stem.

    Args:
        widths: channels of each stage.
        blocks: how many each stage has.
        shortcut: what stands beside a block that changes the shape.
    """
    block = partial(BasicBlock, norm=norm, shortcut=shortcut)
    features = {
        "stem": stem(channels, widths[0], norm),
        **stages(block, widths[0], widths, blocks),
    }
    return classifier(features, width=widths[-1], classes=classes)


class CifarResNet(Model):
    """Three stages of equally many basic blocks."""

    depth: ClassVar[int]  # 6 x blocks per stage + 2

    norm: Norm = "batch"
    shortcut: Shortcut = "conv"

    def build(self, *, channels: int, classes: int, image_size: int) -> nn.Module:
        return basic_resnet(
            channels=channels,
            classes=classes,
            widths=(16, 32, 64),
            blocks=[(self.depth - 2) // 6] * 3,
            norm=self.norm,
            shortcut=self.shortcut,
        )


class ResNet20(CifarResNet):
    """Three blocks per stage."""

    depth = 20


class ResNet32(CifarResNet):
    """Five blocks per stage."""

    depth = 32


class ResNet56(CifarResNet):
    """Nine blocks per stage."""

    depth = 56


PROVIDES = {"resnet20": ResNet20, "resnet32": ResNet32, "resnet56": ResNet56}
