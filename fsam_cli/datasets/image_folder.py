"""Any set of images sorted into class folders.

    root/train/<class>/...images...
    root/test/<class>/...images...

Every image is decoded once, turned as its EXIF data say, resized to `size` x `size` pixels
(bilinear, antialiased, aspect not kept) and made grey or colour. Classes are the folders of
train/, in the order of their names.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Literal

import numpy as np
from pydantic import Field

from fsam_cli.datasets._contract import DataSet, Fingerprint, ImageSet, refuse_closed
from fsam_cli.errors import DataError

ENDINGS = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
)


class ImageFolder(DataSet):
    """`image_folder`: images of `size` pixels a side in 1 (grey) or 3 `channels`."""

    size: int = Field(gt=0)
    channels: Literal[1, 3] = 3

    def fingerprint(self, root: Path | None) -> Fingerprint:
        files = _files(root)
        digest = hashlib.sha256(f"{self.size} {self.channels}".encode())
        for part in ("train", "test"):
            for path, label in files[part]:
                name = path.relative_to(root or path).as_posix()
                digest.update(os.fsencode(f"\0{name}\0{label}\0"))  # a name need not be UTF-8
                digest.update(_content_hash(path))
        return Fingerprint(
            digest=digest.hexdigest()[:16],
            verified=None,
            train_size=len(files["train"]),
            test_size=len(files["test"]),
            classes=len(_classes(files)),
            shape=(self.channels, self.size, self.size),
        )

    def load(self, root: Path | None) -> ImageSet:
        import torch

        files = _files(root)
        names = _classes(files)
        number = {name: position for position, name in enumerate(names)}
        images, labels = {}, {}
        for part, entries in files.items():
            pixels = np.stack([self._decoded(path) for path, _ in entries])
            images[part] = torch.from_numpy(pixels)
            labels[part] = torch.tensor([number[label] for _, label in entries])
        train = images["train"].double().div_(255)  # in place: eight bytes a pixel are enough
        return ImageSet(
            train_images=images["train"],
            train_labels=labels["train"],
            test_images=images["test"],
            test_labels=labels["test"],
            class_names=names,
            mean=tuple(train.mean(dim=(0, 2, 3)).tolist()),
            # A channel that is the same everywhere has no spread to divide by.
            std=tuple(train.std(dim=(0, 2, 3)).clamp_min(1 / 255).tolist()),
        )

    def _decoded(self, path: Path) -> np.ndarray:
        """(channels, size, size) uint8."""
        from PIL import Image, ImageOps

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
                coloured = turned.convert("RGB" if self.channels == 3 else "L")
                small = coloured.resize((self.size, self.size), Image.Resampling.BILINEAR)
        except DataError:
            raise
        except Exception as error:  # each of Pillow's formats fails in its own ways
            raise DataError(
                f"{path} cannot be decoded ({type(error).__name__}); mend or remove it"
            ) from None
        pixels = np.asarray(small, dtype=np.uint8)
        return pixels[None] if self.channels == 1 else pixels.transpose(2, 0, 1)


def _content_hash(path: Path) -> bytes:
    try:
        return hashlib.sha256(path.read_bytes()).digest()
    except OSError as error:
        raise DataError(f"{path} cannot be read ({error.strerror}); mend or remove it") from None


def _files(root: Path | None) -> dict[str, list[tuple[Path, str]]]:
    """(path, class) of every image of train and test, sorted.

    Raises:
        DataError: no such tree, an empty part, a test class that is not trained on, or a place
            where images may lie unseen.
    """
    if root is None:
        raise DataError(
            "image_folder needs to know where it lies: data.root in the recipe, --data-dir or "
            "FSAM_DATA"
        )
    refuse_closed(root)
    found = {}
    for part in ("train", "test"):
        folder = root / part
        if not folder.is_dir():
            raise DataError(f"no folder {folder}; the form is {root}/{{train,test}}/<class>/images")
        found[part] = [
            (path, kind.name)
            for kind in sorted(_entries(folder))
            if kind.is_dir()
            for path in sorted(_below(kind))
            if path.suffix.lower() in ENDINGS and path.is_file()
        ]
        if not found[part]:
            raise DataError(f"no images in {folder}/<class>/; known endings: {_endings()}")
    strangers = {label for _, label in found["test"]} - {label for _, label in found["train"]}
    if strangers:
        raise DataError(f"{root}/test has the class '{min(strangers)}', which train/ has not")
    return found


def _entries(folder: Path) -> list[Path]:
    """What lies directly in a folder.

    Raises:
        DataError: it cannot be listed, or a link in it leads nowhere: images may be missing.
    """
    try:
        entries = list(folder.iterdir())
    except OSError as error:
        raise DataError(
            f"{folder} cannot be listed ({error.strerror}) and may hold images; mend or remove it"
        ) from None
    for entry in entries:
        if entry.is_symlink() and not entry.exists():
            raise DataError(f"{entry} is a link that leads nowhere; mend or remove it")
    return entries


def _below(folder: Path) -> Iterator[Path]:
    """Every file below a class folder, at any depth.

    Raises:
        DataError: as `_entries`, or a folder there is a link, which could lead in circles.
    """
    for entry in _entries(folder):
        if not entry.is_dir():
            yield entry
        elif entry.is_symlink():
            raise DataError(
                f"{entry} is a link to a folder, which is followed in place of a class folder "
                "only; put the images themselves there, or links to them"
            )
        else:
            yield from _below(entry)


def _classes(files: dict[str, list[tuple[Path, str]]]) -> tuple[str, ...]:
    return tuple(sorted({label for _, label in files["train"]}))


def _endings() -> str:
    return ", ".join(sorted(ENDINGS))


PROVIDES = {"image_folder": ImageFolder}
