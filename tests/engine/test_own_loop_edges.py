"""One's own loop where it is unusual: layers that come and go, what raises, what cannot be."""

from __future__ import annotations

import copy
from types import SimpleNamespace

import pytest
import torch
from torch import nn
from torch.nn import functional as F

import fsam_cli
from fsam_cli.errors import UsageError
from fsam_cli.minimisers.friendly_sam import FriendlySam
from fsam_cli.minimisers.fsam import FisherSam
from fsam_cli.minimisers.gsam import Gsam
from fsam_cli.minimisers.msam import MomentumSam
from fsam_cli.minimisers.sam import Sam
from tests.support.loops import climbs_of, closure_for, sgd, weights
from tests.support.networks import batch, network

B = batch()


def test_what_there_is_to_import_is_listed():
    assert {"SAM", "SharpnessAware", "load_runs", "__version__"} <= set(dir(fsam_cli))
    assert set(fsam_cli.__all__) <= set(dir(fsam_cli))


@pytest.mark.parametrize(
    ("made", "setting"),
    [
        (fsam_cli.SAM, "rho"),
        (fsam_cli.ASAM, "eta"),
        (fsam_cli.FisherSAM, "gamma"),
        (fsam_cli.LengthMatchedSAM, "m_sharpness"),
    ],
)
def test_a_setting_is_not_set_on_the_optimiser_where_it_would_change_nothing(made, setting):
    model = network()
    optimizer = made(model, sgd(model))
    with pytest.raises(AttributeError, match=rf"replace the method: .* \w+\({setting}=0.5, \.\.\."):
        setattr(optimizer, setting, 0.5)
    optimizer.of_mine = setting  # as schedulers put something there


def test_another_method_of_the_same_kind_has_another_radius_and_no_state_brings_it_back():
    model = network("none")
    optimizer = fsam_cli.SAM(model, sgd(model), rho=0.5)
    state = copy.deepcopy(optimizer.state_dict())
    optimizer.method = Sam(rho=0.02)
    assert climbs_of(optimizer, B)[0].norm() == pytest.approx(0.02, rel=1e-3)
    optimizer.load_state_dict(state)
    assert climbs_of(optimizer, B)[0].norm() == pytest.approx(0.02, rel=1e-3)


def test_labels_are_drawn_anew_at_every_step_and_again_after_loading():
    def fishers(optimizer, steps):
        seen = []

        def watched(batch):
            found = type(optimizer)._fisher(optimizer, batch)
            seen.append(torch.cat([f.flatten() for f in found.values()]))
            return found

        optimizer._fisher = watched
        for _ in range(steps):
            optimizer.step(closure_for(optimizer.model, B), batch=(B.images, B.labels))
        return seen

    def make():
        model = network("none")
        base = torch.optim.SGD(model.parameters(), lr=0.0)  # the same weights at every step
        return fsam_cli.FisherSAM(model, base, fisher="model")

    torch.manual_seed(7)
    optimizer = make()
    first, second = fishers(optimizer, 2)
    assert not torch.equal(first, second)
    resumed = make()
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    assert torch.equal(fishers(resumed, 1)[0], fishers(optimizer, 1)[0])


def test_an_error_in_the_middle_of_the_climb_brings_the_weights_back():
    class Breaks(FisherSam):
        def direction(self, at):
            if at.kind == "bias" and self.broken:
                raise torch.OutOfMemoryError("no room for the bias")
            return super().direction(at)

        @property
        def broken(self):
            return len(lengths) > 0

        def length(self, sums):
            lengths.append(sums)  # from here on the climb is being written
            return super().length(sums)

    lengths = []
    model = network()
    optimizer = fsam_cli.SharpnessAware(model, sgd(model), Breaks(gamma=0.5))
    before = weights(model)
    with pytest.raises(torch.OutOfMemoryError):
        optimizer.step(closure_for(model, B))
    assert torch.equal(weights(model), before)


