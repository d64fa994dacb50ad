"""`fsam perturb`: measure what is not on record yet, then the table and the picture."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from fsam_cli.commands._print import (
    out,
    print_json,
    print_notes,
    print_rows,
    print_tables,
    say,
    say_written,
)
from fsam_cli.errors import Interrupted, RecordError, UsageError
from fsam_cli.measure import weight_perturbation
from fsam_cli.measure.subjects import (
    UNMEASURABLE,
    Candidate,
    Subject,
    Unmeasurable,
    recorded,
    weight_files,
)
from fsam_cli.options import ROOTS, PerturbRequest
from fsam_cli.plugins import plugins_of_command
from fsam_cli.recipe.plan import resolve_device
from fsam_cli.records.perturbation import COLUMNS, ELSEWHERE, PerturbationSetting
from fsam_cli.records.plain import frame_csv
from fsam_cli.records.store import Busy
from fsam_cli.reports import robustness, robustness_figure
from fsam_cli.reports._style import require_matplotlib, save
from fsam_cli.signals import interrupt, stop_requests

DRAWS = 5
EVEN_ALPHAS = 11  # of a range a:b
MOST_ALPHAS = 1000
HIGHEST_ALPHA = 1e100  # beyond, squares and axes overflow
MOST_REASONS = 20  # in one message


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
        0, or 1 if a finished run could not be measured, or a record not be read. (A run that
        diverged or is not done has no weights to measure: it is named, and no error here.)

    Raises:
        UsageError: options, recipe or data; or nothing there to measure.
        RecordError: the disk refuses, or no run could be measured.
        Interrupted: Ctrl-C or SIGTERM; run the same command again to resume.
    """
    wanted = wanted_of(request)
    if request.figures is not None:
        require_matplotlib()
    entries = _found(request)
    if request.versus is not None:
        _refuse_unknown(request.versus, entries)
    try:
        with stop_requests(interrupt):
            entries = _measured(request, wanted, entries)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; run the same command again to resume") from None
    frame = _frame(wanted, entries)
    if not (frame["status"] == robustness.MEASURED).any():
        raise RecordError(_why_none(entries))
    against = None
    if request.versus is not None:
        against = robustness.differences(frame, request.versus)
    try:  # before `| head` has seen enough
        if request.figures is not None:
            _draw(wanted.setting, frame, request.figures)
    finally:
        _print(request, wanted.setting, frame, against)
    return 1 if any(entry.status in (UNMEASURABLE, "unreadable") for entry in entries) else 0


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


def _found(request: PerturbRequest) -> list[Candidate]:
    """Every run below the folders, then the weight files; those left out are named."""
    given = request.runs or ROOTS
    files = [path for path in given if path.is_file()]
    roots = [path for path in given if not path.is_file()]
    if request.recipe is not None and not files:
        raise UsageError("--recipe is for weight files; recorded runs know their own")
    plugins = plugins_of_command(request.plugins, versions=True)
    entries = list(recorded(roots, request.data_dir, plugins))
    if files:
        if request.recipe is None:
            raise UsageError(
                f"{files[0]} is a file: name the recipe of its data and model with --recipe "
                "(or, for a recorded run, its folder)"
            )
        entries += weight_files(
            files,
            request.recipe,
            device=request.device,
            data_dir=request.data_dir,
            plugins=request.plugins,
        )
    nothing = all(entry.subject is None for entry in entries)
    failing = any(entry.status == UNMEASURABLE for entry in entries)
    for entry in entries:
        if entry.subject is None and not (nothing and failing):  # else `_why_none` names them
            say(f"left out: {_left_out(entry)}")
    if nothing and not failing:
        where = ", ".join(map(str, given))
        raise UsageError(f"no finished run in {where}; `fsam train` makes and finishes them")
    return entries


# Of a candidate, what tables and pictures tell it by.
_WHOSE = (
    *("recipe", "label", "cell", "settings", "protocol"),
    *("method", "seed", "planned_seeds", "run", "status"),
)


def _refuse_unknown(versus: str, entries: Sequence[Candidate]) -> None:
    """Before anything is measured."""
    frame = pd.DataFrame([{key: getattr(entry, key) for key in _WHOSE} for entry in entries])
    robustness.refuse_unknown(frame, versus)


def _measured(
    request: PerturbRequest, wanted: Wanted, entries: Sequence[Candidate]
) -> list[Candidate]:
    """Measure what is missing; entries that turn out to be in the way come back left out."""
    device = torch.device(resolve_device(request.device))
    todo = [_to_do(wanted, entry.subject) for entry in entries if entry.subject is not None]
    after = []
    with _progress(sum(todo), len(todo), quiet=request.quiet) as progress:
        for entry in entries:
            found = entry
            if entry.subject is not None:
                progress.begin(entry)
                found = _measured_one(wanted, entry, entry.subject, device, progress.advance)
                progress.end(found)
            after.append(found)
    return after


def _to_do(wanted: Wanted, subject: Subject) -> int:
    """How many points are to be measured, once the data are known to be those of the training; the
    table's own troubles are told in its turn."""
    try:
        points = _missing(wanted, subject)
    except Unmeasurable:
        return 0
    if points:
        weight_perturbation.check_data(subject)
    return len(points)


