"""Processes that train one run together, each on its part of every batch (`replicas` of a recipe).

Every replica holds all weights and takes every step. The gradient is of the whole batch's mean
loss, summed over the replicas, so that all climb one hill and step alike, to the same bits. With
`m_sharpness` every replica climbs its own hills and only what the update uses is summed. Batch
normalisation takes the statistics of each replica's part. What the first replica's passes leave in
the buffers is what all have after a step.

The first one leads: it alone records, saves, and is asked to stop.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, distributed, nn

from fsam_cli.errors import UsageError


class ConnectionBroken(Exception):
    """Another replica cannot be reached: it has ended, most likely, for a reason of its own."""


class Replicas(Protocol):
    """All processes of a run, as one of them sees them. What they do together all must do."""

    @property
    def rank(self) -> int:
        """Of this process, from 0."""

    @property
    def size(self) -> int:
        """Their number."""

    def sum_(self, tensor: Tensor) -> None:
        """Put the sum over all in the place of each one's tensor."""

    def gathered(self, mine: Any) -> list[Any]:
        """What each has, by rank; for little things on the CPU."""

    def copy_first_(self, tensors: Iterable[Tensor]) -> None:
        """Put the first one's values in the place of everybody's."""

    def any(self, *mine: bool) -> list[bool]:
        """For each question whether anybody says yes."""


class Alone:
    """One process: nobody to wait for."""

    rank, size = 0, 1

    def sum_(self, tensor: Tensor) -> None: ...

    def gathered(self, mine: Any) -> list[Any]:
        return [mine]

    def copy_first_(self, tensors: Iterable[Tensor]) -> None: ...

    def any(self, *mine: bool) -> list[bool]:
        return list(mine)


ALONE = Alone()


class Together:
    """Processes of torch's default process group, which takes tensors of the CPU and the device.

    What they do together raises ConnectionBroken where one of them has ended.
    """

    def __init__(self) -> None:
        self.rank, self.size = distributed.get_rank(), distributed.get_world_size()

    def sum_(self, tensor: Tensor) -> None:
        self._meet_before(tensor.device)
        with talking():
            distributed.all_reduce(tensor)

    def gathered(self, mine: Any) -> list[Any]:
        found: list[Any] = [None] * self.size
        with talking():
            distributed.all_gather_object(found, mine)
        return found

    def copy_first_(self, tensors: Iterable[Tensor]) -> None:
        by_kind: dict[torch.dtype, list[Tensor]] = {}
        for tensor in tensors:
            by_kind.setdefault(tensor.dtype, []).append(tensor)
        for alike in by_kind.values():  # in one message: a network may have a hundred
            message = torch.cat([tensor.detach().reshape(-1) for tensor in alike])
            self._meet_before(message.device)
            with talking():  # bytes, for the kinds of numbers that a network does not know
                distributed.broadcast(message.view(torch.uint8), src=0)
            values = torch.split(message, [tensor.numel() for tensor in alike])
            for tensor, value in zip(alike, values, strict=True):
                tensor.detach().copy_(value.view(tensor.shape))

    def any(self, *mine: bool) -> list[bool]:
        votes = torch.tensor(mine, dtype=torch.int32)
        with talking():
            distributed.all_reduce(votes, op=distributed.ReduceOp.MAX)
        return [bool(vote) for vote in votes.tolist()]

    def _meet_before(self, device: torch.device) -> None:
        """Wait, on the CPU, until all are there to give their GPUs the same to do together: a GPU
        waits for ever for one whose process has ended, and whoever asks it anything waits along."""
        if device.type != "cpu":
            self.any(False)


@contextmanager
def talking() -> Iterator[None]:
    """What fails inside is a connection (or, rarely, a message; the error says)."""
    try:
        yield
    except RuntimeError as error:
        raise ConnectionBroken(str(error)) from error


def part_of(start: int, stop: int, replicas: Replicas) -> tuple[int, int]:
    """The part of a batch, from image `start` to `stop`, that this replica has; in order of rank,
    and equal to one image."""
    size = stop - start
    first, last = (
        start + size * rank // replicas.size for rank in (replicas.rank, replicas.rank + 1)
    )
    return first, last


def share_buffers(model: nn.Module, replicas: Replicas) -> None:
    """The network's buffers are everywhere what the first replica's passes made of them."""
    if replicas.size > 1:
        replicas.copy_first_(model.buffers())


def refuse_apart(weights: Tensor, replicas: Replicas) -> None:
    """Raise UsageError where replicas no longer hold the same weights to the bit.

    Args:
        weights: the flat float32 ones.
        replicas: all of them.
    """
    if replicas.size == 1:
        return
    sums = replicas.gathered(int(weights.view(torch.int32).sum(dtype=torch.int64)))
    if len(set(sums)) > 1:
        raise UsageError(
            "the replicas no longer hold the same weights: a method or model draws random numbers "
            "or keeps a state of its own; train it with replicas: 1"
        )
