"""What a training step is given, and how images are cut into batches."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One training batch on the device."""

    images: Tensor  # (batch, channels, height, width) float32, augmented and normalised
    labels: Tensor  # (batch,) int64, as given: possibly corrupted
    corrupted: Tensor  # (batch,) bool: the label was changed

    def part(self, start: int, stop: int) -> Batch:
        """Images `start` to `stop` (exclusive) of it."""
        at = slice(start, stop)
        return Batch(self.images[at], self.labels[at], self.corrupted[at])


def batch_bounds(images: int, batch_size: int) -> list[tuple[int, int]]:
    """(start, stop) of each batch; a trailing batch of one joins the batch before it.

    Batch normalisation has no variance over a single image at 1x1 resolution.
    """
    starts = list(range(0, images, batch_size))
    if batch_size > 1 and len(starts) > 1 and images - starts[-1] == 1:
        starts.pop()
    return list(pairwise([*starts, images]))
