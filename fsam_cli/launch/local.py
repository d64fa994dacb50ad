"""Carrying out runs on this machine: one after the other, or N at once in processes.

With several GPUs the processes are dealt out to them, one GPU each, or as many as a run has
replicas.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, replace
from functools import partial
from multiprocessing.connection import Connection, wait
from typing import Protocol

from fsam_cli.engine.environment import cores
from fsam_cli.engine.run import Rerun, RunOutcome, execute, forget_data
from fsam_cli.engine.state import EpochRow
from fsam_cli.engine.train import Hooks
from fsam_cli.errors import FsamError, Interrupted
from fsam_cli.launch._devices import gpu_is_lost, gpus, seeing
from fsam_cli.launch.replicas import replicated
from fsam_cli.recipe.plan import RunPlan
from fsam_cli.signals import (
    StopFlag,
    how_it_ended,
    ignored_from_now_on,
    started_worker,
    stop_requests,
)

Outcomes = list[tuple[RunPlan, RunOutcome]]  # in the order of the plans


class Monitor(Protocol):
    """Who watches the runs: a progress bar, plain lines, or nobody."""

    def started(self, plan: RunPlan) -> None: ...
    def stepped(self, plan: RunPlan, done: int, total: int) -> None: ...
    def epoch(self, plan: RunPlan, row: EpochRow) -> None: ...
    def over(self, plan: RunPlan, outcome: RunOutcome) -> None: ...


@dataclass(frozen=True)
class Options:
    """How to treat runs; none of it changes a number."""

    jobs: int = 1
    rerun: Rerun = "failed"
    fail_fast: bool = False
    force_resume: bool = False
    checkpoint_seconds: float = 30.0


def default_jobs(plans: Sequence[RunPlan]) -> int:
    """Cores over threads on a CPU, one on each GPU; of runs with replicas as many less."""
    if not plans:
        return 1
    on_gpu, threads = plans[0].device == "cuda", plans[0].recipe.threads
    places = len(gpus()) if on_gpu else cores() // threads
    return max(1, min(len(plans), places // _replicas(plans)))


def _replicas(plans: Sequence[RunPlan]) -> int:
    """Processes that a run has at most."""
    return max(plan.recipe.replicas for plan in plans)


def launch(plans: Sequence[RunPlan], options: Options, monitor: Monitor) -> Outcomes:
    """Carry out all runs; gives those that had their turn, and their outcomes.

    A run that fails or diverges stops no other, unless `fail_fast`.

    Raises:
        Interrupted: Ctrl-C or SIGTERM, after every run at work saved its state.
        FsamError: what concerns all runs alike (disk, data).
    """
    with _stop_on_signal() as stop:
        # A shard beyond the last run has none. Replicas leave this process out of it: what a broken
        # connection between them leaves behind ends with theirs.
        if not plans or (options.jobs == 1 and _replicas(plans) == 1):
            return _one_by_one(plans, options, monitor, stop)
        fitting = replace(options, jobs=min(options.jobs, len(plans)))
        return _Pool(plans, fitting, monitor, stop).work()


@contextmanager
def _stop_on_signal() -> Iterator[StopFlag]:
    """Set by the first Ctrl-C or SIGTERM; another one later ends the process at once."""
    stop = StopFlag()

    def heard(number: int) -> None:
        if number > 1:
            raise KeyboardInterrupt
        stop.set()

    with stop_requests(heard):
        yield stop


def _carried_out(plan: RunPlan, hooks: Hooks, options: Options) -> RunOutcome:
    return execute(
        plan,
        hooks,
        rerun=options.rerun,
        force_resume=options.force_resume,
        at_once=options.jobs,
        replicated=replicated,
    )


def _stops_the_rest(outcome: RunOutcome, options: Options) -> bool:
    return options.fail_fast and outcome.ended in ("failed", "diverged", "unreadable")


def _one_by_one(
    plans: Sequence[RunPlan], options: Options, monitor: Monitor, stop: StopFlag
) -> Outcomes:
    ended = []
    for plan in plans:
        if stop.is_set():
            raise Interrupted("interrupted")
        monitor.started(plan)
        hooks = Hooks(
            on_epoch=partial(monitor.epoch, plan),
            on_step=partial(monitor.stepped, plan),
            should_stop=stop.is_set,
            checkpoint_seconds=options.checkpoint_seconds,
        )
        outcome = _carried_out(plan, hooks, options)
        monitor.over(plan, outcome)
        ended.append((plan, outcome))
        if _stops_the_rest(outcome, options):
            break
        rest = plans[len(ended) :]
        if rest and outcome.ended == "failed" and gpu_is_lost():  # to this process, for good
            return ended + _Pool(rest, options, monitor, stop).work()
    return ended


class _Worker:
    """A process that carries out one plan after another, on GPUs of its own if it is given any."""

    def __init__(self, options: Options, stop: StopFlag, gpu: str | None) -> None:
        self.gpu = gpu
        with seeing(gpu):
            self.process, self.pipe = started_worker(_work, options, stop)
        self.position = -1  # of the plan at work

    def give(self, position: int, plan: RunPlan) -> None:
        self.position = position
        self._send(plan)

    def send_home(self) -> None:
        self._send(None)
        self.process.join()

    def _send(self, plan: RunPlan | None) -> None:
        with suppress(OSError):  # to one that has just died: its end is heard when listening
            self.pipe.send(plan)


def _work(pipe: Connection, options: Options, stop: StopFlag) -> None:
    """A worker's life: plans come in, events go out. Signals are the parent's business."""
    ignored_from_now_on()
    parent = os.getppid()

    def should_stop() -> bool:
        return stop.is_set() or os.getppid() != parent  # an orphan saves its state and ends

    hooks = Hooks(
        on_epoch=lambda row: _tell(pipe, "epoch", row),
        on_step=_thinned(pipe),
        should_stop=should_stop,
        checkpoint_seconds=options.checkpoint_seconds,
    )
    try:
        while True:
            try:
                plan = pipe.recv()  # loads the plan's plugins, which may have been changed
                if plan is None:
                    return
                outcome = _carried_out(plan, hooks, options)
                if outcome.ended == "failed" and (plan.recipe.replicas > 1 or gpu_is_lost()):
                    _tell(pipe, "last", outcome)
                    return
                _tell(pipe, "over", outcome)
            except FsamError as error:
                _tell(pipe, "error", error)
    except (EOFError, OSError):  # nobody is there to send plans
        return


def _tell(pipe: Connection, kind: str, what: object) -> None:
    """To a parent that may have died: the run then stops as an orphan, and does not fail."""
    with suppress(OSError):
        pipe.send((kind, what))


def _thinned(pipe: Connection) -> Callable[[int, int], None]:
    """Step events at most a few times a second; a small network makes hundreds of steps."""
    last = 0.0

    def tell(done: int, total: int) -> None:
        nonlocal last
        now = time.monotonic()
        if now - last > 0.3:
            last = now
            _tell(pipe, "step", (done, total))

    return tell


class _Pool:
    """Hands plans to workers and listens to them, all in the parent's one thread."""

    def __init__(
        self, plans: Sequence[RunPlan], options: Options, monitor: Monitor, stop: StopFlag
    ) -> None:
        self.plans, self.options, self.monitor, self.stop = plans, options, monitor, stop
        self.waiting = list(range(len(plans)))[::-1]  # popped from the end
        self.outcomes: dict[int, RunOutcome] = {}
        self.trouble: FsamError | None = None  # what concerns all runs alike
        self.workers: list[_Worker] = []

    def work(self) -> Outcomes:
        forget_data()  # each worker reads its own
        there = _dealt(gpus(), _replicas(self.plans)) if self.plans[0].device == "cuda" else [None]
        try:
            for number in range(self.options.jobs):
                self._employ(there[number % len(there)])
            while self.workers:
                ready = wait([worker.pipe for worker in self.workers])
                for worker in [worker for worker in self.workers if worker.pipe in ready]:
                    self._listen(worker)
        finally:
            for worker in self.workers:
                worker.process.kill()
        if self.stop.is_set():
            raise Interrupted("interrupted")
        if self.trouble is not None:
            raise self.trouble
        return [
            (self.plans[position], self.outcomes[position]) for position in sorted(self.outcomes)
        ]

    def _employ(self, gpu: str | None) -> None:
        worker = _Worker(self.options, self.stop, gpu)
        self.workers.append(worker)
        self._feed(worker)

    def _feed(self, worker: _Worker) -> None:
        """The next plan for a worker without one, or home."""
        if self.waiting and self.trouble is None and not self.stop.is_set():
            position = self.waiting.pop()
            self.monitor.started(self.plans[position])
            worker.give(position, self.plans[position])
        else:
            self.workers.remove(worker)
            worker.send_home()

    def _listen(self, worker: _Worker) -> None:
        plan = self.plans[worker.position]
        try:
            kind, what = worker.pipe.recv()
        except (EOFError, ConnectionResetError):
            self._over(worker.position, _death(worker))
            self._replace(worker)
            return
        if kind == "epoch":
            self.monitor.epoch(plan, what)
        elif kind == "step":
            self.monitor.stepped(plan, *what)
        elif kind == "error":
            self.trouble = self.trouble or what  # after a request to stop, that is what is told
            if plan.recipe.replicas > 1:
                self._dismiss(worker)
            else:
                self._feed(worker)
        else:  # over, and with "last" the worker as well
            self._over(worker.position, what)
            if kind == "last":
                self._replace(worker)
            else:
                self._feed(worker)

    def _replace(self, worker: _Worker) -> None:
        """By a new process, if any plan waits for one."""
        self._dismiss(worker)
        if self.waiting:
            self._employ(worker.gpu)

    def _dismiss(self, worker: _Worker) -> None:
        """One without its GPU, or without its replicas, may not come to an end by itself."""
        self.workers.remove(worker)
        worker.process.kill()
        worker.process.join()

    def _over(self, position: int, outcome: RunOutcome) -> None:
        self.outcomes[position] = outcome
        self.monitor.over(self.plans[position], outcome)
        if _stops_the_rest(outcome, self.options):
            self.waiting.clear()


def _dealt(there: Sequence[str], each: int) -> list[str]:
    """GPUs for one run after another, `each` for one."""
    starts = range(0, len(there) - each + 1, each)
    return [",".join(there[start : start + each]) for start in starts]


def _death(worker: _Worker) -> RunOutcome:
    reason = f"its process {how_it_ended(worker.process)}; the same command continues it"
    return RunOutcome("failed", reason, "interrupted")
