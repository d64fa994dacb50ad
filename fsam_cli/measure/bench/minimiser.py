"""The minimiser alone: climb, way back and the base optimiser's step, without forward or backward.

The gradients are there already: random numbers first, later the w + eps that the climb before has
written over them. All else is memory traffic, so every time is shown as a multiple of the floor
that `floor` measures in the same race.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fsam_cli.engine.ascent import recombines
from fsam_cli.engine.batches import Batch
from fsam_cli.engine.flat import FlatWeights
from fsam_cli.engine.step import Stepper
from fsam_cli.errors import briefly
from fsam_cli.measure.bench.floor import (
    GRADIENT_PASSES,
    Floor,
    multiple,
    passes_of,
    race_on_floor,
)
from fsam_cli.measure.bench.memory import STEPS, extra_memory
from fsam_cli.measure.bench.network import (
    WHEN,
    BenchMethod,
    BenchProtocol,
    Implementation,
    build,
    put_gradient,
    random_batch,
    random_gradient,
    stepper_of,
)
from fsam_cli.measure.bench.race import Spread, Timing, Variant
from fsam_cli.minimisers._contract import Minimiser
from fsam_cli.recipe.optimizers import keeps_momentum

ACCUMULATION = "zero, add g"  # shown apart: any training does it


@dataclass(frozen=True)
class MinimiserLine:
    """One thing that was timed."""

    model: str
    weights: int
    label: str
    implementation: Implementation | None  # None: there is only one
    seconds: Spread  # of one step
    passes: int | None
    multiple: Spread | None  # of the floor
    extra_memory: float | None  # beyond weights, gradient and momentum; 1 is the weights' size


@dataclass(frozen=True)
class MinimiserAlone:
    """All lines of one network, with the floor they are multiples of."""

    model: str
    floor: Floor
    elsewhere: float | None  # share of the processors that others used meanwhile
    lines: tuple[MinimiserLine, ...]
    left_out: tuple[str, ...] = ()  # what cannot be compiled here, with the reason


def why_not_alone(method: BenchMethod) -> str | None:
    """None, or why this method has no time of its own without forward and backward passes."""
    settings = method.settings
    if settings.fisher_source is not None:
        return f"{method.label}: its climb computes gradients of single images"
    if settings.m_sharpness is not None:
        return f"{method.label}: with m_sharpness it climbs several times a step"
    if recombines(settings):
        return f"{method.label}: its step combines what two passes found"
    return None


def minimiser_alone(
    name: str,
    protocol: BenchProtocol,
    *,
    implementations: Sequence[Implementation],
    timing: Timing,
) -> MinimiserAlone:
    """Time every method that has such a time on one network of the protocol, in one race."""
    ground = Ground(name, protocol, timing.device)
    methods = [method for method in protocol.methods if why_not_alone(method) is None]
    pairs = {f"{m.label} {how}": (m, how) for m in methods for how in implementations}
    steppers = {pair: ground.stepper(m.settings, how) for pair, (m, how) in pairs.items()}
    failing = uncompilable(
        {pair: steppers[pair] for pair in pairs if pairs[pair][1] == "compiled"}, ground
    )
    pairs = {pair: how for pair, how in pairs.items() if pair not in failing}
    steppers = {pair: steppers[pair] for pair in pairs}
    steps = {ACCUMULATION: _accumulation(ground.gradient)}
    steps |= {pair: partial(step_alone, each, ground.batch) for pair, each in steppers.items()}
    samples, floor = race_on_floor(steps, ground.floats, timing)
    refuse_skipped(steppers.values())
    del steps, steppers  # the memory is measured with nothing else there

    def line(
        label: str, how: Implementation | None, variant: str, passes: int | None, extra: float
    ) -> MinimiserLine:
        seconds = samples.spread(variant)
        times = multiple(samples, variant, passes, floor)
        return MinimiserLine(name, ground.flat.count, label, how, seconds, passes, times, extra)

    lines = [
        line(
            method.label,
            how,
            pair,
            passes_of(method.name, method.settings, protocol.optimizer),
            ground.extra_memory(method.settings, how),
        )
        for pair, (method, how) in pairs.items()
    ]
    lines.append(line(ACCUMULATION, None, ACCUMULATION, GRADIENT_PASSES, 0.0))
    left_out = tuple(f"{pair}: {why}" for pair, why in failing.items())
    return MinimiserAlone(name, floor, samples.elsewhere, tuple(lines), left_out)


class Ground:
    """What steps without forward and backward passes are timed on: a network's weights, a gradient,
    and a batch that nobody looks at."""

    def __init__(self, name: str, protocol: BenchProtocol, device: torch.device) -> None:
        self.model = build(
            protocol.models[name], classes=protocol.classes, device=device, channels_last=False
        )
        self.protocol, self.device = protocol, device
        self.flat = FlatWeights(self.model)
        self.floats = self.flat.weights.numel()  # of a flat vector, padding included
        self.gradient = random_gradient(self.flat)
        put_gradient(self.flat, self.gradient)
        self.batch = random_batch(2, protocol.classes, device=device)

    def stepper(
        self, method: Minimiser, how: Implementation, flat: FlatWeights | None = None
    ) -> Stepper:
        """fsam's, on the network's own weights."""
        return stepper_of(
            self.model, flat or self.flat, method, self.protocol, compiled=how == "compiled"
        )

    def extra_memory(self, method: Minimiser, how: Implementation) -> float:
        """That fsam's step takes, see `memory.extra_memory`."""
        fresh = FlatWeights(self.model)  # without a spare buffer yet

        def some_steps() -> Stepper:
            stepper = self.stepper(method, how, fresh)
            for _ in range(STEPS):
                fresh.gradient.copy_(self.gradient)
                step_alone(stepper, self.batch)
            return stepper

        momentum = keeps_momentum(self.protocol.optimizer)
        return extra_memory(some_steps, self.floats, self.device, momentum=momentum)


def step_alone(stepper: Stepper, batch: Batch) -> None:
    """What a step does beside computing gradients.

    The next one has w + eps for its gradient. What a method may have left in the other buffer, its
    scratch, grows without end where it is made from what it left there before.
    """
    if stepper.method.climbs:
        stepper.climb(batch, WHEN)
        stepper.come_back()
    stepper.descend(WHEN.lr)
    if stepper.method.climbs:
        stepper.flat.exchange_gradients(attach=False)


def uncompilable(steppers: Mapping[str, Stepper], ground: Ground) -> dict[str, str]:
    """Which of these, by name, cannot take a step, and why: a compiler may be there and fail, and a
    method of a plugin may be none that it understands."""
    failing = {}
    for name, stepper in steppers.items():
        try:
            step_alone(stepper, ground.batch)
        except Exception as error:  # of the compiler, of what it runs
            failing[name] = briefly(error)
            stepper.come_back()
    put_gradient(ground.flat, ground.gradient)
    return failing


def refuse_skipped(steppers: Iterable[Stepper]) -> None:
    """Raise RuntimeError where a gradient was not finite: what skips its update is not a step."""
    for stepper in steppers:
        if stepper.optimizer.nonfinite.item() or not stepper.flat.gradient.isfinite().all():
            method = type(stepper.method).__name__
            raise RuntimeError(f"a number of {method} left float32's range; its times mean nothing")


def _accumulation(arriving: Tensor) -> Variant:
    """What every gradient costs beside computing it: the buffer zeroed, a gradient added."""
    buffer = torch.zeros_like(arriving)

    def accumulate() -> None:
        buffer.zero_()
        buffer.add_(arriving)

    return accumulate
