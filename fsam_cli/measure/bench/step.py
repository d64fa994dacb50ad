"""The whole step: forward and backward passes, and what the method does with them.

On a GPU every method's step is taken twice in a round: kernel by kernel, and from a CUDA graph.
Both are steps of one `Stepper`, on the same weights: a graph writes to where the parameters lie
between two steps, and reads its batch from copies of its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch

from fsam_cli.engine.batches import Batch
from fsam_cli.engine.environment import enable_cudnn_benchmark
from fsam_cli.engine.flat import FlatWeights
from fsam_cli.engine.graph import GraphedStepper, Recorder
from fsam_cli.engine.step import Stepper
from fsam_cli.errors import in_a_line
from fsam_cli.measure.bench.network import (
    WHEN,
    BenchMethod,
    BenchProtocol,
    build,
    random_batch,
    stepper_of,
)
from fsam_cli.measure.bench.race import LEAST_ROUNDS, Clock, Samples, Spread, Timing, Variant, race
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


Launched = Literal["eager", "graph"]


@dataclass(frozen=True)
class StepLine:
    """One method's whole step."""

    label: str
    launched: Launched  # kernel by kernel, or all of them from a CUDA graph
    seconds: Spread  # of one step
    images_per_second: Spread
    # Times SGD's step, launched alike, in the same round; None: itself, or none was there.
    over_sgd: Spread | None
    over_sam: Spread | None  # times SAM's, likewise
    over_eager: Spread | None  # a graph's step: times the same method's eager one


@dataclass(frozen=True)
class WholeStep:
    """One race: a network in one precision, all methods."""

    model: str
    precision: str
    batch_size: int
    lowered_from: int | None  # the batch size whose rounds would not have fitted the budget
    compile: Compile
    elsewhere: float | None  # share of the processors that others used meanwhile
    lines: tuple[StepLine, ...]
    left_out: tuple[str, ...] = ()  # steps that cannot be captured, with the reason


def precisions_for(multiply_adds: int, device: torch.device) -> tuple[str, ...]:
    """What is timed when nobody says: all, or for a large network on a CPU only one."""
    return (ONE,) if device.type == "cpu" and multiply_adds > ALL_BELOW else tuple(PRECISIONS)


def whole_step(
    name: str,
    precision: str,
    protocol: BenchProtocol,
    *,
    batch_size: int | None,
    compile: Compile,
    timing: Timing,
    recorder: Recorder | None = None,
) -> WholeStep:
    """Time every method's step on one network of the protocol, in one race.

    Args:
        precision: a key of `PRECISIONS`.
        batch_size: in images; None is `BATCH_SIZE`, on a CPU halved until the least rounds fit the
            seconds.
        recorder: captures steps, which are then timed beside the eager ones; None: eager ones only.
    """
    how, classes, device = PRECISIONS[precision], protocol.classes, timing.device
    steppers = steppers_of(name, protocol, how, compile, device)

    def batch_of(images: int) -> Batch:
        return random_batch(images, classes, device=device, channels_last=how.channels_last)

    size = asked = batch_size or BATCH_SIZE
    # Small batches tell how long large ones take only where computing, not launching, takes it.
    if batch_size is None and timing.rounds is None and device.type == "cpu":
        any_of_them = next(iter(steppers.values()))
        clock = timing.clock
        probes = [_gradient_seconds(any_of_them, batch_of(images), clock) for images in PROBES]
        passes = sum(method.settings.gradients(classes) for method in protocol.methods)
        size = fitting_batch(asked, probes, passes, timing.seconds)
    batch = batch_of(size)
    left_out: list[str] = []
    steps: dict[tuple[str, Launched], Variant] = {}
    for label, stepper in steppers.items():
        steps[label, "eager"] = partial(stepper.step, batch, WHEN)
        if recorder is None:
            continue
        graphed, why_not = captured(stepper, batch, recorder)
        if why_not is None:
            steps[label, "graph"] = partial(graphed.step, batch, WHEN)
        else:
            left_out.append(f"{label} from a graph: {why_not}")
    samples = race({_variant(*each): step for each, step in steps.items()}, timing)
    methods = {method.label: method for method in protocol.methods}
    lines = tuple(
        _line(methods[label], launched, size, samples, protocol.methods)
        for label, launched in steps
    )
    lowered = asked if size < asked else None
    elsewhere = samples.elsewhere
    return WholeStep(name, precision, size, lowered, compile, elsewhere, lines, tuple(left_out))


def steppers_of(
    name: str, protocol: BenchProtocol, how: Precision, compile: Compile, device: torch.device
) -> dict[str, Stepper]:
    """One for each method, by label, all of one network of the protocol and its flat weights."""
    enable_cudnn_benchmark(device)
    model = build(
        protocol.models[name],
        classes=protocol.classes,
        device=device,
        channels_last=how.channels_last,
    )
    flat = FlatWeights(model)
    if compile == "all":
        model.compile(dynamic=False)
    return {
        method.label: stepper_of(
            model, flat, method.settings, protocol, compiled=compile != "none", bf16=how.bf16
        )
        for method in protocol.methods
    }


def captured(
    stepper: Stepper, batch: Batch, recorder: Recorder
) -> tuple[GraphedStepper, str | None]:
    """A stepper that has captured its step of this batch, or what stands against it.

    It takes one step, after some to warm up that are undone.
    """
    graphed = GraphedStepper(stepper, recorder, size=len(batch.labels))
    try:
        graphed.step(batch, WHEN)
    except RuntimeError as error:  # the memory does not suffice for the way there, for one
        return graphed, graphed.why_not or in_a_line(error)[:200]
    return graphed, graphed.why_not


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


def _variant(label: str, launched: Launched) -> str:
    return f"{label} {launched}"


def _line(
    method: BenchMethod,
    launched: Launched,
    size: int,
    samples: Samples,
    methods: Sequence[BenchMethod],
) -> StepLine:
    mine = _variant(method.label, launched)
    seconds = samples.spread(mine)

    def over(name: str) -> Spread | None:
        first = next((each.label for each in methods if each.name == name), None)
        other = None if first is None else _variant(first, launched)
        if other is None or other == mine or other not in samples.seconds:
            return None
        return samples.ratio(mine, other)

    over_eager = None
    if launched == "graph":
        over_eager = samples.ratio(mine, _variant(method.label, "eager"))
    rate = seconds.per_second(size)
    return StepLine(method.label, launched, seconds, rate, over("sgd"), over("sam"), over_eager)
