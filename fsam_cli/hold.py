"""Ctrl-C and SIGTERM can wait; apart from `signals`, since it is needed before anything heavy."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

ASKING = {signal.SIGINT, signal.SIGTERM}
CAN_WAIT = hasattr(signal, "pthread_sigmask")  # not on Windows, which knows no such groups


@contextmanager
def signals_held_back() -> Iterator[None]:
    """Block SIGINT and SIGTERM in this thread until the block ends. A process started inside keeps
    them blocked until it unblocks them itself.

    Large libraries do not survive a Ctrl-C in the middle of their import: numpy is left half there,
    torch aborts. And one that reaches the whole group would end a process that is still importing,
    with a traceback; such a process calls `signals.ignored_from_now_on` when it is ready.
    """
    if not CAN_WAIT:
        yield
        return
    before = signal.pthread_sigmask(signal.SIG_BLOCK, ASKING)
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)
