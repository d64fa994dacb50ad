"""Results go to stdout, everything else to stderr."""

from __future__ import annotations

import os
import re
import sys
import textwrap
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fsam_cli.errors import RecordError
from fsam_cli.records.plain import csv_text, document_text, plain
from fsam_cli.reports.text_table import TextTable, bullets, markdown, titled_markdown
from fsam_cli.results import forget_results, results

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table as RichTable

WIDE = 160  # characters, where no terminal says how many
NARROW = 40  # whatever COLUMNS says
MOST_OF_NOTES = 100  # characters in a line of them


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
        out(csv_text(headings, map(plain, rows)))
        return
    table = TextTable(
        title,
        [{heading: shown(row[heading]) for heading in headings} for row in rows],
        [each for each in headings if not _are_numbers([row[each] for row in rows])],
    )
    if rows:
        print_tables([table], format=format)
    if total:  # a title brings its own empty lines
        out(f"\n{total}" if format == "markdown" and rows and not title else total)


def print_tables(tables: Iterable[TextTable], *, format: str = "table") -> None:
    """Print them one below another, as Markdown or for a terminal."""
    console = _console()
    for table in tables:
        if format != "markdown":
            with written():
                console.print(_for_a_terminal(table), crop=False)
        elif table.title:  # something else may follow
            out("\n\n".join([*titled_markdown(table), ""]))
        else:
            out(markdown(table))


def _console() -> Console:
    """Stdout; without a terminal lines may be as long as tables need."""
    from rich.console import Console

    console = Console(file=results(), highlight=False)
    if not console.is_terminal and "COLUMNS" not in os.environ:
        console.width = WIDE
    console.width = max(console.width, NARROW)
    return console


def _for_a_terminal(table: TextTable) -> RichTable:
    from rich import box
    from rich.table import Table as RichTable
    from rich.text import Text

    printed = RichTable(
        title=Text(table.title, style="bold") if table.title else None,
        title_justify="left",
        box=box.SIMPLE_HEAD,
        padding=(0, 1, 0, 0),
    )
    for heading in table.headings:
        texts = (heading, *(row[heading] for row in table.rows))
        words = (word for text in texts for word in text.split())
        printed.add_column(
            Text(heading),
            justify="left" if table.has_words(heading) else "right",
            overflow="fold",
            min_width=max(map(len, words), default=0),  # no word, number or path is broken
        )
    for row in table.rows:
        cells = row.values()
        printed.add_row(*(Text(c, style="bold" if c.endswith("*") else "") for c in cells))
    return printed


def print_notes(notes: Sequence[str], *, format: str = "table") -> None:
    """Below tables: bullets of Markdown, or lines that fit, with no path and no number broken."""
    if format == "markdown":
        out(bullets(notes))
        return
    at_spaces = textwrap.TextWrapper(
        min(_console().width, MOST_OF_NOTES),
        subsequent_indent="  ",
        break_long_words=False,
        break_on_hyphens=False,
    )
    out("\n".join(map(at_spaces.fill, notes)))


def say_written(paths: Iterable[Path]) -> None:
    """A line for each file."""
    for path in paths:
        say(f"wrote {path}")


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


def duration(seconds: float) -> str:
    """`1.5 h`."""
    for unit, length in (("d", 86400), ("h", 3600), ("min", 60)):
        if seconds >= 2 * length:
            return f"{seconds / length:,.1f} {unit}"
    return f"{seconds:.0f} s"
