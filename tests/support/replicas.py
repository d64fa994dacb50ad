"""Replicas that are threads of this process, for what draws no random numbers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

SECONDS = 60  # for one of them to come to where the others wait


class Threads:
    """One of `size` threads that share a table."""

    def __init__(self, rank: int, size: int, barrier: threading.Barrier, table: list[Any]):
        self.rank, self.size, self._barrier, self._table = rank, size, barrier, table

    def sum_(self, tensor: Tensor) -> None:
        tensor.copy_(torch.stack(self.gathered(tensor.clone())).sum(dim=0))

    def gathered(self, mine: Any) -> list[Any]:
        self._table[self.rank] = mine
        self._barrier.wait(SECONDS)
        found = list(self._table)
        self._barrier.wait(SECONDS)
        return found

    def copy_first_(self, tensors) -> None:
        mine = list(tensors)
        for tensor, first in zip(mine, self.gathered([t.clone() for t in mine])[0], strict=True):
            tensor.copy_(first)

    def any(self, *mine: bool) -> list[bool]:
        return [any(votes) for votes in zip(*self.gathered(mine), strict=True)]


def together(size: int, life: Callable[[Threads], Any]) -> list[Any]:
    """What `life` gives for each of so many replicas, which live at the same time."""
    barrier, table = threading.Barrier(size), [None] * size

    def one(rank: int) -> Any:
        try:
            return life(Threads(rank, size, barrier, table))
        except BaseException:
            barrier.abort()  # or the others wait for it
            raise

    with ThreadPoolExecutor(size) as threads:
        lives = [threads.submit(one, rank) for rank in range(size)]
    errors = [error for life in lives if (error := life.exception())]
    for error in sorted(errors, key=lambda error: isinstance(error, threading.BrokenBarrierError)):
        raise error  # the first cause
    return [life.result() for life in lives]
