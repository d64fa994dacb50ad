"""How runs are handed out, and what stops handing them out."""

from __future__ import annotations

import multiprocessing
import os
import signal
from types import SimpleNamespace

import pytest

from fsam_cli.engine.run import RunOutcome
from fsam_cli.errors import Interrupted, RecordError
from fsam_cli.launch import local
from fsam_cli.launch.local import Options, default_jobs, launch
from fsam_cli.launch.replicas import replicated
from fsam_cli.signals import StopFlag
from tests.support.launched import answer, planned


class Watching:
    """A monitor that keeps what it is told."""

    def __init__(self, at_an_end=lambda plan, outcome: None):
        self.begun, self.at_an_end = [], at_an_end

    def started(self, plan):
        self.begun.append(plan)

    def epoch(self, plan, row): ...
    def stepped(self, plan, done, total): ...

    def over(self, plan, outcome):
        self.at_an_end(plan, outcome)


def all_done(pipe, options, stop):
    answer(pipe)


def all_meet_a_full_disk(pipe, options, stop):
    while pipe.recv() is not None:
        pipe.send(("error", RecordError("the disk is full")))


def meets_a_full_disk_and_goes_home(pipe, options, stop):
    plan = pipe.recv()
    pipe.send(("error", RecordError("the disk is full")))
    if pipe.recv() is None:
        plan.file.touch()


def trains_an_epoch(pipe, options, stop):
    while pipe.recv() is not None:
        pipe.send(("step", (1, 4)))
        pipe.send(("epoch", {"epoch": 1}))
        pipe.send(("over", RunOutcome("done")))


def tells_its_options(pipe, options, stop):
    while pipe.recv() is not None:
        pipe.send(("over", RunOutcome("done", f"{options.jobs} at once, rerun {options.rerun}")))


@pytest.mark.parametrize(
    ("threads", "runs", "jobs"), [(1, 20, 8), (3, 20, 2), (16, 20, 1), (1, 5, 5)]
)
def test_the_default_on_a_cpu_is_cores_over_threads(monkeypatch, threads, runs, jobs):
    monkeypatch.setattr(local, "cores", lambda: 8)
    assert default_jobs([planned(threads=threads)] * runs) == jobs


def test_runs_of_unlike_replicas_have_room_for_the_largest(monkeypatch):
    monkeypatch.setattr(local, "cores", lambda: 8)
    assert default_jobs([planned(replicas=1), planned(replicas=4), *[planned()] * 6]) == 2


@pytest.mark.parametrize(
    ("ended", "carried_out"),
    [("failed", 1), ("diverged", 1), ("unreadable", 1), ("done", 3), ("skipped", 3), ("busy", 3)],
)
def test_what_stops_the_rest_where_that_is_asked_for(monkeypatch, ended, carried_out):
    monkeypatch.setattr(local, "execute", lambda *_, **__: RunOutcome(ended))
    plans = [planned() for _ in range(3)]
    assert len(launch(plans, Options(fail_fast=True), Watching())) == carried_out
    assert len(launch(plans, Options(), Watching())) == 3


def test_a_bad_run_stops_those_that_wait_in_processes_too(monkeypatch, tmp_path):
    monkeypatch.setattr(local, "_work", all_done)
    there = tmp_path / "there"
    plans = [planned("dies"), planned("waits", file=there), planned(), planned()]
    monitor = Watching(lambda plan, outcome: there.touch())
    ended = launch(plans, Options(jobs=2, fail_fast=True), monitor)
    assert [outcome.ended for _, outcome in ended] == ["failed", "done"]
    assert monitor.begun == plans[:2]
    died = ended[0][1]
    assert died.reason == "its process ended with code 9; the same command continues it"
    assert died.status == "interrupted"


