"""Images per second of fsam's batched augmentation beside torchvision's, one PIL image at a time.

Both crop, flip, AutoAugment, normalise and cut out the same photographs, in turn, for several
rounds. fsam draws the random numbers of the whole epoch anew in each round, and that is timed;
torchvision's workers are started and warm before the first.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from fsam_cli.augment._pipeline import Pipeline
from fsam_cli.augment.autoaugment import AutoAugment
from fsam_cli.augment.crop import Crop
from fsam_cli.augment.cutout import Cutout
from fsam_cli.augment.flip import Flip
from fsam_cli.measure.bench.race import Spread, Timing, Variant, race

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)  # CIFAR-10
PADDING, CUTOUT = 4, 16  # pixels
SIZE = 32  # pixels on a side
SOURCE = 64  # pixels, side of the piece of a photograph that becomes an image
BLOCK = 2048  # images augmented at once by fsam
LOADER_BATCH = 128  # images of a batch of torchvision's loader
OURS, THEIRS = "fsam, batched", "torchvision, PIL"


@dataclass(frozen=True)
class PipelineLine:
    """One pipeline."""

    label: str
    workers: int  # processes beside this one
    images_per_second: Spread
    over_torchvision: Spread  # times torchvision's speed in the same round


@dataclass(frozen=True)
class PipelineRace:
    """Both pipelines over the same images."""

    images: int  # of an epoch
    elsewhere: float | None  # share of the processors that others used meanwhile
    lines: tuple[PipelineLine, ...]


def augmentation(images: int, workers: int, timing: Timing) -> PipelineRace:
    """Time an epoch of each pipeline, in one race.

    Args:
        images: of an epoch.
        workers: of torchvision's loader; fsam's pipeline has torch's threads, or the GPU.
        timing: of the race; its device is of fsam's pipeline, torchvision's is always on the CPU.
    """
    pictures = photographs(images)
    stacked = torch.from_numpy(np.stack([np.asarray(picture) for picture in pictures]))
    pixels = stacked.permute(0, 3, 1, 2).contiguous().to(timing.device)
    epochs = {OURS: _batched(pixels), THEIRS: _loaded(pictures, workers)}
    samples = race(epochs, timing)

    def line(label: str, beside: int) -> PipelineLine:
        speed = samples.spread(label).per_second(images)
        return PipelineLine(label, beside, speed, samples.ratio(THEIRS, label))

    return PipelineRace(images, samples.elsewhere, (line(OURS, 0), line(THEIRS, workers)))


def photographs(count: int) -> list[Image.Image]:
    """Random pieces of scikit-learn's two photographs."""
    from sklearn.datasets import load_sample_images

    random = np.random.default_rng(0)
    sources = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    pieces = []
    for _ in range(count):
        source = sources[random.integers(len(sources))]
        left = int(random.integers(source.width - SOURCE))
        top = int(random.integers(source.height - SOURCE))
        piece = source.crop((left, top, left + SOURCE, top + SOURCE))
        pieces.append(piece.resize((SIZE, SIZE), Image.Resampling.BILINEAR))
    return pieces


def cut_out(image: Tensor) -> Tensor:
    """Cutout of one normalised image; torchvision has none with the centre anywhere."""
    height, width = image.shape[1:]
    top = int(torch.randint(height, ())) - CUTOUT // 2
    left = int(torch.randint(width, ())) - CUTOUT // 2
    image[:, max(top, 0) : max(top + CUTOUT, 0), max(left, 0) : max(left + CUTOUT, 0)] = 0
    return image


class Photographs(Dataset[Tensor]):
    """PIL images through torchvision's transforms, as its own references do it."""

    def __init__(self, images: list[Image.Image]) -> None:
        from torchvision import transforms

        self._images = images
        self._transform: Any = transforms.Compose(
            [
                transforms.RandomCrop(SIZE, padding=PADDING),
                transforms.RandomHorizontalFlip(),
                transforms.AutoAugment(transforms.AutoAugmentPolicy.CIFAR10),
                transforms.ToTensor(),
                transforms.Normalize(MEAN, STD),
                cut_out,
            ]
        )

    def __len__(self) -> int:
        return len(self._images)

    def __getitem__(self, number: int) -> Tensor:
        augmented: Tensor = self._transform(self._images[number])
        return augmented


def _batched(pixels: Tensor) -> Variant:
    parts = [
        ("crop", Crop(padding=PADDING)),
        ("flip", Flip()),
        ("autoaugment", AutoAugment()),
        ("cutout", Cutout(size=CUTOUT)),
    ]
    pipeline = Pipeline(parts, MEAN, STD)
    count, _, height, width = pixels.shape
    random = np.random.default_rng(0)

    def epoch() -> None:
        pipeline.draw(lambda _: random, images=count, height=height, width=width)
        order = torch.randperm(count)
        on_device = order.to(pixels.device)
        for start in range(0, count, BLOCK):
            block = slice(start, start + BLOCK)
            pipeline(pixels[on_device[block]], order[block])

    return epoch


def _loaded(images: list[Image.Image], workers: int) -> Variant:
    loader = DataLoader(
        Photographs(images),
        batch_size=LOADER_BATCH,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )

    def epoch() -> None:
        for _ in loader:
            pass

    return epoch
