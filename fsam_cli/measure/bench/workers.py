"""Processes that step networks of their own at the same time, and the parent that orders them.

A worker is told what to build, takes its first steps, and waits. An order makes it step for so many
seconds; it answers with its images and the seconds they really took. Every wait has
a limit: a worker that dies, fails or stays silent is dropped with the reason, and all are killed at
the end.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Any

import torch

from fsam_cli.engine.graph import CudaRecorder
from fsam_cli.errors import briefly
from fsam_cli.measure.bench.network import WHEN, BenchProtocol, random_batch
from fsam_cli.measure.bench.race import Clock, Variant, clock_of
from fsam_cli.measure.bench.step import ONE, PRECISIONS, Launched, captured, steppers_of
from fsam_cli.recipe.plan import Compile
from fsam_cli.signals import ignored_from_now_on, started_worker

BURST_SECONDS = 0.05  # of steps between two looks at the clock, at least, once it is known
PARENT_IS_GONE = (EOFError, BrokenPipeError, ConnectionResetError)  # what the pipe then raises
WARM_UP = 2  # steps; the first one chooses algorithms, the last one tells how long others will take


@dataclass(frozen=True)
class Task:
    """What a worker steps, in the precision `step.ONE`."""

    model: str  # a name in the protocol
    protocol: BenchProtocol  # of one method
    batch_size: int  # images
    compile: Compile
    device: torch.device


@dataclass(frozen=True)
class Order:
    """Step until the time is over."""

    seconds: float
    threads: int  # of the CPU


@dataclass(frozen=True)
class Ready:
    """A worker waits for orders."""

    launched: Launched  # how its steps are
    seconds: float  # of a step, while the other workers built and stepped as well


@dataclass(frozen=True)
class Done:
    """What an order came to."""

    images: int
    seconds: float


@dataclass(frozen=True)
class Failed:
    """The end of a worker."""

    reason: str


def build(task: Task) -> tuple[Variant, Launched]:
    """The task's step, from a CUDA graph where it can be captured."""
    protocol, device, how = task.protocol, task.device, PRECISIONS[ONE]
    (stepper,) = steppers_of(task.model, protocol, how, task.compile, device).values()
    batch = random_batch(
        task.batch_size, protocol.classes, device=device, channels_last=how.channels_last
    )
    if device.type == "cuda":
        graphed, why_not = captured(stepper, batch, CudaRecorder())
        if why_not is None:
            return partial(graphed.step, batch, WHEN), "graph"
    return partial(stepper.step, batch, WHEN), "eager"


def work(pipe: Connection) -> None:
    """A worker's life. Signals are the parent's business."""
    ignored_from_now_on()
    with suppress(*PARENT_IS_GONE):
        _live(pipe)


def _live(pipe: Connection) -> None:
    try:
        task = pipe.recv()  # loads the protocol's plugins
        torch.set_num_threads(1)
        clock = clock_of(task.device)
        step, launched = build(task)
        for _ in range(WARM_UP):
            start = clock()
            step()
            seconds = clock() - start
        pipe.send(Ready(launched, seconds))
        while True:
            order = pipe.recv()
            torch.set_num_threads(order.threads)
            pipe.send(steps_for(order.seconds, step, task.batch_size, clock))
    except PARENT_IS_GONE:
        raise
    except Exception as error:
        pipe.send(Failed(briefly(error)))


def steps_for(seconds: float, step: Variant, batch_size: int, clock: Clock) -> Done:
    """At least one step, in bursts: a device is given hundreds of steps before it has done the
    first, and to wait for it after each would slow it down.

    Args:
        seconds: after which no burst is begun.
        step: gives the device work.
        batch_size: images of a step.
        clock: waits for the device.
    """
    start = now = clock()
    steps, burst = 0, 1
    while steps == 0 or now - start < seconds:
        for _ in range(burst):
            step()
        steps += burst
        before, now = now, clock()
        if now - before < BURST_SECONDS:
            burst *= 2
    return Done(steps * batch_size, now - start)


@dataclass(frozen=True)
class Patience:
    """Seconds after which a silent worker is given up; one that dies is noticed at once."""

    start: float = 900.0  # imports, building, first steps, on a machine full of workers
    answer: float = 60.0  # beyond the ordered seconds
    steps: float = 20.0  # or as long as so many first steps took, if that is longer


class Lost(Exception):
    """A worker that was needed is gone."""


class _Worker:
    """A process and the pipe to it."""

    def __init__(self, number: int, life: Callable[[Connection], None]) -> None:
        self.number = number
        self.process, self.pipe = started_worker(life)

    def end(self) -> None:
        self.process.kill()
        self.process.join()
        self.pipe.close()


class Crew:
    """Workers with one task, started beforehand; a context manager that kills them."""

    def __init__(
        self,
        count: int,
        task: Task,
        *,
        patience: Patience | None = None,
        life: Callable[[Connection], None] = work,
    ) -> None:
        self.lost: list[str] = []  # a line for each worker that is gone
        patience = patience or Patience()
        self._workers: list[_Worker] = []
        try:
            for number in range(1, count + 1):
                self._workers.append(_Worker(number, life))
            ready: list[Ready] = self._answers(self._workers, task, patience.start)
        except BaseException:
            self._end()
            raise
        self._answer = max([patience.answer, *(patience.steps * each.seconds for each in ready)])
        self.launched: Launched = (
            "graph" if {each.launched for each in ready} == {"graph"} else "eager"
        )

    def __enter__(self) -> Crew:
        return self

    def __exit__(self, *_: object) -> None:
        self._end()

    def _end(self) -> None:
        for worker in self._workers:
            worker.end()
        self._workers.clear()

    def __len__(self) -> int:
        return len(self._workers)

    def together(self, at_once: int, order: Order) -> list[Done]:
        """So many workers carry out the order at the same time.

        Raises:
            Lost: one of them did not; it is no longer there.
        """
        done: list[Done] = self._answers(
            self._workers[:at_once], order, order.seconds + self._answer
        )
        if len(done) < at_once:
            raise Lost
        return done

    def _answers(self, workers: Sequence[_Worker], what: Task | Order, seconds: float) -> list[Any]:
        """What each says to it, in no order; whoever gives no answer is dropped."""
        found: list[Any] = []
        silent = {worker.pipe: worker for worker in workers}
        for worker in workers:
            with suppress(OSError):  # it died; its pipe says so when it is listened to
                worker.pipe.send(what)
        deadline = time.monotonic() + seconds
        while silent:
            ready = wait(list(silent), max(0.0, deadline - time.monotonic()))
            if not ready:
                break
            for pipe in ready:
                worker = silent.pop(pipe)  # type: ignore[call-overload]
                answer = _heard(worker)
                if isinstance(answer, Failed):
                    self._drop(worker, answer.reason)
                else:
                    found.append(answer)
        for worker in silent.values():
            self._drop(worker, f"silent for {seconds:g} s")
        return found

    def _drop(self, worker: _Worker, reason: str) -> None:
        self._workers.remove(worker)
        worker.end()
        self.lost.append(f"process {worker.number}: {reason}")


def _heard(worker: _Worker) -> Any:
    """Its answer, or how it died."""
    try:
        return worker.pipe.recv()
    except (EOFError, OSError):
        worker.process.join(5.0)  # the pipe closes a moment before the process is gone
        code = worker.process.exitcode
    if code is None:
        return Failed("it closed its pipe")
    return Failed(f"killed by signal {-code}" if code < 0 else f"ended with code {code}")
