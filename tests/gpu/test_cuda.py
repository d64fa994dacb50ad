"""The same engine on a CUDA device: `pytest -m gpu`, skipped where there is none."""

from __future__ import annotations

import copy
import json
import os
import signal
from contextlib import suppress

import numpy as np
import pytest
import torch
from torch.utils._pytree import tree_leaves

from fsam_cli.augment._pipeline import Pipeline
from fsam_cli.augment.random_resized_crop import RandomResizedCrop
from fsam_cli.datasets._on_demand import OnDemand
from fsam_cli.engine.batches import Batch
from fsam_cli.engine.graph import CudaRecorder, GraphedStepper
from fsam_cli.engine.run import execute
from fsam_cli.engine.train import Hooks
from fsam_cli.errors import Interrupted
from fsam_cli.minimisers.asam import Asam
from fsam_cli.minimisers.fsam import FisherSam
from fsam_cli.minimisers.sam import Sam
from fsam_cli.minimisers.sgd import Sgd
from fsam_cli.recipe.load import load_experiment
from fsam_cli.recipe.optimizers import ELEMENTWISE, SHAPED
from fsam_cli.recipe.plan import plan
from fsam_cli.recipe.schema import Optimizer
from tests.support.command import TINY, fsam, start
from tests.support.networks import at_step, batch, network, stepper

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]


METHODS = {
    "sgd": Sgd(),
    "sam": Sam(rho=0.5),
    "asam": Asam(rho=1.0, eta=0.05),
    "fsam": FisherSam(gamma=0.5, eta=20.0),
}


def on(device: str, b: Batch) -> Batch:
    return Batch(b.images.to(device), b.labels.to(device), b.corrupted.to(device))


@pytest.mark.parametrize("name", METHODS)
def test_three_steps_on_the_device_equal_those_on_the_cpu_within_tolerance(name):
    model = network()
    cpu = stepper(copy.deepcopy(model), METHODS[name])
    cuda = stepper(copy.deepcopy(model).cuda(), METHODS[name])
    for number in range(3):
        b = batch(seed=number)
        cpu.step(b, at_step(number, 0.1))
        cuda.step(on("cuda", b), at_step(number, 0.1))
    torch.testing.assert_close(cuda.flat.weights.cpu(), cpu.flat.weights, rtol=2e-3, atol=2e-4)


@pytest.mark.parametrize("name", METHODS)
def test_a_nan_gradient_is_skipped_on_the_device_and_the_flag_sticks(name):
    s = stepper(network().cuda(), METHODS[name])
    s.step(on("cuda", batch(seed=0)), at_step(0, 0.1))
    weights = s.flat.weights.clone()
    b = on("cuda", batch(seed=1))
    s.step(Batch(b.images * float("nan"), b.labels, b.corrupted), at_step(1, 0.1))
    s.step(on("cuda", batch(seed=2)), at_step(2, 0.1))
    assert torch.equal(s.flat.weights, weights)
    assert s.optimizer.nonfinite.item() == 1


def test_a_step_waits_for_nothing():
    """No operation of a step may synchronise with the host."""
    s = stepper(network().cuda(), FisherSam())
    b = on("cuda", batch())
    s.step(b, at_step(0, 0.1))  # warm-up: lazy initialisation may wait
    with CudaRecorder().refusing_to_wait():
        s.step(b, at_step(1, 0.1))


def test_under_bf16_the_perturbation_does_not_vanish():
    s = stepper(network("none").cuda(), Sam(rho=5.0), bf16=True)
    b = on("cuda", batch())
    s.gradient(b, 0)
    first = s.flat.gradient.clone()
    with s.climbed(b, at_step()):
        s.gradient(b, 0)
    assert (s.flat.gradient - first).norm() > 0.05 * first.norm()


def test_a_run_on_the_device_ends_near_the_one_on_the_cpu(tmp_path):
    accuracy = {}
    for device in ("cpu", "cuda"):
        fsam(
            "train",
            "-r",
            "quickstart",
            *TINY,
            "-q",
            "--device",
            device,
            "--out",
            device,
            cwd=tmp_path,
        )
        results = sorted((tmp_path / device).rglob("result.json"))
        accuracy[device] = [json.loads(p.read_text())["last"]["test_accuracy"] for p in results]
    assert accuracy["cuda"] == pytest.approx(accuracy["cpu"], abs=0.1)


