"""The result table as text; here, and only here, numbers are rounded."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd

from fsam_cli.records.frame import as_rows
from fsam_cli.records.plain import document_text, frame_csv
from fsam_cli.records.statistics import Sample
from fsam_cli.records.summary import LOSS, Metric, titled
from fsam_cli.reports.differences import Entry
from fsam_cli.reports.gate import Verdict
from fsam_cli.reports.latex import latex
from fsam_cli.reports.published import notes_on
from fsam_cli.reports.table import Line, Table
from fsam_cli.reports.text_table import (
    TextTable,
    bullets,
    difference_cells,
    mean_std,
    percent,
    pipe_table,
    titled_markdown,
)

REPORT_SCHEMA = "fsam-report/1"


@dataclass(frozen=True)
class Beside:
    """What was asked for beside the table itself."""

    differences: pd.DataFrame | None = None
    published: pd.DataFrame | None = None
    verdicts: Sequence[Verdict] | None = None


NOTHING = Beside()


def markdown(table: Table, beside: Beside = NOTHING) -> str:
    """A row per recipe and metric, a column per method label."""
    labels = table.labels
    lines = [["recipe", "metric", "n", *labels], ["---"] * 2 + ["---:"] * (1 + len(labels))]
    for line in table.lines:
        cells = [_bold(line, label) for label in labels]
        lines.append([line.row.title, line.metric.name, _seeds(line), *cells])
    parts = [pipe_table(lines)]
    if beside.differences is not None and not beside.differences.empty:
        parts += titled_markdown(_all_differences(table, beside.differences))
    for each in [] if beside.published is None else published_tables(beside.published):
        parts += titled_markdown(each)
    if beside.verdicts is not None:
        parts += titled_markdown(gate_table(beside.verdicts))
    return "\n\n".join([*parts, bullets(notes(table, beside))]) + "\n"


def long_frame(table: Table) -> pd.DataFrame:
    """One line per cell and metric, unrounded: what CSV and JSON hold."""
    return pd.DataFrame(
        {
            "recipe": line.row.recipe,
            "row": line.row.name,
            "label": label,
            "cell": line.row.cells[label].hash,
            "metric": line.metric.column,
            **entry.columns,
            "marked": entry.marked,
            "data_verified": line.row.cells[label].data_verified,
        }
        for line in table.lines
        for label, entry in line.entries.items()
    )


def csv_text(table: Table, beside: Beside = NOTHING) -> str:
    """The long form as CSV; with the paper's numbers in columns of their own."""
    frame, published = long_frame(table), beside.published
    if published is not None:
        where = ["recipe", "label", "cell", "metric"]
        columns = {"difference": "published_difference"}
        more = published[[*where, "published_mean", "published_std", "difference"]]
        more = more.assign(deviations=published["deviations"].map(_joined))
        frame = frame.merge(more.rename(columns=columns), on=where, how="left")
    return frame_csv(frame)


def runs_csv(table: Table) -> str:
    """Every run with its numbers; objects are left to the JSON form."""
    objects = ["config", "environment", "planned_labels", "planned_seeds", "tuned"]
    return frame_csv(_whole(table.runs).drop(columns=objects))


def json_text(table: Table, beside: Beside = NOTHING) -> str:
    """Table, runs and notes under a versioned schema (docs/report-schema.md)."""
    content: dict[str, Any] = {
        "schema": REPORT_SCHEMA,
        "table": _records(long_frame(table)),
        "runs": _records(_whole(table.runs)),
        "notes": notes(table, beside),
    }
    published = beside.published
    if beside.differences is not None:
        content["differences"] = _records(beside.differences)
    if published is not None:
        content["published"] = [
            {**line, "deviations": [asdict(each) for each in entry["deviations"]]}
            for line, entry in zip(_records(published), as_rows(published), strict=True)
        ]
    if beside.verdicts is not None:
        content["gates"] = [asdict(verdict) for verdict in beside.verdicts]
    return document_text(content)


def latex_text(table: Table, beside: Beside = NOTHING) -> str:
    """What stands in a terminal, for a paper."""
    return latex(all_tables(table, beside), notes(table, beside))


def all_tables(table: Table, beside: Beside = NOTHING) -> list[TextTable]:
    """What a terminal shows, and what was asked for beside it."""
    tables = terminal_tables(table)
    if beside.differences is not None:
        tables += difference_tables(table, beside.differences)
    if beside.published is not None:
        tables += published_tables(beside.published)
    if beside.verdicts is not None:
        tables.append(gate_table(beside.verdicts))
    return tables


def terminal_tables(table: Table) -> list[TextTable]:
    """One per row of the table, a line per method, for 80 columns.

    The loss is left to the wider forms. What an incomplete cell lacks is said once.
    """
    tables = []
    for row in table.rows:
        lines = [line for line in table.lines if line.row is row and line.metric is not LOSS]
        body = []
        for label, cell in row.cells.items():
            sample = lines[0].entries[label].sample
            cells = {
                line.metric.short: _starred(line.entries[label], line.metric) for line in lines
            }
            if cell.status != "done":
                cells = {**dict.fromkeys(cells, ""), lines[0].metric.short: cell.status}
            body.append({"method": label, "n": str(sample.n) if sample else "", **cells})
        tables.append(TextTable(row.title, body))
    return tables


