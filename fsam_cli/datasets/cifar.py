"""CIFAR-10 and CIFAR-100 in the format their authors distribute and torchvision keeps.

Below `root` lies either the archive (`cifar-10-python.tar.gz`), which is read without being
unpacked to disk, or the folder that comes out of it (`cifar-10-batches-py`). Checksums and the
address are torchvision's; a dry run needs neither them nor torch. The files are pickles; they are
read by an unpickler that knows arrays of bytes and refuses everything else, so an archive cannot
run code.

`checksum: none` reads other archives of the same form; their results are marked "unverified".
"""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import http.client
import os
import secrets
import tarfile
import urllib.error
import urllib.request
import zlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from fsam_cli.datasets._contract import DataSet, Fingerprint, ImageSet, given
from fsam_cli.datasets._unpickle import unpickled
from fsam_cli.errors import DataError

SHAPE = (3, 32, 32)  # planes of red, green, blue, row by row
_TIMEOUT_SECONDS = 60  # without a byte from the server
_CHUNK_BYTES = 1 << 20


class Cifar10(DataSet):
    """`cifar10`: 50,000 training and 10,000 test images of 3x32x32, 10 classes."""

    checksum: Literal["official", "none"] = "official"

    torchvision_name: ClassVar[str] = "CIFAR10"
    archive: ClassVar[str] = "cifar-10-python.tar.gz"
    folder: ClassVar[str] = "cifar-10-batches-py"
    train_files: ClassVar[tuple[str, ...]] = tuple(f"data_batch_{n}" for n in range(1, 6))
    test_files: ClassVar[tuple[str, ...]] = ("test_batch",)
    # Of the MD5 sums of the files above, one after the other; a test compares with torchvision.
    official_digest: ClassVar[str] = "f7358627169f1877"
    label_key: ClassVar[str] = "labels"
    classes: ClassVar[int] = 10
    mean: ClassVar[tuple[float, ...]] = (0.4914, 0.4822, 0.4465)
    std: ClassVar[tuple[float, ...]] = (0.2470, 0.2435, 0.2616)

    def fingerprint(self, root: Path | None) -> Fingerprint:
        """With the official checksums this needs no files: they say what the content must be."""
        if self.checksum == "official":
            digest, train, test = self.official_digest, 50_000, 10_000
        else:
            content = self._read(root)
            digest = hashlib.sha256(b"".join(content.values())).hexdigest()[:16]
            train = len(self._joined(root, content, self.train_files)[1])
            test = len(self._joined(root, content, self.test_files)[1])
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
        train_images, train_labels = self._joined(root, content, self.train_files)
        test_images, test_labels = self._joined(root, content, self.test_files)
        return ImageSet(
            train_images=torch.from_numpy(train_images),
            train_labels=torch.from_numpy(train_labels),
            test_images=torch.from_numpy(test_images),
            test_labels=torch.from_numpy(test_labels),
            class_names=tuple(str(number) for number in range(self.classes)),
            mean=self.mean,
            std=self.std,
        )

    def check_available(self, root: Path | None) -> None:
        self._place(root)

    def download(self, root: Path | None) -> None:
        """Fetch the archive into `root`, whole or not at all; nothing is done if it is there.

        Raises:
            DataError: no root, no network, or another content than the official one.
        """
        base = _given(root)
        goal = base / self.archive
        if goal.exists() or (base / self.folder).is_dir():
            return
        official = self._torchvisions()
        # A name of its own, in the same folder: two downloads at once do not meet, and only a
        # whole and checked archive takes the name that is read.
        beside = base / f".{self.archive}.{secrets.token_hex(4)}.part"
        try:
            base.mkdir(parents=True, exist_ok=True)
            found = _fetch(official.url, beside)
            if found != official.tgz_md5:
                raise DataError(
                    f"{official.url} sent a file with MD5 {found}, the official one has "
                    f"{official.tgz_md5}; nothing was kept: try again, or put {self.archive} "
                    f"into {base} yourself"
                )
            beside.replace(goal)
        except (OSError, http.client.HTTPException) as error:
            if isinstance(error, urllib.error.HTTPError):
                error.close()
            why = getattr(error, "strerror", None) or error
            raise DataError(
                f"cannot download {official.url} to {goal}: {why}; "
                f"put {self.archive} into {base} yourself"
            ) from None
        finally:
            with contextlib.suppress(OSError):
                beside.unlink()

    def _torchvisions(self) -> Any:
        """Its class, which knows the address and the checksums of what is published."""
        import torchvision

        return getattr(torchvision.datasets, self.torchvision_name)

    def _read(self, root: Path | None) -> dict[str, bytes]:
        """The bytes of every file, checked."""
        place = self._place(root)
        names = (*self.train_files, *self.test_files)
        if place.is_dir():
            content = _from_folder(place, names)
        else:
            content = _from_archive(place, self.folder, names)
        if self.checksum == "official":
            official = self._torchvisions()
            for name, md5 in (*official.train_list, *official.test_list):
                _check_md5(content[name], md5, name, place)
        return content

    def _place(self, root: Path | None) -> Path:
        """The folder if it is there, else the archive."""
        base = _given(root)
        folder, archive = base / self.folder, base / self.archive
        if folder.is_dir():
            return folder
        if archive.is_file():
            return archive
        raise DataError(
            f"no {self.archive} and no {self.folder}/ in {base}; put one of them there, "
            "name another place with data.root in the recipe, --data-dir or FSAM_DATA, or "
            "fetch it with fsam train --download"
        )

    def _joined(
        self, root: Path | None, content: Mapping[str, bytes], names: tuple[str, ...]
    ) -> tuple[np.ndarray, np.ndarray]:
        """(n, 3, 32, 32) uint8 images and (n,) int64 labels of the training or the test files."""
        decoded = [self._decoded(content[name], f"{name} in {root}") for name in names]
        images = np.concatenate([images for images, _ in decoded])
        labels = np.concatenate([labels for _, labels in decoded])
        if not len(images):
            raise DataError(f"{', '.join(names)} in {root}: no images; use a set that has some")
        return images, labels

    def _decoded(self, content: bytes, where: str) -> tuple[np.ndarray, np.ndarray]:
        """The same of one file."""
        entry = unpickled(content, where)
        for key in ("data", self.label_key):
            if key not in entry:
                raise DataError(f"{where} is no {self.torchvision_name} file: it has no '{key}'")
        images, listed = entry["data"], entry[self.label_key]
        if not isinstance(listed, list) or any(type(label) is not int for label in listed):
            raise DataError(f"{where}: '{self.label_key}' must be a list of whole numbers")
        if not all(0 <= label < self.classes for label in listed):
            raise DataError(f"{where} has labels outside 0..{self.classes - 1}")
        pixels = int(np.prod(SHAPE))
        if not isinstance(images, np.ndarray) or images.shape != (len(listed), pixels):
            found = images.shape if isinstance(images, np.ndarray) else type(images).__name__
            raise DataError(
                f"{where} holds data of shape {found} for {len(listed)} labels; "
                f"an array of bytes of shape (labels, {pixels}) is the format"
            )
        return images.reshape(-1, *SHAPE), np.array(listed, dtype=np.int64)


