"""The same engine on a CUDA device: `pytest -m gpu`, skipped where there is none."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from fsam_cli.engine.batches import Batch
from fsam_cli.engine.graph import CudaRecorder, GraphedStepper
from fsam_cli.minimisers.asam import Asam
from fsam_cli.minimisers.fsam import FisherSam
from fsam_cli.minimisers.sam import Sam
from fsam_cli.minimisers.sgd import Sgd
from tests.support.command import TINY, fsam
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
    torch.cuda.set_sync_debug_mode("error")
    try:
        s.step(b, at_step(1, 0.1))
    finally:
        torch.cuda.set_sync_debug_mode("default")


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


@pytest.mark.parametrize("name", METHODS)
def test_compiled_steps_equal_eager_ones_on_the_device(name):
    model = network()
    eager = stepper(copy.deepcopy(model).cuda(), METHODS[name])
    compiled = stepper(copy.deepcopy(model).cuda(), METHODS[name], compiled=True)
    for number in range(4):
        for each in (eager, compiled):
            each.step(on("cuda", batch(seed=number)), at_step(number, 0.1 / (number + 1)))
    torch.testing.assert_close(compiled.flat.weights, eager.flat.weights, rtol=1e-4, atol=1e-5)
