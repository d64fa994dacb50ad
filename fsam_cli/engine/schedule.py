"""Learning rate by iteration."""

from __future__ import annotations

import math
from typing import Literal


def learning_rate(
    step: int,
    *,
    steps: int,
    warmup: int,
    peak: float,
    schedule: Literal["cosine", "constant"],
) -> float:
    """The rate of step 0 <= step < steps.

    Linear from peak / warmup over `warmup` steps, then cosine to 0 or constant. Without warm-up,
    step t of T has peak * (1 + cos(pi t / T)) / 2.
    """
    if step < warmup:
        return peak * (step + 1) / warmup
    if schedule == "constant":
        return peak
    return peak * (1 + math.cos(math.pi * (step - warmup) / (steps - warmup))) / 2
