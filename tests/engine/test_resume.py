"""Every method, stopped in mid-epoch and continued, ends in the same bits as without the stop."""

from __future__ import annotations

import pytest

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
