"""A step off the CPU leaves the host alone, shown without a device at hand.

Tensors on torch's "meta" device have shapes and no values, so they take the branches that a GPU
takes, and whatever asks for a value or mixes devices fails. What stays for a device itself
(`tests/gpu`) are numbers, kernels and the capture.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import replace

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from fsam_cli.engine.batches import Batch
from fsam_cli.engine.graph import _why_never
from fsam_cli.engine.run import loaded
from fsam_cli.engine.train import Hooks, Training
from fsam_cli.parts import catalogue
from fsam_cli.recipe.load import load_experiment
from fsam_cli.recipe.plan import plan
from fsam_cli.records.store import RunDirectory
from tests.support.networks import at_step, batch, network, stepper

METHODS = {name: part() for name, part in sorted(catalogue("minimisers").items())} | {
    "m-sharpness": catalogue("minimisers")["sam"](m_sharpness=5),
    "natural gradient": catalogue("minimisers")["fsam"](natural_gradient=True),
}


class OffTheCpu(TorchDispatchMode):
    """Refuses every operation with a tensor on the CPU: in a captured step its value would be
    that of the capture for ever, and its copy to the device would wait."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        got = func(*args, **(kwargs or {}))
        for each in tree_leaves((args, kwargs, got)):
            assert not isinstance(each, torch.Tensor) or each.device.type == "meta", func
        return got


@pytest.fixture(autouse=True)
def no_autocast_and_a_fused_update(monkeypatch):
    """The two that "meta" does not know: autocast, off here, and the fused kernel of the update,
    whose arguments are looked at instead."""
    updates = []

    def fused(weights, gradients, momenta, *, lr, found_inf, **settings):
        tensors = [*weights, *gradients, *momenta, found_inf]
        tensors += [lr] if isinstance(lr, torch.Tensor) else []
        assert {each.device.type for each in tensors} == {"meta"}
        updates.append(settings)

    monkeypatch.setattr(torch, "autocast", lambda *a, **k: nullcontext())
    monkeypatch.setattr(torch, "_fused_sgd_", fused)
    return updates


def off_the_cpu(method, **settings):
    with torch.device("meta"):
        model = network()
    s = stepper(model, method, **settings)
    b = batch()
    return s, Batch(b.images.to("meta"), b.labels.to("meta"), b.corrupted.to("meta"))


@pytest.mark.parametrize("from_memory", [False, True], ids=["as ever", "as captured"])
@pytest.mark.parametrize("name", METHODS)
def test_a_step_asks_for_no_value_and_touches_nothing_on_the_cpu(
    name, from_memory, no_autocast_and_a_fused_update
):
    s, b = off_the_cpu(METHODS[name], clip_norm=1.0, micro_batch_size=7)
    assert _why_never(s) is None
    s.set_step(at_step(0, 0.1))
    with s.settings_from_memory() if from_memory else nullcontext(), OffTheCpu():
        for number in range(2):
            s.step(b, at_step(number, 0.1))
    assert len(no_autocast_and_a_fused_update) == 2


@pytest.mark.parametrize(
    "ask", [lambda g: g.sum().item(), lambda g: bool(g[0] > 0), lambda g: g.cpu() * 2]
)
def test_a_method_that_asks_for_a_value_or_the_cpu_is_noticed(ask):
    class Asking(catalogue("minimisers")["sam"]):
        def direction(self, at):
            ask(at.g)
            return at.g

    s, b = off_the_cpu(Asking())
    with pytest.raises((RuntimeError, AssertionError, NotImplementedError)), OffTheCpu():
        s.step(b, at_step())


TRAINED = (
    "methods={fsam: {}}",
    "seeds=[0]",
    "data.augment=[{name: crop, padding: 1}, flip, autoaugment, {name: cutout, size: 3}]",
    *("train.ema=0.9", "train.clip_norm=1.0", "train.label_smoothing=0.1"),
)
LARGE = ("data.resize=12", "data.augment=[random_resized_crop, flip]")


@pytest.mark.parametrize("more", [(), LARGE], ids=["small images", "resized"])
def test_an_epoch_of_a_training_waits_for_nothing_before_its_end(
    tmp_path, no_autocast_and_a_fused_update, more
):
    """Batches, augmentation, steps, the averages of weights and the sums over the epoch."""
    experiment = load_experiment("quickstart", (*TRAINED, *more))
    (one,) = plan(experiment, out=tmp_path, device="cpu")
    one = replace(one, device="meta")
    training = Training(one, loaded(one), RunDirectory(tmp_path), Hooks(), {})
    for batch_ in training.feed.epoch(0):
        with OffTheCpu():
            training._step(batch_, 0, watched=False)
    assert len(no_autocast_and_a_fused_update) == len(training.feed) > 10
    with pytest.raises(RuntimeError):  # now it is asked
        training.state.diverged()
