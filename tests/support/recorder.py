"""What stands in for CUDA graphs on a CPU."""

from __future__ import annotations

import math
from contextlib import nullcontext


class CallAgain:
    """A recorder for the CPU: the function runs once at the capture, and at each replay writes
    its results where they lay then, as a CUDA graph does.

    With the flat weights it also uses the gradient buffers of the capture at each replay, whatever
    steps came between, leaves Python's view of them alone, and leaves nothing in them that a later
    step could take for a gradient.
    """

    def __init__(self, flat=None):
        self.captures = self.replays = 0
        self._flat = flat

    def aside(self):
        return nullcontext()

    def refusing_to_wait(self):
        return nullcontext()

    def record(self, function):
        self.captures += 1
        captured = None if self._flat is None else self._flat.gradient
        results = function()

        def replay():
            self.replays += 1
            again = function() if self._flat is None else self._at(captured, function)
            results.loss.copy_(again.loss)
            results.predictions.copy_(again.predictions)

        return replay, results

    def _at(self, captured, function):
        flat = self._flat
        before = flat.gradient
        _begin_with(flat, captured)
        again = function()
        _begin_with(flat, before)
        for buffer in (flat.gradient, flat.spare):
            buffer.fill_(math.nan)
        return again


def _begin_with(flat, buffer):
    if flat.gradient is not buffer:
        flat.exchange_gradients()
    assert flat.gradient is buffer
