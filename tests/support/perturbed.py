"""Recorded runs with measured points, as `fsam perturb` hands them to its report, without training
or measuring."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from fsam_cli.records.frame import load_runs
from fsam_cli.records.perturbation import PerturbationSetting
from fsam_cli.reports import robustness
from fsam_cli.reports.table import Table
from tests.support.recorded import configuration, record_run

ALPHAS = (0.0, 1.0, 2.0)


class Part(NamedTuple):
    """One run, or a draw of it."""

    run: dict[str, Any]  # of `record_run`
    points: list[dict[str, Any]]


def points(
    label,
    seed,
    accuracies,
    *,
    draw=0,
    method=None,
    settings=None,
    recipe="r",
    alphas=ALPHAS,
    planned=(0,),
    changes=None,
    **more,
):
    """A run whose test accuracies are these; `settings` are the method's, `changes` of the rest."""
    config = configuration(method={"name": method or label, **(settings or {})}, **(changes or {}))
    run = {"recipe": recipe, "label": label, "seed": seed, "seeds": planned, "config": config}
    measured = [
        {
            "draw": draw,
            "alpha": alpha,
            "test_accuracy": accuracy,
            "test_loss": 2 - accuracy,
            "classes": 10,
            "device_name": "a CPU",
        }
        for alpha, accuracy in zip(alphas, accuracies, strict=True)
    ]
    return Part({**run, **more}, measured)


def left_out(label, seed, status="diverged", reason="loss not finite", **more):
    return points(label, seed, (), alphas=(), status=status, reason=reason, **more)


class Measured(NamedTuple):
    """What the report is made from."""

    runs: pd.DataFrame
    points: pd.DataFrame

    def table(self, setting: PerturbationSetting | None = None) -> Table:
        setting = setting or PerturbationSetting()
        return robustness.robustness_table(self.runs, self.points, setting)

    def summary(self) -> pd.DataFrame:
        return robustness.summary(self.table(), self.points)


def measured(root: Path, *parts: Part) -> Measured:
    """Parts of one run are its draws; labels were planned in the order of the parts."""
    labels = tuple(dict.fromkeys(part.run["label"] for part in parts))
    paths: dict[str, Path] = {}
    rows = []
    for run, found in parts:
        if str(run) not in paths:
            paths[str(run)] = record_run(root, labels=labels, **run)
        rows += [{"path": str(paths[str(run)]), **point} for point in found]
    return Measured(load_runs(root), pd.DataFrame(rows))
