"""How a launch tells its runs apart."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from fsam_cli.commands._progress import Bars, Lines, monitor_for, names_of
from fsam_cli.engine.run import RunOutcome


def planned(label, cell, seed=0):
    return SimpleNamespace(label=label, cell=cell, seed=seed, folder=Path(label, cell, str(seed)))


def test_runs_go_by_label_and_seed_and_the_points_of_a_sweep_by_their_cell_too():
    one, other = planned("sam", "aa"), planned("fsam", "bb", seed=1)
    point, another = planned("asam", "cc"), planned("asam", "dd")
    names = names_of([one, other, point, another])
    assert list(names.values()) == [
        "sam seed 0",
        "fsam seed 1",
        "asam seed 0 (cc)",
        "asam seed 0 (dd)",
    ]


ROW = {"epoch": 7, "train_loss": 0.5, "validation_accuracy": 0.25, "test_accuracy": 0.75}


@pytest.mark.parametrize(("width", "validation"), [(80, False), (120, True)])
def test_counts_times_and_accuracy_fit_the_terminal(monkeypatch, capsys, width, validation):
    monkeypatch.setenv("COLUMNS", str(width))
    plan = planned("sam_matched", "aa", seed=12)
    plan.epochs, plan.sample_gradients = 200, 1000
    bars = Bars([plan])
    bars.started(plan)
    bars.epoch(plan, ROW)
    bars._progress.console.print(bars._progress.get_renderable())
    shown = capsys.readouterr().err
    assert "…" not in shown
    for part in ("sam_matched seed 12", "7/200", "loss 0.5000", "test 75.00 %", "0:00:00"):
        assert part in shown
    assert ("validation 25.00 %" in shown) == validation


@pytest.mark.parametrize("ended", ["skipped", "busy", "diverged", "failed"])
def test_what_a_run_does_not_compute_is_taken_off_the_time_left(ended):
    plans = [planned("sam", "aa"), planned("fsam", "bb")]
    for plan in plans:
        plan.epochs, plan.sample_gradients = 4, 1000
    bars = Bars(plans)
    overall = bars._progress.tasks[0]
    bars.started(plans[0])
    bars.stepped(plans[0], 1, 4)
    bars.over(plans[0], RunOutcome(ended))
    assert (overall.completed, overall.total) == (250, 1250)
    bars.started(plans[1])
    bars.over(plans[1], RunOutcome("done"))
    assert overall.completed == overall.total


def test_the_bar_of_a_run_counts_its_epochs():
    plan = planned("sam", "aa")
    plan.epochs, plan.sample_gradients = 4, 1000
    bars = Bars([plan])
    bars.started(plan)
    for done in (1, 2, 3):
        bars.stepped(plan, done, 4)
    overall, of_the_run = bars._progress.tasks
    assert (of_the_run.completed, of_the_run.total) == (3, 4)
    assert (overall.completed, overall.total) == (750, 1000)


@pytest.mark.parametrize(
    ("ended", "bad", "told"),
    [
        ("done", "", False),
        ("skipped", "", False),
        ("busy", "", True),
        ("diverged", "1 bad", True),
        ("failed", "1 bad", True),
        ("unreadable", "1 bad", True),
    ],
)
def test_what_went_wrong_is_told_and_counted_beside_the_bars(capsys, ended, bad, told):
    plan = planned("sam", "aa")
    plan.epochs, plan.sample_gradients = 4, 1000
    bars = Bars([plan])
    bars.started(plan)
    bars.over(plan, RunOutcome(ended, "[red] is a word"))
    assert capsys.readouterr().err == (f"sam seed 0: {ended}: [red] is a word\n" if told else "")
    assert bars._progress.tasks[0].fields == {"count": "1/1", "now": bad}


def test_an_accuracy_of_nothing_is_a_number_and_a_missing_one_is_none(capsys):
    plan = planned("sam", "aa")
    plan.epochs, plan.sample_gradients = 20, 1000
    lines = Lines([plan])
    lines.epoch(plan, {**ROW, "validation_accuracy": 0.0, "test_accuracy": None})
    assert capsys.readouterr().err == "sam seed 0  epoch 7/20  loss 0.5000  validation 0.00 %\n"


def test_bars_stop_with_what_they_watch(monkeypatch):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    with pytest.raises(KeyError), monitor_for([], quiet=False) as bars:
        assert bars._progress.live.is_started
        raise KeyError
    assert not bars._progress.live.is_started


def test_a_line_has_how_many_are_over_how_a_run_ended_and_why(capsys):
    one, other = planned("sam", "aa"), planned("fsam", "bb")
    one.sample_gradients = other.sample_gradients = 1000
    lines = Lines([one, other])
    lines.over(one, RunOutcome("failed", "no memory"))
    lines.over(other, RunOutcome("done"))
    assert capsys.readouterr().err.splitlines() == [
        "[1/2] sam seed 0: failed (no memory), 0 s so far",
        "[2/2] fsam seed 0: done, 0 s so far",
    ]


def test_a_line_tells_the_time_left_by_what_was_trained_since(monkeypatch, capsys):
    now = [100.0]
    monkeypatch.setattr("fsam_cli.commands._progress.time.monotonic", lambda: now[0])
    plans = [planned("sam", "aa", seed) for seed in range(4)]
    for plan, gradients in zip(plans, (500, 1000, 2000, 3000), strict=True):
        plan.sample_gradients = gradients
    lines = Lines(plans)
    lines.over(plans[0], RunOutcome("skipped"))
    now[0] = 160.0
    for plan in plans[1:3]:
        lines.over(plan, RunOutcome("done"))
    lines.over(plans[3], RunOutcome("failed"))
    told = [line.split(": ")[1] for line in capsys.readouterr().err.splitlines()]
    assert told == [
        "skipped, 0 s so far",
        "done, 60 s so far, about 5.0 min left",
        "done, 60 s so far, about 60 s left",
        "failed, 60 s so far",
    ]
