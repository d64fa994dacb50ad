"""CIFAR-10 and CIFAR-100 in the format their authors distribute and torchvision keeps.

Below `root` lies either the archive (`cifar-10-python.tar.gz`), which is read without being
unpacked to disk, or the folder that comes out of it (`cifar-10-batches-py`). File names and
checksums are torchvision's. The files are pickles; they are read by an unpickler that knows arrays
and refuses everything else, so an archive cannot run code.

`checksum: none` reads other archives of the same form; their results are marked "unverified".
"""

from __future__ import annotations

import hashlib
import io
import pickle
import tarfile
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal, NamedTuple

import numpy as np

from fsam_cli.datasets._contract import DataSet, Fingerprint, ImageSet
from fsam_cli.errors import DataError

SHAPE = (3, 32, 32)  # planes of red, green, blue, row by row
_TIMEOUT_SECONDS = 60

# What a pickled array of bytes needs, under numpy's old and new names.
_ALLOWED = {
    (f"numpy.{core}.multiarray", name)
    for core in ("core", "_core")
    for name in ("_reconstruct", "scalar")
} | {("numpy", "ndarray"), ("numpy", "dtype"), ("_codecs", "encode")}


class _ArrayUnpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in _ALLOWED:
            raise DataError(f"it asks for {module}.{name}, which no CIFAR file needs")
        return super().find_class(module, name)


class _Files(NamedTuple):
    """Names and official MD5 sums."""

    archive: str
    archive_md5: str
    folder: str
    url: str
    train: tuple[tuple[str, str], ...]
    test: tuple[tuple[str, str], ...]


class Cifar10(DataSet):
    """`cifar10`: 50,000 training and 10,000 test images of 3x32x32, 10 classes."""

    checksum: Literal["official", "none"] = "official"

    torchvision_name: ClassVar[str] = "CIFAR10"
    label_key: ClassVar[str] = "labels"
    classes: ClassVar[int] = 10
    mean: ClassVar[tuple[float, ...]] = (0.4914, 0.4822, 0.4465)
    std: ClassVar[tuple[float, ...]] = (0.2470, 0.2435, 0.2616)

    def fingerprint(self, root: Path | None) -> Fingerprint:
        """With the official checksums this needs no files: they say what the content must be."""
        if self.checksum == "official":
            files = self._files()
            sums = "".join(md5 for _, md5 in (*files.train, *files.test))
            digest, train, test = _short_hash(sums.encode()), 50_000, 10_000
        else:
            content = self._read(root)
            digest = _short_hash(b"".join(content[name] for name, _ in self._parts()))
            files = self._files()
            train = sum(len(self._decoded(content, name)[1]) for name, _ in files.train)
            test = sum(len(self._decoded(content, name)[1]) for name, _ in files.test)
        return Fingerprint(
            digest=digest,
            verified=self.checksum == "official",
            train_size=train,
            test_size=test,
            classes=self.classes,
            shape=SHAPE,
        )

    def load(self, root: Path | None) -> ImageSet:
        import torch

        content = self._read(root)
        files = self._files()
        parts = {}
        for part, names in (("train", files.train), ("test", files.test)):
            decoded = [self._decoded(content, name) for name, _ in names]
            images = np.concatenate([images for images, _ in decoded])
            labels = np.concatenate([labels for _, labels in decoded])
            parts[part] = torch.from_numpy(images), torch.from_numpy(labels)
        return ImageSet(
            train_images=parts["train"][0],
            train_labels=parts["train"][1],
            test_images=parts["test"][0],
            test_labels=parts["test"][1],
            class_names=tuple(str(number) for number in range(self.classes)),
            mean=self.mean,
            std=self.std,
        )

    def download(self, root: Path | None) -> None:
        """Fetch the archive into `root`, whole or not at all; nothing is done if it is there.

        Raises:
            DataError: no root, no network, or another content than the official one.
        """
        folder, files = _given(root), self._files()
        goal = folder / files.archive
        if goal.exists() or (folder / files.folder).is_dir():
            return
        try:
            folder.mkdir(parents=True, exist_ok=True)
            with urllib.request.urlopen(files.url, timeout=_TIMEOUT_SECONDS) as response:
                content = response.read()
        except (OSError, urllib.error.URLError) as error:
            raise DataError(
                f"cannot download {files.url}: {getattr(error, 'reason', error)}; "
                f"put {files.archive} into {folder} yourself"
            ) from None
        _check_md5(content, files.archive_md5, files.url)
        beside = goal.with_suffix(".part")
        try:
            beside.write_bytes(content)
            beside.replace(goal)
        except OSError as error:
            beside.unlink(missing_ok=True)
            raise DataError(f"cannot write {goal}: {error.strerror}") from None

    def _files(self) -> _Files:
        import torchvision

        kind = getattr(torchvision.datasets, self.torchvision_name)
        return _Files(
            archive=kind.filename,
            archive_md5=kind.tgz_md5,
            folder=kind.base_folder,
            url=kind.url,
            train=tuple((name, md5) for name, md5 in kind.train_list),
            test=tuple((name, md5) for name, md5 in kind.test_list),
        )

    def _parts(self) -> tuple[tuple[str, str], ...]:
        files = self._files()
        return files.train + files.test

    def _read(self, root: Path | None) -> dict[str, bytes]:
        """The bytes of every file, checked; from the folder if it is there, else the archive."""
        base, files = _given(root), self._files()
        folder, archive = base / files.folder, base / files.archive
        names = [name for name, _ in self._parts()]
        if folder.is_dir():
            content = _from_folder(folder, names)
        elif archive.is_file():
            content = _from_archive(archive, files.folder, names)
        else:
            raise DataError(
                f"no {files.archive} and no {files.folder}/ in {base}; put one of them there, "
                "name another place with --data-dir or FSAM_DATA, or use --download"
            )
        if self.checksum == "official":
            for name, md5 in self._parts():
                _check_md5(content[name], md5, f"{name} in {base}")
        return content

    def _decoded(self, content: Mapping[str, bytes], name: str) -> tuple[np.ndarray, np.ndarray]:
        """(n, 3, 32, 32) uint8 images and (n,) int64 labels of one file."""
        try:
            entry = _ArrayUnpickler(io.BytesIO(content[name]), encoding="latin1").load()
            images = np.asarray(entry["data"])
            labels = np.asarray(entry[self.label_key], dtype=np.int64)
        except DataError as error:
            raise DataError(f"{name} is no CIFAR file: {error}") from None
        except Exception as error:  # a damaged pickle raises anything
            raise DataError(f"{name} is damaged ({type(error).__name__}); fetch it again") from None
        pixels = int(np.prod(SHAPE))
        if images.dtype != np.uint8 or images.shape != (len(labels), pixels):
            raise DataError(
                f"{name} holds {images.dtype} data of shape {images.shape} for {len(labels)} "
                f"labels; uint8 of shape (labels, {pixels}) is the format"
            )
        if len(labels) and not 0 <= labels.min() <= labels.max() < self.classes:
            raise DataError(f"{name} has labels outside 0..{self.classes - 1}")
        return images.reshape(-1, *SHAPE), labels


