"""The minimisers in somebody's own loop equal the engine's, and keep its promises."""

from __future__ import annotations

import copy
import subprocess
import sys

import pytest
import torch
from torch.nn import functional as F

import fsam_cli
from fsam_cli.errors import UsageError
from fsam_cli.minimisers.asam import Asam
from fsam_cli.minimisers.friendly_sam import FriendlySam
from fsam_cli.minimisers.fsam import FisherSam
from fsam_cli.minimisers.gsam import Gsam
from fsam_cli.minimisers.late_sam import LateSam
from fsam_cli.minimisers.look_sam import LookSam
from fsam_cli.minimisers.msam import MomentumSam
from fsam_cli.minimisers.sam import Sam
from fsam_cli.minimisers.sam_matched import SamMatched
from fsam_cli.minimisers.sam_on import SamOn
from fsam_cli.minimisers.unnormalised_sam import UnnormalisedSam
from tests.support.loops import closure_for, sgd, weights
from tests.support.networks import at_step, batch, network, stepper

BATCHES = [batch(seed=seed) for seed in range(3)]
PAIRS = {
    "sam": (lambda m, o: fsam_cli.SAM(m, o, rho=0.5), Sam(rho=0.5)),
    "asam": (lambda m, o: fsam_cli.ASAM(m, o, rho=1, eta=0.05), Asam(rho=1.0, eta=0.05)),
    "fsam": (
        lambda m, o: fsam_cli.FisherSAM(m, o, gamma=0.5, eta=20.0),
        FisherSam(gamma=0.5, eta=20.0),
    ),
    "matched": (
        lambda m, o: fsam_cli.LengthMatchedSAM(m, o, gamma=0.5, eta=20.0),
        SamMatched(gamma=0.5, eta=20.0),
    ),
}

PAIRS |= {
    name: (lambda m, o, method=method: fsam_cli.SharpnessAware(m, o, method), method)
    for name, method in {
        "sam_on": SamOn(rho=0.5),
        "usam": UnnormalisedSam(rho=0.5),
        "msam": MomentumSam(rho=0.5, natural_gradient={"eta": 30.0}),
        "gsam": Gsam(rho=0.5, alpha=0.7, natural_gradient=True),
        "friendly_sam": FriendlySam(rho=0.5, sigma=0.8),
    }.items()
}


