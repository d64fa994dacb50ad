"""The result table as data: one entry per cell and metric, and the notes below it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd

from fsam_cli.records.frame import as_rows
from fsam_cli.records.statistics import within_noise_of_best
from fsam_cli.records.summary import (
    BEST_TEST,
    FIT,
    GRADIENTS,
    LAST,
    LOSS,
    SECONDS,
    SELECTED,
    SELECTED_TOP5,
    TOP5,
    Cell,
    Metric,
    Row,
    label_order,
    rows_of,
    tuned_values,
)
from fsam_cli.reports.differences import COLUMNS, Entry, adjust, differences_from
from fsam_cli.reports.protocol import protocol


@dataclass(frozen=True)
class Line:
    """One metric of one row, by label."""

    row: Row
    metric: Metric
    entries: dict[str, Entry]


@dataclass(frozen=True)
class Table:
    """Everything a renderer needs."""

    rows: list[Row]
    lines: list[Line]
    notes: list[str]
    runs: pd.DataFrame

    @property
    def labels(self) -> list[str]:
        return list(dict.fromkeys(label for row in self.rows for label in row.cells))


def build_table(
    runs: pd.DataFrame, *, best_test: bool = False, rows: list[Row] | None = None
) -> Table:
    """The table of a frame of runs.

    Args:
        runs: from `records.frame.load_runs`.
        best_test: also the best test epoch, which selects on the test set.
        rows: how its cells stand; by default one row per shared configuration.
    """
    rows = rows_of(runs) if rows is None else rows
    lines = [_line(row, metric) for row in rows for metric in _metrics(row, best_test=best_test)]
    notes = [*_trained(rows), *_notes(rows, lines), *_absent(runs), *_not_counted(rows, runs)]
    return Table(rows, lines, notes, runs)


def differences(table: Table, label: str) -> pd.DataFrame:
    """Each method minus `label`, for every accuracy of the table; fractions, unrounded.

    Columns: recipe, row, method, `versus` (`label`), metric, `difference` of the means (of the
    seeds that both have, where these are paired), its `standard_error`, `low` and `high` (95 %
    interval of this one difference), `p` (two-sided), `p_holm` (adjusted for all differences from
    these runs of `label`), `test` (paired or Welch), `n` (pairs, or seeds of the smaller cell) and
    `status`: `done`, or why there is no number. Where a method has several configurations, a row
    each, they are compared with the `label` that they share the rest with. Rows without any
    `label`, or with nothing else, are left out.
    """
    found: list[dict[str, Any]] = []
    families: dict[tuple[str, ...], list[dict[str, Any]]] = {}  # by reference and metric
    for line in table.lines:
        cell = {**line.row.beside, **line.row.cells}.get(label)
        if cell is None or not (line.metric.accuracy and line.metric.higher_is_better):
            continue
        where = {"recipe": line.row.recipe, "row": line.row.name, "metric": line.metric.column}
        reference = Entry(cell.sample(line.metric), cell.status)
        mine = [{**where, **each} for each in differences_from(label, reference, line.entries)]
        families.setdefault((cell.recipe, cell.hash, line.metric.column), []).extend(mine)
        found += mine
    for family in families.values():
        adjust(family)
    columns = ["recipe", "row", "method", "versus", "metric", *COLUMNS]
    return pd.DataFrame(found, columns=columns, dtype=object)  # n stays whole where one is missing


def _metrics(row: Row, *, best_test: bool) -> list[Metric]:
    selected_on_test = [BEST_TEST] if best_test else []
    accuracies = [LAST, SELECTED, *selected_on_test, TOP5, SELECTED_TOP5]
    wanted = [*accuracies, LOSS, FIT, GRADIENTS, SECONDS]
    return [
        metric
        for metric in wanted
        if metric in (LAST, GRADIENTS, SECONDS)
        or any(cell.runs[metric.column].notna().any() for cell in row.cells.values())
    ]


def _line(row: Row, metric: Metric) -> Line:
    samples = {label: cell.sample(metric) for label, cell in row.cells.items()}
    marked: set[str] = set()
    if metric.higher_is_better is not None:
        complete = {label: sample for label, sample in samples.items() if sample is not None}
        marked = within_noise_of_best(complete, higher_is_better=metric.higher_is_better)
    entries = {
        label: Entry(samples[label], cell.status, label in marked)
        for label, cell in row.cells.items()
    }
    return Line(row, metric, entries)


def _trained(rows: Sequence[Row]) -> Iterable[str]:
    """What it is a table of."""
    for recipe in dict.fromkeys(row.recipe for row in rows):
        cells = [cell for row in rows if row.recipe == recipe for cell in row.cells.values()]
        if told := protocol(cells):
            yield f"{recipe}: {told}."


def _notes(rows: Sequence[Row], lines: Sequence[Line]) -> Iterable[str]:
    entries = [entry for line in lines for entry in line.entries.values()]
    if any(entry.marked for entry in entries):
        yield (
            "Marked: every mean that is not significantly worse than the best of the same measure "
            "(two-sided t-test at 5 %, paired over the seeds that both have, else Welch's; Holm "
            "over all pairs of methods). With few seeds the test has little power, and it assumes "
            "normality: marked does not mean equal. Incomplete cells and cells of one seed are "
            "not compared."
        )
    counts = sorted({entry.sample.n for entry in entries if entry.sample})
    seeds = f"n = {', '.join(map(str, counts))} seeds" if counts else "seeds"
    if counts == [1]:
        seeds = "n = 1 seed, so without a spread"
    yield (
        f"mean±std over {seeds}, sample standard deviation (ddof 1); no mean where a planned run "
        "is missing, unfinished, diverged or failed."
    )
    cells = [cell for row in rows for cell in row.cells.values()]
    for recipe in sorted({cell.recipe for cell in cells if cell.data_verified is False}):
        yield f"{recipe}: unverified data (no official checksum was asked for)."
    for row in rows:
        yield from _before(row)
        yield from _tuned(row)
        yield from _unequal_conditions(row)
    for cell in cells:
        yield from _cell_notes(cell)


def _before(row: Row) -> Iterable[str]:
    """What a fine-tuning that keeps its classifier began with."""
    runs = [run for cell in row.cells.values() for run in as_rows(cell.runs)]
    began = {
        (run["before_test_accuracy"], run["before_test_top5_accuracy"])
        for run in runs
        if not pd.isna(run["before_test_accuracy"])
    }
    for accuracy, top5 in sorted(began):
        also = "" if pd.isna(top5) else f", top-5 {100 * top5:.2f} %"
        yield (
            f"{row.title}: the weights that it began with have a test accuracy of "
            f"{100 * accuracy:.2f} %{also}."
        )


def _tuned(row: Row) -> Iterable[str]:
    """Settings of the protocol that each method has for itself."""
    for key, values in tuned_values(row).items():
        own = ", ".join(f"{label} {value}" for label, value in values.items())
        yield (
            f"{row.title}: {key} is each method's own, the recipe's unless a tuning searched it "
            f"for the method: {own}."
        )


def _unequal_conditions(row: Row) -> Iterable[str]:
    """Where the runs of a row were not trained on equal terms."""
    environments = [
        each
        for cell in row.cells.values()
        for environment in cell.runs["environment"]
        for each in (environment, *environment.get("earlier", ()))
    ]
    for key, words in (
        ("torch", "versions of torch, whose numbers need not agree to the last bit"),
        ("device_name", "hardware, so numbers need not agree to the last bit nor seconds compare"),
        ("cuda_graph", "ways to launch (cuda_graph), so seconds do not compare"),
        ("runs_at_once", "numbers of runs at once, so seconds do not compare"),
    ):
        used = sorted({str(each[key]) for each in environments if key in each})
        if len(used) > 1:
            yield f"{row.title}: its runs had different {words}: {', '.join(used)}."


def _cell_notes(cell: Cell) -> Iterable[str]:
    where = f"{cell.recipe}/{cell.label}"
    bad = cell.runs["status"].isin(["diverged", "failed", "unreadable"])
    for run in as_rows(cell.runs[bad]):
        reason = run["reason"] or "no reason recorded"
        yield f"{where} {_seed(run)}: {run['status']}: {reason} ({run['path']})"
    contradicted = cell.runs["seed"].isin(sorted(cell.contradicted))
    for run in as_rows(cell.runs[contradicted]):
        yield (
            f"{where} {_seed(run)}: recorded again with other numbers, and therefore without a "
            f"mean; report only one of its records: {run['path']}"
        )


def _absent(runs: pd.DataFrame) -> Iterable[str]:
    """Methods that were planned with the others and have no record at all, reported or not."""
    for recipe, group in runs.groupby("recipe", sort=False):
        there = set(group["label"])
        recipes = {Path(path).resolve().parents[1] for path in group["path"]}
        there |= {folder.name for recipe_folder in recipes for folder in recipe_folder.iterdir()}
        absent = [label for label in label_order(group) if label not in there]
        if absent:
            yield f"{recipe}: planned, and without a run here: {', '.join(absent)}."


def _not_counted(rows: Sequence[Row], runs: pd.DataFrame) -> Iterable[str]:
    """Trials of a tuning, and records of a seed that another of the same cell stands for."""
    counted = {path for row in rows for cell in row.cells.values() for path in cell.runs["path"]}
    others = runs[~runs["path"].isin(counted)]
    trials = others["trial"].astype(bool)
    results = {(row.recipe, label) for row in rows for label in row.cells}
    planned = {
        (run["recipe"], run["label"], run["cell"], seed)
        for run in as_rows(runs[~runs["trial"].astype(bool)])
        for seed in run["planned_seeds"]
    }
    chose: dict[str, list[int]] = {}
    for run in as_rows(others[trials]):
        if (run["recipe"], run["label"], run["cell"], run["seed"]) in planned:
            chose.setdefault(f"{run['recipe']}/{run['label']}", []).append(int(run["seed"]))
    for where, seeds in chose.items():
        yield (
            f"{where}: without seeds {', '.join(map(str, sorted(seeds)))}, which chose its "
            "settings as trials of a tuning; a mean with them would be too good."
        )
    for recipe, group in others[trials].groupby("recipe", sort=False):
        tried = f"{recipe}: {len(group)} trials of a tuning, which chose settings, are not counted"
        only = [label for label in group["label"].unique() if (recipe, label) not in results]
        yield f"{tried}; there is nothing else of {', '.join(only)}." if only else f"{tried}."
    # What another machine of the same plan has yet to do, or did, is no second record.
    for run in as_rows(others[~trials & (others["status"] != "planned")]):
        yield (
            f"{run['recipe']}/{run['label']} {_seed(run)}: recorded more than once; not counted, "
            f"{run['status']}: {run['path']}"
        )


def _seed(run: dict[str, Any]) -> str:
    return "seed unknown" if pd.isna(run["seed"]) else f"seed {int(run['seed'])}"
