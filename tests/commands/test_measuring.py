"""What is said of runs that are left out, whichever command measures them."""

from __future__ import annotations

import re

import pytest

from fsam_cli.commands._measuring import Survey, _lines_of, _progress, any_failed
from fsam_cli.measure.subjects import MEASURABLE, Candidate

SURVEY = Survey("perturb", "point", missing=lambda _: [], measure=lambda *_: None)


def left_out(run, status, reason="", *, settings="", seed=0, told_once=False):
    return Candidate("r", "sam", settings, seed, run, status, reason, told_once=told_once)


def test_every_run_has_a_line_but_those_that_want_the_same_file_have_one():
    runs = [
        left_out("a", "interrupted"),
        left_out("b", "interrupted"),
        left_out("c", "diverged", "loss not finite"),
        left_out("d", "diverged", "loss not finite"),
        left_out("e", "unmeasurable", "name the file", told_once=True),
        left_out("f", "unmeasurable", "name the file", told_once=True),
    ]
    assert _lines_of(runs) == [
        "a: interrupted",
        "b: interrupted",
        "c: diverged: loss not finite",
        "d: diverged: loss not finite",
        "2 runs: unmeasurable: name the file",
    ]


@pytest.mark.parametrize(
    ("status", "failed"),
    [
        *((MEASURABLE, False), ("diverged", False), ("interrupted", False), ("busy", False)),
        *(("unmeasurable", True), ("unreadable", True)),
    ],
)
def test_what_cannot_be_measured_or_read_is_a_failure_and_what_has_no_weights_none(status, failed):
    assert any_failed([left_out("a", MEASURABLE), left_out("b", status)]) == failed


def plain(text):
    """Without what a terminal makes bold."""
    return re.sub(r"\x1b\[[0-9;]*m", "", text)


@pytest.mark.parametrize("terminal", [True, False])
def test_a_network_that_turns_out_to_be_in_the_way_is_named_with_its_settings(
    monkeypatch, capsys, terminal
):
    monkeypatch.setattr("sys.stderr.isatty", lambda: terminal)
    run = left_out("a", "busy", "[red] is a word", settings="eta=1", seed=3)
    file = left_out("b", "busy", "too", seed=None)
    with _progress(SURVEY, 3, 2, quiet=False) as progress:
        for entry in (run, file):
            progress.begin(entry)
            progress.end(entry)
    told = plain(capsys.readouterr().err)
    if terminal:
        assert "sam [eta=1] seed 3: busy: [red] is a word\n" in told
        assert "sam: busy: too\n" in told
    else:
        assert told.splitlines() == [
            "[1/2] sam [eta=1] seed 3: left out, busy: [red] is a word",
            "[2/2] sam: left out, busy: too",
        ]


def test_the_bar_names_what_is_measured_with_its_settings(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with _progress(SURVEY, 3, 1, quiet=False) as progress:
        progress.begin(left_out("a", MEASURABLE, settings="eta=1, rho=0.1"))
    assert "sam [eta=1, rho=0.1] seed 0" in plain(capsys.readouterr().err)


def test_quiet_is_quiet(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with _progress(SURVEY, 3, 1, quiet=True) as progress:
        progress.begin(left_out("a", MEASURABLE))
        progress.end(left_out("a", "busy"))
    assert capsys.readouterr().err == ""
