"""Where weights and gradients lie: flat buffers, and parameters that are views of them."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from fsam_cli.engine.flat import AlternateWeights, FlatWeights
from fsam_cli.engine.kinds import kinds_by_name
from fsam_cli.errors import UsageError
from fsam_cli.minimisers.asam import Asam
from fsam_cli.minimisers.friendly_sam import FriendlySam
from fsam_cli.minimisers.fsam import FisherSam
from fsam_cli.minimisers.gsam import Gsam
from fsam_cli.minimisers.msam import MomentumSam
from fsam_cli.minimisers.sam import Sam
from fsam_cli.minimisers.sam_on import SamOn
from fsam_cli.minimisers.sgd import Sgd
from fsam_cli.recipe.schema import Optimizer
from tests.support.networks import at_step, batch, network, stepper, trained

BATCHES = [batch(seed=1), batch(seed=2), batch(seed=3)]


@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_frozen_parameters_are_left_alone_and_unused_ones_decay_as_with_a_gradient_of_zero(name):
    class Partly(nn.Module):
        def __init__(self):
            super().__init__()
            self.body = network("none")
            self.frozen = nn.Parameter(torch.ones(3), requires_grad=False)
            self.unused = nn.Parameter(torch.ones(3))

        def forward(self, x):
            return self.body(x) * self.frozen

    model = Partly()
    settings = {"momentum": 0.9} if name == "sgd" else {}
    s = stepper(
        model,
        Sam(rho=0.5),
        optimizer=Optimizer(name=name, settings={**settings, "weight_decay": 0.1}),
    )
    alone = nn.Parameter(torch.ones(3))
    kind = {"sgd": torch.optim.SGD, "adamw": torch.optim.AdamW}[name]
    torchs = kind([alone], lr=0.1, weight_decay=0.1, **settings)
    for number, b in enumerate(BATCHES):
        s.step(b, at_step(number, 0.1))
        alone.grad = torch.zeros(3)
        torchs.step()
    torch.testing.assert_close(model.unused, alone)
    assert (model.unused < 0.98).all()
    assert model.frozen.tolist() == [1, 1, 1]
    assert "frozen" not in {segment.name for segment in s.flat.segments}


def test_after_a_step_every_parameter_lies_where_it_lay():
    model = network()
    s = stepper(model, FisherSam())
    pointers = [p.data_ptr() for p in model.parameters()]
    for number, b in enumerate(BATCHES):
        s.step(b, at_step(number, 0.1))
    assert [p.data_ptr() for p in model.parameters()] == pointers
    assert s.flat.attached()


def test_between_two_updates_the_weights_are_not_written():
    """w + eps lies elsewhere: the way back copies nothing and is exact whatever happens there."""
    s = stepper(network(), FisherSam(gamma=0.5))
    writes, before = s.flat.weights._version, s.flat.weights.clone()
    s.gradient(BATCHES[0], 0)
    with pytest.raises(KeyboardInterrupt), s.climbed(BATCHES[0], at_step()):
        assert not s.flat.attached()
        s.gradient(BATCHES[0], 0)
        raise KeyboardInterrupt
    assert s.flat.attached()
    assert s.flat.weights._version == writes
    assert torch.equal(s.flat.weights, before)
    s.descend(0.1)
    assert not torch.equal(s.flat.weights, before)


def test_w_plus_eps_takes_the_place_of_the_gradient_and_the_next_gradient_another():
    s = stepper(network(), Sam(rho=0.5))
    s.gradient(BATCHES[0], 0)
    spent, g = s.flat.gradient, s.flat.gradient.clone()
    above = s.flat.weights + 0.5 * g / g.norm()
    s.climb(BATCHES[0], at_step())
    torch.testing.assert_close(spent, above)
    for segment in s.flat.segments:
        parameter = segment.parameter
        assert parameter.data_ptr() == s.flat.view(spent, segment).data_ptr()
        assert parameter.grad.data_ptr() == s.flat.view(s.flat.gradient, segment).data_ptr()
    other = s.flat.gradient
    assert other is not spent
    s.come_back()
    assert s.flat.attached()
    s.gradient(BATCHES[0], 0)
    torch.testing.assert_close(other, g, rtol=1e-4, atol=1e-6)
    s.climb(BATCHES[0], at_step())
    torch.testing.assert_close(other, above, rtol=1e-4, atol=1e-6)
    assert s.flat.gradient is spent  # the two take turns


def test_an_interrupt_while_the_gradients_change_places_leaves_none_of_them_behind(monkeypatch):
    s = stepper(network(), Sam(rho=0.5))

    def cut_short():
        s.flat._both().reverse()
        parameter, view = s.flat.segments[0].parameter, s.flat._gradients[0].views[0]
        parameter.grad = view
        raise KeyboardInterrupt

    monkeypatch.setattr(s.flat, "exchange_gradients", cut_short)
    before = s.flat.weights.clone()
    with pytest.raises(KeyboardInterrupt):
        s.step(BATCHES[0], at_step())
    assert s.flat.attached()
    assert torch.equal(s.flat.weights, before)


def test_two_methods_climb_in_turn_on_the_same_weights():
    """As in `fsam bench`: the buffers that take turns belong to the weights."""
    model = network("group")
    flat = FlatWeights(model)
    sam, sgd, on = (stepper(model, m, flat=flat) for m in (Sam(rho=0.5), Sgd(), SamOn(rho=0.5)))
    for s, method in ((sam, Sam(rho=0.5)), (sgd, Sgd()), (on, SamOn(rho=0.5)), (sam, Sam(rho=0.5))):
        before = copy.deepcopy(model)
        velocity = s.optimizer.state_by_name()
        s.step(BATCHES[0], at_step(0, 0.1))
        alone = stepper(before, method)
        alone.optimizer.load_state_by_name(velocity)
        alone.step(BATCHES[0], at_step(0, 0.1))
        assert torch.equal(flat.weights, alone.flat.weights)


def test_parameters_of_some_kinds_can_lie_elsewhere_while_the_others_stay():
    model = network()
    flat = FlatWeights(model)
    elsewhere = AlternateWeights(flat, torch.full_like(flat.weights, 7.0), ["norm_weight"])
    elsewhere.enter()
    assert (model[1].weight == 7).all()
    assert not (model[0].weight == 7).any()
    assert model[1].weight.grad.data_ptr() == flat.view(flat.gradient, _segment(flat)).data_ptr()
    elsewhere.leave()
    assert flat.attached()
    assert torch.equal(model[1].weight, network()[1].weight)


def _segment(flat):
    return next(segment for segment in flat.segments if segment.name == "1.weight")


def test_complex_weights_are_refused():
    model = network("none")
    model.register_parameter("phase", nn.Parameter(torch.zeros(2, dtype=torch.complex64)))
    with pytest.raises(UsageError, match="'phase' is complex"):
        FlatWeights(model)
    model.phase.requires_grad_(False)
    FlatWeights(model)


@pytest.mark.parametrize("of", ["its weights", "its gradient", "no gradient"])
def test_a_parameter_with_another_tensor_is_noticed(of):
    model = network()
    flat = FlatWeights(model)
    assert flat.attached()
    weight = model[0].weight
    if of == "its weights":
        weight.data = weight.data.clone()
    else:
        weight.grad = weight.grad.clone() if of == "its gradient" else None
    assert not flat.attached()


def test_channels_last_weights_keep_their_memory_order_on_the_flat_buffer():
    model = network().to(memory_format=torch.channels_last)
    flat = FlatWeights(model)
    assert model[0].weight.is_contiguous(memory_format=torch.channels_last)
    contiguous, last = network(), network().to(memory_format=torch.channels_last)
    a, b = trained(contiguous, Sam(rho=0.5), BATCHES), trained(last, Sam(rho=0.5), BATCHES)
    for (_, p), (_, q) in zip(a.model.named_parameters(), b.model.named_parameters(), strict=True):
        torch.testing.assert_close(p, q, rtol=1e-4, atol=1e-6)
    by_name = flat.by_name(flat.weights)
    assert by_name["0.weight"].is_contiguous()
    assert torch.equal(by_name["0.weight"], network()[0].weight)


def test_parameters_are_sorted_into_kinds_by_layer_and_name():
    kinds = kinds_by_name(network())
    assert kinds == {
        "0.weight": "weight",
        "0.bias": "bias",
        "1.weight": "norm_weight",
        "1.bias": "norm_bias",
        "5.weight": "weight",
        "5.bias": "bias",
    }


def test_padding_between_segments_stays_zero():
    s = trained(network(), Asam(rho=1.0, eta=0.1), BATCHES)
    covered = torch.zeros_like(s.flat.weights, dtype=torch.bool)
    for segment in s.flat.segments:
        covered[segment.offset : segment.offset + segment.numel] = True
    assert not covered.all()
    assert (s.flat.weights[~covered] == 0).all()


@pytest.mark.parametrize(
    "method",
    [
        Asam(rho=0.5, eta=0.1),
        FisherSam(gamma=0.5, eta=20.0, natural_gradient=True),
        FisherSam(gamma=0.5, eta=20.0, fisher="empirical"),
        FriendlySam(rho=0.5),
        Gsam(rho=0.5, alpha=0.7),
        MomentumSam(rho=0.5),
    ],
    ids=lambda method: f"{type(method).__name__} {getattr(method, 'fisher', '')}".strip(),
)
def test_weights_that_are_cut_into_many_pieces_take_the_same_steps(method, monkeypatch):
    """As on a CPU those of all but the smallest networks are."""
    whole = trained(network("group"), method, BATCHES)
    pieces = len(whole.flat.chunks())
    monkeypatch.setattr("fsam_cli.engine.flat.CPU_CHUNK", 50)
    cut = trained(network("group"), method, BATCHES)
    assert len(cut.flat.chunks()) > pieces
    torch.testing.assert_close(cut.flat.weights, whole.flat.weights, rtol=1e-5, atol=1e-6)


class RmsNorm(nn.Module):
    """As timm's: none of torch's own layers."""

    def __init__(self, size):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))


class NormedLinear(nn.Linear):
    """Only named like one."""


def test_a_normalisation_layer_of_another_library_is_one():
    kinds = kinds_by_name(nn.Sequential(RmsNorm(3), NormedLinear(3, 2)))
    assert kinds == {"0.weight": "norm_weight", "1.weight": "weight", "1.bias": "bias"}
