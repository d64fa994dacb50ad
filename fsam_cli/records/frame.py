"""All recorded runs as one pandas frame; what every table, plot and gate is made from."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pandas as pd
import yaml

from fsam_cli.errors import UsageError
from fsam_cli.records.store import RunDirectory

SCHEMA = "fsam-run/1"
_SELECTIONS = ("last", "selected", "best_test")
_NUMBERS = (
    "epoch",
    "train_loss",
    "train_accuracy",
    "corrupted_fit",
    "validation_loss",
    "validation_accuracy",
    "test_loss",
    "test_accuracy",
)
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

    Args:
        roots: `runs/`, or any folder below it.

    Raises:
        UsageError: a root that is no folder.
    """
    rows = [_row(path) for root in roots for path in _run_paths(Path(root))]
    return pd.DataFrame(rows, columns=_columns())


def as_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The lines of a frame as mappings from column to value."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def _columns() -> list[str]:
    return [
        *("path", "recipe", "label", "seed", "cell", "status", "reason"),
        *(f"{which}_{number}" for which in _SELECTIONS for number in _NUMBERS),
        *("select", "sample_gradients", "train_seconds", "evaluation_seconds", "wall_seconds"),
        *("started", "finished", "config", "environment", "planned_labels", "planned_seeds"),
        "data_verified",
    ]


def _run_paths(root: Path) -> Iterator[Path]:
    """Folders with a config.yaml, in order; a run directory has none below it."""
    if not root.is_dir():
        raise UsageError(f"{root}: no such folder; runs are recorded below runs/ or --out")
    for folder, below, files in os.walk(root):
        if "config.yaml" in files:
            below.clear()
            yield Path(folder)
        below.sort()


def _row(path: Path) -> dict[str, Any]:
    run = RunDirectory(path)
    unreadable: dict[str, Any] = {
        "path": str(path),
        "recipe": path.parent.parent.name,
        "label": path.parent.name,
        "seed": _seed_of(path),
        "cell": path.name.rpartition("-")[2],
        "status": "unreadable",
        "config": {},
        "environment": {},
        "planned_labels": [],
        "planned_seeds": [],
    }
    try:
        if run.result.exists():
            record = json.loads(run.result.read_text(encoding="utf-8"))
            status, reason = record["status"], record["reason"]
        else:
            record = yaml.load(run.config.read_text(encoding="utf-8"), Loader=_Yaml)
            status, reason = run.status()
        return {**unreadable, **_numbers(record), "status": status, "reason": reason or ""}
    except (OSError, ValueError, TypeError, KeyError, AttributeError, yaml.YAMLError) as error:
        which = run.result if run.result.exists() else run.config
        return {**unreadable, "reason": f"{which.name} is damaged ({type(error).__name__})"}


def _numbers(record: Mapping[str, Any]) -> dict[str, Any]:
    if record["schema"] != SCHEMA:
        raise ValueError(record["schema"])
    row: dict[str, Any] = {
        **record["run"],
        "config": record["config"],
        "environment": record.get("environment", {}),
        "planned_labels": record["planned"]["labels"],
        "planned_seeds": record["planned"]["seeds"],
        "data_verified": record["data_verified"],
    }
    for key in ("select", "sample_gradients", "train_seconds", "evaluation_seconds"):
        row[key] = record.get(key)
    for key in ("wall_seconds", "started", "finished"):
        row[key] = record.get(key)
    for which in _SELECTIONS:
        numbers = record.get(which) or {}
        row |= {f"{which}_{number}": numbers.get(number) for number in _NUMBERS}
    return row


def _seed_of(path: Path) -> int | None:
    text = path.name.partition("-")[0].removeprefix("seed")
    return int(text) if text.isdigit() else None
