"""The paper's numbers beside recorded ones: which belongs to a cell, and where the run departs.

`published.csv` holds the numbers as printed: accuracies in percent; `n` is empty, because the paper
does not say over how many seeds its mean and its ± are. Data, models and methods have fsam's names;
`alternatives` are other readings of the same network.

`published_protocol.csv` holds how they were obtained: for a table, and where given only for some
data, model or method, a setting of a run's configuration and its value. Of two lines for the same
setting the later counts. `basis` says how the value is known:

    stated   the paper says so
    partly   it says a part, the rest is fsam's guess
    guess    it says nothing; this is what fsam takes for it
    unknown  it says nothing, and no value is likelier than another: always listed
    free     of no bearing on the result: never listed

A setting that no line knows is listed unless it is off. Nothing here looks at the name of a recipe
or at a label: what was run decides.
"""

from __future__ import annotations

import csv
import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from decimal import Decimal
from functools import cache
from importlib.resources import files
from typing import Any, NamedTuple

import pandas as pd

from fsam_cli.records.summary import Cell, Row, flat, result_metric
from fsam_cli.reports.differences import Entry
from fsam_cli.reports.table import Table, whose

_METRICS = ("accuracy", "top5_accuracy")
BASELINE = "sgd"  # the method that the paper trains for longer than the others


@dataclass(frozen=True)
class Published:
    """One printed number; accuracies are fractions."""

    source: str
    table: str
    data: str
    model: str
    alternatives: tuple[str, ...]  # other models that may be meant
    label_noise: float  # share of the training labels
    method: str
    metric: str  # `accuracy` or `top5_accuracy`
    mean: float
    std: float | None
    n: int | None  # None: not stated


class ProtocolSetting(NamedTuple):
    """A value of the paper's protocol, as text, and how it is known."""

    value: str
    basis: str


@dataclass(frozen=True)
class Deviation:
    """A setting in which a run is not known to be as the paper's."""

    key: str  # of the recorded configuration, dotted
    run: str
    paper: str | None  # None: not stated
    basis: str

    def __str__(self) -> str:
        paper = {
            "stated": f"paper: {self.paper}",
            "partly": f"paper, partly a guess: {self.paper}",
            "guess": f"not stated, guess: {self.paper}",
        }.get(self.basis, "not stated")
        return f"{self.key}={self.run} ({paper})"


@cache
def published_numbers() -> tuple[Published, ...]:
    """Every printed accuracy, in the order of the paper's tables."""
    return tuple(
        Published(
            **{
                name: line[name]
                for name in ("source", "table", "data", "model", "method", "metric")
            },
            alternatives=tuple(line["alternatives"].split()),
            label_noise=float(line["label_noise"]),
            mean=_fraction(line["mean"]),
            std=_fraction(line["std"]) if line["std"] else None,
            n=int(line["n"]) if line["n"] else None,
        )
        for line in _lines("published.csv")
        if line["metric"] in _METRICS  # fsam measures no other
    )


def protocol_of(published: Published) -> dict[str, ProtocolSetting]:
    """How a printed number was obtained, by key of a run's configuration."""
    place = {key: getattr(published, key) for key in ("table", "data", "model", "method")}
    protocol = {"model.name": ProtocolSetting(published.model, "guess")}
    for line in _lines("published_protocol.csv"):
        if all(line[key] in ("", value) for key, value in place.items()):
            protocol[line["key"]] = ProtocolSetting(line["value"], line["basis"])
    return protocol


def counterpart(cell: Cell, row: Row, metric: str = "accuracy") -> Published | None:
    """The printed number that belongs to a cell, if any: an `accuracy` or a `top5_accuracy`.

    SGD's belongs to an SGD with as many times the epochs of the row's other published methods as
    in the paper: twice, in Tables 1 and 4. Where there is no other, to the paper's own epochs.
    """
    found = _same_experiment(cell, metric)
    if found is None or found.method != BASELINE:
        return found
    others = {
        other.epochs
        for other in row.cells.values()
        if (printed := _same_experiment(other, metric)) and printed.method != BASELINE
    }
    own, climbing = (_published_epochs(found, method) for method in (BASELINE, "sam"))
    expected = {epochs * own / climbing for epochs in others} or {own}
    return found if expected == {cell.epochs} else None


def deviations(cell: Cell, published: Published) -> list[Deviation]:
    """Every setting in which the cell is not known to be as the paper's, the protocol's first."""
    values, protocol = as_run(cell), protocol_of(published)
    found = [
        Deviation(key, _shown(values.get(key)), setting.value or None, setting.basis)
        for key, setting in protocol.items()
        if _departs(key, values, setting)
    ]
    return found + [
        Deviation(key, _shown(value), None, "unknown")
        for key, value in values.items()
        if key not in protocol and key not in _MATCHED and value is not None and value is not False
    ]


def guesses(cell: Cell, published: Published) -> list[str]:
    """Keys in which the cell is equal to what fsam guesses where the paper says nothing."""
    values = as_run(cell)
    return [
        key
        for key, setting in protocol_of(published).items()
        if setting.basis == "guess"
        and key != "model.name"
        and _same(values.get(key), setting.value)
    ]


