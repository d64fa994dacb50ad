"""The arithmetic of `fsam bench` with a clock that the tests move by hand; nothing is timed."""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import torch
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fsam_cli.engine.flat import FlatWeights
from fsam_cli.measure.bench import augmentation as augmentation_
from fsam_cli.measure.bench import floor as floor_
from fsam_cli.measure.bench import minimiser as minimiser_
from fsam_cli.measure.bench import race as race_
from fsam_cli.measure.bench import step as step_
from fsam_cli.measure.bench.memory import extra_memory, peak_bytes
from fsam_cli.measure.bench.minimiser import (
    ACCUMULATION,
    minimiser_alone,
    refuse_skipped,
    step_alone,
    why_not_alone,
)
from fsam_cli.measure.bench.network import SGD as MOMENTUM
from fsam_cli.measure.bench.network import (
    WHEN,
    BenchMethod,
    BenchProtocol,
    build,
    put_gradient,
    random_gradient,
    stepper_of,
)
from fsam_cli.measure.bench.race import Samples, Spread, Timing, race, spread_of
from fsam_cli.measure.bench.step import ONE, PRECISIONS, fitting_batch, precisions_for, whole_step
from fsam_cli.minimisers.asam import Asam
from fsam_cli.minimisers.fsam import FisherSam
from fsam_cli.minimisers.gsam import Gsam
from fsam_cli.minimisers.sam import Sam
from fsam_cli.minimisers.sgd import Sgd
from fsam_cli.minimisers.unnormalised_sam import UnnormalisedSam
from fsam_cli.recipe.schema import Optimizer
from tests.support.bench import (  # noqa: F401 (fixtures)
    CPU,
    PADDED,
    SAM,
    SGD,
    TINY,
    WEIGHTS,
    ByHand,
    Clock,
    Dropping,
    Ticking,
    Tiny,
    eager_only,
    one_thread,
    three_rounds,
    undisturbed,
)
from tests.support.networks import batch
from tests.support.recorder import CallAgain

ADAMW = Optimizer(name="adamw", settings={})
PLAIN = Optimizer(name="sgd", settings={"momentum": 0.0})


def test_variants_run_in_turn_and_every_round_begins_with_another():
    clock, log = Clock(), []
    tasks = {name: clock.task(1.0, log, name) for name in "abc"}
    race(tasks, three_rounds(clock))
    assert "".join(log) == "abc" + "abc" + "bca" + "cab"  # once to warm up


def test_what_is_short_is_called_several_times_a_sample_and_divided():
    clock, log = Clock(), []
    samples = race({"a": clock.task(0.0005, log, "a")}, three_rounds(clock))
    assert len(log) == 2 + 3 * 4  # warm-up, then 2 ms a sample
    assert samples.seconds["a"] == pytest.approx((0.0005,) * 3)


def test_samples_are_longer_on_a_device_that_queues():
    clock, log = Clock(), []
    task = {"a": clock.task(0.0005, log, "a")}
    race(task, Timing(torch.device("cuda"), clock, 0.0, rounds=3))
    assert len(log) == 2 + 3 * 60


def test_what_compiles_first_is_called_several_times_a_sample_all_the_same():
    clock, log = Clock(), []
    compiles = iter([11.0])

    def run():
        clock.now += next(compiles, 0.0005)
        log.append("a")

    samples = race({"a": run}, three_rounds(clock))
    assert samples.seconds["a"] == pytest.approx((0.0005,) * 3)
    assert len(log) == 1 + 1 + 3 * 4  # the compiler, what a call takes, 2 ms a sample


def test_what_is_slow_is_warm_after_one_call():
    clock, log = Clock(), []
    race({"a": clock.task(1.0, log, "a")}, three_rounds(clock))
    assert len(log) == 1 + 3


def test_a_short_sample_is_repeated_if_the_processor_was_taken_away(monkeypatch):
    clock, log, readings = Clock(), [], iter([0, 1, 1, 2, 2, 2])  # twice in vain
    monkeypatch.setattr(race_, "_preemptions", lambda: next(readings))
    assert race_._sample(clock.task(0.01, log, "a"), 1, clock) == pytest.approx(0.01)
    assert len(log) == 3


