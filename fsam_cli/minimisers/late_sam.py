"""Late-phase SAM: plain steps first, SAM for the last epochs.

    eps = 0 before epoch `start`,           eps = ρ g / ‖g‖ from then on,  ‖eps‖ ≤ ρ

Zhou, Wang, Mao, Li, Yan: "Sharpness-Aware Minimization Efficiently Selects Flatter Minima Late in
Training", ICLR 2025 (arXiv 2410.10373). Departures: the momentum is kept at the switch; the
authors' code begins SAM with an empty one. Cost: 1 gradient a step before `start`, 2 from then on.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from fsam_cli.minimisers.sam import Sam

Epoch = Annotated[int, Field(ge=0)]
ShareOfTraining = Annotated[float, Field(ge=0, lt=1)]


class LateSam(Sam):
    """SAM with radius `rho` from `start` on: an epoch (160) or a share of all epochs (0.8)."""

    start: Epoch | ShareOfTraining = 0.8

    def climbs_at(self, epoch: int, epochs: int) -> bool:
        start = self.start if isinstance(self.start, int) else round(self.start * epochs)
        return epoch >= start


PROVIDES = {"late_sam": LateSam}
