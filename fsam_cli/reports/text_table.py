"""Tables as text, before anybody knows whether they go to a terminal or into Markdown."""

from __future__ import annotations

import math
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import pandas as pd

from fsam_cli.errors import in_a_line
from fsam_cli.records.statistics import LEVEL


@dataclass(frozen=True)
class TextTable:
    """Rows with equal keys, which are the headings."""

    title: str  # "" for none
    rows: Sequence[Mapping[str, str]]
    words: Collection[str] | None = None  # columns flush left; by default the first alone

    @property
    def headings(self) -> list[str]:
        return list(self.rows[0]) if self.rows else []

    def has_words(self, heading: str) -> bool:
        """Whether a column is flush left; numbers are flush right."""
        return heading in (self.headings[:1] if self.words is None else self.words)


def markdown(table: TextTable) -> str:
    """Without its title; no cell can end its line or open another column."""
    headings = table.headings
    rule = ["---" if table.has_words(heading) else "---:" for heading in headings]
    return pipe_table([headings, rule, *([row[key] for key in headings] for row in table.rows)])


def titled_markdown(table: TextTable) -> list[str]:
    """Two paragraphs: the title in bold, and the table."""
    return [f"**{in_a_line(table.title)}**", markdown(table)]


def pipe_table(lines: Iterable[Sequence[str]]) -> str:
    """Cells between pipes, line by line."""
    return "\n".join("| " + " | ".join(map(_cell, cells)) + " |" for cells in lines)


def bullets(notes: Iterable[str]) -> str:
    """A list of sentences."""
    return "\n".join(f"- {note}" for note in notes)


def _cell(text: str) -> str:
    return in_a_line(text).replace("|", "\\|")


def mean_std(mean: float | None, std: float | None, form: str) -> str:
    """`83.48±1.97`; without a spread where there is none, and nothing without a mean."""
    if mean is None or math.isnan(mean):
        return ""
    return f"{mean:{form}}" + ("" if std is None or math.isnan(std) else f"±{std:{form}}")


def percent(mean: float | None, std: float | None, form: str = ".2f") -> str:
    """Mean and spread of fractions."""
    mean, std = (None if each is None else 100 * each for each in (mean, std))
    return mean_std(mean, std, form)


def to_digits(number: float, digits: int) -> str:
    """The form that shows so many digits of a number, and as many places of what stands beside
    it."""
    if number == 0 or not math.isfinite(number):
        return f".{digits - 1}f"
    magnitude = math.floor(math.log10(abs(number)))
    if not -5 <= magnitude <= 8:
        return f".{digits - 1}e"
    return f".{max(0, digits - 1 - magnitude)}f"


def interval_in_points(low: float, high: float) -> str:
    """Both ends of a difference of fractions, in percentage points."""
    return interval(low, high, POINTS)


class Unit(NamedTuple):
    """How a difference is printed."""

    scale: float
    form: str | None  # None: to two digits of its standard error


POINTS = Unit(100, ".2f")  # of fractions


def interval(low: float, high: float, unit: Unit) -> str:
    """Both ends of a difference."""
    return " to ".join(f"{unit.scale * end:+{unit.form}}" for end in (low, high))


def difference_cells(entry: Mapping[str, Any], unit: Unit = POINTS) -> dict[str, str]:
    """One line of `differences`, or why there is no difference."""
    done, scale = entry["status"] == "done", unit.scale
    form = unit.form or to_digits(entry["standard_error"] if done else entry["difference"], 2)
    between, detectable = "" if done else entry["status"], ""
    if done and not pd.isna(entry["low"]):
        detectable = f"{scale * entry['detectable']:{form}}"
        between = interval(entry["low"], entry["high"], Unit(scale, form))
    return {
        "diff.": "" if pd.isna(entry["difference"]) else f"{scale * entry['difference']:+{form}}",
        "SE": f"{scale * entry['standard_error']:{form}}" if done else "",
        "95 % interval": between,
        "p": _p(entry["p"]) if done else "",
        "p (Holm)": _p(entry["p_holm"]) if done else "",
        "MDE": detectable,
        "test": entry["test"] if done else "",
        "n": str(entry["n"]) if done else "",
    }


def _p(value: float) -> str:
    if value < 0.001:
        return "<0.001"
    if 0.0495 <= value < LEVEL:  # as 0.050 it would not look significant
        return f"{min(value, 0.0499):.4f}"
    return f"{value:.3f}"
