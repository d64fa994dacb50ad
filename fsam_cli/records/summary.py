"""From runs to cells: what may be pooled, what is complete, and how rows are named.

A cell is the runs equal in everything but the seed. It has a mean only when every seed that was
planned is done: a mean over survivors is not the mean of anything.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import chain
from typing import Any

import pandas as pd

from fsam_cli.errors import in_a_line
from fsam_cli.records.checks import HEADLINE, SELECTIONS
from fsam_cli.records.frame import as_rows
from fsam_cli.records.statistics import Sample

UNMEASURABLE = "unmeasurable"  # a finished run, or a weight file, that does not serve
BUSY = "busy"
NOT_MEASURED = (UNMEASURABLE, BUSY)  # what a command that measures calls runs that are done


@dataclass(frozen=True)
class Metric:
    """A number of a run that a table shows."""

    column: str  # of the frame of runs
    name: str  # with its unit
    short: str  # the heading in a terminal
    accuracy: bool = False  # a fraction, shown in percent
    higher_is_better: bool | None = None  # None: the best is not marked
    tested: bool = False  # differences of methods are
    form: str | None = ".4f"  # of a mean, and of its spread; None: by their size
    wide: bool = False  # left to the wide forms of a table


def _accuracy(column: str, name: str, short: str) -> Metric:
    """A test accuracy, by which methods are compared."""
    name, short = f"test {name} (%)", f"{short} %"
    return Metric(column, name, short, True, higher_is_better=True, tested=True, form=".2f")


LAST = _accuracy("last_test_accuracy", "accuracy, last epoch", "test, last")
SELECTED = _accuracy("selected_test_accuracy", "accuracy, validation-selected", "test, selected")
BEST_TEST = _accuracy(
    "best_test_test_accuracy",
    "accuracy, best test epoch: selected on test",
    "test, best on test",
)
TOP5 = _accuracy("last_test_top5_accuracy", "top-5 accuracy, last epoch", "top-5, last")
SELECTED_TOP5 = _accuracy(
    "selected_test_top5_accuracy", "top-5 accuracy, validation-selected", "top-5, selected"
)
LOSS = Metric(
    "last_test_loss", "test loss, last epoch (nats)", "test loss", higher_is_better=False, wide=True
)
FIT = Metric("last_corrupted_fit", "fit to corrupted labels (%)", "noise fit %", True, form=".2f")
GRADIENTS = Metric("sample_gradients", "sample-gradients", "gradients", form=",.0f")
SECONDS = Metric("train_seconds", "training seconds", "train s", form=".1f")


@dataclass(frozen=True)
class Cell:
    """The runs of one label and configuration."""

    recipe: str
    label: str
    hash: str
    config: Mapping[str, Any]
    runs: pd.DataFrame
    expected_seeds: tuple[int, ...]
    contradicted: frozenset[int] = frozenset()  # seeds done again, with other numbers
    apart: str = ""  # in what it differs from the label's others of its protocol: `rho=0.1`

    @property
    def name(self) -> str:
        """What it is called in tables and pictures: `sam-0.1`, or `sam-0.1 [rho=0.1]`."""
        return called(self.label, self.apart)

    @property
    def status(self) -> str:
        """`done`, or what is missing: `1 of 3 diverged, 1 missing`."""
        counts = Counter(self.runs["status"])
        counts["missing"] = len(set(self.expected_seeds) - set(self.runs["seed"]))
        counts["recorded again with other numbers"] = len(self.contradicted)
        wrong = {status: n for status, n in counts.items() if n and status != "done"}
        if not wrong:
            return "done"
        total = max(len(self.expected_seeds), len(self.runs))
        parts = [f"{n} {status}" for status, n in sorted(wrong.items())]
        first, _, rest = parts[0].partition(" ")
        return ", ".join([f"{first} of {total} {rest}", *parts[1:]])

    @property
    def epochs(self) -> int:
        """That the method trains for."""
        return int(self.config["train"]["epochs"])

    @property
    def budget(self) -> float | None:
        """The epochs of the recipe, of which a method's own are made; None if no run tells."""
        return next((float(each) for each in self.runs["planned_epochs"].dropna()), None)

    @property
    def tuned(self) -> tuple[str, ...]:
        """Keys such as `train.lr` that each method has for itself, as the recipe says or a tuning
        searched them."""
        return tuple(sorted({key for keys in self.runs["tuned"] for key in keys}))

    @property
    def data_verified(self) -> bool | None:
        """Whether the data of all runs had their official checksum; None where no run lacked it,
        but for some there is none."""
        verified = list(self.runs["data_verified"])
        if any(each is False for each in verified):
            return False
        return True if all(each is True for each in verified) else None

    @cached_property
    def settings(self) -> dict[str, Any]:
        """The configuration by dotted key: `method.rho`, `train.lr`."""
        return flat(self.config)

    def sample(self, metric: Metric) -> Sample | None:
        """The metric by seed; None unless the cell is complete and every run has it."""
        return sample_of(self.runs, metric.column) if self.status == "done" else None


