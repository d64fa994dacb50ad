"""perturbation.csv: how well a trained network stands up to moved weights, one row per strength.

It lies beside the run (or the weight file) it belongs to and holds the rows of every way of
perturbing that was asked for so far. `subject` identifies the weights, data and network they were
measured on: rows of other weights are not taken over.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from fsam_cli.errors import RecordError
from fsam_cli.records.plain import csv_text
from fsam_cli.records.store import write_atomically

NAME = "perturbation.csv"
# It lies beside the weights that were measured, so there is no option for another place.
ELSEWHERE = "make the folder writable, or perturb a copy of it"
Measurement = dict[str, Any]
Key = tuple[Any, ...]

_READ: dict[str, Callable[[str], Any]] = {
    "subject": str,
    "direction": str,
    "gradient_split": str,  # empty for gaussian: no gradient is asked for
    "relative": str,
    "recalibrated": lambda text: {"true": True, "false": False}[text],
    "draw": int,  # 0 for the gradient, which is one direction
    "alpha": float,
    "test_accuracy": float,  # fraction
    "test_loss": float,  # plain cross-entropy, nats
    "eps_norm": float,  # of the whole step, over all weights
    "gradient_norm": lambda text: float(text) if text else None,
    "weight_norm": float,  # of all trainable weights
    "classes": int,  # 1 / classes is chance
    "seconds": float,  # of this row: perturb, recalibrate, evaluate
    "torch": str,
    "device_name": str,  # of the processor, or the GPU
}
COLUMNS = tuple(_READ)


@dataclass(frozen=True)
class PerturbationSetting:
    """The way of perturbing: what tells the curves of one network apart."""

    direction: Literal["gradient", "gaussian"] = "gradient"
    gradient_split: Literal["train", "test"] = "train"
    relative: Literal["none", "filter"] = "none"
    recalibrated: bool = False  # BatchNorm statistics, at the moved weights

    def columns(self) -> Measurement:
        """As the columns of that name hold it."""
        return {
            "direction": self.direction,
            "gradient_split": self.gradient_split if self.direction == "gradient" else "",
            "relative": self.relative,
            "recalibrated": self.recalibrated,
        }

    def describes(self, row: Mapping[str, Any]) -> bool:
        """Whether a row was measured in this way."""
        return all(row[name] == value for name, value in self.columns().items())


def key(row: Mapping[str, Any]) -> Key:
    """What makes a row the same measurement; also the order of the file."""
    names = ("direction", "gradient_split", "relative", "recalibrated", "draw", "alpha")
    return tuple(row[name] for name in names)


def subject_of(weights: bytes, config: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that change with the content of the weight file, and with whatever
    else decides the numbers: data, model, precision."""
    content = hashlib.sha256(weights)
    content.update(json.dumps(config, sort_keys=True).encode())
    return content.hexdigest()[:12]


def read(path: Path) -> list[Measurement]:
    """Every row on record; none if there is no file.

    Raises:
        RecordError: not such a file.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except FileNotFoundError:
        return []
    except (OSError, ValueError) as error:
        raise _unreadable(path, str(error)) from None
    reader = csv.DictReader(io.StringIO(text))
    if tuple(reader.fieldnames or ()) != COLUMNS:
        raise _unreadable(path, "its columns are not those of this version")
    try:
        return [{name: parse(row[name]) for name, parse in _READ.items()} for row in reader]
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise _unreadable(path, f"{type(error).__name__}: {error}") from None


def write(path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    """Replace the file atomically, rows in the order of `key`, floats in full precision.

    Raises:
        RecordError: the disk refuses.
    """
    spelled = [
        {**row, "recalibrated": str(row["recalibrated"]).lower()} for row in sorted(rows, key=key)
    ]
    write_atomically(path, csv_text(COLUMNS, spelled).encode(), elsewhere=ELSEWHERE)


def _unreadable(path: Path, why: str) -> RecordError:
    return RecordError(f"{path} is unreadable ({why}); remove it to have it measured again")
