"""Oxford 102 Flowers (Nilsback and Zisserman 2008): 102 classes, 2,040 and 6,149 images.

    root/flowers-102/jpg/image_00001.jpg ...
    root/flowers-102/imagelabels.mat
    root/flowers-102/setid.mat

as torchvision lays it out, or the same without the folder flowers-102. The published training and
validation parts, 1,020 images each, are trained on together, as fine-tuning on this set usually is;
`data.validation` holds a part of one's own out. The numbers of the classes are their names.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from fsam_cli.datasets._contract import given
from fsam_cli.datasets._files import ImageFiles, Listing
from fsam_cli.datasets._matlab import variable
from fsam_cli.errors import DataError


class Flowers(ImageFiles):
    """`flowers`: images of `size` pixels a side."""

    def listing(self, root: Path | None) -> Listing:
        root = given(root, "flowers")
        folder = root / "flowers-102" if (root / "flowers-102").is_dir() else root
        labels = _whole_numbers(folder / "imagelabels.mat", "labels")
        parts = [_whole_numbers(folder / "setid.mat", name) for name in ("trnid", "valid", "tstid")]
        numbers = np.concatenate(parts)
        if numbers.min() < 1 or numbers.max() > len(labels) or labels.min() < 1:
            raise DataError(
                f"{folder}: setid.mat names images {numbers.min()} to {numbers.max()}, and "
                f"imagelabels.mat has {len(labels)} labels from {labels.min()}; fetch both again"
            )
        train, validation, test = (
            [(folder / f"jpg/image_{number:05}.jpg", str(labels[number - 1])) for number in part]
            for part in parts
        )
        names = tuple(str(number) for number in range(1, int(labels.max()) + 1))
        return Listing(folder, [*train, *validation], test, names)


def _whole_numbers(path: Path, name: str) -> np.ndarray[Any, np.dtype[np.int64]]:
    found = np.atleast_1d(variable(path, name))
    if found.ndim != 1 or not len(found) or not np.issubdtype(found.dtype, np.integer):
        raise DataError(f"{path}: '{name}' is not a list of whole numbers; fetch it again")
    return found.astype(np.int64)


PROVIDES = {"flowers": Flowers}
