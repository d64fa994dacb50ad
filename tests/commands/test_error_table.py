"""docs/errors.md: every command of its first table prints its message and ends with its code."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from tests.support.command import fsam

PAGE = Path(__file__).resolve().parents[2] / "docs" / "errors.md"
ROW = re.compile(r"^\| `fsam (?P<command>[^`]+)` \| (?P<message>.+) \| (?P<code>\d+) \|$", re.M)
ROWS = [match.groupdict() for match in ROW.finditer(PAGE.read_text())]


def test_the_page_has_rows():
    assert len(ROWS) > 30


@pytest.mark.parametrize("row", ROWS, ids=[row["command"] for row in ROWS])
def test_the_message_is_printed(row, tmp_path):
    done = fsam(*shlex.split(row["command"]), cwd=tmp_path, check=int(row["code"]))
    flat = " ".join(done.stderr.replace("│", " ").split())  # Typer draws a box
    assert row["message"].replace("`", "") in flat.replace("`", "")
    assert "Traceback" not in done.stderr
    assert done.stdout == ""
    assert not list(tmp_path.iterdir()), "nothing may be written"
