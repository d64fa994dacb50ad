"""What a method's perturbation does, measured on ten steps of each epoch.

    grad_norm          ‖g‖ at w; neither it nor what follows from it for methods without one
    eps_norm           ‖eps‖
    cos_eps_g          cosine of eps and g: 1 for SAM
    fisher_share       share of weights whose metric departs from Euclid's by over a tenth
    fisher_grad_share  share of ‖g‖² that those weights hold
    cos_g2_sam         (`full`) cosine of the second gradient and the one SAM would have got at
                       the same ‖eps‖; costs one gradient more

None of it changes a number of the training; it has its own clock.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import fmean

import torch
from torch import Tensor

from fsam_cli.engine.batches import Batch
from fsam_cli.engine.buffers import running_statistics_frozen
from fsam_cli.engine.clock import Clock
from fsam_cli.engine.step import StepInfo, Stepper

_PIECE = 1 << 22  # weights, of which a copy in float64 is made
STEPS = 10  # observed an epoch, evenly spaced
NAMES = (
    "grad_norm",
    "eps_norm",
    "cos_eps_g",
    "fisher_share",
    "fisher_grad_share",
    "cos_g2_sam",
)


def observed_steps(steps: int) -> frozenset[int]:
    """Which steps of an epoch of `steps` are looked at."""
    return frozenset(position * steps // STEPS for position in range(STEPS))


def summarised(observed: Sequence[dict[str, float]]) -> dict[str, float | None]:
    """Mean, min and max of each quantity over the observed steps of an epoch."""
    columns: dict[str, float | None] = {}
    for name in NAMES:
        values = [entry[name] for entry in observed if name in entry]
        columns[f"{name}_mean"] = fmean(values) if values else None
        columns[f"{name}_min"] = min(values) if values else None
        columns[f"{name}_max"] = max(values) if values else None
    return columns


class Observation:
    """Watches one step (`engine.step.Watch`); afterwards `values` holds its numbers."""

    def __init__(self, clock: Clock, *, full: bool) -> None:
        self.values: dict[str, float] = {}
        self._clock, self._full = clock, full
        self._g = torch.empty(0)  # the gradient at w, where the method asks for one

    def before_climb(self, stepper: Stepper) -> None:
        with self._clock.timing("diagnostics"):
            self._g = stepper.flat.gradient.clone()

    def at_climbed(self, stepper: Stepper) -> None:
        g = self._g
        with self._clock.timing("diagnostics"), torch.no_grad():
            eps = stepper.perturbation()
            eps_norm = self.values["eps_norm"] = _norm(eps)
            if not len(g):
                return
            grad_norm = self.values["grad_norm"] = _norm(g)
            if grad_norm > 0 and eps_norm > 0:
                self.values["cos_eps_g"] = _cosine(eps, g)
            self._fisher_shares(stepper, g)

    def before_descent(self, stepper: Stepper, batch: Batch, when: StepInfo) -> None:
        grad_norm, eps_norm = self.values["grad_norm"], self.values["eps_norm"]
        if not self._full or grad_norm == 0 or eps_norm == 0:
            return
        with self._clock.timing("diagnostics"):
            flat = stepper.flat
            g2 = flat.gradient.clone()
            sam = torch.add(flat.weights, self._g, alpha=eps_norm / grad_norm)
            with flat.holding(sam), running_statistics_frozen(stepper.modules):
                stepper.gradient(batch, when.number)
            if _norm(g2) > 0 and _norm(flat.gradient) > 0:
                self.values["cos_g2_sam"] = _cosine(g2, flat.gradient)
            flat.gradient.copy_(g2)

    def _fisher_shares(self, stepper: Stepper, g: Tensor) -> None:
        """How many weights the Fisher metric touches, and how much of the gradient they hold."""
        touched = held = total = 0.0
        for at in stepper.flat.chunks(gradient=g, fisher=stepper.fisher):
            mask = stepper.method.reshaped(at)
            if mask is None:
                return
            square = at.g.square()
            touched += float(mask.sum())
            held += float(square[mask].sum())
            total += float(square.sum())
        self.values["fisher_share"] = touched / stepper.flat.count
        if total > 0:
            self.values["fisher_grad_share"] = held / total


def _norm(vector: Tensor) -> float:
    return math.sqrt(_inner(vector, vector))


def _cosine(a: Tensor, b: Tensor) -> float:
    return max(-1.0, min(1.0, _inner(a, b) / (_norm(a) * _norm(b))))


def _inner(a: Tensor, b: Tensor) -> float:
    """a·b in float64, a piece at a time: that nearly all of 1 is not 1 must be told."""
    pieces = zip(torch.split(a, _PIECE), torch.split(b, _PIECE), strict=True)
    return float(torch.stack([x.double().dot(y.double()) for x, y in pieces]).sum())
