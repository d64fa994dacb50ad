"""Random crop: pad with zeros, then cut a window of the original size anywhere.

Source: the standard CIFAR augmentation (He et al. 2016), 4 pixels on each side.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from pydantic import Field
from torch import Tensor
from torch.nn import functional as F

from fsam_cli.augment._contract import Augmentation


class Crop(Augmentation):
    """`crop`: shift by up to `padding` pixels each way; what comes in from outside is 0."""

    padding: int = Field(4, ge=0)

    def draw(
        self, random: np.random.Generator, images: int, height: int, width: int
    ) -> dict[str, np.ndarray]:
        offsets = random.integers(0, 2 * self.padding + 1, size=(2, images))
        return {"top": offsets[0], "left": offsets[1]}

    def apply(self, images: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        height, width = images.shape[2:]
        padded = F.pad(images, (self.padding,) * 4)
        windows = padded.unfold(2, height, 1).unfold(3, width, 1)  # a view of every offset
        image = torch.arange(len(images), device=images.device)
        return windows[image, :, draws["top"], draws["left"]]


PROVIDES = {"crop": Crop}
