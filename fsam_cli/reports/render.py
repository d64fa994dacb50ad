"""The result table as text; here, and only here, numbers are rounded."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from types import MappingProxyType
from typing import Any

import pandas as pd

from fsam_cli.records.frame import as_rows
from fsam_cli.records.plain import document_text, frame_csv
from fsam_cli.records.statistics import Sample
from fsam_cli.records.summary import GRADIENTS, Metric, called, titled
from fsam_cli.reports.differences import MDE, Entry
from fsam_cli.reports.gate import Verdict
from fsam_cli.reports.latex import latex
from fsam_cli.reports.published import notes_on
from fsam_cli.reports.table import Line, Table, whose
from fsam_cli.reports.text_table import (
    POINTS,
    TextTable,
    Unit,
    bullets,
    difference_cells,
    mean_std,
    percent,
    pipe_table,
    titled_markdown,
    to_digits,
)

REPORT_SCHEMA = "fsam-report/2"


@dataclass(frozen=True)
class Beside:
    """What was asked for beside the table itself."""

    differences: pd.DataFrame | None = None
    published: pd.DataFrame | None = None
    verdicts: Sequence[Verdict] | None = None
    more: Sequence[TextTable] = ()


NOTHING = Beside()


def markdown(table: Table, beside: Beside = NOTHING) -> str:
    """A line per recipe and metric, a column per method; where a method has several configurations
    a table per row of ours, with a line for each of them."""
    several = any(cell.apart for row in table.rows for cell in row.cells.values())
    parts = [] if several else [_column_per_method(table)]
    for each in terminal_tables(table, wide=True) if several else ():
        parts += titled_markdown(_bold_for_stars(each))
    if beside.differences is not None and not beside.differences.empty:
        parts += titled_markdown(_all_differences(table, beside.differences))
    for each in [] if beside.published is None else published_tables(beside.published):
        parts += titled_markdown(each)
    if beside.verdicts is not None:
        parts += titled_markdown(gate_table(beside.verdicts))
    for each in beside.more:
        parts += titled_markdown(each)
    return "\n\n".join([*parts, bullets(notes(table, beside))]) + "\n"


def _column_per_method(table: Table) -> str:
    names = table.names
    lines = [["recipe", "metric", "n", *names], ["---"] * 2 + ["---:"] * (1 + len(names))]
    for line in table.lines:
        cells = [_bold(line, name) for name in names]
        lines.append([line.row.title, line.metric.name, _seeds(line), *cells])
    return pipe_table(lines)


def _bold_for_stars(table: TextTable) -> TextTable:
    rows = [
        {key: f"**{text[:-1]}**" if text.endswith("*") else text for key, text in row.items()}
        for row in table.rows
    ]
    return replace(table, rows=rows)


def long_frame(table: Table) -> pd.DataFrame:
    """One line per cell and metric, unrounded: what CSV and JSON hold."""
    return pd.DataFrame(
        {
            **whose(line.row, cell),
            "metric": line.metric.column,
            **entry.columns,
            "marked": entry.marked,
            "data_verified": cell.data_verified,
        }
        for line in table.lines
        for name, entry in line.entries.items()
        for cell in (line.row.cells[name],)
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


def json_text(
    table: Table,
    beside: Beside = NOTHING,
    *,
    schema: str = REPORT_SCHEMA,
    also: Mapping[str, Any] = MappingProxyType({}),
) -> str:
    """Table, runs and notes under a versioned schema (docs/report-schema.md), and what else that
    has."""
    content: dict[str, Any] = {
        "schema": schema,
        **also,
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
    return [*tables, *beside.more]


def terminal_tables(table: Table, *, wide: bool = False) -> list[TextTable]:
    """One per row of the table, a line per method, for 80 columns.

    The loss and whole headings are left to the `wide` forms. What an incomplete cell lacks is said
    once.
    """
    tables = []
    for row in table.rows:
        lines = {
            line.metric.name if wide else line.metric.short: line
            for line in table.lines
            if line.row is row and (wide or not line.metric.wide)
        }
        first = next(iter(lines))
        body = []
        for name, cell in row.cells.items():
            sample = lines[first].entries[name].sample
            cells = {key: _starred(line.entries[name], line.metric) for key, line in lines.items()}
            if cell.status != "done":
                cells = {**dict.fromkeys(cells, ""), first: cell.status}
            body.append({"method": name, "n": str(sample.n) if sample else "", **cells})
        tables.append(TextTable(row.title, body))
    return tables


def difference_tables(table: Table, differences: pd.DataFrame) -> list[TextTable]:
    """Each method minus one of them, a table for each row and metric."""
    metrics = {line.metric.column: line.metric for line in table.lines}
    tables = []
    keys = ["recipe", "row", "versus", "versus_settings", "metric"]
    for key, group in differences.groupby(keys, sort=False):
        recipe, row, versus, settings, column = map(str, key)
        metric = metrics[column]
        title = f"{titled(recipe, row)}: {metric.name}, minus {called(versus, settings)}"
        body = [
            {"method": _method(entry), **difference_cells(entry, _unit(metric))}
            for entry in as_rows(group)
        ]
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
        "method": called(entry["label"], entry["settings"]),
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
            "gate": each.claim,
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
            f"over all differences from the same runs. {MDE}"
        )
        if any(entry.marked for line in table.lines for entry in line.entries.values()):
            found.append(
                "The marks are another family: as all pairs are corrected for, a mean can be "
                "marked although its difference here is significant."
            )
    return found + ([] if published is None else notes_on(published))


def _method(entry: Mapping[str, Any]) -> str:
    return called(entry["method"], entry["settings"])


def _versus(entry: Mapping[str, Any]) -> str:
    return called(entry["versus"], entry["versus_settings"])


def _reference(differences: pd.DataFrame) -> str:
    """What they are taken from: a cell, or a label of several."""
    cells = {_versus(entry) for entry in as_rows(differences)}
    return cells.pop() if len(cells) == 1 else str(differences["versus"].iloc[0])


def _all_differences(table: Table, differences: pd.DataFrame) -> TextTable:
    metrics = {line.metric.column: line.metric for line in table.lines}
    reference = _reference(differences)
    several = any(_versus(entry) != reference for entry in as_rows(differences))
    rows = [
        {
            "recipe": titled(entry["recipe"], entry["row"]),
            "metric": metrics[entry["metric"]].name,
            "method": _method(entry),
            **({"minus": _versus(entry)} if several else {}),
            **difference_cells(entry, _unit(metrics[entry["metric"]])),
        }
        for entry in as_rows(differences)
    ]
    return TextTable(f"Differences from {reference}", rows, ("recipe", "metric", "method", "minus"))


def shown(sample: Sample, metric: Metric) -> str:
    """`83.48±1.97`; a single seed has no spread to show."""
    form = metric.form or to_digits(sample.mean, 3)
    if metric.accuracy:
        return percent(sample.mean, sample.std, form)
    spread = None if metric is GRADIENTS else sample.std  # these are equal by construction
    return mean_std(sample.mean, spread, form)


def _unit(metric: Metric) -> Unit:
    return POINTS if metric.accuracy else Unit(1, metric.form)


def _starred(entry: Entry, metric: Metric) -> str:
    if entry.sample is None:
        return entry.why_empty
    return shown(entry.sample, metric) + ("*" if entry.marked else "")


def _bold(line: Line, name: str) -> str:
    if name not in line.entries:
        return ""
    entry = line.entries[name]
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
