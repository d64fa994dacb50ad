"""The base optimisers as torch is given them."""

from __future__ import annotations

import pytest
import torch

from fsam_cli.recipe.optimizers import construct, is_common_sgd, optimizer_problems
from fsam_cli.recipe.schema import Optimizer


def test_whole_numbers_in_a_list_are_floats_for_torch():
    adam = Optimizer(name="adam", settings={"betas": [0, 0.999]})
    assert optimizer_problems(adam, "train.optimizer") == []
    built = construct(adam, [torch.zeros(1, requires_grad=True)], lr=0.1, fused=False)
    assert built.defaults["betas"] == (0.0, 0.999)


@pytest.mark.parametrize(
    ("settings", "common"),
    [
        ({}, True),
        ({"momentum": 0.9, "nesterov": False, "dampening": 0}, True),
        ({"momentum": 0.9, "nesterov": True}, False),
        ({"momentum": 0.9, "dampening": 0.1}, False),
    ],
)
def test_momentum_sgd_is_fsam_s_own_however_it_is_spelt(settings, common):
    assert is_common_sgd(Optimizer(name="sgd", settings=settings)) is common


@pytest.mark.parametrize("eps", [0, 0.0, -1e-8])
def test_an_eps_that_makes_nan_of_weights_without_a_gradient_is_refused(eps):
    adam = Optimizer(name="adam", settings={"eps": eps})
    [problem] = optimizer_problems(adam, "train.optimizer")
    assert (problem.key, problem.instead) == ("train.optimizer.eps", "write a number above 0")
