"""The memory that a minimiser takes beyond weights, gradient and momentum.

Counted from making it, weights and gradient being there, through three steps: the most bytes alive
at once, held vectors and temporaries alike, less one vector for the momentum where there is one. On
a GPU torch's allocator keeps that count; on a CPU torch's profiler records every allocation,
whoever makes it.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import accumulate
from pathlib import Path
from typing import Any

import torch

STEPS = 3  # the first allocates what is kept, the later ones what is not


def peak_bytes(run: Callable[[], object], device: torch.device) -> int:
    """The most bytes alive at once of those that `run` allocates, those it frees again included.

    Args:
        run: allocates on the device; what it returns is alive until the count is taken.
        device: whose memory.
    """
    if device.type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        # Requested, not allocated: a block may be up to a megabyte larger than what is asked for.
        before: int = torch.cuda.memory_stats(device)["requested_bytes.all.current"]
        run()
        peak: int = torch.cuda.memory_stats(device)["requested_bytes.all.peak"]
        return peak - before
    with (
        _silent_stderr(),
        torch.autograd.profiler.profile(use_kineto=False, profile_memory=True) as profile,
    ):
        kept = run()
    del kept
    everything: Any = profile.kineto_results
    events = [event for event in everything.events() if event.name() == "[memory]"]
    events.sort(key=lambda event: event.start_ns())
    changes: list[int] = [event.nbytes() for event in events]  # negative where memory is freed
    return max(accumulate(changes, initial=0))


def extra_memory(
    run: Callable[[], object], weights: int, device: torch.device, *, momentum: bool = True
) -> float:
    """Peak bytes beyond weights, gradient and momentum, as a multiple of the weights' bytes.

    Args:
        run: makes the minimiser and takes `STEPS` steps.
        weights: how many there are.
        momentum: whether the base optimiser keeps one.
    """
    return peak_bytes(run, device) / (4 * weights) - int(momentum)


@contextmanager
def _silent_stderr() -> Iterator[None]:
    """torch's profiler announces itself on the process's stderr, past Python."""
    sys.stderr.flush()
    kept = os.dup(2)
    with Path(os.devnull).open("wb") as nothing:
        os.dup2(nothing.fileno(), 2)
    try:
        yield
    finally:
        os.dup2(kept, 2)
        os.close(kept)
