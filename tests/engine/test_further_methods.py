"""The methods beyond the paper's, in the engine, against a plain float64 re-implementation."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch.nn import functional as F

from fsam_cli.errors import UsageError
from fsam_cli.minimisers.asam import Asam
from fsam_cli.minimisers.friendly_sam import FriendlySam
from fsam_cli.minimisers.fsam import FisherSam
from fsam_cli.minimisers.gsam import Gsam
from fsam_cli.minimisers.late_sam import LateSam
from fsam_cli.minimisers.look_sam import LookSam
from fsam_cli.minimisers.msam import MomentumSam
from fsam_cli.minimisers.sam import Sam
from fsam_cli.minimisers.sam_on import SamOn
from fsam_cli.minimisers.sgd import Sgd
from fsam_cli.minimisers.unnormalised_sam import UnnormalisedSam
from fsam_cli.recipe.schema import Optimizer
from tests.support.networks import at_step, batch, network, stepper

MOMENTUM, DECAY = 0.9, 5e-4
BATCHES = [batch(seed=seed) for seed in range(1, 5)]
WITH_NATURAL = {"eta": 30.0}

METHODS = {
    "usam": UnnormalisedSam(rho=0.5),
    "late_sam": LateSam(rho=0.5, start=2),
    "sam_on": SamOn(rho=0.5),
    "msam": MomentumSam(rho=0.5),
    "gsam": Gsam(rho=0.5, alpha=0.7),
    "friendly_sam": FriendlySam(rho=0.5, sigma=0.8, decay=0.6),
    "look_sam": LookSam(rho=0.5, k=2, alpha=0.7),
    "sam m=5": Sam(rho=0.5, m_sharpness=5),
    "gsam m=4": Gsam(rho=0.5, alpha=0.7, m_sharpness=4),
    "sgd natural": Sgd(natural_gradient=WITH_NATURAL),
    "sam natural": Sam(rho=0.5, natural_gradient=WITH_NATURAL),
    "asam natural": Asam(rho=0.5, natural_gradient={"eta": 0.3, "inverse": "damped"}),
    "fsam natural": FisherSam(gamma=0.5, eta=30.0, natural_gradient=True),
    "msam natural": MomentumSam(rho=0.5, natural_gradient=WITH_NATURAL),
    "look_sam natural": LookSam(rho=0.5, k=3, natural_gradient=WITH_NATURAL),
    "gsam natural": Gsam(rho=0.5, alpha=0.7, natural_gradient=WITH_NATURAL),
}


class Plain:
    """Momentum SGD around each method's equations, parameter by parameter in float64."""

    def __init__(self, model, method):
        self.model, self.method = copy.deepcopy(model).double().train(), method
        self.parameters = dict(self.model.named_parameters())
        self.v = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.m = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
        self.steps = 0

    def gradient(self, images, labels):
        self.model.zero_grad()
        F.cross_entropy(self.model(images.double()), labels).backward()
        return {name: p.grad.clone() for name, p in self.parameters.items()}

    def train(self, batches, lr):
        for b in batches:
            size, m = len(b.labels), self.method.m_sharpness or len(b.labels)
            total = {name: torch.zeros_like(p) for name, p in self.parameters.items()}
            for start in range(0, size, m):
                images, labels = b.images[start : start + m], b.labels[start : start + m]
                for name, g in self.one_hill(images, labels).items():
                    total[name] += g * len(labels) / size
            with torch.no_grad():
                for name, p in self.parameters.items():
                    self.v[name] = MOMENTUM * self.v[name] + total[name] + DECAY * p
                    p -= lr * self.v[name]
            self.steps += 1
        return {**self.parameters, **dict(self.model.named_buffers())}

    def one_hill(self, images, labels):
        if isinstance(self.method, MomentumSam):
            against = {name: -v for name, v in self.v.items()}
            g1 = g2 = self.at_shifted(self.scaled(against), images, labels)
            return self.natural(g1, g2)
        g1 = g2 = self.gradient(images, labels)
        buffers = copy.deepcopy(dict(self.model.named_buffers()))
        if self.climbs():
            g2 = self.at_shifted(self.eps(g1), images, labels)
        with torch.no_grad():
            for name, buffer in self.model.named_buffers():
                buffer.copy_(buffers[name])
        if isinstance(self.method, LookSam):
            g2 = self.looked(g1, g2)
        if isinstance(self.method, Gsam):
            dot = sum((g1[n] * g2[n]).sum() for n in g1)
            square = sum((g2[n] ** 2).sum() for n in g1)
            g2 = {n: g2[n] - self.method.alpha * (g1[n] - dot / square * g2[n]) for n in g1}
        return self.natural(g1, g2)

    def looked(self, g1, g2):
        """g2 after a climb, of which m is kept; else g1 and m, this as long as alpha g1."""
        square = sum((g1[n] ** 2).sum() for n in g1)
        if self.climbs():
            dot = sum((g1[n] * g2[n]).sum() for n in g1)
            self.m = {n: g2[n] - dot / square * g1[n] for n in g1}
            return g2
        length = (square / sum((m**2).sum() for m in self.m.values())).sqrt()
        return {n: g1[n] + self.method.alpha * length * self.m[n] for n in g1}

    def climbs(self):
        if isinstance(self.method, LateSam):
            return self.steps >= self.method.start  # one step an epoch below
        if isinstance(self.method, LookSam):
            return self.steps % self.method.k == 0
        return not isinstance(self.method, Sgd)

    def at_shifted(self, eps, images, labels):
        w = {name: p.detach().clone() for name, p in self.parameters.items()}
        with torch.no_grad():
            for name, p in self.parameters.items():
                p += eps[name]
        g = self.gradient(images, labels)
        with torch.no_grad():
            for name, p in self.parameters.items():
                p.copy_(w[name])
        return g

    def eps(self, g):
        method = self.method
        if isinstance(method, UnnormalisedSam):
            return {n: method.rho * x for n, x in g.items()}
        if isinstance(method, SamOn):  # layer 1 of the network is its normalisation
            return self.scaled({n: x if n.startswith("1.") else 0 * x for n, x in g.items()})
        if isinstance(method, FriendlySam):
            d = {n: x - method.sigma * self.m[n] for n, x in g.items()}
            self.m = {n: method.decay * self.m[n] + (1 - method.decay) * x for n, x in g.items()}
            return self.scaled(d)
        if isinstance(method, Asam):
            w = self.parameters
            t = {n: w[n].detach().abs() + method.eta if "weight" in n else 1.0 for n in g}
            tg = math.sqrt(sum(((t[n] * g[n]) ** 2).sum().item() for n in g))
            return {n: method.rho * t[n] ** 2 * g[n] / tg for n in g}
        if isinstance(method, FisherSam):
            natural = {n: x / (1 + method.eta * x**2) for n, x in g.items()}
            dual = math.sqrt(sum((g[n] * natural[n]).sum().item() for n in g))
            return {n: method.gamma * x / dual for n, x in natural.items()}
        return self.scaled(g)

    def scaled(self, direction):
        norm = math.sqrt(sum((x**2).sum().item() for x in direction.values()))
        return {n: self.method.rho * x / norm if norm else 0 * x for n, x in direction.items()}

    def natural(self, g1, g2):
        settings = self.method.natural_gradient
        if settings is None:
            return g2
        if isinstance(self.method, FisherSam):
            return {n: g2[n] / (1 + self.method.eta * g1[n] ** 2) for n in g2}
        if settings.inverse == "damped":
            return {n: g2[n] / (g1[n] ** 2 + settings.eta) for n in g2}
        return {n: g2[n] / (1 + settings.eta * g1[n] ** 2) for n in g2}