def test_a_long_sample_is_not_repeated_and_a_short_one_not_for_ever(monkeypatch):
    clock, log, readings = Clock(), [], itertools.count()
    monkeypatch.setattr(race_, "_preemptions", lambda: next(readings))
    race_._sample(clock.task(0.03, log, "a"), 1, clock)
    assert len(log) == 1
    race_._sample(clock.task(0.01, log, "b"), 1, clock)
    assert len(log) == 1 + 10
    race_._sample(clock.task(0.01, log, "c"), 3, clock)  # long by its calls together
    assert len(log) == 1 + 10 + 3


def test_a_race_ends_when_its_seconds_are_spent():
    clock = Clock()
    samples = race({"a": clock.task(1.0), "b": clock.task(2.0)}, Timing(CPU, clock, 13.0))
    assert len(samples.seconds["a"]) == 5  # 12 seconds after four rounds, 15 after five


def test_a_race_has_at_least_three_rounds_whatever_they_take():
    clock = Clock()
    assert len(race({"a": clock.task(100.0)}, Timing(CPU, clock, 1.0)).seconds["a"]) == 3


def test_quartiles_are_linear_between_neighbours():
    assert spread_of([5.0, 1.0, 4.0, 2.0, 3.0]) == Spread(3.0, 2.0, 4.0, 5)
    assert spread_of([1.0, 2.0, 3.0, 4.0]) == Spread(2.5, 1.75, 3.25, 4)
    assert spread_of([7.0]) == Spread(7.0, 7.0, 7.0, 1)


def test_a_ratio_is_taken_within_each_round():
    # The machine was ten times slower in the second round, for both; medians alone say 1/2.
    samples = Samples({"a": (1.0, 10.0, 1.0, 1.0), "b": (1.0, 10.0, 2.0, 1.0)})
    assert samples.ratio("a", "b").median == 1.0
    assert samples.ratio("b", "a", times=4.0) == Spread(0.25, 0.25, 0.3125, 4)


def test_threads_are_what_they_were_afterwards():
    torch.set_num_threads(2)
    with race_.threads(1) as count:
        assert (count, torch.get_num_threads()) == (1, 1)
    assert torch.get_num_threads() == 2
    with race_.threads(None) as count:
        assert count == 2


def test_others_are_those_that_are_neither_idle_nor_this_process():
    before = race_.ProcessorSeconds(there=100.0, used=40.0, own=10.0)
    after = race_.ProcessorSeconds(there=120.0, used=55.0, own=20.0)
    assert race_._share_elsewhere(before, after) == 5.0 / 20.0
    assert race_._share_elsewhere(before, before) is None
    assert race_._share_elsewhere(None, after) is None


def test_the_floor_is_the_fastest_kernel_and_a_multiple_of_it_is_per_pass():
    kernels = floor_.floor_kernels(1000, CPU)
    seconds = {"mul_": (4.0,) * 3, "copy_": (3.0,) * 3, "add(out=)": (6.0,) * 3, "sam": (10.0,) * 3}
    samples = Samples(seconds)
    floor = floor_.fastest(samples, kernels, count=1000, device=CPU)
    assert (floor.kernel, floor.passes, floor.buffers) == ("mul_", 8, 16_000)
    assert floor.bandwidth.median == 8 * 4000 / 4.0  # bytes a second; copy_ has 5333, add 4000
    # 10 passes at half a second a pass are 5 seconds.
    assert floor_.multiple(samples, "sam", 10, floor).median == 2.0
    assert floor_.multiple(samples, "sam", None, floor) is None


def test_kernels_leave_the_vectors_finite_however_often_they_run():
    kernels = floor_.floor_kernels(64, CPU)
    for _ in range(300):
        for kernel in kernels.values():
            kernel.run()
    vector = kernels["mul_"].run.__closure__[0].cell_contents
    assert torch.isfinite(vector).all()
    assert vector.abs().max() <= 4


class Traffic(TorchDispatchMode):
    """Counts the vectors that are read and written, and tells which."""

    def __init__(self):
        super().__init__()
        self.passes, self.vectors = 0, set()

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        named = func.name().partition(".")[0].removeprefix("aten::")
        self.passes += {"mul_": 2, "copy_": 2, "add": 3}[named]
        self.vectors |= {
            each.data_ptr() for each in tree_leaves((args, kwargs)) if hasattr(each, "dim")
        }
        return func(*args, **(kwargs or {}))


def test_a_kernel_moves_what_its_passes_say_over_four_vectors():
    for kernel in floor_.floor_kernels(64, CPU).values():
        with Traffic() as traffic:
            kernel.run()
        assert (traffic.passes, len(traffic.vectors)) == (kernel.passes, floor_.VECTORS)


