"""Differences of methods from one of them, with what a test says of each."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fsam_cli.errors import UsageError, did_you_mean
from fsam_cli.records.statistics import LEAST_UNPAIRED, POWER, Sample, compare, difference, holm

COLUMNS = (
    *("difference", "standard_error", "low", "high"),
    *("p", "p_holm", "detectable", "test", "n", "status"),
)
# A sentence below every table of differences.
MDE = (
    "MDE, minimum detectable effect: the true difference that this one test, unadjusted, would "
    f"find in {100 * POWER:g} % of cases, going by the spread seen here."
)
NO_SPREAD = "no spread to test by"


@dataclass(frozen=True)
class Entry:
    """One number of a cell, seed by seed."""

    sample: Sample | None  # None: nothing to average
    status: str  # `done`, or what is missing
    marked: bool = False  # within noise of the best of its row

    @property
    def why_empty(self) -> str:
        """Why there is no sample; a run can be done and still lack a number that was not finite."""
        return "not in every run" if self.status == "done" else self.status

    @property
    def columns(self) -> dict[str, Any]:
        """`mean`, `std`, `n` and `status`, unrounded."""
        if self.sample is None:
            return {"mean": None, "std": None, "n": 0, "status": self.why_empty}
        numbers = {"mean": self.sample.mean, "std": self.sample.std, "n": self.sample.n}
        return {**numbers, "status": self.status}


def refuse_no_method(option: str, name: str, known: Iterable[str]) -> None:
    """Raise UsageError where an option names none of these."""
    there = set(known)
    if name not in there:
        raise UsageError(f"{option}: no method '{name}'; {did_you_mean(name, there)}")


def differences_from(
    label: str, reference: Entry, entries: Mapping[str, Entry]
) -> list[dict[str, Any]]:
    """Each of the entries minus the reference, in their own units.

    Args:
        label: what the reference is called; an entry of that name is left out.
        reference: subtracted from the others.
        entries: by label.

    Returns:
        One mapping for each: `method`, `versus`, and those of `COLUMNS` that there are, but for
        `p_holm` (see `adjust`).
    """
    return [
        {"method": method, "versus": label, **_difference(entry, label, reference)}
        for method, entry in entries.items()
        if method != label
    ]


def _difference(entry: Entry, label: str, reference: Entry) -> dict[str, Any]:
    if entry.sample is None:
        return {"status": entry.why_empty}
    if reference.sample is None:
        return {"status": f"{label}: {reference.why_empty}"}
    comparison = compare(entry.sample, reference.sample)
    if comparison is None:
        apart = difference(entry.sample, reference.sample)
        return {"status": why_untested(entry.sample, reference.sample), "difference": apart}
    return {"status": "done", **asdict(comparison)}


def adjust(found: list[dict[str, Any]]) -> None:
    """Write `p_holm` into differences from one reference, which are a family.

    Every difference counts that there is, whether or not a test of it was possible.
    """
    family = [row for row in found if "difference" in row]
    for row, p in zip(family, holm([row.get("p", 1.0) for row in family]), strict=True):
        if "p" in row:
            row["p_holm"] = p


def why_untested(first: Sample, second: Sample) -> str:
    """Why `compare` gives nothing for two cells."""
    if min(first.n, second.n) < 2:
        return "one seed only"
    paired = len(set(first.by_seed) & set(second.by_seed)) > 1
    if not paired and min(first.n, second.n) < LEAST_UNPAIRED:
        return "two seeds, unpaired"
    return NO_SPREAD