def as_run(cell: Cell) -> dict[str, Any]:
    """The configuration of a cell by dotted key, with its seeds and whether its data are known."""
    return {
        **dotted(cell.config),
        "seeds": len(cell.expected_seeds),
        "data_verified": cell.data_verified is not False,
    }


def beside_published(table: Table) -> pd.DataFrame:
    """A line for every cell that has a published counterpart; accuracies are fractions.

    Columns: recipe, row, label, settings, cell, `metric` (the recipe's result, top-1 or top-5: of
    the last epoch, or the validation-selected one), `mean`, `std`, `n`, `status`; `source`,
    `table`, `method`, `published_mean`, `published_std`, `published_n` (missing: not stated);
    `difference` of the means; `deviations` and `guesses`, lists.
    """
    found = [
        _line(cell, row, printed)
        for row in table.rows
        for metric in _METRICS
        for cell in row.cells.values()
        if (printed := counterpart(cell, row, metric)) is not None
    ]
    columns = [
        *("recipe", "row", "label", "settings", "cell"),
        *("metric", "mean", "std", "n", "status"),
        *("source", "table", "method", "published_mean", "published_std", "published_n"),
        *("difference", "deviations", "guesses"),
    ]
    return pd.DataFrame(found, columns=columns)


def notes_on(frame: pd.DataFrame) -> list[str]:
    """The sentences below a comparison with the paper."""
    notes = []
    if frame["published_n"].isna().any():
        notes.append(
            "Difference from the paper: of the means, in percentage points, a point estimate. The "
            "paper says neither over how many seeds its mean and its ± are nor whether the ± is a "
            "standard deviation, as ours, or an error of the mean, so no test is made."
        )
    for (source, number), group in frame.groupby(["source", "table"], sort=False):
        keys = dict.fromkeys(key for guessed in group["guesses"] for key in guessed)
        if keys:
            notes.append(
                f"Table {number} of {source}: the paper does not state, and fsam guesses: "
                f"{', '.join(keys)}."
            )
    return notes


def _line(cell: Cell, row: Row, printed: Published) -> dict[str, Any]:
    metric = result_metric(cell, top5=printed.metric == "top5_accuracy")
    sample = cell.sample(metric)
    return {
        **whose(row, cell),
        "metric": metric.column,
        **Entry(sample, cell.status).columns,
        "source": printed.source,
        "table": printed.table,
        "method": printed.method,
        "published_mean": printed.mean,
        "published_std": printed.std,
        "published_n": printed.n,
        "difference": sample.mean - printed.mean if sample else None,
        "deviations": deviations(cell, printed),
        "guesses": guesses(cell, printed),
    }


# What a number is found by, and therefore never a deviation.
_MATCHED = ("data.name", "method.name", "label_noise.rate")


def _same_experiment(cell: Cell, metric: str) -> Published | None:
    """The number printed for this data set, network, method and rate of label noise."""
    values = as_run(cell)
    for printed in published_numbers():
        if (
            values.get("data.name") == printed.data
            and values.get("model.name") in (printed.model, *printed.alternatives)
            and values.get("method.name") == printed.method
            and (values.get("label_noise.rate") or 0) == printed.label_noise
            and metric == printed.metric
        ):
            return printed
    return None


def _departs(key: str, values: Mapping[str, Any], setting: ProtocolSetting) -> bool:
    if setting.basis in ("free", "unknown"):
        return setting.basis == "unknown"
    if setting.basis == "guess" and key not in values:
        return False  # a setting of a part that the run does not have, which is listed itself
    return not _same(values.get(key), setting.value)


def _published_epochs(published: Published, method: str) -> float:
    return float(protocol_of(replace(published, method=method))["train.epochs"].value)


def dotted(config: Mapping[str, Any]) -> dict[str, Any]:
    """A configuration by dotted key. The augmentations are one value, their names in order, and one
    for each of their settings."""
    values: dict[str, Any] = {}
    for key, value in flat(config).items():
        if not isinstance(value, list) or not all(map(_is_named, value)):
            values[key] = value
            continue
        values[key] = " ".join(str(part["name"]) for part in value) or None
        for part in value:
            settings = {name: entry for name, entry in part.items() if name != "name"}
            values |= flat(settings, f"{key}.{part['name']}")
    return values


def _is_named(part: Any) -> bool:
    return isinstance(part, Mapping) and "name" in part


def _same(run: Any, paper: str) -> bool:
    """0.0005 and 5e-4 are the same; so are an option left out and one that is `none`."""
    if isinstance(run, int | float) and not isinstance(run, bool):
        try:
            return float(run) == float(paper)
        except ValueError:
            return False
    return _shown(run) == paper


def _shown(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True)


def _fraction(percent: str) -> float:
    """As near to the printed decimal as a float can be: 95.70 is 0.957."""
    return float(Decimal(percent).scaleb(-2))


@cache
def _lines(name: str) -> tuple[dict[str, str], ...]:
    text = files("fsam_cli.reports").joinpath(name).read_text(encoding="utf-8")
    return tuple(csv.DictReader(text.splitlines()))
