"""RandAugment: operations drawn for each image, all of one strength.

Cubuk et al., "RandAugment: Practical automated data augmentation with a reduced search space",
CVPR Workshops 2020. Operations, magnitudes and defaults are those of torchvision's `RandAugment` on
PIL images, nearest pixel and black from outside: given the same draws, the result is equal to it
bit for bit. timm's (`rand-m9-mstd0.5-inc1`, of DeiT) has other operations, and strengths that vary.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import numpy as np
from pydantic import Field, model_validator
from torch import Tensor

from fsam_cli.augment._contract import Augmentation
from fsam_cli.augment._operations import Space, learned, put_through

NAMES = (*learned(2, 1, 1), "Identity")


@cache
def _space(magnitude: int, bins: int, height: int, width: int) -> Space:
    """Of one strength, so that the setting is the sign."""
    every = learned(bins, height, width)
    return {name: each[2 * magnitude : 2 * magnitude + 2] for name, each in every.items()}


class RandAugment(Augmentation):
    """`randaugment`: `num_ops` of 14 operations, one after the other; doing nothing is one.

    An operation is as strong as `magnitude` says, on a scale from 0 to `num_magnitude_bins` - 1; of
    those with a sign, either is equally likely.
    """

    decides_on_host = True

    num_ops: int = Field(2, ge=1)
    magnitude: int = Field(9, ge=0)
    num_magnitude_bins: int = Field(31, ge=2)

    @model_validator(mode="after")
    def _on_the_scale(self) -> RandAugment:
        if self.magnitude >= self.num_magnitude_bins:
            raise ValueError(
                f"magnitude: {self.magnitude} is not below num_magnitude_bins; "
                f"write 0 to {self.num_magnitude_bins - 1}"
            )
        return self

    def draw(
        self, random: np.random.Generator, images: int, height: int, width: int
    ) -> dict[str, np.ndarray]:
        shape = images, self.num_ops
        return {
            "operation": random.integers(0, len(NAMES), size=shape, dtype=np.int8),
            "negative": random.integers(0, 2, size=shape, dtype=np.int8) == 1,
        }

    def apply(self, images: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        space = _space(self.magnitude, self.num_magnitude_bins, *images.shape[2:])
        return put_through(images, draws["operation"], draws["negative"], space)


PROVIDES = {"randaugment": RandAugment}
