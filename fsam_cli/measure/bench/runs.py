"""How many small trainings at once are fastest: what `-j` should be on this machine.

Every setting, so many runs with so many threads each, has its turn in every round: so many workers
step for the same seconds, and their images a second are added up. A worker is a process that steps
one network on one batch; what training does beside its steps (augmenting, testing, recording) is
not in it.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection

import torch

from fsam_cli.engine.graph import release_unused_memory
from fsam_cli.measure.bench.network import BenchMethod, BenchProtocol
from fsam_cli.measure.bench.race import Samples, Spread, Timing, in_turn
from fsam_cli.measure.bench.step import ALL_BELOW, BATCH_SIZE, ONE, Launched
from fsam_cli.measure.bench.workers import Crew, Lost, Order, Patience, Task, work
from fsam_cli.recipe.plan import Compile

CUDA_AT_ONCE = (1, 2, 4, 8)
ROUNDS = 6  # that the seconds of an order are made for
ORDER_SECONDS = (0.25, 2.0)  # least and most


@dataclass(frozen=True)
class Concurrency:
    """So many runs with so many threads of the CPU each."""

    at_once: int
    threads: int

    @property
    def name(self) -> str:
        return f"{self.at_once} x {self.threads}"


ALONE = Concurrency(1, 1)


@dataclass(frozen=True)
class RunsLine:
    """One setting."""

    at_once: int
    threads: int  # of each run
    images_per_second: Spread  # of all runs together
    over_one: Spread  # times one run alone (on a CPU with one thread) in the same round


@dataclass(frozen=True)
class RunsAtOnce:
    """One race: all settings for one network."""

    model: str
    method: str  # its label
    precision: str
    batch_size: int
    compile: Compile
    launched: Launched  # graph if every worker captured its step
    elsewhere: float | None  # share of the processors that others used meanwhile
    lines: tuple[RunsLine, ...]
    left_out: tuple[str, ...]  # workers that are gone and settings that wanted for them


def settings_for(
    device: torch.device, cores: int, at_once: Sequence[int] | None = None
) -> tuple[Concurrency, ...]:
    """One run alone, then the others; on a CPU the cores are shared out among the runs.

    Args:
        at_once: numbers of runs; None: powers of two up to the cores, or `CUDA_AT_ONCE`.
    """
    if device.type == "cuda":
        found = [Concurrency(count, 1) for count in at_once or CUDA_AT_ONCE]
    else:
        powers = [1 << power for power in range(cores.bit_length())]
        found = [Concurrency(count, max(1, cores // count)) for count in at_once or powers]
    return tuple(dict.fromkeys([ALONE, *found]))


def too_large(multiply_adds: int, device: torch.device, *, asked: bool) -> str | None:
    """Why a network of so many multiply-adds an image is not measured; None if it is.

    Args:
        asked: for this section by name.
    """
    if device.type != "cpu" or multiply_adds <= ALL_BELOW or asked:
        return None
    return f"{multiply_adds:.1e} multiply-adds an image take minutes on a CPU; ask with --only runs"


def method_of(protocol: BenchProtocol) -> BenchMethod:
    """The first that climbs, or the first."""
    first = protocol.methods[0]
    return next((method for method in protocol.methods if method.settings.climbs), first)


def runs_at_once(
    name: str,
    protocol: BenchProtocol,
    *,
    settings: Sequence[Concurrency],
    batch_size: int | None,
    compile: Compile,
    timing: Timing,
    order_seconds: float | None = None,
    patience: Patience | None = None,
    life: Callable[[Connection], None] = work,
) -> RunsAtOnce:
    """Time every setting on one network and one method of the protocol, in one race.

    Args:
        settings: see `settings_for`.
        batch_size: in images; None is `BATCH_SIZE`.
        timing: of the race; all workers share its device.
        order_seconds: that a setting steps each time; None: as the timing allows.
    """
    method, size = method_of(protocol), batch_size or BATCH_SIZE
    task = Task(name, replace(protocol, methods=(method,)), size, compile, timing.device)
    least, longest = ORDER_SECONDS
    fair = timing.seconds / (ROUNDS * len(settings))
    seconds = order_seconds or min(longest, max(least, fair))
    if timing.device.type == "cuda":  # the workers need what earlier sections left in this cache
        release_unused_memory()
    most = max(setting.at_once for setting in settings)
    with Crew(most, task, patience=patience, life=life) as crew:
        samples = race_of(crew, settings, seconds, timing)
        lines = () if samples is None else lines_of(samples, settings)
        left_out = crew.lost[:]
        if len(lines) < len(settings):
            left_out.append(f"more than {len(crew)} at once, for want of processes")
        return RunsAtOnce(
            name,
            method.label,
            ONE,
            size,
            compile,
            crew.launched,
            None if samples is None else samples.elsewhere,
            lines,
            tuple(left_out),
        )


def race_of(
    crew: Crew, settings: Sequence[Concurrency], seconds: float, timing: Timing
) -> Samples | None:
    """Seconds an image, by the name of the setting; None if no worker is left.

    A worker that is lost meanwhile begins the race anew, without the settings that needed it.
    """
    while True:
        possible = [setting for setting in settings if setting.at_once <= len(crew)]
        if not possible:
            return None
        try:
            for setting in possible:  # the first step with other threads chooses algorithms
                _seconds_an_image(crew, setting, 0.0)
            samplers = {
                setting.name: partial(_seconds_an_image, crew, setting, seconds)
                for setting in possible
            }
            return in_turn(samplers, timing)
        except Lost:
            continue


def lines_of(samples: Samples, settings: Sequence[Concurrency]) -> tuple[RunsLine, ...]:
    """Of the settings that were measured."""
    return tuple(
        RunsLine(
            setting.at_once,
            setting.threads,
            samples.spread(setting.name).per_second(1),
            samples.ratio(ALONE.name, setting.name),
        )
        for setting in settings
        if setting.name in samples.seconds
    )


def _seconds_an_image(crew: Crew, setting: Concurrency, seconds: float) -> float:
    done = crew.together(setting.at_once, Order(seconds, setting.threads))
    return 1 / sum(each.images / each.seconds for each in done)
