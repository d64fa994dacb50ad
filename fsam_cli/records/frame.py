"""All recorded runs as one pandas frame; what every table, plot and gate is made from."""

from __future__ import annotations

import json
import math
import os
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

import pandas as pd
import yaml

from fsam_cli.errors import RecordError, UsageError
from fsam_cli.names import PLAIN_NAME
from fsam_cli.records.store import HEADLINE, OVER, RunDirectory

SCHEMA = "fsam-run/1"
T = TypeVar("T")
_RUN_NAME = re.compile(r"seed(\d+)-([0-9a-f]{8})")
_SELECTIONS = ("last", "selected", "best_test")
_COSTS = ("sample_gradients", "train_seconds", "evaluation_seconds", "wall_seconds")
_COUNTS = ("epoch", "sample_gradients")
_FRACTIONS = ("train_accuracy", "corrupted_fit", "validation_accuracy", "test_accuracy")
LARGEST_COUNT = 2**63 - 1  # what a column of whole numbers holds
_HASH = re.compile(r"[0-9a-f]{8}")
_DAMAGE = (
    *(OSError, ValueError, TypeError, KeyError, AttributeError),
    *(RecursionError, yaml.YAMLError),  # the former: brackets without end
    OverflowError,  # digits without end
)
_MOST_LEVELS = 50  # of nesting; libyaml's loader recurses in C and ends the process
_Yaml: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times quicker where it exists


def load_runs(*roots: Path | str) -> pd.DataFrame:
    """One row per run directory below the roots, whatever its status.

    Columns: `path`, `recipe`, `label`, `seed`, `cell` (hash of the configuration), `status`
    (planned, running, interrupted, done, diverged, failed, unreadable), `reason`; for each of
    `last` (epoch), `selected` (by validation accuracy) and `best_test` (the best test epoch) the
    numbers `<which>_epoch`, `_train_loss`, `_train_accuracy`, `_corrupted_fit`,
    `_validation_loss`, `_validation_accuracy`, `_test_loss`, `_test_accuracy` (losses in nats,
    accuracies as fractions, missing where there is none); `select`, `sample_gradients`,
    `train_seconds`, `evaluation_seconds`, `wall_seconds`, `started`, `finished`; and as objects
    `config`, `environment`, `planned_labels`, `planned_seeds`, `data_verified`.

    A run below two of the roots is one row. A damaged record is a row too, with the status
    unreadable: config.yaml and the name of its folder still tell whose run it is.

    Args:
        roots: `runs/`, any folder below it, or single run directories.

    Raises:
        UsageError: a root that is no folder.
        RecordError: a folder that may not be listed, and may hold runs.
    """
    paths = {os.path.realpath(path): path for root in roots for path in _run_paths(Path(root))}
    return pd.DataFrame([_row(path) for path in paths.values()], columns=_columns())


def as_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The lines of a frame as mappings from column to value."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def _columns() -> list[str]:
    return [
        *("path", "recipe", "label", "seed", "cell", "status", "reason"),
        *(f"{which}_{number}" for which in _SELECTIONS for number in HEADLINE),
        *("select", *_COSTS, "started", "finished"),
        *("config", "environment", "planned_labels", "planned_seeds", "data_verified"),
    ]


def _run_paths(root: Path) -> Iterator[Path]:
    """Run directories in order; there is none below another, and hidden folders are not ours."""
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder; runs are recorded below runs/ or --out")
    for folder, below, files in os.walk(root, onerror=_refuse):
        if _is_run(Path(folder), files):
            below.clear()
            yield Path(folder)
        below[:] = sorted(name for name in below if not name.startswith("."))


def _refuse(error: OSError) -> None:
    raise RecordError(
        f"{error.filename} cannot be listed ({error.strerror}) and may hold runs; "
        "make it readable, or name the folders to report"
    )


def _is_run(folder: Path, files: list[str]) -> bool:
    """By its name; a renamed one by its record, as other tools write a config.yaml too."""
    if _RUN_NAME.fullmatch(folder.resolve().name):
        return not {"config.yaml", "result.json", "checkpoint.pt"}.isdisjoint(files)
    records = [folder / name for name in ("config.yaml", "result.json") if name in files]
    return any(_mentions_schema(record) for record in records)


def _mentions_schema(file: Path) -> bool:
    try:
        return SCHEMA.encode() in file.read_bytes()
    except OSError:
        return False  # not ours to read


def _row(path: Path) -> dict[str, Any]:
    run = RunDirectory(path)
    over = run.result.exists()
    try:
        record = _result(run) if over else _plan(run)
        status, reason = (record["status"], record["reason"]) if over else run.status()
        if status in OVER and not over:
            return _row(path)  # it ended between the two looks
        known = {**_identity(record), **_numbers(record)}
        return {"path": str(path), **known, "status": status, "reason": reason or ""}
    except _DAMAGE as error:
        return {**_salvaged(run), "reason": _what(run.result if over else run.config, error)}


def _result(run: RunDirectory) -> Mapping[str, Any]:
    record = json.loads(run.result.read_text(encoding="utf-8"))
    if record["status"] not in OVER:
        raise ValueError(f"status {record['status']!r}")
    _of(str, record["reason"] or "", "reason")
    return _mapping(record, "the record")


