"""The replicas of a run as processes of this machine: the one that carries out the run is the
first, and starts the others.

They meet through a file and talk over the loopback interface (gloo), GPUs directly (NCCL). Whoever
ends, for whatever reason, closes its connections, and the others' next word to each other fails.
"""

from __future__ import annotations

import os
import sys
import traceback
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from multiprocessing.connection import Connection, wait
from pathlib import Path
from tempfile import TemporaryDirectory

import torch
from torch import distributed

from fsam_cli.engine.replicas import ALONE, Replicas, Together
from fsam_cli.engine.run import follow
from fsam_cli.engine.train import Hooks
from fsam_cli.errors import FsamError, Interrupted
from fsam_cli.recipe.plan import RunPlan
from fsam_cli.signals import ignored_from_now_on, started_worker

WAITING = timedelta(minutes=10)  # for a replica that is alive; one that has died is noticed at once
LEAVING_SECONDS = 10.0  # to end by itself, once the first one has
LOOPBACK = {"linux": "lo", "darwin": "lo0"}


class ReplicaLost(Exception):
    """A replica ended before the run did; says which and how."""


@contextmanager
def replicated(plan: RunPlan) -> Iterator[Replicas]:
    """The replicas of a run, this process being the first; the others follow it inside.

    Raises:
        FsamError: what a replica met with and is the user's to mend (unreadable data).
        ReplicaLost: a replica failed, or was killed.
    """
    if plan.recipe.replicas == 1:
        yield ALONE
        return
    with TemporaryDirectory() as folder:
        meeting = Path(folder) / "meeting"
        followers: list[_Follower] = []
        try:
            ranks = range(1, plan.recipe.replicas)
            followers.extend(_Follower(plan, rank, meeting) for rank in ranks)
            for follower in followers:  # or the first would wait for one that died on its way
                follower.ready()
            with _joined(plan, 0, meeting) as replicas:
                try:
                    yield replicas
                except RuntimeError as error:  # a word to somebody who is there no more, perhaps
                    _tell_why(followers, error)
                    raise
            for follower in followers:
                follower.process.join(LEAVING_SECONDS)
        finally:
            for follower in followers:
                follower.process.kill()
                follower.process.join()


class _Follower:
    """A process that is one of the replicas."""

    def __init__(self, plan: RunPlan, rank: int, meeting: Path) -> None:
        self.rank = rank
        self.process, self.pipe = started_worker(_follow, rank, meeting)
        with suppress(OSError):  # to one that has just died: its end is heard when listening
            self.pipe.send(plan)

    def ready(self) -> None:
        """Wait until it is about to join.

        Raises:
            ReplicaLost: it never will.
            FsamError: for a reason that is the user's to mend.
        """
        if (word := self._heard()) is not None:
            raise word

    def trouble(self) -> Exception | None:
        """What ended it, if anything has."""
        return self._heard() if self.pipe.poll() else None

    def _heard(self) -> Exception | None:
        try:
            word: Exception | None = self.pipe.recv()
        except (EOFError, OSError):
            self.process.join()
            code = self.process.exitcode or 0
            how = f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"
            return ReplicaLost(f"the process of replica {self.rank} {how}")
        return word


def _tell_why(followers: list[_Follower], error: RuntimeError) -> None:
    """Raise what a replica says it ended by, for an error that may come of its end.

    The connection breaks when the process ends, and its last word was sent before.
    """
    ended = wait([follower.pipe for follower in followers], timeout=1.0)
    for follower in followers:
        if follower.pipe in ended and (why := follower.trouble()) is not None:
            raise why from error


def _follow(pipe: Connection, rank: int, meeting: Path) -> None:
    """A replica's life: one run. Signals, records and the user are the first one's business."""
    ignored_from_now_on()
    hooks = Hooks(checkpoint_seconds=float("inf"))
    with suppress(OSError, Interrupted):  # nobody to tell; the first one was asked to stop
        try:
            plan = pipe.recv()  # loads the plan's plugins, which may have been changed
            if plan.device == "cuda":
                torch.cuda.set_device(rank)
            pipe.send(None)
            with _joined(plan, rank, meeting) as replicas:
                follow(plan, hooks, replicas)
        except Interrupted:
            raise
        except FsamError as error:
            pipe.send(error)
        except Exception as error:  # whatever a model or method of the user's does wrong
            lost = ReplicaLost(f"replica {rank}: {type(error).__name__}: {error}")
            lost.add_note(traceback.format_exc())  # for the log
            pipe.send(lost)


@contextmanager
def _joined(plan: RunPlan, rank: int, meeting: Path) -> Iterator[Replicas]:
    """Among the others until the block ends, however it ends."""
    if sys.platform in LOOPBACK:  # gloo looks for the machine by its name, which may lead nowhere
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK[sys.platform])
    gpu = plan.device == "cuda" and distributed.is_nccl_available()
    distributed.init_process_group(
        "cpu:gloo,cuda:nccl" if gpu else "gloo",
        init_method=meeting.as_uri(),
        rank=rank,
        world_size=plan.recipe.replicas,
        timeout=WAITING,
    )
    try:
        yield Together()
    finally:
        distributed.destroy_process_group()