@pytest.mark.parametrize("name", PAIRS)
def test_three_lines_in_ones_own_loop_equal_the_engine(name):
    make, method = PAIRS[name]
    model = network()
    engine = stepper(copy.deepcopy(model), method)
    own = model.train()
    optimizer = make(own, sgd(own))
    for number, b in enumerate(BATCHES):
        loss = optimizer.step(closure_for(own, b))
        first = engine.step(b, at_step(number, 0.1))
        assert loss.item() == pytest.approx(first.loss.item(), rel=1e-4)
    for p, q in zip(own.parameters(), engine.model.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    assert own[1].num_batches_tracked.item() == 3


@pytest.mark.parametrize(
    ("method", "message"),
    [
        (LateSam(), "LateSam depends on the epoch"),
        (LookSam(), "LookSam climbs once in 5 steps, counted"),
        (Sam(m_sharpness=4), "m_sharpness cuts the batch"),
    ],
)
def test_what_only_the_loop_itself_can_know_is_refused(method, message):
    model = network()
    with pytest.raises(UsageError, match=message):
        fsam_cli.SharpnessAware(model, sgd(model), method)


def test_sam_on_in_a_network_without_normalisation_is_refused():
    model = network("none")
    with pytest.raises(UsageError, match="perturbs no weight"):
        fsam_cli.SharpnessAware(model, sgd(model), SamOn())


def test_momentum_sam_climbs_although_the_caller_zeroes_gradients_himself():
    model, other = network().train(), network().train()
    ours = fsam_cli.SharpnessAware(model, sgd(model), MomentumSam(rho=0.5))
    plain = sgd(other)
    for b in BATCHES:
        ours.zero_grad()
        ours.step(closure_for(model, b))
        plain.zero_grad()
        closure_for(other, b)()
        plain.step()
    assert any(
        not torch.allclose(p, q, atol=1e-4)
        for p, q in zip(model.parameters(), other.parameters(), strict=True)
    )


def poisoned(model, b):
    def closure():
        loss = F.cross_entropy(model(b.images), b.labels) * float("inf")
        loss.backward()
        return loss

    return closure


def test_a_gradient_that_is_not_finite_is_skipped_and_not_remembered():
    model = network().train()
    optimizer = fsam_cli.SharpnessAware(model, sgd(model), FriendlySam(rho=0.5))
    optimizer.step(closure_for(model, BATCHES[0]))
    optimizer.step(poisoned(model, BATCHES[1]))
    before = weights(model)
    optimizer.step(closure_for(model, BATCHES[2]))
    assert optimizer.skipped_steps == 1
    assert not torch.equal(weights(model), before)
    assert all(m.isfinite().all() for m in optimizer.state_dict()["memory"].values())


class InABox(LookSam):
    """Remembers both gradients, and climbs as far along one that is not finite."""

    def direction(self, at):
        return at.g.sign()

    def length(self, sums):
        return sums[0].new_tensor(self.rho)


@pytest.mark.parametrize("at", [0, 1], ids=["at w", "at w + eps"])
def test_of_two_gradients_neither_may_be_remembered_where_one_is_not_finite(at):
    model, passes = network().train(), []
    optimizer = fsam_cli.SharpnessAware(model, sgd(model), InABox(rho=0.01, k=1))
    optimizer.step(closure_for(model, BATCHES[0]))
    before = optimizer.state_dict()["memory"]

    def closure():
        passes.append(len(passes))
        loss = closure_for(model, BATCHES[1])()
        if passes[-1] == at:
            next(model.parameters()).grad.fill_(float("inf"))
        return loss

    optimizer.step(closure)
    after = optimizer.state_dict()["memory"]
    assert len(passes) == 2
    assert any(m.any() for m in before.values())
    assert all(torch.equal(m, after[name]) for name, m in before.items())


def test_a_disabled_scaler_is_none():
    model = network().train()
    scaler = torch.amp.GradScaler("cpu", enabled=False)
    optimizer = fsam_cli.SAM(model, sgd(model))
    optimizer.step(poisoned(model, BATCHES[1]), scaler=scaler)
    assert optimizer.skipped_steps == 1
    assert all(p.isfinite().all() for p in model.parameters())


def test_momentum_sam_around_an_optimizer_without_momentum_is_refused():
    model = network().train()
    plain = torch.optim.SGD(model.parameters(), lr=0.1)
    optimizer = fsam_cli.SharpnessAware(model, plain, MomentumSam(rho=0.5))
    optimizer.step(closure_for(model, BATCHES[0]))
    with pytest.raises(UsageError, match="keeps none here"):
        optimizer.step(closure_for(model, BATCHES[1]))


def test_gsams_peak_learning_rate_is_part_of_the_optimizers_state():
    model = network().train()
    method = Gsam(rho=0.5, rho_min=0.1)
    optimizer = fsam_cli.SharpnessAware(model, sgd(model, lr=0.1), method)
    optimizer.step(closure_for(model, BATCHES[0]))
    optimizer.param_groups[0]["lr"] = 0.01
    other = copy.deepcopy(model)
    resumed = fsam_cli.SharpnessAware(other, sgd(other, lr=0.01), method)
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, network_ in ((optimizer, model), (resumed, other)):
        each.step(closure_for(network_, BATCHES[1]))
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


def test_sam_on_survives_a_step_without_a_gradient_of_its_layers():
    model = network().train()
    head = model[-1]
    optimizer = fsam_cli.SharpnessAware(model, sgd(model), SamOn(rho=0.5))

    def closure():
        loss = F.cross_entropy(head(torch.ones(4, 144)), torch.tensor([0, 1, 2, 0]))
        loss.backward()
        return loss

    before = head.weight.detach().clone()
    optimizer.step(closure)
    assert not torch.equal(head.weight, before)


def test_two_gradients_of_different_parameters_are_not_combined():
    model = network().train()
    optimizer = fsam_cli.SharpnessAware(model, sgd(model), Gsam(rho=0.5))
    calls = []

    def closure():
        calls.append(1)
        images = BATCHES[0].images if len(calls) == 1 else None
        logits = model(images) if images is not None else model[-1](torch.ones(12, 144))
        loss = F.cross_entropy(logits, BATCHES[0].labels)
        loss.backward()
        return loss

    with pytest.raises(UsageError, match="different parameters"):
        optimizer.step(closure)


def test_the_memory_of_a_method_is_part_of_the_optimisers_state():
    model = network().train()
    optimizer = fsam_cli.SharpnessAware(model, sgd(model), FriendlySam(rho=0.5))
    for b in BATCHES[:2]:
        optimizer.step(closure_for(model, b))
    other = copy.deepcopy(model)
    resumed = fsam_cli.SharpnessAware(other, sgd(other), FriendlySam(rho=0.5))
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))
    for each, network_ in ((optimizer, model), (resumed, other)):
        each.step(closure_for(network_, BATCHES[2]))
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