class Cifar100(Cifar10):
    """`cifar100`: 50,000 training and 10,000 test images of 3x32x32, 100 classes."""

    torchvision_name: ClassVar[str] = "CIFAR100"
    label_key: ClassVar[str] = "fine_labels"
    classes: ClassVar[int] = 100
    mean: ClassVar[tuple[float, ...]] = (0.5071, 0.4867, 0.4408)
    std: ClassVar[tuple[float, ...]] = (0.2675, 0.2565, 0.2761)


def _given(root: Path | None) -> Path:
    if root is None:
        raise DataError(
            "CIFAR needs to know where it lies: data.root in the recipe, --data-dir or FSAM_DATA "
            "(with --download to fetch it there)"
        )
    return root


def _from_folder(folder: Path, names: list[str]) -> dict[str, bytes]:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder} lacks {', '.join(missing)}; unpack the archive again")
    return {name: (folder / name).read_bytes() for name in names}


def _from_archive(archive: Path, folder: str, names: list[str]) -> dict[str, bytes]:
    content: dict[str, bytes] = {}
    try:
        with tarfile.open(archive, "r:gz") as tar:
            for member in tar:
                inside, _, name = member.name.removeprefix("./").partition("/")
                file = tar.extractfile(member) if inside == folder and name in names else None
                if file is not None:
                    content[name] = file.read()
    except (OSError, EOFError, tarfile.TarError) as error:
        raise DataError(f"{archive} is damaged or cut short ({error}); fetch it again") from None
    missing = [name for name in names if name not in content]
    if missing:
        raise DataError(f"{archive} lacks {', '.join(missing)}; fetch it again")
    return content


def _check_md5(content: bytes, expected: str, what: str) -> None:
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise DataError(
            f"{what} has MD5 {found} and the official file {expected}: it is damaged or another; "
            "fetch it again, or set data.checksum: none to use it as an unverified set"
        )


def _short_hash(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()[:16]


PROVIDES = {"cifar10": Cifar10, "cifar100": Cifar100}
