"""The epochs of every run as one long frame; what curves are drawn from."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd

from fsam_cli.errors import in_a_line
from fsam_cli.records.checks import LARGEST_COUNT
from fsam_cli.records.frame import as_rows
from fsam_cli.records.store import RunDirectory

_FRACTIONS = ("test_accuracy", "corrupted_fit")
# What curves are drawn from; metrics.csv has more.
COLUMNS = ("epoch", "sample_gradients", "train_loss", "test_loss", *_FRACTIONS)


class Curves(NamedTuple):
    """The epochs that could be read, and why others could not."""

    epochs: pd.DataFrame  # a row per run and epoch: `COLUMNS`, with `path`, `label`, `seed`
    unreadable: dict[str, str]  # by label, of its first run that cannot be read


def load_curves(runs: pd.DataFrame) -> Curves:
    """The metrics.csv of finished runs.

    A label of which any run cannot be read has no rows at all: a curve of the others would be a
    mean over survivors.

    Args:
        runs: of one row of a table, all done, from `records.frame.load_runs`.
    """
    rows: list[dict[str, Any]] = []
    unreadable: dict[str, str] = {}
    for run in as_rows(runs):
        file = RunDirectory(Path(run["path"])).metrics
        try:
            epochs = _epochs(file, last=run["config"]["train"]["epochs"])
        except (OSError, ValueError, csv.Error) as error:
            unreadable.setdefault(run["label"], _why(file, run["seed"], error))
            continue
        names = {key: run[key] for key in ("path", "label", "seed")}
        rows += [{**names, **epoch} for epoch in epochs]
    kept = [row for row in rows if row["label"] not in unreadable]
    return Curves(pd.DataFrame(kept, columns=["path", "label", "seed", *COLUMNS]), unreadable)


def _epochs(file: Path, *, last: int) -> list[dict[str, float]]:
    """Every epoch of a run that is done; nan where a number was not measured.

    Raises:
        OSError, ValueError, csv.Error: no file that fsam wrote, or not all of it.
    """
    reader = csv.DictReader(io.StringIO(file.read_text(encoding="utf-8"), newline=""), strict=True)
    missing = [column for column in COLUMNS if column not in (reader.fieldnames or ())]
    if missing:
        raise ValueError(f"no column {missing[0]}")
    rows = [{column: _number(row, column) for column in COLUMNS} for row in reader]
    if len(rows) != last or any(row["epoch"] != epoch for epoch, row in enumerate(rows, 1)):
        raise ValueError(f"its epochs are not 1 to {last}")
    if not all(0 < row["sample_gradients"] <= LARGEST_COUNT for row in rows):
        raise ValueError("sample_gradients are not counted in every epoch")
    return rows


def _number(row: Mapping[str, str | None], column: str) -> float:
    text = row[column]
    if text is None:
        raise ValueError("a line is cut short")
    if not text:
        return math.nan  # not evaluated in this epoch, or there is nothing to evaluate
    number = float(text)
    if column in _FRACTIONS and not 0 <= number <= 1:
        raise ValueError(f"{column} is {text}, not between 0 and 1")
    return math.inf if math.isnan(number) else number  # as bad, and measured


def _why(file: Path, seed: Any, error: Exception) -> str:
    detail = error.strerror if isinstance(error, OSError) else in_a_line(error)
    return f"{file.name} of seed {seed} is unreadable ({str(detail)[:80]})"