def test_the_last_level_is_the_largest_cache_that_linux_tells(monkeypatch, tmp_path):
    monkeypatch.setattr(floor_, "Path", lambda _path: tmp_path)
    assert floor_.last_level_cache(CPU) is None
    for index, size in enumerate(("48K", "32768K", "2048K", "a few")):
        (tmp_path / f"index{index}").mkdir()
        (tmp_path / f"index{index}/size").write_text(f"{size}\n")
    assert floor_.last_level_cache(CPU) == 32 * 2**20


def test_buffers_are_in_cache_if_they_fit_the_last_level():
    speed = Spread(1.0, 1.0, 1.0, 1)
    assert floor_.Floor("mul_", 8, speed, buffers=16, cache=16).in_cache is True
    assert floor_.Floor("mul_", 8, speed, buffers=17, cache=16).in_cache is False
    assert floor_.Floor("mul_", 8, speed, buffers=17, cache=None).in_cache is None


def test_passes_are_counted_for_plain_methods_only():
    counted = {"sgd": Sgd(), "sam": Sam(), "asam": Asam(), "fsam": FisherSam(), "gsam": Gsam()}
    passes = {name: floor_.passes_of(name, method, MOMENTUM) for name, method in counted.items()}
    assert passes == {"sgd": 5, "sam": 10, "asam": 11, "fsam": 10, "gsam": None}
    assert floor_.passes_of("sam", Sam(m_sharpness=8), MOMENTUM) is None
    assert floor_.passes_of("fsam", FisherSam(fisher="empirical"), MOMENTUM) is None
    assert floor_.passes_of("sam", Sam(natural_gradient=True), MOMENTUM) is None


@pytest.mark.parametrize("optimizer", [ADAMW, PLAIN])
def test_passes_are_counted_for_sgd_with_momentum_only(optimizer):
    assert floor_.passes_of("sam", Sam(), optimizer) is None
    found = alone(SGD, SAM, optimizer=optimizer)
    counted = {line.label: line.passes for line in found.lines}
    assert counted == {"sgd": None, "sam": None, ACCUMULATION: 4}


def test_memory_is_the_most_that_was_alive_at_once():
    def run():
        kept = torch.empty(1000)
        first = torch.empty(5000)
        del first
        second = torch.empty(3000)
        del second
        return kept

    assert peak_bytes(run, CPU) == 4 * 6000


def test_extra_memory_leaves_weights_gradient_and_momentum_out():
    # A momentum and one saved vector, each of the weights' size.
    assert extra_memory(lambda: (torch.empty(1000), torch.empty(1000)), 1000, CPU) == 1.0


def test_only_a_momentum_that_is_there_is_left_out_of_the_extra_memory():
    extra = {line.label: line.extra_memory for line in alone(SGD, SAM, optimizer=PLAIN).lines}
    assert 0 <= extra["sgd"] < 0.1
    assert 1 <= extra["sam"] < 1.1


def alone(*methods, optimizer=MOMENTUM):
    return minimiser_alone(
        "tiny",
        BenchProtocol({"tiny": Tiny()}, methods, optimizer),
        implementations=("eager",),
        timing=three_rounds(),
    )


def test_the_minimiser_alone_as_multiples_of_the_floor():
    found = alone(SGD, SAM, BenchMethod("asam", "asam", Asam()))
    # Everything takes a second, so the kernel with most passes, 8, is the floor.
    assert found.floor.kernel == "mul_"
    assert found.floor.bandwidth.median == 8 * 4 * PADDED
    lines = {line.label: line for line in found.lines}
    assert {label: line.multiple.median for label, line in lines.items()} == pytest.approx(
        {"sgd": 8 / 5, "sam": 8 / 10, "asam": 8 / 11, ACCUMULATION: 8 / 4}
    )
    assert all(line.weights == WEIGHTS for line in found.lines)
    assert lines["sgd"].extra_memory < 0.1
    assert lines["sam"].extra_memory >= 1.0


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        (FisherSam(fisher="model"), "gradients of single images"),
        (Sam(m_sharpness=4), "m_sharpness"),
        (Gsam(), "combines"),
        (Sam(natural_gradient=True), "combines"),
    ],
)
def test_methods_without_a_time_of_their_own_are_named_with_the_reason(settings, why):
    assert why in why_not_alone(BenchMethod("mine", "x", settings))
    assert why_not_alone(SAM) is None


