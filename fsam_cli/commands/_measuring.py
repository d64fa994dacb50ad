"""What the commands that measure trained networks have in common: what is still to be measured of
each, how far it is, and what is left out."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import pandas as pd
import torch
from rich.markup import escape

from fsam_cli.commands._print import say
from fsam_cli.errors import Interrupted, RecordError, UsageError, counted
from fsam_cli.measure.network import check_data
from fsam_cli.measure.subjects import Candidate, Subject, Unmeasurable
from fsam_cli.options import PerturbRequest, SharpnessRequest
from fsam_cli.recipe.plan import resolve_device
from fsam_cli.records.frame import as_rows
from fsam_cli.records.side_table import ELSEWHERE
from fsam_cli.records.store import Busy
from fsam_cli.records.summary import BUSY, UNMEASURABLE
from fsam_cli.reports.differences import refuse_no_method
from fsam_cli.reports.table import build_table
from fsam_cli.signals import interrupt, stop_requests

MOST_REASONS = 20  # in one message
Point = TypeVar("Point")


class Survey(NamedTuple, Generic[Point]):
    """What is measured of every network."""

    name: str  # of the command
    point: str  # what one is called
    missing: Callable[[Subject], Sequence[Point]]  # not on record
    # (subject, points, device, to be called after each)
    measure: Callable[[Subject, Sequence[Point], torch.device, Callable[[Any], None]], None]


def measure_missing(
    survey: Survey[Point],
    request: PerturbRequest | SharpnessRequest,
    *,
    runs: pd.DataFrame,
    entries: Sequence[Candidate],
    places: Sequence[Path],
) -> list[Candidate]:
    """Name what cannot be measured, and measure what is missing of the others; entries that turn
    out to be in the way come back left out.

    Raises:
        UsageError: there is no finished run in the places that the user named, or no such method.
        DataError: the data are not there, or not those of the training.
        RecordError: the disk refuses, or no run could be measured.
        Interrupted: Ctrl-C or SIGTERM; what was measured is on record.
    """
    _say_left_out(entries, places)
    if request.versus is not None:
        # before anything is measured
        refuse_no_method("--versus", request.versus, build_table(runs).known)
    device = torch.device(resolve_device(request.device))
    try:
        with stop_requests(interrupt):
            found = _measured(survey, entries, device, quiet=request.quiet)
    except KeyboardInterrupt:
        raise Interrupted("interrupted; run the same command again to resume") from None
    if all(entry.subject is None for entry in found):
        raise RecordError(_why_none(found))
    return found


def with_statuses(runs: pd.DataFrame, entries: Sequence[Candidate]) -> pd.DataFrame:
    """A frame of runs in which only those that were measured are done."""
    left_out = {entry.run: entry for entry in entries if entry.subject is None}
    rows = as_rows(runs)
    for row in rows:
        if entry := left_out.get(row["path"]):
            row.update(status=entry.status, reason=entry.reason)
    return pd.DataFrame(rows, columns=runs.columns)


def any_failed(entries: Sequence[Candidate]) -> bool:
    """Whether a finished run could not be measured, or a record not be read. (A run that diverged
    or is not done has no weights to measure: it is named, and no error.)"""
    return any(entry.status in (UNMEASURABLE, "unreadable") for entry in entries)


def _say_left_out(entries: Sequence[Candidate], places: Sequence[Path]) -> None:
    nothing = all(entry.subject is None for entry in entries)
    failing = any(entry.status == UNMEASURABLE for entry in entries)
    if not (nothing and failing):  # else `_why_none` names them
        for line in _lines_of(entry for entry in entries if entry.subject is None):
            say(f"left out: {line}")
    if nothing and not failing:
        where = ", ".join(map(str, places))
        raise UsageError(f"no finished run in {where}; `fsam train` makes and finishes them")


def _why_none(entries: Sequence[Candidate]) -> str:
    """Every reason."""
    lines = [f"  {line}" for line in _lines_of(entries)]
    if len(lines) > MOST_REASONS:
        more = len(lines) - MOST_REASONS
        lines = [*lines[:MOST_REASONS], f"  and {more} more; `fsam runs ls` lists every run"]
    return "\n".join(["no run could be measured:", *lines])


def _lines_of(entries: Iterable[Candidate]) -> list[str]:
    """A line for each; one for all those that want the same file named."""
    alike: dict[str, list[Candidate]] = {}
    for entry in entries:
        alike.setdefault(entry.reason if entry.told_once else entry.run, []).append(entry)
    return [
        ": ".join(filter(None, [_whose(group), group[0].status, group[0].reason]))
        for group in alike.values()
    ]


def _whose(group: Sequence[Candidate]) -> str:
    return group[0].run if len(group) == 1 else counted(len(group), "run")


def _measured(
    survey: Survey[Point], entries: Sequence[Candidate], device: torch.device, *, quiet: bool
) -> list[Candidate]:
    todo = [_to_do(survey, entry.subject) for entry in entries if entry.subject is not None]
    after = []
    with _progress(survey, sum(todo), len(todo), quiet=quiet) as progress:
        for entry in entries:
            found = entry
            if entry.subject is not None:
                progress.begin(entry)
                found = _measured_one(survey, entry, entry.subject, device, progress.advance)
                progress.end(found)
            after.append(found)
    return after


def _to_do(survey: Survey[Point], subject: Subject) -> int:
    """How many points are to be measured, once the data are known to be those of the training; the
    table's own troubles are told in its turn."""
    try:
        points = survey.missing(subject)
    except Unmeasurable:
        return 0
    if points:
        check_data(subject)
    return len(points)


