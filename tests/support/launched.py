"""Plans that train nothing, and what a worker does with them."""

from __future__ import annotations

import os
import time
from types import SimpleNamespace

from fsam_cli.engine.run import RunOutcome


def planned(
    name: str = "", *, device: str = "cpu", replicas: int = 1, threads: int = 1, **more: object
) -> SimpleNamespace:
    recipe = SimpleNamespace(replicas=replicas, threads=threads)
    return SimpleNamespace(device=device, name=name, recipe=recipe, **more)


def answer(pipe, reason: str = "") -> None:
    """In place of a worker's work: every plan is done, unless its name says otherwise."""
    while (plan := pipe.recv()) is not None:
        if plan.name == "dies":
            os._exit(9)
        if plan.name == "waits":
            until = time.monotonic() + 60
            while not plan.file.exists() and time.monotonic() < until:
                time.sleep(0.02)
        if plan.name == "is waited for":
            plan.file.touch()
        pipe.send(("over", RunOutcome("done", reason)))