@pytest.mark.parametrize("name", METHODS)
def test_steps_from_a_cuda_graph_equal_eager_ones(name):
    model = network()
    eager = stepper(copy.deepcopy(model).cuda(), METHODS[name])
    graphed = GraphedStepper(
        stepper(copy.deepcopy(model).cuda(), METHODS[name]), CudaRecorder(), size=12
    )
    for number, size in enumerate((12, 12, 7, 12, 12)):
        b, when = on("cuda", batch(size, seed=number)), at_step(number, 0.1 / (number + 1))
        expected, got = eager.step(b, when), graphed.step(b, when)
        torch.testing.assert_close(got.loss, expected.loss, rtol=1e-4, atol=1e-5)
    assert graphed.why_not is None
    torch.testing.assert_close(
        graphed.stepper.flat.weights, eager.flat.weights, rtol=1e-4, atol=1e-5
    )


class Waits(torch.nn.Module):
    """Asks for a value in each pass."""

    def forward(self, x):
        return x if x.sum().item() == x.sum().item() else 2 * x


class DrawsOnTheCpu(torch.nn.Module):
    def forward(self, x):
        return x if torch.rand(()) < 0.5 else 2 * x


@pytest.mark.parametrize(
    ("layer", "reason"),
    [(Waits(), "waits for the device"), (DrawsOnTheCpu(), "draws random numbers")],
    ids=["waits", "draws"],
)
def test_what_cannot_be_captured_is_noticed_before_a_capture_breaks(layer, reason):
    def made():
        return stepper(torch.nn.Sequential(layer, network()).cuda(), Sam(rho=0.5))

    plain, graphed = made(), GraphedStepper(made(), CudaRecorder(), size=12)
    for number in range(2):
        for each in (plain, graphed):
            each.step(on("cuda", batch(seed=number)), at_step(number))
    assert reason in graphed.why_not
    torch.testing.assert_close(graphed.stepper.flat.weights, plain.flat.weights)
    assert torch.cuda.get_sync_debug_mode() == 0


def test_steps_from_a_graph_in_bf16_equal_eager_ones():
    model = network()
    eager = stepper(copy.deepcopy(model).cuda(), Sam(rho=0.5), bf16=True)
    graphed = GraphedStepper(
        stepper(copy.deepcopy(model).cuda(), Sam(rho=0.5), bf16=True), CudaRecorder(), size=12
    )
    for number in range(8):  # more than may be queued
        b, when = on("cuda", batch(seed=number)), at_step(number, 0.1)
        eager.step(b, when)
        graphed.step(b, when)
    assert graphed.why_not is None
    torch.testing.assert_close(
        graphed.stepper.flat.weights, eager.flat.weights, rtol=1e-2, atol=1e-3
    )


@pytest.mark.parametrize("name", sorted({**ELEMENTWISE, **SHAPED}))
def test_every_optimiser_steps_on_the_device_and_skips_what_is_not_finite(name):
    s = stepper(network().cuda(), Sam(rho=0.1), optimizer=Optimizer(name=name, settings={}))
    before = s.flat.weights.clone()
    s.step(on("cuda", batch(seed=0)), at_step(0, 0.01))
    after = s.flat.weights.clone()
    assert not torch.equal(after, before)
    b = on("cuda", batch(seed=1))
    s.step(Batch(b.images * float("nan"), b.labels, b.corrupted), at_step(1, 0.01))
    assert torch.equal(s.flat.weights, after)


def test_what_stays_of_a_continued_run_is_read_without_a_device(tmp_path):
    settings = ["methods={sam: {}}", "train.epochs=3", "seeds=[0]", "train.select=validation"]
    experiment = load_experiment("quickstart", settings)
    (one,) = plan(experiment, out=tmp_path, device="cuda")
    with pytest.raises(Interrupted):
        execute(one, Hooks(should_stop=lambda: (one.folder / "metrics.csv").exists()))
    assert execute(one, Hooks()).ended == "done"
    kept = torch.load(one.folder / "weights.pt", weights_only=True)
    found = [each for each in tree_leaves(kept) if isinstance(each, torch.Tensor)]
    assert found
    assert {each.device.type for each in found} == {"cpu"}