def in_the_engine(method, batches=BATCHES, norm="batch", lr=0.1, **settings):
    s = stepper(network(norm), method, **settings)
    for number, b in enumerate(batches):
        s.step(b, at_step(number, lr, epoch=number, epochs=len(batches)))
    return s


def named(s):
    return {**dict(s.model.named_parameters()), **dict(s.model.named_buffers())}


@pytest.mark.parametrize("norm", ["batch", "group"])
@pytest.mark.parametrize("name", METHODS)
def test_four_steps_equal_the_plain_reference_in_float64(name, norm):
    expected = Plain(network(norm), METHODS[name]).train(BATCHES, lr=0.1)
    got = named(in_the_engine(METHODS[name], norm=norm))
    for key, value in expected.items():
        torch.testing.assert_close(got[key].double(), value.double(), rtol=3e-4, atol=3e-6)


@pytest.mark.parametrize("name", METHODS)
def test_neither_sgd_nor_sam_passes_the_reference_of_another_method(name):
    expected = Plain(network(), METHODS[name]).train(BATCHES, lr=0.1)
    for other in (Sgd(), Sam(rho=0.5)):
        got = named(in_the_engine(other))
        assert any(
            not torch.allclose(got[key].double(), expected[key], rtol=3e-4, atol=3e-6)
            for key in expected
            if key.endswith("weight")
        )


