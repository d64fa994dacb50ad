"""All recorded runs as one pandas frame; what every table and plot is made from."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import yaml

from fsam_cli.errors import RecordError, UsageError, in_a_line
from fsam_cli.records.checks import (
    COSTS,
    DAMAGE,
    MEASURED,
    OVER,
    SCHEMA,
    identity,
    mapping,
    numbers,
    result_in,
    what_is_wrong,
)
from fsam_cli.records.store import RunDirectory

_COLUMNS = [
    *("path", "recipe", "label", "seed", "cell", "status", "reason"),
    *(f"{which}_{number}" for which, numbers in MEASURED.items() for number in numbers),
    *("select", *COSTS, "started", "finished"),
    *("config", "environment", "planned_labels", "planned_seeds", "planned_epochs", "trial"),
    *("tuned", "data_verified"),
]
_RUN_NAME = re.compile(r"seed(\d+)-([0-9a-f]{8})")
_DAMAGE = (*DAMAGE, yaml.YAMLError)
# Of which any tells that a run was there, whatever else was lost.
_TRACES = {"config.yaml", "result.json", "checkpoint.pt", "metrics.csv", "weights.pt", "log.txt"}
_MOST_LEVELS = 50  # of nesting; libyaml's loader recurses in C and ends the process
_Yaml: Any = getattr(yaml, "CSafeLoader", yaml.SafeLoader)  # ten times quicker where it exists


def load_runs(*roots: Path | str) -> pd.DataFrame:
    """One row per run directory below the roots, whatever its status.

    Columns: `path`, `recipe`, `label`, `seed`, `cell` (hash of the configuration), `status`
    (planned, running, interrupted, done, diverged, failed, unreadable), `reason`; for each of
    `last` (epoch), `selected` (by validation accuracy) and `best_test` (the best test epoch) the
    numbers `<which>_epoch`, `_train_loss`, `_train_accuracy`, `_corrupted_fit`,
    `_validation_loss`, `_validation_accuracy`, `_test_loss`, `_test_accuracy`,
    `_test_top5_accuracy` (losses in nats, accuracies as fractions, missing where there is none);
    for `before` (weights of a file, as they were) the three of the test set; `select`,
    `sample_gradients`, `train_seconds`, `evaluation_seconds`, `wall_seconds`, `started`,
    `finished`; and as objects `config`, `environment`, `planned_labels`, `planned_seeds`,
    `planned_epochs` (the recipe's budget), `trial` (a tuning's, to choose settings by), `tuned`
    (keys of the protocol that methods have for themselves, as it searched them or the recipe says),
    `data_verified`.

    A run below two of the roots is one row. A damaged record is a row too, with the status
    unreadable: config.yaml and the name of its folder still tell whose run it is.

    Args:
        roots: `runs/`, any folder below it, or single run directories.

    Raises:
        UsageError: a root that is no folder.
        RecordError: a folder that may not be listed, and may hold runs.
    """
    paths = {os.path.realpath(path): path for root in roots for path in _run_paths(Path(root))}
    return pd.DataFrame([_row(path) for path in paths.values()], columns=_COLUMNS)


def with_weight_files(runs: pd.DataFrame, labels: Mapping[Path, str], recipe: str) -> pd.DataFrame:
    """Beside the runs a row for each weight file: a network of unknown configuration, without a
    plan or a hash.

    Args:
        labels: by path.
    """
    files = [
        {**_unknown(path, recipe, label), "seed": 0, "cell": "", "status": "done", "reason": ""}
        for path, label in labels.items()
    ]
    return pd.DataFrame([*as_rows(runs), *files], columns=_COLUMNS)


class Planned(NamedTuple):
    """What a command wanted a run for; none of it is part of what the run is."""

    seeds: Sequence[int]
    epochs: float  # the recipe's budget, of which the method's own epochs are made
    tuned: Sequence[str] = ()  # keys of the protocol that methods have for themselves


def load_planned(planned: Mapping[Path, Planned]) -> pd.DataFrame:
    """The runs of one command, by run directory, as it planned them and not as an earlier one did:
    seeds planned by others are not missing, and runs that were there already belong to its budget
    and its table.
    """
    runs = load_runs(*planned)
    mine = {str(folder): each for folder, each in planned.items()}
    runs["planned_seeds"] = [list(mine[path].seeds) for path in runs["path"]]
    runs["planned_epochs"] = [mine[path].epochs for path in runs["path"]]
    runs["tuned"] = [list(mine[path].tuned) for path in runs["path"]]
    return runs


def other_seeds(runs: pd.DataFrame) -> pd.DataFrame:
    """Other seeds of the same cells, by the folders in which these runs lie."""
    cells = {(Path(run["path"]).parent, run["cell"]) for run in as_rows(runs)}
    known = set(runs["path"])
    found = (path for parent, cell in sorted(cells) for path in parent.glob(f"seed*-{cell}"))
    return load_runs(*sorted(path for path in found if path.is_dir() and str(path) not in known))


def as_rows(frame: pd.DataFrame) -> list[dict[str, Any]]:
    """The lines of a frame as mappings from column to value."""
    return [{str(key): value for key, value in row.items()} for row in frame.to_dict("records")]


def _run_paths(root: Path) -> Iterator[Path]:
    """Run directories in order; there is none below another, and hidden folders are not ours."""
    if root.is_file():
        raise UsageError(f"{root} is a file; name its folder, or any above it")
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
        return not _TRACES.isdisjoint(files)
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
        record = result_in(run.result) if over else _plan(run)
        status, reason = (record["status"], record["reason"]) if over else run.status()
        if status in OVER and not over:
            return _row(path)  # it ended between the two looks
        known = {"path": str(path), **identity(record), **numbers(record)}
        return {**known, "status": status, "reason": in_a_line(reason or "")}
    except _DAMAGE as error:
        file = run.result if over else run.config
        return {**_salvaged(run), "reason": f"{file.name} {what_is_wrong(error)}"}


def _plan(run: RunDirectory) -> Mapping[str, Any]:
    text = run.config.read_text(encoding="utf-8")
    try:
        return _content(text, _Yaml)
    except yaml.YAMLError:  # libyaml refuses the folder of data whose name is not UTF-8
        return _content(text, yaml.SafeLoader)


def _content(text: str, loader: Any) -> Mapping[str, Any]:
    """What a text says, after a look at its stream of events, which is read without recursion.

    Raises:
        ValueError: endless nesting, or aliases, of which a few lines stand for gigabytes.
        TypeError: no mapping.
        yaml.YAMLError: no YAML.
    """
    level = 0
    for event in yaml.parse(text, Loader=loader):
        if isinstance(event, yaml.AliasEvent):
            raise ValueError("with an alias, as no record is")
        level += isinstance(event, yaml.CollectionStartEvent)
        level -= isinstance(event, yaml.CollectionEndEvent)
        if level > _MOST_LEVELS:
            raise ValueError(f"nested over {_MOST_LEVELS} levels deep, as no record is")
    return mapping(yaml.load(text, Loader=loader), "the record")  # a SafeLoader


def _salvaged(run: RunDirectory) -> dict[str, Any]:
    """Whose run a damaged record belongs to."""
    folder = run.path.resolve()
    name = _RUN_NAME.fullmatch(folder.name)
    unreadable = {
        **_unknown(run.path, folder.parent.parent.name, folder.parent.name),
        "seed": int(name[1]) if name else None,
        "cell": name[2] if name else folder.name,
        "status": "unreadable",
    }
    try:
        return {**unreadable, **identity(_plan(run))}
    except _DAMAGE:
        return unreadable


def _unknown(path: Path, recipe: str, label: str) -> dict[str, Any]:
    """A run of which nobody knows more."""
    known = {"path": str(path), "recipe": recipe, "label": label, "trial": False}
    return {
        **known,
        "config": {},
        "environment": {},
        "planned_labels": [],
        "planned_seeds": [],
        "tuned": [],
    }
