"""Late-phase SAM: plain steps first, SAM for the last epochs.

    eps = 0 before epoch `start`,           eps = ρ g / ‖g‖ from then on,  ‖eps‖ ≤ ρ

Zhou, Wang, Mao, Li, Yan: "Sharpness-Aware Minimization Efficiently Selects Flatter Minima Late in
Training", ICLR 2025 (arXiv 2410.10373). Departures: the momentum is kept at the switch; the
authors' code begins SAM with an empty one. Cost: 1 gradient a step before `start`, 2 from then on.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import BeforeValidator

from fsam_cli.minimisers.sam import Sam


def _epoch_or_share(value: Any) -> Any:
    whole = type(value) is int and value >= 0
    if not whole and not (type(value) is float and 0 <= value < 1):
        raise ValueError("write an epoch, e.g. 160, or a share of all epochs below 1, e.g. 0.8")
    return value


class LateSam(Sam):
    """SAM with radius `rho` from `start` on: an epoch (160) or a share of all epochs (0.8)."""

    start: Annotated[int | float, BeforeValidator(_epoch_or_share)] = 0.8

    def active_in(self, epoch: int, epochs: int) -> bool:
        if isinstance(self.start, int):
            return epoch >= self.start
        return epoch >= min(round(self.start * epochs), epochs - 1)  # a share leaves the last epoch


PROVIDES = {"late_sam": LateSam}