@pytest.mark.parametrize("name", METHODS)
def test_the_weights_come_back_bit_for_bit(name):
    s = in_the_engine(METHODS[name], lr=0.0)
    for key, value in network().named_parameters():
        assert torch.equal(named(s)[key], value)


@pytest.mark.parametrize("name", METHODS)
def test_a_zero_gradient_is_no_nan(name):
    s = stepper(network(), METHODS[name], optimizer=Optimizer(settings={"momentum": 0.9}))
    with torch.no_grad():
        for parameter in s.model.parameters():
            parameter.zero_()  # a network of zeros: every gradient but the last bias's is 0
    for number in range(3):
        s.step(BATCHES[0], at_step(number))
    assert all(torch.isfinite(value).all() for value in named(s).values())
    assert s.optimizer.nonfinite.item() == 0


def test_late_sam_is_sgd_before_its_start_and_sam_from_then_on():
    early = named(in_the_engine(LateSam(rho=0.5, start=4)))
    for key, value in named(in_the_engine(Sgd())).items():
        assert torch.equal(early[key], value)
    late = named(in_the_engine(LateSam(rho=0.5, start=0)))
    for key, value in named(in_the_engine(Sam(rho=0.5))).items():
        assert torch.equal(late[key], value)


def test_sam_on_moves_normalisation_parameters_alone():
    s = stepper(network(), SamOn(rho=0.5))
    s.gradient(BATCHES[0], 0)
    before = {name: p.detach().clone() for name, p in s.model.named_parameters()}
    with s.climbed(BATCHES[0], at_step()):
        moved = {name: p.detach() - before[name] for name, p in s.model.named_parameters()}
        assert {name for name, eps in moved.items() if eps.any()} == {"1.weight", "1.bias"}
        norm = math.sqrt(sum(float((eps.double() ** 2).sum()) for eps in moved.values()))
    assert norm == pytest.approx(0.5, rel=1e-5)


def test_sam_on_needs_a_normalisation_layer():
    with pytest.raises(UsageError, match="SamOn perturbs no weight of this network"):
        stepper(network("none"), SamOn())

    class NeverClimbs(SamOn):
        climbs = False

    assert stepper(network("none"), NeverClimbs())  # nothing to perturb, nothing to miss


def test_momentum_sam_takes_one_gradient_a_step_and_its_statistics_move_in_it():
    passes = []
    s = stepper(network(), MomentumSam(rho=0.5))
    s.model.register_forward_hook(lambda *_: passes.append(1))
    for number, b in enumerate(BATCHES):
        s.step(b, at_step(number))
    assert len(passes) == len(BATCHES)
    assert s.model[1].num_batches_tracked.item() == len(BATCHES)


def test_momentum_sam_without_momentum_is_refused():
    s = stepper(network(), MomentumSam(), optimizer=Optimizer(settings={}))
    with pytest.raises(UsageError, match="keeps no momentum"):
        s.step(BATCHES[0], at_step())


def test_momentum_sam_perturbs_along_adams_first_moment():
    s = stepper(network(), MomentumSam(rho=0.5), optimizer=Optimizer(name="adam"))
    for number in range(2):
        s.step(BATCHES[number], at_step(number, 1e-3))
    first_moment = s.optimizer.momentum().clone()
    s.climb(BATCHES[2], at_step(2))
    expected = -0.5 * first_moment / first_moment.norm()
    torch.testing.assert_close(s.perturbation(), expected, rtol=1e-3, atol=1e-6)


def test_the_part_that_gsam_adds_is_orthogonal_to_the_second_gradient():
    g1, g2 = torch.tensor([3.0, 1.0, 2.0]).double(), torch.tensor([1.0, -2.0, 4.0]).double()
    method = Gsam(alpha=1.0)
    step = method.descent(g1, g2, method.descent_sums(g1, g2))
    # g1.g2 = 9, g2.g2 = 21: g1 minus 9/21 g2 is (18, 13, 2) / 7.
    assert step.tolist() == pytest.approx([1 - 18 / 7, -2 - 13 / 7, 4 - 2 / 7])
    assert torch.dot(step - g2, g2).item() == pytest.approx(0.0, abs=1e-12)


