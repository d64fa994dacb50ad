"""What was measured of a network already, and keeping what is measured anew."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from fsam_cli.errors import RecordError
from fsam_cli.measure.subjects import Subject, Unmeasurable
from fsam_cli.records.side_table import Measurement, SideTable

WRITE_SECONDS = 2.0  # between saves


def rows_on_record(subject: Subject, table: SideTable) -> list[Measurement]:
    """What was measured on these very weights.

    Raises:
        Unmeasurable: the table is unreadable.
    """
    try:
        rows = table.read(subject.beside(table.name))
    except RecordError as error:
        raise Unmeasurable(str(error)) from None
    return [row for row in rows if row["subject"] == subject.identity]


def keep(
    subject: Subject,
    table: SideTable,
    found: Iterable[Measurement],
    *,
    on_row: Callable[[Measurement], object] = lambda _row: None,
) -> None:
    """Add rows to the subject's table as they are measured.

    It is written every few seconds and on the way out, also when interrupted.

    Raises:
        Unmeasurable: the table is unreadable.
        RecordError: it cannot be written.
    """
    path, rows = subject.beside(table.name), rows_on_record(subject, table)
    recorded, written = len(rows), time.monotonic()
    try:
        for row in found:
            rows.append(row)
            on_row(row)
            if time.monotonic() - written > WRITE_SECONDS:
                table.write(path, rows)
                recorded, written = len(rows), time.monotonic()
    finally:
        if len(rows) > recorded:
            table.write(path, rows)
