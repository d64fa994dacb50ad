"""Seconds by purpose, so that training time is training time."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Literal, get_args

import torch

# `compiling`: first steps of a kind, with `compile` or `cuda_graph`.
Purpose = Literal["train", "evaluation", "diagnostics", "records", "compiling"]


class Clock:
    """Adds up wall seconds per purpose; a purpose begun inside another pauses the outer one."""

    def __init__(self, device: torch.device) -> None:
        self.seconds: dict[Purpose, float] = dict.fromkeys(get_args(Purpose), 0.0)
        self._device = device
        self._running: list[Purpose] = []
        self._since = 0.0

    @contextmanager
    def timing(self, purpose: Purpose) -> Iterator[None]:
        """Count what happens inside towards `purpose`."""
        self._switch()
        self._running.append(purpose)
        try:
            yield
        finally:
            self._switch()
            self._running.pop()

    def _switch(self) -> None:
        if self._device.type == "cuda":
            torch.cuda.synchronize(self._device)  # or the queue's work counts for the next purpose
        now = time.perf_counter()
        if self._running:
            self.seconds[self._running[-1]] += now - self._since
        self._since = now