def _missing(wanted: Wanted, subject: Subject) -> list[tuple[int, float]]:
    return weight_perturbation.missing(
        subject, wanted.setting, alphas=wanted.alphas, draws=wanted.draws
    )


def _measured_one(
    wanted: Wanted,
    entry: Candidate,
    subject: Subject,
    device: torch.device,
    advance: Callable[[Any], None],
) -> Candidate:
    directory = entry.directory
    try:
        with directory.locked(elsewhere=ELSEWHERE) if directory else nullcontext():
            points = _missing(wanted, subject)
            if points:
                weight_perturbation.measure(
                    subject, wanted.setting, points, device=device, on_point=advance
                )
    except Busy:
        return entry.without("busy", "another process works on it")
    except Unmeasurable as error:
        return entry.without(UNMEASURABLE, str(error))
    return entry


def _frame(wanted: Wanted, entries: Sequence[Candidate]) -> pd.DataFrame:
    """What `reports.robustness` wants: a row per point asked for, one per run left out."""
    rows: list[dict[str, Any]] = []
    for entry in entries:
        names = {key: getattr(entry, key) for key in _WHOSE}
        if entry.subject is None:
            rows.append({**names, "reason": entry.reason})
            continue
        rows += [
            {**names, "status": robustness.MEASURED, "reason": "", **row}
            for row in weight_perturbation.rows_on_record(entry.subject)
            if wanted.setting.describes(row)
            and row["alpha"] in wanted.alphas
            and row["draw"] < wanted.draws
        ]
    return pd.DataFrame(rows, columns=[*_WHOSE, "reason", *COLUMNS])


def _print(
    request: PerturbRequest,
    setting: PerturbationSetting,
    frame: pd.DataFrame,
    against: pd.DataFrame | None,
) -> None:
    if request.format == "json":
        print_json(robustness.as_json(frame, setting, against))
    elif request.format == "csv":
        out(frame_csv(robustness.summary(frame)))
        if against is not None:
            say("differences are not in csv; see -f json or -f markdown")
    else:
        every = request.format == "markdown"
        for recipe, rows in robustness.tables(frame, every_alpha=every).items():
            print_rows(rows, format=request.format, title=recipe)
        if against is not None:
            print_tables(robustness.difference_tables(against), format=request.format)
        print_notes(robustness.notes(frame, setting, against), format=request.format)


def _draw(setting: PerturbationSetting, frame: pd.DataFrame, folder: Path) -> None:
    cells = robustness.cells_of(frame)
    for recipe in frame["recipe"].unique():
        if all(cell.left_out for cell in cells if cell.recipe == recipe):
            say(f"{recipe}: no picture, as no method has all its planned seeds measured")
            continue
        name = robustness_figure.figure_name(recipe, setting)
        say_written(save(robustness_figure.figure(frame, recipe, setting), folder, name))


def _why_none(entries: Sequence[Candidate]) -> str:
    """Every reason."""
    lines = [f"  {_left_out(entry)}" for entry in entries]
    if len(lines) > MOST_REASONS:
        more = len(lines) - MOST_REASONS
        lines = [*lines[:MOST_REASONS], f"  and {more} more; `fsam runs ls` lists every run"]
    return "\n".join(["no run could be measured:", *lines])


def _left_out(entry: Candidate) -> str:
    return ": ".join(filter(None, [entry.run, entry.status, entry.reason]))


class _Progress:
    """Says nothing."""

    def begin(self, entry: Candidate) -> None: ...
    def advance(self, row: Any) -> None: ...
    def end(self, entry: Candidate) -> None: ...


@contextmanager
def _progress(points: int, runs: int, *, quiet: bool) -> Iterator[_Progress]:
    """A bar on a terminal, else one line per run."""
    if quiet:
        yield _Progress()
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True)) as bars:
            yield _Bar(bars, points)
    else:
        yield _Lines(runs)


class _Bar(_Progress):
    """Points measured, of all that were missing."""

    def __init__(self, bars: Any, points: int) -> None:
        self._bars, self._task = bars, bars.add_task("perturb", total=points)

    def begin(self, entry: Candidate) -> None:
        self._bars.update(self._task, description=_name(entry))

    def advance(self, row: Any) -> None:
        self._bars.advance(self._task)

    def end(self, entry: Candidate) -> None:
        if entry.subject is None:
            self._bars.console.print(
                f"{_name(entry)}: {entry.status}: {entry.reason}", markup=False
            )


class _Lines(_Progress):
    """One line per run, for logs."""

    def __init__(self, runs: int) -> None:
        self._runs, self._finished = runs, 0

    def begin(self, entry: Candidate) -> None:
        self._measured, self._since = 0, time.monotonic()

    def advance(self, row: Any) -> None:
        self._measured += 1

    def end(self, entry: Candidate) -> None:
        self._finished += 1
        seconds = time.monotonic() - self._since
        what = f"{self._measured} points in {seconds:.1f} s" if self._measured else "on record"
        if entry.subject is None:
            what = f"left out, {entry.status}: {entry.reason}"
        say(f"[{self._finished}/{self._runs}] {_name(entry)}: {what}")


def _name(entry: Candidate) -> str:
    """A run by label and seed, with its settings where the label has others; a weight file."""
    label = f"{entry.label} [{entry.settings}]" if entry.settings else entry.label
    return f"{label} seed {entry.seed}" if entry.cell else label
