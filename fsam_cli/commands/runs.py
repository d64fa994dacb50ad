"""`fsam runs`: what is on record, and cleaning up."""

from __future__ import annotations

import os
import shutil
import time
from contextlib import suppress
from math import isnan, nan
from pathlib import Path
from stat import S_ISREG
from typing import Any

from fsam_cli.commands._print import out, print_rows
from fsam_cli.errors import RecordError, UsageError, counted
from fsam_cli.options import ROOTS, CleanRequest, RunRequest, RunsRequest
from fsam_cli.records.frame import as_rows, load_runs
from fsam_cli.records.store import Busy, RunDirectory
from fsam_cli.records.summary import short_settings, with_trials

CLEANABLE = ("planned", "interrupted", "failed", "diverged", "done", "unreadable")


def ls(request: RunsRequest) -> None:
    """A line per run, as reports see them; numbers with units for people, plain for programs."""
    rows = []
    runs = with_trials(load_runs(*(request.roots or ROOTS)))
    settings = short_settings(runs)
    for run in as_rows(runs):
        files = _files(Path(run["path"]))
        newest = max((file.st_mtime for file in files), default=time.time())
        # Of a trial the test set is not looked at: it would be a temptation to choose by it.
        is_result = run["status"] == "done" and not run["trial"]
        accuracy = run["last_test_accuracy"] if is_result else nan
        status = run["status"]
        size, age = sum(file.st_size for file in files), time.time() - newest
        shown: dict[str, Any] = {
            "test": "" if isnan(accuracy) else f"{100 * accuracy:.2f} %",
            "size": f"{size / 1e6:.2f} MB",
            "age": _age(age),
        }
        if request.format in ("json", "csv"):
            shown = {"test_accuracy": accuracy, "bytes": size, "age_seconds": round(age, 1)}
            shown = {"trial": bool(run["trial"]), **shown}
        elif run["trial"]:
            status = f"{status}, trial"
        whose = {"run": run["path"], "settings": settings[run["path"]], "status": status}
        rows.append({**whose, **shown, "reason": run["reason"]})
    if not rows and request.format == "table":
        out("no runs")
        return
    print_rows(rows, format=request.format)


def _files(folder: Path) -> list[os.stat_result]:
    """Size and age of what lies in it; a run at work renames and removes files meanwhile."""
    found = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):
            found.append(path.stat())
    return [file for file in found if S_ISREG(file.st_mode)]


def show(request: RunRequest) -> None:
    """Configuration, result and the last lines of the log, with a note on what is damaged.

    Raises:
        UsageError: no run directory.
    """
    path = request.run
    found = as_rows(load_runs(path)) if path.is_dir() else []
    if [Path(row["path"]) for row in found] != [path]:
        raise UsageError(f"{path} is not a run directory; `fsam runs ls` lists them")
    run, reason = RunDirectory(path), found[0]["reason"]
    out(f"status: {found[0]['status']}" + (f" ({reason})" if reason else ""))
    out(_content(run.config))
    if run.result.exists():
        out(f"# result\n{_content(run.result)}")
    if run.log_file.exists():
        out(f"# log\n{_content(run.log_file, last=20)}")


def _content(file: Path, *, last: int | None = None) -> str:
    """A file's text, or its last lines; whatever it holds, it is shown as far as it can be."""
    try:
        content = file.read_bytes()
    except OSError as error:
        return f"# {file.name} cannot be read: {error.strerror}"
    text = content.decode("utf-8", errors="backslashreplace")
    note = "" if text.encode() == content else f"# {file.name} is not UTF-8: read \\xNN as bytes\n"
    return note + ("\n".join(text.splitlines()[-last:]) if last else text)


def clean(request: CleanRequest) -> None:
    """Remove runs of the named statuses, or say which would be removed.

    Raises:
        UsageError: an unknown status.
    """
    wanted = [entry.strip() for entry in request.status.split(",") if entry.strip()]
    unknown = [entry for entry in wanted if entry not in CLEANABLE]
    if unknown or not wanted:
        name = unknown[0] if unknown else ""
        raise UsageError(f"--status '{name}': use {', '.join(CLEANABLE)}, separated by commas")
    runs = as_rows(load_runs(*(request.roots or ROOTS)))
    named = [RunDirectory(Path(run["path"])) for run in runs if run["status"] in wanted]
    matching = [run for run in named if not run.before_rerun.exists()]
    for run in named:
        if run.before_rerun.exists():
            out(f"kept {run.path}: it holds earlier results in {run.before_rerun.name}/")
    for run in matching:
        if request.yes:
            _remove(run)
        out(f"{'removed' if request.yes else 'would remove'} {run.path}")
    if matching and not request.yes:
        out(f"{counted(len(matching), 'run')}; repeat with --yes to remove")
    if not matching:
        out("nothing to remove")


def _remove(run: RunDirectory) -> None:
    """With the folders of its label and of its recipe where they are empty then."""
    try:
        with run.locked(wait=0, elsewhere="make the folder writable"):
            shutil.rmtree(run.path)
    except Busy:
        raise RecordError(f"{run.path} is at work now; nothing was removed there") from None
    except OSError as error:
        raise RecordError(f"cannot remove {run.path}: {error.strerror}") from None
    with suppress(OSError):  # not empty, or the working directory
        for parent in list(run.path.parents)[:2]:
            parent.rmdir()


def _age(seconds: float) -> str:
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= length:
            return f"{seconds / length:.0f} {unit}"
    return f"{seconds:.0f} s"
