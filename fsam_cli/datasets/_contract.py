"""The contract of a data set: say what you are without reading pixels, then load them.

A file of this folder provides frozen settings objects with three verbs. `fingerprint` must be
cheap enough for a dry run and must not import torch; `load` decodes everything once into uint8
tensors, which then live on the device.
"""

from __future__ import annotations

from abc import abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from fsam_cli.errors import DataError
from fsam_cli.recipe.schema import Settings

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class Fingerprint:
    """What identifies a data set's content, and the sizes a plan needs."""

    digest: str  # of the content: part of a run's identity
    # The content is the published one, by its official checksum; None: there is no such checksum.
    verified: bool | None
    train_size: int  # images
    test_size: int
    classes: int
    shape: tuple[int, int, int]  # channels, height, width


@dataclass(frozen=True)
class ImageSet:
    """A small-image data set in memory."""

    train_images: torch.Tensor  # (train, channels, height, width) uint8
    train_labels: torch.Tensor  # (train,) int64
    test_images: torch.Tensor  # (test, channels, height, width) uint8
    test_labels: torch.Tensor  # (test,) int64
    class_names: tuple[str, ...]
    mean: tuple[float, ...]  # per channel, of pixels scaled to 0..1
    std: tuple[float, ...]  # per channel

    @property
    def classes(self) -> int:
        return len(self.class_names)


class DataSet(Settings):
    """Base of every data set; its fields are the keys of the recipe's `data` section."""

    @abstractmethod
    def fingerprint(self, root: Path | None) -> Fingerprint:
        """Identify the content below `root` (None: not given).

        Raises:
            DataError: nothing usable there; the message says what to do.
        """

    @abstractmethod
    def load(self, root: Path | None) -> ImageSet:
        """Read and verify everything.

        Raises:
            DataError: missing, truncated or tampered content.
        """

    def download(self, root: Path | None) -> None:  # noqa: ARG002 (a hook)
        """Fetch the data into `root`; sets that cannot say so."""
        raise DataError(f"{type(self).__name__} cannot be downloaded; put its files in place")
