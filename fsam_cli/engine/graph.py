"""Whole steps as CUDA graphs: a small network is no longer bound by the launching of its kernels.

One graph holds both passes, the climb, the way back and the update, for one size of batch. What
changes from step to step goes in through memory of fixed place: images, labels, learning rate and
share of the radius. Steps that do not fit a graph (a trailing batch, a step that is looked at) are
eager, on the same weights; if capture is impossible all steps are, and the log says why. The
numbers are those of ordinary steps to rounding. Written for CUDA and not yet run on a
device: `cuda_graph` is off by default.
"""

from __future__ import annotations

import gc
import warnings
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, suppress
from typing import Any, Protocol

import torch
from torch import Tensor

from fsam_cli.engine.batches import Batch
from fsam_cli.engine.buffers import KeptBuffers
from fsam_cli.engine.sgd import MomentumSgd
from fsam_cli.engine.step import Pass, StepInfo, Stepper, Watch
from fsam_cli.errors import in_a_line

WARM_UP = 3  # eager steps before a capture, undone afterwards
AHEAD = 4  # replays that may be queued: enough to keep the device busy, few enough to stop soon


class Recorder(Protocol):
    """Turns a function without arguments into one that does the same work again."""

    def aside(self) -> AbstractContextManager[object]:
        """Where to warm up, away from the stream of all other work."""

    def refusing_to_wait(self) -> AbstractContextManager[object]:
        """Inside, what waits for the device raises RuntimeError."""

    def record(self, function: Callable[[], Pass]) -> tuple[Callable[[], object], Pass]:
        """The replay, and the places where its results then lie."""


class CudaRecorder:
    """Captures on the current CUDA device.

    All graphs of a recorder work in the same memory, one after the other: what a replay gives is
    to be read before the next one.
    """

    def __init__(self) -> None:
        self._pool: Any = None  # of memory; made with the first graph
        self._queued: deque[torch.cuda.Event] = deque()

    @contextmanager
    def aside(self) -> Iterator[None]:
        before = torch.cuda.current_stream()
        stream = torch.cuda.Stream()  # type: ignore[no-untyped-call]
        stream.wait_stream(before)
        try:
            with torch.cuda.stream(stream):
                yield
        finally:
            before.wait_stream(stream)
            release_unused_memory()  # no other stream can use what this one has left

    @contextmanager
    def refusing_to_wait(self) -> Iterator[None]:
        before = torch.cuda.get_sync_debug_mode()
        try:
            with warnings.catch_warnings():  # torch says once that this is a prototype
                warnings.filterwarnings("ignore", message="Synchronization debug mode")
                torch.cuda.set_sync_debug_mode("error")
            yield
        finally:
            torch.cuda.set_sync_debug_mode(before)

    def record(self, function: Callable[[], Pass]) -> tuple[Callable[[], object], Pass]:
        before, graph = torch.cuda.current_stream(), torch.cuda.CUDAGraph()
        if self._pool is None:
            self._pool = torch.cuda.graph_pool_handle()
        try:
            with _no_garbage_collected(), torch.cuda.graph(graph, pool=self._pool):
                results = function()
        finally:
            torch.cuda.set_stream(before)  # torch does not come back from a capture that fails

        def replay() -> None:
            # The host would run an epoch ahead, and could neither save nor stop in time.
            if len(self._queued) == AHEAD:
                self._queued.popleft().synchronize()
            graph.replay()
            self._queued.append(torch.cuda.current_stream().record_event())

        return replay, results


def release_unused_memory() -> None:
    """Give the device what this process keeps in store for later."""
    gc.collect()
    with suppress(RuntimeError):  # before torch 2.13, once a capture has broken
        torch.cuda.empty_cache()


