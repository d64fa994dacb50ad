"""The engine on a device that is not the CPU, and its graphs, emulated (`tests.support.device`).

The numbers are to be those of the CPU, and no step waits. What stays for a real device
(`tests/gpu`) are its kernels, autocast, and the capture by CUDA itself.
"""

from __future__ import annotations

import gc
import json
import re
from dataclasses import replace

import pytest
import torch

from fsam_cli.engine.feed import Feed
from fsam_cli.engine.graph import GraphedStepper
from fsam_cli.engine.optimizer import FlatOptimizer
from fsam_cli.engine.run import execute, loaded
from fsam_cli.engine.step import Stepper
from fsam_cli.engine.train import Hooks, Training
from fsam_cli.errors import Interrupted
from fsam_cli.measure import sharpness, weight_perturbation
from fsam_cli.measure.on_record import rows_on_record
from fsam_cli.measure.sharpness import Neighbourhood, SharpnessSetting
from fsam_cli.measure.subjects import recorded
from fsam_cli.minimisers._contract import Minimiser
from fsam_cli.minimisers.asam import Asam
from fsam_cli.minimisers.fsam import FisherSam
from fsam_cli.minimisers.sam import Sam
from fsam_cli.minimisers.sgd import Sgd
from fsam_cli.parts import catalogue
from fsam_cli.recipe.load import load_experiment
from fsam_cli.recipe.plan import plan
from fsam_cli.recipe.schema import Optimizer
from fsam_cli.records.frame import load_runs
from fsam_cli.records.perturbation import TABLE, PerturbationSetting
from fsam_cli.records.sharpness import TABLE as SHARPNESS
from fsam_cli.records.store import RunDirectory
from tests.support.device import CPU, DEVICE, Recorder, emulated, sent
from tests.support.networks import at_step, batch, network, stepper

METHODS = {name: part() for name, part in sorted(catalogue("minimisers").items())} | {
    "gsam": catalogue("minimisers")["gsam"](rho=0.5, rho_min=0.1, natural_gradient=True),
    "late_sam": catalogue("minimisers")["late_sam"](start=3),
    "m-sharpness": catalogue("minimisers")["gsam"](rho=0.5, m_sharpness=5),
    "natural gradient": catalogue("minimisers")["fsam"](eta=20.0, natural_gradient=True),
}
PER_IMAGE = {name: catalogue("minimisers")["fsam"](fisher=name) for name in ("empirical", "model")}
SIZES = (12, 12, 12, 7, 12, 12)  # a trailing batch among them
MOMENTS = [at_step(n, 0.1 / (n + 1), epoch=n, epochs=len(SIZES), peak_lr=0.1) for n in range(6)]


BALLS = {"sam": Sam, "asam": Asam, "fsam": FisherSam}


@pytest.fixture
def device(monkeypatch):
    # The way that a CPU has of its own, to compare with the numbers of the other one.
    for method in {type(each) for each in (*METHODS.values(), *PER_IMAGE.values())}:
        monkeypatch.setattr(method, "w_plus_direction", Minimiser.w_plus_direction)
    return emulated(monkeypatch)


def equal(found, expected):
    torch.testing.assert_close(found.cpu(), expected, rtol=1e-6, atol=1e-7)


@pytest.mark.parametrize("name", METHODS)
def test_steps_equal_those_of_the_cpu_and_wait_for_nothing(device, name):
    settings = {"clip_norm": 1.0, "micro_batch_size": 7}
    there = stepper(network(), METHODS[name], **settings)
    with device:
        here = stepper(network().to(DEVICE), METHODS[name], **settings)
        for when in MOMENTS:
            b = batch(seed=when.number)
            on_device = sent(b)
            with device.refusing_to_wait():
                first = here.step(on_device, when)
            equal(first.loss, there.step(b, when).loss)
        equal(here.flat.weights, there.flat.weights)
        assert here.flat.attached()


