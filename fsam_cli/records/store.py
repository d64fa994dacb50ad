"""The run directory: what a run leaves on disk, written so that no crash leaves half of it.

    config.yaml       identity and plan, written before the run starts
    plugins/          copies of the plugin files that the run uses, written with config.yaml
    metrics.csv       one row per epoch
    predictions.npz   final prediction, rank of the true class and loss of every test example
    environment.json  versions and hardware
    log.txt           what happened, with times
    checkpoint.pt     while the run goes on; removed when it is done
    weights.pt        when it is done
    result.json       last, atomically: it exists if and only if the run is over
    before_rerun/     results that `--rerun all` replaces, until the new ones are complete

Every file is written beside itself and renamed into place. The lock is the operating system's,
on `.lock`: it dies with its process, so a crash leaves nothing to clean. (On a file system without
such locks filelock takes the existence of a file for one.)
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import filelock
import yaml

from fsam_cli.errors import RecordError
from fsam_cli.records.checks import DAMAGE, identity, numbers, result_in, what_is_wrong
from fsam_cli.records.plain import csv_text, document_text

Status = Literal["planned", "interrupted", "running", "done", "diverged", "failed", "unreadable"]


class Busy(Exception):
    """Another process works on this run directory."""


OUT = "choose a writable folder with --out"


def write_atomically(
    path: Path, content: bytes | memoryview, *, durably: bool = True, elsewhere: str = OUT
) -> None:
    """Write beside `path` and rename, so that a reader sees the old file or the new one.

    Args:
        durably: wait until the disk has it; not needed for what can be made again.
        elsewhere: what to do where the place itself refuses.

    Raises:
        RecordError: full disk, read-only folder, or anything else the system refuses.
    """
    # Not by the process's number: machines that share the folder give out the same ones.
    beside = path.with_name(f".{path.name}.{secrets.token_hex(8)}.tmp")
    try:
        with beside.open("wb") as file:
            file.write(content)
            if durably:
                file.flush()
                os.fsync(file.fileno())
        beside.replace(path)
    except OSError as error:
        with contextlib.suppress(OSError):
            beside.unlink(missing_ok=True)
        raise cannot_write(path, error, elsewhere) from error


def cannot_write(path: Path, error: OSError, elsewhere: str = OUT) -> RecordError:
    """The one message for a disk that refuses."""
    return RecordError(
        f"cannot write {path}: {error.strerror or error}; what was recorded before is unharmed. "
        f"Free space or {elsewhere}, then repeat the command"
    )


def make_folder(path: Path, elsewhere: str = OUT) -> None:
    """With all above it, unless it is there.

    Raises:
        RecordError: the system refuses.
    """
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise cannot_write(path, error, elsewhere) from error


def _locked_by_another(lock: Path) -> bool:
    """Whether the lock that filelock takes is taken, for whoever may not write to it."""
    try:
        import fcntl
    except ImportError:  # Windows, whose locks cannot be asked for in passing
        return False
    with contextlib.suppress(OSError), lock.open("rb") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
    return False


def now() -> str:
    """The time as records have it: UTC, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


