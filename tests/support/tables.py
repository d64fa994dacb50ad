"""Printed tables as lists, to compare them whole."""

from __future__ import annotations

from fsam_cli.reports.text_table import TextTable


def cells(table: TextTable) -> list[list[str]]:
    return [list(row.values()) for row in table.rows]
