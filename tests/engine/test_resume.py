"""Every method, stopped in mid-epoch and continued, ends in the same bits as without the stop."""

from __future__ import annotations

import pytest
import torch

from fsam_cli.engine.run import execute
from fsam_cli.engine.train import Hooks
from fsam_cli.errors import Interrupted
from fsam_cli.parts import catalogue
from fsam_cli.recipe.load import load_experiment
from fsam_cli.recipe.plan import plan
from tests.support.command import bits

SETTINGS = {
    "late_sam": "{method: late_sam, start: 1}",
    "gsam": "{method: gsam, natural_gradient: true, m_sharpness: 128}",
}


def stopping_at(step):
    steps = iter(range(10_000))
    return Hooks(should_stop=lambda: next(steps) == step)


@pytest.mark.parametrize("name", sorted(catalogue("minimisers")))
def test_a_run_stopped_in_mid_epoch_continues_to_the_same_bits(name, tmp_path):
    experiment = load_experiment(
        "quickstart",
        [
            f"methods={{it: {SETTINGS.get(name, f'{{method: {name}}}')}}}",
            *("train.epochs=2", "seeds=[0]", "train.batch_size=256"),
        ],
    )
    (whole,) = plan(experiment, out=tmp_path / "whole", device="cpu")
    (cut,) = plan(experiment, out=tmp_path / "cut", device="cpu")
    assert execute(whole, Hooks()).ended == "done"
    with pytest.raises(Interrupted):
        execute(cut, stopping_at(9))  # in the second epoch of seven steps
    assert (cut.folder / "checkpoint.pt").exists()
    assert execute(cut, Hooks()).ended == "done"
    assert bits(tmp_path / "cut") == bits(tmp_path / "whole")


class Tied(torch.nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)
        self.second.weight = self.first.weight
        self.last = torch.nn.Linear(64, 10)

    def forward(self, images):
        return self.last(self.second(self.first(images.flatten(1)).tanh()))


def test_a_network_with_a_tied_weight_continues_too(tmp_path, monkeypatch):
    def tied(_plan, _data):
        torch.manual_seed(0)
        return Tied()

    monkeypatch.setattr("fsam_cli.engine.state.build_model", tied)
    settings = ["methods={sam: {}}", "train.epochs=2", "seeds=[0]", "train.batch_size=256"]
    experiment = load_experiment("quickstart", settings)
    (whole,) = plan(experiment, out=tmp_path / "whole", device="cpu")
    (cut,) = plan(experiment, out=tmp_path / "cut", device="cpu")
    assert execute(whole, Hooks()).ended == "done"
    with pytest.raises(Interrupted):
        execute(cut, stopping_at(9))
    assert execute(cut, Hooks()).ended == "done"
    assert bits(tmp_path / "cut") == bits(tmp_path / "whole")
