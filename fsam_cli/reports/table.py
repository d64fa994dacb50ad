"""The result table as data: one entry per cell and metric, and the notes below it."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pandas as pd

from fsam_cli.errors import counted
from fsam_cli.records.frame import as_rows
from fsam_cli.records.statistics import within_noise_of_best
from fsam_cli.records.summary import (
    BEST_TEST,
    FIT,
    GRADIENTS,
    LAST,
    LOSS,
    NOT_MEASURED,
    SECONDS,
    SELECTED,
    SELECTED_TOP5,
    TOP5,
    Cell,
    Metric,
    Row,
    label_order,
    rows_of,
    those_that_chose,
    tuned_values,
    with_trials,
)
from fsam_cli.reports.differences import COLUMNS, Entry, adjust, differences_from
from fsam_cli.reports.protocol import methods, protocol


@dataclass(frozen=True)
class Line:
    """One metric of one row, by name of the cell."""

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
    def names(self) -> list[str]:
        """Of the cells."""
        return list(dict.fromkeys(name for row in self.rows for name in row.cells))

    @property
    def known(self) -> list[str]:
        """What a user may name: every label, and cells by their names where it has several."""
        cells = (cell for row in self.rows for cell in row.cells.values())
        return list(dict.fromkeys(name for cell in cells for name in (cell.label, cell.name)))


def build_table(
    runs: pd.DataFrame,
    *,
    best_test: bool = False,
    rows: list[Row] | None = None,
    metrics: Callable[[Row], list[Metric]] | None = None,
) -> Table:
    """The table of a frame of runs.

    Args:
        runs: from `records.frame.load_runs`.
        best_test: also the best test epoch, which selects on the test set.
        rows: how its cells stand; by default one row per shared configuration.
        metrics: what is shown of a row; by default the results of training.
    """
    runs = with_trials(runs)
    rows = rows_of(runs) if rows is None else rows
    metrics = partial(_metrics, best_test=best_test) if metrics is None else metrics
    lines = [_line(row, metric) for row in rows for metric in metrics(row)]
    notes = [*_trained(rows), *_notes(rows, lines), *_absent(runs), *_not_counted(rows, runs)]
    return Table(rows, lines, notes, runs)


def whose(row: Row, cell: Cell) -> dict[str, str]:
    """Whose numbers a line of a document is: `recipe`, `row`, `label`, `settings`, `cell`."""
    own = {"label": cell.label, "settings": cell.apart, "cell": cell.hash}
    return {"recipe": row.recipe, "row": row.name, **own}


def differences(table: Table, name: str) -> pd.DataFrame:
    """Each method minus one of its row, for every accuracy of the table; fractions, unrounded.

    Columns: recipe, row, method and `settings` (in which it differs from its label's others),
    `versus` and `versus_settings` (the same of the one subtracted), metric, `difference` of the
    means (of the seeds that both have, where these are paired), its `standard_error`, `low` and
    `high` (95 % interval of this one difference), `p` (two-sided), `p_holm` (adjusted for all
    differences from these runs), `detectable` (the true difference that this one test would find
    in 80 % of cases), `test` (paired or Welch), `n` (pairs, or seeds of the smaller cell) and
    `status`: `done`, or why there is no number. Rows without the one, or with nothing else, are
    left out.

    Args:
        table: any.
        name: of `table.known`; a label of several configurations is each of them in turn.
    """
    found: list[dict[str, Any]] = []
    for line in table.lines:
        if line.metric.tested:
            for reference in line.row.meant(name):
                found += _family(line, reference)
    columns = ["recipe", "row", "method", "settings", "versus", "versus_settings", "metric"]
    # n stays whole where one is missing
    return pd.DataFrame(found, columns=[*columns, *COLUMNS], dtype=object)


def _family(line: Line, reference: str) -> list[dict[str, Any]]:
    """The differences of one line from one of its cells, adjusted for each other."""
    found = differences_from(reference, line.entries[reference], line.entries)
    adjust(found)
    cells, subtracted = line.row.cells, line.row.cells[reference]
    return [
        {
            **each,
            "recipe": line.row.recipe,
            "row": line.row.name,
            "metric": line.metric.column,
            "method": cells[each["method"]].label,
            "settings": cells[each["method"]].apart,
            "versus": subtracted.label,
            "versus_settings": subtracted.apart,
        }
        for each in found
    ]


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
    samples = {name: cell.sample(metric) for name, cell in row.cells.items()}
    marked: set[str] = set()
    if metric.higher_is_better is not None:
        complete = {name: sample for name, sample in samples.items() if sample is not None}
        marked = within_noise_of_best(complete, higher_is_better=metric.higher_is_better)
    entries = {
        name: Entry(samples[name], cell.status, name in marked) for name, cell in row.cells.items()
    }
    return Line(row, metric, entries)


def _trained(rows: Sequence[Row]) -> Iterable[str]:
    """What it is a table of."""
    for recipe in dict.fromkeys(row.recipe for row in rows):
        cells = [cell for row in rows if row.recipe == recipe for cell in row.cells.values()]
        if told := protocol(cells):
            yield f"{recipe}: {told}."
            yield f"{recipe}, methods: {methods(cells)}."


def _notes(rows: Sequence[Row], lines: Sequence[Line]) -> Iterable[str]:
    entries = [entry for line in lines for entry in line.entries.values()]
    if any(entry.marked for entry in entries):
        yield (
            "Marked: every mean that is not significantly worse than the best of the same measure "
            "(two-sided t-test at 5 %, paired over the seeds that both have, else Welch's; Holm "
            "over all pairs). With few seeds the test has little power, and it assumes normality: "
            "marked does not mean equal. Incomplete cells and cells of one seed are not compared."
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
        own = ", ".join(f"{name} {value}" for name, value in values.items())
        yield (
            f"{row.title}: {key} is each method's own, the recipe's for all unless the method has "
            f"one there or a tuning searched it: {own}."
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
    bad = cell.runs["status"].isin(["diverged", "failed", "unreadable", *NOT_MEASURED])
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
        paths = group["path"][group["cell"] != ""]  # a weight file's folder is not ours
        recipes = {Path(path).resolve().parents[1] for path in paths}
        there |= {folder.name for recipe_folder in recipes for folder in recipe_folder.iterdir()}
        absent = [label for label in label_order(group) if label not in there]
        if absent:
            yield f"{recipe}: planned, and without a run here: {', '.join(absent)}."


def _not_counted(rows: Sequence[Row], runs: pd.DataFrame) -> Iterable[str]:
    """Trials of a tuning, and records of a seed that another of the same cell stands for."""
    shown = {path for row in rows for cell in row.cells.values() for path in cell.runs["path"]}
    others = runs[~runs["path"].isin(shown)]
    trials = others["trial"].astype(bool)
    results = {(row.recipe, cell.label) for row in rows for cell in row.cells.values()}
    chose = those_that_chose(runs)
    without: dict[str, set[int]] = {}
    for run in as_rows(runs[~runs["trial"].astype(bool)]):
        seeds = {seed for seed in run["planned_seeds"] if (run["cell"], seed) in chose}
        if seeds:
            without.setdefault(f"{run['recipe']}/{run['label']}", set()).update(seeds)
    for where, left_out in without.items():
        yield (
            f"{where}: without seeds {', '.join(map(str, sorted(left_out)))}, which chose its "
            "settings as trials of a tuning; a mean with them would be too good."
        )
    for name in dict.fromkeys(row.recipe for row in rows):
        cells = [cell for row in rows if row.recipe == name for cell in row.cells.values()]
        if cells and all(cell.runs["trial"].astype(bool).all() for cell in cells):
            yield (
                f"{name}: no results: there are only trials of a tuning, whose seeds chose "
                "settings."
            )
    for recipe, group in others[trials].groupby("recipe", sort=False):
        what = counted(len(group), "trial")
        tried = f"{recipe}: not counted: {what} of a tuning, which chose settings"
        only = [label for label in group["label"].unique() if (recipe, label) not in results]
        yield f"{tried}; there is nothing else of {', '.join(only)}." if only else f"{tried}."
    # What another machine of the same plan has yet to do, or did, is no second record.
    for run in as_rows(others[~trials & (others["status"] != "planned")]):
        yield (
            f"{run['recipe']}/{run['label']} {_seed(run)}: recorded more than once; not counted, "
            f"{run['status']}: {run['path']}"
        )


def _seed(run: dict[str, Any]) -> str:
    if not run["cell"]:
        return "weight file"
    return "seed unknown" if pd.isna(run["seed"]) else f"seed {int(run['seed'])}"
