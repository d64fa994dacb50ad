"""Climbing: from a method's direction to perturbed weights, and exactly back.

The one place that turns `Minimiser.sums`, `length` and `direction` into perturbed weights, for the
training engine and for the optimisers of one's own loop.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from fsam_cli.minimisers._contract import Chunk, Minimiser


@torch.no_grad()
def ascent_length(method: Minimiser, chunks: Sequence[Chunk]) -> Tensor:
    """The factor by which `direction` becomes eps, over all chunks together.

    0 where there is nowhere to climb. On the CPU, a gradient whose squares leave the range of
    float32 is measured again in float64; on a GPU that would stop the queue, and such a step
    counts as one without a perturbation.
    """
    factor = _length(method, chunks)
    if factor.device.type == "cpu" and factor.item() == 0 and _squares_out_of_range(chunks):
        wide = [
            Chunk(at.w.double(), at.g.double(), None if at.f is None else at.f.double(), at.kind)
            for at in chunks
        ]
        factor = _length(method, wide).float()
    return factor


def _length(method: Minimiser, chunks: Sequence[Chunk]) -> Tensor:
    columns = zip(*(method.sums(at) for at in chunks), strict=True)
    return method.length(tuple(torch.stack(column).sum() for column in columns))


def _squares_out_of_range(chunks: Sequence[Chunk]) -> bool:
    largest = max(float(at.g.abs().max()) for at in chunks)
    return largest > 0 and largest != float("inf") and largest == largest


@torch.no_grad()
def perturb_(method: Minimiser, chunks: Sequence[Chunk], saved: Sequence[Tensor]) -> Tensor:
    """w + eps in place, the weights copied to `saved` first; gives the length factor."""
    factor = ascent_length(method, chunks)
    for at, keep in zip(chunks, saved, strict=True):
        keep.copy_(at.w)
        at.w.add_(method.direction(at) * factor)
    return factor


@torch.no_grad()
def restore_(chunks: Sequence[Chunk], saved: Sequence[Tensor]) -> None:
    """Back to w, bit for bit: a copy, since (w + eps) - eps is not w."""
    for at, keep in zip(chunks, saved, strict=True):
        at.w.copy_(keep)


@contextmanager
def running_statistics_frozen(model: nn.Module) -> Iterator[None]:
    """Normalise by the batch, as in training, and leave the running statistics and counters alone.

    Turning `track_running_stats` off does exactly this. (Setting the momentum to 0 still counts
    batches, and loses the momentum when done twice.)
    """
    layers = [
        module
        for module in model.modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats
    ]
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
