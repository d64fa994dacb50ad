"""Any set of images sorted into class folders.

    root/train/<class>/...images...
    root/test/<class>/...images...

Classes are the folders of train/, in the order of their names; how images are decoded, datasets/
_files.py says.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fsam_cli.datasets._contract import given
from fsam_cli.datasets._files import ImageFiles, Listing
from fsam_cli.errors import DataError

ENDINGS = frozenset(
    (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
)


class ImageFolder(ImageFiles):
    """`image_folder`: images of `size` pixels a side in 1 (grey) or 3 `channels`."""

    def listing(self, root: Path | None) -> Listing:
        folder = given(root, "image_folder")
        files = class_folders(folder, ("train", "test"))
        names = tuple(sorted({name for _, name in files["train"]}))
        return Listing(folder, **files, class_names=names)


def class_folders(root: Path, parts: tuple[str, str]) -> dict[str, list[tuple[Path, str]]]:
    """(path, class) of every image of both parts, sorted.

    Args:
        root: the folder of the set.
        parts: the folders that are trained on and tested on.

    Raises:
        DataError: no such tree, an empty part, a test class that is not trained on, or a place
            where images may lie unseen.
    """
    found = {}
    train, test = parts
    for part in parts:
        folder = root / part
        if not folder.is_dir():
            raise DataError(
                f"no folder {folder}; the form is {root}/{{{train},{test}}}/<class>/images"
            )
        found[part] = [
            (path, kind.name)
            for kind in sorted(_entries(folder), key=lambda entry: entry.name)
            if kind.is_dir()
            for path in sorted(_images_below(Path(kind.path)))
        ]
        if not found[part]:
            raise DataError(f"no images in {folder}/<class>/; known endings: {_endings()}")
    strangers = {label for _, label in found[test]} - {label for _, label in found[train]}
    if strangers:
        raise DataError(f"{root}/{test} has the class '{min(strangers)}', which {train}/ has not")
    return found


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies directly in a folder; that of a million files need not be asked for one by one.

    Raises:
        DataError: it cannot be listed, or a link in it leads nowhere: images may be missing.
    """
    try:
        entries = list(os.scandir(folder))
    except OSError as error:
        raise DataError(
            f"{folder} cannot be listed ({error.strerror}) and may hold images; mend or remove it"
        ) from None
    for entry in entries:
        if entry.is_symlink() and not Path(entry.path).exists():
            raise DataError(f"{entry.path} is a link that leads nowhere; mend or remove it")
    return entries


def _images_below(folder: Path) -> Iterator[Path]:
    """Every image below a class folder, at any depth.

    Raises:
        DataError: as `_entries`, or a folder there is a link, which could lead in circles.
    """
    for entry in _entries(folder):
        if not entry.is_dir():
            path = Path(entry.path)
            if path.suffix.lower() in ENDINGS and entry.is_file():
                yield path
        elif entry.is_symlink():
            raise DataError(
                f"{entry.path} is a link to a folder, which is followed in place of a class folder "
                "only; put the images themselves there, or links to them"
            )
        else:
            yield from _images_below(Path(entry.path))


def _endings() -> str:
    return ", ".join(sorted(ENDINGS))


PROVIDES = {"image_folder": ImageFolder}