def difference_tables(table: Table, differences: pd.DataFrame) -> list[TextTable]:
    """Each method minus one of them, a table for each row and accuracy."""
    names = {line.metric.column: line.metric.name for line in table.lines}
    tables = []
    for key, group in differences.groupby(["recipe", "row", "versus", "metric"], sort=False):
        recipe, row, versus, metric = map(str, key)
        title = f"{titled(recipe, row)}: {names[metric]}, minus {versus}"
        body = [{"method": entry["method"], **difference_cells(entry)} for entry in as_rows(group)]
        tables.append(TextTable(title, body))
    return tables


ALL = "(all)"  # no label: those hold no brackets


def published_tables(published: pd.DataFrame) -> list[TextTable]:
    """Ours beside the paper's, a table for each row, published table and accuracy.

    Deviations that all methods of a table share stand once, in a last line of their own.
    """
    tables = []
    groups = published.groupby(["recipe", "row", "source", "table", "metric"], sort=False)
    for key, group in groups:
        recipe, row, source, number, metric = map(str, key)
        title = f"{titled(recipe, row)}, beside Table {number} of {source}"
        if metric.endswith("top5_accuracy"):
            title += ", top-5"
        entries = as_rows(group)
        listed = [[str(each) for each in entry["deviations"]] for entry in entries]
        shared = [each for each in listed[0] if all(each in other for other in listed)]
        if len(entries) == 1:
            shared = []
        body = [
            {**_beside(entry), _DEVIATIONS: _joined(each for each in own if each not in shared)}
            for entry, own in zip(entries, listed, strict=True)
        ]
        if shared:
            body.append({**dict.fromkeys(body[0], ""), "method": ALL, _DEVIATIONS: _joined(shared)})
        tables.append(TextTable(title, body, ("method", _DEVIATIONS)))
    return tables


_DEVIATIONS = "deviations"


def _beside(entry: dict[str, Any]) -> dict[str, str]:
    """One cell: label, n, ours, the paper's, the difference in percentage points."""
    done = entry["status"] == "done"
    return {
        "method": entry["label"],
        "n": str(entry["n"]) if done else "",
        "ours %": percent(entry["mean"], entry["std"]) if done else entry["status"],
        "paper %": percent(entry["published_mean"], entry["published_std"]),
        "diff.": f"{100 * entry['difference']:+.2f}" if done else "",
    }


def _joined(deviations: Iterable[object]) -> str:
    return "; ".join(map(str, deviations))


def gate_table(verdicts: Sequence[Verdict]) -> TextTable:
    """A line for each gate and row that it is for."""
    body = [
        {
            "gate": each.gate,
            "row": titled(each.recipe, each.row),
            "found": each.found,
            "holds": "yes" if each.holds else "NO",
        }
        for each in verdicts
    ]
    return TextTable("Gates", body, ("gate", "row", "found", "holds"))


def notes(table: Table, beside: Beside = NOTHING) -> list[str]:
    """Every sentence below the tables."""
    found, differences, published = list(table.notes), beside.differences, beside.published
    if differences is not None and not differences.empty:
        found.append(
            f"Differences from {_reference(differences)}: where paired, over the seeds that both "
            "have; the 95 % interval is of the one difference, unadjusted; p (Holm) is adjusted "
            "over all differences from the same runs."
        )
    return found + ([] if published is None else notes_on(published))


def _reference(differences: pd.DataFrame) -> str:
    """The label that they are taken from."""
    return str(differences["versus"].iloc[0])


def _all_differences(table: Table, differences: pd.DataFrame) -> TextTable:
    names = {line.metric.column: line.metric.name for line in table.lines}
    rows = [
        {
            "recipe": titled(entry["recipe"], entry["row"]),
            "metric": names[entry["metric"]],
            "method": entry["method"],
            **difference_cells(entry),
        }
        for entry in as_rows(differences)
    ]
    title = f"Differences from {_reference(differences)}"
    return TextTable(title, rows, ("recipe", "metric", "method"))


def shown(sample: Sample, metric: Metric) -> str:
    """`83.48±1.97`; a single seed has no spread to show."""
    if metric.accuracy:
        return percent(sample.mean, sample.std)
    if metric.column == "sample_gradients":
        return f"{sample.mean:,.0f}"  # equal by construction
    return mean_std(sample.mean, sample.std, ".1f" if metric.column == "train_seconds" else ".4f")


def _starred(entry: Entry, metric: Metric) -> str:
    if entry.sample is None:
        return entry.why_empty
    return shown(entry.sample, metric) + ("*" if entry.marked else "")


def _bold(line: Line, label: str) -> str:
    if label not in line.entries:
        return ""
    entry = line.entries[label]
    if entry.sample is None:
        return entry.why_empty
    text = shown(entry.sample, line.metric)
    if "/" in _seeds(line):
        text += f" (n={entry.sample.n})"
    return f"**{text}**" if entry.marked else text


def _seeds(line: Line) -> str:
    counts = sorted({entry.sample.n for entry in line.entries.values() if entry.sample})
    return "/".join(map(str, counts))


def _whole(runs: pd.DataFrame) -> pd.DataFrame:
    """Counts as whole numbers; pandas makes floats of a column where one is missing."""
    counts = ["seed", "sample_gradients", *(c for c in runs.columns if c.endswith("_epoch"))]
    return runs.assign(
        **{name: pd.Series(map(_count, runs[name]), runs.index, object) for name in counts}
    )


def _count(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _records(frame: pd.DataFrame) -> list[dict[str, Any]]:
    return [{key: _whole_if_large(value) for key, value in row.items()} for row in as_rows(frame)]


def _whole_if_large(value: Any) -> Any:
    """Means of counts, which would be printed with an exponent."""
    large = isinstance(value, float) and value.is_integer() and abs(value) > 2**31
    return int(value) if large else value