class RunDirectory:
    """One run's folder; all reading and writing of it goes through here."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.config = path / "config.yaml"
        self.plugins = path / "plugins"
        self.metrics = path / "metrics.csv"
        self.predictions = path / "predictions.npz"
        self.environment = path / "environment.json"
        self.log_file = path / "log.txt"
        self.checkpoint = path / "checkpoint.pt"
        self.weights = path / "weights.pt"
        self.result = path / "result.json"
        self.before_rerun = path / "before_rerun"
        self._moving = path / ".before_rerun.tmp"  # while results are moved there
        self._lock_file = path / ".lock"

    def plan(self, record: Mapping[str, Any], plugins: Mapping[str, bytes]) -> None:
        """Make the folder, and write config.yaml and `plugins`, content by file name, unless the
        run is over already."""
        make_folder(self.plugins if plugins else self.path)
        if self.result.exists():
            return
        files = {self.plugins / name: content for name, content in plugins.items()}
        text = yaml.safe_dump(dict(record), sort_keys=False, allow_unicode=True)
        for file, content in {**files, self.config: text.encode()}.items():
            if not file.exists() or file.read_bytes() != content:
                write_atomically(file, content)

    @contextlib.contextmanager
    def locked(self, wait: float = 1.0, *, elsewhere: str = OUT) -> Iterator[None]:
        """Hold the run for this process.

        Args:
            wait: seconds; a process that is just being killed needs one to let go.
            elsewhere: what to do where the folder cannot be written.

        Raises:
            Busy: another process holds it.
            RecordError: the folder cannot be written.
        """
        lock = filelock.FileLock(self._lock_file)
        try:
            lock.acquire(timeout=wait, poll_interval=0.05)
        except filelock.Timeout:
            raise Busy(self.path) from None
        except OSError as error:
            raise cannot_write(self._lock_file, error, elsewhere) from error
        try:
            yield
        finally:
            lock.release()

    def held(self) -> bool:
        """Whether some process holds the lock at this moment."""
        if not self._lock_file.exists():
            return False
        try:
            with self.locked(wait=0):
                return False
        except Busy:
            return True
        except RecordError:  # only to be read, by us
            return _locked_by_another(self._lock_file)

    def status(self) -> tuple[Status, str]:
        """Status and, where there is one, its reason."""
        status, reason = self.status_unlocked()
        if status in ("planned", "interrupted") and self.held():
            return "running", ""
        return status, reason

    def status_unlocked(self) -> tuple[Status, str]:
        """As `status`, for whoever holds the lock; never `running`."""
        if not self.result.exists():
            return ("interrupted" if self.checkpoint.exists() else "planned"), ""
        try:
            result = self.read_result()
        except RecordError as error:
            return "unreadable", str(error)
        return result["status"], result["reason"] or ""

    def read_result(self) -> dict[str, Any]:
        """The content of result.json.

        Raises:
            RecordError: it is no such record.
        """
        try:
            result = result_in(self.result)
            identity(result)
            numbers(result)
        except DAMAGE as error:
            raise RecordError(f"{self.result} {what_is_wrong(error)}") from None
        return result

    def write_result(self, result: Mapping[str, Any]) -> None:
        """The last file of a run."""
        write_atomically(self.result, document_text(result).encode())

    def write_metrics(self, rows: Sequence[Mapping[str, Any]]) -> None:
        """All epochs so far, floats in full precision; the checkpoint holds them, too."""
        text = csv_text(rows[0], rows) if rows else ""
        write_atomically(self.metrics, text.encode(), durably=False)

    def write_environment(self, environment: Mapping[str, Any]) -> None:
        write_atomically(self.environment, document_text(environment).encode())

    def log(self, message: str) -> None:
        """Append a line with the time; a log that cannot be written stops nothing."""
        with (
            contextlib.suppress(OSError),
            self.log_file.open("a", encoding="utf-8", errors="backslashreplace") as file,
        ):
            file.write(f"{now()} {message}\n")

    def forget(self) -> None:
        """Remove what an earlier attempt left, the log excepted."""
        for path in (*self._results, self.checkpoint):
            path.unlink(missing_ok=True)

    def set_aside(self) -> None:
        """Move the results to before_rerun/, in the place of those that are there.

        Raises:
            RecordError: the disk refuses.
        """
        try:
            self._moving.mkdir(exist_ok=True)
            for path in self._results:  # result.json first: without it the run is not over
                if path.exists():
                    path.replace(self._moving / path.name)
            shutil.rmtree(self.before_rerun, ignore_errors=True)
            self._moving.replace(self.before_rerun)
        except OSError as error:
            raise cannot_write(self.before_rerun, error) from error
        self.forget()
        self.log(f"results of before are kept in {self.before_rerun.name}/")

    def half_set_aside(self) -> bool:
        """Whether a crash came into `set_aside`, which is then to be called again."""
        return self._moving.exists()

    def remove_unfinished(self) -> None:
        """Remove what a process left that was killed while it wrote; for whoever holds the lock.

        Of the small files that are written without the lock another process may be at work on one.
        """
        for path in (self.checkpoint, self.weights, self.predictions):
            for beside in self.path.glob(f".{path.name}.*.tmp"):
                beside.unlink(missing_ok=True)

    def tidy(self) -> None:
        """Remove what a run with a new result has no use for."""
        self.checkpoint.unlink(missing_ok=True)
        shutil.rmtree(self.before_rerun, ignore_errors=True)

    @property
    def _results(self) -> tuple[Path, ...]:
        measured = [self.path / name for name in ("perturbation.csv", "sharpness.csv")]
        return self.result, self.weights, self.predictions, self.metrics, *measured
