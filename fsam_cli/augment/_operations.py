"""What AutoAugment, RandAugment and TrivialAugment share: a space of operations, and the way of
each image of a batch through those that it drew from it.

A space maps the operations to choose from to the magnitudes of their settings. Of `levels`
strengths, each with both signs, setting `2 * level + negative` is one; an operation without a sign
has each magnitude twice, one without magnitudes none.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache

import torch
from torch import Tensor

from fsam_cli.augment._contract import sent
from fsam_cli.augment._pillow import OPERATIONS, Magnitudes

Space = Mapping[str, Magnitudes]


def space(
    levels: int,
    *,
    slope: float,
    across: float,
    down: float,
    degrees: float,
    factor: float,
    bits: int,
) -> Space:
    """All operations but Invert, with torchvision's magnitudes from nothing to what is given.

    Args:
        levels: strengths of each operation, at least 2.
        slope: of a shear.
        across: pixels of a translation along x.
        down: pixels of a translation along y.
        degrees: of a rotation.
        factor: by which colour, contrast, brightness and sharpness are changed, of 1.
        bits: of 8 that posterising takes from each pixel.
    """

    def unsigned(start: float, end: float) -> Magnitudes:
        # In float32 as torchvision has them: the low bits of a magnitude decide single pixels.
        even = torch.linspace(start, end, levels, dtype=torch.float32, device="cpu").tolist()
        return tuple(magnitude for magnitude in even for _ in range(2))

    def signed(end: float) -> Magnitudes:
        pairs = zip(unsigned(0.0, end), (1.0, -1.0) * levels, strict=True)
        return tuple(sign * magnitude for magnitude, sign in pairs)

    taken = (torch.arange(levels, device="cpu") / ((levels - 1) / bits)).round()
    kept: list[float] = (8 - taken).repeat_interleave(2).tolist()
    return {
        "ShearX": signed(slope),
        "ShearY": signed(slope),
        "TranslateX": signed(across),
        "TranslateY": signed(down),
        "Rotate": signed(degrees),
        "Brightness": signed(factor),
        "Color": signed(factor),
        "Contrast": signed(factor),
        "Sharpness": signed(factor),
        "Posterize": tuple(kept),
        "Solarize": unsigned(255.0, 0.0),
        "AutoContrast": (),
        "Equalize": (),
    }


@cache
def learned(levels: int, height: int, width: int) -> Space:
    """The magnitudes that AutoAugment was learned with; RandAugment has kept them."""
    share = 150.0 / 331.0  # of an image's side that it is translated by
    return space(
        levels,
        slope=0.3,
        across=share * width,
        down=share * height,
        degrees=30.0,
        factor=0.9,
        bits=4,
    )


def put_through(images: Tensor, operation: Tensor, setting: Tensor, space: Space) -> Tensor:
    """Each image after its own operations, one step after the other.

    Images are grouped by operation, so that each is worked on by its own only. The groups are made
    where the draws are, on the CPU, so that nobody waits for the device.

    Args:
        images: (batch, 1 or 3, height, width) uint8, on any device.
        operation: (batch, steps) numbers in the order of `space`, on the CPU; with the number after
            the last, an image stays as it is.
        setting: (batch, steps), of its magnitudes, on the CPU.
        space: the operations.

    Raises:
        ValueError: images are neither grey nor colour.
    """
    if images.shape[1] not in (1, 3):
        raise ValueError(
            "autoaugment, randaugment and trivial_augment know grey and colour images; "
            f"these have {images.shape[1]} channels"
        )
    every = torch.arange(len(space) + 1)
    sizes = (operation[..., None] == every).sum(dim=0).tolist()
    order = sent(operation.argsort(dim=0), images.device)
    setting = sent(setting.long(), images.device)
    images = images.clone()
    for step in range(operation.shape[1]):
        groups = torch.split(order[:, step], sizes[step])
        for (name, magnitudes), members in zip(space.items(), groups[:-1], strict=True):
            if len(members):
                changed = OPERATIONS[name](images[members], setting[members, step], magnitudes)
                images[members] = changed
    return images
