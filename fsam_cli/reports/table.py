"""The result table as data: one entry per cell and metric, and the notes below it."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import pandas as pd

from fsam_cli.records.frame import as_rows
from fsam_cli.records.statistics import Comparison, Sample, compare, within_noise_of_best
from fsam_cli.records.summary import (
    BEST_TEST,
    FIT,
    GRADIENTS,
    LAST,
    LOSS,
    SECONDS,
    SELECTED,
    Cell,
    Metric,
    Row,
    rows_of,
)


@dataclass(frozen=True)
class Entry:
    """One cell of the table."""

    sample: Sample | None  # None: nothing to average
    status: str  # `done`, or what is missing
    marked: bool  # within noise of the best of its row


@dataclass(frozen=True)
class Line:
    """One metric of one row, by label."""

    recipe: str
    row: str
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
    return Table(rows, lines, list(_notes(rows, lines)), runs)


def differences(table: Table, label: str, metric: Metric = LAST) -> pd.DataFrame:
    """Each method minus `label`: recipe, row, method, difference, low, high (95 %), p, test, n.

    Differences of accuracies are fractions; rows without `label`, or incomplete, are left out.
    """
    found = []
    for row in table.rows:
        reference = row.cells[label].sample(metric) if label in row.cells else None
        for other, cell in row.cells.items():
            sample = cell.sample(metric)
            if other == label or reference is None or sample is None:
                continue
            comparison: Comparison | None = compare(sample, reference)
            if comparison is not None:
                found.append(
                    {"recipe": row.recipe, "row": row.name, "method": other, **vars(comparison)}
                )
    columns = ["recipe", "row", "method", "difference", "low", "high", "p", "test", "n"]
    return pd.DataFrame(found, columns=columns)


def _metrics(row: Row, *, best_test: bool) -> list[Metric]:
    wanted = [LAST, SELECTED, *([BEST_TEST] if best_test else []), LOSS, FIT, GRADIENTS, SECONDS]
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
        if len(complete) < 2:
            marked = set()  # nothing to be best of
    return Line(
        row.recipe,
        row.name,
        metric,
        {
            label: Entry(samples[label], cell.status, label in marked)
            for label, cell in row.cells.items()
        },
    )


def _notes(rows: Sequence[Row], lines: Sequence[Line]) -> Iterable[str]:
    if any(entry.marked for line in lines for entry in line.entries.values()):
        yield (
            "Marked: the best mean and all that a two-sided t-test, paired by seed where the seeds "
            "are the same and Welch's otherwise, cannot tell from it at 5 % (Holm over the row). "
            "With few seeds such a test has little power: unmarked means worse, marked does not "
            "mean equal."
        )
    yield "mean±std over seeds, sample standard deviation (ddof 1)."
    cells = [cell for row in rows for cell in row.cells.values()]
    for recipe in sorted({cell.recipe for cell in cells if _unverified(cell)}):
        yield f"{recipe}: unverified data (no official checksum was asked for)."
    for cell in cells:
        yield from _cell_notes(cell)


def _unverified(cell: Cell) -> bool:
    return any(verified is False for verified in cell.runs["data_verified"])


def _cell_notes(cell: Cell) -> Iterable[str]:
    where = f"{cell.recipe}/{cell.label}"
    for run in as_rows(cell.runs):
        if run["status"] in ("diverged", "failed", "unreadable"):
            yield f"{where} seed {run['seed']}: {run['status']}: {run['reason']} ({run['path']})"
    for key in ("torch", "device_name"):
        used = {str(env[key]) for env in cell.runs["environment"] if env and key in env}
        if len(used) > 1:
            yield f"{where}: its seeds ran on different {key}: {', '.join(sorted(used))}."
