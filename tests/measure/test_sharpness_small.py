"""Sharpness of networks small enough for pencil and paper, and of odd ones."""

from __future__ import annotations

import dataclasses
import math

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from fsam_cli.measure import sharpness
from fsam_cli.measure.network import Network, noise
from fsam_cli.measure.sharpness import hessian_product, rise, trace, trained_on
from fsam_cli.measure.subjects import Unmeasurable
from fsam_cli.minimisers.sam import Sam
from fsam_cli.minimisers.sam_on import SamOn
from fsam_cli.models._contract import Model
from tests.support.float64 import Plain, by_name, inner
from tests.support.one_pixel import subject_of

# torch's own forward derivatives, which are the reference here, use what torch warns of.
pytestmark = pytest.mark.filterwarnings("ignore:.torch.jit.script. is deprecated")
CPU = torch.device("cpu")


class Built(Model):
    """Whatever module it is given."""

    kind: str

    def build(self, *, channels, classes, image_size):
        if self.kind in ODD:
            return Odd(ODD[self.kind])
        return {"logistic": logistic, "attention": Attention}[self.kind]()


def logistic():
    return nn.Sequential(nn.Flatten(), nn.Linear(1, 2))


class Attention(nn.Module):
    """Of one image as a sequence of two tokens."""

    def __init__(self):
        super().__init__()
        self.lift, self.out = nn.Linear(1, 8), nn.Linear(8, 2)

    def forward(self, images):
        x = self.lift(torch.cat([images.flatten(1), 1 - images.flatten(1)], 1)[..., None])
        x = x[:, None]  # (batch, heads, tokens, width)
        return self.out(F.scaled_dot_product_attention(x, x, x)[:, 0].mean(1))


class DerivedOnce(torch.autograd.Function):
    """x, with a derivative that has none."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx, g):
        return g


class Detached(torch.autograd.Function):
    """x, with a derivative that hides what it depends on."""

    @staticmethod
    def forward(ctx, x):
        return x.clone()

    @staticmethod
    def backward(ctx, g):
        return g.detach()


ODD = {"once": DerivedOnce.apply, "detached": Detached.apply, "unused": nn.Identity()}


class Odd(nn.Module):
    """Logistic regression, its answers through a function."""

    def __init__(self, function):
        super().__init__()
        self.out, self.function = nn.Linear(1, 2), function
        self.unused = nn.Parameter(torch.ones(3))

    def forward(self, images):
        return self.function(self.out(images.flatten(1)))


def small(tmp_path, kind, state=None):
    torch.manual_seed(0)
    module = Built(kind=kind).build(channels=1, classes=2, image_size=1)
    torch.save(state or module.state_dict(), tmp_path / f"{kind}.pt")
    subject = subject_of(tmp_path / f"{kind}.pt", Built(kind=kind))
    return Network(subject, subject.data.load(None), CPU)


def test_logistic_regression_has_the_hessian_of_pencil_and_paper(tmp_path):
    state = {"1.weight": torch.zeros(2, 1), "1.bias": torch.zeros(2)}
    net = small(tmp_path, "logistic", state)
    held = trained_on(net)
    # Both classes have p = 1/2, so by the logits H = [[1, -1], [-1, 1]] / 4, with eigenvalues 1/2
    # and 0. Of x = (pixel, 1) the mean of x xᵀ is [[1, 1], [1, 2]] / 2, with the larger eigenvalue
    # (3 + sqrt(5)) / 4. The Hessian is their Kronecker product.
    assert sharpness._lambda_max(net, held).value == pytest.approx((3 + 5**0.5) / 8, rel=1e-4)
    exact = 0.5 * 1.5  # trace of either
    terms = [trace(net, held, 1).value, trace(net, held, 400)]
    assert abs(terms[1].value - exact) < 4 * terms[1].error
    # The variance of zᵀHz is 2 (‖H‖² - the squares of the diagonal) = 2 (7/16 - 5/32).
    assert terms[1].error == pytest.approx(math.sqrt(2 * (7 / 16 - 5 / 32) / 400), rel=0.1)
    assert sharpness._loss(net, held).value == pytest.approx(math.log(2))
    # By the logits ±1/2 for either image, so by W half of that, and by b nothing on average.
    assert sharpness._gradient_norm(net, held).value == pytest.approx(math.sqrt(2) / 4)


def test_attention_is_derived_twice(tmp_path):
    net = small(tmp_path, "attention")
    held = trained_on(net)
    plain, vector = Plain(net, held), noise(net, "test", 0)
    with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH):
        expected = plain.hessian_times(by_name(net, vector))
    found = by_name(net, hessian_product(net, held, vector))
    distance = {name: found[name] - expected[name] for name in expected}
    assert inner(expected, expected) > 0
    assert inner(distance, distance) < 1e-6 * inner(expected, expected)


@pytest.mark.parametrize("kind", ["once", "detached"])
def test_a_network_without_a_second_derivative_is_refused_with_the_way_out(tmp_path, kind):
    net = small(tmp_path, kind)
    held = trained_on(net)
    with pytest.raises(Unmeasurable, match=r"no second derivative .*--no-hessian"):
        hessian_product(net, held, noise(net, "test", 0))
    assert rise(net, held, Sam(rho=0.1), 2).value > 0


def test_a_method_that_moves_no_weight_of_the_network_has_no_rise(tmp_path):
    net = small(tmp_path, "logistic")
    with pytest.raises(Unmeasurable, match=r"logistic\.pt: SamOn perturbs no weight of this net"):
        rise(net, trained_on(net), SamOn(rho=0.1), 2)


def test_a_weight_that_no_answer_depends_on_has_no_curvature(tmp_path):
    net = small(tmp_path, "unused")
    found = by_name(net, hessian_product(net, trained_on(net), noise(net, "test", 0)))
    assert not found["unused"].any()
    assert found["out.weight"].any()


def test_at_a_stationary_point_there_is_nowhere_to_climb(tmp_path):
    # Both images get the same answer, and the classes are even: the mean gradient by b is 0.
    net = small(tmp_path, "logistic")
    held = trained_on(net)
    dark = dataclasses.replace(held, images=torch.zeros_like(held.images))
    with torch.no_grad():
        net.flat.weights.zero_()
    assert rise(net, dark, Sam(rho=0.1), 2).value == 0


def test_another_error_of_torch_is_not_taken_for_a_missing_derivative(tmp_path, monkeypatch):
    def full(*_):
        raise RuntimeError("CUDA out of memory")

    net = small(tmp_path, "logistic")
    monkeypatch.setattr(sharpness, "summed_loss", full)
    with pytest.raises(RuntimeError, match="out of memory"):
        trace(net, trained_on(net), 1)
