"""`fsam report`: read, render, print or write."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path

import pandas as pd

from fsam_cli.commands._print import out, print_notes, print_tables, say, say_written
from fsam_cli.errors import GATE_FAILED, UsageError
from fsam_cli.options import ROOTS, PerturbRequest, ReportRequest, SharpnessRequest
from fsam_cli.records.frame import load_runs, other_seeds
from fsam_cli.records.plain import frame_csv
from fsam_cli.records.store import make_folder, write_atomically
from fsam_cli.records.summary import label_order, titled, with_trials
from fsam_cli.reports import render
from fsam_cli.reports._style import require_matplotlib, save
from fsam_cli.reports.differences import refuse_no_method
from fsam_cli.reports.figures import pictures
from fsam_cli.reports.gate import evaluate_gates
from fsam_cli.reports.published import beside_published
from fsam_cli.reports.render import NOTHING, Beside
from fsam_cli.reports.table import Table, build_table, differences


def report(request: ReportRequest) -> int:
    """Print the table of all runs below the roots; with `out`, also write it in every form, with
    `figures`, draw every picture, with `published`, set the paper's numbers beside ours.

    Returns:
        0, or `GATE_FAILED` if a gate does not hold; everything is printed and written all the same.

    Raises:
        UsageError: no folder, no runs, an unknown label, a gate that is none, or pictures without
            matplotlib.
        RecordError: the files cannot be written.
    """
    if request.figures is not None:
        require_matplotlib()
    roots = request.roots or ROOTS
    every = load_runs(*roots)
    if every.empty:
        where = ", ".join(map(str, roots))
        raise UsageError(f"no runs in {where}; `fsam train --recipe quickstart` makes some")
    runs, left_out = only_these(every, request)
    table = build_table(runs, best_test=request.best_test)
    table = replace(table, notes=[*table.notes, *left_out])
    verdicts = evaluate_gates(table, request.gates) if request.gates else None
    beside = Beside(
        against(table, request.versus), _printed(table) if request.published else None, verdicts
    )
    try:  # before `| head` has seen enough
        if request.out is not None:
            _write(table, beside, request.out)
        if request.figures is not None:
            _draw(table, request.figures)
    finally:
        print_table(table, beside, format=request.format)
    if request.format == "csv" and request.out is None and (request.versus or request.gates):
        say("differences and gates are not in csv; see -f json, -f markdown or --out")
    missed = [verdict for verdict in verdicts or () if not verdict.holds]
    for verdict in missed:
        where = titled(verdict.recipe, verdict.row)
        say(f"gate {verdict.claim}: {where + ': ' if where else ''}{verdict.found}")
    return GATE_FAILED if missed else 0


def only_these(
    runs: pd.DataFrame, request: ReportRequest | PerturbRequest | SharpnessRequest
) -> tuple[pd.DataFrame, list[str]]:
    """The runs of the methods of `--only`, as if no other were there; and a note that says of what
    there was they are chosen.

    Raises:
        UsageError: no such label, none that has a run, or `--versus` names one that is left out.
    """
    if not request.only:
        return runs, []
    labels = list(dict.fromkeys(request.only))
    there = label_order(runs)
    for label in labels:
        refuse_no_method("--only", label, there)
    others = [label for label in there if label not in labels]
    if request.versus in others:
        raise UsageError(f"--versus {request.versus}: --only leaves it out; name it there, too")
    found = with_trials(runs)  # a seed that chose under another label did so all the same
    found = found[found["label"].isin(labels)].reset_index(drop=True)
    if found.empty:
        trained = ", ".join(dict.fromkeys(runs["label"]))
        raise UsageError(
            f"--only {', '.join(labels)}: planned, and without a run here; there are runs of "
            f"{trained}"
        )
    planned = [[label for label in plan if label in labels] for plan in found["planned_labels"]]
    found["planned_labels"] = pd.Series(planned, index=found.index, dtype=object)
    if not others:
        return found, []
    shown, hidden = ", ".join(labels), ", ".join(others)
    return found, [
        f"Chosen with --only: {shown}. Left out, from marks and corrections as well: {hidden}."
    ]


def print_runs(runs: pd.DataFrame, *, format: str, versus: str | None = None) -> None:
    """The table of just these runs, and the differences from one method; with a note where other
    seeds of the same cells diverged."""
    table = build_table(runs)
    table = replace(table, notes=[*table.notes, *_diverged_beside(runs)])
    print_table(table, Beside(against(table, versus)), format=format)


def _diverged_beside(runs: pd.DataFrame) -> Iterator[str]:
    """What a mean over the seeds at hand would hide: seeds of a wider plan, in the same folders."""
    others = other_seeds(runs)
    bad = others[(others["status"] == "diverged") & ~others["trial"].astype(bool)]
    for (recipe, label, _), group in bad.groupby(["recipe", "label", "cell"], sort=False):
        seeds = sorted(int(seed) for seed in group["seed"])
        which = f"seed{'' if len(seeds) == 1 else 's'} {', '.join(map(str, seeds))}"
        yield (
            f"{recipe}/{label}: {which} of the same settings, which this command did not plan, "
            "diverged; `fsam report`, which counts it, shows no mean."
        )


def against(table: Table, versus: str | None) -> pd.DataFrame | None:
    """The differences from a method; said where there are none."""
    if versus is None:
        return None
    refuse_no_method("--versus", versus, table.known)
    frame = differences(table, versus)
    if frame.empty:
        say(
            f"--versus {versus}: in no row does it stand beside another method to be compared "
            "with; `fsam train` with the recipe and --versus compares what that plans now"
        )
    return frame


def _printed(table: Table) -> pd.DataFrame:
    """The cells with a published counterpart; said where there is none."""
    frame = beside_published(table)
    if frame.empty:
        say("--published: the paper has no number for any of these cells")
    return frame


def print_table(table: Table, beside: Beside = NOTHING, *, format: str) -> None:
    """In any of the five forms."""
    if format == "json":
        out(render.json_text(table, beside))
    elif format == "csv":
        out(render.csv_text(table, beside))
    elif format == "markdown":
        out(render.markdown(table, beside))
    elif format == "latex":
        out(render.latex_text(table, beside))
    else:
        print_tables(render.all_tables(table, beside))
        print_notes(render.notes(table, beside))


def _draw(table: Table, folder: Path) -> None:
    for picture in pictures(table.rows, warn=say):
        say_written(save(picture.figure, folder, picture.name))


def _write(table: Table, beside: Beside, folder: Path) -> None:
    make_folder(folder)
    texts = {
        "report.md": render.markdown(table, beside),
        "report.tex": render.latex_text(table, beside),
        "report.csv": render.csv_text(table, beside),
        "report.json": render.json_text(table, beside),
        "runs.csv": render.runs_csv(table),
    }
    if beside.differences is not None:
        texts["differences.csv"] = frame_csv(beside.differences)
    if beside.verdicts is not None:
        texts["gates.csv"] = frame_csv(pd.DataFrame(map(asdict, beside.verdicts)))
    for name, text in texts.items():
        write_atomically(folder / name, text.encode())
        say_written([folder / name])
