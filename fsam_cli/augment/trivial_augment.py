"""TrivialAugment: one operation for each image, of a strength that is drawn, too.

Mueller and Hutter, "TrivialAugment: Tuning-free Yet State-of-the-Art Data Augmentation", ICCV 2021,
with the wide range of strengths. Operations, magnitudes and their 31 levels are those of
torchvision's `TrivialAugmentWide` on PIL images, nearest pixel and black from outside: given the
same draws, the result is equal to it bit for bit.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from fsam_cli.augment._contract import Augmentation
from fsam_cli.augment._operations import put_through, space

LEVELS = 31
# Translations by up to 32 pixels whatever the image's size: a small one may be left black.
SPACE = space(LEVELS, slope=0.99, across=32.0, down=32.0, degrees=135.0, factor=0.99, bits=6)
NAMES = (*SPACE, "Identity")


class TrivialAugment(Augmentation):
    """`trivial_augment`: one of 14 operations, of which doing nothing is one; no settings."""

    decides_on_host = True

    def draw(
        self, random: np.random.Generator, images: int, height: int, width: int
    ) -> dict[str, np.ndarray]:
        return {
            "operation": random.integers(0, len(NAMES), size=images, dtype=np.int8),
            "level": random.integers(0, LEVELS, size=images, dtype=np.int8),
            "negative": random.integers(0, 2, size=images, dtype=np.int8) == 1,
        }

    def apply(self, images: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        setting = 2 * draws["level"] + draws["negative"]
        return put_through(images, draws["operation"][:, None], setting[:, None], SPACE)


PROVIDES = {"trivial_augment": TrivialAugment}
