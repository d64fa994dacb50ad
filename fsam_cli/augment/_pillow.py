"""The thirteen image operations of AutoAugment's CIFAR-10 policies, on whole batches of uint8.

Each image comes out bit for bit as Pillow would make it from that image alone, so results can be
compared with those of code that augments with PIL and torchvision. Where Pillow's arithmetic shows
in the bits, a comment says how: 16.16 fixed point, truncation, double precision.

Every operation takes (batch, channels, height, width) images and a (batch,) `setting` per image,
`2 * level + negative`: ten levels, each with both signs. Operations without a sign or a magnitude
ignore what they have no use for. The magnitude of a level is torchvision's.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

LEVELS = 10
FIXED_POINT = 1 << 16

Affine = tuple[float, float, float, float, float, float]  # source x = ax + by + c, y = dx + ey + f


def _evenly(start: float, end: float) -> list[float]:
    # In float32 as torchvision has them: the low bits of a magnitude decide single pixels.
    return torch.linspace(start, end, LEVELS, dtype=torch.float32, device="cpu").tolist()


def _both_signs(magnitudes: list[float]) -> list[float]:
    return [sign * magnitude for magnitude in magnitudes for sign in (1.0, -1.0)]


# -- Affine operations: every pixel is read from a place that depends on the setting alone --------


def _shear_y(height: int, width: int) -> list[Affine]:  # noqa: ARG001
    return [(1.0, 0.0, 0.0, slope, 1.0, 0.0) for slope in _both_signs(_evenly(0.0, 0.3))]


def _translate_x(height: int, width: int) -> list[Affine]:  # noqa: ARG001
    shifts = _both_signs(_evenly(0.0, 150.0 / 331.0 * width))
    return [(1.0, 0.0, -int(shift), 0.0, 1.0, 0.0) for shift in shifts]


def _translate_y(height: int, width: int) -> list[Affine]:  # noqa: ARG001
    shifts = _both_signs(_evenly(0.0, 150.0 / 331.0 * height))
    return [(1.0, 0.0, 0.0, 0.0, 1.0, -int(shift)) for shift in shifts]


def _rotate(height: int, width: int) -> list[Affine]:
    x, y = width / 2, height / 2
    turns = [math.radians(degrees) for degrees in _both_signs(_evenly(0.0, 30.0))]
    return [
        (cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y)
        for cos, sin in ((math.cos(turn), math.sin(turn)) for turn in turns)
    ]


def _sources(affine: Affine, height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    """Flat index of the pixel each pixel is read from, and whether that lies in the image."""

    def fixed(value: float) -> int:
        return math.floor(value * FIXED_POINT + 0.5)

    def position(along_x: float, along_y: float, offset: float) -> np.ndarray:
        # The step is rounded once and then added up, as Pillow does; so is the first centre.
        first = fixed(offset + along_x * 0.5 + along_y * 0.5)
        steps = fixed(along_x) * np.arange(width) + fixed(along_y) * np.arange(height)[:, None]
        return (first + steps) // FIXED_POINT

    x, y = position(*affine[:3]), position(*affine[3:])
    inside = (x >= 0) & (x < width) & (y >= 0) & (y < height)
    return np.where(inside, y * width + x, 0).ravel(), inside.ravel()


Matrices = Callable[[int, int], list[Affine]]


@cache
def _source_maps(
    matrices: Matrices, height: int, width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(settings, pixels) where each pixel is read, int64, and whether that is inside, uint8."""
    maps = [_sources(affine, height, width) for affine in matrices(height, width)]
    sources = torch.from_numpy(np.stack([source for source, _ in maps]))
    inside = torch.from_numpy(np.stack([inside for _, inside in maps]).astype(np.uint8))
    return sources.to(device), inside.to(device)


def _affine(matrices: Matrices) -> Operation:
    def operation(images: Tensor, setting: Tensor) -> Tensor:
        batch, channels, height, width = images.shape
        sources, inside = _source_maps(matrices, height, width, images.device)
        index = sources[setting][:, None].expand(-1, channels, -1)
        moved = images.reshape(batch, channels, -1).gather(2, index)
        return moved.mul_(inside[setting][:, None]).view_as(images)  # 0 comes in from outside

    return operation


# -- Enhancements: the image is blended with a degenerate one ------------------------------------


@cache
def _factors(device: torch.device) -> Tensor:
    factors = [1.0 + magnitude for magnitude in _both_signs(_evenly(0.0, 0.9))]
    return torch.tensor(factors, dtype=torch.float32, device=device).view(-1, 1, 1, 1)


def _blend(degenerate: Tensor | float, images: Tensor, setting: Tensor) -> Tensor:
    """`degenerate` at factor 0, the image at 1, beyond it above; Pillow truncates in float32."""
    blended = (images.float() - degenerate).mul_(_factors(images.device)[setting])
    return blended.add_(degenerate).clamp_(0, 255).to(torch.uint8)