@pytest.mark.parametrize("name", METHODS)
def test_steps_from_a_graph_equal_those_of_the_cpu(device, name):
    there = stepper(network(), METHODS[name])
    with device:
        here = stepper(network().to(DEVICE), METHODS[name])
        recorder = Recorder(device)
        graphed = GraphedStepper(here, recorder, size=12)
        for size, when in zip(SIZES, MOMENTS, strict=True):
            b = batch(size, seed=when.number)
            expected, got = there.step(b, when), graphed.step(sent(b), when)
            equal(got.loss, expected.loss)
            equal(got.predictions, expected.predictions)
            assert here.flat.attached()
        equal(here.flat.weights, there.flat.weights)
        for ours, theirs in zip(here.model.buffers(), there.model.buffers(), strict=True):
            equal(ours, theirs)
    assert graphed.why_not is None
    assert recorder.captures == (2 if name in ("late_sam", "look_sam") else 1)
    assert recorder.replays == 5  # all but the trailing batch


@pytest.mark.skipif(
    torch.__version__ < (2, 14), reason="torch.func does not reach through the emulation"
)
@pytest.mark.parametrize("name", PER_IMAGE)
def test_the_fisher_information_of_single_images_is_that_of_the_cpu(device, name):
    there = stepper(network("group"), PER_IMAGE[name])
    with device:
        here = stepper(network("group").to(DEVICE), PER_IMAGE[name])
        for when in MOMENTS[:2]:
            b = batch(seed=when.number)
            here.step(sent(b), when)
            there.step(b, when)
            equal(here.fisher, there.fisher)
        equal(here.flat.weights, there.flat.weights)


def test_a_gradient_that_is_not_finite_skips_the_steps_from_a_graph_from_then_on(device):
    with device:
        here = stepper(network().to(DEVICE), Sam(rho=0.1))
        graphed = GraphedStepper(here, Recorder(device), size=12)
        graphed.step(sent(batch(seed=0)), at_step(0))
        before = here.flat.weights.cpu()
        b = batch(seed=1)
        b.images.fill_(torch.nan)
        for number, each in enumerate((b, batch(seed=2)), 1):
            graphed.step(sent(each), at_step(number))
        assert torch.equal(here.flat.weights.cpu(), before)
        assert here.optimizer.nonfinite.item() == 1


def beside(other, method):
    """Another method on the same network and flat weights."""
    base = FlatOptimizer(Optimizer(name="sgd", settings={"momentum": 0.9}), other.flat)
    settings = {"label_smoothing": 0.0, "micro_batch_size": None, "clip_norm": None, "bf16": False}
    return Stepper(other.model, method, base, seed=0, **settings)


def test_captured_and_eager_steps_of_several_methods_share_one_network(device):
    def finish(where, *, captured):
        shared, recorder = stepper(network().to(where), Sgd()), Recorder(device)
        turns = [shared.step]
        for method in (FisherSam(gamma=0.5, eta=20.0), Asam(rho=1.0)):
            other = beside(shared, method)
            graphed = GraphedStepper(other, recorder, size=12)
            turns += [other.step, graphed.step if captured else other.step]
        for number in range(3):
            for step in turns:
                b = batch(seed=number)
                step(sent(b) if where == DEVICE else b, at_step(number, 0.01))
                assert shared.flat.attached()
        assert recorder.captures == 2 * captured
        return shared.flat.weights

    with device:
        here = finish(DEVICE, captured=True).cpu()
    torch.testing.assert_close(here, finish(CPU, captured=False), rtol=1e-5, atol=1e-6)


# -- Whole runs ----------------------------------------------------------------------------------

AUGMENT = "data.augment=[{name: crop, padding: 1}, flip, autoaugment, {name: cutout, size: 3}]"
RESIZED = "data.augment=[random_resized_crop, flip]"
MODERN = "data.augment=[randaugment, trivial_augment, {name: random_erasing, noise: true}]"
SETTINGS = ("methods={fsam: {}}", "seeds=[0]", "train.epochs=2", "train.batch_size=80")


def planned(folder, *settings):
    (one,) = plan(load_experiment("quickstart", (*SETTINGS, *settings)), out=folder, device="cpu")
    return one