def test_accumulation_in_the_closure_changes_no_step():
    results = []
    for divide in (1, 3):
        model = network("group").train()
        fsam_cli.FisherSAM(model, sgd(model), gamma=0.5, eta=20.0).step(
            closure_for(model, BATCHES[0], divide)
        )
        results.append(weights(model))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-6)


def test_an_autocast_region_around_the_step_does_not_swallow_the_perturbation():
    def second_gradient(around: bool):
        model = network("none").train()
        seen = []

        def closure():
            with torch.autocast("cpu", torch.bfloat16):
                loss = F.cross_entropy(model(BATCHES[0].images).float(), BATCHES[0].labels)
            loss.backward()
            seen.append(torch.cat([p.grad.flatten().clone() for p in model.parameters()]))
            return loss

        optimizer = fsam_cli.SAM(model, sgd(model), rho=5.0)
        if around:
            with torch.autocast("cpu", torch.bfloat16):
                optimizer.step(closure)
        else:
            optimizer.step(closure)
        return seen

    inside, around = second_gradient(False), second_gradient(True)
    assert (inside[1] - inside[0]).norm() > 0.05 * inside[0].norm()
    torch.testing.assert_close(around[1], inside[1])


def test_the_gradient_is_unscaled_before_the_climb():
    """A scaled loss must not change Fisher SAM's direction."""

    class Scaler:
        def __init__(self, scale):
            self.value, self.updates = scale, 0

        def is_enabled(self):
            return True

        def get_scale(self):
            return self.value

        def step(self, optimizer):
            for group in optimizer.param_groups:
                for p in group["params"]:
                    p.grad.div_(self.value)
            optimizer.step()

        def update(self):
            self.updates += 1

    results = []
    for scale in (1.0, 1024.0):
        model = network("group").train()
        scaler = Scaler(scale)

        def closure(model=model, scale=scale):
            loss = F.cross_entropy(model(BATCHES[0].images), BATCHES[0].labels)
            (scale * loss).backward()
            return loss

        optimizer = fsam_cli.FisherSAM(model, sgd(model), gamma=0.5, eta=20.0)
        optimizer.step(closure, scaler=scaler)
        assert scaler.updates == 1
        results.append(weights(model))
    torch.testing.assert_close(results[0], results[1], rtol=1e-4, atol=1e-6)


def test_dropout_draws_the_same_masks_and_the_random_state_moves_on():
    model = network("none", dropout=0.5).train()
    seen = []

    def closure():
        loss = F.cross_entropy(model(BATCHES[0].images), BATCHES[0].labels)
        loss.backward()
        seen.append(torch.cat([p.grad.flatten().clone() for p in model.parameters()]))
        return loss

    optimizer = fsam_cli.SAM(model, sgd(model, lr=0.0), rho=1e-12)
    optimizer.step(closure)
    optimizer.step(closure)
    torch.testing.assert_close(seen[0], seen[1], rtol=1e-4, atol=1e-6)
    assert (seen[2] - seen[0]).norm() > 0.1 * seen[0].norm()


def test_a_non_finite_gradient_skips_the_step_and_is_counted():
    model = network().train()
    optimizer = fsam_cli.FisherSAM(model, sgd(model))
    before = [p.detach().clone() for p in model.parameters()]

    def closure():
        loss = F.cross_entropy(model(BATCHES[0].images * float("nan")), BATCHES[0].labels)
        loss.backward()
        return loss

    optimizer.step(closure)
    assert optimizer.skipped_steps == 1
    assert all(torch.equal(p, q) for p, q in zip(model.parameters(), before, strict=True))


def test_parameters_without_a_gradient_are_passed_over():
    model = network().train()
    model.register_parameter("unused", torch.nn.Parameter(torch.ones(2)))
    optimizer = fsam_cli.SAM(model, sgd(model))
    optimizer.step(closure_for(model, BATCHES[0]))
    assert model.unused.tolist() == [1, 1]


def test_schedulers_attach_to_the_base_optimiser_and_state_carries_momentum():
    def make():
        model = network().train()
        base = sgd(model)
        return model, base, fsam_cli.SAM(model, base, rho=0.5)

    model, base, optimizer = make()
    schedule = torch.optim.lr_scheduler.StepLR(base, step_size=1, gamma=0.5)
    for b in BATCHES[:2]:
        optimizer.step(closure_for(model, b))
        schedule.step()
    assert optimizer.param_groups[0]["lr"] == pytest.approx(0.025)
    other, _, resumed = make()
    other.load_state_dict(model.state_dict())
    resumed.load_state_dict(copy.deepcopy(optimizer.state_dict()))  # torch hands out references
    optimizer.step(closure_for(model, BATCHES[2]))
    resumed.step(closure_for(other, BATCHES[2]))
    for p, q in zip(model.parameters(), other.parameters(), strict=True):
        assert torch.equal(p, q)


