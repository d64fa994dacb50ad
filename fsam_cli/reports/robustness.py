"""How accuracy falls when weights are moved, as a table (paper, Section 5.4).

Everything here is a function of one frame with the columns `recipe`, `label`, `cell` (empty for a
weight file), `settings` (what other cells have otherwise), `protocol` (what of it methods share),
`method`, `seed`, `planned_seeds`, `run`, `status`, `reason` and those of perturbation.csv. A
measured point has the status `measured`; a run that was left out has a single row with its own
status and no alpha, so that no table forgets it.

A cell has numbers only if every planned seed was measured: a mean over survivors is not the mean of
anything.

Accuracies are fractions in frames and percent in tables. A mean is over runs (seeds); several
draws of a random direction are averaged within their run first, and their spread is a column of
its own.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fsam_cli.records.frame import as_rows
from fsam_cli.records.perturbation import PerturbationSetting
from fsam_cli.records.statistics import Sample
from fsam_cli.reports.differences import (
    COLUMNS,
    MDE,
    Entry,
    adjust,
    differences_from,
    refuse_no_method,
)
from fsam_cli.reports.text_table import TextTable, difference_cells, mean_std, percent

SCHEMA = "fsam-perturb/1"
MEASURED = "measured"
CELL = ["recipe", "label", "cell", "settings"]
SHOWN_ALPHAS = 5  # columns of the terminal's table, the control included
_MOST_DIGITS = 6  # before or behind the point, of an alpha in a table


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


@dataclass(frozen=True, eq=False)
class Cell:
    """The runs of one configuration of a method."""

    recipe: str
    label: str
    hash: str  # empty for a weight file
    settings: str
    name: str  # in tables and pictures: its label, with the settings in which it differs
    rows: pd.DataFrame  # its part of the frame
    n: int  # runs measured
    left_out: int  # planned or found, and not measured
    unseen: tuple[int, ...]  # planned seeds of which there is no run

    @property
    def columns(self) -> dict[str, str]:
        """Those of `CELL`."""
        return dict(zip(CELL, (self.recipe, self.label, self.hash, self.settings), strict=True))

    @property
    def counts(self) -> dict[str, int]:
        return {"n": self.n, "left_out": self.left_out}

    @property
    def count(self) -> str:
        """`3`, or `2 of 3`."""
        return f"{self.n} of {self.n + self.left_out}" if self.left_out else str(self.n)

    def common(self, column: str) -> str:
        """What all its runs have in a column."""
        return str(self.rows[column].iloc[0])

    def curves(self) -> dict[str, pd.DataFrame]:
        """Of every measured run, by its path: `test_accuracy` and `test_loss`, the mean over draws,
        and `draws_std` of the accuracy (ddof 1; missing for a single draw), by ascending alpha."""
        points = self.rows[self.rows["status"] == MEASURED]
        # A loss that is no number any more is as bad as an infinite one; a mean must not skip it.
        points = points.assign(test_loss=points["test_loss"].fillna(math.inf))
        return {
            str(run): draws.groupby("alpha").agg(
                test_accuracy=("test_accuracy", "mean"),
                test_loss=("test_loss", "mean"),
                draws_std=("test_accuracy", "std"),
            )
            for run, draws in points.groupby("run", sort=False)
        }


def cells_of(frame: pd.DataFrame) -> list[Cell]:
    """The cells in the order of the frame."""
    groups = [(tuple(map(str, key)), rows) for key, rows in frame.groupby(CELL, sort=False)]
    labels = Counter(key[:2] for key, _ in groups)
    cells = []
    for key, rows in groups:
        recipe, label, cell, settings = key
        alone = not settings and labels[recipe, label] == 1
        name = label if alone else f"{label} [{settings or cell}]"
        cells.append(Cell(recipe, label, cell, settings, name, rows, *_counted(rows)))
    return cells


def _counted(rows: pd.DataFrame) -> tuple[int, int, tuple[int, ...]]:
    """Measured, left out and unseen. A seed counts once, however many records of it there are; a
    weight file by its path."""
    who = rows["seed"] if rows["cell"].any() else rows["run"]
    planned = {seed for seeds in rows["planned_seeds"] for seed in seeds}
    # A copy that ended well elsewhere does not undo a divergence.
    measured = set(who[rows["status"] == MEASURED]) - set(who[rows["status"] == "diverged"])
    left_out = (planned | set(who)) - measured
    return len(measured), len(left_out), tuple(sorted(planned - set(who)))


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per cell and alpha.

    Columns: those of `CELL`, `alpha`, `n` (runs measured), `left_out` (planned ones that are not),
    `accuracy_mean`, `accuracy_std`, `loss_mean`, `loss_std` (over runs, ddof 1), `draws_std` (mean
    over runs). Where a run is left out the numbers are missing; a cell of which no run was measured
    has one row, without alpha.
    """
    rows = [
        {**cell.columns, **point}
        for cell in cells_of(frame)
        for point in _points(cell) or [cell.counts]
    ]
    columns = ["alpha", "n", "left_out", "accuracy_mean", "accuracy_std"]
    return pd.DataFrame(rows, columns=[*CELL, *columns, "loss_mean", "loss_std", "draws_std"])