@pytest.mark.parametrize("augment", [AUGMENT, RESIZED, MODERN])
def test_an_epoch_has_the_images_of_the_cpu_and_waits_for_nothing_before_its_end(
    device, tmp_path, augment
):
    """Batches, augmentation, steps, the averages of weights and the sums over the epoch."""
    one = planned(
        tmp_path, augment, "train.ema=0.9", "train.clip_norm=1.0", "train.label_smoothing=0.1"
    )
    there = Feed(one, loaded(one), CPU)
    with device:
        directory = RunDirectory(tmp_path)
        training = Training(replace(one, device="meta"), loaded(one), directory, Hooks(), {})
        batches = training.feed.epoch(0)
        for expected in there.epoch(0):
            found = next(batches)
            with device.refusing_to_wait():
                training._step(found, 0, watched=False)
            assert torch.equal(found.images.cpu(), expected.images)
            assert torch.equal(found.labels.cpu(), expected.labels)
        assert training.state.step == len(training.feed)
        device.waits.clear()
        assert not training.state.diverged()
        assert device.waits.total() > 0  # now it is asked


@pytest.mark.parametrize("augment", [AUGMENT, MODERN])
def test_the_augmentation_waits_for_nothing_once_its_tables_are_there(device, tmp_path, augment):
    one = planned(tmp_path, augment)
    numbers = torch.arange(200)
    with device:
        feed = Feed(one, loaded(one), DEVICE)
        list(feed.epoch(0))
        images = loaded(one).train_images[numbers].to(DEVICE)
        with device.refusing_to_wait():
            feed.pipeline(images, numbers)


