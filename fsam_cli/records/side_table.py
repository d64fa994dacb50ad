"""Tables of what was measured of a trained network, each one CSV file beside its weights.

`subject` identifies the weights, data and network that a row was measured on: rows of other weights
are not taken over.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fsam_cli.errors import RecordError
from fsam_cli.records.plain import csv_text
from fsam_cli.records.store import write_atomically

# They lie beside the weights that were measured, so there is no option for another place.
ELSEWHERE = "make the folder writable, or measure a copy of it"
Measurement = dict[str, Any]


def optional(text: str) -> float | None:
    """A number, or an empty field where there is none."""
    return float(text) if text else None


def truth(text: str) -> bool:
    """`true` or `false`."""
    return {"true": True, "false": False}[text]


@dataclass(frozen=True)
class SideTable:
    """One kind of table: its file's name, how its fields are read, what makes a row the same."""

    name: str
    fields: Mapping[str, Callable[[str], Any]]  # by column, in the order of the file
    key: tuple[str, ...]  # columns that tell measurements apart; also the order of the rows

    @property
    def columns(self) -> tuple[str, ...]:
        return tuple(self.fields)

    def read(self, path: Path) -> list[Measurement]:
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
        try:
            lines = list(csv.reader(io.StringIO(text)))
            if not lines or tuple(lines[0]) != self.columns:
                raise _unreadable(path, "its columns are not those of this version")
            return [self._row(line) for line in lines[1:] if line]
        except (ValueError, KeyError, csv.Error) as error:
            raise _unreadable(path, f"{type(error).__name__}: {error}") from None

    def _row(self, line: Sequence[str]) -> Measurement:
        parsed = zip(self.fields.items(), line, strict=True)  # one cut short is refused
        return {name: parse(field) for (name, parse), field in parsed}

    def write(self, path: Path, rows: Iterable[Mapping[str, Any]]) -> None:
        """Replace the file atomically, rows in the order of the key, floats in full precision.

        Raises:
            RecordError: the disk refuses.
        """
        ordered = sorted(rows, key=lambda row: tuple(row[name] for name in self.key))
        spelled = [{name: _spelled(value) for name, value in row.items()} for row in ordered]
        write_atomically(path, csv_text(self.columns, spelled).encode(), elsewhere=ELSEWHERE)


def subject_of(weights: bytes, config: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that change with the content of the weight file, and with whatever
    else decides the numbers: data, model, precision."""
    content = hashlib.sha256(weights)
    content.update(json.dumps(config, sort_keys=True).encode())
    return content.hexdigest()[:12]


def _spelled(value: Any) -> Any:
    return str(value).lower() if isinstance(value, bool) else value


def _unreadable(path: Path, why: str) -> RecordError:
    return RecordError(f"{path} is unreadable ({why}); remove it to have it measured again")