@contextmanager
def _no_garbage_collected() -> Iterator[None]:
    """To destroy another graph, or an event, inside a capture would break it."""
    gc.collect()
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


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

    def step(self, batch: Batch, when: StepInfo, watch: Watch | None = None) -> Pass:
        """One whole step, as `Stepper.step`."""
        climbs = self.stepper.climbs(when)
        fits = self.why_not is None and watch is None and len(batch.labels) == self._size
        if fits and climbs not in self._graphs:
            # Warmed up in the place where it is captured: cuDNN chooses anew for another alignment,
            # which must not happen in a capture.
            place = batch.clone()
            self.why_not = self._warmed_up(place, when) or self._captured(climbs, place, when)
            fits = self.why_not is None
        if not fits:
            return self.stepper.step(batch, when, watch)
        return self._graphs[climbs].replay(batch, when)

    def _captured(self, climbs: bool, batch: Batch, when: StepInfo) -> str | None:
        """Capture this kind of step; gives what stood against it, if anything did."""
        try:
            self._graphs[climbs] = _Graph(self.stepper, batch, when, self._recorder)
        except RuntimeError as error:  # of CUDA: the network waits for the host, for one
            return f"the capture failed ({in_a_line(error)[:200]})"
        return None

    def _warmed_up(self, batch: Batch, when: StepInfo) -> str | None:
        """Take steps that make the libraries ready and show whether the network draws random
        numbers or waits for the device; afterwards everything is as before. Gives what stands
        against a capture, which had better not be begun: one that fails leaves torch unwell."""
        saved = _Snapshot(self.stepper)
        try:
            with self._recorder.aside():
                for _ in range(WARM_UP):
                    self.stepper.step(batch, when)
                if name := saved.buffers.replaced():  # a replay would read the old one every time
                    return (
                        f"the network puts another tensor in the place of its buffer {name} in "
                        "every pass"
                    )
                if _draws(self.stepper, batch, when):
                    return "the network draws random numbers (dropout, for example) in every pass"
                return self._waits(batch, when)
        finally:
            saved.put_back()

    def _waits(self, batch: Batch, when: StepInfo) -> str | None:
        """What a step says that must not wait; the first ones may, to compile and to choose."""
        try:
            with self.stepper.settings_from_memory(when), self._recorder.refusing_to_wait():
                self.stepper.step(batch, when)
        except RuntimeError as error:
            return f"a step waits for the device ({in_a_line(error)[:200]})"
        return None


class _Graph:
    """One captured step, fed through the memory of the batch that it was captured with."""

    def __init__(self, stepper: Stepper, batch: Batch, when: StepInfo, recorder: Recorder) -> None:
        self.stepper, self.batch = stepper, batch
        with stepper.settings_from_memory(when):
            saved = _Snapshot(stepper)
            try:
                captured = recorder.record(lambda: stepper.step(self.batch, when))
            finally:
                saved.put_back()  # a capture runs nothing, another recorder may
            self._replay, self._results = captured

    def replay(self, batch: Batch, when: StepInfo) -> Pass:
        self.batch.copy_(batch)
        with self.stepper.settings_from_memory(when):
            self._replay()
        return self._results


class _Snapshot:
    """Everything a step changes, to be put back into the same places."""

    def __init__(self, stepper: Stepper) -> None:
        self.buffers = KeptBuffers(stepper.model.modules())
        momentum = stepper.optimizer.inner.momentum()
        live = (stepper.flat.weights, stepper.optimizer.nonfinite, stepper.memory, momentum)
        self._pairs = [(each, each.clone()) for each in live if each is not None]

    @torch.no_grad()
    def put_back(self) -> None:
        for place, value in self._pairs:
            place.copy_(value)
        self.buffers.put_back()


def _why_never(stepper: Stepper) -> str | None:
    """Why no step of this stepper can be captured; None if nothing is known to stand against it."""
    if not isinstance(stepper.optimizer.inner, MomentumSgd):
        return "the base optimiser is not momentum SGD"
    if stepper.method.fisher_source is not None:
        return "the Fisher information of single images waits for the host"
    return None


def _draws(stepper: Stepper, batch: Batch, when: StepInfo) -> bool:
    """Whether a pass, which does not seed here, moves a random state: its device's, whose masks
    would be new in the second pass, or the CPU's, whose draws would be those of the capture."""
    before = _random_states(batch.images.device)
    with stepper.settings_from_memory(when):
        stepper.gradient(batch, when.number)
    after = _random_states(batch.images.device)
    return not all(torch.equal(*each) for each in zip(before, after, strict=True))


def _random_states(device: torch.device) -> list[Tensor]:
    states = [torch.get_rng_state()]
    return [*states, torch.cuda.get_rng_state(device)] if device.type == "cuda" else states
