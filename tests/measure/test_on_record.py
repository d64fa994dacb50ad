"""Rows are on record soon after they were measured, and no row costs a write of its own."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from fsam_cli.measure import on_record
from fsam_cli.records.side_table import SideTable

TABLE = SideTable("table.csv", {"subject": str, "alpha": float}, key=("alpha",))


@pytest.mark.parametrize(
    ("rows", "writes"), [(0, []), (2, [2]), (6, [3, 6]), (7, [3, 6, 7])], ids=str
)
def test_rows_are_written_every_few_seconds_and_on_the_way_out(tmp_path, monkeypatch, rows, writes):
    clock = {"now": 50.0}
    monkeypatch.setattr(on_record, "time", SimpleNamespace(monotonic=lambda: clock["now"]))
    subject = SimpleNamespace(identity="ab", beside=lambda name: tmp_path / name)
    written = []

    def write(table, path, those):
        written.append(len(those))
        as_usual(table, path, those)

    as_usual = SideTable.write
    monkeypatch.setattr(SideTable, "write", write)

    def measured():
        for number in range(rows):
            clock["now"] += 1.0  # a third one is more than `WRITE_SECONDS` after the last write
            yield {"subject": "ab", "alpha": float(number)}

    on_record.keep(subject, TABLE, measured())
    assert written == writes
    assert len(on_record.rows_on_record(subject, TABLE)) == rows
