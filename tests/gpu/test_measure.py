"""What is measured of trained networks, on a CUDA device: `pytest -m gpu`."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from fsam_cli.engine.run import execute
from fsam_cli.engine.train import Hooks
from fsam_cli.measure import sharpness, weight_perturbation
from fsam_cli.measure.on_record import rows_on_record
from fsam_cli.measure.sharpness import Neighbourhood, SharpnessSetting
from fsam_cli.measure.subjects import recorded
from fsam_cli.minimisers.asam import Asam
from fsam_cli.minimisers.fsam import FisherSam
from fsam_cli.minimisers.sam import Sam
from fsam_cli.recipe.load import load_experiment
from fsam_cli.recipe.plan import plan
from fsam_cli.records import perturbation
from fsam_cli.records import sharpness as sharpness_records
from fsam_cli.records.frame import load_runs
from fsam_cli.records.perturbation import PerturbationSetting
from tests.support.command import TINY

pytestmark = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device"),
]
DEVICES = (torch.device("cpu"), torch.device("cuda"))
BALLS = {"sam": Sam(), "asam": Asam(), "fsam": FisherSam()}


@pytest.fixture
def subjects(tmp_path):
    """One trained network, with a table for each device."""
    experiment = load_experiment("quickstart", (*TINY, "methods={fsam: {}}"))
    (one,) = plan(experiment, out=tmp_path, device="cpu")
    assert execute(one, Hooks()).ended == "done"
    (entry,) = recorded(load_runs(tmp_path), None)
    return {where: replace(entry.subject, tables=f"{tmp_path}/{where}.") for where in DEVICES}


def test_sharpness_is_what_it_is_on_the_cpu(subjects):
    within = tuple(Neighbourhood(name, method) for name, method in BALLS.items())
    setting = SharpnessSetting(images=200, draws=2, neighbourhoods=within, m=64)
    rows = []
    for where, subject in subjects.items():
        sharpness.measure(subject, setting, sharpness.missing(subject, setting), device=where)
        rows.append(rows_on_record(subject, sharpness_records.TABLE))
    assert len(rows[0]) == 7
    for expected, found in zip(*rows, strict=True):
        assert found["value"] == pytest.approx(expected["value"], rel=1e-2), found["measure"]


def test_moved_weights_reach_what_they_reach_on_the_cpu(subjects):
    rows = []
    for where, subject in subjects.items():
        points = [(0, 0.5), (0, 2.0)]
        weight_perturbation.measure(subject, PerturbationSetting(), points, device=where)
        rows.append(rows_on_record(subject, perturbation.TABLE))
    for expected, found in zip(*rows, strict=True):
        assert found["test_loss"] == pytest.approx(expected["test_loss"], rel=1e-2)
        assert found["test_accuracy"] == pytest.approx(expected["test_accuracy"], abs=0.01)