def _grey(images: Tensor) -> Tensor:
    """(batch, 1, height, width) int32 luminance, rounded in 16 bits of fixed point."""
    if images.shape[1] == 1:
        return images.int()
    red, green, blue = images.int().unbind(1)
    grey = (19595 * red + 38470 * green + 7471 * blue + FIXED_POINT // 2) >> 16
    return grey[:, None]


def _brightness(images: Tensor, setting: Tensor) -> Tensor:
    return _blend(0.0, images, setting)


def _color(images: Tensor, setting: Tensor) -> Tensor:
    return _blend(_grey(images).float(), images, setting)


def _contrast(images: Tensor, setting: Tensor) -> Tensor:
    pixels = images.shape[2] * images.shape[3]
    total = _grey(images).sum(dim=(1, 2, 3), keepdim=True)
    mean = (2 * total + pixels) // (2 * pixels)  # rounded half up
    return _blend(mean.float(), images, setting)


def _sharpness(images: Tensor, setting: Tensor) -> Tensor:
    smooth = images.float()
    if min(images.shape[2:]) >= 3:
        rows = smooth[:, :, :-2] + smooth[:, :, 1:-1] + smooth[:, :, 2:]
        box = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
        middle = smooth[:, :, 1:-1, 1:-1]  # the border stays as it is
        # Weights 1 and, in the middle, 5, over 13. A sum of whole numbers over 13 is never nearer
        # than 1/26 to a half, so rounding does not depend on how the division was rounded.
        middle.copy_(((box + 4 * middle) / 13).round_())
    return _blend(smooth, images, setting)


# -- Per-pixel operations ------------------------------------------------------------------------


@cache
def _posterize_masks(device: torch.device) -> Tensor:
    bits = [8 - round(level * 4 / (LEVELS - 1)) for level in range(LEVELS) for _ in range(2)]
    masks = [256 - 2 ** (8 - kept) for kept in bits]
    return torch.tensor(masks, dtype=torch.uint8, device=device).view(-1, 1, 1, 1)


def _posterize(images: Tensor, setting: Tensor) -> Tensor:
    return images & _posterize_masks(images.device)[setting]


@cache
def _solarize_thresholds(device: torch.device) -> Tensor:
    # The thresholds are not whole; pixels are, so each may be rounded up.
    thresholds = [math.ceil(value) for value in _evenly(255.0, 0.0) for _ in range(2)]
    return torch.tensor(thresholds, dtype=torch.uint8, device=device).view(-1, 1, 1, 1)


def _solarize(images: Tensor, setting: Tensor) -> Tensor:
    return torch.where(images < _solarize_thresholds(images.device)[setting], images, 255 - images)


def _invert(images: Tensor, setting: Tensor) -> Tensor:  # noqa: ARG001
    return 255 - images


def _auto_contrast(images: Tensor, setting: Tensor) -> Tensor:  # noqa: ARG001
    """Each channel stretched to 0..255; one of a single colour stays."""
    low, high = (edge[..., None, None].double() for edge in images.flatten(2).aminmax(dim=2))
    flat = high <= low
    # Double precision and this order of operations, because the result is truncated: 255 may come
    # out as 254.99999999999997. `255 / tensor` would multiply by a reciprocal.
    scale = torch.where(flat, 1.0, torch.full_like(low, 255.0) / (high - low))
    offset = torch.where(flat, 0.0, -low * scale)
    return images.double().mul_(scale).add_(offset).clamp_(0, 255).to(torch.uint8)


def _equalize(images: Tensor, setting: Tensor) -> Tensor:  # noqa: ARG001
    """Each channel's histogram flattened, by a table of 256 entries; whole numbers throughout."""
    pixels = images.reshape(images.shape[0] * images.shape[1], -1).long()
    one = torch.ones((), dtype=torch.int32, device=images.device)
    histogram = torch.zeros((len(pixels), 256), dtype=torch.int32, device=images.device)
    histogram.scatter_add_(1, pixels, one.expand_as(pixels))
    brightest = histogram.gather(1, pixels.amax(dim=1, keepdim=True))
    step = (pixels.shape[1] - brightest) // 255
    below = histogram.cumsum(dim=1) - histogram
    table = ((step // 2 + below) // step.clamp(min=1)).clamp_(max=255)
    # Too few pixels for a step: the channel stays.
    table = torch.where(step > 0, table, torch.arange(256, device=images.device))
    return table.to(torch.uint8).gather(1, pixels).view_as(images)


Operation = Callable[[Tensor, Tensor], Tensor]

OPERATIONS: Mapping[str, Operation] = MappingProxyType(
    {
        "ShearY": _affine(_shear_y),
        "TranslateX": _affine(_translate_x),
        "TranslateY": _affine(_translate_y),
        "Rotate": _affine(_rotate),
        "Brightness": _brightness,
        "Color": _color,
        "Contrast": _contrast,
        "Sharpness": _sharpness,
        "Posterize": _posterize,
        "Solarize": _solarize,
        "AutoContrast": _auto_contrast,
        "Equalize": _equalize,
        "Invert": _invert,
    }
)
