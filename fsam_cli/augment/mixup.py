"""Mixup: two images laid over each other, s of the one and 1 - s of the other.

Zhang et al., "mixup: Beyond Empirical Risk Minimization", ICLR 2018. s ~ Beta(alpha, alpha), for
each image its own; the paper's code draws one for a whole batch.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from torch import Tensor

from fsam_cli.augment._mixing import Mixing


class Mixup(Mixing):
    """`mixup`: all pixels of two images, in shares drawn from Beta(`alpha`, `alpha`)."""

    def draw(
        self, random: np.random.Generator, images: int, height: int, width: int
    ) -> dict[str, np.ndarray]:
        share = random.beta(self.alpha, self.alpha, images)
        blended = random.random(images) < self.probability
        return {"share": np.where(blended, share, 1.0).astype(np.float32)}

    def own(self, draws: Mapping[str, Tensor], height: int, width: int) -> Tensor:
        return draws["share"][:, None, None, None]


PROVIDES = {"mixup": Mixup}
