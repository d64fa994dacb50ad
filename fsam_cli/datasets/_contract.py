"""The contract of a data set: say what you are without reading pixels, then load them.

A file of this folder provides frozen settings objects with three verbs. `fingerprint` is asked for
by dry runs, too, and must not import torch; `load` decodes everything once into uint8 tensors,
which then live on the device, or into what decodes images when they are asked for.
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

    from fsam_cli.datasets._on_demand import OnDemand


@dataclass(frozen=True)
class Fingerprint:
    """What identifies a data set's content, and the sizes a plan needs."""

    digest: str  # of the content: part of a run's identity
    # The content is the published one, by its official checksum; None: there is no such checksum.
    verified: bool | None
    train_size: int  # images
    test_size: int
    classes: int
    shape: tuple[int, int, int]  # channels, height, width of a test image


@dataclass(frozen=True)
class ImageSet:
    """The images and labels of a data set.

    Images are in memory, or stand in for a tensor and are decoded on demand.
    """

    train_images: torch.Tensor | OnDemand  # (train, channels, height, width) uint8
    train_labels: torch.Tensor  # (train,) int64
    test_images: torch.Tensor | OnDemand  # (test, channels, height, width) uint8
    test_labels: torch.Tensor  # (test,) int64
    class_names: tuple[str, ...]
    mean: tuple[float, ...]  # per channel, of pixels scaled to 0..1
    std: tuple[float, ...]  # per channel
    # The training images as test images are seen, for what is evaluated on them, where those that
    # are augmented are of another size. None: they are the same.
    plain_train_images: torch.Tensor | OnDemand | None = None

    def __post_init__(self) -> None:
        """Refuse what would train without a word, on other images than the user thinks.

        Raises:
            DataError: pixels, labels or statistics of another form than the fields name.
        """
        _refuse_other_forms("train", self.train_images, self.train_labels, self.classes)
        _refuse_other_forms("test", self.test_images, self.test_labels, self.classes)
        # What is not finite is in no range.
        if not all(0 <= mean <= 1 for mean in self.mean):
            raise DataError(f"mean: {self.mean} is not of pixels scaled to 0..1; divide by 255")
        if not all(0 < std <= 1 for std in self.std):
            raise DataError(
                f"std: {self.std} is not of pixels scaled to 0..1, or a channel is the same "
                "everywhere; give numbers above 0 and at most 1"
            )

    @property
    def classes(self) -> int:
        return len(self.class_names)

    @property
    def plain(self) -> torch.Tensor | OnDemand:
        """The training images to evaluate on."""
        images = self.plain_train_images
        return self.train_images if images is None else images


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

    def check_available(self, root: Path | None) -> None:
        """Look whether there is anything to load, without reading it: for dry runs, by sets whose
        `fingerprint` needs no files.

        Raises:
            DataError: there is nothing; the message says what to do.
        """

    def doubts(self, root: Path | None) -> str:
        """One line on what can be loaded and is probably a mistake; "" for nothing. As cheap as
        `fingerprint`, after it."""
        return ""

    def download(self, root: Path | None) -> None:
        """Fetch the data into `root`; sets that cannot say so."""
        raise DataError(f"{type(self).__name__} cannot be downloaded; put its files in place")


def given(root: Path | None, name: str, *, hint: str = "") -> Path:
    """Where the set of this name lies, if it was said and can be looked into.

    Raises:
        DataError: no root, with the hint at the message's end, or one that may not be entered.
    """
    if root is None:
        places = "data.root in the recipe, --data-dir or FSAM_DATA"
        raise DataError(f"{name} cannot be located; set {places}{hint}")
    refuse_closed(root)
    return root


def refuse_closed(root: Path) -> None:
    """Raise DataError for a folder that may not be entered, in which anything seems absent, and for
    a name that no folder can have."""
    try:
        (root / "..").stat()  # the way through it asks for the right to enter
    except (FileNotFoundError, NotADirectoryError):
        pass  # whoever looks for something in it says so
    except OSError as error:
        raise DataError(
            f"{root} cannot be entered ({error.strerror}); check its name and its permissions"
        ) from None
    except ValueError as error:
        raise DataError(f"{str(root)!r} is not the name of a folder ({error})") from None


def _refuse_other_forms(
    part: str, images: torch.Tensor | OnDemand, labels: torch.Tensor, classes: int
) -> None:
    """Raise DataError unless these are uint8 images, with one label from 0 to classes - 1 each."""
    import torch

    form = f"{str(images.dtype).removeprefix('torch.')} of shape {tuple(images.shape)}"
    if images.dtype != torch.uint8 or images.dim() != 4:
        raise DataError(
            f"{part}_images: {form} instead of uint8 of shape (images, channels, height, width); "
            "give pixels from 0 to 255, not normalised"
        )
    # Byte labels mean the same to torch as long ones.
    if labels.dtype not in (torch.int64, torch.uint8) or labels.shape != images.shape[:1]:
        form = f"{str(labels.dtype).removeprefix('torch.')} of shape {tuple(labels.shape)}"
        raise DataError(
            f"{part}_labels: {form} for {len(images)} images; give one label each, of int64"
        )
    if len(labels) and not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise DataError(
            f"{part}_labels: {int(labels.min())} to {int(labels.max())}, and there are {classes} "
            f"class_names; give labels from 0 to {classes - 1}"
        )