def test_gsam_with_alpha_0_is_sam_and_its_radius_follows_the_learning_rate():
    torch.testing.assert_close(
        in_the_engine(Gsam(rho=0.5, alpha=0.0)).flat.weights,
        in_the_engine(Sam(rho=0.5)).flat.weights,
    )
    method = Gsam(rho=0.4, rho_min=0.1)
    assert method.share_of_radius(1.0) * 0.4 == pytest.approx(0.4)
    assert method.share_of_radius(0.5) * 0.4 == pytest.approx(0.25)
    assert method.share_of_radius(0.0) * 0.4 == pytest.approx(0.1)
    s = stepper(network(), method)
    s.gradient(BATCHES[0], 0)
    s.climb(BATCHES[0], at_step(lr=0.05, peak_lr=0.1))
    assert s.perturbation().norm().item() == pytest.approx(0.25, rel=1e-4)


def test_friendly_sam_without_its_memory_is_sam():
    torch.testing.assert_close(
        in_the_engine(FriendlySam(rho=0.5, sigma=0.0)).flat.weights,
        in_the_engine(Sam(rho=0.5)).flat.weights,
    )


class AlongMemory(Sam):
    """Climbs along the gradient before, which it is given as its memory itself."""

    remembers = True

    def direction(self, at):
        return at.m

    def sums(self, at):
        return ((at.m * at.m).sum(),)

    def remember(self, m, g):
        m.copy_(g)


def test_a_gradient_is_remembered_after_the_climb_and_before_it_is_overwritten():
    s = stepper(network(), AlongMemory(rho=0.5))
    s.gradient(BATCHES[0], 0)
    first = s.flat.gradient.clone()
    s.climb(BATCHES[0], at_step())
    assert not s.perturbation().any()  # nothing was remembered yet
    assert torch.equal(s.memory, first)
    s.come_back()
    s.gradient(BATCHES[1], 1)
    second = s.flat.gradient.clone()
    s.climb(BATCHES[1], at_step())
    torch.testing.assert_close(s.perturbation(), 0.5 * first / first.norm(), rtol=1e-4, atol=1e-6)
    assert torch.equal(s.memory, second)
    s.come_back()


def test_m_sharpness_of_a_whole_batch_is_sam_and_micro_batches_are_no_accumulation():
    whole = in_the_engine(Sam(rho=0.5, m_sharpness=12), norm="group").flat.weights
    sam = in_the_engine(Sam(rho=0.5), norm="group").flat.weights
    torch.testing.assert_close(whole, sam)
    accumulated = in_the_engine(Sam(rho=0.5), norm="group", micro_batch_size=4).flat.weights
    torch.testing.assert_close(accumulated, sam, rtol=1e-4, atol=1e-6)
    own_hills = in_the_engine(Sam(rho=0.5, m_sharpness=4), norm="group").flat.weights
    assert (own_hills - sam).norm() > 1e-3


def test_the_natural_gradient_of_eta_0_changes_nothing():
    for method in (Sgd, Sam):
        torch.testing.assert_close(
            in_the_engine(method(natural_gradient={"eta": 0.0})).flat.weights,
            in_the_engine(method()).flat.weights,
        )


@pytest.mark.parametrize("start", ["late", 1.0, 1.5, -1, True])
def test_a_start_that_is_neither_epoch_nor_share_is_one_clear_problem(start):
    with pytest.raises(ValueError, match=r"write an epoch, e\.g\. 160") as raised:
        LateSam(start=start)
    assert raised.value.error_count() == 1


def test_a_share_of_the_epochs_leaves_late_sam_its_last_epoch():
    assert [LateSam(start=0.8).active_in(e, 2) for e in range(2)] == [False, True]
    assert LateSam(start=0.8).active_in(0, 1)
    assert [LateSam(start=0.5).active_in(e, 4) for e in range(4)] == [False, False, True, True]


def test_a_direction_may_be_made_of_another_in_the_same_scratch_memory():
    class Double(Asam):
        def direction(self, at):
            return self.preconditioned(super().direction(at), at)

    s = stepper(network(), Double(rho=1.0, eta=0.05, natural_gradient={"eta": 3.0}))
    s.gradient(BATCHES[0], 0)
    g = s.flat.gradient.clone()
    s.climb(BATCHES[0], at_step())
    eps = s.perturbation()
    for at, of_eps in zip(s.flat.chunks(gradient=g), s.flat.chunks(gradient=eps), strict=True):
        t = at.w.abs() + 0.05 if "weight" in at.kind else torch.ones_like(at.w)
        expected = t * t * at.g / (1 + 3.0 * at.g**2)
        cosine = torch.dot(of_eps.g, expected) / (of_eps.g.norm() * expected.norm())
        assert cosine.item() == pytest.approx(1.0, abs=1e-4)


