"""Images and labels as a run sees them: split, corrupted, augmented, in a seeded order.

The whole set lives on the device as uint8, or is decoded on demand; batches are cut and augmented
on the device. Which images form batch b of epoch e is a function of (seed, e), so any batch can be
made again at any time.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import accumulate, pairwise

import numpy as np
import torch
from torch import Tensor

from fsam_cli.augment._pipeline import Pipeline
from fsam_cli.datasets._contract import ImageSet
from fsam_cli.datasets._noise import corrupt
from fsam_cli.datasets._on_demand import OnDemand
from fsam_cli.datasets._split import validation_split
from fsam_cli.datasets._statistics import statistics
from fsam_cli.engine.batches import Batch, batch_bounds
from fsam_cli.engine.replicas import ALONE, Replicas, part_of
from fsam_cli.engine.seeding import stream
from fsam_cli.errors import UsageError
from fsam_cli.recipe.plan import RunPlan
from fsam_cli.recipe.schema import LabelNoise

# Images augmented at once, or one batch: large enough to pay for itself, small enough to stream. Of
# large images fewer. No number depends on it.
BLOCK = 2048
BLOCK_PIXELS = 2**23


Bounds = tuple[int, int]  # start and stop of a batch


@dataclass(frozen=True)
class HeldOut:
    """A part of the data that is only evaluated on."""

    images: Tensor | OnDemand  # (n, channels, height, width) uint8
    labels: Tensor  # (n,) int64

    def __len__(self) -> int:
        return len(self.labels)

    def subset(self, numbers: Tensor) -> HeldOut:
        """The images of these numbers, (m,) int64 on the same device."""
        images = self.images
        chosen = images.subset(numbers) if isinstance(images, OnDemand) else images[numbers]
        return HeldOut(chosen, self.labels[numbers])


class Feed:
    """Training batches by (epoch, number), and the held-out parts.

    Args:
        plan: of the run.
        data: as loaded.
        device: where batches are wanted.
        replicas: of every batch only this one's part is made.
    """

    def __init__(
        self, plan: RunPlan, data: ImageSet, device: torch.device, replicas: Replicas = ALONE
    ) -> None:
        recipe = plan.recipe
        given = given_labels(
            data.train_labels, data.classes, noise=recipe.data.label_noise, seed=plan.seed
        )
        train, validation = validation_split(
            len(given), recipe.data.validation, stream(plan.seed, "validation")
        )
        images = data.train_images.to(device)
        labels = torch.from_numpy(given).to(device)
        true = data.train_labels.to(device)
        held = torch.from_numpy(validation).to(device)
        plain = images if data.plain is data.train_images else data.plain.to(device)
        self.validation = HeldOut(plain, labels).subset(held)
        self.test = HeldOut(data.test_images.to(device), data.test_labels.to(device))
        names = [named.name for named in recipe.data.augment]
        self.pipeline = Pipeline(
            list(zip(names, plan.augment, strict=True)),
            *statistics(data, recipe.data.normalise),
            resize=recipe.data.resize,
        )
        self._shape = plan.input_shape
        _, height, width = self._shape
        self.pixels = height * width  # of an image as the network sees it
        self._block = min(BLOCK, BLOCK_PIXELS // self.pixels)
        size = recipe.train.batch_size
        self.bounds = batch_bounds(len(train), size, replicas=replicas.size)
        self._replicas = replicas
        self._numbers = train  # image numbers in the full training set
        self._images, self._labels, self._corrupted = images, labels, labels != true
        self._seed = plan.seed
        self._memory = torch.channels_last if recipe.channels_last else torch.contiguous_format

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
        batches = self.bounds[first:]
        own = [part_of(*bounds, self._replicas) for bounds in batches]
        order = torch.cat([order[start:stop] for start, stop in own])
        ends = accumulate((stop - start for start, stop in own), initial=0)
        places = iter(zip(batches, own, strict=True))
        on_device = order.to(self._images.device)
        self.pipeline.draw(
            lambda purpose: stream(self._seed, f"augment.{purpose}", epoch),
            images=len(self._images),
            height=self._images.shape[2],
            width=self._images.shape[3],
        )
        blocks = self._blocks(list(pairwise(ends)))
        spans = [slice(block[0][0], block[-1][1]) for block in blocks]
        for block, span, following in zip(blocks, spans, [*spans[1:], slice(0)], strict=False):
            numbers = on_device[span]
            images = self._augmented(order[span], numbers, following=order[following])
            labels, corrupted = self._labels[numbers], self._corrupted[numbers]
            for start, stop in block:
                at = slice(start - span.start, stop - span.start)
                (begin, end), (mine, _) = next(places)
                whole = end - begin if self._replicas.size > 1 else None
                batch = Batch(images[at], labels[at], corrupted[at], mine - begin, whole)
                mixed = self.pipeline.mixed(batch.images, order[span][at])
                yield batch if mixed is None else batch.blended(self.prepared(mixed[0]), mixed[1])

    def _blocks(self, bounds: list[Bounds]) -> list[list[Bounds]]:
        """Batches that are augmented together."""
        blocks: list[list[Bounds]] = []
        for start, stop in bounds:
            if blocks and stop - blocks[-1][0][0] <= self._block:
                blocks[-1].append((start, stop))
            else:
                blocks.append([(start, stop)])
        return blocks

    def _augmented(self, numbers: Tensor, on_device: Tensor, *, following: Tensor) -> Tensor:
        """The images of these (n,) numbers, which are given on the CPU and on the device, as the
        network sees them; and those that come next are decoded meanwhile."""
        if isinstance(self._images, OnDemand):
            stored = self._images[numbers]  # files are found without asking the device
            self._images.ahead(following)
        else:
            stored = self._images[on_device]
        images = self.prepared(self.pipeline(stored, numbers))
        if images.shape[1:] != self._shape:
            raise UsageError(
                f"data.augment gives images of {tuple(images.shape[1:])} (channels, height, width) "
                f"and test images have {self._shape}; end at that size, with "
                f"random_resized_crop: {{size: {self._shape[2]}}} for one"
            )
        return images

    def prepared(self, images: Tensor) -> Tensor:
        """In the memory order the network computes in."""
        return images.contiguous(memory_format=self._memory)

    def normalised(self, images: Tensor) -> Tensor:
        """uint8 images as the network sees them in evaluation."""
        return self.prepared(self.pipeline.normalise(images))


def given_labels(
    labels: Tensor, classes: int, *, noise: LabelNoise | None, seed: int
) -> np.ndarray:
    """The labels of the whole training set as a run of this seed is given them, (train,) int64.

    Args:
        labels: the true ones, (train,) int64 on the CPU.
        classes: their number.
        noise: of the recipe.
        seed: of the run.
    """
    true: np.ndarray = labels.numpy()
    if noise is None:
        return true.copy()
    return corrupt(true, classes=classes, noise=noise, random=stream(seed, "label_noise"))
