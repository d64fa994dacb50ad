"""Any set of images sorted into class folders.

    root/train/<class>/...images...
    root/test/<class>/...images...

Classes are the folders of train/, in the order of their names, at least two; each has images, and
none lies beside them. What begins with a dot is passed over, as `ls` does. How images are decoded,
datasets/_files.py says.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

from fsam_cli.datasets._contract import given
from fsam_cli.datasets._files import ImageFiles, Listing
from fsam_cli.errors import DataError

ENDINGS = (".png", ".jpg", ".jpeg", ".bmp", ".webp", ".gif", ".tif", ".tiff", ".ppm", ".pgm")
KNOWN = ", ".join(sorted(ENDINGS))


class ImageFolder(ImageFiles):
    """`image_folder`: images of `size` pixels a side in 1 (grey) or 3 `channels`."""

    def listing(self, root: Path | None) -> Listing:
        folder = given(root, "image_folder")
        files = {
            part: [(Path(file.path), name) for file, name in entries]
            for part, entries in class_folders(folder, ("train", "test")).items()
        }
        names = tuple(sorted({name for _, name in files["train"]}))
        return Listing(folder, **files, class_names=names)


def class_folders(
    root: Path, parts: tuple[str, str]
) -> dict[str, list[tuple[os.DirEntry[str], str]]]:
    """(file, class) of every image of both parts, sorted; a million paths would take half a minute
    to make and to sort.

    Args:
        root: the folder of the set.
        parts: the folders that are trained on and tested on.

    Raises:
        DataError: no such tree, an empty part, images outside the class folders, a training class
            without images, a single class, a test class that is not trained on, or a place where
            images may lie unseen.
    """
    found = {}
    train, test = parts
    for part in parts:
        folder = root / part
        if not folder.is_dir():
            raise DataError(
                f"no folder {folder}; the form is {root}/{{{train},{test}}}/<class>/images"
            )
        entries = _entries(folder)
        loose = sorted(entry.name for entry in entries if _is_image(entry))
        if loose:
            more = f" and {len(loose) - 1:,} more" if len(loose) > 1 else ""
            raise DataError(
                f"{folder / loose[0]}{more}: outside the class folders, where no image is read; "
                "move what belongs to a class into its folder, and the rest away"
            )
        classes = sorted(entry.name for entry in entries if entry.is_dir())
        images = {
            name: sorted(filter(_is_image, _files_below(folder / name)), key=_names)
            for name in classes
        }
        found[part] = [(file, name) for name, files in images.items() for file in files]
        empty = [folder / name for name in classes if not images[name]]
        if empty and part == train:  # a class fewer is another task, and would not show
            raise DataError(_without_images(empty[0]))
        if not found[part]:
            raise DataError(f"no images in {folder}/<class>/; known endings: {KNOWN}")
    names = {label for _, label in found[train]}
    strangers = {label for _, label in found[test]} - names
    if strangers:
        raise DataError(f"{root}/{test} has the class '{min(strangers)}', which {train}/ has not")
    if len(names) < 2:
        raise DataError(_one_class(root / train, *names))
    return found


def _entries(folder: Path) -> list[os.DirEntry[str]]:
    """What lies directly in a folder; that of a million files need not be asked for one by one.

    Without what is hidden: notebooks, desktops and editors leave copies and notes of their own.

    Raises:
        DataError: it cannot be listed, or a link in it leads nowhere: images may be missing.
    """
    try:
        entries = [entry for entry in os.scandir(folder) if not entry.name.startswith(".")]
    except OSError as error:
        raise DataError(
            f"{folder} cannot be listed ({error.strerror}) and may hold images; fix or remove it"
        ) from None
    for entry in entries:
        if entry.is_symlink() and not Path(entry.path).exists():
            raise DataError(f"{entry.path} is a link that leads nowhere; fix or remove it")
    return entries


def _is_image(entry: os.DirEntry[str]) -> bool:
    return entry.name.lower().endswith(ENDINGS) and entry.is_file()


def _names(entry: os.DirEntry[str]) -> list[str]:
    """By folder first, as paths are sorted: `a/b` stands before `a b`."""
    return entry.path.split("/")


def _files_below(folder: Path) -> Iterator[os.DirEntry[str]]:
    """Everything below a class folder that is no folder itself, at any depth.

    Raises:
        DataError: as `_entries`, or a folder there is a link, which could lead in circles.
    """
    for entry in _entries(folder):
        if not entry.is_dir():
            yield entry
        elif entry.is_symlink():
            raise DataError(
                f"{entry.path} is a link to a folder, which is followed in place of a class folder "
                "only; put the images themselves there, or links to them"
            )
        else:
            yield from _files_below(Path(entry.path))


def _one_class(train: Path, name: str) -> str:
    """What to say of a single class folder, often one that holds the class folders."""
    below = sorted(entry.name for entry in _entries(train / name) if entry.is_dir())
    if len(below) < 2:
        return f"{train} has the one class folder '{name}'; give at least two classes"
    return (
        f"{train} has the one class folder '{name}', whose folders are {_few(below)}: move them up"
    )


def _few(names: list[str]) -> str:
    return ", ".join(names[:5]) + (", …" if len(names) > 5 else "")


def _without_images(folder: Path) -> str:
    """What to say of a class folder none of whose files is read."""
    seen = sorted({Path(entry.name).suffix or "(none)" for entry in _files_below(folder)})
    return (
        f"no images in the class folder {folder}: "
        f"{f'its files have the endings {_few(seen)}' if seen else 'it holds no files'}; "
        f"read are {KNOWN}; convert them, or remove the folder"
    )


PROVIDES = {"image_folder": ImageFolder}