@pytest.mark.parametrize("cuda_graph", [False, True], ids=["eager", "graph"])
def test_a_run_that_is_interrupted_ends_as_on_the_cpu(device, tmp_path, monkeypatch, cuda_graph):
    recorder = Recorder(device)
    monkeypatch.setattr("fsam_cli.engine.train.CudaRecorder", lambda: recorder)
    one = planned(tmp_path / "cpu", "train.select=validation", "train.diagnostics=full")
    assert execute(one, Hooks()).ended == "done"
    here = replace(one, out=tmp_path / "device", device="meta", cuda_graph=cuda_graph)
    asked = iter([False] * 17)
    with device:
        with pytest.raises(Interrupted):
            execute(here, Hooks(should_stop=lambda: next(asked, True)))
        assert execute(here, Hooks()).ended == "done"
    assert recorder.captures == 2 * cuda_graph  # one for each process that it would be

    def numbers(plan_):
        result = json.loads((plan_.folder / "result.json").read_text())
        return {key: v for key, v in result["last"].items() if v and "seconds" not in key}

    assert numbers(here) == pytest.approx(numbers(one), rel=1e-4)
    kept = [torch.load(each.folder / "weights.pt")["weights"] for each in (here, one)]
    for name, expected in kept[1].items():
        torch.testing.assert_close(kept[0][name], expected, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize(
    "setting",
    [
        PerturbationSetting(),
        PerturbationSetting(relative="filter", recalibrated=True),
        PerturbationSetting(direction="gaussian"),
    ],
    ids=["gradient", "filter", "gaussian"],
)
def test_moved_weights_reach_what_they_reach_on_the_cpu(device, tmp_path, setting):
    assert execute(planned(tmp_path), Hooks()).ended == "done"
    (entry,) = recorded(load_runs(tmp_path), None)
    rows = []
    for where in (CPU, DEVICE):
        subject = replace(entry.subject, tables=f"{tmp_path}/{where}.")
        with device:
            weight_perturbation.measure(subject, setting, [(0, 0.5), (0, 2.0)], device=where)
        rows.append(rows_on_record(subject, TABLE))
    for expected, found in zip(*rows, strict=True):
        assert found["eps_norm"] == pytest.approx(expected["eps_norm"], rel=1e-6)
        assert found["test_loss"] == pytest.approx(expected["test_loss"], rel=1e-4)
        assert found["test_accuracy"] == pytest.approx(expected["test_accuracy"], abs=0.005)


def test_sharpness_is_what_it_is_on_the_cpu(device, tmp_path):
    assert execute(planned(tmp_path), Hooks()).ended == "done"
    (entry,) = recorded(load_runs(tmp_path), None)
    within = tuple(Neighbourhood(name, part()) for name, part in BALLS.items())
    setting = SharpnessSetting(images=64, draws=2, neighbourhoods=within, m=32)
    rows = []
    for where in (CPU, DEVICE):
        subject = replace(entry.subject, tables=f"{tmp_path}/{where}.")
        with device:
            wanted = sharpness.missing(subject, setting)
            sharpness.measure(subject, setting, wanted, device=where)
        rows.append(rows_on_record(subject, SHARPNESS))
    assert len(rows[0]) == 7
    for expected, found in zip(*rows, strict=True):
        assert found["value"] == pytest.approx(expected["value"], rel=2e-3), found["measure"]


# -- What the emulation shows ---------------------------------------------------------------------


def asks(g):
    return g.sum().item()


def decides(g):
    return bool(g[0] > 0)


def fetches(g):
    return g.cpu() * 2


def selects(g):
    return g[g > 0]


def sends(g):
    return g + torch.ones(len(g)).to(DEVICE)


def mixes(g):
    return g + torch.ones(len(g))


def stacks(g):
    return torch.stack([g[0], torch.ones(())])


@pytest.mark.parametrize("does", [asks, decides, fetches, selects, sends, mixes, stacks])
def test_a_method_that_asks_for_a_value_or_the_cpu_is_noticed(device, does):
    class Doing(Sam):
        def direction(self, at):
            does(at.g)
            return at.g

    with device:
        here, b = stepper(network().to(DEVICE), Doing()), sent(batch())
        with pytest.raises(RuntimeError, match=r"waits|beside"), device.refusing_to_wait():
            here.step(b, at_step())


def test_a_number_of_python_stays_what_it_was_at_the_capture(device):
    with device:
        x, factor = torch.ones(3, device=DEVICE), [2.0]
        replay, found = Recorder(device).record(lambda: x * factor[0])
        factor[0] = 5.0
        x.fill_(10.0)
        replay()
        assert found.tolist() == [20.0] * 3


def test_a_graph_that_reads_what_nobody_holds_any_more_is_noticed(device):
    with device:
        read = [torch.ones(3, device=DEVICE)]
        replay, _ = Recorder(device).record(lambda: 2 * read[0])
        replay()
        read.clear()
        gc.collect()
        with pytest.raises(AssertionError, match="nobody holds"):
            replay()


def test_a_capture_that_waits_fails(device):
    with device, pytest.raises(RuntimeError, match="waits for the device"):
        x = torch.ones(3, device=DEVICE)
        Recorder(device).record(lambda: x.sum().item())


def test_a_run_that_diverges_on_a_device_does_not_go_on_to_the_end_of_its_epoch(device, tmp_path):
    one = replace(planned(tmp_path, "train.batch_size=16", "train.lr=1e30"), device="meta")
    with device:
        training = Training(one, loaded(one), RunDirectory(tmp_path), Hooks(), {})
        outcome = training.run()
    assert outcome.status == "diverged"
    assert re.fullmatch(r".* not finite at epoch 1, by step \d+", outcome.reason)
    assert training.state.step < len(training.feed) / 2


def test_a_checkpoint_takes_no_memory_of_the_device(device):
    with device:
        s = stepper(network().to(DEVICE), METHODS["friendly_sam"])
        s.step(sent(batch()), at_step())
        copies = [s.flat.by_name(s.memory), *s.optimizer.state_by_name().values()]
        assert {each.device for copy in copies for each in copy.values()} == {CPU}


@pytest.mark.parametrize(("name", "counts"), [("adamw", DEVICE), ("rmsprop", CPU)])
def test_the_state_of_any_optimiser_comes_back_to_where_torch_keeps_it(device, name, counts):
    with device:
        there = Optimizer(name=name, settings={})
        s = stepper(network().to(DEVICE), Sam(), optimizer=there)
        state = {
            segment.name: {"step": torch.tensor(3.0), "exp_avg": torch.ones(segment.shape)}
            for segment in s.flat.segments
        }
        s.optimizer.load_state_by_name(state)
        (loaded_state,) = s.optimizer.inner.torch.state.values()
        assert loaded_state["exp_avg"].device == DEVICE
        assert loaded_state["exp_avg"].sum().item() == s.flat.count
        assert (loaded_state["step"].device, loaded_state["step"].item()) == (counts, 3)
