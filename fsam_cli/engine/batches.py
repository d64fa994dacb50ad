"""What a training step is given, and how images are cut into batches."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import pairwise

import torch
from torch import Tensor


@dataclass(frozen=True)
class Batch:
    """One training batch on the device, or this replica's part of it."""

    images: Tensor  # (batch, channels, height, width) float32, augmented and normalised
    # (batch,) int64, as given: possibly corrupted; of a blended image that of its larger part
    labels: Tensor
    corrupted: Tensor  # (batch,) bool: the label was changed
    offset: int = 0  # of its first image within the step's whole batch
    whole: int | None = None  # images of the step's batch, where other replicas have the rest
    # Of blended images (see `augment._mixing`), else None:
    minor_labels: Tensor | None = None  # (batch,) int64, of the smaller part
    minor_share: Tensor | None = None  # (batch,) float32, of the smaller part in the loss

    @property
    def total(self) -> int:
        """Images that the step's mean loss is over."""
        return len(self.labels) if self.whole is None else self.whole

    def part(self, start: int, stop: int) -> Batch:
        """Images `start` to `stop` (exclusive) of it, as a batch of their own."""
        cut = self._each(lambda tensor: tensor[start:stop])
        return replace(cut, offset=self.offset + start, whole=None)

    def clone(self) -> Batch:
        """In memory of its own."""
        return self._each(torch.clone)

    def _each(self, change: Callable[[Tensor], Tensor]) -> Batch:
        """With every tensor changed."""
        labels, share = self.minor_labels, self.minor_share
        return replace(
            self,
            images=change(self.images),
            labels=change(self.labels),
            corrupted=change(self.corrupted),
            minor_labels=None if labels is None else change(labels),
            minor_share=None if share is None else change(share),
        )

    def copy_(self, other: Batch) -> None:
        """Take over what a step computes with, into the places that are there."""
        for name in ("images", "labels", "minor_labels", "minor_share"):
            mine, its = getattr(self, name), getattr(other, name)
            if mine is not None:
                mine.copy_(its)

    def blended(self, images: Tensor, share: Tensor) -> Batch:
        """Its images blended in pairs, the first with the last.

        Args:
            images: the blended ones.
            share: (batch,) float32, how much of its own label each keeps.
        """
        own, labels, corrupted = share >= 0.5, self.labels, self.corrupted
        return replace(
            self,
            images=images,
            labels=torch.where(own, labels, labels.flip(0)),
            corrupted=torch.where(own, corrupted, corrupted.flip(0)),
            minor_labels=torch.where(own, labels.flip(0), labels),
            minor_share=torch.minimum(share, 1 - share),
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
