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
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from fsam_cli.errors import UsageError
from fsam_cli.records.frame import as_rows
from fsam_cli.records.perturbation import PerturbationSetting
from fsam_cli.records.statistics import Sample
from fsam_cli.reports.differences import COLUMNS, Entry, adjust, differences_from
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


def curves(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per run and alpha: the mean over draws, and the draws' standard deviation.

    Columns: those of `CELL`, `run`, `alpha`, `test_accuracy`, `test_loss`, `draws_std` (ddof 1;
    missing for a single draw), in the order of the frame and of alpha.
    """
    points = frame[frame["status"] == MEASURED]
    # A loss that is no number any more is as bad as an infinite one; a mean must not skip it.
    points = points.assign(test_loss=points["test_loss"].fillna(math.inf))
    found = (
        points.groupby([*CELL, "run", "alpha"], sort=False)
        .agg(
            test_accuracy=("test_accuracy", "mean"),
            test_loss=("test_loss", "mean"),
            draws_std=("test_accuracy", "std"),
        )
        .reset_index()
    )
    order = {run: place for place, run in enumerate(dict.fromkeys(frame["run"]))}
    by_alpha = found.sort_values("alpha", kind="stable")
    return by_alpha.sort_values(
        "run", key=lambda runs: runs.map(order), kind="stable", ignore_index=True
    )


def summary(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per cell and alpha.

    Columns: those of `CELL`, `alpha`, `n` (runs measured), `left_out` (planned ones that are not),
    `accuracy_mean`, `accuracy_std`, `loss_mean`, `loss_std` (over runs, ddof 1), `draws_std` (mean
    over runs). Where a run is left out the numbers are missing; a cell of which no run was measured
    has one row, without alpha.
    """
    per_run = curves(frame)
    rows = []
    for key, count in cells_of(frame).items():
        mine = per_run[rows_of_cell(per_run, key)]
        cell = {**dict(zip(CELL, key, strict=True)), "n": count.n, "left_out": count.left_out}
        if mine.empty:
            rows.append(cell)
        for alpha, at in mine.groupby("alpha"):
            rows.append({**cell, "alpha": alpha, **({} if count.left_out else _means(at))})
    columns = ["alpha", "n", "left_out", "accuracy_mean", "accuracy_std"]
    return pd.DataFrame(rows, columns=[*CELL, *columns, "loss_mean", "loss_std", "draws_std"])


def _means(at: pd.DataFrame) -> dict[str, float]:
    """Of the runs of a cell at one alpha."""
    return {
        "accuracy_mean": at["test_accuracy"].mean(),
        "accuracy_std": at["test_accuracy"].std(),
        "loss_mean": at["test_loss"].mean(),
        "loss_std": _std(at["test_loss"]),
        "draws_std": at["draws_std"].mean(),
    }


def scores(frame: pd.DataFrame) -> pd.DataFrame:
    """One row per cell: what its curves come to.

    Columns: those of `CELL`, `method`, `n`, `left_out`, `half_alpha_mean`, `half_alpha_std`,
    `half_alpha_n` (measured runs that lose half of their accuracy at all), `area_mean`,
    `area_std`. Where a run is left out the means are missing; that of `half_alpha` also where a run
    does not lose half within the range: the strongest would be the ones without a say.
    """
    per_run = curves(frame)
    rows = []
    for key, count in cells_of(frame).items():
        mine = [
            (run["alpha"].tolist(), run["test_accuracy"].tolist())
            for _, run in per_run[rows_of_cell(per_run, key)].groupby("run", sort=False)
        ]
        halves = _numbers(half_accuracy_alpha(*curve) for curve in mine)
        areas = _numbers(area(*curve) for curve in mine)
        row = {
            **dict(zip(CELL, key, strict=True)),
            "method": of_cell(frame, key, "method"),
            "n": count.n,
            "left_out": count.left_out,
            "half_alpha_n": len(halves),
        }
        for name, values in (("half_alpha", halves), ("area", areas)):
            there = not count.left_out and len(values) == len(mine)
            row[f"{name}_mean"] = values.mean() if there else math.nan
            row[f"{name}_std"] = values.std() if there else math.nan
        rows.append(row)
    return pd.DataFrame(rows)


def differences(frame: pd.DataFrame, versus: str) -> pd.DataFrame:
    """Each method's area minus that of one of the same protocol, paired by seed; fractions.

    Columns: `recipe`, `method` and `versus` as `names_of` has them, and those of
    `reports.differences`.

    Args:
        frame: as described above.
        versus: a name in the table: `sam-0.1`, or `sam-0.1 [rho=0.2]`.

    Raises:
        UsageError: no recipe has that name.
    """
    refuse_unknown(frame, versus)
    found: list[dict[str, Any]] = []
    for recipe in frame["recipe"].unique():
        names = names_of(frame, recipe)
        if versus not in names.values():
            continue
        protocols = {name: of_cell(frame, key, "protocol") for key, name in names.items()}
        entries = {
            name: _areas(frame, key)
            for key, name in names.items()
            if protocols[name] == protocols[versus]
        }
        lines = differences_from(versus, entries[versus], entries)
        adjust(lines)
        found += [{"recipe": recipe, **line} for line in lines]
    return pd.DataFrame(found, columns=["recipe", "method", "versus", *COLUMNS], dtype=object)


def refuse_unknown(frame: pd.DataFrame, versus: str) -> None:
    """Raise UsageError if no recipe's table has that name; needs no point to be measured."""
    there = [
        name for recipe in frame["recipe"].unique() for name in names_of(frame, recipe).values()
    ]
    if versus not in there:
        raise UsageError(f"--versus: no method '{versus}'; there are {', '.join(there)}")


def _areas(frame: pd.DataFrame, key: tuple[Any, ...]) -> Entry:
    """The area of every run of a cell, by seed."""
    count = cells_of(frame)[key]
    if count.left_out:
        return Entry(None, f"{count_text(count.n, count.left_out)} measured")
    mine, by_seed = frame[rows_of_cell(frame, key)], {}
    for run, points in curves(mine).groupby("run", sort=False):
        seed = int(mine.loc[mine["run"] == run, "seed"].iloc[0])
        value = area(points["alpha"].tolist(), points["test_accuracy"].tolist())
        if value is None:
            return Entry(None, "a single strength")
        by_seed[seed] = value
    return Entry(Sample(by_seed), "done")


def tables(frame: pd.DataFrame, *, every_alpha: bool) -> dict[str, list[dict[str, str]]]:
    """By recipe, a row per method: accuracy at a few alphas, half-accuracy alpha, area.

    Args:
        frame: as described above.
        every_alpha: all columns, for a page without a right edge.
    """
    at, totals = summary(frame), scores(frame)
    found: dict[str, list[dict[str, str]]] = {}
    for recipe, cells in totals.groupby("recipe", sort=False):
        names = names_of(frame, str(recipe))
        points = at[at["recipe"] == recipe]
        alphas = sorted(points["alpha"].dropna().unique())
        shown = alphas if every_alpha else _spaced(alphas, SHOWN_ALPHAS)
        found[str(recipe)] = [
            {
                "method": names[tuple(cell[CELL])],
                "n": count_text(int(cell["n"]), int(cell["left_out"])),
                **{f"α={alpha:g}": _accuracy(points, cell, alpha) for alpha in shown},
                "half lost at α": _half(cell, alphas),
                "area (%)": percent(cell["area_mean"], cell["area_std"], ".1f"),
            }
            for _, cell in cells.iterrows()
        ]
    return found


def names_of(frame: pd.DataFrame, recipe: str) -> dict[tuple[Any, ...], str]:
    """What to call each cell of a recipe: its label, with the settings in which it differs."""
    cells = [key for key in cells_of(frame) if key[0] == recipe]
    labels = Counter(label for _, label, _, _ in cells)
    return {
        key: f"{key[1]} [{key[3] or key[2]}]" if key[3] or labels[key[1]] > 1 else key[1]
        for key in cells
    }


def difference_tables(against: pd.DataFrame) -> list[TextTable]:
    """What `differences` found, a table for each recipe, in percentage points."""
    return [
        TextTable(
            f"{recipe}: area, minus {lines['versus'].iloc[0]}",
            [{"method": line["method"], **difference_cells(line)} for line in as_rows(lines)],
        )
        for recipe, lines in against.groupby("recipe", sort=False)
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
            "difference, unadjusted; p (Holm) is adjusted over the methods of the table."
        )
    if setting.direction == "gaussian":
        draws = frame.loc[frame["status"] == MEASURED, "draw"].nunique()
        spread = curves(frame)["draws_std"].max()
        if draws > 1:
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
    for run in frame[frame["status"] != MEASURED].to_dict("records"):
        reason = f": {run['reason']}" if run["reason"] else ""
        lines.append(f"not measured: {run['run']}: {run['status']}{reason}")
    for (recipe, label, *_), count in cells_of(frame).items():
        if count.unseen:
            seeds = ", ".join(map(str, count.unseen))
            lines.append(
                f"not measured: {recipe}/{label} seed {seeds}: planned, and not found here"
            )
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
    points = summary(frame)
    content: dict[str, Any] = {
        "schema": SCHEMA,
        "setting": setting.columns(),
        "cells": [
            {
                **cell,
                "points": [
                    {key: value for key, value in point.items() if key not in CELL}
                    for point in points[rows_of_cell(points, tuple(cell[key] for key in CELL))]
                    .dropna(subset="alpha")
                    .to_dict("records")
                ],
            }
            for cell in scores(frame).to_dict("records")
        ],
        "left_out": [
            {key: run[key] for key in ("run", "status", "reason")}
            for run in frame[frame["status"] != MEASURED].to_dict("records")
        ],
    }
    if against is not None:
        content["differences"] = against.to_dict("records")
    return content


@dataclass(frozen=True)
class Count:
    """How many runs of a cell there are."""

    n: int  # measured
    left_out: int  # planned or found, and not measured
    unseen: tuple[int, ...]  # planned seeds of which there is no run


def cells_of(frame: pd.DataFrame) -> dict[tuple[Any, ...], Count]:
    """The cells in the order of the frame."""
    return {tuple(key): _counted(runs) for key, runs in frame.groupby(CELL, sort=False)}


def _counted(runs: pd.DataFrame) -> Count:
    """A seed counts once, however many records of it there are; a weight file by its path."""
    who = runs["seed"] if runs["cell"].any() else runs["run"]
    planned = {seed for seeds in runs["planned_seeds"] for seed in seeds}
    # A copy that ended well elsewhere does not undo a divergence.
    measured = set(who[runs["status"] == MEASURED]) - set(who[runs["status"] == "diverged"])
    left_out = (planned | set(who)) - measured
    return Count(len(measured), len(left_out), tuple(sorted(planned - set(who))))


def rows_of_cell(frame: pd.DataFrame, key: tuple[Any, ...]) -> pd.Series[bool]:
    recipe, label, cell, _ = key
    return (frame["recipe"] == recipe) & (frame["label"] == label) & (frame["cell"] == cell)  # type: ignore[no-any-return]


def of_cell(frame: pd.DataFrame, key: tuple[Any, ...], column: str) -> str:
    """What all runs of a cell have in a column."""
    return str(frame.loc[rows_of_cell(frame, key), column].iloc[0])


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


def count_text(n: int, left_out: int) -> str:
    return f"{n} of {n + left_out}" if left_out else str(n)


def _accuracy(points: pd.DataFrame, cell: pd.Series[Any], alpha: float) -> str:
    at = points[rows_of_cell(points, tuple(cell[CELL])) & (points["alpha"] == alpha)]
    if at.empty:
        return ""
    return percent(at["accuracy_mean"].iloc[0], at["accuracy_std"].iloc[0], ".1f")


def _half(cell: pd.Series[Any], alphas: Sequence[float]) -> str:
    if cell["left_out"]:
        return ""
    if cell["half_alpha_n"] < cell["n"]:
        some = f" ({cell['half_alpha_n']} of {cell['n']} lost half)" if cell["half_alpha_n"] else ""
        return f"> {alphas[-1]:g}{some}"
    decade = math.floor(math.log10(alphas[-1]))
    # To a hundredth of the range; no row of digits where it is very wide or narrow.
    form = f".{max(0, 2 - decade)}f" if abs(decade) <= _MOST_DIGITS else ".2e"
    return mean_std(cell["half_alpha_mean"], cell["half_alpha_std"], form)