class Cifar100(Cifar10):
    """`cifar100`: 50,000 training and 10,000 test images of 3x32x32, 100 classes."""

    torchvision_name: ClassVar[str] = "CIFAR100"
    archive: ClassVar[str] = "cifar-100-python.tar.gz"
    folder: ClassVar[str] = "cifar-100-python"
    train_files: ClassVar[tuple[str, ...]] = ("train",)
    test_files: ClassVar[tuple[str, ...]] = ("test",)
    official_digest: ClassVar[str] = "f5fb183f7a3b66ab"
    label_key: ClassVar[str] = "fine_labels"
    classes: ClassVar[int] = 100
    mean: ClassVar[tuple[float, ...]] = (0.5071, 0.4867, 0.4408)
    std: ClassVar[tuple[float, ...]] = (0.2675, 0.2565, 0.2761)


def _given(root: Path | None) -> Path:
    return given(root, "CIFAR", hint=" (fsam train --download fetches it there)")


def _from_folder(folder: Path, names: tuple[str, ...]) -> dict[str, bytes]:
    missing = [name for name in names if not (folder / name).is_file()]
    if missing:
        raise DataError(f"{folder} lacks {', '.join(missing)}; unpack the archive again")
    try:
        return {name: (folder / name).read_bytes() for name in names}
    except OSError as error:
        raise DataError(
            f"{error.filename} cannot be read ({error.strerror}); check its permissions"
        ) from None


def _from_archive(archive: Path, folder: str, names: tuple[str, ...]) -> dict[str, bytes]:
    """By name only, and only files: where other members or links lead to does not matter."""
    content: dict[str, bytes] = {}
    anew = "remove it and fetch it again"  # a download leaves alone what is there
    try:
        with gzip.open(archive) as stream, tarfile.open(fileobj=stream, mode="r:") as tar:
            for member in tar:
                inside, _, name = member.name.removeprefix("./").partition("/")
                wanted = member.isreg() and inside == folder and name in names
                file = tar.extractfile(member) if wanted else None
                if file is not None:
                    content[name] = file.read()
            while stream.read(_CHUNK_BYTES):  # to the end, where gzip compares its own checksum
                pass
    except (gzip.BadGzipFile, EOFError, zlib.error, tarfile.TarError) as error:
        raise DataError(f"{archive} is damaged or cut short ({error}); {anew}") from None
    except OSError as error:
        raise DataError(
            f"{archive} cannot be read ({error.strerror or error}); check its permissions"
        ) from None
    missing = [name for name in names if name not in content]
    if missing:
        raise DataError(f"{archive} lacks {', '.join(missing)}; {anew}")
    return {name: content[name] for name in names}


def _fetch(url: str, beside: Path) -> str:
    """Write what the server sends to a file, piece by piece; its MD5 sum."""
    md5 = hashlib.md5(usedforsecurity=False)
    with (
        urllib.request.urlopen(url, timeout=_TIMEOUT_SECONDS) as response,
        beside.open("xb") as file,
    ):
        while piece := response.read(_CHUNK_BYTES):
            md5.update(piece)
            file.write(piece)
        file.flush()
        os.fsync(file.fileno())  # or a power cut could leave the final name without its content
    return md5.hexdigest()


def _check_md5(content: bytes, expected: str, name: str, place: Path) -> None:
    found = hashlib.md5(content, usedforsecurity=False).hexdigest()
    if found != expected:
        raise DataError(
            f"{name} in {place} has MD5 {found} and the official file {expected}: it is damaged "
            f"or another; remove {place} and fetch it again, or set data.checksum: none to use it "
            "as an unverified set"
        )


PROVIDES = {"cifar10": Cifar10, "cifar100": Cifar100}
