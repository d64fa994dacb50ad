"""Compiled passes equal the eager ones to rounding; where there is no compiler, that is said."""

from __future__ import annotations

import pytest
import torch

from fsam_cli.engine.climb import CompiledClimb
from fsam_cli.minimisers.asam import Asam
from fsam_cli.minimisers.friendly_sam import FriendlySam
from fsam_cli.minimisers.fsam import FisherSam
from fsam_cli.minimisers.look_sam import LookSam
from fsam_cli.minimisers.sam import Sam
from fsam_cli.recipe.load import load_experiment
from fsam_cli.recipe.plan import plan, why_not_compiled
from tests.support.command import TINY, fsam
from tests.support.networks import at_step, batch, network, stepper

pytestmark = pytest.mark.usefixtures("quiet_compiler")
needs_compiler = pytest.mark.skipif(
    why_not_compiled("minimiser", "cpu") is not None, reason="no C++ compiler"
)


METHODS = (
    FisherSam(gamma=0.5, eta=20.0),
    Asam(rho=1.0, eta=0.05),  # treats kinds of weights differently
    FriendlySam(rho=0.5),  # keeps a memory
    LookSam(rho=0.5, k=2),  # of both gradients
)


@needs_compiler
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_a_compiled_climb_keeps_the_weights_bit_for_bit(method):
    s = stepper(network(), method, compiled=True)
    s.gradient(batch(seed=1), 0)
    with torch.no_grad():
        s.flat.weights[:3] = torch.tensor([-0.0, 1e-41, -3e38])  # a signed zero, a denormal, huge
    before = s.flat.weights.clone()
    s.climb(batch(seed=1), at_step())
    there = torch.cat([p.detach().flatten() for p in s.model.parameters()])
    s.come_back()
    here = torch.cat([p.detach().flatten() for p in s.model.parameters()])
    assert not torch.equal(here, there)
    assert torch.equal(s.flat.weights.view(torch.int32), before.view(torch.int32))


@needs_compiler
@pytest.mark.parametrize("method", METHODS, ids=lambda method: type(method).__name__)
def test_compiled_steps_equal_eager_ones_to_rounding(method):
    eager, compiled = stepper(network(), method), stepper(network(), method, compiled=True)
    assert isinstance(compiled._climber, CompiledClimb)
    for number in range(4):
        for each in (eager, compiled):
            each.step(batch(seed=number), at_step(number, 0.1 / (number + 1)))
    torch.testing.assert_close(compiled.flat.weights, eager.flat.weights, rtol=1e-5, atol=1e-6)
    if compiled.memory is not None:
        torch.testing.assert_close(compiled.memory, eager.memory, rtol=1e-4, atol=1e-6)
    before = compiled.flat.weights.clone()
    b = batch(seed=9)
    compiled.step(type(b)(b.images * float("nan"), b.labels, b.corrupted), at_step(4))
    assert torch.equal(compiled.flat.weights, before)  # not finite: back to w and no further
    assert compiled.optimizer.nonfinite.item() == 1


@needs_compiler
@pytest.mark.parametrize("scale", [5e-23, 1e-30])
def test_a_compiled_climb_of_a_tiny_gradient_has_its_radius_too(scale):
    s = stepper(network(), Sam(rho=0.5), compiled=True)
    s.gradient(batch(seed=1), 0)
    s.flat.gradient.mul_(scale / s.flat.gradient.abs().max())
    s.climb(batch(seed=1), at_step())
    assert s.perturbation().norm().item() == pytest.approx(0.5, rel=1e-4)


def test_without_a_compiler_nothing_is_compiled_and_that_is_said_once(tmp_path):
    import torch._inductor.config as settings

    why_not_compiled.cache_clear()
    try:
        with settings.patch({"cpp.cxx": ("/nowhere/c++",)}):
            done = fsam("train", "-r", "quickstart", *TINY, "compile=minimiser", cwd=tmp_path)
        assert done.stderr.count("compile: there is no C++ compiler") == 1
        config = (next(tmp_path.rglob("config.yaml"))).read_text()
        assert "\n  compile:" not in config
        plain = fsam("train", "-r", "quickstart", *TINY, "--dry-run", cwd=tmp_path)
        assert plain.stdout.count("skipped") == 2  # the same runs as without asking for it
    finally:
        why_not_compiled.cache_clear()


def test_a_triton_that_cannot_build_what_it_needs_compiles_nothing_on_a_gpu(monkeypatch):
    def no_compiler():
        raise RuntimeError("Failed to find C compiler.\nPlease specify via CC")

    monkeypatch.setattr("torch.utils._triton.has_triton", lambda: True)
    monkeypatch.setattr("torch.utils._triton.triton_backend", no_compiler)
    found = why_not_compiled.__wrapped__("minimiser", "cuda")
    assert found == "Triton does not work here (Failed to find C compiler. Please specify via CC)"
    monkeypatch.setattr("torch.utils._triton.triton_backend", lambda: object())
    assert why_not_compiled.__wrapped__("all", "cuda") is None


@needs_compiler
def test_what_is_compiled_is_part_of_a_runs_identity(tmp_path):
    cells = {}
    for asked in ("none", "minimiser", "all"):
        experiment = load_experiment("quickstart", [f"compile={asked}"])
        first = plan(experiment, out=tmp_path, device="cpu")[0]
        assert first.compile == asked
        assert first.config.get("compile", "none") == asked
        cells[asked] = first.cell
    assert len(set(cells.values())) == 3


@needs_compiler
def test_more_settings_than_torch_compiles_of_one_function_all_train_in_one_process(tmp_path):
    methods = ", ".join(f"s{n}: {{method: sam, rho: 0.{n + 1:02}}}" for n in range(10))
    settings = ("train.epochs=1", "seeds=[0]", "train.batch_size=1024", "compile=minimiser")
    command = ("train", "-r", "quickstart", *settings, f"methods={{{methods}}}", "-q")
    fsam(*command, cwd=tmp_path)
    assert len(list(tmp_path.rglob("weights.pt"))) == 10
