"""Wide residual networks: `wrn28_2`, `wrn28_10`.

Zagoruyko, Komodakis: "Wide Residual Networks", BMVC 2016: three stages of 16k, 32k and 64k
channels with (depth - 4) / 6 blocks each, pre-activation (norm, ReLU, convolution), and one norm
before the pooling. Where the shape changes, the 1x1 shortcut acts on the block's raw input, as in
the widely used PyTorch versions; the authors' own code lets it act on the activated input. Both
have the same parameters. `dropout` stands between the two convolutions of a block, and draws from
torch's global random state.

    parameters       10 classes    100 classes    multiply-adds (3x32x32, 10 classes)
    wrn28_2           1,467,610      1,479,220                            214,353,152
    wrn28_10         36,479,194     36,536,884                          5,243,328,768

The original reports 36.5 million for WRN-28-10.
"""

from __future__ import annotations

from functools import partial
from typing import ClassVar

from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import relu

from fsam_cli.models._contract import Model, Norm, normalisation
from fsam_cli.models._layers import classifier, convolution, stages

STEM_WIDTH = 16
BLOCKS_PER_STAGE = (28 - 4) // 6


class WideBlock(nn.Module):
    """Two pre-activated 3x3 convolutions beside a shortcut from the raw input."""

    def __init__(
        self, inputs: int, outputs: int, *, stride: int, norm: Norm, dropout: float
    ) -> None:
        super().__init__()
        self.norm1 = normalisation(norm, inputs)
        self.conv1 = convolution(inputs, outputs, 3, stride=stride)
        self.norm2 = normalisation(norm, outputs)
        self.dropout = nn.Dropout(dropout)
        self.conv2 = convolution(outputs, outputs, 3)
        same_shape = inputs == outputs and stride == 1
        self.shortcut = (
            nn.Identity() if same_shape else convolution(inputs, outputs, 1, stride=stride)
        )

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv1(relu(self.norm1(x)))
        residual = self.conv2(self.dropout(relu(self.norm2(residual))))
        output: Tensor = residual + self.shortcut(x)
        return output


class WideResNet(Model):
    """Depth 28, with stages `widen` times as wide as those of the CIFAR residual networks."""

    widen: ClassVar[int]

    norm: Norm = "batch"
    dropout: float = Field(0.0, ge=0, lt=1)

    def build(self, *, channels: int, classes: int, image_size: int) -> nn.Module:
        block = partial(WideBlock, norm=self.norm, dropout=self.dropout)
        outputs = [width * self.widen for width in (16, 32, 64)]
        features = {
            "stem": convolution(channels, STEM_WIDTH, 3),
            **stages(block, STEM_WIDTH, outputs, [BLOCKS_PER_STAGE] * 3),
            "norm": normalisation(self.norm, outputs[-1]),
            "relu": nn.ReLU(),
        }
        return classifier(features, width=outputs[-1], classes=classes)


class Wrn28x2(WideResNet):
    """Stages of 32, 64 and 128 channels."""

    widen = 2


class Wrn28x10(WideResNet):
    """Stages of 160, 320 and 640 channels."""

    widen = 10


PROVIDES = {"wrn28_2": Wrn28x2, "wrn28_10": Wrn28x10}
