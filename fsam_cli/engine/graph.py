"""Whole steps as CUDA graphs: a small network is no longer bound by the launching of its kernels.

One graph holds both passes, the climb, the way back and the update, for one size of batch. What
changes from step to step goes in through memory of fixed place: images, labels, learning rate and
share of the radius. Steps that do not fit a graph (a trailing batch, a step that is looked at) are
taken as ever, on the same weights; what can never be captured makes every step such a one, with a
reason. The numbers are those of ordinary steps to rounding. Written for CUDA and not yet run on a
device: `cuda_graph` is off by default.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from typing import Protocol

import torch
from torch import Tensor

from fsam_cli.engine.batches import Batch
from fsam_cli.engine.sgd import MomentumSgd
from fsam_cli.engine.step import Moment, Pass, Stepper, Watch

WARM_UP = 3  # eager steps before a capture, undone afterwards


class Recorder(Protocol):
    """Turns a function without arguments into one that does the same work again."""

    def aside(self) -> AbstractContextManager[object]:
        """Where to warm up, away from the stream of all other work."""

    def record(self, function: Callable[[], Pass]) -> tuple[Callable[[], object], Pass]:
        """The replay, and the places where its results then lie."""


class CudaRecorder:
    """Captures on the current CUDA device."""

    @contextmanager
    def aside(self) -> Iterator[None]:
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            yield
        torch.cuda.current_stream().wait_stream(stream)

    def record(self, function: Callable[[], Pass]) -> tuple[Callable[[], object], Pass]:
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            results = function()
        return graph.replay, results


class GraphedStepper:
    """Takes the steps of a `Stepper`, from a graph where it can.

    Args:
        stepper: whose weights, method and optimiser they are.
        recorder: how a step is captured.
        size: of the batches that are captured; a trailing one is taken as ever.
    """

    def __init__(self, stepper: Stepper, recorder: Recorder, *, size: int) -> None:
        self.stepper, self._recorder, self._size = stepper, recorder, size
        self.why_not: str | None = _why_never(stepper)
        self._graphs: dict[bool, _Graph] = {}  # by whether the step climbs

    def step(self, batch: Batch, when: Moment, watch: Watch | None = None) -> Pass:
        """One whole step, as `Stepper.step`."""
        climbs = self.stepper.method.climbs_in(when.epoch, when.epochs)
        fits = self.why_not is None and watch is None and len(batch.labels) == self._size
        if fits and climbs not in self._graphs:
            self.why_not = self._warmed_up(batch, when) or self._captured(climbs, batch, when)
            fits = self.why_not is None
        if not fits:
            return self.stepper.step(batch, when, watch)
        return self._graphs[climbs].replay(batch, when)

    def _captured(self, climbs: bool, batch: Batch, when: Moment) -> str | None:
        """Capture this kind of step; gives what stood against it, if anything did."""
        try:
            self._graphs[climbs] = _Graph(self.stepper, batch, when, self._recorder)
        except RuntimeError as error:  # of CUDA: the network waits for the host, for one
            return f"the capture failed ({' '.join(str(error).split())[:200]})"
        return None

    def _warmed_up(self, batch: Batch, when: Moment) -> str | None:
        """Take steps that make the libraries ready and show whether the network draws random
        numbers; afterwards everything is as before. Gives what stands against a capture."""
        saved = _Snapshot(self.stepper)
        with self._recorder.aside():
            for _ in range(WARM_UP):
                self.stepper.step(batch, when)
            draws = _draws(self.stepper, batch, when)
        saved.put_back()
        return (
            "the network draws random numbers (dropout, for one) in every pass" if draws else None
        )


class _Graph:
    """One captured step and the memory through which it is fed."""

    def __init__(self, stepper: Stepper, batch: Batch, when: Moment, recorder: Recorder) -> None:
        self.stepper = stepper
        self.batch = Batch(batch.images.clone(), batch.labels.clone(), batch.corrupted.clone())
        stepper.set_moment(when)
        with stepper.moments_from_memory():
            saved = _Snapshot(stepper)
            try:
                captured = recorder.record(lambda: stepper.step(self.batch, when))
            finally:
                saved.put_back()  # a capture runs nothing, another recorder may
            self._replay, self._results = captured

    def replay(self, batch: Batch, when: Moment) -> Pass:
        self.batch.images.copy_(batch.images)
        self.batch.labels.copy_(batch.labels)
        self.stepper.set_moment(when)
        with self.stepper.moments_from_memory():
            self._replay()
        return self._results


class _Snapshot:
    """Everything a step changes, to be put back into the same places."""

    def __init__(self, stepper: Stepper) -> None:
        live = [stepper.flat.weights, stepper.optimizer.nonfinite, *stepper.model.buffers()]
        if stepper.memory is not None:
            live.append(stepper.memory)
        if isinstance(stepper.optimizer.inner, MomentumSgd):
            momentum = stepper.optimizer.inner.momentum()
            live += [] if momentum is None else [momentum]
        self._pairs: list[tuple[Tensor, Tensor]] = [(each, each.clone()) for each in live]

    @torch.no_grad()
    def put_back(self) -> None:
        for place, value in self._pairs:
            place.copy_(value)


def _why_never(stepper: Stepper) -> str | None:
    """Why no step of this stepper can be captured; None if nothing is known to stand against it."""
    if not isinstance(stepper.optimizer.inner, MomentumSgd):
        return "the base optimiser is not momentum SGD"
    if stepper.method.fisher_source is not None:
        return "the Fisher information of single images waits for the host"
    return None


def _draws(stepper: Stepper, batch: Batch, when: Moment) -> bool:
    """Whether a pass, which does not seed here, moves the random state of its device."""
    device = batch.images.device
    before = _random_state(device)
    with stepper.moments_from_memory():
        stepper.gradient(batch, when.number)
    return not torch.equal(before, _random_state(device))


def _random_state(device: torch.device) -> Tensor:
    return torch.cuda.get_rng_state(device) if device.type == "cuda" else torch.get_rng_state()