def test_a_step_alone_is_that_of_torch_sgd_whatever_the_climb(monkeypatch):
    model = build(Tiny(), classes=10, device=CPU, channels_last=False)
    flat = FlatWeights(model)
    gradient = random_gradient(flat)
    assert float(gradient.norm()) == pytest.approx(0.7, rel=1e-5)
    expected = nn.Parameter(flat.weights.clone())
    expected.grad = gradient.clone()
    monkeypatch.setattr(minimiser_, "WHEN", replace(WHEN, lr=0.1, peak_lr=0.1))
    reference = torch.optim.SGD([expected], lr=0.1, momentum=0.9, weight_decay=5e-4)
    stepper = stepper_of(model, flat, Sam(rho=0.5), TINY)
    for _ in range(3):
        put_gradient(flat, gradient)
        step_alone(stepper, batch())
        reference.step()
    torch.testing.assert_close(flat.weights, expected.detach(), rtol=1e-6, atol=1e-9)


def test_a_step_alone_climbs_and_comes_back_unless_the_method_does_not_climb():
    model = build(Tiny(), classes=10, device=CPU, channels_last=False)
    flat = FlatWeights(model)
    put_gradient(flat, random_gradient(flat))
    seen = []
    for method in (Sam(rho=0.5), Sgd()):
        stepper = stepper_of(model, flat, method, TINY)

        def watched(lr, stepper=stepper, descend=stepper.descend):
            assert flat.attached()  # it is back
            seen.append(float(stepper.perturbation().norm()))
            descend(lr)

        stepper.descend = watched
        step_alone(stepper, batch())
        flat.attach_gradients()
    assert seen == pytest.approx([0.5, 0.0], rel=1e-5)  # the radius, and nothing


@pytest.mark.parametrize("settings", [FisherSam(eta=1e3), Asam(), Sam()])
def test_steps_without_a_gradient_of_their_own_never_leave_the_range(settings):
    """Fisher SAM's scratch is 1 + η g²; taken for the next gradient it would soon be infinite."""
    model = build(Tiny(), classes=10, device=CPU, channels_last=False)
    flat = FlatWeights(model)
    put_gradient(flat, random_gradient(flat))
    start, stepper = flat.weights.clone(), stepper_of(model, flat, settings, TINY)
    for _ in range(1000):
        step_alone(stepper, batch())
    refuse_skipped([stepper])
    torch.testing.assert_close(flat.weights, start, rtol=0, atol=1e-4)
    assert flat.gradient.norm() == pytest.approx(float(flat.weights.norm()), abs=1.0)  # w + eps


def test_a_race_whose_numbers_left_the_range_fails():
    far = BenchMethod("far", "usam", UnnormalisedSam(rho=1e20))  # squared by the next step
    with pytest.raises(RuntimeError, match="left float32's range; its times mean nothing"):
        alone(SGD, SAM, far)


def test_the_batch_is_halved_until_the_rounds_fit():
    # A gradient of 4 images takes 1 s, of 16 takes 4 s: 0.25 s an image. A round of 5 gradients,
    # four times over (one to warm up): 20 gradients.
    def size(seconds):
        return fitting_batch(128, (1.0, 4.0), 5, seconds)

    assert size(20 * 32.0) == 128  # 1 + 0.25 * 124 = 32 s a gradient
    assert size(20 * 31.9) == 64
    assert size(20 * 4.0) == 16
    assert size(0.0) == 4
    assert fitting_batch(6, (1.0, 4.0), 5, 0.0) == 4


def test_a_large_network_is_timed_in_one_precision_on_a_cpu():
    assert precisions_for(5_000_000_000, CPU) == (ONE,)
    assert precisions_for(40_000_000, CPU) == tuple(PRECISIONS)
    assert precisions_for(5_000_000_000, torch.device("cuda")) == tuple(PRECISIONS)


def whole(model=None, **changes):
    asked = {"batch_size": 8, "compile": "none", "timing": three_rounds()}
    methods = (SGD, SAM, BenchMethod("fsam", "fsam", FisherSam()))
    protocol = BenchProtocol({"tiny": model or Tiny()}, methods)
    return whole_step("tiny", "fp32", protocol, **{**asked, **changes})


def test_a_whole_step_beside_sgd_and_sam():
    found = whole()
    sgd, sam, fsam = found.lines
    assert [line.images_per_second.median for line in found.lines] == [8.0, 8.0, 8.0]
    assert (sgd.over_sgd, sgd.over_sam.median) == (None, 1.0)
    assert (sam.over_sgd.median, sam.over_sam) == (1.0, None)
    assert fsam.over_sgd.median == fsam.over_sam.median == 1.0
    assert (found.batch_size, found.lowered_from) == (8, None)


