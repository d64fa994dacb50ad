"""The engine's step against a plain float64 re-implementation, and the traps public code falls
into."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from fsam_cli.engine.batches import Batch, batch_bounds
from fsam_cli.engine.buffers import running_statistics_frozen
from fsam_cli.engine.clock import Clock
from fsam_cli.engine.diagnostics import Observation, _cosine, observed_steps, summarised
from fsam_cli.minimisers.asam import Asam
from fsam_cli.minimisers.fsam import FisherSam
from fsam_cli.minimisers.sam import Sam
from fsam_cli.minimisers.sam_matched import SamMatched
from fsam_cli.minimisers.sgd import Sgd
from fsam_cli.recipe.schema import Optimizer
from tests.support.networks import at_step, batch, network, stepper, trained

METHODS = {
    "sgd": Sgd(),
    "sam": Sam(rho=0.5),
    "asam": Asam(rho=1.0, eta=0.05),
    "fsam": FisherSam(gamma=0.5, eta=20.0),
    "sam_matched": SamMatched(gamma=0.5, eta=20.0),
}


def plain_reference(model, method, batches, *, lr, momentum=0.9, weight_decay=5e-4, smoothing=0.0):
    """Algorithm 1 with momentum SGD, parameter by parameter in float64; returns the weights."""
    model = copy.deepcopy(model).double().train()
    parameters = dict(model.named_parameters())
    velocity = {}

    def gradients(b):
        model.zero_grad()
        F.cross_entropy(model(b.images.double()), b.labels, label_smoothing=smoothing).backward()
        return {name: p.grad.clone() for name, p in parameters.items()}

    for b in batches:
        g = gradients(b)
        buffers = copy.deepcopy(dict(model.named_buffers()))
        w = {name: p.detach().clone() for name, p in parameters.items()}
        if not isinstance(method, Sgd):
            eps = plain_eps(method, w, g)
            with torch.no_grad():
                for name, p in parameters.items():
                    p.add_(eps[name])
            g = gradients(b)
        with torch.no_grad():
            for name, p in parameters.items():
                d = g[name] + weight_decay * w[name]
                velocity[name] = momentum * velocity[name] + d if name in velocity else d.clone()
                p.copy_(w[name] - lr * velocity[name])
            for name, buffer in model.named_buffers():
                buffer.copy_(buffers[name])  # the first pass's statistics
    return {**parameters, **dict(model.named_buffers())}


def plain_eps(method, w, g):
    norm = math.sqrt(sum((x**2).sum().item() for x in g.values()))
    if isinstance(method, Sam):
        return {n: method.rho * x / norm for n, x in g.items()}
    if isinstance(method, Asam):
        t = {n: w[n].abs() + method.eta if "weight" in n else torch.ones_like(w[n]) for n in w}
        tg = math.sqrt(sum(((t[n] * g[n]) ** 2).sum().item() for n in g))
        return {n: method.rho * t[n] ** 2 * g[n] / tg for n in g}
    natural = {n: x / (1 + method.eta * x**2) for n, x in g.items()}
    dual = math.sqrt(sum((g[n] * natural[n]).sum().item() for n in g))
    fsam = {n: method.gamma * x / dual for n, x in natural.items()}
    if isinstance(method, SamMatched):
        length = math.sqrt(sum((x**2).sum().item() for x in fsam.values()))
        return {n: length * x / norm for n, x in g.items()}
    return fsam


def named(model):
    return {**dict(model.named_parameters()), **dict(model.named_buffers())}


BATCHES = [batch(seed=1), batch(seed=2), batch(seed=3)]


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("name", METHODS)
def test_three_steps_equal_the_plain_reference_in_float64(name, norm):
    model = network(norm)
    expected = plain_reference(model, METHODS[name], BATCHES, lr=0.1, smoothing=0.1)
    got = named(trained(model, METHODS[name], BATCHES, label_smoothing=0.1).model)
    for key, value in expected.items():
        torch.testing.assert_close(got[key].double(), value.double(), rtol=2e-4, atol=2e-6)


@pytest.mark.parametrize("name", [n for n in METHODS if n != "sgd"])
def test_plain_sgd_fails_the_reference_of_every_method(name):
    """The comparison above can tell the methods apart."""
    model = network()
    expected = plain_reference(model, METHODS[name], BATCHES, lr=0.1)
    sgd = named(trained(model, Sgd(), BATCHES).model)
    weights = [key for key in expected if key.endswith("weight")]
    assert any(
        not torch.allclose(sgd[key].double(), expected[key], rtol=2e-4, atol=2e-6)
        for key in weights
    )


@pytest.mark.parametrize("name", METHODS)
def test_the_perturbation_is_undone_bit_for_bit(name):
    s = trained(network(), METHODS[name], BATCHES, lr=0.0)
    start = network()
    for key, value in start.named_parameters():
        assert torch.equal(dict(s.model.named_parameters())[key], value)


def test_batch_statistics_move_in_the_first_pass_only():
    model = network()
    s = stepper(model, Sam(rho=5.0))
    other = network()
    other.train()(BATCHES[0].images)
    s.step(BATCHES[0], at_step(0, 0.1))
    assert torch.equal(model[1].running_mean, other[1].running_mean)
    assert torch.equal(model[1].running_var, other[1].running_var)
    assert model[1].num_batches_tracked.item() == 1
    assert model[1].momentum == 0.1
    assert model[1].track_running_stats


def test_the_statistics_of_instance_normalisation_are_frozen_too():
    layer = torch.nn.InstanceNorm2d(2, track_running_stats=True).train()
    before = layer.running_mean.clone()
    with running_statistics_frozen(list(layer.modules())):
        layer(BATCHES[0].images)
    assert torch.equal(layer.running_mean, before)
    layer(BATCHES[0].images)
    assert not torch.equal(layer.running_mean, before)


def test_buffers_that_move_with_every_pass_are_put_back():
    layer = torch.nn.utils.parametrizations.spectral_norm(torch.nn.Linear(4, 3)).train()
    with torch.no_grad():
        layer.parametrizations.weight.original.mul_(torch.arange(3.0).reshape(3, 1))
    before = [buffer.clone() for buffer in layer.buffers()]
    with running_statistics_frozen(list(layer.modules())):
        layer(torch.ones(2, 4))
    assert all(torch.equal(a, b) for a, b in zip(before, layer.buffers(), strict=True))
    layer(torch.ones(2, 4))
    assert not any(torch.equal(a, b) for a, b in zip(before, layer.buffers(), strict=True))


class Tracks(torch.nn.BatchNorm2d):
    """Batch normalisation with buffers of its own: one written into, one replaced."""

    def __init__(self):
        super().__init__(2)
        self.register_buffer("largest", torch.zeros(()))
        self.register_buffer("passes", torch.zeros((), dtype=torch.int64))
        self.register_buffer("none", None)

    def forward(self, images):
        self.largest.copy_(images.detach().max())
        self.passes = self.passes + 1
        return super().forward(images)


def test_buffers_of_a_kind_of_batch_normalisation_and_replaced_ones_are_put_back():
    layer = Tracks().train()
    layer(BATCHES[0].images)
    tensors, values = list(layer.buffers()), [buffer.clone() for buffer in layer.buffers()]
    with running_statistics_frozen(list(layer.modules())):
        layer(BATCHES[1].images)
    assert all(a is b for a, b in zip(tensors, layer.buffers(), strict=True))
    assert all(map(torch.equal, values, layer.buffers()))
    assert layer.passes.item() == layer.num_batches_tracked.item() == 1
    layer(BATCHES[1].images)
    assert not any(map(torch.equal, values, layer.buffers()))


class Itself(torch.nn.BatchNorm2d):
    """Moves the running mean in a pass of its own."""

    def forward(self, images):
        self.running_mean.add_(images.detach().mean((0, 2, 3)))
        return images - self.running_mean[:, None, None]


def test_a_batch_normalisation_with_a_pass_of_its_own_is_put_back_too():
    layer = Itself(2).train()
    layer(BATCHES[0].images)
    before = layer.running_mean.clone()
    with running_statistics_frozen(list(layer.modules())):
        layer(BATCHES[1].images)
    assert torch.equal(layer.running_mean, before)


def test_freezing_statistics_twice_is_harmless_and_normalises_by_the_batch():
    model = network().train()
    with running_statistics_frozen(model), running_statistics_frozen(model):  # its three layers
        inside = model(BATCHES[0].images)
    assert model[1].track_running_stats
    assert torch.equal(inside, network().train()(BATCHES[0].images))


def test_under_bf16_autocast_the_second_gradient_is_taken_at_the_perturbed_weights():
    """One autocast region over both passes would reuse cached copies of w: SAM would be SGD."""
    model = network("none")
    s = stepper(model, Sam(rho=5.0), bf16=True)
    s.gradient(BATCHES[0], 0)
    first = s.flat.gradient.clone()
    with s.climbed(BATCHES[0], at_step()):
        s.gradient(BATCHES[0], 0)
        second = s.flat.gradient.clone()
        fresh = copy.deepcopy(model)
        fresh.zero_grad(set_to_none=True)
        with torch.autocast("cpu", torch.bfloat16):
            loss = F.cross_entropy(fresh(BATCHES[0].images).float(), BATCHES[0].labels)
        loss.backward()
    expected = torch.cat([p.grad.flatten() for p in fresh.parameters()])
    got = torch.cat([s.flat.view(second, x).flatten() for x in _in_order(s, model)])
    torch.testing.assert_close(got, expected, rtol=1e-3, atol=1e-5)
    assert (second - first).norm() > 0.05 * first.norm()


def test_a_whole_step_under_bf16_is_its_parts():
    """If `step` held both passes in one autocast region, it would differ from its parts."""
    whole, parts = (stepper(network("none"), Sam(rho=5.0), bf16=True) for _ in range(2))
    whole.step(BATCHES[0], at_step(0, 0.1))
    parts.gradient(BATCHES[0], 0)
    with parts.climbed(BATCHES[0], at_step()):
        parts.gradient(BATCHES[0], 0)
    parts.descend(0.1)
    assert torch.equal(whole.flat.weights, parts.flat.weights)
    sgd = stepper(network("none"), Sgd(), bf16=True)
    sgd.step(BATCHES[0], at_step(0, 0.1))
    assert (whole.flat.weights - sgd.flat.weights).norm() > 1e-3


def _in_order(s, model):
    by_name = {segment.name: segment for segment in s.flat.segments}
    return [by_name[name] for name, _ in model.named_parameters()]


def test_dropout_draws_the_same_masks_in_both_passes():
    model = network("none", dropout=0.5)
    s = stepper(model, Sam(rho=1e-12))  # no movement: equal masks mean equal gradients
    s.gradient(BATCHES[0], 7)
    first = s.flat.gradient.clone()
    with s.climbed(BATCHES[0], at_step(7)):
        s.gradient(BATCHES[0], 7)
    torch.testing.assert_close(s.flat.gradient, first, rtol=1e-4, atol=1e-6)
    s.gradient(BATCHES[0], 8)  # another step draws others
    assert (s.flat.gradient - first).norm() > 0.1 * first.norm()


@pytest.mark.parametrize("name", METHODS)
def test_a_zero_gradient_is_no_nan_and_no_perturbation(name):
    model = network("none")
    with torch.no_grad():
        for p in model.parameters():
            p.zero_()
    images = torch.zeros(3, 2, 6, 6)
    b = Batch(images, torch.tensor([0, 1, 2]), torch.zeros(3, dtype=torch.bool))
    s = stepper(model, METHODS[name], optimizer=Optimizer(name="sgd"))
    s.step(b, at_step(0, 0.1))
    assert all(torch.isfinite(p).all() for p in model.parameters())
    assert s.optimizer.nonfinite.item() == 0


@pytest.mark.parametrize("optimizer", ["sgd", "adamw", "rmsprop"])
@pytest.mark.parametrize("name", METHODS)
def test_a_nan_gradient_leaves_weights_and_momentum_untouched(name, optimizer):
    model = network()
    s = stepper(model, METHODS[name], optimizer=Optimizer(name=optimizer))
    s.step(BATCHES[0], at_step(0, 0.01))
    weights = s.flat.weights.clone()
    state = copy.deepcopy(s.optimizer.state_by_name())
    poisoned = Batch(BATCHES[1].images * float("nan"), BATCHES[1].labels, BATCHES[1].corrupted)
    s.step(poisoned, at_step(1, 0.01))
    assert torch.equal(s.flat.weights, weights)
    after = s.optimizer.state_by_name()
    for parameter, entries in state.items():
        for key, value in entries.items():
            assert torch.equal(torch.as_tensor(after[parameter][key]), torch.as_tensor(value))
    assert s.optimizer.nonfinite.item() == 1
    s.step(BATCHES[2], at_step(2, 0.01))  # sticky: nothing moves after it
    assert torch.equal(s.flat.weights, weights)


@pytest.mark.parametrize("name", METHODS)
def test_accumulation_over_micro_batches_changes_no_step(name):
    """Fisher SAM would change if the accumulated gradient were a sum, or divided twice."""
    model = network("group")
    whole = trained(model, METHODS[name], BATCHES)
    parts = trained(model, METHODS[name], BATCHES, micro_batch_size=5)
    torch.testing.assert_close(parts.flat.weights, whole.flat.weights, rtol=1e-4, atol=1e-6)


def test_accumulation_sees_no_more_than_a_micro_batch_at_once_in_both_passes():
    sizes = []
    s = stepper(network("group"), METHODS["sam"], micro_batch_size=5)
    s.model.register_forward_hook(lambda _model, seen, _logits: sizes.append(len(seen[0])))
    s.step(BATCHES[0], at_step())
    assert sizes == [5, 5, 2] * 2


def test_fisher_sam_sees_the_gradient_of_the_mean_loss():
    """With a summed loss Fisher SAM takes another direction; with accumulation it must not."""
    model, method = network("group"), FisherSam(gamma=0.5, eta=20.0)
    mean = trained(model, method, BATCHES[:1], lr=0.0)
    mean.gradient(BATCHES[0], 0)
    mean.climb(BATCHES[0], at_step())
    right = mean.perturbation()
    mean.come_back()
    mean.gradient(BATCHES[0], 0)
    mean.flat.gradient.mul_(12)  # what a sum over the 12 images would give
    mean.climb(BATCHES[0], at_step())
    wrong = mean.perturbation()
    cosine = torch.dot(right, wrong) / (right.norm() * wrong.norm())
    assert cosine < 0.999


@pytest.mark.parametrize("method", ["sgd", "sam"])
@pytest.mark.parametrize("name", ["sgd", "adam", "adamw", "rmsprop", "nadam", "adagrad"])
def test_the_flat_optimiser_equals_torchs_on_single_parameters(name, method):
    settings = {"momentum": 0.9} if name == "sgd" else {}
    optimizer = Optimizer(name=name, settings=settings)
    model = network("group")
    s = trained(model, METHODS[method], BATCHES, lr=0.01, optimizer=optimizer)
    other = copy.deepcopy(model).train()
    kind = {o.lower(): getattr(torch.optim, o) for o in dir(torch.optim) if o[0].isupper()}[name]
    torchs = kind(other.parameters(), lr=0.01, **settings)

    def backward(b):
        torchs.zero_grad()
        F.cross_entropy(other(b.images), b.labels).backward()

    for b in BATCHES:
        backward(b)
        if method == "sam":
            w = {n: p.detach().clone() for n, p in other.named_parameters()}
            g = {n: p.grad.clone() for n, p in other.named_parameters()}
            eps = plain_eps(METHODS["sam"], w, g)
            other.load_state_dict({n: w[n] + eps[n] for n in w})
            backward(b)
            other.load_state_dict(w)
        torchs.step()
    for p, q in zip(s.model.parameters(), other.parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", ["sgd", "adamw", "adafactor", "nadam"])
def test_optimiser_state_survives_by_name(name):
    """Momentum included: a step after loading equals a step without the interruption."""
    optimizer = Optimizer(name=name, settings={"momentum": 0.9} if name == "sgd" else {})
    going = trained(network(), Sam(rho=0.1), BATCHES[:2], lr=0.01, optimizer=optimizer)
    state = going.optimizer.state_by_name()
    assert set(state) == {segment.name for segment in going.flat.segments}
    assert (
        any(
            isinstance(value, torch.Tensor) and value.shape == (4, 2, 3, 3)
            for value in state["0.weight"].values()
        )
        or name == "adafactor"
    )
    resumed = stepper(copy.deepcopy(going.model), Sam(rho=0.1), optimizer=optimizer)
    resumed.optimizer.load_state_by_name(state)
    for s in (going, resumed):
        s.step(BATCHES[2], at_step(2, 0.01))
    assert torch.equal(going.flat.weights, resumed.flat.weights)
    forgetful = stepper(copy.deepcopy(going.model), Sam(rho=0.1), optimizer=optimizer)
    forgetful.step(BATCHES[0], at_step(3, 0.01))
    going.step(BATCHES[0], at_step(3, 0.01))
    assert not torch.equal(going.flat.weights, forgetful.flat.weights)


@pytest.mark.parametrize("name", ["adamw", "nadam", "asgd"])
def test_optimiser_state_survives_where_the_first_parameter_is_a_number(name):
    class Scaled(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.a_weight = torch.nn.Parameter(torch.ones(()))
            self.body = network("none")

        def forward(self, x):
            return self.a_weight * self.body(x)

    optimizer = Optimizer(name=name)
    torch.manual_seed(0)
    going = trained(Scaled(), Sam(rho=0.1), BATCHES[:2], lr=0.01, optimizer=optimizer)
    assert going.flat.segments[0].shape == ()
    resumed = stepper(copy.deepcopy(going.model), Sam(rho=0.1), optimizer=optimizer)
    resumed.optimizer.load_state_by_name(going.optimizer.state_by_name())
    for s in (going, resumed):
        s.step(BATCHES[2], at_step(2, 0.01))
    assert torch.equal(going.flat.weights, resumed.flat.weights)


def test_gradient_clipping_bounds_the_gradient_of_the_update():
    s = stepper(network(), Sam(rho=0.5), optimizer=Optimizer(name="sgd"), clip_norm=0.01)
    before = s.flat.weights.clone()
    s.step(BATCHES[0], at_step(0, 1.0))
    assert (s.flat.weights - before).norm().item() == pytest.approx(0.01, rel=1e-4)


@pytest.mark.parametrize(("size", "moved"), [(1e25, 0.01), (float("inf"), 0.0)])
def test_clipping_a_gradient_whose_square_overflows(size, moved):
    s = stepper(network(), Sam(rho=0.5), optimizer=Optimizer(name="sgd"), clip_norm=0.01)
    before = s.flat.weights.clone()
    s.flat.gradient[: s.flat.segments[0].numel] = size
    s.descend(1.0)
    assert (s.flat.weights - before).norm().item() == pytest.approx(moved, rel=1e-4)
    assert s.optimizer.nonfinite.item() == (moved == 0)


@pytest.mark.parametrize(
    ("images", "size", "expected"),
    [
        (10, 4, [(0, 4), (4, 8), (8, 10)]),
        (9, 4, [(0, 4), (4, 9)]),  # the single image joins the batch before it
        (8, 4, [(0, 4), (4, 8)]),
        (1, 4, [(0, 1)]),
        (3, 1, [(0, 1), (1, 2), (2, 3)]),
    ],
)
def test_a_trailing_batch_of_one_image_joins_the_batch_before(images, size, expected):
    assert batch_bounds(images, size) == expected


@pytest.mark.parametrize("name", ["sam", "fsam", "asam"])
def test_diagnostics_change_no_number(name):
    model = network()
    plain = trained(model, METHODS[name], BATCHES)
    watched = stepper(copy.deepcopy(model), METHODS[name])
    clock = Clock(torch.device("cpu"))
    for number, b in enumerate(BATCHES):
        watch = Observation(clock, full=True)
        watched.step(b, at_step(number, 0.1), watch)
        assert set(watch.values) >= {"grad_norm", "eps_norm", "cos_eps_g", "cos_g2_sam"}
    assert torch.equal(plain.flat.weights, watched.flat.weights)
    for (_, a), (_, b) in zip(
        plain.model.named_buffers(), watched.model.named_buffers(), strict=True
    ):
        assert torch.equal(a, b)


def test_diagnostics_of_sam_and_fisher_sam():
    clock = Clock(torch.device("cpu"))
    values = {}
    for name, method in (("sam", Sam(rho=0.5)), ("fsam", FisherSam(gamma=0.5, eta=500.0))):
        watch = Observation(clock, full=True)
        stepper(network(), method).step(BATCHES[0], at_step(0, 0.1), watch)
        values[name] = watch.values
    assert values["sam"]["eps_norm"] == pytest.approx(0.5, rel=1e-4)
    assert values["sam"]["cos_eps_g"] == pytest.approx(1.0, abs=1e-5)
    assert values["sam"]["cos_g2_sam"] == pytest.approx(1.0, abs=1e-4)
    assert "fisher_share" not in values["sam"]
    assert values["fsam"]["cos_eps_g"] < 0.99
    assert 0 < values["fsam"]["fisher_share"] < 1
    assert values["fsam"]["fisher_grad_share"] > values["fsam"]["fisher_share"]


def test_diagnostics_look_at_the_gradient_at_w():
    """On the second step, when the buffers have changed places, against a float64 copy."""
    model, method = network("group"), FisherSam(gamma=0.5, eta=500.0)
    s = trained(model, method, BATCHES[:1])
    copied = copy.deepcopy(s.model).double()
    F.cross_entropy(copied(BATCHES[1].images.double()), BATCHES[1].labels).backward()
    square = torch.cat([p.grad.flatten() for p in copied.parameters()]).square()
    touched = method.eta * square > 0.1
    watch = Observation(Clock(torch.device("cpu")), full=False)
    s.step(BATCHES[1], at_step(1, 0.1), watch)
    values = watch.values
    assert values["grad_norm"] == pytest.approx(square.sum().sqrt().item(), rel=1e-4)
    one = 1 / touched.numel()  # weight may lie on the boundary
    assert values["fisher_share"] == pytest.approx(touched.double().mean().item(), abs=1.5 * one)
    share = (square[touched].sum() / square.sum()).item()
    assert values["fisher_grad_share"] == pytest.approx(share, rel=1e-2)
    assert "cos_g2_sam" not in values


def test_a_cosine_tells_that_nearly_all_of_one_is_not_one():
    random = torch.Generator().manual_seed(0)
    g = torch.randn(5_000_000, generator=random)  # more than a piece
    eps = g + 1e-3 * torch.randn(5_000_000, generator=random)
    expected = F.cosine_similarity(eps.double(), g.double(), dim=0).item()
    assert 1 - _cosine(eps, g) == pytest.approx(1 - expected, rel=1e-6)
    assert _cosine(g, g) == 1


def test_ten_evenly_spaced_steps_are_observed():
    assert observed_steps(100) == frozenset(range(0, 100, 10))
    assert observed_steps(3) == frozenset({0, 1, 2})
    summary = summarised([{"eps_norm": 1.0}, {"eps_norm": 3.0}])
    assert (summary["eps_norm_mean"], summary["eps_norm_min"], summary["eps_norm_max"]) == (2, 1, 3)
    assert summary["cos_g2_sam_mean"] is None