def _plan(run: RunDirectory) -> Mapping[str, Any]:
    text = run.config.read_text(encoding="utf-8")
    _refuse_what_no_record_has(text)
    return _mapping(yaml.load(text, Loader=_Yaml), "the record")  # a SafeLoader


def _refuse_what_no_record_has(text: str) -> None:
    """Looks at the stream of events, which libyaml gives without recursion.

    Raises:
        ValueError: endless nesting, or aliases, of which a few lines stand for gigabytes.
        yaml.YAMLError: no YAML.
    """
    level = 0
    for event in yaml.parse(text, Loader=_Yaml):
        if isinstance(event, yaml.CollectionStartEvent):
            level += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            level -= 1
        elif isinstance(event, yaml.AliasEvent):
            raise ValueError("with an alias, as no record is")
        if level > _MOST_LEVELS:
            raise ValueError(f"nested over {_MOST_LEVELS} levels deep, as no record is")


def _salvaged(run: RunDirectory) -> dict[str, Any]:
    """Whose run a damaged record belongs to."""
    folder = run.path.resolve()
    name = _RUN_NAME.fullmatch(folder.name)
    unreadable: dict[str, Any] = {
        "path": str(run.path),
        "recipe": folder.parent.parent.name,
        "label": folder.parent.name,
        "seed": int(name[1]) if name else None,
        "cell": name[2] if name else folder.name,
        "status": "unreadable",
        "config": {},
        "environment": {},
        "planned_labels": [],
        "planned_seeds": [],
    }
    try:
        return {**unreadable, **_identity(_plan(run))}
    except _DAMAGE:
        return unreadable


def _what(file: Path, error: Exception) -> str:
    """One line on what is wrong with a record."""
    detail = f"no key {error}" if isinstance(error, KeyError) else " ".join(str(error).split())
    if isinstance(error, OSError):
        detail = error.strerror or detail
    return f"{file.name} is damaged ({detail[:200]})"


def _identity(record: Mapping[str, Any]) -> dict[str, Any]:
    """Whose run it is; checked, because everything after this trusts it.

    Raises:
        KeyError, TypeError, ValueError: not a record of this schema.
    """
    # YAML knows dates and sets, JSON halves of characters; no record has either.
    json.dumps(record, ensure_ascii=False).encode()
    if record["schema"] != SCHEMA:
        raise ValueError(f"schema {record['schema']!r}; this fsam reads {SCHEMA}")
    run, planned = _mapping(record["run"], "run"), _mapping(record["planned"], "planned")
    config = _mapping(record["config"], "config")
    _count(_mapping(config["train"], "config.train")["epochs"], "config.train.epochs")
    _name(_mapping(config["method"], "config.method")["name"], "config.method.name")
    if not _HASH.fullmatch(_of(str, run["cell"], "run.cell")):
        raise ValueError(f"run.cell is {run['cell']!r}, no eight hexadecimal digits")
    return {
        "recipe": _name(run["recipe"], "run.recipe"),
        "label": _name(run["label"], "run.label"),
        "cell": run["cell"],
        "seed": _of(int, run["seed"], "run.seed"),
        "config": config,
        "planned_labels": [_name(label, "planned.labels") for label in planned["labels"]],
        "planned_seeds": [_of(int, seed, "planned.seeds") for seed in planned["seeds"]],
        "data_verified": record["data_verified"],
    }


def _numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    """What it measured; checked, because tables and pictures calculate with it.

    Raises:
        TypeError, ValueError: an accuracy that is no fraction, a number that is not finite.
    """
    environment = _mapping(record.get("environment", {}), "environment")
    for earlier in _of(list, environment.get("earlier", []), "environment.earlier"):
        _mapping(earlier, "environment.earlier")
    row: dict[str, Any] = {
        "environment": environment,
        **{key: record.get(key) for key in ("select", "started", "finished")},
        **{key: _number(key, record.get(key), key) for key in _COSTS},
    }
    for which in _SELECTIONS:
        numbers = _mapping(record.get(which) or {}, which)
        for key in HEADLINE:
            row[f"{which}_{key}"] = _number(key, numbers.get(key), f"{which}.{key}")
    return row


def _mapping(value: Any, key: str) -> dict[str, Any]:
    return _of(dict, value, key)


def _name(value: Any, key: str) -> str:
    """A recipe's, a label's or a method's."""
    name = _of(str, value, key)
    if not PLAIN_NAME.fullmatch(name):
        raise ValueError(f"{key} is {name!r}, no plain name")
    return name


def _number(kind: str, value: Any, key: str) -> float | int | None:
    """A number of the kind that the last word of its key says, or None where there is none."""
    if value is None:
        return None
    if kind in _COUNTS:
        return _count(value, key)
    number = value if isinstance(value, float) else float(_of(int, value, key))
    if kind in _FRACTIONS and not 0 <= number <= 1:
        raise ValueError(f"{key} is {value!r}, no fraction of 1")
    if not math.isfinite(number):
        raise ValueError(f"{key} is {value!r}, not finite")
    return number


def _count(value: Any, key: str) -> int:
    count = _of(int, value, key)
    if not 0 <= count <= LARGEST_COUNT:
        raise ValueError(f"{key} is {value!r}, no count")
    return count


def _of(kind: type[T], value: Any, key: str) -> T:
    if not isinstance(value, kind) or isinstance(value, bool):
        raise TypeError(f"{key} is {value!r}")
    return value
