"""Random erasing: a random box of the normalised image is set to 0, or to noise.

Zhong et al., "Random Erasing Data Augmentation", AAAI 2020. Boxes, defaults and what becomes of an
image in which none fits (it stays) are those of torchvision's `RandomErasing`; 0 is the colour that
`data.normalise` subtracts, by default the mean of the training set. `noise` is torchvision's
`value="random"` and timm's mode `pixel`, which DeiT has with a probability of 0.25.
"""

from __future__ import annotations

from collections.abc import Mapping
from math import sqrt

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fsam_cli.augment._boxes import Shapes, Shares, draw_sides, first_that_fits, placed
from fsam_cli.augment._contract import Augmentation, sent


class RandomErasing(Augmentation):
    """`random_erasing`: with `probability`, a box of a share and a shape in these ranges."""

    stage = "normalised"
    decides_on_host = True  # how many pixels are erased

    probability: float = Field(0.5, ge=0, le=1)
    scale: Shares = (0.02, 0.33)  # of the image's area, lowest and highest
    ratio: Shapes = (0.3, 3.3)  # height by width
    noise: bool = False  # standard normal, each pixel and channel its own; else 0

    def draw(
        self, random: np.random.Generator, images: int, height: int, width: int
    ) -> dict[str, np.ndarray]:
        erased = random.random(images) < self.probability
        high, wide = draw_sides(random, images, height * width, self.scale, self.ratio)
        place = random.uniform(size=(2, images))
        first, found = first_that_fits((high < height) & (wide < width))
        erased &= found
        high, wide = np.where(erased, high[first], 0), np.where(erased, wide[first], 0)
        rows = placed(place, high, wide, height, width)
        if self.noise:
            rows["seed"] = random.integers(-(2**63), 2**63, size=images)
        return rows

    def apply(self, images: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        erased = draws["height"] * draws["width"]  # pixels of each image
        count, device = int(erased.sum()), images.device
        before = sent(erased.cumsum(0) - erased, device)
        rows = {key: sent(each, device) for key, each in draws.items()}
        # One entry for each pixel that is erased, of all images: where it lies.
        every = torch.arange(len(images), device=device)
        image = every.repeat_interleave(sent(erased, device), output_size=count)
        number = torch.arange(count, device=device) - before[image]  # within its box
        wide = rows["width"][image]
        row, column = rows["top"][image] + number // wide, rows["left"][image] + number % wide
        images = images.clone()
        if self.noise:
            channels, height, width = images.shape[1:]
            channel = torch.arange(channels, device=device) * height * width
            position = channel + (row * width + column)[:, None]
            noise = _normal(rows["seed"][image], position)
            images[image, :, row, column] = noise.to(images.dtype)
        else:
            images[image, :, row, column] = 0.0
        return images


def _normal(seed: Tensor, position: Tensor) -> Tensor:
    """Standard normal float32 for (n,) seeds and (n, channels) positions, a function of the two.

    SplitMix64 (Steele et al., "Fast splittable pseudorandom number generators", OOPSLA 2014), in
    whole numbers that wrap around, and the normal distribution's quantile of 23 of its bits, which
    float32 holds exactly and symmetrically around 0. None is farther from 0 than 5.2.
    """
    bits = seed[:, None] + (position + 1) * _wrapped(0x9E3779B97F4A7C15)
    bits ^= _shifted(bits, 30)
    bits *= _wrapped(0xBF58476D1CE4E5B9)
    bits ^= _shifted(bits, 27)
    bits *= _wrapped(0x94D049BB133111EB)
    bits ^= _shifted(bits, 31)
    odd = 2 * _shifted(bits, 64 - 23) + 1 - 2**23
    return (odd.float() / 2**23).erfinv_().mul_(sqrt(2))


def _wrapped(constant: int) -> int:
    """The int64 of the same 64 bits."""
    return constant - 2**64 if constant >= 2**63 else constant


def _shifted(bits: Tensor, by: int) -> Tensor:
    """int64 moved right by so many bits, zeros coming in; torch's shift brings in the sign."""
    return (bits >> by).bitwise_and_(2 ** (64 - by) - 1)


PROVIDES = {"random_erasing": RandomErasing}
