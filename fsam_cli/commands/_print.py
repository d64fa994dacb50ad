"""Results go to stdout, everything else to stderr."""

from __future__ import annotations

import csv
import io
import os
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fsam_cli.errors import RecordError
from fsam_cli.records.plain import document_text, plain
from fsam_cli.reports.text_table import TextTable, markdown, titled_markdown
from fsam_cli.results import forget_results, results

WIDE = 160  # characters, where no terminal says how many
NARROW = 40  # whatever COLUMNS says


def out(text: str) -> None:
    """A result.

    Raises:
        RecordError: it cannot be written, as on a full disk.
    """
    with written():
        results().write(text if text.endswith("\n") else text + "\n")


@contextmanager
def written() -> Iterator[None]:
    """What is printed inside has arrived, or there is one clear error."""
    try:
        yield
        results().flush()
    except BrokenPipeError:  # `| head` has seen enough
        raise
    except OSError as error:
        forget_results()
        raise RecordError(
            f"cannot write the output: {error.strerror}; free space or write elsewhere, and give "
            "the command again (no finished run is trained again)"
        ) from None


def say(text: str) -> None:
    """Progress, notes, logs. That it cannot be written any more (`2>&1 | head`, a full disk) stops
    no training."""
    try:
        sys.stderr.write(text + "\n")
        sys.stderr.flush()
    except OSError:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (until the end)


def print_rows(
    rows: Sequence[Mapping[str, Any]], *, format: str, title: str = "", total: str = ""
) -> None:
    """A list of equal mappings as a table, Markdown, CSV or JSON; numbers are right-aligned.

    A number that is not finite is empty in CSV and null in JSON, as what is missing.

    Args:
        rows: all with the same keys, which become the headings.
        format: table, markdown, csv or json.
        title: above a table or Markdown.
        total: a line below a table or Markdown.
    """
    if format == "json":
        print_json(list(rows))
        return
    headings = list(rows[0]) if rows else []
    if format == "csv":
        text = io.StringIO()
        writer = csv.DictWriter(text, fieldnames=headings, lineterminator="\n")
        writer.writeheader()
        writer.writerows(plain(row) for row in rows)
        out(text.getvalue())
        return
    table = TextTable(
        title,
        [{heading: shown(row[heading]) for heading in headings} for row in rows],
        [each for each in headings if not _are_numbers([row[each] for row in rows])],
    )
    print_tables([table], format=format)
    if total:
        out(f"\n{total}" if format == "markdown" else total)


def print_tables(tables: Sequence[TextTable], *, format: str = "table") -> int:
    """Print them one below another, as Markdown or for a terminal; its width, in characters.

    Without a terminal lines may be as long as tables need.
    """
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    console = Console(file=results(), highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDE
    console.width = max(console.width, NARROW)
    for table in tables:
        if format == "markdown":  # a title tells that something else may follow
            titled = [*titled_markdown(table), ""]
            out("\n\n".join(titled) if table.title else markdown(table))
            continue
        printed = Table(
            title=Text(table.title, style="bold") if table.title else None,
            title_justify="left",
            box=box.SIMPLE_HEAD,
            padding=(0, 1, 0, 0),
        )
        for heading in table.headings:
            words = (word for row in table.rows for word in row[heading].split())
            printed.add_column(
                Text(heading),
                justify="left" if table.has_words(heading) else "right",
                overflow="fold",
                min_width=max(map(len, words), default=0),  # no number and no path is broken
            )
        for row in table.rows:
            cells = row.values()
            printed.add_row(*(Text(c, style="bold" if c.endswith("*") else "") for c in cells))
        with written():
            console.print(printed, crop=False)
    return console.width


def print_notes(notes: Iterable[str], width: int = 100) -> None:
    """Below tables, each in lines of so many characters; no path and no number is broken."""
    at_spaces = textwrap.TextWrapper(
        width, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False
    )
    out("\n".join(map(at_spaces.fill, notes)))


def print_json(content: Any) -> None:
    """One valid JSON document: null stands for numbers that are not finite."""
    out(document_text(content))


def shown(value: Any) -> str:
    """A value in a table cell; integers with thousands separators, None as nothing."""
    if value is None:
        return ""
    return f"{value:,}" if isinstance(value, int) and not isinstance(value, bool) else str(value)


_NUMBER = re.compile(r"[-+]?\d[\d,.]*(±\d[\d.]*)?\*?( (%|\w{1,3}))?")  # 83.48±1.97, 85.07 %, 3 min


def _are_numbers(column: Sequence[Any]) -> bool:
    """Whether a column holds numbers, or texts of numbers, and perhaps gaps."""
    there = [value for value in column if value is not None and value != ""]
    return bool(there) and all(
        isinstance(value, int | float) or _NUMBER.fullmatch(str(value)) for value in there
    )
