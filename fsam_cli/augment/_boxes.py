"""Boxes in images: those that are drawn by area and shape, and which pixels lie in a box."""

from __future__ import annotations

from typing import Annotated

import numpy as np
import torch
from pydantic import AfterValidator
from torch import Tensor

from fsam_cli.recipe.schema import MOST_PIXELS

ATTEMPTS = 10  # to find a box that lies within the image, as in torchvision


def _of_shares(scale: tuple[float, float]) -> tuple[float, float]:
    if not 0 < scale[0] <= scale[1] <= 1:
        raise ValueError(
            f"{scale} is not a range of shares; write [lowest, highest], above 0 and up to 1"
        )
    return scale


def _of_shapes(ratio: tuple[float, float]) -> tuple[float, float]:
    if not 1 / MOST_PIXELS <= ratio[0] <= ratio[1] <= MOST_PIXELS:
        raise ValueError(
            f"{ratio} is not a range of aspect ratios; write [lowest, highest], as [0.75, 1.3333]"
        )
    return ratio


Shares = Annotated[tuple[float, float], AfterValidator(_of_shares)]  # of an image's area
Shapes = Annotated[tuple[float, float], AfterValidator(_of_shapes)]  # one side by the other


def draw_sides(
    random: np.random.Generator, images: int, area: int, scale: Shares, ratio: Shapes
) -> tuple[np.ndarray, np.ndarray]:
    """(ATTEMPTS, images) sides of boxes, whole pixels; the first by the second is in `ratio`.

    Shares of the area are uniform, shapes are so on a logarithmic scale.
    """
    tries = (ATTEMPTS, images)
    areas = area * random.uniform(*scale, tries)
    shapes = np.exp(random.uniform(np.log(ratio[0]), np.log(ratio[1]), tries))
    return np.sqrt(areas * shapes).round(), np.sqrt(areas / shapes).round()


def first_that_fits(fits: np.ndarray) -> tuple[tuple[np.ndarray, np.ndarray], np.ndarray]:
    """Of (ATTEMPTS, images): the index of each image's first, and whether that fits."""
    first = fits.argmax(axis=0), np.arange(fits.shape[1])
    return first, fits[first]


def placed(
    place: np.ndarray, high: np.ndarray, wide: np.ndarray, height: int, width: int
) -> dict[str, np.ndarray]:
    """Rows of draws: boxes of (images,) whole pixels, each somewhere within its image; `place`,
    (2, images) from 0 to 1, says where."""
    return {
        "top": (place[0] * (height - high + 1)).astype(np.int64),
        "left": (place[1] * (width - wide + 1)).astype(np.int64),
        "height": high.astype(np.int64),
        "width": wide.astype(np.int64),
    }


def inside(
    rows: tuple[Tensor, Tensor], columns: tuple[Tensor, Tensor], height: int, width: int
) -> Tensor:
    """(batch, 1, height, width) bool: the pixels of each image's box, of which (batch,) start and
    stop are given along both axes; it may reach beyond the image."""

    def along(start: Tensor, stop: Tensor, length: int) -> Tensor:
        position = torch.arange(length, device=start.device)
        return (position >= start[:, None]) & (position < stop[:, None])

    return along(*rows, height)[:, None, :, None] & along(*columns, width)[:, None, None, :]
