"""What Mixup and CutMix have in common: images of a batch blended in pairs, and their labels.

    x <- k x + (1 - k) x'          k: how much of each pixel is the image's own
    loss = s L(y) + (1 - s) L(y')  s = mean of k over the pixels

x' and y' are the image and label at the mirrored place in the batch: the first image is blended
with the last. Each image has a k of its own.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping

import torch
from pydantic import Field
from torch import Tensor

from fsam_cli.augment._contract import Augmentation


class Mixing(Augmentation):
    """Base of augmentations that blend an image with another one of its batch."""

    stage = "mixed"

    alpha: float = Field(1.0, gt=0)  # of Beta(alpha, alpha), from which shares are drawn
    probability: float = Field(1.0, gt=0, le=1)  # that an image is blended at all

    @abstractmethod
    def own(self, draws: Mapping[str, Tensor], height: int, width: int) -> Tensor:
        """k, (batch, 1, height, width) float32 or what is broadcast to it."""

    def share(self, draws: Mapping[str, Tensor], height: int, width: int) -> Tensor:
        """s, (batch,) float32."""
        return self.own(draws, height, width).mean(dim=(1, 2, 3))

    def apply(self, images: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        return torch.lerp(images.flip(0), images, self.own(draws, *images.shape[2:]))