def _points(cell: Cell) -> list[dict[str, Any]]:
    """Its alphas, ascending, with means where every run is measured."""
    points = []
    curves = cell.curves()
    for alpha, at in pd.concat(curves.values()).groupby("alpha") if curves else ():
        means = _means(at)
        points.append(
            {"alpha": alpha, **cell.counts, **(dict.fromkeys(means) if cell.left_out else means)}
        )
    return points


def _means(at: pd.DataFrame) -> dict[str, float]:
    """Of the runs of a cell at one alpha."""
    return {
        "accuracy_mean": at["test_accuracy"].mean(),
        "accuracy_std": at["test_accuracy"].std(),
        "loss_mean": at["test_loss"].mean(),
        "loss_std": _std(at["test_loss"]),
        "draws_std": at["draws_std"].mean(),
    }


def score(cell: Cell) -> dict[str, Any]:
    """What the curves of a cell come to.

    Keys: those of `CELL`, `method`, `n`, `left_out`, `half_alpha_n` (measured runs that lose half
    of their accuracy at all), `half_alpha_mean`, `half_alpha_std`, `area_mean`, `area_std`. Where a
    run is left out the means are missing; that of `half_alpha` also where a run does not lose half
    within the range: the strongest would be the ones without a say.
    """
    lines = [
        (each.index.tolist(), each["test_accuracy"].tolist()) for each in cell.curves().values()
    ]
    halves = _numbers(half_accuracy_alpha(*line) for line in lines)
    areas = _numbers(area(*line) for line in lines)
    found = {
        **cell.columns,
        "method": cell.common("method"),
        **cell.counts,
        "half_alpha_n": len(halves),
    }
    for name, values in (("half_alpha", halves), ("area", areas)):
        there = not cell.left_out and len(values) == len(lines)
        found[f"{name}_mean"] = values.mean() if there else math.nan
        found[f"{name}_std"] = values.std() if there else math.nan
    return found


def differences(frame: pd.DataFrame, versus: str) -> pd.DataFrame:
    """Each method's area minus that of one of the same protocol, paired by seed; fractions.

    Columns: `recipe`, `method` and `versus` as cells are named, and those of
    `reports.differences`.

    Args:
        versus: a name in the table, `sam-0.1 [rho=0.2]`; or a label, and where it has several
            configurations each of them is subtracted in turn, a family each.

    Raises:
        UsageError: no recipe has that name.
    """
    refuse_unknown(frame, versus)
    cells = cells_of(frame)
    found: list[dict[str, Any]] = []
    for reference in (cell for cell in cells if versus in (cell.name, cell.label)):
        terms = reference.recipe, reference.common("protocol")
        entries = {
            cell.name: _areas(cell)
            for cell in cells
            if (cell.recipe, cell.common("protocol")) == terms
        }
        lines = differences_from(reference.name, entries[reference.name], entries)
        adjust(lines)
        found += [{"recipe": reference.recipe, **line} for line in lines]
    return pd.DataFrame(found, columns=["recipe", "method", "versus", *COLUMNS], dtype=object)


def refuse_unknown(frame: pd.DataFrame, versus: str) -> None:
    """Raise UsageError if no recipe's table has that name; needs no point to be measured."""
    refuse_no_method(versus, [name for each in cells_of(frame) for name in (each.label, each.name)])


def _areas(cell: Cell) -> Entry:
    """The area of every run of a cell, by seed."""
    if cell.left_out:
        return Entry(None, f"{cell.count} measured")
    seeds = dict(zip(cell.rows["run"], cell.rows["seed"], strict=True))
    by_seed = {}
    for run, curve in cell.curves().items():
        value = area(curve.index.tolist(), curve["test_accuracy"].tolist())
        if value is None:
            return Entry(None, "a single strength")
        by_seed[int(seeds[run])] = value
    return Entry(Sample(by_seed), "done")


def tables(frame: pd.DataFrame, *, every_alpha: bool) -> dict[str, list[dict[str, str]]]:
    """By recipe, a row per method: accuracy at a few alphas (at all, for a page without a right
    edge), half-accuracy alpha, area."""
    return {
        str(recipe): _table(cells_of(rows), every_alpha=every_alpha)
        for recipe, rows in frame.groupby("recipe", sort=False)
    }


