"""The replicas of a run as processes of this machine: the one that carries out the run is the
first, and starts the others.

They meet through a file and talk over the loopback interface (gloo), GPUs directly (NCCL). Whoever
ends, for whatever reason, closes its connections, and the others' next word to each other fails. A
GPU hears nothing of that, so that processes always have a word with each other before their GPUs.
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
from threading import Thread

import torch
from torch import distributed

from fsam_cli.engine.replicas import ALONE, ConnectionBroken, Replicas, Together, talking
from fsam_cli.engine.run import follow
from fsam_cli.engine.train import Hooks
from fsam_cli.errors import FsamError
from fsam_cli.recipe.plan import RunPlan
from fsam_cli.signals import how_it_ended, ignored_from_now_on, started_worker

WAITING = timedelta(minutes=10)  # for a replica that is alive; one that has died is noticed at once
LEAVING_SECONDS = 10.0  # to end by itself, once the first one has
LOOPBACK = {"linux": "lo", "darwin": "lo0"}


class ReplicaLost(Exception):
    """A replica ended before the run did; says which and how."""


@contextmanager
def replicated(plan: RunPlan) -> Iterator[Replicas]:
    """The replicas of a run, this process being the first; the others follow it inside.

    After an error on GPUs this process has to end: it stays in its process group.

    Raises:
        FsamError: what a replica met with and is the user's to mend (unreadable data).
        ReplicaLost: a replica failed, or was killed.
        ConnectionBroken: nothing is heard of a replica.
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
            yield _joined(plan, 0, meeting)
            distributed.destroy_process_group()
            for follower in followers:
                follower.process.join(LEAVING_SECONDS)
        except ConnectionBroken as error:
            if (why := _why(followers)) is not None:
                raise why from error
            raise
        finally:
            for follower in followers:
                follower.process.kill()
                follower.process.join()
            # With NCCL that would wait for those that are no more.
            if plan.device == "cpu" and distributed.is_initialized():
                distributed.destroy_process_group()


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
        if (word := self.heard()) is not None:
            raise word

    def heard(self) -> Exception | None:
        """Its next word, or last: what it ended by. None: that it is about to join."""
        try:
            word: Exception | None = self.pipe.recv()
        except (EOFError, OSError):
            how = how_it_ended(self.process)
            return ReplicaLost(f"the process of replica {self.rank} {how}")
        return word


def _why(followers: list[_Follower]) -> Exception | None:
    """What the first of them ended by that did not just lose a connection; None if all did.

    Whoever fails says so before its connections break.
    """
    silent = list(followers)
    while silent and (ready := wait([follower.pipe for follower in silent], timeout=1.0)):
        for follower in [follower for follower in silent if follower.pipe in ready]:
            silent.remove(follower)
            if not isinstance(word := follower.heard(), ConnectionBroken):
                return word
    return None


def _follow(pipe: Connection, rank: int, meeting: Path) -> None:
    """A replica's life: one run. Signals, records and the user are the first one's business."""
    ignored_from_now_on()
    hooks = Hooks(checkpoint_seconds=float("inf"))
    with suppress(OSError):  # nobody is there to be told
        try:
            plan = pipe.recv()  # loads the plan's plugins, which may have been changed
            Thread(target=_end_with_the_first, args=(pipe,), daemon=True).start()
            if plan.device == "cuda":
                torch.cuda.set_device(rank)
            pipe.send(None)
            follow(plan, hooks, _joined(plan, rank, meeting))
            distributed.destroy_process_group()
        except (FsamError, ConnectionBroken) as error:  # Interrupted, too
            pipe.send(error)
        except Exception as error:  # whatever a model or method of the user's does wrong
            lost = ReplicaLost(f"replica {rank}: {type(error).__name__}: {error}")
            lost.add_note(traceback.format_exc())  # for the log
            pipe.send(lost)


def _end_with_the_first(pipe: Connection) -> None:
    """End this process when that one's end of the pipe is closed, whatever is waited for here."""
    wait([pipe])
    os._exit(1)


def _joined(plan: RunPlan, rank: int, meeting: Path) -> Replicas:
    """All replicas, once all have come to the meeting."""
    if sys.platform in LOOPBACK:  # gloo looks for the machine by its name, which may lead nowhere
        os.environ.setdefault("GLOO_SOCKET_IFNAME", LOOPBACK[sys.platform])
    size = plan.recipe.replicas
    gpu = plan.device == "cuda" and distributed.is_nccl_available()
    with talking():
        distributed.init_process_group(
            "cpu:gloo,cuda:nccl" if gpu else "gloo",
            store=distributed.FileStore(str(meeting), size),  # type: ignore[attr-defined]
            rank=rank,
            world_size=size,
            timeout=WAITING,
        )
    return Together()
