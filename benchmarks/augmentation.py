"""Images per second of fsam's batched augmentation beside torchvision's, one PIL image at a time.

Both crop, flip, AutoAugment, normalise and cut out the same photographs, in turn, for several
rounds; the table gives the median of the rounds with the slowest and the fastest. fsam draws the
random numbers of the whole epoch anew in each round, and that is timed; torchvision's workers are
started and warm before the first.

    python benchmarks/augmentation.py --threads 2 --workers 2
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable
from statistics import median

import numpy as np
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from torchvision import transforms

from fsam_cli.augment._pipeline import Pipeline
from fsam_cli.augment.autoaugment import AutoAugment
from fsam_cli.augment.crop import Crop
from fsam_cli.augment.cutout import Cutout
from fsam_cli.augment.flip import Flip

MEAN, STD = (0.4914, 0.4822, 0.4465), (0.2470, 0.2435, 0.2616)
PADDING, CUTOUT = 4, 16  # pixels
SOURCE = 64  # pixels, side of the piece of a photograph that becomes an image


def photographs(count: int, size: int) -> list[Image.Image]:
    """Random pieces of scikit-learn's two photographs."""
    random = np.random.default_rng(0)
    sources = [Image.fromarray(pixels) for pixels in load_sample_images().images]
    pieces = []
    for _ in range(count):
        source = sources[random.integers(len(sources))]
        left = int(random.integers(source.width - SOURCE))
        top = int(random.integers(source.height - SOURCE))
        piece = source.crop((left, top, left + SOURCE, top + SOURCE))
        pieces.append(piece.resize((size, size), Image.Resampling.BILINEAR))
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

    def __init__(self, images: list[Image.Image], size: int) -> None:
        self._images = images
        self._transform = transforms.Compose(
            [
                transforms.RandomCrop(size, padding=PADDING),
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


def batched_epoch(pixels: Tensor, block: int) -> Callable[[], None]:
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
        for numbers in torch.split(torch.randperm(count), block):
            pipeline(pixels[numbers], numbers)

    return epoch


def loader_epoch(images: list[Image.Image], size: int, workers: int) -> Callable[[], None]:
    loader = DataLoader(
        Photographs(images, size),
        batch_size=128,
        shuffle=True,
        num_workers=workers,
        persistent_workers=workers > 0,
    )

    def epoch() -> None:
        for _ in loader:
            pass

    return epoch


def seconds(epoch: Callable[[], None]) -> float:
    start = time.perf_counter()
    epoch()
    return time.perf_counter() - start


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=8192)
    parser.add_argument("--size", type=int, default=32, help="pixels on a side")
    parser.add_argument("--block", type=int, default=2048, help="images augmented at once")
    parser.add_argument("--threads", type=int, default=2, help="of fsam's batched augmentation")
    parser.add_argument("--workers", type=int, default=2, help="of torchvision's DataLoader")
    parser.add_argument("--rounds", type=int, default=5)
    return parser.parse_args()


def main() -> None:
    given = arguments()
    torch.set_num_threads(given.threads)
    images = photographs(given.images, given.size)
    stacked = torch.from_numpy(np.stack([np.asarray(image) for image in images]))
    pixels = stacked.permute(0, 3, 1, 2).contiguous()
    epochs = {
        f"torchvision, {given.workers} workers": loader_epoch(images, given.size, given.workers),
        f"fsam, {given.threads} threads": batched_epoch(pixels, given.block),
    }
    for epoch in epochs.values():
        epoch()  # starts workers, fills tables
    rounds = [{name: seconds(epoch) for name, epoch in epochs.items()} for _ in range(given.rounds)]
    sys.stdout.write(f"{'':28}{'images/s':>10}{'slowest':>10}{'fastest':>10}\n")
    for name in epochs:
        speeds = [given.images / once[name] for once in rounds]
        sys.stdout.write(
            f"{name:28}{median(speeds):10,.0f}{min(speeds):10,.0f}{max(speeds):10,.0f}\n"
        )
    slow, fast = epochs
    ratio = median(once[slow] / once[fast] for once in rounds)
    sys.stdout.write(f"{'ratio, median of rounds':28}{ratio:10.1f}\n")


if __name__ == "__main__":
    main()