def sample_of(runs: pd.DataFrame, column: str) -> Sample | None:
    """A column by seed; None unless every run has a number there."""
    if runs[column].isna().any():
        return None
    pairs = zip(runs["seed"], runs[column], strict=True)
    return Sample({int(seed): float(value) for seed, value in pairs})


def called(label: str, apart: str) -> str:
    """The name of a cell: its label, and if there are others of it, in what it differs."""
    return f"{label} [{apart}]" if apart else label


@dataclass(frozen=True)
class Row:
    """Cells that may stand side by side: one recipe, one shared configuration."""

    recipe: str
    name: str  # the keys in which it differs from the recipe's other rows
    cells: Mapping[str, Cell]  # by name, labels in planned order and settings by size

    @property
    def title(self) -> str:
        return titled(self.recipe, self.name)

    def meant(self, name: str) -> list[str]:
        """The names of the cells that a user means: of this name, or every one of this label."""
        return [each for each, cell in self.cells.items() if name in (each, cell.label)]


def titled(recipe: str, row: str) -> str:
    """How a row is called."""
    return f"{recipe} ({row})" if row else recipe


def result_metric(cell: Cell, *, top5: bool = False) -> Metric:
    """The test accuracy that is the result, of the epoch that the recipe selects."""
    if cell.config.get("train", {}).get("select") == "validation":
        return SELECTED_TOP5 if top5 else SELECTED
    return TOP5 if top5 else LAST


def cells_of(runs: pd.DataFrame) -> list[Cell]:
    """Every cell, in the order of the frame."""
    cells = []
    for key, every in runs.groupby(["recipe", "label", "cell"], sort=False):
        recipe, label, cell_hash = map(str, key)
        group = _one_of_each_seed(every)
        planned = {seed for seeds in group["planned_seeds"] for seed in seeds}
        seeds = planned | {int(seed) for seed in group["seed"].dropna()}
        cells.append(
            Cell(
                recipe=recipe,
                label=label,
                hash=cell_hash,
                config=next(filter(None, group["config"]), {}),
                runs=group,
                expected_seeds=tuple(sorted(seeds)),
                contradicted=_contradicted(every) if len(group) < len(every) else frozenset(),
            )
        )
    return cells


# Which of several records of one seed counts: a divergence is a result that a copy elsewhere does
# not undo, and a run that ended says more than one that has not.
_PRECEDENCE = (
    *("diverged", *NOT_MEASURED, "done", "failed"),
    *("running", "interrupted", "planned", "unreadable"),
)


