"""Small sets in the real format of CIFAR-10 and CIFAR-100, folders or archives."""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
from pathlib import Path
from typing import NamedTuple

import numpy as np

PIXELS = 3 * 32 * 32


class Written(NamedTuple):
    """What was written, to compare a reading with."""

    root: Path
    place: Path  # the folder or the archive
    train_rows: np.ndarray  # (train, 3072) uint8
    train_labels: list[int]
    test_rows: np.ndarray  # (test, 3072) uint8
    test_labels: list[int]
    md5: dict[str, str]  # by file name


def write_cifar(
    root: Path,
    *,
    classes: int = 10,
    train: int = 200,
    test: int = 100,
    seed: int = 0,
    packed: bool = False,
) -> Written:
    """Write a set of random images below `root`.

    Args:
        root: made where missing; the folder or archive inside it has its official name.
        classes: 10 or 100, the format.
        train: images, dealt to the training files of the format as evenly as they go.
        test: images of the test file.
        seed: of the pixels and labels.
        packed: write the .tar.gz instead of the folder.
    """
    random = np.random.default_rng(seed)
    rows = random.integers(0, 256, size=(train + test, PIXELS), dtype=np.uint8)
    labels = random.integers(0, classes, size=train + test).tolist()
    files = _files(classes, rows, labels, train)
    folder = {10: "cifar-10-batches-py", 100: "cifar-100-python"}[classes]
    root.mkdir(parents=True, exist_ok=True)
    if packed:
        place = root / f"{folder.removesuffix('-batches-py').removesuffix('-python')}-python.tar.gz"
        pack(place, {f"{folder}/{name}": content for name, content in files.items()})
    else:
        place = root / folder
        place.mkdir()
        for name, content in files.items():
            (place / name).write_bytes(content)
    md5 = {name: hashlib.md5(content).hexdigest() for name, content in files.items()}
    return Written(root, place, rows[:train], labels[:train], rows[train:], labels[train:], md5)


def pack(archive: Path, members: dict[str, bytes]) -> None:
    """A .tar.gz of these members, with a stranger among them as the real one has."""
    with tarfile.open(archive, "w:gz") as tar:
        for name, content in {"readme.html": b"<p>hello", **members}.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))


def _files(classes: int, rows: np.ndarray, labels: list[int], train: int) -> dict[str, bytes]:
    if classes == 100:
        meta = {"fine_label_names": [f"fine{n}" for n in range(100)]}
        return {
            "train": _batch("fine_labels", rows[:train], labels[:train]),
            "test": _batch("fine_labels", rows[train:], labels[train:]),
            "meta": pickle.dumps(meta, protocol=2),
        }
    files = {
        f"data_batch_{number}": _batch("labels", rows[part], [labels[n] for n in part])
        for number, part in enumerate(np.array_split(np.arange(train), 5), start=1)
    }
    meta = {"label_names": [f"class{n}" for n in range(10)], "num_vis": PIXELS}
    return {
        **files,
        "test_batch": _batch("labels", rows[train:], labels[train:]),
        "batches.meta": pickle.dumps(meta, protocol=2),
    }


def _batch(key: str, rows: np.ndarray, labels: list[int]) -> bytes:
    names = [f"image_{n}.png" for n in range(len(labels))]
    entry = {"batch_label": "a batch", key: labels, "data": rows, "filenames": names}
    if key == "fine_labels":
        entry["coarse_labels"] = [label // 5 for label in labels]
    return pickle.dumps(entry, protocol=2)