def _measured_one(
    survey: Survey[Point],
    entry: Candidate,
    subject: Subject,
    device: torch.device,
    advance: Callable[[Any], None],
) -> Candidate:
    directory = entry.directory
    try:
        with directory.locked(elsewhere=ELSEWHERE) if directory else nullcontext():
            points = survey.missing(subject)
            if points:
                survey.measure(subject, points, device, advance)
    except Busy:
        return entry.without(BUSY, "another process works on it")
    except Unmeasurable as error:
        return entry.without(UNMEASURABLE, str(error))
    return entry


class _Progress:
    """Says nothing."""

    def begin(self, entry: Candidate) -> None: ...
    def advance(self, row: Any) -> None: ...
    def end(self, entry: Candidate) -> None: ...


@contextmanager
def _progress(survey: Survey[Any], points: int, runs: int, *, quiet: bool) -> Iterator[_Progress]:
    """A bar on a terminal, else one line per run."""
    if quiet:
        yield _Progress()
    elif sys.stderr.isatty():
        from rich.console import Console
        from rich.progress import Progress

        with Progress(console=Console(stderr=True)) as bars:
            yield _Bar(bars, survey.name, points)
    else:
        yield _Lines(runs, survey.point)


class _Bar(_Progress):
    """Points measured, of all that were missing."""

    def __init__(self, bars: Any, name: str, points: int) -> None:
        self._bars, self._task = bars, bars.add_task(name, total=points)

    def begin(self, entry: Candidate) -> None:
        self._bars.update(self._task, description=escape(_name(entry)))

    def advance(self, row: Any) -> None:
        self._bars.advance(self._task)

    def end(self, entry: Candidate) -> None:
        if entry.subject is None:
            self._bars.console.print(
                f"{_name(entry)}: {entry.status}: {entry.reason}", markup=False
            )


class _Lines(_Progress):
    """One line per run, for logs."""

    def __init__(self, runs: int, point: str) -> None:
        self._runs, self._point, self._finished = runs, point, 0

    def begin(self, entry: Candidate) -> None:
        self._measured, self._since = 0, time.monotonic()

    def advance(self, row: Any) -> None:
        self._measured += 1

    def end(self, entry: Candidate) -> None:
        self._finished += 1
        seconds = time.monotonic() - self._since
        measured = f"{counted(self._measured, self._point)} in {seconds:.1f} s"
        what = measured if self._measured else "on record"
        if entry.subject is None:
            what = f"left out, {entry.status}: {entry.reason}"
        say(f"[{self._finished}/{self._runs}] {_name(entry)}: {what}")


def _name(entry: Candidate) -> str:
    """A run by label and seed, with its settings where the label has others; a weight file."""
    label = f"{entry.label} [{entry.settings}]" if entry.settings else entry.label
    return label if entry.seed is None else f"{label} seed {entry.seed}"