def test_momentum_sam_leaves_frozen_layers_alone_and_keeps_its_radius():
    model = network("none")
    base = sgd(model)
    optimizer = fsam_cli.SharpnessAware(model, base, MomentumSam(rho=0.5))
    optimizer.step(closure_for(model, B))
    model[0].requires_grad_(False)
    frozen, seen, before = model[0].weight.clone(), [], weights(model)

    def closure():
        seen.append(weights(model))
        assert torch.equal(model[0].weight, frozen)
        loss = F.cross_entropy(model(B.images), B.labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert (seen[0] - before).norm().item() == pytest.approx(0.5, rel=1e-4)


def test_a_skipped_or_empty_step_says_nothing_of_the_momentum():
    model = network("none")
    with_momentum = fsam_cli.SharpnessAware(model, sgd(model), MomentumSam())
    model.requires_grad_(False)
    with_momentum.step(lambda: torch.zeros(()))
    model.requires_grad_(True)
    with_momentum.step(closure_for(model, B))
    without = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = fsam_cli.SharpnessAware(model, without, MomentumSam())
    poisoned = SimpleNamespace(images=B.images * float("nan"), labels=B.labels)
    optimizer.step(closure_for(model, poisoned))
    assert optimizer.skipped_steps == 1
    optimizer.step(closure_for(model, B))
    with pytest.raises(UsageError, match="keeps none here"):
        optimizer.step(closure_for(model, B))


@pytest.mark.parametrize("kind", ["linear", "one cycle"])
def test_gsams_radius_follows_a_warm_up_from_its_first_step(kind):
    model = network()
    base = sgd(model, lr=0.1)
    optimizer = fsam_cli.SharpnessAware(model, base, Gsam(rho=0.5, rho_min=0.1))
    if kind == "linear":
        torch.optim.lr_scheduler.LinearLR(base, start_factor=0.25, total_iters=5)
    else:
        torch.optim.lr_scheduler.OneCycleLR(base, max_lr=0.1, total_steps=9, div_factor=4)
    (eps,) = climbs_of(optimizer, B)
    assert eps.norm().item() == pytest.approx(0.1 + 0.4 * 0.25, rel=1e-3)


def test_the_updates_gradient_is_clipped_and_the_climbs_is_not():
    def moved(clip_norm, scaler=None):
        model = network("none")
        base = torch.optim.SGD(model.parameters(), lr=1.0)
        optimizer = fsam_cli.FisherSAM(model, base, gamma=0.5, eta=100.0)
        gradients, above = [], []

        def closure():
            above.append(weights(model))
            loss = F.cross_entropy(model(B.images), B.labels)
            (loss if scaler is None else scaler.scale(loss)).backward()
            gradients.append(torch.cat([p.grad.flatten() for p in model.parameters()]))
            return loss

        optimizer.step(closure, clip_norm=clip_norm, scaler=scaler)
        return above[1], above[0] - weights(model), gradients[1]

    above, step, gradient = moved(None)
    clipped_above, clipped, _ = moved(0.01)
    assert torch.equal(above, clipped_above)
    torch.testing.assert_close(clipped, step * (0.01 / gradient.norm()), rtol=1e-3, atol=1e-6)
    scaled_above, scaled, _ = moved(0.01, torch.amp.GradScaler("cpu", init_scale=1024.0))
    torch.testing.assert_close(scaled_above, above)
    torch.testing.assert_close(scaled, clipped, rtol=1e-3, atol=1e-6)


def test_a_layer_that_joins_on_the_way_is_perturbed_too():
    model = network("none")
    base = sgd(model)
    optimizer = fsam_cli.SAM(model, base, rho=0.5)
    optimizer.step(closure_for(model, B))
    model[5] = nn.Linear(4 * 6 * 6, 3)
    base.add_param_group({"params": model[5].parameters()})
    (eps,) = climbs_of(optimizer, B)
    assert eps[-3:].abs().min() > 0  # the new layer's bias
    assert eps.norm().item() == pytest.approx(0.5, rel=1e-4)


def test_a_gradient_that_is_not_finite_is_noticed_beside_the_model_too():
    model, temperature = network("none"), nn.Parameter(torch.ones(()))
    base = torch.optim.SGD([*model.parameters(), temperature], lr=0.1)
    optimizer = fsam_cli.SAM(model, base)

    def closure():
        loss = F.cross_entropy(model(B.images), B.labels)
        (loss + temperature * float("nan")).backward()
        return loss

    before = weights(model)
    optimizer.step(closure)
    assert optimizer.skipped_steps == 1
    assert temperature.item() == 1
    assert torch.equal(weights(model), before)


def test_a_closure_without_backward_is_refused():
    model = network("none")
    optimizer = fsam_cli.SAM(model, sgd(model))
    with pytest.raises(UsageError, match="must call backward"):
        optimizer.step(lambda: F.cross_entropy(model(B.images), B.labels))


def test_state_goes_to_a_wrapped_model_and_nowhere_else():
    model = network("none")
    optimizer = fsam_cli.SharpnessAware(model, sgd(model), FriendlySam(rho=0.5))
    optimizer.step(closure_for(model, B))
    state = copy.deepcopy(optimizer.state_dict())
    compiled = torch.compile(copy.deepcopy(model), backend="eager")
    resumed = fsam_cli.SharpnessAware(compiled, sgd(compiled), FriendlySam(rho=0.5))
    resumed.load_state_dict(state)
    for each in (optimizer, resumed):
        each.step(closure_for(each.model, B))
    assert torch.equal(weights(model), weights(compiled))

    other = network("none")
    sam = fsam_cli.SAM(other, sgd(other))
    with pytest.raises(UsageError, match=r"FriendlySam, and this is Sam"):
        sam.load_state_dict(state)
    with pytest.raises(UsageError, match=r"base\.load_state_dict"):
        sam.load_state_dict(sgd(other).state_dict())
    larger = nn.Sequential(nn.Conv2d(2, 5, 3))
    friendly = fsam_cli.SharpnessAware(larger, sgd(larger), FriendlySam(rho=0.5))
    with pytest.raises(UsageError, match="which is not here"):
        friendly.load_state_dict(state)
    assert not friendly.base.state


def test_the_state_is_that_of_the_moment():
    model = network("none")
    optimizer = fsam_cli.SharpnessAware(model, sgd(model), FriendlySam(rho=0.5))
    optimizer.step(closure_for(model, B))
    state = optimizer.state_dict()["memory"]
    kept = copy.deepcopy(state)
    optimizer.step(closure_for(model, B))
    assert all(torch.equal(state[name], kept[name]) for name in kept)


@pytest.mark.parametrize("method", [FisherSam(gamma=0.5), FriendlySam(rho=0.5), Gsam(rho=0.5)])
def test_sparse_gradients_are_as_dense_ones(method):
    def ended(sparse):
        torch.manual_seed(0)
        model = nn.Sequential(nn.Embedding(9, 4, sparse=sparse), nn.Linear(4, 3))
        base = torch.optim.SGD(model.parameters(), lr=0.1)
        optimizer = fsam_cli.SharpnessAware(model, base, method)
        words = SimpleNamespace(
            images=torch.tensor([1, 4, 4, 7]), labels=torch.tensor([0, 1, 2, 0])
        )
        for _ in range(2):
            optimizer.step(closure_for(model, words))
        return weights(model)

    torch.testing.assert_close(ended(sparse=True), ended(sparse=False))


@pytest.mark.parametrize(
    ("parameter", "words"),
    [
        (nn.Parameter(torch.zeros(2, dtype=torch.complex64)), "'more' is complex"),
        (nn.Parameter(torch.zeros(2, device="meta")), r"several devices \(cpu, meta\)"),
    ],
)
def test_weights_that_cannot_be_perturbed_together_are_refused(parameter, words):
    model = network("none")
    model.register_parameter("more", parameter)
    with pytest.raises(UsageError, match=words):
        fsam_cli.SAM(model, sgd(model))


def test_a_subclass_of_lbfgs_is_refused_too():
    class Mine(torch.optim.LBFGS):
        pass

    model = network("none")
    with pytest.raises(UsageError, match="Mine cannot be the base optimiser: it evaluates"):
        fsam_cli.SAM(model, Mine(model.parameters()))


def test_zero_grad_takes_torchs_argument():
    model = network("none")
    optimizer = fsam_cli.SAM(model, sgd(model))
    optimizer.step(closure_for(model, B))
    optimizer.zero_grad(set_to_none=False)
    assert all(p.grad.eq(0).all() for p in model.parameters())


@pytest.mark.parametrize("clip_norm", [0, -1.0, float("nan")])
def test_a_norm_to_clip_to_is_positive(clip_norm):
    model = network("none")
    optimizer, before = fsam_cli.SAM(model, sgd(model)), weights(model)
    with pytest.raises(UsageError, match="give a positive norm"):
        optimizer.step(closure_for(model, B), clip_norm=clip_norm)
    assert torch.equal(weights(model), before)


def test_images_and_labels_may_come_as_a_loader_gives_them():
    model = network("none")
    optimizer = fsam_cli.FisherSAM(model, sgd(model), fisher="empirical")
    before = weights(model)
    optimizer.step(closure_for(model, B), batch=[B.images, B.labels])
    assert not torch.equal(weights(model), before)


@pytest.mark.parametrize("given", [None, B.images, (B.images, B.labels[:-1])])
def test_images_and_labels_are_as_many(given):
    model = network("none")
    optimizer = fsam_cli.FisherSAM(model, sgd(model), fisher="empirical")
    with pytest.raises(UsageError, match="as many of each"):
        optimizer.step(closure_for(model, B), batch=given)


def test_it_is_an_optimiser_to_torch_whose_groups_are_those_of_the_base():
    rates = []
    for of in (lambda optimizer: optimizer, lambda optimizer: optimizer.base):
        model = network("none")
        optimizer = fsam_cli.SAM(model, sgd(model))
        scheduler = torch.optim.lr_scheduler.CosineAnnealingLR(of(optimizer), T_max=4)
        steps = []
        for _ in range(4):
            optimizer.step(closure_for(model, B))
            scheduler.step()
            steps.append((optimizer.base.param_groups[0]["lr"], weights(model).sum().item()))
        rates.append(steps)
    assert rates[0] == rates[1]
    assert rates[0][-1][0] == 0
    assert optimizer.state is optimizer.base.state
    assert repr(optimizer).startswith("SAM(Sam(")


def test_a_group_that_is_added_is_perturbed_and_stepped():
    model = network("none")
    first, last = model[0], model[-1]
    optimizer = fsam_cli.SAM(model, torch.optim.SGD(first.parameters(), lr=0.1))
    optimizer.add_param_group({"params": list(last.parameters()), "lr": 0.2})
    assert [group["lr"] for group in optimizer.param_groups] == [0.1, 0.2]
    before = last.weight.clone()
    optimizer.step(closure_for(model, B))
    assert not torch.equal(last.weight, before)


def test_a_copy_goes_on_as_the_original_would():
    model = network("none")
    optimizer = fsam_cli.SharpnessAware(model, sgd(model), FriendlySam(rho=0.5))
    torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)
    optimizer.step(closure_for(model, B))
    twin, before = copy.deepcopy(optimizer), weights(model)
    twin.step(closure_for(twin.model, B))
    assert torch.equal(weights(model), before)
    optimizer.step(closure_for(model, B))
    assert torch.equal(weights(twin.model), weights(model))
