"""How a launch is watched: bars on a terminal, one line per epoch elsewhere, or nothing."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import (
    BarColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from fsam_cli.commands._print import duration, say
from fsam_cli.engine.run import RunOutcome
from fsam_cli.engine.state import EpochRow
from fsam_cli.launch.local import Monitor
from fsam_cli.recipe.plan import RunPlan

WIDE = 110  # characters of a terminal, to have every number beside counts and times


@contextmanager
def monitor_for(plans: Sequence[RunPlan], *, quiet: bool) -> Iterator[Monitor]:
    """The monitor that fits where stderr goes."""
    if quiet:
        yield Silent()
    elif sys.stderr.isatty():
        with Bars(plans) as bars:
            yield bars
    else:
        yield Lines(plans)


class Silent:
    """Says nothing."""

    def started(self, plan: RunPlan) -> None: ...
    def stepped(self, plan: RunPlan, done: int, total: int) -> None: ...
    def epoch(self, plan: RunPlan, row: EpochRow) -> None: ...
    def over(self, plan: RunPlan, outcome: RunOutcome) -> None: ...


class Lines(Silent):
    """One line per epoch and one per run, for logs."""

    def __init__(self, plans: Sequence[RunPlan]) -> None:
        self.total, self.finished = len(plans), 0
        self.since = time.monotonic()
        # In sample-gradients, of all runs and of those trained since.
        self._cost, self._done = sum(plan.sample_gradients for plan in plans), 0
        self._name = names_of(plans)

    def epoch(self, plan: RunPlan, row: EpochRow) -> None:
        say(f"{self._name[plan.folder]}  epoch {row['epoch']}/{plan.epochs}  {_numbers(row)}")

    def over(self, plan: RunPlan, outcome: RunOutcome) -> None:
        self.finished += 1
        passed = time.monotonic() - self.since
        self._cost -= plan.sample_gradients
        self._done += plan.sample_gradients if outcome.ended == "done" else 0
        left = ""
        if self._cost and self._done:
            left = f", about {duration(passed * self._cost / self._done)} left"
        what = outcome.ended + (f" ({outcome.reason})" if outcome.reason else "")
        name = self._name[plan.folder]
        say(f"[{self.finished}/{self.total}] {name}: {what}, {passed:.0f} s so far{left}")


class Bars:
    """An overall bar and one per run at work."""

    def __init__(self, plans: Sequence[RunPlan]) -> None:
        console = Console(stderr=True)
        self._wide = console.width >= WIDE
        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[count]}", justify="right"),
            TextColumn("{task.fields[now]}"),
            TimeElapsedColumn(),
            TimeRemainingColumn(),
            console=console,
        )
        # The overall bar counts sample-gradients, so that its time left weighs runs by their cost;
        # what skipped, failed and diverged runs do not compute is taken off.
        self._cost = float(sum(plan.sample_gradients for plan in plans))
        self._runs = len(plans)
        self._finished = self._bad = 0
        self._overall = self._progress.add_task(
            "all runs", total=self._cost, count=f"0/{self._runs}", now=""
        )
        self._name = names_of(plans)
        self._tasks: dict[Path, TaskID] = {}
        self._spent: dict[Path, float] = {}

    def __enter__(self) -> Bars:
        self._progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def started(self, plan: RunPlan) -> None:
        self._tasks[plan.folder] = self._progress.add_task(
            self._name[plan.folder], total=plan.epochs, count=f"0/{plan.epochs}", now=""
        )

    def stepped(self, plan: RunPlan, done: int, total: int) -> None:
        self._advance(plan, done / total)

    def epoch(self, plan: RunPlan, row: EpochRow) -> None:
        self._advance(plan, row["epoch"] / plan.epochs)
        count = f"{row['epoch']}/{plan.epochs}"
        self._progress.update(self._tasks[plan.folder], count=count, now=self._now(row))

    def _now(self, row: EpochRow) -> str:
        """Its numbers, as far as the terminal has room for them."""
        return _numbers(row if self._wide else {**row, "validation_accuracy": None})

    def over(self, plan: RunPlan, outcome: RunOutcome) -> None:
        self._finished += 1
        self._bad += outcome.ended in ("failed", "diverged", "unreadable")
        if outcome.ended != "done":
            self._cost -= plan.sample_gradients - self._spent.get(plan.folder, 0.0)
        else:
            self._advance(plan, 1.0)
        self._progress.remove_task(self._tasks.pop(plan.folder))
        if outcome.ended not in ("done", "skipped"):
            self._progress.console.print(
                f"{self._name[plan.folder]}: {outcome.ended}: {outcome.reason}",
                highlight=False,
                markup=False,
            )
        bad = f"{self._bad} bad" if self._bad else ""
        count = f"{self._finished}/{self._runs}"
        self._progress.update(self._overall, total=self._cost, count=count, now=bad)

    def _advance(self, plan: RunPlan, share: float) -> None:
        spent = share * plan.sample_gradients
        self._progress.update(self._overall, advance=spent - self._spent.get(plan.folder, 0.0))
        self._spent[plan.folder] = spent
        self._progress.update(self._tasks[plan.folder], completed=share * plan.epochs)


def names_of(plans: Sequence[RunPlan]) -> dict[Path, str]:
    """By folder: label and seed, and the cell where a sweep has several points of a label."""
    cells: dict[str, set[str]] = {}
    for plan in plans:
        cells.setdefault(plan.label, set()).add(plan.cell)
    return {
        plan.folder: f"{plan.label} seed {plan.seed}"
        + (f" ({plan.cell})" if len(cells[plan.label]) > 1 else "")
        for plan in plans
    }


def _numbers(row: EpochRow) -> str:
    parts = [f"loss {row['train_loss']:.4f}"]
    if row["validation_accuracy"] is not None:
        parts.append(f"validation {100 * row['validation_accuracy']:.2f} %")
    if row["test_accuracy"] is not None:
        parts.append(f"test {100 * row['test_accuracy']:.2f} %")
    return "  ".join(parts)
