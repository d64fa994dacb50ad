"""From runs to cells: what may be pooled, what is complete, and how rows are named.

A cell is the runs equal in everything but the seed. It has a mean only when every seed that was
planned is done: a mean over survivors is not the mean of anything.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pandas as pd

from fsam_cli.records.statistics import Sample


@dataclass(frozen=True)
class Metric:
    """A number of a run that a table shows."""

    column: str  # of the frame of runs
    name: str  # with its unit
    short: str  # the heading in a terminal
    accuracy: bool = False  # a fraction, shown in percent
    higher_is_better: bool | None = None  # None: not compared


LAST = Metric("last_test_accuracy", "test accuracy, last epoch (%)", "test, last %", True, True)
SELECTED = Metric(
    "selected_test_accuracy",
    "test accuracy, validation-selected (%)",
    "test, selected %",
    True,
    True,
)
BEST_TEST = Metric(
    "best_test_test_accuracy",
    "test accuracy, best test epoch: selected on test (%)",
    "test, best on test %",
    True,
    True,
)
LOSS = Metric("last_test_loss", "test loss, last epoch (nats)", "test loss", False, False)
FIT = Metric("last_corrupted_fit", "fit to corrupted labels (%)", "noise fit %", True)
GRADIENTS = Metric("sample_gradients", "sample-gradients", "sample-grad.")
SECONDS = Metric("train_seconds", "training seconds", "train s")


@dataclass(frozen=True)
class Cell:
    """The runs of one label and configuration."""

    recipe: str
    label: str
    hash: str
    config: Mapping[str, Any]
    runs: pd.DataFrame
    expected_seeds: tuple[int, ...]

    @property
    def status(self) -> str:
        """`done`, or what is missing: `1 of 3 diverged, 1 missing`."""
        counts = Counter(self.runs["status"])
        counts["missing"] = len(set(self.expected_seeds) - set(self.runs["seed"]))
        wrong = {status: n for status, n in counts.items() if n and status != "done"}
        if not wrong:
            return "done"
        total = len(self.expected_seeds)
        parts = [f"{n} {status}" for status, n in sorted(wrong.items())]
        first, _, rest = parts[0].partition(" ")
        return ", ".join([f"{first} of {total} {rest}", *parts[1:]])

    def sample(self, metric: Metric) -> Sample | None:
        """The metric by seed; None unless the cell is complete and every run has it."""
        if self.status != "done" or self.runs[metric.column].isna().any():
            return None
        pairs = zip(self.runs["seed"], self.runs[metric.column], strict=True)
        return Sample({int(seed): float(value) for seed, value in pairs})


@dataclass(frozen=True)
class Row:
    """Cells that may stand side by side: one recipe, one shared configuration."""

    recipe: str
    name: str  # the keys in which it differs from the recipe's other rows
    cells: Mapping[str, Cell] = field(default_factory=dict)  # by label, in planned order


def cells_of(runs: pd.DataFrame) -> list[Cell]:
    """Every cell, in the order of the frame."""
    cells = []
    for key, group in runs.groupby(["recipe", "label", "cell"], sort=False):
        recipe, label, cell_hash = map(str, key)
        planned = {seed for seeds in group["planned_seeds"] for seed in seeds}
        seeds = planned | {int(seed) for seed in group["seed"].dropna()}
        readable = [config for config in group["config"] if config]
        cells.append(
            Cell(
                recipe=recipe,
                label=label,
                hash=cell_hash,
                config=readable[0] if readable else {},
                runs=group,
                expected_seeds=tuple(sorted(seeds)),
            )
        )
    return cells


def rows_of(runs: pd.DataFrame) -> list[Row]:
    """Cells arranged into rows; configurations that differ are never pooled or mixed."""
    rows = []
    for recipe, group in runs.groupby("recipe", sort=False):
        rows += _rows_of_recipe(str(recipe), cells_of(group), label_order(group))
    return rows


def one_row(runs: pd.DataFrame, name: str) -> Row:
    """One configuration per label side by side, whatever they differ in: tuned winners, say.

    Raises:
        ValueError: a label has several configurations.
    """
    cells = {cell.label: cell for cell in cells_of(runs)}
    if len(cells) != len(cells_of(runs)):
        raise ValueError("a label has several configurations")
    return Row(next(iter(cells.values())).recipe, name, cells)


def label_order(runs: pd.DataFrame) -> list[str]:
    """Labels as planned, the longest plan first, then as met."""
    plans = sorted(runs["planned_labels"], key=len, reverse=True)
    names = [*(plans[0] if plans else []), *(label for plan in plans for label in plan)]
    return list(dict.fromkeys([*names, *runs["label"]]))


def _rows_of_recipe(recipe: str, cells: list[Cell], order: list[str]) -> list[Row]:
    shared = {id(cell): _flat(_shared(cell.config)) for cell in cells}
    groups: dict[str, list[Cell]] = {}
    for cell in cells:
        groups.setdefault(json.dumps(shared[id(cell)], sort_keys=True), []).append(cell)
    differing = _differing(shared.values())
    rows = []
    for group in groups.values():
        name = _named(shared[id(group[0])], differing)
        by_label: dict[str, list[Cell]] = {}
        for cell in sorted(group, key=lambda cell: order.index(cell.label)):
            by_label.setdefault(cell.label, []).append(cell)
        alone = {label: several[0] for label, several in by_label.items() if len(several) == 1}
        if alone:
            rows.append(Row(recipe, name, alone))
        for label, several in by_label.items():
            if len(several) > 1:
                rows += _rows_of_label(recipe, name, label, several)
    return rows


def _rows_of_label(recipe: str, name: str, label: str, cells: list[Cell]) -> list[Row]:
    """One row for each configuration of a label that has several."""
    own = {id(cell): _flat(_own(cell.config)) for cell in cells}
    differing = _differing(own.values())
    return [
        Row(
            recipe,
            "; ".join(filter(None, [name, f"{label}: {_named(own[id(cell)], differing)}"])),
            {label: cell},
        )
        for cell in cells
    ]


def _shared(config: Mapping[str, Any]) -> dict[str, Any]:
    """What methods of one table have in common; the epochs are each method's own."""
    train = {key: value for key, value in config.get("train", {}).items() if key != "epochs"}
    rest = {key: value for key, value in config.items() if key not in ("method", "train")}
    return {**rest, "train": train}


def _own(config: Mapping[str, Any]) -> dict[str, Any]:
    epochs = config.get("train", {}).get("epochs")
    return {"method": config.get("method", {}), "train": {"epochs": epochs}}


def _flat(value: Any, prefix: str = "") -> dict[str, Any]:
    if isinstance(value, Mapping):
        flat: dict[str, Any] = {}
        for key, entry in value.items():
            flat |= _flat(entry, f"{prefix}.{key}" if prefix else str(key))
        return flat
    return {prefix: value}


def _differing(configs: Iterable[Mapping[str, Any]]) -> list[str]:
    """Keys that are not equal in all configurations, or not in all."""
    every = list(configs)
    keys = dict.fromkeys(key for config in every for key in config)
    return [
        key
        for key in keys
        if len({json.dumps(config.get(key, "absent"), sort_keys=True) for config in every}) > 1
    ]


def _named(config: Mapping[str, Any], differing: list[str]) -> str:
    return ", ".join(f"{key}={config[key]}" for key in differing if key in config)
