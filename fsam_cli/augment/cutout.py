"""Cutout: a square of the normalised image is set to 0, the colour that `data.normalise` subtracts:
by default the mean of the training set.

DeVries and Taylor 2017: the centre lies anywhere in the image, so the square may be cut by its
border. The Fisher SAM paper does not name the size; 16 is the original's for CIFAR-10.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import Field
from torch import Tensor

from fsam_cli.augment._boxes import inside
from fsam_cli.augment._contract import Augmentation


class Cutout(Augmentation):
    """`cutout`: a square of `size` pixels around a random centre."""

    stage = "normalised"

    size: int = Field(16, gt=0)

    def draw(
        self, random: np.random.Generator, images: int, height: int, width: int
    ) -> dict[str, np.ndarray]:
        return {
            "row": random.integers(0, height, size=images),
            "column": random.integers(0, width, size=images),
        }

    def apply(self, images: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        top, left = draws["row"] - self.size // 2, draws["column"] - self.size // 2
        square = inside((top, top + self.size), (left, left + self.size), *images.shape[2:])
        return images.masked_fill(square, 0.0)


PROVIDES = {"cutout": Cutout}
