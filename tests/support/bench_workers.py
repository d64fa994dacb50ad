"""Lives of workers that go wrong. torch is only imported by those that answer."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path


def ends(pipe):
    """Gone before anything is built."""
    os._exit(3)


def killed(pipe):
    """As by the system when memory runs out."""
    os.kill(os.getpid(), signal.SIGKILL)


def silent(pipe):
    """Never says a word."""
    time.sleep(600)


def one_falls(folder, how, pipe):
    """Works, but the first to be ordered something fails, or falls silent, for good."""
    from fsam_cli.measure.bench.workers import Done, Failed, Ready

    pipe.recv()
    pipe.send(Ready("eager", 0.0))
    while True:
        order = pipe.recv()
        try:
            Path(folder, "taken").touch(exist_ok=False)
        except FileExistsError:
            pipe.send(Done(100 * order.threads, 2.0))
            continue
        if how == "silent":
            time.sleep(600)
        pipe.send(Failed("OutOfMemoryError: none left"))
        return