@pytest.mark.usefixtures("quiet_compiler")
@pytest.mark.parametrize("name", METHODS)
def test_compiled_steps_equal_eager_ones_on_the_device(name):
    model = network()
    eager = stepper(copy.deepcopy(model).cuda(), METHODS[name])
    compiled = stepper(copy.deepcopy(model).cuda(), METHODS[name], compiled=True)
    for number in range(4):
        for each in (eager, compiled):
            each.step(on("cuda", batch(seed=number)), at_step(number, 0.1 / (number + 1)))
    torch.testing.assert_close(compiled.flat.weights, eager.flat.weights, rtol=1e-4, atol=1e-5)


ASSERTS = """
import torch
from fsam_cli.contracts import Minimiser

class Asserts(Minimiser):
    @property
    def radius(self):
        return 0.1

    def direction(self, at):
        torch._assert_async(torch.zeros(1, device=at.g.device))
        return at.g

PROVIDES = {"asserts": Asserts}
"""


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_a_run_that_loses_the_device_costs_no_other(tmp_path, jobs):
    (tmp_path / "asserts.py").write_text(ASSERTS)
    settings = ("train.epochs=1", "seeds=[0,1]", "methods={asserts: {}, sam: {}}")
    arguments = ("train", "-r", "quickstart", *settings, "--plugin", "asserts.py", "-j", jobs)
    run = start(*arguments, "--device", "cuda", cwd=tmp_path)
    try:
        _, errors = run.communicate(timeout=90)
    finally:
        with suppress(ProcessLookupError):
            os.killpg(run.pid, signal.SIGKILL)
    results = [json.loads(path.read_text()) for path in tmp_path.rglob("result.json")]
    ended = sorted((each["run"]["label"], each["status"]) for each in results)
    assert ended == [("asserts", "failed")] * 2 + [("sam", "done")] * 2, errors


def test_large_images_are_cropped_and_resized_on_the_device_as_on_the_cpu():
    # No extremes: between its two passes a CPU cuts what overshoots 0 to 255, a GPU afterwards.
    images = torch.randint(64, 192, (64, 3, 40, 40), dtype=torch.uint8)
    seen = {}
    for device in ("cpu", "cuda"):
        part = RandomResizedCrop(size=24)
        pipeline = Pipeline([("crop", part)], (0.5,) * 3, (0.5,) * 3, resize=32)
        draw = lambda _purpose: np.random.default_rng(0)  # noqa: E731
        pipeline.draw(draw, images=64, height=40, width=40)
        seen[device] = pipeline(images.to(device), torch.arange(64)).cpu()
    levels = (seen["cuda"] - seen["cpu"]).abs() * 255 * 0.5
    assert levels.max() < 3.01  # two roundings, and a device's own resampling of bytes
    assert levels.mean() < 0.5


def test_images_decoded_on_demand_arrive_on_the_device_and_are_the_same():
    pixels = np.random.default_rng(0).integers(0, 256, (20, 3, 8, 8), dtype=np.uint8)
    images = OnDemand(list(range(20)), lambda number: pixels[number], (3, 8, 8), "cuda")
    for numbers in torch.randperm(20).split(6):
        images.ahead(numbers)
        found = images[numbers]
        assert found.device.type == "cuda"
        assert torch.equal(found.cpu(), torch.from_numpy(pixels)[numbers])


def test_a_capture_that_breaks_leaves_the_stream_as_it_was():
    """`_warmed_up` keeps captures from breaking; should one break all the same, torch stays on the
    stream of the capture by itself. The last test of the file: before torch 2.13 the memory and the
    random state of the process are not to be relied on afterwards."""
    before = torch.cuda.current_stream()
    x = torch.ones(3, device="cuda")
    with pytest.raises(RuntimeError):
        CudaRecorder().record(lambda: x.sum().item())
    assert torch.cuda.current_stream() == before
