"""Lists of rows as the commands print them."""

from __future__ import annotations

import io
import math
import os
import sys

import pytest

from fsam_cli.commands._print import _console, out, print_notes, print_rows, shown
from fsam_cli.errors import RecordError
from fsam_cli.results import results, stdout_for_results


def test_csv_is_a_line_of_headings_and_one_for_each_row_without_what_is_not_finite(capsys):
    print_rows([{"mean": 0.5, "high": math.inf}, {"mean": math.nan, "high": 1}], format="csv")
    assert capsys.readouterr().out == "mean,high\n0.5,\n,1\n"


def test_several_titled_tables_are_paragraphs_of_a_page(capsys):
    print_rows([{"a": 1}], format="markdown", title="T")
    print_rows([{"b": "x"}], format="markdown", title="U")
    assert capsys.readouterr().out.split("\n\n") == [
        *("**T**", "| a |\n| ---: |\n| 1 |"),
        *("**U**", "| b |\n| --- |\n| x |", ""),
    ]


@pytest.mark.parametrize(
    ("rows", "title", "printed"),
    [
        ([{"a": 1}], "", ["| a |\n| ---: |\n| 1 |", "sum\n"]),
        ([{"a": 1}], "T", ["**T**", "| a |\n| ---: |\n| 1 |", "sum\n"]),
        ([], "", ["sum\n"]),
    ],
)
def test_a_total_is_the_paragraph_below_its_table(capsys, rows, title, printed):
    print_rows(rows, format="markdown", title=title, total="sum")
    assert capsys.readouterr().out.split("\n\n") == printed


def test_what_is_marked_is_bold_in_a_terminal(capsys, monkeypatch):
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm", "COLUMNS": "80"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    rows = [{"method": "sam", "test": "83.47±1.36*"}, {"method": "sgd", "test": "52.00±2.00"}]
    print_rows(rows, format="table")
    printed = capsys.readouterr().out
    assert "\x1b[1m83.47±1.36*\x1b[0m" in printed
    assert "\x1b[1m52.00" not in printed


def test_without_a_terminal_lines_are_as_long_as_they_need_to_be(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    print_rows([{"why": "a reason " * 12}], format="table")
    assert ("a reason " * 12).strip() in capsys.readouterr().out


def test_no_word_of_a_heading_is_broken(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "40")
    words = ("sample-gradients", "validation", "interrupted", "accumulated")
    print_rows([{f"{word} %": 1 for word in words}], format="table")
    printed = capsys.readouterr().out
    assert [word for word in words if word in printed] == list(words)
    assert "sample-gradients %" not in printed  # at a space it is


def test_a_terminal_is_as_wide_as_it_says(monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    monkeypatch.setattr("os.get_terminal_size", lambda *_: os.terminal_size((100, 40)))
    for name, value in {"FORCE_COLOR": "1", "TERM": "xterm"}.items():
        monkeypatch.setenv(name, value)
    assert _console().width == 100


def test_numbers_end_below_each_other_and_words_begin_there(capsys, monkeypatch):
    monkeypatch.delenv("COLUMNS", raising=False)
    print_rows([{"name": "a", "n": 5}, {"name": "abc", "n": 12345}], format="table")
    *_, short, long = (
        line.rstrip() for line in capsys.readouterr().out.splitlines() if line.strip()
    )
    assert len(short) == len(long)
    assert short.index("a") == long.index("abc")


def test_notes_fit_a_narrow_terminal_and_are_bullets_of_a_page(capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "50")
    print_notes(["word " * 30, "runs/" * 20], format="table")
    *lines, path = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 50
    assert path == "runs/" * 20
    print_notes(["one", "two"], format="markdown")
    assert capsys.readouterr().out == "- one\n- two\n"


def test_no_rows_are_nothing(capsys):
    print_rows([], format="table")
    assert capsys.readouterr().out.strip() == ""


def test_numbers_have_separators_and_truth_has_none():
    assert (shown(True), shown(1234567), shown(None)) == ("True", "1,234,567", "")


def test_stdout_is_back_however_a_command_ends():
    before = sys.stdout
    with pytest.raises(KeyError), stdout_for_results():
        assert sys.stdout is sys.stderr
        assert results() is before
        raise KeyError
    assert sys.stdout is before
    assert results() is before


def test_a_reader_that_is_gone_is_no_error_of_the_disk(monkeypatch):
    class Gone(io.StringIO):
        def flush(self):
            raise BrokenPipeError

    monkeypatch.setattr("sys.stdout", Gone())
    with pytest.raises(BrokenPipeError):
        out("x")


def test_a_full_disk_is_told_once_and_no_later_flush_tells_it_again(monkeypatch):
    class Full(io.StringIO):
        def flush(self):
            raise OSError(28, "No space left on device")

    full = Full()
    monkeypatch.setattr("sys.stdout", full)
    with pytest.raises(RecordError, match="No space left on device"):
        out("x")
    assert sys.stdout is not full
    sys.stdout.close()
