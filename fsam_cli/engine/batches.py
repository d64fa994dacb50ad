"""What a training step is given, and how images are cut into batches."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import pairwise

from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One training batch on the device, or this replica's part of it."""

    images: Tensor  # (batch, channels, height, width) float32, augmented and normalised
    labels: Tensor  # (batch,) int64, as given: possibly corrupted
    corrupted: Tensor  # (batch,) bool: the label was changed
    offset: int = 0  # of its first image within the step's whole batch
    whole: int | None = None  # images of the step's batch, where other replicas have the rest

    @property
    def total(self) -> int:
        """Images that the step's mean loss is over."""
        return len(self.labels) if self.whole is None else self.whole

    def part(self, start: int, stop: int) -> Batch:
        """Images `start` to `stop` (exclusive) of it, as a batch of their own."""
        at = slice(start, stop)
        return Batch(
            self.images[at], self.labels[at], self.corrupted[at], offset=self.offset + start
        )


def batch_bounds(images: int, batch_size: int, *, replicas: int = 1) -> list[tuple[int, int]]:
    """(start, stop) of each batch; a trailing one that has less than two images for each replica
    joins the batch before it.

    Batch normalisation has no variance over a single image at 1x1 resolution.
    """
    starts = list(range(0, images, batch_size))
    if batch_size > 1 and len(starts) > 1 and images - starts[-1] < 2 * replicas:
        starts.pop()
    return list(pairwise([*starts, images]))