def _one_of_each_seed(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs of a cell, each seed once: the same seed twice is not two seeds."""
    if not runs["seed"].duplicated().any():
        return runs
    ranked = runs.assign(rank=runs["status"].map(_PRECEDENCE.index)).sort_values(["rank", "path"])
    return runs.loc[ranked.drop_duplicates("seed").index.sort_values()]


# What two records of one run have in common. Seconds need not be equal, and records from before
# fsam counted top-5 accuracies have none.
_OUTCOME = [
    f"{which}_{number}"
    for which in SELECTIONS
    for number in HEADLINE
    if number != "test_top5_accuracy"
]


def _contradicted(runs: pd.DataFrame) -> frozenset[int]:
    """Seeds that were done more than once, not always with the same numbers."""
    done = runs[runs["status"] == "done"]
    outcomes = done.drop_duplicates(["seed", *_OUTCOME])
    return frozenset(int(seed) for seed in outcomes["seed"][outcomes["seed"].duplicated()])


def rows_of(runs: pd.DataFrame) -> list[Row]:
    """Cells arranged into rows; configurations that differ are never pooled or mixed.

    The trials of a tuning are rows only as long as there are no results.
    """
    runs = with_trials(runs)
    chose = those_that_chose(runs)
    rows = []
    for recipe, group in runs.groupby("recipe", sort=False):
        cells = cells_of(_results_of(group, chose))
        rows += _rows_of_recipe(str(recipe), cells, label_order(group))
    return rows


Chose = set[tuple[str, int]]  # cells and seeds


def those_that_chose(runs: pd.DataFrame) -> Chose:
    """Cell and seed of every trial of a tuning. A cell is known by its settings and not by its
    name: under another label, or in another recipe, a seed that chose flatters as much."""
    trials = runs[runs["trial"].astype(bool) & runs["seed"].notna()]
    return {(str(run["cell"]), int(run["seed"])) for run in as_rows(trials)}


def with_trials(runs: pd.DataFrame) -> pd.DataFrame:
    """The runs, `trial` in all that are the same run as a trial, whatever they are called."""
    chose = those_that_chose(runs)
    if not chose:
        return runs
    return runs.assign(
        trial=[
            bool(trial) or (cell, seed) in chose
            for trial, cell, seed in zip(runs["trial"], runs["cell"], runs["seed"], strict=True)
        ]
    )


def _results_of(runs: pd.DataFrame, chose: Chose) -> pd.DataFrame:
    """The runs of a recipe without a tuning's trials, whose seeds have chosen settings.

    A later plan of the same seeds does not make results of them: they are not counted, and not
    missing. As long as there are only trials they are all there is.

    Args:
        runs: of `with_trials`.
        chose: cells and seeds of the trials of all recipes.
    """
    trial = runs["trial"].astype(bool)
    if not chose or trial.all():
        return runs
    results = runs[~trial]
    planned = [
        [seed for seed in run["planned_seeds"] if (run["cell"], seed) not in chose]
        for run in as_rows(results)
    ]
    return results.assign(planned_seeds=pd.Series(planned, index=results.index, dtype=object))


def one_row(runs: pd.DataFrame, name: str) -> Row:
    """One configuration per label side by side, whatever they differ in: tuned winners, say.

    Raises:
        ValueError: a label has several configurations.
    """
    cells = cells_of(runs)
    by_label = {cell.label: cell for cell in cells}
    if len(by_label) != len(cells):
        raise ValueError("a label has several configurations")
    return Row(cells[0].recipe, name, by_label)


def label_order(runs: pd.DataFrame) -> list[str]:
    """Labels as planned, the longest plan first, then as met."""
    plans = sorted(runs["planned_labels"], key=len, reverse=True)
    return list(dict.fromkeys([*chain.from_iterable(plans), *runs["label"]]))


def _rows_of_recipe(recipe: str, cells: list[Cell], order: list[str]) -> list[Row]:
    readable = [cell for cell in cells if cell.config]
    shared = {cell.hash: _shared(cell) for cell in readable}
    differing = keys_apart(shared.values())
    several_budgets = len({cell.budget for cell in readable} - {None}) > 1
    groups: dict[tuple[str, str], list[Cell]] = {}
    for cell in sorted(readable, key=lambda cell: _sort_key(shared[cell.hash], differing)):
        config = shared[cell.hash]
        groups.setdefault((_named(config, differing), _text(config)), []).append(cell)
    rows = []
    for (name, _), group in groups.items():
        group.sort(key=lambda cell: order.index(cell.label))
        for budget, tier in _by_budget(group, named=several_budgets):
            whole = ", ".join(filter(None, [name, budget]))
            rows.append(Row(recipe, whole, _by_name(tier, group)))
    return _with_unknown(recipe, rows, [cell for cell in cells if not cell.config], order)


def _by_budget(cells: Sequence[Cell], *, named: bool) -> list[tuple[str, list[Cell]]]:
    """A recipe trained again for other epochs is one row each time, not one per label.

    SGD's epochs may be twice the others', so what goes together is told by the recipe's budget.

    Args:
        cells: of one protocol for any epochs.
        named: whether the recipe has several budgets, under this protocol or another.
    """
    tiers: dict[float | None, list[Cell]] = {}
    for cell in cells:
        tiers.setdefault(cell.budget, []).append(cell)
    if not named or None in tiers:
        return [("", list(cells))]
    ascending = sorted(tiers, key=lambda budget: budget or 0)
    return [(_budget_name(budget, tiers[budget]), tiers[budget]) for budget in ascending]


def _budget_name(budget: float | None, tier: Sequence[Cell]) -> str:
    """`train.epochs=20 [sgd-2x: 40]`: what most have; of equally many the recipe's."""
    epochs: dict[str, int] = {}
    for cell in tier:
        epochs.setdefault(cell.label, cell.epochs)
    counts = Counter(epochs.values())
    common = max(counts, key=lambda count: (counts[count], count == budget))
    others = [f"{label}: {count}" for label, count in epochs.items() if count != common]
    return f"train.epochs={common}" + (f" [{', '.join(others)}]" if others else "")


def _by_name(cells: Sequence[Cell], group: Sequence[Cell]) -> dict[str, Cell]:
    """The cells of a row, those of each label by their settings.

    Args:
        cells: of the row, label by label.
        group: of the same protocol for any epochs, so that a name is of one configuration in all
            of its rows.
    """
    found = {}
    for label in dict.fromkeys(cell.label for cell in cells):
        mine = [cell for cell in cells if cell.label == label]
        own = {cell.hash: {**_own(cell), "train.epochs": cell.epochs} for cell in mine}
        differing = keys_apart(_own(cell) for cell in group if cell.label == label)
        differing += [key for key in keys_apart(own.values()) if key not in differing]
        told = {key: _named(config, differing) for key, config in own.items()}
        alike = Counter(told.values())
        for cell in sorted(mine, key=lambda cell: _sort_key(own[cell.hash], differing)):
            settings = told[cell.hash]
            if alike[settings] > 1:  # they print alike, as 1 and "1" do, and are not alike
                settings = ", ".join(filter(None, [settings, cell.hash]))
            named = replace(cell, apart=settings)
            found[named.name] = named
    return found


def _with_unknown(recipe: str, rows: list[Row], lost: list[Cell], order: list[str]) -> list[Row]:
    """Cells of unknown configuration join the only row, or are rows of their own: weight files
    together, unreadable ones named by their hash."""
    if lost and len(rows) <= 1:
        known = rows[0] if rows else Row(recipe, "", {})
        cells = sorted([*known.cells.values(), *lost], key=lambda cell: order.index(cell.label))
        of_label = Counter(cell.label for cell in cells)
        if all(of_label[cell.label] == 1 for cell in lost):
            return [Row(recipe, known.name, {cell.name: cell for cell in cells})]
    apart: dict[str, dict[str, Cell]] = {}
    for cell in lost:
        name = f"unreadable configuration {cell.hash}" if cell.hash else "weight files"
        apart.setdefault(name, {})[cell.label] = cell
    return rows + [Row(recipe, name, cells) for name, cells in apart.items()]


def _shared(cell: Cell) -> dict[str, Any]:
    """What methods of one table have in common; the epochs are each method's own."""
    shared = {
        key: value
        for key, value in cell.settings.items()
        if key != "train.epochs" and not key.startswith("method.")
    }
    return {**shared, **dict.fromkeys(cell.tuned, "own")}


def _own(cell: Cell) -> dict[str, Any]:
    """A method's settings, and those of the protocol that it has for itself."""
    return {
        key.removeprefix("method."): value
        for key, value in cell.settings.items()
        if key.startswith("method.") or key in cell.tuned
    }


def short_settings(runs: pd.DataFrame) -> dict[str, str]:
    """By path, a method's settings in a few words: its numbers, and what else of it and of the
    training differs among the runs of its label. `rho=0.1`, or `rho=0.1, train.lr=0.3`."""
    told = {}
    for _, group in runs.groupby(["recipe", "label"], sort=False):
        own = {
            run["path"]: {
                key.removeprefix("method."): value
                for key, value in flat(run["config"]).items()
                if key.startswith(("method.", "train.")) and key != "method.name"
            }
            for run in as_rows(group)
        }
        differing = keys_apart(each for each in own.values() if each)
        for path, values in own.items():
            shown = [
                key
                for key, value in values.items()
                if key in differing or (not key.startswith("train.") and _is_number(value))
            ]
            told[path] = _named(values, sorted(shown, key=lambda key: key.startswith("train.")))
    return told


def _is_number(value: Any) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def tuned_values(row: Row) -> dict[str, dict[str, Any]]:
    """The value of every key of the protocol that is each method's own, by key and name of the
    cell."""
    keys = sorted({key for cell in row.cells.values() for key in cell.tuned})
    readable = {name: cell.settings for name, cell in row.cells.items() if cell.config}
    return {key: {name: each.get(key) for name, each in readable.items()} for key in keys}


def flat(value: Any, prefix: str = "") -> dict[str, Any]:
    """Nested mappings by dotted key."""
    if not isinstance(value, Mapping):
        return {prefix: value}
    found: dict[str, Any] = {}
    for key, entry in value.items():
        found |= flat(entry, f"{prefix}.{key}" if prefix else str(key))
    return found


def keys_apart(configs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Keys that are not equal in all configurations, or not in all."""
    every = list(configs)
    keys = dict.fromkeys(key for config in every for key in config)
    return [
        key
        for key in keys
        if len({_text(config[key]) if key in config else None for config in every}) > 1
    ]


def _named(config: Mapping[str, Any], differing: list[str]) -> str:
    """`label_noise.rate=0.4, model.norm=group`, as an override would write it."""
    present = [f"{key}={_short(config[key])}" for key in differing if key in config]
    absent = [key for key in differing if key not in config]
    return ", ".join(present) or (f"without {', '.join(absent)}" if absent else "")


def _short(value: Any) -> str:
    if not isinstance(value, str):
        return _text(value)
    return value[:12] if re.fullmatch(r"[0-9a-f]{32,}", value) else in_a_line(value)  # a digest


def _sort_key(config: Mapping[str, Any], keys: list[str]) -> list[tuple[bool, float, str]]:
    """Numbers by size, then whatever else by its text."""
    values = [config.get(key) for key in keys]
    return [(False, v, "") if isinstance(v, int | float) else (True, 0.0, _text(v)) for v in values]


def _text(value: Any) -> str:
    return json.dumps(value, sort_keys=True)
