"""Timing by turns: every variant once a round, round after round, so that a machine that slows
down slows all of them alike, and a ratio is taken within one round.

Nothing here knows what it times. The clock is handed in: on a GPU it waits for the queue first.
"""

from __future__ import annotations

import math
import os
import resource
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import quantiles

import torch

SAMPLE_SECONDS = 2e-3  # what is shorter is called several times a sample
SLOW_SECONDS = 0.1  # a first call this long is warm-up enough
SHORT_SECONDS = 0.02  # in a sample as short as this, losing the processor shows
TRIES = 10
LEAST_ROUNDS = 3
MOST_ROUNDS = 1000

Clock = Callable[[], float]  # seconds, monotonic
Variant = Callable[[], object]  # what is timed: it may queue work on the device


def clock_of(device: torch.device) -> Clock:
    """The time at which all work given to the device so far is done."""
    if device.type != "cuda":
        return time.perf_counter

    def after_the_queue() -> float:
        torch.cuda.synchronize(device)
        return time.perf_counter()

    return after_the_queue


@dataclass(frozen=True)
class Timing:
    """Where a race is run, by which clock, and for how long."""

    device: torch.device
    clock: Clock  # of the device: see `clock_of`
    seconds: float  # of measuring; at least `LEAST_ROUNDS` rounds are run whatever they take
    rounds: int | None = None  # exactly so many, whatever they take

    @property
    def sample_seconds(self) -> float:
        """Of a sample at least; more where a device queues, so that waiting does not show."""
        return 3e-2 if self.device.type == "cuda" else SAMPLE_SECONDS


@dataclass(frozen=True)
class Spread:
    """A median with the quartiles around it."""

    median: float
    low: float  # first quartile
    high: float  # third quartile
    rounds: int

    def per_second(self, count: float) -> Spread:
        """These seconds as a rate, if so many take them; the quartiles change places."""
        return Spread(count / self.median, count / self.high, count / self.low, self.rounds)


def spread_of(values: Sequence[float]) -> Spread:
    """Median and quartiles (linear between neighbours, both ends included)."""
    if len(values) == 1:
        return Spread(values[0], values[0], values[0], 1)
    low, median, high = quantiles(values, n=4, method="inclusive")
    return Spread(median, low, high, len(values))


@dataclass(frozen=True)
class Samples:
    """What a race found."""

    seconds: Mapping[str, tuple[float, ...]]  # of one call or image, round by round, by variant
    elsewhere: float | None = None  # share of the machine's processors that others used meanwhile

    def spread(self, name: str) -> Spread:
        """Seconds of one call."""
        return spread_of(self.seconds[name])

    def ratio(self, name: str, reference: str, times: float = 1.0) -> Spread:
        """A variant's seconds over `times` those of the reference in the same round."""
        pairs = zip(self.seconds[name], self.seconds[reference], strict=True)
        return spread_of([mine / (times * other) for mine, other in pairs])


def race(variants: Mapping[str, Variant], timing: Timing) -> Samples:
    """Warm every variant up, then time them in turn until the time is over."""
    return in_turn({name: _Sampler(run, timing) for name, run in variants.items()}, timing)


def in_turn(samplers: Mapping[str, Callable[[], float]], timing: Timing) -> Samples:
    """A sample of every variant a round, until the time is over.

    Args:
        samplers: give seconds of whatever the variants are compared by; warm already.
        timing: whose clock tells when it is over.
    """
    names = list(samplers)
    found: dict[str, list[float]] = {name: [] for name in names}
    before = processor_seconds()
    start = timing.clock()
    for number in range(timing.rounds or MOST_ROUNDS):
        enough = timing.rounds is None and number >= LEAST_ROUNDS
        if enough and timing.clock() - start >= timing.seconds:
            break
        # Each round begins with another one: nobody always runs after the same idle moment.
        at = number % len(names)
        for name in names[at:] + names[:at]:
            found[name].append(samplers[name]())
    elsewhere = _share_elsewhere(before, processor_seconds())
    return Samples({name: tuple(values) for name, values in found.items()}, elsewhere)


class _Sampler:
    """Seconds of one call, by samples that are long enough; warm once it is made.

    The first call fills caches and compiles, the next one tells how long a call takes. After a slow
    first call that is the first sample: where it was the compiler that was slow, and not the call,
    that sample is taken again.
    """

    def __init__(self, run: Variant, timing: Timing) -> None:
        self._run, self._clock, self._least = run, timing.clock, timing.sample_seconds
        self._calls: int | None = None  # a sample
        if _seconds(run, 1, self._clock) < SLOW_SECONDS:
            self._calls = self._calls_for(_seconds(run, 1, self._clock))

    def __call__(self) -> float:
        if self._calls is None:
            seconds = _sample(self._run, 1, self._clock)
            self._calls = self._calls_for(seconds)
            if self._calls == 1:
                return seconds
        return _sample(self._run, self._calls, self._clock)

    def _calls_for(self, seconds: float) -> int:
        return max(1, math.ceil(self._least / seconds)) if seconds > 0 else 1


def _sample(run: Variant, calls: int, clock: Clock) -> float:
    """Seconds of one call; a short sample is repeated if the processor was taken away meanwhile."""
    for _ in range(TRIES):
        before = _preemptions()
        seconds = _seconds(run, calls, clock)
        if _preemptions() == before or seconds * calls > SHORT_SECONDS:
            break
    return seconds


def _preemptions() -> int:
    """How often a thread of this process had to make room for another process so far."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_nivcsw


def _seconds(run: Variant, calls: int, clock: Clock) -> float:
    start = clock()
    for _ in range(calls):
        run()
    return (clock() - start) / calls


@dataclass(frozen=True)
class ProcessorSeconds:
    """Processor time since some moment in the past, over all processors."""

    there: float  # idle or not
    used: float  # by anybody
    own: float  # by this process and its children


def processor_seconds() -> ProcessorSeconds | None:
    """As Linux counts; None where the system does not tell."""
    try:
        words = Path("/proc/stat").read_text(encoding="ascii").split("\n", 1)[0].split()
        counts = [int(word) for word in words[1:9]]  # user to steal
        own = sum(map(_ticks_of, [Path("/proc/self"), *_children()]))
    except (OSError, ValueError, IndexError):
        return None
    idle, waiting = counts[3], counts[4]
    a_second = os.sysconf("SC_CLK_TCK")
    everything = sum(counts)
    return ProcessorSeconds(
        everything / a_second, (everything - idle - waiting) / a_second, own / a_second
    )


def _ticks_of(process: Path) -> int:
    # The name, in brackets, may hold anything; user and system time are words 14 and 15.
    words = (process / "stat").read_text(encoding="utf-8").rpartition(")")[2].split()
    return int(words[11]) + int(words[12])


def _children() -> list[Path]:
    tasks = Path("/proc/self/task").glob("*/children")
    return [Path("/proc", pid) for task in tasks for pid in task.read_text().split()]


def _share_elsewhere(
    before: ProcessorSeconds | None, after: ProcessorSeconds | None
) -> float | None:
    if before is None or after is None or after.there <= before.there:
        return None
    others = (after.used - before.used) - (after.own - before.own)
    return max(0.0, others / (after.there - before.there))


@contextmanager
def threads(count: int | None) -> Iterator[int]:
    """So many CPU threads inside, as many as before outside; gives the number."""
    before = torch.get_num_threads()
    torch.set_num_threads(count or before)
    try:
        yield torch.get_num_threads()
    finally:
        torch.set_num_threads(before)
