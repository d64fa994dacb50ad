"""What a record must hold to be believed: one answer for reports and for training."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

from fsam_cli.errors import in_a_line
from fsam_cli.names import PLAIN_NAME

SCHEMA = "fsam-run/1"
OVER = ("done", "diverged", "failed")
# Of an epoch, what result.json repeats for the last, the selected and the best test epoch.
HEADLINE = (
    "epoch",
    "train_loss",
    "train_accuracy",
    "corrupted_fit",
    "validation_loss",
    "validation_accuracy",
    "test_loss",
    "test_accuracy",
    "test_top5_accuracy",
)
SELECTIONS = ("last", "selected", "best_test")
# Of weights that were trained elsewhere, before the first step.
BEFORE = ("test_loss", "test_accuracy", "test_top5_accuracy")
# What a record holds numbers of, and which.
MEASURED = {**dict.fromkeys(SELECTIONS, HEADLINE), "before": BEFORE}
COSTS = ("sample_gradients", "train_seconds", "evaluation_seconds", "wall_seconds")
LARGEST_COUNT = 2**63 - 1  # what a column of whole numbers holds
# What reading and checking a record raises.
DAMAGE = (
    *(OSError, ValueError, TypeError, KeyError, AttributeError),
    RecursionError,  # brackets without end
    OverflowError,  # digits without end
)
_COUNTS = ("epoch", "sample_gradients")
_FRACTIONS = tuple(key for key in HEADLINE if key.endswith(("_accuracy", "_fit")))
_HASH = re.compile(r"[0-9a-f]{8}")
T = TypeVar("T")


def result_in(file: Path) -> dict[str, Any]:
    """The content of a result.json; who it is and its numbers are not looked at.

    Raises:
        one of DAMAGE: it is no such record.
    """
    record = mapping(json.loads(file.read_text(encoding="utf-8")), "the record")
    if record["status"] not in OVER:
        raise ValueError(f"status {record['status']!r}")
    _of(str, record["reason"] or "", "reason").encode()
    return record


def what_is_wrong(error: Exception) -> str:
    """One line on what is wrong with a record, from one of DAMAGE, and what to do about it."""
    detail = f"no key {error}" if isinstance(error, KeyError) else in_a_line(error)
    if isinstance(error, OSError):  # not the content, which may be as good as ever
        remedy = "; check its permissions" if isinstance(error, PermissionError) else ""
        return f"cannot be read ({error.strerror or detail[:200]}){remedy}"
    return f"is damaged ({detail[:200]}); remove it to have the run repeated"


def identity(record: Mapping[str, Any]) -> dict[str, Any]:
    """Whose run it is; checked, because everything after this trusts it.

    Raises:
        KeyError, TypeError, ValueError: not a record of this schema.
    """
    if record["schema"] != SCHEMA:
        raise ValueError(f"schema {record['schema']!r}; this fsam reads {SCHEMA}")
    run, planned, config = (mapping(record[key], key) for key in ("run", "planned", "config"))
    _count(mapping(config["train"], "config.train")["epochs"], "config.train.epochs")
    _name(mapping(config["method"], "config.method")["name"], "config.method.name")
    if not _HASH.fullmatch(_of(str, run["cell"], "run.cell")):
        raise ValueError(f"run.cell is {run['cell']!r}, not eight hexadecimal digits")
    known = {
        "recipe": _name(run["recipe"], "run.recipe"),
        "label": _name(run["label"], "run.label"),
        "cell": run["cell"],
        "seed": _of(int, run["seed"], "run.seed"),
        "config": config,
        "planned_labels": [_name(label, "planned.labels") for label in planned["labels"]],
        "planned_seeds": [_of(int, seed, "planned.seeds") for seed in planned["seeds"]],
        "planned_epochs": _number(planned.get("epochs"), "planned.epochs"),
        "trial": planned.get("trial", False) is True,
        "tuned": [_of(str, key, "planned.tuned") for key in planned.get("tuned", ())],
        "data_verified": record["data_verified"],
    }
    return _plain(known)


def numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    """What it measured; checked, because tables and pictures calculate with it.

    Raises:
        TypeError, ValueError: an accuracy that is no fraction, a number that is not finite.
    """
    environment = mapping(record.get("environment", {}), "environment")
    for earlier in _of(list, environment.get("earlier", []), "environment.earlier"):
        mapping(earlier, "environment.earlier")
    row: dict[str, Any] = {
        "environment": environment,
        **{key: record.get(key) for key in ("select", "started", "finished")},
        **{key: _number(record.get(key), key) for key in COSTS},
    }
    for which, keys in MEASURED.items():
        found = mapping(record.get(which) or {}, which)
        row |= {f"{which}_{key}": _number(found.get(key), f"{which}.{key}") for key in keys}
    return _plain(row)


def _plain(known: dict[str, Any]) -> dict[str, Any]:
    """The record unchanged, if JSON can hold it: YAML knows dates and sets, JSON lone halves of
    characters, and no record has either. (Names of folders and files may; they are not in it.)"""
    json.dumps(known, ensure_ascii=False).encode()
    return known


def mapping(value: Any, key: str) -> dict[str, Any]:
    return _of(dict, value, key)


def _name(value: Any, key: str) -> str:
    """A recipe's, a label's or a method's."""
    name = _of(str, value, key)
    if not PLAIN_NAME.fullmatch(name):
        raise ValueError(f"{key} is {name!r}, not a plain name")
    return name


def _number(value: Any, key: str) -> float | int | None:
    """A number of the kind that the last word of its key says, or None where there is none."""
    kind = key.rpartition(".")[2]
    if value is None:
        return None
    if kind in _COUNTS:
        return _count(value, key)
    number = value if isinstance(value, float) else float(_of(int, value, key))
    if kind in _FRACTIONS and not 0 <= number <= 1:
        raise ValueError(f"{key} is {value!r}, not between 0 and 1")
    if not math.isfinite(number):
        raise ValueError(f"{key} is {value!r}, not finite")
    return number


def _count(value: Any, key: str) -> int:
    count = _of(int, value, key)
    if not 0 <= count <= LARGEST_COUNT:
        raise ValueError(f"{key} is {value!r}, not a count")
    return count


def _of(kind: type[T], value: Any, key: str) -> T:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{key} is {value!r}")
    return value
