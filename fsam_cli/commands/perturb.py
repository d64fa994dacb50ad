"""`fsam perturb`: measure what is not on record yet, then the table and the picture."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import pandas as pd

from fsam_cli.commands._measuring import (
    Survey,
    any_failed,
    measure_missing,
    with_statuses,
)
from fsam_cli.commands._print import out, say, say_written
from fsam_cli.commands.report import against, only_these, print_table
from fsam_cli.errors import UsageError
from fsam_cli.measure import weight_perturbation
from fsam_cli.measure.on_record import rows_on_record
from fsam_cli.measure.subjects import Candidate, recorded, weight_files
from fsam_cli.options import ROOTS, PerturbRequest
from fsam_cli.plugins import plugins_of_command
from fsam_cli.records.frame import as_rows, load_runs, with_weight_files
from fsam_cli.records.perturbation import TABLE, PerturbationSetting
from fsam_cli.records.plain import frame_csv
from fsam_cli.reports import render, robustness, robustness_figure
from fsam_cli.reports._style import require_matplotlib, save
from fsam_cli.reports.render import Beside
from fsam_cli.reports.table import Table

DRAWS = 5
EVEN_ALPHAS = 11  # of a range a:b
MOST_ALPHAS = 1000
HIGHEST_ALPHA = 1e100  # beyond, squares and axes overflow


@dataclass(frozen=True)
class Wanted:
    """What is measured of each run."""

    alphas: tuple[float, ...]
    setting: PerturbationSetting
    draws: int


def wanted_of(request: PerturbRequest) -> Wanted:
    """What the command line asked for.

    Raises:
        UsageError: options that do not go together, or no strengths.
    """
    direction, split = request.direction, request.gradient_split
    if direction == "gradient" and request.draws is not None:
        raise UsageError("--draws is for --direction gaussian; a gradient is a single direction")
    if direction == "gaussian" and split is not None:
        raise UsageError("--gradient-split is for --direction gradient; noise has no gradient")
    return Wanted(
        alphas_of(request.alpha),
        PerturbationSetting(direction, split or "train", request.relative, request.recalibrated),
        draws=1 if direction == "gradient" else request.draws or DRAWS,
    )


def perturb(request: PerturbRequest) -> int:
    """Measure, print, draw.

    Returns:
        0, or 1 where `any_failed`.

    Raises:
        UsageError: options, recipe or data; or nothing there to measure.
        RecordError: the disk refuses, or no run could be measured.
        Interrupted: Ctrl-C or SIGTERM; run the same command again to resume.
    """
    wanted = wanted_of(request)
    if request.figures is not None:
        require_matplotlib()
    places = request.runs or ROOTS
    runs, entries, left_out = _found(request, places)
    entries = measure_missing(_survey(wanted), request, runs=runs, entries=entries, places=places)
    points = _points(wanted, entries)
    table = robustness.robustness_table(with_statuses(runs, entries), points, wanted.setting)
    table = replace(table, notes=[*table.notes, *left_out])
    beside = Beside(against(table, request.versus))
    try:  # before `| head` has seen enough
        if request.figures is not None:
            _draw(table, points, wanted.setting, request.figures)
    finally:
        _print(table, beside, points, wanted.setting, format=request.format)
    return 1 if any_failed(entries) else 0


def alphas_of(text: str) -> tuple[float, ...]:
    """The strengths of `--alpha`, ascending, 0 always among them as the control.

    `a:b` is 11 even values with both ends; `a:b:step` goes up to b inclusive; anything else is a
    list with commas.

    Raises:
        UsageError: anything else; a negative or endless strength; a range that runs backwards.
    """
    pieces = text.split(":")
    try:
        numbers = [float(piece) for piece in (pieces if len(pieces) > 1 else text.split(","))]
    except ValueError:
        raise UsageError(
            f"--alpha '{text}': write LOW:HIGH (11 even values), LOW:HIGH:STEP or a list 0.1,0.5,1"
        ) from None
    if not all(0 <= number <= HIGHEST_ALPHA for number in numbers):
        raise UsageError(
            f"--alpha {text}: strengths are finite and not negative, at most {HIGHEST_ALPHA:g}"
        )
    if len(pieces) > 1:
        numbers = _range(text, numbers)
    # 0.1 + 2 * 0.1 is 0.30000000000000004; nobody asked for that.
    return tuple(sorted({0.0, *(float(f"{number:.12g}") for number in numbers)}))


def _range(text: str, numbers: Sequence[float]) -> list[float]:
    first, last = numbers[0], numbers[1]
    if len(numbers) > 3 or first > last:
        raise UsageError(f"--alpha {text}: write LOW:HIGH or LOW:HIGH:STEP, LOW at most HIGH")
    if len(numbers) == 2:
        shares = [place / (EVEN_ALPHAS - 1) for place in range(EVEN_ALPHAS)]
        return [first * (1 - share) + last * share for share in shares]
    step = numbers[2]
    if step == 0 or (last - first) / step >= MOST_ALPHAS:
        raise UsageError(f"--alpha {text}: this step gives none, or over {MOST_ALPHAS}, strengths")
    steps = math.floor((last - first) / step + 1e-9)  # 0.3 / 0.1 is 2.9999999999999996
    return [first + place * step for place in range(steps + 1)]


def _found(
    request: PerturbRequest, places: Sequence[Path]
) -> tuple[pd.DataFrame, list[Candidate], list[str]]:
    """Every run below the folders that `--only` leaves in, then the weight files; and its note."""
    files = [path for path in places if path.is_file()]
    if request.recipe is not None and not files:
        raise UsageError("--recipe is for weight files; recorded runs know their own")
    plugins = plugins_of_command(request.plugins, versions=True)
    every = load_runs(*(path for path in places if not path.is_file()))
    runs, left_out = only_these(every, request)  # before any weights are read
    entries = list(recorded(runs, request.data_dir, plugins))
    if files:
        if request.recipe is None:
            raise UsageError(
                f"{files[0]} is a file: name the recipe of its data and model with --recipe "
                "(or, for a recorded run, its folder)"
            )
        found = list(
            weight_files(
                files,
                request.recipe,
                device=request.device,
                data_dir=request.data_dir,
                plugins=request.plugins,
            )
        )
        labels = {Path(entry.run): entry.label for entry in found}
        runs = with_weight_files(runs, labels, found[0].recipe)
        entries += found
    return runs, entries, left_out


def _survey(wanted: Wanted) -> Survey[tuple[int, float]]:
    return Survey(
        "perturb",
        "point",
        partial(
            weight_perturbation.missing,
            setting=wanted.setting,
            alphas=wanted.alphas,
            draws=wanted.draws,
        ),
        lambda subject, points, device, advance: weight_perturbation.measure(
            subject, wanted.setting, points, device=device, on_point=advance
        ),
    )


def _points(wanted: Wanted, entries: Sequence[Candidate]) -> pd.DataFrame:
    """What `reports.robustness` wants: a row per run and point asked for."""
    rows = [
        {"path": entry.run, **row}
        for entry in entries
        if entry.subject is not None
        for row in rows_on_record(entry.subject, TABLE)
        if wanted.setting.describes(row)
        and row["alpha"] in wanted.alphas
        and row["draw"] < wanted.draws
    ]
    return pd.DataFrame(rows, columns=["path", *TABLE.columns])


def _print(
    table: Table,
    beside: Beside,
    points: pd.DataFrame,
    setting: PerturbationSetting,
    *,
    format: str,
) -> None:
    if format not in ("json", "csv"):
        print_table(table, beside, format=format)
        return
    curves = robustness.summary(table, points)
    if format == "csv":
        out(frame_csv(curves))
        if beside.differences is not None:
            say("differences are not in csv; see -f json or -f markdown")
    else:
        also = {"setting": setting.columns(), "points": as_rows(curves)}
        out(render.json_text(table, beside, schema=robustness.SCHEMA, also=also))


def _draw(table: Table, points: pd.DataFrame, setting: PerturbationSetting, folder: Path) -> None:
    for row in table.rows:
        if all(cell.status != "done" for cell in row.cells.values()):
            say(f"{row.title}: no picture, as no method has all its planned seeds measured")
            continue
        drawn = robustness_figure.figure(row, points, setting)
        say_written(save(drawn, folder, robustness_figure.figure_name(row, setting)))
