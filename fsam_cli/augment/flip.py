"""Horizontal flip of each image with probability one half."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from pydantic import Field
from torch import Tensor

from fsam_cli.augment._contract import Augmentation


class Flip(Augmentation):
    """`flip`: mirror left and right with `probability`."""

    probability: float = Field(0.5, ge=0, le=1)

    def draw(
        self, random: np.random.Generator, images: int, height: int, width: int
    ) -> dict[str, np.ndarray]:
        return {"flipped": random.random(images) < self.probability}

    def apply(self, images: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        return images.flip(3).where(draws["flipped"][:, None, None, None], images)


PROVIDES = {"flip": Flip}
