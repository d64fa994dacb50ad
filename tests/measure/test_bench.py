"""The arithmetic of `fsam bench` with a clock that the tests move by hand; nothing is timed."""

from __future__ import annotations

import itertools
import json
import math
import textwrap

import pytest
import torch
from torch import nn

from fsam_cli.engine.flat import FlatWeights
from fsam_cli.errors import UsageError
from fsam_cli.measure import bench, bench_augmentation, bench_floor, bench_peer_files, bench_peers
from fsam_cli.measure import bench_race as race_
from fsam_cli.measure.bench_memory import extra_memory, peak_bytes
from fsam_cli.measure.bench_minimiser import ACCUMULATION, measurable, minimiser_alone, step_alone
from fsam_cli.measure.bench_network import Method, Protocol, build, fill_gradient, stepper_of
from fsam_cli.measure.bench_peer_files import NamedPeer, found_peers
from fsam_cli.measure.bench_race import Budget, Samples, Spread, race, spread_of
from fsam_cli.measure.bench_step import ONE, PRECISIONS, fitting_batch, precisions_for, whole_step
from fsam_cli.minimisers.asam import Asam
from fsam_cli.minimisers.fsam import FisherSam
from fsam_cli.minimisers.gsam import Gsam
from fsam_cli.minimisers.sam import Sam
from fsam_cli.minimisers.sgd import Sgd
from fsam_cli.models._contract import Model
from tests.support.networks import batch

CPU = torch.device("cpu")
SGD, SAM = Method("sgd", "sgd", Sgd()), Method("sam", "sam", Sam())


@pytest.fixture(autouse=True)
def one_thread():
    with race_.threads(1):
        yield


@pytest.fixture(autouse=True)
def undisturbed(monkeypatch):
    monkeypatch.setattr(race_, "_preemptions", lambda: 0)


class Clock:
    """Stands still unless it is moved."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now

    def task(self, seconds, log=None, name=None):
        """Something that takes so long."""

        def run():
            self.now += seconds
            if log is not None:
                log.append(name)

        return run


class Ticking:
    """A second later every time it is read: whatever is timed takes a second."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        self.now += 1.0
        return self.now


