"""`pyramidnet272`: a deep pyramidal residual network, alpha 200, bottleneck blocks.

Han, Kim, Kim: "Deep Pyramidal Residual Networks", CVPR 2017. 90 blocks in three stages, each a
little wider than the one before: the k-th has round(16 + 200 k / 90) channels in its 3x3
convolution and four times as many at its end. Shortcuts have no parameters: average pooling where
the image halves, zeros in the new channels. A block starts with a norm, without ReLU, and ends
with one.

`shakedrop` adds ShakeDrop (Yamada, Iwamura, Akiba, Kise: "ShakeDrop Regularization for Deep
Residual Learning", IEEE Access 2019): the last block is shaken with this probability, earlier
ones with linearly less; Yamada et al. use 0.5. It is 0 by default, because the accuracies that
the Fisher SAM paper reports fit better without.

26,210,842 parameters for 10 classes, 26,288,692 for 100; 4,488,778,176 multiply-adds for one
3x32x32 image. The original reports 26.0 million; widths are rounded as in its authors'
PyTorch code.
"""

from __future__ import annotations

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.functional import relu

from fsam_cli.models._contract import Model, Norm, normalisation
from fsam_cli.models._layers import ZeroPad, classifier, convolution

STEM_WIDTH = 16
ALPHA = 200  # channels added from the stem to the last block
BLOCKS_PER_STAGE = (272 - 2) // 9
BLOCKS = 3 * BLOCKS_PER_STAGE
EXPANSION = 4  # output channels over those of the 3x3 convolution


class ShakeDrop(nn.Module):
    """Scales a residual branch by another random factor on the way back than on the way forth.

    With b = 1 (probability 1 - p) both factors are 1; with b = 0 they are alpha, uniform in
    [-1, 1], and beta, uniform in [0, 1]. Each image has its own b, alpha and beta. In evaluation
    the factor is the expectation of the forward one, E[b + alpha - b alpha] = 1 - p.

    The draws come from torch's global random state: two passes that start from the same state
    are shaken alike.
    """

    def __init__(self, probability: float) -> None:
        super().__init__()
        self.probability = probability  # of being shaken

    def forward(self, x: Tensor) -> Tensor:
        if not self.training:
            return x * (1 - self.probability)
        b, alpha, beta = torch.rand(3, x.shape[0], 1, 1, 1, device=x.device, dtype=torch.float32)
        shaken = b < self.probability
        forth = torch.where(shaken, 2 * alpha - 1, 1.0).to(x.dtype)
        back = torch.where(shaken, beta, 1.0).to(x.dtype)
        # The value is x * forth; what is detached has no gradient, so the gradient's factor is
        # `back`. Plain operations, unlike an autograd.Function, also work under torch.func.
        return x * back + (x * (forth - back)).detach()

    def extra_repr(self) -> str:
        return f"probability={self.probability}"


class PyramidBlock(nn.Module):
    """Norm-first bottleneck, beside a shortcut that pools and pads but learns nothing."""

    def __init__(
        self, inputs: int, width: int, *, stride: int, norm: Norm, shakedrop: float
    ) -> None:
        super().__init__()
        outputs = EXPANSION * width
        self.norm1 = normalisation(norm, inputs)
        self.conv1 = convolution(inputs, width, 1)
        self.norm2 = normalisation(norm, width)
        self.conv2 = convolution(width, width, 3, stride=stride)
        self.norm3 = normalisation(norm, width)
        self.conv3 = convolution(width, outputs, 1)
        self.norm4 = normalisation(norm, outputs)
        self.shake = ShakeDrop(shakedrop) if shakedrop > 0 else nn.Identity()
        # ceil_mode: an odd image shrinks as it does under the 3x3 convolution.
        pool = nn.AvgPool2d(2, ceil_mode=True) if stride == 2 else nn.Identity()
        self.shortcut = nn.Sequential(pool, ZeroPad(outputs - inputs))

    def forward(self, x: Tensor) -> Tensor:
        residual = self.conv1(self.norm1(x))
        residual = self.conv2(relu(self.norm2(residual)))
        residual = self.conv3(relu(self.norm3(residual)))
        output: Tensor = self.shake(self.norm4(residual)) + self.shortcut(x)
        return output


class PyramidNet272(Model):
    """272 layers, alpha 200."""

    norm: Norm = "batch"
    shakedrop: float = Field(0.0, ge=0, le=1)

    def build(self, *, channels: int, classes: int, image_size: int) -> nn.Module:
        features: dict[str, nn.Module] = {
            "stem": nn.Sequential(
                convolution(channels, STEM_WIDTH, 3), normalisation(self.norm, STEM_WIDTH)
            )
        }
        inputs = STEM_WIDTH
        for before in range(3):
            stage = nn.Sequential()
            for number in range(BLOCKS_PER_STAGE):
                k = before * BLOCKS_PER_STAGE + number + 1
                width = round(STEM_WIDTH + ALPHA * k / BLOCKS)
                block = PyramidBlock(
                    inputs,
                    width,
                    stride=2 if before > 0 and number == 0 else 1,
                    norm=self.norm,
                    shakedrop=self.shakedrop * k / BLOCKS,
                )
                stage.append(block)
                inputs = EXPANSION * width
            features[f"stage{before + 1}"] = stage
        features["norm"] = normalisation(self.norm, inputs)
        features["relu"] = nn.ReLU()
        return classifier(features, width=inputs, classes=classes)


PROVIDES = {"pyramidnet272": PyramidNet272}
