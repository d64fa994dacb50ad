"""ImageNet (ILSVRC 2012), or any set of its form: too many images for memory.

    root/train/<class>/...images...
    root/val/<class>/...images...

Images are decoded when they are trained or evaluated on. A test image's shorter side is brought to
`size / crop` pixels, rounded down, and its middle taken (bicubic, antialiased): 256 and 224 pixels,
to the bit as DeiT and timm do by torchvision's Resize and CenterCrop, but that an image is turned
first if its EXIF data say so. Of a training image the middle square of `train_size` pixels is made
in the same way, and `random_resized_crop: {size: 224}` takes its boxes from it, where DeiT takes
them from the whole image.

Its content is known by the names and sizes of the files: to read 140 GB before every command would
take longer than many a training.
"""

from __future__ import annotations

import hashlib
import os
from functools import lru_cache, partial
from pathlib import Path

import numpy as np
from pydantic import Field

from fsam_cli.datasets._contract import DataSet, Fingerprint, ImageSet, given
from fsam_cli.datasets._files import opened_image
from fsam_cli.datasets._statistics import IMAGENET
from fsam_cli.datasets.image_folder import class_folders

MIDDLE = "torchvision's"  # how `middle` cuts: part of what the set is


class ImageNet(DataSet):
    """`imagenet`: the network sees `size` pixels a side."""

    size: int = Field(224, gt=0)
    crop: float = Field(0.875, gt=0, le=1)  # of the shorter side of a test image
    train_size: int = Field(320, gt=0)

    def fingerprint(self, root: Path | None) -> Fingerprint:
        folder = _place(root)
        files = _listed(folder)
        digest = hashlib.sha256(f"{MIDDLE} {self.size} {self.crop} {self.train_size}".encode())
        before = len(str(folder / "x")) - 1
        for part in files.values():
            for path, _, size in part:
                name = path[before:]
                digest.update(os.fsencode(f"\0{name}\0{size}\0"))
        return Fingerprint(
            digest=digest.hexdigest()[:16],
            verified=None,
            train_size=len(files["train"]),
            test_size=len(files["val"]),
            classes=len(_classes(files["train"])),
            shape=(3, self.size, self.size),
        )

    def load(self, root: Path | None) -> ImageSet:
        import torch

        from fsam_cli.datasets._on_demand import OnDemand

        files = _listed(_place(root))
        names = _classes(files["train"])
        number = {name: position for position, name in enumerate(names)}
        labels = {
            part: torch.tensor([number[name] for _, name, _ in entries])
            for part, entries in files.items()
        }
        paths = {part: [path for path, _, _ in entries] for part, entries in files.items()}
        train = partial(middle, shorter=self.train_size, size=self.train_size)
        test = partial(middle, shorter=int(self.size / self.crop), size=self.size)
        mean, std = IMAGENET
        return ImageSet(
            train_images=OnDemand(paths["train"], train, (3, self.train_size, self.train_size)),
            train_labels=labels["train"],
            test_images=OnDemand(paths["val"], test, (3, self.size, self.size)),
            test_labels=labels["val"],
            class_names=names,
            mean=mean,
            std=std,
            plain_train_images=OnDemand(paths["train"], test, (3, self.size, self.size)),
        )


def middle(path: Path | str, *, shorter: int, size: int) -> np.ndarray:
    """The middle of an image whose shorter side is brought to so many pixels: torchvision's
    Resize(shorter, bicubic) and CenterCrop(size).

    Args:
        shorter: pixels of the shorter side after resizing; at least `size`.
        size: of the square taken, in pixels a side.

    Returns:
        (3, size, size) uint8.

    Raises:
        DataError: it cannot be decoded.
    """
    from PIL import Image

    with opened_image(path, 3) as image:
        short = min(image.size)
        # The longer side is cut off to whole pixels, and a half is rounded to even: torchvision's.
        width, height = (int(shorter * side / short) for side in image.size)
        left, top = round((width - size) / 2), round((height - size) / 2)
        # The whole, though a third of it is cut off again: with `box=` Pillow may go down before it
        # goes across, and what is clipped between the two passes moved bytes of noise by up to 29.
        whole = image.resize((width, height), Image.Resampling.BICUBIC)
        taken = np.asarray(whole.crop((left, top, left + size, top + size)))
        return np.ascontiguousarray(taken.transpose(2, 0, 1))  # here, on a thread of many


def _place(root: Path | None) -> Path:
    """Absolute: the same set is the same however its folder is spelled, wherever it is read."""
    return given(root, "imagenet").absolute()


@lru_cache(maxsize=2)  # a million files are not looked for at every point of a grid
def _listed(folder: Path) -> dict[str, list[tuple[str, str, int]]]:
    """(path, class, bytes) of every image, by part."""
    found = class_folders(folder, ("train", "val"))
    return {
        part: [(file.path, name, file.stat().st_size) for file, name in entries]
        for part, entries in found.items()
    }


def _classes(entries: list[tuple[str, str, int]]) -> tuple[str, ...]:
    return tuple(sorted({name for _, name, _ in entries}))


PROVIDES = {"imagenet": ImageNet}
