"""The few exceptions a user meets, each with the exit code it ends the command with.

| code | meaning |
|---|---|
| 0 | all well |
| 1 | a run to train or to measure failed or diverged, or a file could not be read or written |
| 2 | usage, recipe or data error: nothing was started, or an image turned out to be no image |
| 3 | a gate does not hold (`fsam report --gate`) |
| 130 | interrupted; run the same command again to resume |
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

GATE_FAILED = 3


class FsamError(Exception):
    """Base of every error with a message meant for the user; exit code 1."""

    exit_code = 1


class UsageError(FsamError):
    """A command, an option or an argument that cannot be carried out; exit code 2."""

    exit_code = 2


class DataError(UsageError):
    """A data set that is missing, truncated, tampered with or of the wrong form; exit code 2."""


class RecordError(FsamError):
    """A run directory that cannot be read or written; exit code 1."""


class Interrupted(FsamError):
    """Ctrl-C or SIGTERM, after the state was saved; exit code 130."""

    exit_code = 130


@dataclass(frozen=True)
class Problem:
    """One thing wrong with a recipe: where, what, and what instead."""

    key: str  # dotted path inside the recipe, "" for the whole file
    what: str
    instead: str = ""

    def __str__(self) -> str:
        place = f"{self.key}: " if self.key else ""
        remedy = f"; {self.instead}" if self.instead else ""
        return f"{place}{self.what}{remedy}"


class RecipeError(UsageError):
    """All problems of one recipe, reported together; exit code 2."""

    def __init__(self, source: str, problems: Sequence[Problem]) -> None:
        self.source = source
        self.problems = tuple(problems)
        lines = "\n".join(f"  {problem}" for problem in self.problems)
        super().__init__(f"{source}: {counted(len(self.problems), 'problem')}\n{lines}")


def in_a_line(what: object) -> str:
    """The text of an error, or a text, with its line breaks turned into spaces."""
    return " ".join(str(what).split())


def counted(number: int, what: str) -> str:
    """`1 run`, `2 runs`."""
    return f"{number:,} {what}" + ("" if number == 1 else "s")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """The remedy for an unknown name: the nearest known one, then all of them."""
    names = sorted(known)
    by_case = {each.lower(): each for each in names}  # `SAM` is near to `sam`
    near = difflib.get_close_matches(name.lower(), by_case, n=1, cutoff=0.6)
    hint = f"did you mean '{by_case[near[0]]}'? " if near else ""
    return f"{hint}there are: {', '.join(names)}" if names else "there are none"
