"""The fourteen image operations of AutoAugment and its successors, on whole batches of uint8.

Each image comes out bit for bit as Pillow would make it from that image alone, so results can be
compared with those of code that augments with PIL and torchvision. Where Pillow's arithmetic shows
in the bits, a comment says how: 16.16 fixed point, truncation, double precision.

Every operation takes (batch, channels, height, width) images, a (batch,) `setting` per image, and
the magnitude of each setting, in torchvision's units: the slope of a shear, the pixels of a
translation, the degrees of a rotation, what is added to a factor of 1, the bits that stay, the
brightness above which pixels are inverted. Operations without a magnitude ignore both.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from functools import cache
from types import MappingProxyType

import numpy as np
import torch
from torch import Tensor

FIXED_POINT = 1 << 16

Magnitudes = tuple[float, ...]  # of each setting
Affine = tuple[float, float, float, float, float, float]  # source x = ax + by + c, y = dx + ey + f


# -- Affine operations: every pixel is read from a place that depends on the setting alone --------


def _angle(slope: float) -> float:
    # There and back as torchvision goes: the last bits decide where a step is rounded to.
    return math.radians(math.degrees(math.atan(slope)))


def _shear_x(slope: float, *_: int) -> Affine:
    return 1.0, math.tan(_angle(slope)), 0.0, 0.0, 1.0, 0.0


def _shear_y(slope: float, *_: int) -> Affine:
    angle = _angle(slope)
    return 1.0, 0.0, 0.0, math.sin(angle) / math.cos(angle), 1.0, 0.0


def _translate_x(shift: float, *_: int) -> Affine:
    return 1.0, 0.0, -int(shift), 0.0, 1.0, 0.0


def _translate_y(shift: float, *_: int) -> Affine:
    return 1.0, 0.0, 0.0, 0.0, 1.0, -int(shift)


def _rotate(degrees: float, height: int, width: int) -> Affine:
    x, y, turn = width / 2, height / 2, math.radians(degrees)
    cos, sin = math.cos(turn), math.sin(turn)
    return cos, -sin, x - cos * x + sin * y, sin, cos, y - sin * x - cos * y


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


Matrix = Callable[[float, int, int], Affine]  # of a magnitude, height and width


@cache
def _source_maps(
    matrix: Matrix, magnitudes: Magnitudes, height: int, width: int, device: torch.device
) -> tuple[Tensor, Tensor]:
    """(settings, pixels) where each pixel is read, int64, and whether that is inside, uint8."""
    maps = [_sources(matrix(each, height, width), height, width) for each in magnitudes]
    sources = torch.from_numpy(np.stack([source for source, _ in maps]))
    inside = torch.from_numpy(np.stack([inside for _, inside in maps]).astype(np.uint8))
    return sources.to(device), inside.to(device)


def _affine(matrix: Matrix) -> Operation:
    def operation(images: Tensor, setting: Tensor, magnitudes: Magnitudes) -> Tensor:
        batch, channels, height, width = images.shape
        sources, inside = _source_maps(matrix, magnitudes, height, width, images.device)
        index = sources[setting][:, None].expand(-1, channels, -1)
        moved = images.reshape(batch, channels, -1).gather(2, index)
        return moved.mul_(inside[setting][:, None]).view_as(images)  # 0 comes in from outside

    return operation


# -- Enhancements: the image is blended with a degenerate one ------------------------------------


@cache
def _factors(magnitudes: Magnitudes, device: torch.device) -> Tensor:
    factors = [1.0 + magnitude for magnitude in magnitudes]
    return torch.tensor(factors, dtype=torch.float32, device=device).view(-1, 1, 1, 1)


def _blend(
    degenerate: Tensor | float, images: Tensor, setting: Tensor, magnitudes: Magnitudes
) -> Tensor:
    """`degenerate` at factor 0, the image at 1, beyond it above; Pillow truncates in float32."""
    factors = _factors(magnitudes, images.device)[setting]
    blended = (images.float() - degenerate).mul_(factors)
    return blended.add_(degenerate).clamp_(0, 255).to(torch.uint8)


def _grey(images: Tensor) -> Tensor:
    """(batch, 1, height, width) int32 luminance, rounded in 16 bits of fixed point."""
    if images.shape[1] == 1:
        return images.int()
    red, green, blue = images.int().unbind(1)
    grey = (19595 * red + 38470 * green + 7471 * blue + FIXED_POINT // 2) >> 16
    return grey[:, None]


def _brightness(images: Tensor, setting: Tensor, magnitudes: Magnitudes) -> Tensor:
    return _blend(0.0, images, setting, magnitudes)


def _color(images: Tensor, setting: Tensor, magnitudes: Magnitudes) -> Tensor:
    return _blend(_grey(images).float(), images, setting, magnitudes)


def _contrast(images: Tensor, setting: Tensor, magnitudes: Magnitudes) -> Tensor:
    pixels = images.shape[2] * images.shape[3]
    total = _grey(images).sum(dim=(1, 2, 3), keepdim=True)
    mean = (2 * total + pixels) // (2 * pixels)  # rounded half up
    return _blend(mean.float(), images, setting, magnitudes)


def _sharpness(images: Tensor, setting: Tensor, magnitudes: Magnitudes) -> Tensor:
    smooth = images.float()
    if min(images.shape[2:]) >= 3:
        rows = smooth[:, :, :-2] + smooth[:, :, 1:-1] + smooth[:, :, 2:]
        box = rows[..., :-2] + rows[..., 1:-1] + rows[..., 2:]
        middle = smooth[:, :, 1:-1, 1:-1]  # the border stays as it is
        # Weights 1 and, in the middle, 5, over 13. A sum of whole numbers over 13 is never nearer
        # than 1/26 to a half, so rounding does not depend on how the division was rounded.
        middle.copy_(((box + 4 * middle) / 13).round_())
    return _blend(smooth, images, setting, magnitudes)


# -- Per-pixel operations ------------------------------------------------------------------------


@cache
def _posterize_masks(bits: Magnitudes, device: torch.device) -> Tensor:
    masks = [256 - 2 ** (8 - int(kept)) for kept in bits]
    return torch.tensor(masks, dtype=torch.uint8, device=device).view(-1, 1, 1, 1)


def _posterize(images: Tensor, setting: Tensor, bits: Magnitudes) -> Tensor:
    return images & _posterize_masks(bits, images.device)[setting]


@cache
def _solarize_thresholds(thresholds: Magnitudes, device: torch.device) -> Tensor:
    # The thresholds need not be whole; pixels are, so each may be rounded up.
    whole = [math.ceil(threshold) for threshold in thresholds]
    return torch.tensor(whole, dtype=torch.uint8, device=device).view(-1, 1, 1, 1)


def _solarize(images: Tensor, setting: Tensor, thresholds: Magnitudes) -> Tensor:
    threshold = _solarize_thresholds(thresholds, images.device)[setting]
    return torch.where(images < threshold, images, 255 - images)


def _invert(images: Tensor, *_: object) -> Tensor:
    return 255 - images


def _auto_contrast(images: Tensor, *_: object) -> Tensor:
    """Each channel stretched to 0..255; one of a single colour stays."""
    low, high = (edge[..., None, None].double() for edge in images.flatten(2).aminmax(dim=2))
    flat = high <= low
    # Double precision and this order of operations, because the result is truncated: 255 may come
    # out as 254.99999999999997. `255 / tensor` would multiply by a reciprocal.
    scale = torch.where(flat, 1.0, torch.full_like(low, 255.0) / (high - low))
    offset = torch.where(flat, 0.0, -low * scale)
    return images.double().mul_(scale).add_(offset).clamp_(0, 255).to(torch.uint8)


def _equalize(images: Tensor, *_: object) -> Tensor:
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


Operation = Callable[[Tensor, Tensor, Magnitudes], Tensor]

OPERATIONS: Mapping[str, Operation] = MappingProxyType(
    {
        "ShearX": _affine(_shear_x),
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