@pytest.mark.parametrize("jobs", [1, 2])
def test_no_run_is_begun_after_the_request_to_stop(monkeypatch, jobs):
    monkeypatch.setattr(local, "_work", all_done)
    monkeypatch.setattr(local, "execute", lambda *_, **__: RunOutcome("done"))
    asked = []

    def ask_once(plan, outcome):
        if not asked:
            asked.append(plan)
            os.kill(os.getpid(), signal.SIGTERM)

    monitor = Watching(ask_once)
    with pytest.raises(Interrupted):
        launch([planned() for _ in range(6)], Options(jobs=jobs), monitor)
    assert len(monitor.begun) == jobs


def test_outcomes_come_in_the_order_of_the_plans_whichever_ended_first(monkeypatch, tmp_path):
    monkeypatch.setattr(local, "_work", all_done)
    there = tmp_path / "there"
    plans = [planned("waits", file=there), planned()]
    ended = launch(plans, Options(jobs=2), Watching(lambda plan, outcome: there.touch()))
    assert [plan for plan, _ in ended] == plans


def test_no_run_is_begun_after_an_error_of_all(monkeypatch):
    monkeypatch.setattr(local, "_work", all_meet_a_full_disk)
    monitor = Watching()
    with pytest.raises(RecordError, match="the disk is full"):
        launch([planned() for _ in range(6)], Options(jobs=2), monitor)
    assert len(monitor.begun) == 2


@pytest.mark.parametrize("replicas", [1, 2])
def test_a_process_that_has_lost_its_replicas_is_not_waited_for(monkeypatch, tmp_path, replicas):
    monkeypatch.setattr(local, "_work", meets_a_full_disk_and_goes_home)
    at_home = tmp_path / "at home"
    plans = [planned(replicas=replicas, file=at_home)] * 2
    with pytest.raises(RecordError, match="the disk is full"):
        launch(plans, Options(jobs=2), Watching())
    assert at_home.exists() == (replicas == 1)


@pytest.mark.parametrize(("replicas", "kind"), [(1, "over"), (2, "last")])
def test_a_run_whose_replicas_failed_is_its_processs_last(monkeypatch, replicas, kind):
    monkeypatch.setattr(local, "ignored_from_now_on", lambda: None)  # not here
    monkeypatch.setattr(local, "execute", lambda *_, **__: RunOutcome("failed"))
    ours, theirs = multiprocessing.Pipe()
    ours.send(planned(replicas=replicas))
    ours.send(None)
    local._work(theirs, Options(), StopFlag())
    assert ours.recv() == (kind, RunOutcome("failed"))


@pytest.mark.parametrize("replicas", [1, 2])
def test_replicas_are_led_by_a_process_of_their_own(monkeypatch, replicas):
    monkeypatch.setattr(local, "execute", lambda *_, **__: RunOutcome("done", "here"))
    there = SimpleNamespace(work=lambda: [(None, RunOutcome("done", "there"))])
    monkeypatch.setattr(local, "_Pool", lambda *_: there)
    ((_, outcome),) = launch([planned(replicas=replicas)], Options(jobs=1), Watching())
    assert outcome.reason == ("here" if replicas == 1 else "there")


def test_no_process_outlives_an_error_of_who_watches(monkeypatch, tmp_path):
    monkeypatch.setattr(local, "_work", all_done)
    plans = [planned(), planned("waits", file=tmp_path / "never"), planned()]

    def fails(plan, outcome):
        raise KeyError

    with pytest.raises(KeyError):
        launch(plans, Options(jobs=2), Watching(fails))
    for process in multiprocessing.active_children():
        process.join(timeout=5)
    assert not multiprocessing.active_children()


def test_of_many_steps_at_once_one_is_told():
    told = []
    tell = local._thinned(SimpleNamespace(send=told.append))
    for step in range(100):
        tell(step, 100)
    assert told == [("step", (0, 100))]


def test_processes_know_how_many_runs_there_are_at_once(monkeypatch):
    monkeypatch.setattr(local, "_work", tells_its_options)
    ended = launch([planned(), planned()], Options(jobs=5, rerun="all"), Watching())
    assert [outcome.reason for _, outcome in ended] == ["2 at once, rerun all"] * 2