def test_weights_of_less_than_32_bits_are_refused():
    model = network().to(torch.bfloat16)
    with pytest.raises(UsageError, match="Keep the weights in float32"):
        fsam_cli.SAM(model, sgd(model))


def test_per_image_fisher_needs_the_batch():
    model = network("group").train()
    optimizer = fsam_cli.FisherSAM(model, sgd(model), fisher="empirical")
    with pytest.raises(UsageError, match="batch="):
        optimizer.step(closure_for(model, BATCHES[0]))
    b = BATCHES[0]
    optimizer.step(closure_for(model, b), batch=(b.images, b.labels))


def test_importing_the_package_is_quick_because_it_brings_no_torch():
    code = "import fsam_cli, sys; assert 'torch' not in sys.modules and 'pandas' not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True)
    with pytest.raises(AttributeError):
        _ = fsam_cli.nothing


def test_a_parameter_unfrozen_on_the_way_is_perturbed_from_then_on():
    b = BATCHES[0]

    def second_gradient(unfreeze_late):
        model = network("none")
        model[0].weight.requires_grad_(not unfreeze_late)
        optimizer = fsam_cli.SAM(model, sgd(model), rho=5.0)
        model[0].weight.requires_grad_(True)
        optimizer.step(closure_for(model, b))
        return model[0].weight.grad

    assert torch.equal(second_gradient(unfreeze_late=True), second_gradient(unfreeze_late=False))


def test_parameters_that_the_base_optimiser_lacks_are_not_perturbed():
    model = network("none")
    alone = copy.deepcopy(model)
    alone[0].requires_grad_(False)
    for each in (model, alone):
        optimizer = fsam_cli.SAM(each, torch.optim.SGD(each[5].parameters(), lr=0.1), rho=5.0)
        for b in BATCHES:
            optimizer.step(closure_for(each, b))
    assert torch.equal(model[5].weight, alone[5].weight)


def test_gradients_of_parameters_that_the_base_optimiser_lacks_do_not_pile_up():
    model = network("none")
    optimizer = fsam_cli.SAM(model, torch.optim.SGD(model[5].parameters(), lr=0.0), rho=0.5)
    gradients = []
    for _ in range(2):
        optimizer.step(closure_for(model, BATCHES[0]))
        gradients.append(model[0].weight.grad.clone())
    assert torch.equal(*gradients)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda m: fsam_cli.SAM(m, "sgd"), "the base optimiser is 'sgd'"),
        (lambda m: fsam_cli.SAM(m, fsam_cli.SAM(m, sgd(m))), "is a SAM already"),
        (lambda m: fsam_cli.SharpnessAware(m, sgd(m), Sam), "hand over an object such as Sam"),
        (lambda m: fsam_cli.SAM(m.parameters(), sgd(m)), "hand over the model itself"),
        (lambda m: fsam_cli.SAM(m, torch.optim.LBFGS(m.parameters())), "several times a step"),
        (lambda m: fsam_cli.SAM(m, sgd(network())), "make both from the same one"),
        (lambda m: fsam_cli.SAM(m, sgd(m), rho=-1), "rho: -1.0 is refused"),
        (lambda m: fsam_cli.FisherSAM(m, sgd(m), gama=1), "did you mean 'gamma'"),
    ],
)
def test_misuse_is_refused_in_words(make, words):
    with pytest.raises(UsageError) as refused:
        make(network())
    assert words in str(refused.value)


@pytest.mark.parametrize("returned", [None, 0.5])
def test_a_closure_that_returns_no_loss_is_refused(returned):
    model = network()
    optimizer = fsam_cli.SAM(model, sgd(model))
    before = model[0].weight.clone()
    with pytest.raises(UsageError, match="return that loss, a tensor"):
        optimizer.step(lambda: returned)
    assert torch.equal(model[0].weight, before)


def test_only_what_the_base_optimiser_has_is_looked_at():
    model = network("none")
    model[0].to(torch.bfloat16)  # a backbone that is not trained
    fsam_cli.SAM(model, torch.optim.SGD(model[5].parameters(), lr=0.1))
    with pytest.raises(UsageError, match=r"stored as torch\.bfloat16"):
        fsam_cli.SAM(model, sgd(model))
    normed = network()
    with pytest.raises(UsageError, match="SamOn perturbs no weight of this network"):
        fsam_cli.SharpnessAware(normed, torch.optim.SGD(normed[5].parameters()), SamOn())
