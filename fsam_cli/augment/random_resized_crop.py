"""Random resized crop: a box of random area and shape, brought back to the image's size.

Szegedy et al. 2015 ("Going deeper with convolutions", Section 6), with the numbers that ImageNet
trainings have used since: an area of 8 to 100 % of the image, a shape from 3:4 to 4:3.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from fsam_cli.augment._boxes import Shapes, Shares, draw_sides, first_that_fits, placed
from fsam_cli.augment._contract import Augmentation


class RandomResizedCrop(Augmentation):
    """`random_resized_crop`: bicubic with antialiasing, each image from a box of its own."""

    size: int | None = Field(None, gt=0)  # pixels a side of what it gives; None: as it was
    scale: Shares = (0.08, 1.0)  # of the image's area, lowest and highest
    ratio: Shapes = (3 / 4, 4 / 3)  # width by height

    def draw(
        self, random: np.random.Generator, images: int, height: int, width: int
    ) -> dict[str, np.ndarray]:
        wide, high = draw_sides(random, images, height * width, self.scale, self.ratio)
        place = random.uniform(size=(2, images))
        fits = (wide >= 1) & (wide <= width) & (high >= 1) & (high <= height)
        first, found = first_that_fits(fits)
        # Where none fits, the largest box in the middle whose shape is allowed, or comes nearest to
        # that: an image of a few pixels may hold none.
        least, most = self.ratio
        whole_wide = max(1, round(min(width, height * most)))
        whole_high = max(1, round(min(height, width / least)))
        wide = np.where(found, wide[first], whole_wide)
        high = np.where(found, high[first], whole_high)
        return placed(np.where(found, place, 0.5), high, wide, height, width)

    def size_after(self, height: int, width: int) -> tuple[int, int]:
        return self.size or height, self.size or width

    def apply(self, images: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        height, width = images.shape[2:]
        high, wide = self.size_after(height, width)
        down = _resampling(draws["top"], draws["height"], height, high)
        across = _resampling(draws["left"], draws["width"], width, wide)
        resampled = down[:, None] @ images.float() @ across[:, None].mT
        return resampled.round_().clamp_(0, 255).to(torch.uint8)


def _resampling(start: Tensor, length: Tensor, before: int, after: int) -> Tensor:
    """(batch, after, before): row i holds what each pixel of a line of `before` counts for in pixel
    i of the stretch from `start`, `length` long, brought to `after` pixels.

    Pillow's bicubic (a = -0.5), whose kernel is as wide as a shrinking makes it; what lies outside
    the stretch counts for nothing.
    """
    start, length = start[:, None, None].float(), length[:, None, None].float()
    # Of pixels, the centres.
    pixel = torch.arange(before, device=start.device, dtype=torch.float32) + 0.5
    given = torch.arange(after, device=start.device, dtype=torch.float32)[:, None] + 0.5
    centre = start + given * length / after
    distance = ((pixel - centre) / (length / after).clamp_min(1)).abs()
    near = (1.5 * distance - 2.5) * distance.square() + 1
    far = ((-0.5 * distance + 2.5) * distance - 4) * distance + 2
    weights = torch.where(distance < 1, near, torch.where(distance < 2, far, 0))
    weights = weights * ((pixel > start) & (pixel < start + length))
    return weights / weights.sum(dim=2, keepdim=True)


PROVIDES = {"random_resized_crop": RandomResizedCrop}