def test_a_run_is_carried_out_as_was_asked_for(monkeypatch):
    asked = []
    monkeypatch.setattr(
        local, "execute", lambda plan, hooks, **how: asked.append(how) or RunOutcome("done")
    )
    launch([planned()], Options(rerun="none", force_resume=True), Watching())
    local._carried_out(planned(), None, Options(jobs=4))
    assert asked == [
        {"rerun": "none", "force_resume": True, "at_once": 1, "replicated": replicated},
        {"rerun": "failed", "force_resume": False, "at_once": 4, "replicated": replicated},
    ]


def test_what_a_run_tells_here_reaches_who_watches_it(monkeypatch):
    def execute(plan, hooks, **_):
        hooks.on_step(1, 4)
        hooks.on_epoch({"epoch": 1})
        told.append(hooks.checkpoint_seconds)
        return RunOutcome("done")

    monkeypatch.setattr(local, "execute", execute)
    told, monitor = [], Watching()
    monitor.stepped = lambda plan, done, total: told.append((plan.name, done, total))
    monitor.epoch = lambda plan, row: told.append((plan.name, row))
    launch([planned("a")], Options(checkpoint_seconds=5.0), monitor)
    assert told == [("a", 1, 4), ("a", {"epoch": 1}), 5.0]


def test_what_processes_tell_of_a_run_reaches_who_watches_it(monkeypatch):
    monkeypatch.setattr(local, "_work", trains_an_epoch)
    told, plans = [], [planned("a"), planned("b")]
    monitor = Watching()
    monitor.stepped = lambda plan, done, total: told.append((plan.name, done, total))
    monitor.epoch = lambda plan, row: told.append((plan.name, row))
    launch(plans, Options(jobs=2), monitor)
    for plan in plans:
        own = [tuple(each[1:]) for each in told if each[0] == plan.name]
        assert own == [(1, 4), ({"epoch": 1},)]


def test_a_process_tells_an_error_of_all_and_waits_for_what_is_decided(monkeypatch):
    trouble = RecordError("the disk is full")
    ended = [trouble, RunOutcome("done")]

    def execute(*_, **__):
        now = ended.pop(0)
        if now is trouble:
            raise now
        return now

    monkeypatch.setattr(local, "ignored_from_now_on", lambda: None)  # not here
    monkeypatch.setattr(local, "execute", execute)
    ours, theirs = multiprocessing.Pipe()
    for plan in (planned(), planned(), None):
        ours.send(plan)
    local._work(theirs, Options(), StopFlag())
    kind, what = ours.recv()
    assert (kind, str(what)) == ("error", "the disk is full")
    assert ours.recv() == ("over", RunOutcome("done"))


def test_a_process_stops_when_it_is_asked_to_or_is_an_orphan(monkeypatch):
    stop, parents, seen = StopFlag(), [7, 7, 7, 1], []

    def execute(plan, hooks, **_):
        seen.append(hooks.should_stop())
        stop.set()
        seen.append(hooks.should_stop())
        stop._byte.value = 0
        seen.extend((hooks.should_stop(), hooks.should_stop(), hooks.checkpoint_seconds))
        return RunOutcome("interrupted")

    monkeypatch.setattr(local, "ignored_from_now_on", lambda: None)  # not here
    monkeypatch.setattr(local, "execute", execute)
    monkeypatch.setattr(os, "getppid", lambda: parents.pop(0))
    ours, theirs = multiprocessing.Pipe()
    ours.send(planned())
    ours.send(None)
    local._work(theirs, Options(checkpoint_seconds=5.0), stop)
    assert seen == [False, True, False, True, 5.0]


@pytest.mark.parametrize("gone", ["the end of the pipe", "the machine's own error"])
def test_a_process_to_which_nobody_speaks_any_more_ends(monkeypatch, gone):
    class Pipe:
        def recv(self):
            raise EOFError if gone == "the end of the pipe" else ConnectionResetError

    monkeypatch.setattr(local, "ignored_from_now_on", lambda: None)  # not here
    assert local._work(Pipe(), Options(), StopFlag()) is None
