"""scikit-learn's handwritten digits: 1,797 real grey images of 8x8 pixels in 10 classes.

They are the test part of the UCI "Optical Recognition of Handwritten Digits" set and come inside
scikit-learn, so they need no download. Values 0..16 become 0..255. The split is fixed and
stratified: within each class, in the set's own order, every fifth image is a test image (355 test,
1,442 training).
"""

from __future__ import annotations

import hashlib
import importlib.util
from functools import lru_cache
from pathlib import Path

import numpy as np

from fsam_cli.datasets._contract import DataSet, Fingerprint, ImageSet

CLASSES = 10
DIGEST = "27a7147d17771c37"  # of the content as scikit-learn has shipped it since 0.5


class Digits(DataSet):
    """`digits`; no settings."""

    def fingerprint(self, root: Path | None) -> Fingerprint:
        images, labels, test = _content()
        parts = (images.tobytes(), labels.tobytes(), np.packbits(test).tobytes())
        digest = hashlib.sha256(b"".join(parts)).hexdigest()[:16]
        return Fingerprint(
            digest=digest,
            verified=digest == DIGEST,
            train_size=int((~test).sum()),
            test_size=int(test.sum()),
            classes=CLASSES,
            shape=(1, *images.shape[1:]),
        )

    def load(self, root: Path | None) -> ImageSet:
        import torch

        images, labels, test = _content()
        train = images[~test] / 255
        return ImageSet(
            train_images=torch.from_numpy(images[~test]).unsqueeze(1),
            train_labels=torch.from_numpy(labels[~test]),
            test_images=torch.from_numpy(images[test]).unsqueeze(1),
            test_labels=torch.from_numpy(labels[test]),
            class_names=tuple(str(digit) for digit in range(CLASSES)),
            mean=(float(train.mean()),),
            std=(float(train.std()),),
        )

    def download(self, root: Path | None) -> None:
        """Nothing to do: they come with scikit-learn."""


@lru_cache(maxsize=1)
def _content() -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(n, 8, 8) uint8 images, (n,) int64 labels, (n,) bool: is a test image."""
    table = _table()
    images = np.round(table[:, :-1].reshape(-1, 8, 8) * (255 / 16)).astype(np.uint8)
    labels = table[:, -1].astype(np.int64)
    test = np.zeros(len(labels), dtype=bool)
    for label in range(CLASSES):
        test[np.flatnonzero(labels == label)[4::5]] = True
    return images, labels, test


def _table() -> np.ndarray:
    """(n, 65): 64 values and the label, as `sklearn.datasets.load_digits` reads them.

    The file is read where scikit-learn keeps it, since importing scikit-learn takes most of a
    second of every process; should it ever lie elsewhere, scikit-learn is asked.
    """
    package = importlib.util.find_spec("sklearn")
    for folder in (package and package.submodule_search_locations) or ():
        path = Path(folder) / "datasets" / "data" / "digits.csv.gz"
        if path.is_file():
            return np.loadtxt(path, delimiter=",")
    from sklearn.datasets import load_digits

    digits = load_digits()
    return np.column_stack([digits.data, digits.target])


PROVIDES = {"digits": Digits}
