"""From uint8 images to what the network sees: normalisation, and augmentations before and after."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor

from fsam_cli.augment._contract import Augmentation, sent
from fsam_cli.augment._mixing import Mixing

STAGES = ("pixels", "normalised", "mixed")  # in the order in which they come


class Pipeline:
    """Pixel augmentations, normalisation, then augmentations of normalised images; and those that
    blend the images of a batch, of which each image undergoes one.

    Args:
        parts: (name, augmentation) in the recipe's order.
        mean: per channel, of pixels scaled to 0..1.
        std: per channel.
        resize: pixels a side that images are brought to first (bicubic, antialiased).

    Raises:
        ValueError: an augmentation of an earlier stage stands after one of a later.
    """

    def __init__(
        self,
        parts: Sequence[tuple[str, Augmentation]],
        mean: Sequence[float],
        std: Sequence[float],
        resize: int | None = None,
    ) -> None:
        _stages_in_order(parts)
        named = _own_streams(parts)
        self._pixels = {name: part for name, part in named if part.stage == "pixels"}
        self._normalised = {name: part for name, part in named if part.stage == "normalised"}
        self._mixed = {name: part for name, part in named if isinstance(part, Mixing)}
        self._which = torch.zeros(0, dtype=torch.int64)  # of them, by image
        self._mean = torch.tensor(mean).view(1, -1, 1, 1)
        self._std = torch.tensor(std).view(1, -1, 1, 1)
        self._size = resize
        self._draws: dict[str, dict[str, Tensor]] = {}

    def draw(
        self,
        random_for: Callable[[str], np.random.Generator],
        *,
        images: int,
        height: int,
        width: int,
    ) -> None:
        """Draw an epoch's random numbers for every training image, and keep them.

        Args:
            random_for: the stream of a part, by its name; a second `crop` has `crop.2`.
            images: in the whole training set; `__call__` is given numbers below it.
            height: of the images as stored, in pixels.
            width: of the images as stored, in pixels.
        """
        height, width = self._size or height, self._size or width
        self._draws = {}
        for name, part in {**self._pixels, **self._normalised, **self._mixed}.items():
            drawn = part.draw(random_for(name), images, height, width)
            self._draws[name] = {key: torch.from_numpy(rows) for key, rows in drawn.items()}
            height, width = part.size_after(height, width)  # what the next one will be given
        if len(self._mixed) > 1:
            which = random_for("mixing").integers(len(self._mixed), size=images)
            self._which = torch.from_numpy(which)

    def __call__(self, images: Tensor, numbers: Tensor) -> Tensor:
        """Resize, augment and normalise (batch, channels, height, width) uint8 images.

        Args:
            images: on any device.
            numbers: (batch,) of the images in the training set, by which their draws are found;
                on the CPU.

        Raises:
            ValueError: an augmentation of pixels gives something other than bytes, or one gives
                another size than it says.
        """
        images = self._resized(images)
        for name, part in self._pixels.items():
            images = self._applied(name, part, images, numbers)
            if images.dtype != torch.uint8:  # pixels from 0 to 1, say, would pass for black ones
                raise ValueError(
                    f"the augmentation '{name}' gave {images.dtype} for pixels; "
                    "round them and give uint8 from 0 to 255"
                )
        normalised = self._normalise(images)
        for name, part in self._normalised.items():
            normalised = self._applied(name, part, normalised, numbers)
        return normalised

    def mixed(self, images: Tensor, numbers: Tensor) -> tuple[Tensor, Tensor] | None:
        """Blend the images of a whole batch in pairs, the first with the last; None where the
        recipe asks for nothing of the kind.

        Args:
            images: what `__call__` gave of it.
            numbers: see `__call__`.

        Returns:
            The images, and (batch,) float32 how much of its own label each keeps.
        """
        if not self._mixed:
            return None
        size, found = images.shape[2:], []
        for name, part in self._mixed.items():
            rows = self._rows(name, part, numbers, images.device)
            found.append((part.apply(images, rows), part.share(rows, *size)))
        blended, share = found[0]
        if len(found) > 1:
            which = sent(self._which[numbers], images.device)
            for number, (others, own) in enumerate(found[1:], 1):
                share = torch.where(which == number, own, share)
                blended = torch.where((which == number)[:, None, None, None], others, blended)
        return blended, share

    def normalise(self, images: Tensor) -> Tensor:
        """Resized, (x / 255 - mean) / std as float32: what evaluation sees."""
        return self._normalise(self._resized(images))

    def _resized(self, images: Tensor) -> Tensor:
        if self._size is None or images.shape[2:] == (self._size, self._size):
            return images
        # Imported here because it takes a second, and small images are seldom resized.
        from torchvision.transforms.v2.functional import InterpolationMode, resize

        size = [self._size, self._size]
        resized: Tensor = resize(images, size, InterpolationMode.BICUBIC, antialias=True)
        return resized

    def _normalise(self, images: Tensor) -> Tensor:
        if self._mean.device != images.device:
            self._mean, self._std = self._mean.to(images.device), self._std.to(images.device)
        return (images / 255).sub_(self._mean).div_(self._std)

    def _applied(self, name: str, part: Augmentation, images: Tensor, numbers: Tensor) -> Tensor:
        said = part.size_after(*images.shape[2:])
        images = part.apply(images, self._rows(name, part, numbers, images.device))
        if images.shape[2:] != said:  # what follows has drawn for images of the size said
            raise ValueError(
                f"the augmentation '{name}' gave images of {tuple(images.shape[2:])} pixels "
                f"(height, width) and its size_after says {said}; define size_after to say so"
            )
        return images

    def _rows(
        self, name: str, part: Augmentation, numbers: Tensor, device: torch.device
    ) -> Mapping[str, Tensor]:
        rows = {key: every[numbers] for key, every in self._draws[name].items()}
        if part.decides_on_host:
            return rows
        return {key: sent(each, device) for key, each in rows.items()}


def _stages_in_order(parts: Sequence[tuple[str, Augmentation]]) -> None:
    what = {"pixels": "pixels", "normalised": "normalised images", "mixed": "whole batches"}
    for (early, before), (late, after) in pairwise(parts):
        if STAGES.index(before.stage) > STAGES.index(after.stage):
            raise ValueError(
                f"'{late}' augments {what[after.stage]} and stands after '{early}', which augments "
                f"{what[before.stage]}; put '{early}' last"
            )


def _own_streams(parts: Sequence[tuple[str, Augmentation]]) -> list[tuple[str, Augmentation]]:
    """A part listed twice draws twice; what stands around a part does not change its draws."""
    seen: Counter[str] = Counter()
    named = []
    for name, part in parts:
        seen[name] += 1
        named.append((name if seen[name] == 1 else f"{name}.{seen[name]}", part))
    return named
