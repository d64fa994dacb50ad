"""Gates: claims that the recorded runs have to bear out, for a build that shall fail otherwise.

| gate | it holds where |
|---|---|
| `complete` | every run that was planned is reported and done |
| `sam >= 90`, also `>`, `<=`, `<` | the mean test accuracy of `sam`, in %, is that |
| `sam > sgd` | the 95 % interval of the difference, sam minus sgd, lies above 0 |
| `sam > sgd + 1`, `fsam > sam - 0.5` | it lies above 1, above -0.5 percentage points |

Test accuracy is the recipe's result: of the last epoch, or of the validation-selected one where it
has `train.select: validation`. A gate is for every row of the table in which its methods stand, and
for every configuration of a method that has several; `sam [rho=0.1]` names one of them.
What cannot be told does not hold: nothing of an incomplete cell or of a tuning's trials, and no
difference of single seeds or without any spread.

Several differences need no correction: they pass together or not at all, and that all of them pass
while one claim is false is no more likely than that this one does (an intersection-union test;
Berger 1982, Technometrics 24, 295-300).
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple

from fsam_cli.errors import UsageError, did_you_mean
from fsam_cli.records.statistics import Sample, compare, difference
from fsam_cli.records.summary import Cell, Row, result_metric
from fsam_cli.reports.differences import why_untested
from fsam_cli.reports.table import Table
from fsam_cli.reports.text_table import interval_in_points

COMPLETE = "complete"
FORMS = "complete, 'sam >= 90', 'sam > sgd' or 'sam > sgd + 1'"
_ORDERS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_NAME = r"\S+(?: \[.*\])?"  # of a cell: `sam`, `sam [rho=0.1]`
_GATE = re.compile(rf"({_NAME})\s*(>=|<=|>|<)\s*({_NAME}|\S+\s+%)(?:\s+([+-])\s*(\S+))?")


class Finding(NamedTuple):
    """What the runs say of a claim."""

    holds: bool
    found: str
    value: float | None = None  # the mean or the difference, a fraction
    low: float | None = None  # 95 % interval of a difference, fractions
    high: float | None = None


@dataclass(frozen=True)
class Verdict:
    """A gate and what was found in a row of the table."""

    gate: str  # as given
    claim: str  # the same of one configuration, where a method has several
    recipe: str  # "" where it is of all rows
    row: str
    holds: bool
    found: str
    value: float | None
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Threshold:
    """`sam >= 90`."""

    methods: tuple[str]
    words: tuple[str]  # that follow them
    order: str
    percent: float

    def judge(self, sample: Sample) -> Finding:
        """The mean against the number."""
        holds = _ORDERS[self.order](_percent(sample.mean), self.percent)
        return Finding(holds, f"{100 * sample.mean:.2f} (n = {sample.n})", sample.mean)


@dataclass(frozen=True)
class Better:
    """`sam > sgd + 1`."""

    methods: tuple[str, str]
    words: tuple[str, str]
    points: float  # percentage points

    def judge(self, first: Sample, second: Sample) -> Finding:
        """The lower end of the difference's interval against the margin."""
        comparison = compare(first, second)
        if comparison is None or comparison.low is None or comparison.high is None:
            apart = comparison.difference if comparison else difference(first, second)
            why = why_untested(first, second)
            return Finding(False, f"{100 * apart:+.2f}: {why}", apart)
        apart, low, high = comparison.difference, comparison.low, comparison.high
        found = (
            f"{100 * apart:+.2f}, 95 % interval {interval_in_points(low, high)} "
            f"({comparison.test}, n = {comparison.n})"
        )
        return Finding(_percent(low) > self.points, found, apart, low, high)


def evaluate_gates(table: Table, gates: Sequence[str]) -> list[Verdict]:
    """Every gate in every row it is for, in the order given.

    Raises:
        UsageError: no gate, or one for methods that stand in no row together.
    """
    verdicts = []
    for given in gates:
        text = " ".join(given.split())
        if text == COMPLETE:
            verdicts.append(Verdict(COMPLETE, COMPLETE, "", "", *_completeness(table)))
            continue
        gate = _parsed(text, table.known)
        found = [verdict for row in table.rows for verdict in _of_row(gate, text, row)]
        if not found:
            raise UsageError(f"--gate '{text}': in no row of the table do both methods stand")
        verdicts += found
    return verdicts


