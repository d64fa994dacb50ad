"""Images and labels as a run sees them: split, corrupted, augmented, in a seeded order.

The whole set lives on the device as uint8; batches are cut and augmented there. Which images form
batch b of epoch e is a function of (seed, e), so any batch can be made again at any time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from fsam_cli.augment._pipeline import Pipeline
from fsam_cli.datasets._contract import ImageSet
from fsam_cli.datasets._noise import corrupt
from fsam_cli.datasets._split import validation_split
from fsam_cli.engine.batches import Batch, batch_bounds
from fsam_cli.engine.seeding import stream
from fsam_cli.recipe.plan import RunPlan

BLOCK = 2048  # images augmented at once: large enough to pay for itself, small enough to stream


@dataclass(frozen=True)
class Held:
    """A part of the data that is only evaluated on."""

    images: Tensor  # (n, channels, height, width) uint8
    labels: Tensor  # (n,) int64

    def __len__(self) -> int:
        return len(self.labels)


class Feed:
    """Training batches by (epoch, number), and the held-out parts."""

    def __init__(self, plan: RunPlan, data: ImageSet, device: torch.device) -> None:
        given = _noisy_labels(plan, data)
        train, validation = validation_split(
            len(given), plan.validation, stream(plan.seed, "validation")
        )
        images = data.train_images.to(device)
        labels = torch.from_numpy(given).to(device)
        true = data.train_labels.to(device)
        held = torch.from_numpy(validation).to(device)
        self.validation = Held(images[held], labels[held])
        self.test = Held(data.test_images.to(device), data.test_labels.to(device))
        self.pipeline = Pipeline(
            list(zip(plan.augment_names, plan.augment, strict=True)), data.mean, data.std
        )
        self.bounds = batch_bounds(len(train), plan.train.batch_size)
        self._numbers = train  # image numbers in the full training set
        self._images, self._labels, self._corrupted = images, labels, labels != true
        self._seed = plan.seed
        self._memory = torch.channels_last if plan.channels_last else torch.contiguous_format

    def __len__(self) -> int:
        """Batches an epoch."""
        return len(self.bounds)

    @property
    def size(self) -> int:
        """Images trained on."""
        return len(self._numbers)

    def epoch(self, epoch: int, first: int = 0) -> Iterator[Batch]:
        """The batches of one epoch, from batch `first` on."""
        order = torch.from_numpy(stream(self._seed, "order", epoch).permutation(self._numbers))
        order = order.to(self._images.device)
        self.pipeline.draw(
            lambda purpose: stream(self._seed, f"augment.{purpose}", epoch),
            images=len(self._images),
            height=self._images.shape[2],
            width=self._images.shape[3],
        )
        bounds = self.bounds[first:]
        while bounds:
            count = 1 + sum(stop - bounds[0][0] <= BLOCK for _, stop in bounds[1:])
            block, bounds = bounds[:count], bounds[count:]
            offset = block[0][0]
            numbers = order[offset : block[-1][1]]
            images = self.prepared(self.pipeline(self._images[numbers], numbers))
            labels, corrupted = self._labels[numbers], self._corrupted[numbers]
            for start, stop in block:
                at = slice(start - offset, stop - offset)
                yield Batch(images[at], labels[at], corrupted[at])

    def prepared(self, images: Tensor) -> Tensor:
        """In the memory order the network computes in."""
        return images.contiguous(memory_format=self._memory)

    def normalised(self, images: Tensor) -> Tensor:
        """uint8 images as the network sees them in evaluation."""
        return self.prepared(self.pipeline.normalise(images))


def _noisy_labels(plan: RunPlan, data: ImageSet) -> np.ndarray:
    labels: np.ndarray = data.train_labels.numpy()
    if plan.label_noise is None:
        return labels.copy()
    return corrupt(
        labels,
        classes=data.classes,
        noise=plan.label_noise,
        random=stream(plan.seed, "label_noise"),
    )