def test_only_a_batch_that_nobody_asked_for_is_lowered():
    second = Timing(CPU, Ticking(), 1.0)
    lowered = whole(batch_size=None, timing=second)
    assert (lowered.batch_size, lowered.lowered_from) == (4, 128)
    kept = whole(batch_size=16, timing=second)
    assert (kept.batch_size, kept.lowered_from) == (16, None)


def test_with_a_recorder_every_step_is_taken_from_a_graph_too():
    recorder = CallAgain()
    found = whole(recorder=recorder)
    assert [(line.label, line.launched) for line in found.lines] == [
        (label, launched) for label in ("sgd", "sam", "fsam") for launched in ("eager", "graph")
    ]
    assert [line.over_eager and line.over_eager.median for line in found.lines] == [None, 1.0] * 3
    assert found.left_out == ()
    assert recorder.captures == 3
    assert recorder.replays == 3 * (1 + 1 + 3)  # captured, warmed up, three rounds


def test_without_a_recorder_every_step_is_eager():
    found = whole()
    assert {(line.launched, line.over_eager) for line in found.lines} == {("eager", None)}


def test_steps_are_compared_with_those_that_are_launched_alike():
    seconds = {"sgd eager": 4.0, "sgd graph": 1.0, "sam eager": 8.0, "sam graph": 3.0}
    samples = Samples({name: (value,) * 3 for name, value in seconds.items()})
    eager = step_._line(SAM, "eager", 8, samples, (SGD, SAM))
    graph = step_._line(SAM, "graph", 8, samples, (SGD, SAM))
    assert (eager.over_sgd.median, eager.over_sam, eager.over_eager) == (2.0, None, None)
    assert (graph.over_sgd.median, graph.over_sam, graph.over_eager.median) == (3.0, None, 0.375)
    only_sam = Samples({name: samples.seconds[name] for name in seconds if name != "sgd graph"})
    assert step_._line(SAM, "graph", 8, only_sam, (SGD, SAM)).over_sgd is None


def test_a_step_that_cannot_be_captured_is_left_out_and_its_eager_one_is_not():
    found = whole(Dropping(), recorder=CallAgain())
    assert [(line.label, line.launched) for line in found.lines] == [
        (label, "eager") for label in ("sgd", "sam", "fsam")
    ]
    assert found.left_out[1].startswith("sam from a graph: the network draws random numbers")
    assert len(found.left_out) == 3


def test_a_capture_that_fails_is_left_out_with_its_reason():
    class Full(CallAgain):
        def record(self, function):
            raise RuntimeError("out of memory")

    found = whole(recorder=Full())
    assert [line.launched for line in found.lines] == ["eager"] * 3
    assert found.left_out[0] == "sgd from a graph: the capture failed (out of memory)"


def test_the_way_to_a_capture_may_fail_and_the_eager_steps_are_timed_all_the_same():
    class Narrow(CallAgain):
        def aside(self):
            raise torch.OutOfMemoryError("out of\nmemory")

    found = whole(recorder=Narrow())
    assert [line.launched for line in found.lines] == ["eager"] * 3
    assert found.left_out[0] == "sgd from a graph: out of memory"


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_steps(precision):
    found = whole_step(
        "tiny",
        precision,
        TINY,
        batch_size=4,
        compile="none",
        timing=three_rounds(),
    )
    assert [line.label for line in found.lines] == ["sgd", "sam"]


def test_both_pipelines_see_all_images():
    found = augmentation_.augmentation(16, 0, three_rounds())
    assert [line.images_per_second.median for line in found.lines] == [16.0, 16.0]
    assert [line.over_torchvision.median for line in found.lines] == [1.0, 1.0]


def test_a_speed_over_torchvisions_is_above_one_for_what_is_faster(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(augmentation_, "_batched", lambda pixels: clock.task(1.0))
    monkeypatch.setattr(augmentation_, "_loaded", lambda images, workers: clock.task(5.0))
    found = augmentation_.augmentation(10, 2, three_rounds(clock))
    ours, theirs = found.lines
    assert (ours.images_per_second.median, ours.over_torchvision.median) == (10.0, 5.0)
    assert (theirs.images_per_second.median, theirs.workers) == (2.0, 2)
