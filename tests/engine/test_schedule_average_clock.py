"""Learning rate, averaged weights, clocks and evaluation."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from fsam_cli.engine.average import Average
from fsam_cli.engine.clock import Clock
from fsam_cli.engine.evaluate import evaluate
from fsam_cli.engine.feed import HeldOut
from fsam_cli.engine.flat import FlatWeights
from fsam_cli.engine.schedule import learning_rate
from tests.support.networks import network


def rates(**settings):
    defaults = {"steps": 100, "warmup": 0, "peak": 0.4, "schedule": "cosine"}
    return [learning_rate(step, **{**defaults, **settings}) for step in range(100)]


def test_cosine_falls_from_the_peak_to_almost_zero_every_iteration():
    cosine = rates()
    assert cosine[0] == 0.4
    assert cosine[50] == pytest.approx(0.2)
    assert cosine[99] == pytest.approx(0.4 * (1 + math.cos(math.pi * 0.99)) / 2)
    assert cosine == sorted(cosine, reverse=True)


def test_warm_up_rises_linearly_to_the_peak():
    warmed = rates(warmup=10)
    assert warmed[:10] == pytest.approx([0.04 * (i + 1) for i in range(10)])
    assert warmed[10] == 0.4
    assert rates(warmup=10, schedule="constant")[10:] == [0.4] * 90


def test_the_schedule_equals_torchs_cosine():
    parameter = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([parameter], lr=0.4)
    scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, T_max=100)
    for rate in rates():
        assert rate == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
        optimizer.step()
        scheduler.step()


def test_the_average_follows_its_recursion_and_leaves_the_network_as_it_was():
    model = network().train()
    flat = FlatWeights(model)
    average = Average(model, flat, decay=0.5)
    expected, buffers = flat.weights.double().clone(), model[1].running_mean.double().clone()
    for n in range(4):
        flat.weights.add_(1.0)
        model[1].running_mean.add_(1.0)
        average.update()
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * flat.weights.double()
        buffers = decay * buffers + (1 - decay) * model[1].running_mean.double()
    torch.testing.assert_close(average.weights.double(), expected, rtol=1e-5, atol=1e-6)
    before = flat.weights.clone(), model[1].running_mean.clone()
    with average.in_place():
        assert all(
            torch.equal(p, flat.view(average.weights, segment))
            for segment in flat.segments
            for p in [model.get_parameter(segment.name)]
        )
        torch.testing.assert_close(model[1].running_mean.double(), buffers, rtol=1e-5, atol=1e-6)
    assert torch.equal(flat.weights, before[0])
    assert torch.equal(model[1].running_mean, before[1])
    assert flat.attached()


def test_a_buffer_that_is_replaced_is_averaged_too():
    model = network().train()
    average = Average(model, FlatWeights(model), decay=0.5)
    expected = model[1].running_mean.clone()
    for n in range(3):
        model[1].running_mean = model[1].running_mean + 1.0
        average.update()
        decay = min(0.5, (1 + n) / (10 + n))
        expected = decay * expected + (1 - decay) * (n + 1)
    with average.in_place():
        torch.testing.assert_close(model[1].running_mean, expected)
        model[1].running_mean = model[1].running_mean + 1.0  # as evaluation may
    assert (model[1].running_mean == 3).all()


def test_a_purpose_inside_another_pauses_it(monkeypatch):
    moments = iter([0.0, 2.0, 7.0, 10.0])  # train begins, diagnostics, back to train, end
    monkeypatch.setattr("time.perf_counter", lambda: next(moments))
    clock = Clock(torch.device("cpu"))
    with clock.timing("train"), clock.timing("diagnostics"):
        pass
    spent = {purpose: seconds for purpose, seconds in clock.seconds.items() if seconds}
    assert spent == {"train": 5.0, "diagnostics": 5.0}


def test_evaluation_is_plain_cross_entropy_in_evaluation_mode():
    class Plain:
        pixels = 6 * 6

        def normalised(self, images):
            return images.float()

    model = network(dropout=0.5).train()
    model(torch.randn(20, 2, 6, 6))
    model[1].eval()  # a network may keep a layer so
    images = torch.randint(0, 255, (1500, 2, 6, 6), dtype=torch.uint8)  # more than one batch
    labels = torch.randint(3, (1500,))
    result = evaluate(model, HeldOut(images, labels), Plain(), bf16=False)
    assert model.training
    assert [layer.training for layer in model[:3]] == [True, False, True]
    with torch.no_grad():
        logits = model.eval()(images.float())
    assert result.accuracy == (logits.argmax(1) == labels).double().mean().item()
    assert result.loss == pytest.approx(F.cross_entropy(logits, labels).item(), rel=1e-5)
    assert torch.equal(result.predictions, logits.argmax(1))


@pytest.fixture
def averaged():
    model = network().train()
    flat = FlatWeights(model)
    average = Average(model, flat, decay=0.5)
    flat.weights.add_(1.0)
    model[1].running_mean.add_(1.0)
    average.update()
    return model, flat, average


def test_an_interrupt_while_the_averages_are_in_place_leaves_the_networks_own(averaged):
    model, flat, average = averaged
    before = flat.weights.clone(), model[1].running_mean.clone()
    with pytest.raises(KeyboardInterrupt), average.in_place():
        raise KeyboardInterrupt
    assert torch.equal(flat.weights, before[0])
    assert torch.equal(model[1].running_mean, before[1])


def test_a_state_stays_what_it_was_and_brings_another_average_to_it(averaged):
    model, flat, average = averaged
    average.update()
    state = average.state()
    kept = copy.deepcopy(state)
    fresh = Average(model, flat, decay=0.5)
    fresh.load_state(**state)
    model[1].running_mean.add_(5.0)
    flat.weights.add_(5.0)
    average.update()
    for found in (state, fresh.state()):
        assert found["updates"] == kept["updates"] == 2
        for room in ("weights", "buffers"):
            assert found[room].keys() == kept[room].keys()
            assert all(torch.equal(found[room][name], kept[room][name]) for name in kept[room])
