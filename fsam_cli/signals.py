"""Ctrl-C and SIGTERM, heard as wishes to stop."""

from __future__ import annotations

import multiprocessing
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

ONE_WISH_SECONDS = 1.0  # schedulers signal a process and then its group, and that is one wish


@contextmanager
def stop_wishes(heard: Callable[[int], None]) -> Iterator[None]:
    """Calls `heard(n)` at the n-th Ctrl-C or SIGTERM, from 1, in the main thread.

    Signals within a second of a wish belong to it. What `heard` raises is raised where the work
    stands. The handlers from before are back afterwards, however the block ends.

    Raises:
        ValueError: not called in the main thread (Python's own rule for signal handlers).
    """
    wishes, last = 0, float("-inf")

    def hear(_signal: int, _frame: Any) -> None:
        nonlocal wishes, last
        now = time.monotonic()
        if now - last > ONE_WISH_SECONDS:
            wishes, last = wishes + 1, now
            heard(wishes)

    before = {number: signal.signal(number, hear) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Wish:
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


_ASKING = {signal.SIGINT, signal.SIGTERM}


@contextmanager
def held_back() -> Iterator[None]:
    """This thread's signals wait until the block ends, and so do those of a process started inside.

    A Ctrl-C that reaches the whole group would else end a process that is still importing, with a
    traceback. That process calls `ignored_from_now_on` when it is ready.
    """
    if not hasattr(signal, "pthread_sigmask"):  # Windows, which knows no such groups
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, _ASKING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def ignored_from_now_on() -> None:
    """Stopping is another process's business; also what has been waiting is dropped."""
    for number in _ASKING:
        signal.signal(number, signal.SIG_IGN)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_UNBLOCK, _ASKING)
