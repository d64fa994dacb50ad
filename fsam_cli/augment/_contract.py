"""The contract of an augmentation: draw once an epoch for every image, apply to any batch.

Every draw is a function of (seed, purpose, epoch, image), never of the batch, the worker or the
position: `draw` makes one row per training image for a whole epoch, and `apply` gets the rows of
the images at hand. Both work on whole batches, each image with its own draw.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import ClassVar, Literal

import numpy as np
import torch
from torch import Tensor

from fsam_cli.recipe.schema import Settings


class Augmentation(Settings):
    """Base of every augmentation; its fields are the keys of its entry in `data.augment`."""

    # `pixels`: uint8 in and out, before normalisation. `normalised`: float, after it, where 0 is
    # the mean that `data.normalise` subtracts: of the training set, of ImageNet, or mid-grey.
    # `mixed`: last, on whole training batches, whose labels are mixed as well (see `_mixing`).
    stage: ClassVar[Literal["pixels", "normalised", "mixed"]] = "pixels"
    # Whether `apply` gets its draws on the CPU, wherever the images are, and sends on what it makes
    # of them: to ask a tensor on a GPU for a decision would wait for all that is queued there.
    decides_on_host: ClassVar[bool] = False

    @abstractmethod
    def draw(
        self, random: np.random.Generator, images: int, height: int, width: int
    ) -> dict[str, np.ndarray]:
        """One row of random numbers per training image: arrays of length `images`.

        Args:
            random: the stream of this part, seed and epoch.
            images: in the whole training set.
            height: of the images that `apply` gets, in pixels.
            width: of the images that `apply` gets, in pixels.
        """

    def size_after(self, height: int, width: int) -> tuple[int, int]:
        """(height, width) that images of this size come out with, for the draws of what follows; a
        part that changes the size says so here."""
        return height, width

    @abstractmethod
    def apply(self, images: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        """Augment (batch, channels, height, width) images with their own rows of draws."""


def sent(tensor: Tensor, device: torch.device) -> Tensor:
    """A tensor of the CPU on a device, without waiting for what is queued there."""
    if device.type == "cuda":  # a copy from memory that is not pinned waits
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)