class Tiny(Model):
    """A convolution, a norm and a linear layer on 3x32x32 images."""

    def build(self, *, channels, classes, image_size):
        layers = [nn.Conv2d(channels, 4, 3, stride=4), nn.BatchNorm2d(4), nn.Flatten()]
        return nn.Sequential(*layers, nn.Linear(4 * (image_size // 4) ** 2, classes))


WEIGHTS = 4 * 27 + 4 + 4 + 4 + 256 * 10 + 10
PADDED = 128 + 64 + 64 + 64 + 2560 + 64  # every parameter begins at a multiple of 64 floats
TINY = Protocol({"tiny": Tiny()}, (SGD, SAM))


def test_variants_run_in_turn_and_every_round_begins_with_another():
    clock, log = Clock(), []
    tasks = {name: clock.task(1.0, log, name) for name in "abc"}
    race(tasks, Budget(0.0, rounds=3), clock)
    assert "".join(log) == "abc" + "abc" + "bca" + "cab"  # once to warm up


def test_what_is_short_is_called_several_times_a_sample_and_divided():
    clock, log = Clock(), []
    samples = race({"a": clock.task(0.0005, log, "a")}, Budget(0.0, rounds=3), clock)
    assert len(log) == 2 + 3 * 4  # warm-up, then 2 ms a sample
    assert samples.seconds["a"] == pytest.approx((0.0005,) * 3)


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


def test_a_race_ends_when_its_seconds_are_spent():
    clock = Clock()
    samples = race({"a": clock.task(1.0), "b": clock.task(2.0)}, Budget(13.0), clock)
    assert len(samples.seconds["a"]) == 5  # 12 seconds after four rounds, 15 after five


def test_a_race_has_at_least_three_rounds_whatever_they_take():
    clock = Clock()
    assert len(race({"a": clock.task(100.0)}, Budget(1.0), clock).seconds["a"]) == 3


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
    kernels = bench_floor.floor_kernels(1000, CPU)
    seconds = {"mul_": (4.0,) * 3, "copy_": (3.0,) * 3, "add(out=)": (6.0,) * 3, "sam": (10.0,) * 3}
    samples = Samples(seconds)
    floor = bench_floor.fastest(samples, kernels, count=1000, device=CPU)
    assert (floor.kernel, floor.passes, floor.buffers) == ("mul_", 8, 16_000)
    assert floor.bandwidth.median == 8 * 4000 / 4.0  # bytes a second; copy_ has 5333, add 4000
    # 10 passes at half a second a pass are 5 seconds.
    assert bench_floor.multiple(samples, "sam", 10, floor).median == 2.0
    assert bench_floor.multiple(samples, "sam", None, floor) is None


def test_kernels_leave_the_vectors_finite_however_often_they_run():
    kernels = bench_floor.floor_kernels(64, CPU)
    for _ in range(300):
        for kernel in kernels.values():
            kernel.run()
    vector = kernels["mul_"].run.__closure__[0].cell_contents
    assert torch.isfinite(vector).all()
    assert vector.abs().max() <= 4


def test_buffers_are_in_cache_if_they_fit_the_last_level():
    speed = Spread(1.0, 1.0, 1.0, 1)
    assert bench_floor.Floor("mul_", 8, speed, buffers=16, cache=16).in_cache is True
    assert bench_floor.Floor("mul_", 8, speed, buffers=17, cache=16).in_cache is False
    assert bench_floor.Floor("mul_", 8, speed, buffers=17, cache=None).in_cache is None


def test_passes_are_counted_for_plain_methods_only():
    counted = {"sgd": Sgd(), "sam": Sam(), "asam": Asam(), "fsam": FisherSam(), "gsam": Gsam()}
    passes = {name: bench_floor.passes_of(name, method) for name, method in counted.items()}
    assert passes == {"sgd": 5, "sam": 10, "asam": 11, "fsam": 10, "gsam": None}
    assert bench_floor.passes_of("sam", Sam(m_sharpness=8)) is None
    assert bench_floor.passes_of("fsam", FisherSam(fisher="empirical")) is None
    assert bench_floor.passes_of("sam", Sam(natural_gradient=True)) is None


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


@pytest.fixture(autouse=True)
def eager_only(monkeypatch):
    monkeypatch.setattr(bench, "why_not_compiled", lambda asked, device: "switched off by a test")


def alone(*methods):
    return minimiser_alone(
        "tiny",
        Protocol({"tiny": Tiny()}, methods),
        implementations=("eager",),
        budget=Budget(0.0, rounds=3),
        device=CPU,
        clock=Ticking(),
    )


def test_the_minimiser_alone_as_multiples_of_the_floor():
    found = alone(SGD, SAM, Method("asam", "asam", Asam()))
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
    assert why in measurable(Method("mine", "x", settings))
    assert measurable(SAM) is None


def test_a_step_alone_is_that_of_torch_sgd_whatever_the_climb():
    model = build(Tiny(), classes=10, device=CPU, channels_last=False)
    flat = FlatWeights(model)
    fill_gradient(flat)
    assert float(flat.gradient.norm()) == pytest.approx(0.7, rel=1e-5)
    expected = nn.Parameter(flat.weights.clone())
    expected.grad = flat.gradient.clone()
    reference = torch.optim.SGD([expected], lr=1e-4, momentum=0.9, weight_decay=5e-4)
    stepper = stepper_of(model, flat, Sam(rho=0.5), TINY)
    for _ in range(3):
        step_alone(stepper, batch())
        reference.step()
    torch.testing.assert_close(flat.weights, expected.detach(), rtol=1e-6, atol=1e-9)


def test_a_step_alone_climbs_and_comes_back_unless_the_method_does_not_climb():
    model = build(Tiny(), classes=10, device=CPU, channels_last=False)
    flat = FlatWeights(model)
    fill_gradient(flat)
    seen = []
    for method in (Sam(rho=0.5), Sgd()):
        stepper = stepper_of(model, flat, method, TINY)
        descend, start = stepper.descend, flat.weights.clone()

        def watched(lr, descend=descend, start=start):
            seen.append(float((flat.weights - start).norm()))
            descend(lr)

        stepper.descend = watched
        step_alone(stepper, batch())
    assert seen == pytest.approx([0.5, 0.0], rel=1e-5)  # the radius, and nothing


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


def whole(**changes):
    asked = {"batch_size": 8, "compile": "none", "budget": Budget(0.0, rounds=3)}
    protocol = Protocol({"tiny": Tiny()}, (SGD, SAM, Method("fsam", "fsam", FisherSam())))
    return whole_step("tiny", "fp32", protocol, **{**asked, **changes}, device=CPU, clock=Ticking())


def test_a_whole_step_beside_sgd_and_sam():
    found = whole()
    sgd, sam, fsam = found.lines
    assert [line.images_per_second.median for line in found.lines] == [8.0, 8.0, 8.0]
    assert (sgd.over_sgd, sgd.over_sam.median) == (None, 1.0)
    assert (sam.over_sgd.median, sam.over_sam) == (1.0, None)
    assert fsam.over_sgd.median == fsam.over_sam.median == 1.0
    assert (found.batch_size, found.lowered_from) == (8, None)


def test_only_a_batch_that_nobody_asked_for_is_lowered():
    lowered = whole(batch_size=None, budget=Budget(1.0))
    assert (lowered.batch_size, lowered.lowered_from) == (4, 128)
    kept = whole(batch_size=16, budget=Budget(1.0))
    assert (kept.batch_size, kept.lowered_from) == (16, None)


@pytest.mark.parametrize("precision", PRECISIONS)
def test_every_precision_steps(precision):
    found = whole_step(
        "tiny",
        precision,
        TINY,
        batch_size=4,
        compile="none",
        budget=Budget(0.0, rounds=3),
        device=CPU,
        clock=Ticking(),
    )
    assert [line.label for line in found.lines] == ["sgd", "sam"]


def test_both_pipelines_see_all_images():
    found = bench_augmentation.augmentation(
        images=16, workers=0, budget=Budget(0.0, rounds=3), device=CPU, clock=Ticking()
    )
    assert [line.images_per_second.median for line in found.lines] == [16.0, 16.0]
    assert [line.over_torchvision.median for line in found.lines] == [1.0, 1.0]


def test_a_speed_over_torchvisions_is_above_one_for_what_is_faster(monkeypatch):
    clock = Clock()
    monkeypatch.setattr(bench_augmentation, "_batched", lambda pixels: clock.task(1.0))
    monkeypatch.setattr(bench_augmentation, "_loaded", lambda images, workers: clock.task(5.0))
    found = bench_augmentation.augmentation(
        images=10, workers=2, budget=Budget(0.0, rounds=3), device=CPU, clock=clock
    )
    ours, theirs = found.lines
    assert (ours.images_per_second.median, ours.over_torchvision.median) == (10.0, 5.0)
    assert (theirs.images_per_second.median, theirs.workers) == (2.0, 2)


class ByHand:
    """SAM and SGD as the papers write them; `wrong` names what it leaves out."""

    def __init__(self, parameters, setting, wrong=""):
        self.parameters, self.setting, self.wrong = parameters, setting, wrong
        self.momenta = [torch.zeros_like(p) for p in parameters]

    @torch.no_grad()
    def first_step(self):
        norm = math.sqrt(sum(float(p.grad.double().square().sum()) for p in self.parameters))
        rho = self.setting.rho / 2 if self.wrong == "radius" else self.setting.rho
        self.old = [p.clone() for p in self.parameters]
        for p in self.parameters:
            p.add_(p.grad, alpha=rho / norm)

    @torch.no_grad()
    def second_step(self):
        decay = 0.0 if self.wrong == "decay" else self.setting.weight_decay
        for p, old, v in zip(self.parameters, self.old, self.momenta, strict=True):
            if self.wrong != "restore":
                p.copy_(old)
            v.mul_(0.0 if self.wrong == "momentum" else self.setting.momentum)
            v.add_(p.grad).add_(p, alpha=decay)
            p.sub_(v, alpha=self.setting.lr)


def beside(*peers):
    return bench_peers.side_by_side(
        "tiny",
        TINY,
        [NamedPeer(name, build, None) for name, build in peers],
        implementations=("eager",),
        budget=Budget(0.0, rounds=3),
        device=CPU,
        clock=Ticking(),
    )


def test_another_sam_with_the_same_numbers_agrees():
    found = beside(("by hand", ByHand))
    ours, theirs = found.lines
    assert (ours.label, ours.difference, ours.agrees) == ("fsam eager", None, True)
    assert theirs.difference < 1e-5
    assert theirs.agrees
    assert theirs.over["eager"].median == 1.0  # everything takes a second
    assert theirs.multiple.median == pytest.approx(0.8)
    # Alive at most: momentum, saved weights, and the largest gradient twice in float64; one vector
    # of the padded length is taken off for the momentum.
    alive = 4 * 2 * WEIGHTS + 8 * 2 * 2560
    assert theirs.extra_memory == pytest.approx(alive / (4 * PADDED) - 1, abs=0.01)
    assert found.weights == WEIGHTS


@pytest.mark.parametrize("wrong", ["radius", "decay", "restore", "momentum"])
def test_a_sam_that_does_other_work_is_told_apart(wrong):
    found = beside(("wrong", lambda parameters, setting: ByHand(parameters, setting, wrong)))
    assert not found.lines[1].agrees


def test_a_peer_that_raises_is_left_out_and_the_others_are_not():
    def broken(parameters, setting):
        raise RuntimeError("no such kernel")

    found = beside(("broken", broken), ("by hand", ByHand))
    assert [line.label for line in found.lines] == ["fsam eager", "by hand"]
    assert found.left_out == ("broken: RuntimeError: no such kernel",)


def test_the_step_of_pytorch_optimizer_is_ours():
    pytest.importorskip("pytorch_optimizer")
    peers, skipped = found_peers([])
    assert not skipped
    assert {peer.name for peer in peers} >= {"pytorch_optimizer", "pytorch_optimizer foreach"}
    found = beside(*((peer.name, peer.build) for peer in peers))
    assert not found.left_out
    assert all(line.agrees for line in found.lines)


def test_a_peer_that_is_not_installed_is_skipped_with_a_line(monkeypatch):
    monkeypatch.setattr(bench_peer_files, "_version", lambda distribution: None)
    peers, skipped = found_peers([])
    assert peers == ()
    assert skipped == ("pytorch-optimizer is not installed; pip install 'fsam-cli[bench]' has it",)


GOOD = """
class Mine:
    def first_step(self): ...
    def second_step(self): ...

PROVIDES = {"mine": lambda parameters, setting: Mine()}
"""


def peer_file(folder, text, name="mine.py"):
    path = folder / name
    path.write_text(textwrap.dedent(text))
    return path


def test_a_file_of_ones_own_is_a_peer(tmp_path):
    peers, _ = found_peers([peer_file(tmp_path, GOOD)])
    assert peers[-1].name == "mine"
    assert [path.name for path in tmp_path.iterdir()] == ["mine.py"]  # nothing beside it


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("x = 1", "it has no PROVIDES"),
        ("PROVIDES = {}", "it has no PROVIDES"),
        ("PROVIDES = {'mine': 3}", "'mine' is no name with a builder"),
        ("x = 1\nimport nonsense_package", "line 2: ModuleNotFoundError"),
        ("def f(:", "line 1: SyntaxError"),
        ("PROVIDES = {'mine': lambda p, s: object()}", "has no first_step()"),
        ("PROVIDES = {'mine': lambda p: p}", "'mine' cannot be built: TypeError"),
        (
            "def f(p, s):\n    import nonsense\nPROVIDES = {'mine': f}",
            "line 2: ModuleNotFoundError",
        ),
        ("PROVIDES = {'fsam eager': print}", "the name 'fsam eager' is taken"),
    ],
)
def test_a_file_that_is_no_peer_is_refused_with_its_place(tmp_path, text, message):
    path = peer_file(tmp_path, text)
    with pytest.raises(UsageError) as told:
        found_peers([path])
    assert message in str(told.value)
    assert str(path) in str(told.value)


def test_two_files_may_not_share_a_name(tmp_path):
    files = [peer_file(tmp_path, GOOD, name) for name in ("a.py", "b.py")]
    with pytest.raises(UsageError, match="'mine' is taken"):
        found_peers(files)


def test_a_missing_file_is_refused(tmp_path):
    with pytest.raises(UsageError, match="no such Python file"):
        found_peers([tmp_path / "there.py"])


def plan(**changes):
    asked = {
        "protocol": TINY,
        "step_methods": (SGD, SAM),
        "sections": bench.SECTIONS,
        "precisions": ("fp32",),
        "batch_size": 4,
        "seconds": 1.0,
        "rounds": 3,
        "device": CPU,
        "threads": 1,
        "peers": (NamedPeer("by hand", ByHand, "1.0"),),
        "images": 8,
        "workers": 0,
    }
    return bench.Plan(**{**asked, **changes})


def test_the_document_holds_every_section_as_plain_numbers():
    told = []
    document = bench.measured(plan(), told.append, Ticking())
    assert json.loads(json.dumps(document, allow_nan=False)) == json.loads(json.dumps(document))
    assert document["schema"] == "fsam-bench/1"
    assert [len(document[section]) for section in bench.SECTIONS] == [1, 1, 1, 1]
    assert told == [
        "minimiser alone, tiny",
        "whole step, tiny, fp32",
        "augmentation",
        "other implementations, tiny",
    ]
    (alone_,) = document["minimiser"]
    assert alone_["floor"]["kernel"] == "mul_"
    assert isinstance(alone_["floor"]["in_cache"], bool | None)
    sam = next(line for line in alone_["lines"] if line["label"] == "sam")
    assert sam["multiple"]["median"] == pytest.approx(0.8)
    assert sam["multiple"]["rounds"] == 3
    assert [line["agrees"] for line in document["peers"][0]["lines"]] == [True, True]
    assert document["environment"]["threads"] == 1
    assert document["environment"]["torch"] == torch.__version__
    assert document["settings"]["methods"]["sam"]["rho"] == 0.05
    assert document["settings"]["peers"] == {"by hand": "1.0"}
    assert document["left_out"] == ["compiled: switched off by a test"]


def test_sections_that_were_not_asked_for_are_not_there():
    document = bench.measured(plan(sections=("step",)), lambda _: None, Ticking())
    assert set(bench.SECTIONS) & set(document) == {"step"}


def test_a_method_that_cannot_stand_alone_is_left_out_of_that_section_only():
    gsam = Method("mine", "gsam", Gsam())
    both = plan(
        protocol=Protocol({"tiny": Tiny()}, (SGD, gsam)),
        step_methods=(SGD, gsam),
        sections=("minimiser", "step"),
    )
    document = bench.measured(both, lambda _: None, Ticking())
    labels = {s: [line["label"] for line in document[s][0]["lines"]] for s in both.sections}
    assert labels == {"minimiser": ["sgd", ACCUMULATION], "step": ["sgd", "mine"]}
    assert any("mine: its step combines" in line for line in document["left_out"])
