"""Blended images in training: their two labels in the loss, and everything else as ever."""

from __future__ import annotations

import copy

import pytest
import torch
from torch.nn import functional as F

from fsam_cli.engine.batches import Batch
from fsam_cli.engine.feed import Feed
from fsam_cli.engine.graph import GraphedStepper
from fsam_cli.engine.run import execute, loaded
from fsam_cli.engine.train import Hooks
from fsam_cli.errors import Interrupted, UsageError
from fsam_cli.minimisers.sam import Sam
from fsam_cli.minimisers.sgd import Sgd
from fsam_cli.recipe.load import load_experiment
from fsam_cli.recipe.plan import plan
from tests.support.command import bits
from tests.support.networks import at_step, batch, network, stepper
from tests.support.recorder import CallAgain

SHARE = torch.linspace(0.05, 1.0, 12)  # of its own label, by image


def blended(seed=1):
    plain = batch(seed=seed)
    return plain.blended(torch.lerp(plain.images.flip(0), plain.images, 0.5), SHARE)


@pytest.mark.parametrize("settings", [{}, {"micro_batch_size": 5}, {"label_smoothing": 0.1}])
def test_the_gradient_is_that_of_soft_labels(settings):
    """Cross-entropy with the mixture of both labels, each smoothed, in float64."""
    model, plain, mixed = network("group"), batch(), blended()
    one = stepper(copy.deepcopy(model), Sgd(), **settings)
    seen = one.gradient(mixed, number=0)
    smoothing = settings.get("label_smoothing", 0.0)
    soft = SHARE[:, None] * F.one_hot(plain.labels, 3)
    soft = (soft + (1 - SHARE)[:, None] * F.one_hot(plain.labels.flip(0), 3)).double()
    soft = soft * (1 - smoothing) + smoothing / 3
    model = model.double()
    loss = -(soft * model(mixed.images.double()).log_softmax(dim=1)).sum(dim=1).mean()
    loss.backward()
    assert seen.loss.item() == pytest.approx(loss.item(), abs=1e-6)
    for name, parameter in model.named_parameters():
        (segment,) = (each for each in one.flat.segments if each.name == name)
        got = one.flat.view(one.flat.gradient, segment).double()
        torch.testing.assert_close(got, parameter.grad, atol=1e-6, rtol=1e-5)


def test_the_label_of_the_larger_part_is_what_accuracy_counts():
    plain = Batch(batch().images, torch.arange(12), torch.arange(12) == 0)
    mixed = plain.blended(plain.images, SHARE)
    for number, share in enumerate(SHARE.tolist()):
        major, minor = (number, 11 - number) if share >= 0.5 else (11 - number, number)
        assert (mixed.labels[number], mixed.minor_labels[number]) == (major, minor)
        assert mixed.corrupted[number] == (major == 0)
    assert mixed.minor_share.tolist() == pytest.approx([min(s, 1 - s) for s in SHARE.tolist()])


def test_hills_are_cut_with_both_labels():
    """With m-sharpness, one hill of all images is SAM."""
    one, other = (stepper(network("group"), Sam(rho=0.5, m_sharpness=m)) for m in (None, 12))
    for each in (one, other):
        each.step(blended(), at_step(0))
    torch.testing.assert_close(one.flat.weights, other.flat.weights)
    plain = stepper(network("group"), Sam(rho=0.5))
    plain.step(Batch(blended().images, blended().labels, blended().corrupted), at_step(0))
    assert (plain.flat.weights - one.flat.weights).abs().max() > 1e-3


def test_a_graph_is_fed_with_both_labels():
    plain, graphed = (stepper(network("group"), Sam(rho=0.5)) for _ in range(2))
    graph = GraphedStepper(graphed, CallAgain(), size=12)
    for number in range(3):
        mixed = blended(seed=number)
        plain.step(mixed, at_step(number))
        graph.step(mixed, at_step(number))
    assert graph.why_not is None
    assert torch.equal(plain.flat.weights, graphed.flat.weights)


MIXING = (
    *("data.augment=[flip, mixup, {name: cutmix, probability: 0.5}]", "train.epochs=2"),
    *("seeds=[0]", "train.batch_size=256"),
)


def planned(tmp_path, method="{method: sam}", *settings):
    experiment = load_experiment("quickstart", [f"methods={{it: {method}}}", *MIXING, *settings])
    (run,) = plan(experiment, out=tmp_path, device="cpu")
    return run


def test_every_method_is_fed_the_same_blends_from_wherever_it_begins(tmp_path):
    one, other = planned(tmp_path), planned(tmp_path, "{method: fsam}")
    data, cpu = loaded(one), torch.device("cpu")
    whole = list(Feed(one, data, cpu).epoch(1))
    later = list(Feed(other, data, cpu).epoch(1, 3))
    assert len(whole) == len(later) + 3
    for a, b in zip(whole[3:], later, strict=True):
        for name in ("images", "labels", "corrupted", "minor_labels", "minor_share"):
            assert torch.equal(getattr(a, name), getattr(b, name))
    unmixed = planned(tmp_path, "{method: sam}", "data.augment=[flip]")
    first, pure = whole[0], next(iter(Feed(unmixed, data, cpu).epoch(1)))
    untouched = first.minor_share == 0
    assert 0.1 < untouched.double().mean() < 0.4  # half of the half that CutMix would have
    assert torch.equal(first.images[untouched], pure.images[untouched])
    assert torch.equal(first.labels[untouched], pure.labels[untouched])
    assert not torch.equal(first.images, pure.images)


def test_a_run_stopped_in_mid_epoch_continues_to_the_same_bits(tmp_path):
    whole, cut, steps = planned(tmp_path / "whole"), planned(tmp_path / "cut"), iter(range(99))
    assert execute(whole, Hooks()).ended == "done"
    with pytest.raises(Interrupted):
        execute(cut, Hooks(should_stop=lambda: next(steps) == 9))
    assert execute(cut, Hooks()).ended == "done"
    assert bits(tmp_path / "cut") == bits(tmp_path / "whole")


def test_the_empirical_fisher_information_has_no_mixed_labels(tmp_path):
    with pytest.raises(UsageError, match=r"data\.augment: mixup gives an image two of them"):
        planned(tmp_path, "{method: fsam, fisher: empirical}", "model.norm=group")
    planned(tmp_path, "{method: fsam, fisher: model}", "model.norm=group")
