"""Tables in Markdown."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from fsam_cli.errors import in_a_line


def pipe_table(lines: Iterable[Sequence[str]]) -> str:
    """Cells between pipes, line by line; no cell can end its line or open another column."""
    return "\n".join("| " + " | ".join(map(_cell, cells)) + " |" for cells in lines)


def _cell(text: str) -> str:
    return in_a_line(text).replace("|", "\\|")
