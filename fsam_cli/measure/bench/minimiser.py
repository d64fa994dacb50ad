"""The minimiser alone: climb, way back and the base optimiser's step, without forward or backward.

The gradients are there already: random numbers first, later the w + eps that the climb before has
written over them. All else is memory traffic, so every time is shown as a multiple of the floor
that `floor` measures in the same race.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor

from fsam_cli.engine.batches import Batch
from fsam_cli.engine.flat import FlatWeights
from fsam_cli.engine.step import Stepper
from fsam_cli.measure.bench.floor import (
    GRADIENT_PASSES,
    Floor,
    fastest,
    floor_kernels,
    multiple,
    passes_of,
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
from fsam_cli.measure.bench.race import Budget, Clock, Spread, least_sample, race
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


def measurable(method: BenchMethod) -> str | None:
    """None, or why this method has no time of its own without forward and backward passes."""
    settings = method.settings
    if settings.fisher_source is not None:
        return f"{method.label}: its climb computes gradients of single images"
    if settings.m_sharpness is not None:
        return f"{method.label}: with m_sharpness it climbs several times a step"
    if settings.combines or settings.natural_gradient is not None:
        return f"{method.label}: its step combines what two passes found"
    return None


def minimiser_alone(
    name: str,
    protocol: BenchProtocol,
    *,
    implementations: Sequence[Implementation],
    budget: Budget,
    device: torch.device,
    clock: Clock,
) -> MinimiserAlone:
    """Time every measurable method on one network, in one race.

    Args:
        name: of the network in the protocol.
        protocol: methods and base optimiser.
        implementations: of fsam's own step.
        budget: of the race.
        device: where to compute.
        clock: see `race.clock_of`.
    """
    model = build(
        protocol.models[name], classes=protocol.classes, device=device, channels_last=False
    )
    flat = FlatWeights(model)
    gradient = random_gradient(flat)
    put_gradient(flat, gradient)
    batch = random_batch(2, protocol.classes, device=device)
    methods = [method for method in protocol.methods if measurable(method) is None]
    pairs = [(method, how) for method in methods for how in implementations]

    def stepper(method: BenchMethod, how: Implementation, flat: FlatWeights) -> Stepper:
        return stepper_of(model, flat, method.settings, protocol, compiled=how == "compiled")

    floor_of = floor_kernels(flat.weights.numel(), device)
    variants: dict[str, Callable[[], object]] = {
        kernel: entry.run for kernel, entry in floor_of.items()
    }
    variants[ACCUMULATION] = _accumulation(gradient)
    steppers = {_name(method, how): stepper(method, how, flat) for method, how in pairs}
    variants |= {name: partial(step_alone, each, batch) for name, each in steppers.items()}
    samples = race(variants, budget, clock, sample_seconds=least_sample(device))
    refuse_skipped(steppers.values())
    floor = fastest(samples, floor_of, count=flat.weights.numel(), device=device)
    del variants, steppers  # the memory is measured with nothing else there

    def line(
        label: str, how: Implementation | None, variant: str, passes: int | None, extra: float
    ) -> MinimiserLine:
        seconds = samples.spread(variant)
        times = multiple(samples, variant, passes, floor)
        return MinimiserLine(name, flat.count, label, how, seconds, passes, times, extra)

    def extra(method: BenchMethod, how: Implementation) -> float:
        fresh = FlatWeights(model)  # without a spare buffer yet
        return extra_memory(
            lambda: some_steps(stepper(method, how, fresh), gradient, batch),
            fresh.weights.numel(),
            device,
            momentum=keeps_momentum(protocol.optimizer),
        )

    lines = [
        line(
            method.label,
            how,
            _name(method, how),
            passes_of(method.name, method.settings, protocol.optimizer),
            extra(method, how),
        )
        for method, how in pairs
    ]
    lines.append(line(ACCUMULATION, None, ACCUMULATION, GRADIENT_PASSES, 0.0))
    return MinimiserAlone(name, floor, samples.elsewhere, tuple(lines))


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


def refuse_skipped(steppers: Iterable[Stepper]) -> None:
    """Raise RuntimeError where a gradient was not finite: what skips its update is not a step."""
    for stepper in steppers:
        if stepper.optimizer.nonfinite.item():
            method = type(stepper.method).__name__
            raise RuntimeError(f"a number of {method} left float32's range; its times mean nothing")


def some_steps(stepper: Stepper, gradient: Tensor, batch: Batch) -> Stepper:
    """Steps whose memory is measured, along the same gradient each."""
    for _ in range(STEPS):
        stepper.flat.gradient.copy_(gradient)
        step_alone(stepper, batch)
    return stepper


def _accumulation(arriving: Tensor) -> Callable[[], None]:
    """What every gradient costs beside computing it: the buffer zeroed, a gradient added."""
    buffer = torch.zeros_like(arriving)

    def accumulate() -> None:
        buffer.zero_()
        buffer.add_(arriving)

    return accumulate


def _name(method: BenchMethod, how: Implementation) -> str:
    return f"{method.label} {how}"
