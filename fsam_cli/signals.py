"""Turns Ctrl-C and SIGTERM into requests to stop, and starts workers that ignore both."""

from __future__ import annotations

import multiprocessing.process
import os
import signal
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing import resource_tracker
from multiprocessing.connection import Connection
from typing import Any

from fsam_cli.hold import ASKING, CAN_WAIT, signals_held_back

ONE_REQUEST_SECONDS = 1.0  # schedulers signal a process and then its group, and that is one request


@contextmanager
def stop_requests(heard: Callable[[int], None]) -> Iterator[None]:
    """Calls `heard(n)` at the n-th Ctrl-C or SIGTERM, from 1, in the main thread.

    Signals within a second of a request belong to it. What `heard` raises is raised where the work
    stands. The handlers from before are back afterwards, however the block ends.

    Raises:
        ValueError: not called in the main thread (Python's own rule for signal handlers).
    """
    requests, last = 0, float("-inf")

    def hear(_signal: int, _frame: Any) -> None:
        nonlocal requests, last
        now = time.monotonic()
        if now - last > ONE_REQUEST_SECONDS:
            requests, last = requests + 1, now
            heard(requests)

    before = {number: signal.signal(number, hear) for number in ASKING}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def interrupt(_request: int) -> None:
    """For `stop_requests`: SIGTERM ends the work inside as Ctrl-C does."""
    raise KeyboardInterrupt


class StopFlag:
    """Stop, please: set once, seen by this process and its workers.

    A byte of shared memory and no `multiprocessing.Event`: that one has a lock, on which a signal
    handler waits for ever if it interrupts the very line that holds it.
    """

    def __init__(self) -> None:
        self._byte = multiprocessing.get_context("spawn").RawValue("b", 0)

    def set(self) -> None:
        self._byte.value = 1

    def is_set(self) -> bool:
        return bool(self._byte.value)


def ignored_from_now_on() -> None:
    """Stopping is another process's business; also what has been waiting is dropped."""
    for number in ASKING:
        signal.signal(number, signal.SIG_IGN)
    if CAN_WAIT:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, ASKING)


def started_worker(
    life: Callable[..., None], *arguments: object
) -> tuple[multiprocessing.process.BaseProcess, Connection]:
    """A new process in `life(pipe, *arguments)`, and our end of its pipe.

    Whoever starts it ends it; it should look whether its parent is still there. (It is no daemon in
    multiprocessing's sense: such a one could have no workers of its own, which a plugin's data
    loader may start.)

    Ctrl-C and SIGTERM wait until it calls `ignored_from_now_on`; what it prints goes to stderr.
    """
    context = multiprocessing.get_context("spawn")
    ours, theirs = context.Pipe()
    process = context.Process(target=_begun, args=(life, theirs, *arguments))
    if CAN_WAIT:
        # Started along with the first worker, this helper of multiprocessing would let the
        # signals through again just before the worker starts.
        resource_tracker.ensure_running()
    with signals_held_back():
        process.start()
    theirs.close()
    return process, ours


def how_it_ended(process: multiprocessing.process.BaseProcess) -> str:
    """`was killed by signal 9`, `ended with code 1`; waits for the end."""
    process.join()
    code = process.exitcode or 0
    return f"was killed by signal {-code}" if code < 0 else f"ended with code {code}"


def _begun(life: Callable[..., None], pipe: Connection, *arguments: object) -> None:
    # Results are printed by the process that started it.
    sys.stdout = sys.stderr
    with suppress(OSError):  # also what is printed below Python, as gloo does in some versions
        os.dup2(2, 1)
    life(pipe, *arguments)
