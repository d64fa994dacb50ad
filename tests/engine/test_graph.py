"""What is captured when, and what is said where that cannot be; here the recorder merely calls the
step again. That the numbers are those of ordinary steps is seen in `test_device`."""

from __future__ import annotations

import warnings
from contextlib import contextmanager
from types import SimpleNamespace

import pytest
import torch

from fsam_cli.engine.clock import Clock
from fsam_cli.engine.diagnostics import Observation
from fsam_cli.engine.graph import AHEAD, CudaRecorder, GraphedStepper
from fsam_cli.engine.step import Pass
from fsam_cli.minimisers.fsam import FisherSam
from fsam_cli.minimisers.sgd import Sgd
from fsam_cli.recipe.schema import Optimizer
from tests.support.networks import at_step, batch, network, stepper
from tests.support.recorder import CallAgain


def test_the_warm_up_is_where_the_capture_is():
    """Other addresses, and cuDNN would choose its algorithms anew in the middle of a capture."""
    one, places = stepper(network(), FisherSam()), []
    recorder = CallAgain()
    one.model.register_forward_pre_hook(lambda _, args: places.append(args[0].data_ptr()))
    batches = [batch(seed=number) for number in range(2)]
    graphed = GraphedStepper(one, recorder, size=12)
    for number, each in enumerate(batches):
        graphed.step(each, at_step(number))
    assert recorder.captures == 1
    assert len(set(places)) == 1
    assert places[0] not in {each.images.data_ptr() for each in batches}


def test_a_step_that_is_looked_at_is_taken_as_ever():
    recorder = CallAgain()
    graphed = GraphedStepper(stepper(network(), FisherSam()), recorder, size=12)
    graphed.step(batch(), at_step(0))
    watch = Observation(Clock(torch.device("cpu")), full=True)
    graphed.step(batch(), at_step(1), watch)
    assert watch.values["eps_norm"] > 0
    assert recorder.replays == 1


@pytest.mark.parametrize(
    ("stepper_", "reason"),
    [
        (lambda: stepper(network(dropout=0.5), FisherSam()), "draws random numbers"),
        (lambda: stepper(network(), Sgd(), optimizer=Optimizer(name="adam")), "not momentum SGD"),
        (lambda: stepper(network("group"), FisherSam(fisher="empirical")), "waits for the host"),
    ],
    ids=["dropout", "adam", "per-image fisher"],
)
def test_what_cannot_be_captured_is_said_and_the_numbers_are_the_ordinary_ones(stepper_, reason):
    recorder = CallAgain()
    plain, graphed = stepper_(), GraphedStepper(stepper_(), recorder, size=12)
    for number in range(3):
        for each in (plain, graphed):
            each.step(batch(seed=number), at_step(number))
    assert reason in graphed.why_not
    assert recorder.captures == 0
    assert torch.equal(graphed.stepper.flat.weights, plain.flat.weights)


def test_results_lie_where_they_lay_at_the_capture():
    graphed = GraphedStepper(stepper(network(), Sgd()), CallAgain(), size=12)
    first: Pass = graphed.step(batch(seed=1), at_step(0))
    second = graphed.step(batch(seed=2), at_step(1))
    assert first.loss.data_ptr() == second.loss.data_ptr()


def test_a_capture_that_fails_is_said_and_the_steps_are_the_ordinary_ones():
    class Fails(CallAgain):
        def record(self, function):
            function()  # half of it may have run
            raise RuntimeError("operation not permitted when\nstream is capturing")

    plain = stepper(network(), FisherSam())
    graphed = GraphedStepper(stepper(network(), FisherSam()), Fails(), size=12)
    for number in range(2):
        plain.step(batch(seed=number), at_step(number))
        graphed.step(batch(seed=number), at_step(number))
    assert graphed.why_not == (
        "the capture failed (operation not permitted when stream is capturing)"
    )
    assert torch.equal(graphed.stepper.flat.weights, plain.flat.weights)


