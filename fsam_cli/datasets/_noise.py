"""Symmetric label noise (paper, Section 5.5)."""

from __future__ import annotations

import numpy as np

from fsam_cli.errors import DataError
from fsam_cli.recipe.schema import LabelNoise


def corrupt(
    labels: np.ndarray, *, classes: int, noise: LabelNoise, random: np.random.Generator
) -> np.ndarray:
    """A copy of the labels with exactly `round(n * rate)` of them drawn anew.

    Order and draws are made for all n labels, whatever the rate: of equal generators, a higher rate
    corrupts all that a lower one does, in the same way, and rates compare as nested sets.

    Args:
        labels: (n,) int64.
        noise: its rate, and whether a drawn label may be the old one.
        random: of this purpose alone.

    Raises:
        DataError: labels must become different ones, and there is only one class.
    """
    if noise.flip == "different" and classes < 2:
        raise DataError(
            "data.label_noise: there is only one class, so no label can become a different one; "
            "leave label_noise out"
        )
    n = len(labels)
    noisy = labels.copy()
    chosen = random.permutation(n)[: round(n * noise.rate)]
    if noise.flip == "different":
        # A shift by 1 .. classes - 1 reaches every other class with equal probability.
        drawn = (labels + random.integers(1, classes, size=n)) % classes
    else:
        drawn = random.integers(0, classes, size=n)
    noisy[chosen] = drawn[chosen]
    return noisy