def _of_row(gate: Threshold | Better, text: str, row: Row) -> Iterator[Verdict]:
    """One for every combination of the configurations that its methods have in the row."""
    for names in product(*map(row.meant, gate.methods)):
        if len(set(names)) == len(names):
            claim = "".join(name + words for name, words in zip(names, gate.words, strict=True))
            found = _of_cells(gate, [row.cells[name] for name in names])
            yield Verdict(text, claim, row.recipe, row.name, *found)


def _of_cells(gate: Threshold | Better, cells: Sequence[Cell]) -> Finding:
    samples = []
    for cell in cells:
        sample, why = cell.sample(result_metric(cell)), _why_nothing(cell)
        if why is not None or sample is None:
            return Finding(False, f"{cell.name}: {why or 'not in every run'}")
        samples.append(sample)
    return gate.judge(*samples)


def _parsed(text: str, known: Sequence[str]) -> Threshold | Better:
    match = _GATE.fullmatch(text)
    if match is None:
        raise UsageError(f"--gate '{text}': write {FORMS}")
    method, order, right, sign, margin = match.groups()
    _known(text, method, known)
    number = _number(right)
    if number is not None and right not in known:
        if sign is not None:
            raise UsageError(f"--gate '{text}': write one number")
        if number != 0 and not 1 <= number <= 100:
            raise UsageError(f"--gate '{text}': accuracies are in %, 1 to 100; write 90 for .9")
        return Threshold((method,), (text[match.end(1) :],), order, number)
    _known(text, right, known)
    if order != ">":
        instead = f"; write {right}% for the number" if number is not None else ""
        raise UsageError(
            f"--gate '{text}': between methods write {method} > {right}, or {right} > {method}: a "
            "gate is a claim that the runs have to show, as in 'fsam > sam - 0.5' that fsam loses "
            f"less than half a point{instead}"
        )
    if method == right:
        raise UsageError(f"--gate '{text}': a method against itself; name another")
    points = 0.0 if margin is None else _number(margin)
    if points is None:
        raise UsageError(f"--gate '{text}': '{margin}' is not a number of percentage points")
    words = text[match.end(1) : match.start(3)], text[match.end(3) :]
    return Better((method, right), words, -points if sign == "-" else points)


def _known(text: str, name: str, known: Sequence[str]) -> None:
    if name not in known:
        cuts = (sign.start() for sign in re.finditer(r"[+-]", name))
        glued = any(name[:cut] in known and _number(name[cut:]) is not None for cut in cuts)
        margin = "a margin has spaces around its sign; " if glued else ""
        there = did_you_mean(name, known)
        raise UsageError(f"--gate '{text}': no method '{name}'; {margin}{there}")


def _number(text: str) -> float | None:
    try:
        number = float(text.removesuffix("%").strip())
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _completeness(table: Table) -> Finding:
    wrong = [
        f"{row.title}: {name}: {why}"
        for row in table.rows
        for name, cell in row.cells.items()
        if (why := _why_nothing(cell)) is not None
    ]
    for recipe, group in table.runs.groupby("recipe", sort=False):
        rows = [row for row in table.rows if row.recipe == recipe]
        there = {cell.label for row in rows for cell in row.cells.values()}
        planned = dict.fromkeys(label for labels in group["planned_labels"] for label in labels)
        absent = [label for label in planned if label not in there]
        if absent:
            wrong.append(f"{recipe}: planned, and not among these runs: {', '.join(absent)}")
    runs = sum(len(cell.runs) for row in table.rows for cell in row.cells.values())
    return Finding(not wrong, "; ".join(wrong) or f"all {runs} runs are done")


def _why_nothing(cell: Cell) -> str | None:
    """Why nothing can be claimed of a cell; None where something can."""
    if cell.status != "done":
        return cell.status
    if cell.runs["trial"].astype(bool).all():
        return "only trials of a tuning, which are not results"
    return None


def _percent(fraction: float) -> float:
    """Without errors of arithmetic: 57 % is not below 57."""
    return round(100 * fraction, 9)
