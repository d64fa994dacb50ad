"""Gates: claims that the recorded runs have to bear out, for a build that shall fail otherwise.

| gate | it holds where |
|---|---|
| `complete` | every run that was planned is done |
| `sam >= 90`, also `>`, `<=`, `<` | the mean test accuracy of `sam`, in %, is that |
| `sam > sgd` | the 95 % interval of the difference, sam minus sgd, lies above 0 |
| `sam > sgd + 1`, `fsam > sam - 0.5` | it lies above 1, above -0.5 percentage points |

Test accuracy is the recipe's result: of the last epoch, or of the validation-selected one where it
has `train.select: validation`. A gate is for every row of the table in which its methods stand.
What cannot be told, from an incomplete cell or of a single seed, does not hold.

Several gates need no correction: they pass together or not at all, and that all of them pass while
one claim is false is no more likely than that this one does (an intersection-union test; Berger
1982, Technometrics 24, 295-300).
"""

from __future__ import annotations

import math
import operator
import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from fsam_cli.errors import UsageError, did_you_mean
from fsam_cli.records.statistics import compare
from fsam_cli.records.summary import Row, result_metric
from fsam_cli.reports.table import Table, absent_methods, why_untested

COMPLETE = "complete"
FORMS = "complete, 'sam >= 90', 'sam > sgd' or 'sam > sgd + 1'"
_ORDERS: dict[str, Callable[[float, float], bool]] = {
    ">=": operator.ge,
    "<=": operator.le,
    ">": operator.gt,
    "<": operator.lt,
}
_GATE = re.compile(r"(\S+)\s*(>=|<=|>|<)\s*(\S+)(?:\s+([+-])\s*(\S+))?")


@dataclass(frozen=True)
class Verdict:
    """Whether a gate holds in a row of the table, and what was found there."""

    gate: str
    recipe: str  # "" where it is of all rows
    row: str
    holds: bool
    found: str
    value: float | None = None  # the mean or the difference, a fraction
    low: float | None = None  # 95 % interval of a difference, fractions
    high: float | None = None


@dataclass(frozen=True)
class Threshold:
    """`sam >= 90`."""

    text: str
    method: str
    order: str
    percent: float

    @property
    def methods(self) -> tuple[str, ...]:
        return (self.method,)

    def judge(self, row: Row) -> Verdict:
        """The mean of the row's cell against the number."""
        cell = row.cells[self.method]
        sample = cell.sample(result_metric(cell))
        if sample is None:
            return Verdict(self.text, row.recipe, row.name, False, _why_empty(row, self.method))
        holds = _ORDERS[self.order](100 * sample.mean, self.percent)
        found = f"{100 * sample.mean:.2f} (n = {sample.n})"
        return Verdict(self.text, row.recipe, row.name, holds, found, sample.mean)


@dataclass(frozen=True)
class Better:
    """`sam > sgd + 1`."""

    text: str
    method: str
    other: str
    points: float = 0.0  # percentage points

    @property
    def methods(self) -> tuple[str, ...]:
        return (self.method, self.other)

    def judge(self, row: Row) -> Verdict:
        """The lower end of the difference's interval against the margin."""
        samples = {}
        for label in self.methods:
            sample = row.cells[label].sample(result_metric(row.cells[label]))
            if sample is None:
                return Verdict(self.text, row.recipe, row.name, False, _why_empty(row, label))
            samples[label] = sample
        first, second = samples[self.method], samples[self.other]
        difference = first.mean - second.mean
        shown = f"{100 * difference:+.2f}"
        comparison = compare(first, second)
        if comparison is None:
            why = f"{shown}: {why_untested(first, second)}"
            return Verdict(self.text, row.recipe, row.name, False, why, difference)
        low, high = comparison.low, comparison.high
        if low is None or high is None:
            low = high = 0.0
            shown += ", the same numbers in every seed"
        else:
            shown += f", 95 % interval {100 * low:+.2f} to {100 * high:+.2f}"
        shown += f" ({comparison.test}, n = {comparison.n})"
        holds = 100 * low > self.points
        return Verdict(self.text, row.recipe, row.name, holds, shown, difference, low, high)


def judged(table: Table, gates: Sequence[str]) -> list[Verdict]:
    """Every gate in every row it is for, in the order given.

    Raises:
        UsageError: no gate, or one for methods that stand in no row together.
    """
    verdicts = []
    for text in gates:
        if text.strip() == COMPLETE:
            verdicts.append(_completeness(table))
            continue
        gate = _parsed(text, table.labels)
        rows = [row for row in table.rows if all(label in row.cells for label in gate.methods)]
        if not rows:
            raise UsageError(f"--gate '{text}': in no row of the table do both methods stand")
        verdicts += [gate.judge(row) for row in rows]
    return verdicts


def _parsed(text: str, labels: Sequence[str]) -> Threshold | Better:
    match = _GATE.fullmatch(text.strip())
    if match is None:
        raise UsageError(f"--gate '{text}': write {FORMS}")
    method, order, right, sign, margin = match.groups()
    text = " ".join(text.split())
    _known(text, method, labels)
    number = _number(right)
    if number is not None and right not in labels:
        if sign is not None:
            raise UsageError(f"--gate '{text}': write one number")
        return Threshold(text, method, order, number)
    _known(text, right, labels)
    if order != ">":
        raise UsageError(
            f"--gate '{text}': between methods write {method} > {right}, or {right} > {method}: a "
            "gate is a claim that the runs have to show, as in 'fsam > sam - 0.5' that fsam loses "
            "less than half a point"
        )
    if method == right:
        raise UsageError(f"--gate '{text}': a method against itself; name another")
    points = 0.0 if margin is None else _number(margin)
    if points is None:
        raise UsageError(f"--gate '{text}': '{margin}' is no number of percentage points")
    return Better(text, method, right, -points if sign == "-" else points)


def _known(text: str, label: str, labels: Sequence[str]) -> None:
    if label not in labels:
        raise UsageError(f"--gate '{text}': no method '{label}'; {did_you_mean(label, labels)}")


def _number(text: str) -> float | None:
    try:
        number = float(text.removesuffix("%"))
    except ValueError:
        return None
    return number if math.isfinite(number) else None


def _completeness(table: Table) -> Verdict:
    wrong = [
        f"{row.title}: {label}: {cell.status}"
        for row in table.rows
        for label, cell in row.cells.items()
        if cell.status != "done"
    ]
    wrong += absent_methods(table.runs)
    runs = sum(len(cell.runs) for row in table.rows for cell in row.cells.values())
    return Verdict(COMPLETE, "", "", not wrong, "; ".join(wrong) or f"all {runs} runs are done")


def _why_empty(row: Row, label: str) -> str:
    status = row.cells[label].status
    return f"{label}: {'not in every run' if status == 'done' else status}"


def failed(verdicts: Iterable[Verdict]) -> list[Verdict]:
    """Those that do not hold."""
    return [verdict for verdict in verdicts if not verdict.holds]