def test_a_network_that_waits_for_the_device_is_not_captured():
    """A capture would break over it, and leave torch's memory and random numbers unwell."""

    class Strict(CallAgain):
        @contextmanager
        def refusing_to_wait(self):
            Waits.allowed = False
            try:
                yield
            finally:
                Waits.allowed = True

    class Waits(torch.nn.Module):
        allowed = True

        def forward(self, x):
            if not Waits.allowed:
                raise RuntimeError("called a synchronizing\nCUDA operation")
            return x

    def made():
        torch.manual_seed(0)
        return stepper(torch.nn.Sequential(Waits(), network()), FisherSam())

    recorder = Strict()
    plain, graphed = made(), GraphedStepper(made(), recorder, size=12)
    for number in range(2):
        plain.step(batch(seed=number), at_step(number))
        graphed.step(batch(seed=number), at_step(number))
    assert graphed.why_not == "a step waits for the device (called a synchronizing CUDA operation)"
    assert recorder.captures == 0
    assert torch.equal(graphed.stepper.flat.weights, plain.flat.weights)


class Counts(torch.nn.Module):
    """Scales by the number of its passes."""

    def __init__(self):
        super().__init__()
        self.register_buffer("n", torch.ones(()))

    def forward(self, x):
        self.n = self.n + 1
        return x / self.n


def test_a_network_that_replaces_a_buffer_is_not_captured():
    """A replay would find the value of the capture in it, step after step."""

    def made():
        return stepper(torch.nn.Sequential(Counts(), network()), FisherSam())

    recorder = CallAgain()
    plain, graphed = made(), GraphedStepper(made(), recorder, size=12)
    for number in range(3):
        plain.step(batch(seed=number), at_step(number))
        graphed.step(batch(seed=number), at_step(number))
    assert graphed.why_not == (
        "the network puts another tensor in the place of its buffer Counts.n in every pass"
    )
    assert recorder.captures == 0
    assert graphed.stepper.model[0].n.item() == 4
    assert torch.equal(graphed.stepper.flat.weights, plain.flat.weights)


class Cuda:
    """What `CudaRecorder` asks of torch.cuda, written down; a capture leaves its stream current
    when it fails, as torch's does."""

    def __init__(self):
        self.stream, self.queued, self.most, self.mode = "default", 0, 0, 0
        self.pools, self.said = [], False

    def current_stream(self):
        return SimpleNamespace(name=self.stream, record_event=self._event)

    def set_stream(self, stream):
        self.stream = stream.name

    def get_sync_debug_mode(self):
        return self.mode

    def set_sync_debug_mode(self, mode):
        said, self.mode = self.said, {"error": 2}.get(mode, mode)
        self.said = True
        if not said:
            warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=1)

    def graph_pool_handle(self):
        return object()

    def CUDAGraph(self):
        return SimpleNamespace(replay=lambda: None)

    @contextmanager
    def graph(self, _graph, pool):
        self.pools.append(pool)
        before, self.stream = self.stream, "of the capture"
        yield
        self.stream = before

    def _event(self):
        self.queued += 1
        self.most = max(self.most, self.queued)
        return SimpleNamespace(synchronize=self._done)

    def _done(self):
        self.queued -= 1


@pytest.fixture
def cuda(monkeypatch):
    cuda = Cuda()
    monkeypatch.setattr(torch, "cuda", cuda)
    return cuda


def test_the_host_is_a_few_replays_ahead_at_most_and_graphs_share_their_memory(cuda):
    recorder = CudaRecorder()
    replays = [recorder.record(lambda: None)[0] for _ in range(2)]
    for number in range(20):
        replays[number % 2]()
    assert cuda.most == AHEAD
    assert len(cuda.pools) == 2
    assert len(set(cuda.pools)) == 1


def test_after_a_capture_that_fails_the_stream_is_the_one_before(cuda):
    def waits():
        raise RuntimeError("operation not permitted")

    with pytest.raises(RuntimeError, match="not permitted"):
        CudaRecorder().record(waits)
    assert cuda.stream == "default"


def test_torch_s_word_on_its_sync_debug_mode_is_no_reason_to_stay_in_it(cuda):
    """Here a warning is an error, and torch gives this one once the mode is set."""
    with pytest.raises(KeyError), CudaRecorder().refusing_to_wait():
        assert cuda.mode == 2
        raise KeyError
    assert cuda.mode == 0
