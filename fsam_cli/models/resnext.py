"""`resnext29_32x4d`: aggregated residual transformations.

Xie, Girshick, Dollar, Tu, He: "Aggregated Residual Transformations for Deep Neural Networks",
CVPR 2017. 29 layers: three stages of three bottleneck blocks, post-activation, whose 3x3
convolution has 32 groups of 4, 8 and 16 channels (128, 256 and 512 in all) and whose output is
twice as wide. The original publishes 8x64d and 16x64d for CIFAR; 32x4d is the size that is common
in public code, here with the original's 3x3 stem of 64 channels.

4,775,754 parameters for 10 classes, 4,868,004 for 100; 774,055,936 multiply-adds for one 3x32x32
image.
"""

from __future__ import annotations

from functools import partial

from torch import Tensor, nn
from torch.nn.functional import relu

from fsam_cli.models._contract import Model, Norm, normalisation
from fsam_cli.models._layers import classifier, convolution, projection, stages, stem

CARDINALITY = 32  # groups of the 3x3 convolutions
STEM_WIDTH = 64
EXPANSION = 2  # output channels over those of the 3x3 convolution


class ResNeXtBlock(nn.Module):
    """1x1, grouped 3x3 and 1x1 convolution beside a shortcut, activated after the addition."""

    def __init__(self, inputs: int, outputs: int, *, stride: int, norm: Norm) -> None:
        super().__init__()
        width = outputs // EXPANSION
        self.conv1 = convolution(inputs, width, 1)
        self.norm1 = normalisation(norm, width)
        self.conv2 = convolution(width, width, 3, stride=stride, groups=CARDINALITY)
        self.norm2 = normalisation(norm, width)
        self.conv3 = convolution(width, outputs, 1)
        self.norm3 = normalisation(norm, outputs)
        self.shortcut = projection(inputs, outputs, stride=stride, norm=norm)

    def forward(self, x: Tensor) -> Tensor:
        residual = relu(self.norm1(self.conv1(x)))
        residual = relu(self.norm2(self.conv2(residual)))
        residual = self.norm3(self.conv3(residual))
        return relu(residual + self.shortcut(x))


class ResNeXt29(Model):
    """29 layers, cardinality 32, 4 channels per group in the first stage."""

    norm: Norm = "batch"

    def build(self, *, channels: int, classes: int, image_size: int) -> nn.Module:
        block, outputs = partial(ResNeXtBlock, norm=self.norm), (256, 512, 1024)
        features = {
            "stem": stem(channels, STEM_WIDTH, self.norm),
            **stages(block, STEM_WIDTH, outputs, (3, 3, 3)),
        }
        return classifier(features, width=outputs[-1], classes=classes)


PROVIDES = {"resnext29_32x4d": ResNeXt29}