def _table(cells: Sequence[Cell], *, every_alpha: bool) -> list[dict[str, str]]:
    points = {cell: {point["alpha"]: point for point in _points(cell)} for cell in cells}
    alphas = sorted({alpha for each in points.values() for alpha in each})
    shown = alphas if every_alpha else _spaced(alphas, SHOWN_ALPHAS)
    totals = {cell: score(cell) for cell in cells}
    return [
        {
            "method": cell.name,
            "n": cell.count,
            **{f"α={alpha:g}": _accuracy(at.get(alpha, {})) for alpha in shown},
            "half lost at α": _half(totals[cell], alphas),
            "area (%)": percent(totals[cell]["area_mean"], totals[cell]["area_std"], ".1f"),
        }
        for cell, at in points.items()
    ]


def difference_tables(against: pd.DataFrame) -> list[TextTable]:
    """What `differences` found, a table for each recipe and reference, in percentage points."""
    return [
        TextTable(
            f"{recipe}: area, minus {versus}",
            [{"method": line["method"], **difference_cells(line)} for line in as_rows(lines)],
        )
        for (recipe, versus), lines in against.groupby(["recipe", "versus"], sort=False)
    ]


def notes(
    frame: pd.DataFrame, setting: PerturbationSetting, against: pd.DataFrame | None = None
) -> list[str]:
    """How it was measured, what the columns mean, and every run that is missing."""
    how = described(setting)
    lines = [f"{how[0].upper()}{how[1:]}."]
    lines.append(
        "Test accuracy (%), mean±std over seeds (ddof 1), no mean where a planned seed is not "
        "measured; α=0 is the control; half lost at α: half of the accuracy at α=0, on straight "
        "lines between the strengths measured, so that a finer --alpha moves it (chance is not "
        "subtracted: a network that begins below twice chance may never lose half); no mean where "
        "a run does not lose it within the range; area: mean accuracy over the range of α."
    )
    if against is not None:
        lines.append(
            "Differences are of the area, in percentage points, of methods under one protocol; "
            "where paired, over the seeds that both have; the 95 % interval is of the one "
            f"difference, unadjusted; p (Holm) is adjusted over the methods of the table. {MDE}"
        )
    if setting.direction == "gaussian":
        draws = frame.loc[frame["status"] == MEASURED, "draw"].nunique()
        if draws > 1:
            curves = [curve for cell in cells_of(frame) for curve in cell.curves().values()]
            spread = pd.concat(curves)["draws_std"].max()
            lines.append(
                f"Each run is the mean of {draws} draws; their std is at most "
                f"{100 * spread:.2f} percentage points."
            )
    devices = sorted(frame.loc[frame["status"] == MEASURED, "device_name"].unique())
    if len(devices) > 1:
        lines.append(
            "Measured on different hardware, so numbers need not agree to the last bit: "
            f"{', '.join(devices)}."
        )
    for run in as_rows(frame[frame["status"] != MEASURED]):
        reason = f": {run['reason']}" if run["reason"] else ""
        lines.append(f"not measured: {run['run']}: {run['status']}{reason}")
    for cell in cells_of(frame):
        if cell.unseen:
            whose = f"{cell.recipe}/{cell.label} seed {', '.join(map(str, cell.unseen))}"
            lines.append(f"not measured: {whose}: planned, and not found here")
    return lines


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


def as_json(
    frame: pd.DataFrame, setting: PerturbationSetting, against: pd.DataFrame | None = None
) -> dict[str, Any]:
    """Every number, and every run that has none, for `records.plain.document_text`."""
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "setting": setting.columns(),
        "cells": [{**score(cell), "points": _points(cell)} for cell in cells_of(frame)],
        "left_out": [
            {key: run[key] for key in ("run", "status", "reason")}
            for run in as_rows(frame[frame["status"] != MEASURED])
        ],
    }
    if against is not None:
        content["differences"] = as_rows(against)
    return content


def _numbers(values: Iterable[float | None]) -> pd.Series[float]:
    return pd.Series([value for value in values if value is not None], dtype=float)


def _std(values: pd.Series[float]) -> float:
    """ddof 1; missing for a single value, and where one is infinite."""
    return float(values.std()) if np.isfinite(values).all() else math.nan


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


def _accuracy(point: Mapping[str, float]) -> str:
    return percent(point.get("accuracy_mean"), point.get("accuracy_std"), ".1f")


def _half(total: Mapping[str, Any], alphas: Sequence[float]) -> str:
    if total["left_out"]:
        return ""
    if total["half_alpha_n"] < total["n"]:
        lost = total["half_alpha_n"]
        some = f" ({lost} of {total['n']} lost half)" if lost else ""
        return f"> {alphas[-1]:g}{some}"
    decade = math.floor(math.log10(alphas[-1]))
    # To a hundredth of the range; no row of digits where it is very wide or narrow.
    form = f".{max(0, 2 - decade)}f" if abs(decade) <= _MOST_DIGITS else ".2e"
    return mean_std(total["half_alpha_mean"], total["half_alpha_std"], form)
