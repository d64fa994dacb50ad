"""Cutting a validation part from the training set."""

from __future__ import annotations

import numpy as np


def validation_split(
    images: int, share: float, random: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Sorted image numbers of the training and the validation part, (n,) int64 each.

    Raises:
        ValueError: nothing would be left to train on.
    """
    count = round(images * share)
    if count >= images:
        raise ValueError(f"a validation share of {share} leaves none of {images} images")
    order = random.permutation(images)
    return np.sort(order[count:]), np.sort(order[:count])
