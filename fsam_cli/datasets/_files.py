"""Data sets that are images on disk: decoded once into squares of one size, known by content.

Every image is decoded once, turned as its EXIF data say, resized to `size` x `size` pixels
(bilinear, antialiased, aspect not kept) and made grey or colour. Mean and standard deviation are of
the training images.
"""

from __future__ import annotations

import hashlib
import os
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from pydantic import Field

from fsam_cli.datasets._contract import DataSet, Fingerprint, ImageSet
from fsam_cli.errors import DataError, counted

if TYPE_CHECKING:
    import torch
    from PIL import Image

TASK = 16  # images that a thread decodes before it asks for more


@dataclass(frozen=True)
class Listing:
    """Which images there are, in the order of their numbers."""

    folder: Path  # of the set; names below it are part of what the set is
    train: list[tuple[Path, str]]  # an image and the name of its class
    test: list[tuple[Path, str]]
    class_names: tuple[str, ...]  # in the order of their numbers

    @property
    def parts(self) -> dict[str, list[tuple[Path, str]]]:
        return {"train": self.train, "test": self.test}


class ImageFiles(DataSet):
    """Base of such sets: images of `size` pixels a side in 1 (grey) or 3 `channels`."""

    size: int = Field(gt=0)
    channels: Literal[1, 3] = 3

    @abstractmethod
    def listing(self, root: Path | None) -> Listing:
        """Find the images below `root` (None: not given); none is opened.

        Raises:
            DataError: there are none, or some may be unseen; the message says what to do.
        """

    def fingerprint(self, root: Path | None) -> Fingerprint:
        listing = self.listing(root)
        digest = hashlib.sha256(f"{self.size} {self.channels}".encode())
        for part in listing.parts.values():
            for path, label in part:
                name = path.relative_to(listing.folder).as_posix()
                digest.update(os.fsencode(f"\0{name}\0{label}\0"))  # a name need not be UTF-8
                digest.update(_content_hash(path))
        return Fingerprint(
            digest=digest.hexdigest()[:16],
            verified=None,
            train_size=len(listing.train),
            test_size=len(listing.test),
            classes=len(listing.class_names),
            shape=(self.channels, self.size, self.size),
        )

    def doubts(self, root: Path | None) -> str:
        listing = self.listing(root)
        trained = {_content_hash(path): path for path, _ in listing.train}
        seen = [path for path, _ in listing.test if _content_hash(path) in trained]
        if not seen:
            return ""
        return (
            f"warning: {len(seen):,} of {counted(len(listing.test), 'test image')} are trained on "
            f"({seen[0]} is {trained[_content_hash(seen[0])]}); take them out of one part"
        )

    def load(self, root: Path | None) -> ImageSet:
        import torch

        listing = self.listing(root)
        number = {name: position for position, name in enumerate(listing.class_names)}
        images, labels = {}, {}
        for part, entries in listing.parts.items():
            paths = [path for path, _ in entries]
            images[part] = torch.from_numpy(_all_decoded(paths, self.size, self.channels))
            labels[part] = torch.tensor([number[label] for _, label in entries])
        mean, std = statistics_of(images["train"])
        return ImageSet(
            train_images=images["train"],
            train_labels=labels["train"],
            test_images=images["test"],
            test_labels=labels["test"],
            class_names=listing.class_names,
            mean=mean,
            std=std,
        )


def statistics_of(images: torch.Tensor) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Mean and standard deviation per channel, of pixels scaled to 0..1.

    Args:
        images: (n, channels, height, width) uint8; counted value by value, so that no copy in
            float64 is needed.
    """
    import torch

    values = np.arange(256) / 255
    means, stds = [], []
    for channel in images.unbind(1):
        counts = torch.bincount(channel.flatten(), minlength=256).numpy()
        mean = (counts * values).sum() / counts.sum()
        variance = (counts * (values - mean) ** 2).sum() / max(1, counts.sum() - 1)
        means.append(float(mean))
        # A channel that is the same everywhere has no spread to divide by.
        stds.append(max(float(variance) ** 0.5, 1 / 255))
    return tuple(means), tuple(stds)


def _all_decoded(paths: Sequence[Path], size: int, channels: Literal[1, 3]) -> np.ndarray:
    """(n, channels, size, size) uint8, the only copy; on threads, as Pillow lets go of the
    interpreter's lock.

    Raises:
        DataError: of the first image that cannot be decoded.
    """
    pixels = np.empty((len(paths), channels, size, size), dtype=np.uint8)

    def fill(start: int) -> None:
        for at in range(start, min(start + TASK, len(paths))):
            pixels[at] = decoded(paths[at], size, channels)

    with ThreadPoolExecutor() as threads:
        for _ in threads.map(fill, range(0, len(paths), TASK)):
            pass  # in order: the first error is raised, and what has not begun is left
    return pixels


def decoded(path: Path, size: int, channels: Literal[1, 3]) -> np.ndarray:
    """One image as (channels, size, size) uint8.

    Raises:
        DataError: it cannot be decoded, or has more than 8 bits.
    """
    from PIL import Image

    with opened_image(path, channels) as image:
        small = image.resize((size, size), Image.Resampling.BILINEAR)
        pixels = np.asarray(small, dtype=np.uint8)
    return pixels[None] if channels == 1 else pixels.transpose(2, 0, 1)


@contextmanager
def opened_image(path: Path | str, channels: Literal[1, 3]) -> Iterator[Image.Image]:
    """An image, turned as its EXIF data say, grey or in colour.

    Raises:
        DataError: it cannot be decoded, or has more than 8 bits.
    """
    from PIL import Image, ImageOps

    # All formats, before any file: while one thread reads in some of them, another may take an
    # image for one of none. The usual ones first, which are then tried first.
    Image.preinit()
    Image.init()
    try:
        with Image.open(path) as opened:
            if opened.mode.startswith(("I", "F")):
                # Pillow would cut these values off at 255 rather than scale them.
                raise DataError(
                    f"{path} has pixels of more than 8 bits (mode {opened.mode}); "
                    "convert it to an image of 8 bits"
                )
            turned = ImageOps.exif_transpose(opened)
            if turned.mode == "P" and isinstance(turned.info.get("transparency"), bytes):
                turned = turned.convert("RGBA")  # or Pillow warns before it drops it
            yield turned.convert("RGB" if channels == 3 else "L")
    except DataError:
        raise
    except Exception as error:  # each of Pillow's formats fails in its own ways
        raise DataError(
            f"{path} cannot be decoded ({type(error).__name__}); fix or remove it"
        ) from None


def _content_hash(path: Path) -> bytes:
    try:
        now = path.stat()
        return _hashed(path, now.st_size, now.st_mtime_ns, now.st_ctime_ns)
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); fix or remove it") from None


@cache  # every point of a grid asks for it; a copy may keep the time of change, but not st_ctime
def _hashed(path: Path, _bytes: int, _changed: int, _moved: int) -> bytes:
    return hashlib.sha256(path.read_bytes()).digest()
