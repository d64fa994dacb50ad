"""The whole step: forward and backward passes, and what the method does with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch

from fsam_cli.engine.batches import Batch
from fsam_cli.engine.flat import FlatWeights
from fsam_cli.engine.step import Stepper
from fsam_cli.measure.bench_network import (
    WHEN,
    Method,
    Protocol,
    build,
    random_batch,
    stepper_of,
)
from fsam_cli.measure.bench_race import LEAST_ROUNDS, Budget, Clock, Samples, Spread, race
from fsam_cli.recipe.plan import Compile

BATCH_SIZE = 128  # images, the paper's
LEAST_BATCH = 4  # images
PROBES = (4, 16)  # images of the batches that tell how long others will take


@dataclass(frozen=True)
class Precision:
    """Arithmetic and memory order of a whole step."""

    bf16: bool  # passes under autocast; weights, gradient and momentum stay float32
    channels_last: bool


PRECISIONS: Mapping[str, Precision] = {
    "fp32": Precision(bf16=False, channels_last=False),
    "fp32-channels-last": Precision(bf16=False, channels_last=True),
    "bf16-channels-last": Precision(bf16=True, channels_last=True),
}
ALL_BELOW = 1e9  # multiply-adds an image; a larger network on a CPU is timed in one precision
ONE = "fp32-channels-last"


@dataclass(frozen=True)
class Line:
    """One method's whole step."""

    label: str
    seconds: Spread  # of one step
    images_per_second: Spread
    over_sgd: Spread | None  # times SGD's step in the same round; None: itself, or none was there
    over_sam: Spread | None  # times SAM's, likewise


@dataclass(frozen=True)
class WholeStep:
    """One race: a network in one precision, all methods."""

    model: str
    precision: str
    batch_size: int
    lowered_from: int | None  # the batch size whose rounds would not have fitted the budget
    compile: Compile
    elsewhere: float | None  # share of the processors that others used meanwhile
    lines: tuple[Line, ...]


def precisions_for(multiply_adds: int, device: torch.device) -> tuple[str, ...]:
    """What is timed when nobody says: all, or for a large network on a CPU only one."""
    return (ONE,) if device.type == "cpu" and multiply_adds > ALL_BELOW else tuple(PRECISIONS)


def whole_step(
    name: str,
    precision: str,
    protocol: Protocol,
    *,
    batch_size: int | None,
    compile: Compile,
    budget: Budget,
    device: torch.device,
    clock: Clock,
) -> WholeStep:
    """Time every method's step on one network, in one race.

    Args:
        name: of the network in the protocol.
        precision: a key of `PRECISIONS`.
        protocol: methods and base optimiser.
        batch_size: in images; None is `BATCH_SIZE`, halved until the least rounds fit the budget.
        compile: as a recipe says it.
        budget: of the race.
        device: where to compute.
        clock: see `bench_race.clock_of`.
    """
    how = PRECISIONS[precision]
    model = build(
        protocol.models[name],
        classes=protocol.classes,
        device=device,
        channels_last=how.channels_last,
    )
    flat = FlatWeights(model)
    if compile == "all":
        model.compile(dynamic=False)
    steppers = {
        method.label: stepper_of(
            model, flat, method.settings, protocol, compiled=compile != "none", bf16=how.bf16
        )
        for method in protocol.methods
    }

    def batch_of(images: int) -> Batch:
        return random_batch(
            images, protocol.classes, device=device, channels_last=how.channels_last
        )

    size = asked = batch_size or BATCH_SIZE
    if batch_size is None and budget.rounds is None:
        any_of_them = next(iter(steppers.values()))
        probes = [_gradient_seconds(any_of_them, batch_of(images), clock) for images in PROBES]
        passes = sum(method.settings.gradients(protocol.classes) for method in protocol.methods)
        size = fitting_batch(asked, probes, passes, budget.seconds)
    batch = batch_of(size)
    samples = race(
        {label: partial(stepper.step, batch, WHEN) for label, stepper in steppers.items()},
        budget,
        clock,
    )
    lines = tuple(_line(method, size, samples, protocol.methods) for method in protocol.methods)
    lowered = asked if size < asked else None
    return WholeStep(name, precision, size, lowered, compile, samples.elsewhere, lines)


def fitting_batch(asked: int, probes: Sequence[float], passes: int, seconds: float) -> int:
    """The batch size, halved until a warm-up and the least rounds take no more than `seconds`.

    Args:
        asked: in images.
        probes: seconds of a gradient of as many images as `PROBES` say.
        passes: gradients of a round, over all methods.
        seconds: of the budget.
    """
    small, large = PROBES
    an_image = max(0.0, (probes[1] - probes[0]) / (large - small))
    size = asked
    while size > LEAST_BATCH:
        gradient = probes[0] + an_image * (size - small)
        if (LEAST_ROUNDS + 1) * passes * gradient <= seconds:
            break
        size = max(LEAST_BATCH, size // 2)
    return size


def _gradient_seconds(stepper: Stepper, batch: Batch, clock: Clock) -> float:
    stepper.gradient(batch, 0)  # the first one chooses algorithms
    start = clock()
    stepper.gradient(batch, 0)
    return clock() - start


def _line(method: Method, size: int, samples: Samples, methods: Sequence[Method]) -> Line:
    seconds = samples.spread(method.label)
    rate = Spread(size / seconds.median, size / seconds.high, size / seconds.low, seconds.rounds)

    def over(name: str) -> Spread | None:
        first = next((each.label for each in methods if each.name == name), None)
        if first is None or first == method.label:
            return None
        return samples.ratio(method.label, first)

    return Line(method.label, seconds, rate, over("sgd"), over("sam"))