@pytest.mark.parametrize("fisher", ["gradient_magnitude", "empirical", "model"])
def test_the_inverse_of_nothing_is_refused(fisher):
    with pytest.raises(ValueError, match="needs an eta above 0"):
        FisherSam(eta=0.0, inverse="damped", fisher=fisher)
    with pytest.raises(ValueError, match="needs an eta above 0"):
        Sam(natural_gradient={"eta": 0.0, "inverse": "damped"})


def test_an_error_in_mid_step_leaves_the_weights_at_w():
    s = stepper(network(), Gsam(rho=0.5))
    before = s.flat.weights.clone()
    s.method.__class__.descent, kept = None, s.method.__class__.descent
    try:
        with pytest.raises(TypeError):
            s.step(BATCHES[0], at_step())
    finally:
        s.method.__class__.descent = kept
    assert torch.equal(s.flat.weights, before)


def test_what_preconditions_the_step_sees_the_weights_at_w():
    seen = []

    class Watching(Sam):
        def preconditioned(self, step, at):
            seen.append(at.w.clone())
            return step

    s = stepper(network(), Watching(rho=0.5, natural_gradient=True))
    before = s.flat.weights.clone()
    s.step(BATCHES[0], at_step())
    assert torch.equal(torch.cat(seen), before)


def test_costs_in_gradients_of_a_whole_training():
    assert LateSam(start=0.75).passes(20, 10) == 15 + 2 * 5
    assert LateSam(start=18).passes(20, 10) == 18 + 2 * 2
    assert LateSam(start=30).passes(20, 10) == 20
    assert MomentumSam().passes(20, 10) == 20
    assert Gsam().passes(20, 10) == FriendlySam().passes(20, 10) == 40
    assert SamOn().passes(20, 10) == UnnormalisedSam().passes(20, 10) == 40
    assert Sgd().passes(20, 10) == 20
    assert LookSam(k=5).passes(20, 10) == 24
    assert LookSam(k=1).passes(20, 10) == 40

    class NeverClimbs(LateSam):
        climbs = False

    assert NeverClimbs(start=0.5).passes(20, 10) == 20


def test_what_look_sam_remembers_is_orthogonal_to_the_gradient_and_reused_at_its_length():
    g1, g2 = torch.tensor([3.0, 0.0, 4.0]).double(), torch.tensor([1.0, 2.0, 3.0]).double()
    method, m = LookSam(alpha=0.5), torch.zeros(3).double()
    # g1.g2 = 15, g1.g1 = 25: g2 less 3/5 g1
    method.remember_both(m, g1, g2, method.descent_sums(g1, g2))
    assert m.tolist() == pytest.approx([-0.8, 2.0, 0.6])
    g = torch.tensor([0.0, 3.0, 4.0]).double()
    step = method.between(g, m, method.between_sums(g, m))
    assert (step - g).norm().item() == pytest.approx(0.5 * 5.0)
    assert (step - g).tolist() == pytest.approx((2.5 / m.norm() * m).tolist())
    nothing = torch.zeros(3).double()
    assert torch.equal(method.between(g, nothing, method.between_sums(g, nothing)), g)


def test_look_sam_with_a_climb_in_every_step_is_sam():
    torch.testing.assert_close(
        in_the_engine(LookSam(rho=0.5, k=1)).flat.weights,
        in_the_engine(Sam(rho=0.5)).flat.weights,
        rtol=0,
        atol=0,
    )


def test_look_sam_has_one_hill():
    with pytest.raises(ValueError, match="m_sharpness: LookSAM remembers one climb"):
        LookSam(m_sharpness=4)


@pytest.mark.parametrize("kind", [Sgd, MomentumSam])
def test_hills_of_ones_own_are_for_methods_that_climb_along_their_gradient(kind):
    with pytest.raises(ValueError, match="m_sharpness needs a method that climbs"):
        kind(m_sharpness=4)


def test_the_two_settings_of_every_method_are_parsed_as_written():
    assert Sam(natural_gradient=True).natural_gradient.eta == 1.0
    assert Sam(natural_gradient=False).natural_gradient is None
    assert Sam(natural_gradient={"eta": 3.0, "inverse": "damped"}).natural_gradient.eta == 3.0
    with pytest.raises(ValueError, match="write true"):
        FisherSam(natural_gradient={"eta": 3.0})
    with pytest.raises(ValueError, match=r"rho_min 0\.3 is above rho 0\.1"):
        Gsam(rho=0.1, rho_min=0.3)
