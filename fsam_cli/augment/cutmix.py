"""CutMix: a box of the one image is pasted over the other; labels count by area.

Yun et al., "CutMix: Regularization Strategy to Train Strong Classifiers with Localizable Features",
ICCV 2019. The box has the image's proportions and 1 - s of its area, s ~ Beta(alpha, alpha). Its
centre lies anywhere, so it may be cut by the border; the labels' shares are those of the areas that
are seen. Each image has a box of its own; the paper's code draws one for a whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from fsam_cli.augment._boxes import inside
from fsam_cli.augment._mixing import Mixing


class CutMix(Mixing):
    """`cutmix`: a box of another image, its area drawn from Beta(`alpha`, `alpha`)."""

    def draw(
        self, random: np.random.Generator, images: int, height: int, width: int
    ) -> dict[str, np.ndarray]:
        side = np.sqrt(1 - random.beta(self.alpha, self.alpha, images))  # of the image's, 0 to 1
        side[random.random(images) >= self.probability] = 0.0
        rows = _span(random, side, height)
        columns = _span(random, side, width)
        return {"top": rows[0], "bottom": rows[1], "left": columns[0], "right": columns[1]}

    def own(self, draws: Mapping[str, Tensor], height: int, width: int) -> Tensor:
        rows, columns = (draws["top"], draws["bottom"]), (draws["left"], draws["right"])
        return (~inside(rows, columns, height, width)).float()


def _span(random: np.random.Generator, side: np.ndarray, length: int) -> np.ndarray:
    """(2, images): start and stop along an axis of `length` pixels."""
    half = (side * length).astype(np.int64) // 2
    centre = random.integers(0, length, size=len(side))
    return np.stack([centre - half, centre + half]).clip(0, length)


PROVIDES = {"cutmix": CutMix}
