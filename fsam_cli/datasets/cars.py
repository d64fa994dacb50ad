"""Stanford Cars (Krause et al. 2013): 196 classes, 8,144 and 8,041 images.

    root/stanford_cars/devkit/cars_meta.mat
    root/stanford_cars/devkit/cars_train_annos.mat
    root/stanford_cars/cars_test_annos_withlabels.mat
    root/stanford_cars/cars_train/00001.jpg ...
    root/stanford_cars/cars_test/00001.jpg ...

as torchvision lays it out, or the same without the folder stanford_cars. Its authors' page is gone,
so the files have to be found and put there by hand.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from fsam_cli.datasets._contract import given
from fsam_cli.datasets._files import ImageFiles, Listing
from fsam_cli.datasets._matlab import variable
from fsam_cli.errors import DataError


class Cars(ImageFiles):
    """`cars`: images of `size` pixels a side."""

    def listing(self, root: Path | None) -> Listing:
        root = given(root, "cars")
        folder = root / "stanford_cars" if (root / "stanford_cars").is_dir() else root
        names = tuple(
            str(name)
            for name in np.atleast_1d(variable(folder / "devkit/cars_meta.mat", "class_names"))
        )
        return Listing(
            folder,
            train=_labelled(folder, "devkit/cars_train_annos.mat", "cars_train", names),
            test=_labelled(folder, "cars_test_annos_withlabels.mat", "cars_test", names),
            class_names=names,
        )


def _labelled(
    folder: Path, annotations: str, images: str, names: tuple[str, ...]
) -> list[tuple[Path, str]]:
    path = folder / annotations
    table = np.atleast_1d(variable(path, "annotations"))
    try:
        entries = [(str(row["fname"]), int(row["class"])) for row in table]
    except (IndexError, KeyError, TypeError, ValueError):
        raise DataError(
            f"{path} has no 'fname' and 'class' for every image; the test images' labels are in "
            "the file whose name ends with _withlabels"
        ) from None
    for name, label in entries:
        # A name is no way out of the folder, and a class is one of those named.
        if Path(name).name != name or not 1 <= label <= len(names):
            raise DataError(f"{path}: image {name!r} of class {label}; fetch it again")
    return [(folder / images / name, names[label - 1]) for name, label in entries]


PROVIDES = {"cars": Cars}
