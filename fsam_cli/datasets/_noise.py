"""Symmetric label noise (paper, Section 5.5)."""

from __future__ import annotations

import numpy as np

from fsam_cli.recipe.schema import LabelNoise


def corrupt(
    labels: np.ndarray, *, classes: int, noise: LabelNoise, random: np.random.Generator
) -> np.ndarray:
    """A copy of the labels with exactly `round(n * rate)` of them drawn anew.

    Args:
        labels: (n,) int64.
        classes: number of classes.
        noise: its rate, and whether a drawn label may be the old one.
        random: of this purpose alone; the examples are chosen first, then the labels.
    """
    noisy = labels.copy()
    count = round(len(labels) * noise.rate)
    chosen = random.choice(len(labels), size=count, replace=False)
    if noise.flip == "different":
        # A shift by 1 .. classes - 1 reaches every other class with equal probability.
        noisy[chosen] = (labels[chosen] + random.integers(1, classes, size=count)) % classes
    else:
        noisy[chosen] = random.integers(0, classes, size=count)
    return noisy
