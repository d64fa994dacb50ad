"""How accuracy falls when weights are moved (paper, Section 5.4), in the table of `reports.table`.

What was measured is a frame of points: `path` of the run or weight file, and the columns of
perturbation.csv. Each run gets its accuracy at every strength and what its curve comes to, and
these are metrics like any other.

A mean is over runs (seeds); several draws of a random direction are averaged within their run
first, and their spread is a column of its own.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pandas as pd

from fsam_cli.records.perturbation import PerturbationSetting
from fsam_cli.records.summary import Cell, Metric
from fsam_cli.reports.differences import Entry
from fsam_cli.reports.table import Line, Table, build_table, whose
from fsam_cli.reports.text_table import to_digits

SCHEMA = "fsam-perturb/2"
SHOWN_ALPHAS = 5  # columns of the terminal's table, the control included

HALF = Metric("half_alpha", "half lost at α", "half lost at α")
AREA = Metric("area", "area (%)", "area (%)", accuracy=True, tested=True, form=".1f")


def half_accuracy_alpha(alphas: Sequence[float], accuracies: Sequence[float]) -> float | None:
    """The first alpha at which half of the accuracy at alpha 0 is lost; None if it never is.

    Linear between measured points. Chance is not subtracted.

    Args:
        alphas: ascending, the first one 0.
        accuracies: fractions.
    """
    half = accuracies[0] / 2
    for at in range(1, len(alphas)):
        if accuracies[at] <= half:
            above, below = accuracies[at - 1], accuracies[at]
            share = (above - half) / (above - below) if above > below else 1.0
            return float(alphas[at - 1] + share * (alphas[at] - alphas[at - 1]))
    return None


def area(alphas: Sequence[float], accuracies: Sequence[float]) -> float | None:
    """Mean accuracy over the range of alpha (trapezoids); None for a range of no width."""
    width = alphas[-1] - alphas[0]
    return float(np.trapezoid(accuracies, alphas)) / width if width > 0 else None


def curves_of(points: pd.DataFrame) -> dict[str, pd.DataFrame]:
    """Of every measured run, by its path and ascending alpha: `test_accuracy` and `test_loss`, the
    mean over draws, and `draws_std` of the accuracy (ddof 1; missing for a single draw)."""
    # A loss that is no number any more is as bad as an infinite one; a mean must not skip it.
    points = points.assign(test_loss=points["test_loss"].fillna(math.inf))
    return {
        str(path): draws.groupby("alpha").agg(
            test_accuracy=("test_accuracy", "mean"),
            test_loss=("test_loss", "mean"),
            draws_std=("test_accuracy", "std"),
        )
        for path, draws in points.groupby("path", sort=False)
    }


def robustness_table(
    runs: pd.DataFrame, points: pd.DataFrame, setting: PerturbationSetting
) -> Table:
    """The table of these runs: accuracy at every strength, half-accuracy alpha, area.

    Args:
        runs: a frame as `records.frame.load_runs` makes it. Only runs with points are `done`.
        points: of equal strengths for every run, in this way of perturbing.
    """
    curves, alphas = curves_of(points), sorted(points["alpha"].unique())
    numbers = pd.DataFrame(_of_run(path, curve) for path, curve in curves.items())
    shown = _spaced(alphas, SHOWN_ALPHAS)
    half = replace(HALF, form=to_digits(alphas[-1], 3))  # to a hundredth of the range
    metrics = [*(_at(alpha, wide=alpha not in shown) for alpha in alphas), half, AREA]
    table = build_table(runs.merge(numbers, on="path", how="left"), metrics=lambda _: metrics)
    lines = [_explained(line, alphas) for line in table.lines]
    notes = [*table.notes, *_notes(points, setting), *_not_measured(table)]
    return replace(table, lines=lines, notes=notes)


def _at(alpha: float, *, wide: bool = False) -> Metric:
    column, name = f"test_accuracy α={alpha:.12g}", f"test accuracy at α={alpha:g} (%)"
    return Metric(column, name, f"α={alpha:g}", accuracy=True, form=".1f", wide=wide)


def _of_run(path: str, curve: pd.DataFrame) -> dict[str, Any]:
    alphas, accuracies = curve.index.tolist(), curve["test_accuracy"].tolist()
    return {
        "path": path,
        **{_at(alpha).column: each for alpha, each in zip(alphas, accuracies, strict=True)},
        HALF.column: half_accuracy_alpha(alphas, accuracies),
        AREA.column: area(alphas, accuracies),
    }


def _explained(line: Line, alphas: Sequence[float]) -> Line:
    """Say why a complete cell has no number, instead of a mean over some of its runs: those that
    hold longest would be the ones without a say."""
    entries = {
        name: Entry(None, _why_none(line.row.cells[name], line.metric, alphas))
        if entry.status == "done" and entry.sample is None
        else entry
        for name, entry in line.entries.items()
    }
    return replace(line, entries=entries)


def _why_none(cell: Cell, metric: Metric, alphas: Sequence[float]) -> str:
    if metric is AREA:
        return "a single strength"
    lost = cell.runs[HALF.column].notna().sum()
    return f"> {alphas[-1]:g}" + (f" ({lost} of {len(cell.runs)} lost half)" if lost else "")


def summary(table: Table, points: pd.DataFrame) -> pd.DataFrame:
    """One line per cell and alpha, unrounded.

    Columns: `recipe`, `row`, `label`, `settings`, `cell`, `alpha`, `n`, `status`, `accuracy_mean`,
    `accuracy_std`, `loss_mean`, `loss_std` (over runs, ddof 1), `draws_std` (mean over runs). An
    incomplete cell has one line, with its status alone.
    """
    curves, lines = curves_of(points), []
    for row in table.rows:
        for cell in row.cells.values():
            own = {**whose(row, cell), "status": cell.status}
            runs = curves_in(cell, curves)
            at_alpha = () if runs is None else runs.groupby("alpha")
            found = [{**own, "alpha": alpha, **_means(at)} for alpha, at in at_alpha]
            lines += found or [{**own, "n": 0}]
    columns = ["recipe", "row", "label", "settings", "cell", "alpha", "n", "status"]
    numbers = ["accuracy_mean", "accuracy_std", "loss_mean", "loss_std", "draws_std"]
    return pd.DataFrame(lines, columns=[*columns, *numbers])


def curves_in(cell: Cell, curves: Mapping[str, pd.DataFrame]) -> pd.DataFrame | None:
    """Those of the runs of a cell one below another; None unless it is complete."""
    return pd.concat(curves[path] for path in cell.runs["path"]) if cell.status == "done" else None


def _means(at: pd.DataFrame) -> dict[str, float]:
    """Of the runs of a cell at one alpha."""
    losses = at["test_loss"]
    return {
        "n": len(at),
        "accuracy_mean": at["test_accuracy"].mean(),
        "accuracy_std": at["test_accuracy"].std(),
        "loss_mean": losses.mean(),
        "loss_std": losses.std() if np.isfinite(losses).all() else math.nan,
        "draws_std": at["draws_std"].mean(),
    }


def _notes(points: pd.DataFrame, setting: PerturbationSetting) -> Iterable[str]:
    """How it was measured, and what the columns mean."""
    how = described(setting)
    yield f"{how[0].upper()}{how[1:]}."
    yield (
        "Test accuracy (%) at strength α; α=0 is the control; half lost at α: half of the accuracy "
        "at α=0, on straight lines between the strengths measured, so that a finer --alpha moves "
        "it (chance is not subtracted: a network that begins below twice chance may never lose "
        "half); no mean where a run does not lose it within the range; area: mean accuracy over "
        "the range of α."
    )
    strengths, draws = points["alpha"].nunique(), points["draw"].nunique()
    if strengths > SHOWN_ALPHAS:
        yield (
            f"Terminal and LaTeX show {SHOWN_ALPHAS} of the {strengths} strengths; all are in "
            "Markdown, CSV, JSON and the picture."
        )
    if draws > 1:
        spread = max(curve["draws_std"].max() for curve in curves_of(points).values())
        yield (
            f"Each run is the mean of {draws} draws; their std is at most "
            f"{100 * spread:.2f} percentage points."
        )
    devices = sorted(points["device_name"].unique())
    if len(devices) > 1:
        yield (
            "Measured on different hardware, so numbers need not agree to the last bit: "
            f"{', '.join(devices)}."
        )


def _not_measured(table: Table) -> Iterable[str]:
    """Which planned seeds a mean would lack."""
    for row in table.rows:
        for name, cell in row.cells.items():
            done = set(cell.runs["seed"][cell.runs["status"] == "done"])
            lacking = [str(seed) for seed in cell.expected_seeds if seed not in done]
            if lacking and cell.hash:  # a weight file has no seed that anybody knows
                yield f"not measured: {row.title}: {name} seed {', '.join(lacking)}"


def described(setting: PerturbationSetting) -> str:
    """The way of perturbing, in words."""
    split = "training" if setting.gradient_split == "train" else "test"
    along = {"gradient": f"the gradient of the {split} loss", "gaussian": "Gaussian noise"}
    what = {
        "none": "weights moved by a step of norm α",
        "filter": "each filter moved by α times its norm",
    }[setting.relative]
    after = ", BatchNorm recalibrated" if setting.recalibrated else ""
    return f"{what} along {along[setting.direction]}{after}"


def _spaced(alphas: Sequence[float], count: int) -> list[float]:
    """The control and others in even ratios from the first to the last.

    Accuracy is lost early: even differences would show little but chance.
    """
    if len(alphas) <= count:
        return list(alphas)
    left, chosen = list(alphas[1:]), [alphas[0]]
    for goal in np.geomspace(alphas[1], alphas[-1], count - 1):
        nearest = min(left, key=lambda alpha: abs(math.log(alpha / goal)))
        left.remove(nearest)
        chosen.append(nearest)
    return sorted(chosen)
