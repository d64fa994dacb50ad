"""Several GPUs are dealt out to the workers."""

from __future__ import annotations

import json
import multiprocessing
import os

import pytest
import torch

from fsam_cli.datasets.digits import Digits
from fsam_cli.engine.run import RunOutcome, loaded_data
from fsam_cli.launch import local
from fsam_cli.launch._devices import VISIBLE, gpus, seeing
from fsam_cli.launch.local import Options, default_jobs, launch
from tests.support.command import TINY, start
from tests.support.launched import answer, planned


@pytest.fixture
def three_gpus(monkeypatch):
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 3)
    monkeypatch.delenv(VISIBLE, raising=False)


def test_gpus_have_the_names_that_the_environment_gives_them(three_gpus, monkeypatch):
    assert gpus() == ["0", "1", "2"]
    monkeypatch.setenv(VISIBLE, "5, GPU-ab12,7")
    assert gpus() == ["5", "GPU-ab12", "7"]
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)  # the driver knows no 7
    assert gpus() == ["5", "GPU-ab12"]


def test_the_default_is_one_run_on_each_gpu(three_gpus):
    plans = [planned(device="cuda")] * 5
    assert default_jobs(plans) == 3
    assert default_jobs(plans[:2]) == 2
    assert default_jobs([]) == 1


@pytest.mark.parametrize("before", [None, "4,5"])
def test_what_is_seen_inside_is_undone_outside(monkeypatch, before):
    monkeypatch.delenv(VISIBLE, raising=False)
    if before is not None:
        monkeypatch.setenv(VISIBLE, before)
    with pytest.raises(KeyError), seeing("5"):
        assert os.environ[VISIBLE] == "5"
        raise KeyError
    assert os.environ.get(VISIBLE) == before


def tells_what_it_sees(pipe, options, stop):
    answer(pipe, os.environ.get(VISIBLE, "all"))


class Silent:
    def started(self, plan): ...
    def over(self, plan, report): ...


@pytest.mark.parametrize(
    ("device", "seen"), [("cuda", ["1", "2", "0"]), ("cpu", ["all", "all", "all"])]
)
def test_workers_see_one_gpu_each_and_the_successor_of_a_dead_one_sees_its_gpu(
    three_gpus, monkeypatch, tmp_path, device, seen
):
    monkeypatch.setattr(local, "_work", tells_what_it_sees)
    plans = [
        planned(name, device=device, file=tmp_path / "there")
        for name in ("dies", "waits", "waits", "is waited for")
    ]
    ended = launch(plans, Options(jobs=3), Silent())
    assert [report.ended for _, report in ended] == ["failed", "done", "done", "done"]
    assert [report.reason for _, report in ended[1:]] == seen


class KillsAtTheFirstEnd(Silent):
    """Ends every worker just before the next plan is given out."""

    def __init__(self):
        self.reports = []

    def over(self, plan, report):
        self.reports.append(report)
        if len(self.reports) == 1:
            for worker in multiprocessing.active_children():
                worker.kill()
                worker.join()


def test_a_worker_that_dies_before_its_next_plan_reaches_it_stops_no_other_run(monkeypatch):
    monkeypatch.setattr(local, "_work", tells_what_it_sees)
    plans = [planned() for _ in range(5)]
    monitor = KillsAtTheFirstEnd()
    ended = [report.ended for _, report in launch(plans, Options(jobs=2), monitor)]
    # The first worker loses its next plan, the other the one that it has or its next, perhaps the
    # last of all.
    assert sorted(ended) == ["done"] * 3 + ["failed"] * 2
    failed = next(report for report in monitor.reports if report.ended == "failed")
    assert "was killed by signal 9" in failed.reason


@pytest.mark.parametrize("jobs", [1, 2])
def test_a_shard_without_a_run_is_no_error(jobs):
    assert launch([], Options(jobs=jobs), Silent()) == []


LOSES_ITS_GPU = """
import torch
from fsam_cli.contracts import Minimiser

def refused():
    raise RuntimeError("CUDA error: device-side assert triggered")

class Needs(Minimiser):
    @property
    def radius(self):
        return 0.1

    def direction(self, at):
        if torch.cuda.is_initialized():
            torch.cuda.synchronize()
        return at.g

class Asserts(Needs):
    def direction(self, at):
        torch.cuda.is_initialized = lambda: True
        torch.cuda.synchronize = refused
        refused()

PROVIDES = {"asserts": Asserts, "needs": Needs}
"""


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_runs_after_a_lost_gpu_have_a_process_that_can_use_it(tmp_path, jobs):
    """A stand-in for the sticky errors of CUDA, which tests/gpu has for real."""
    (tmp_path / "loses.py").write_text(LOSES_ITS_GPU)
    settings = (*TINY[:1], "seeds=[0,1]", "methods={asserts: {}, needs: {}}", *TINY[3:])
    arguments = ("train", "-r", "quickstart", *settings, "--plugin", "loses.py", "-j", jobs)
    run = start(*arguments, "--device", "cpu", cwd=tmp_path)
    _, errors = run.communicate(timeout=240)
    assert run.returncode == 1, errors
    results = [json.loads(path.read_text()) for path in tmp_path.rglob("result.json")]
    ended = sorted((each["run"]["label"], each["status"]) for each in results)
    assert ended == [("asserts", "failed")] * 2 + [("needs", "done")] * 2, errors


def test_whoever_leaves_the_training_to_workers_keeps_no_data(monkeypatch):
    monkeypatch.setattr(local, "_work", tells_what_it_sees)
    loaded_data(Digits(), None, Digits().fingerprint(None).digest)
    launch([planned() for _ in range(2)], Options(jobs=2), Silent())
    assert loaded_data.cache_info().currsize == 0


def starts_one_of_its_own(pipe, options, stop):
    """As a data loader of a plugin does."""
    while (plan := pipe.recv()) is not None:
        child = multiprocessing.Process(target=print)
        child.start()
        child.join()
        pipe.send(("over", RunOutcome("done", f"{plan.name}: {child.exitcode}")))


def test_a_worker_may_have_workers_of_its_own(monkeypatch):
    monkeypatch.setattr(local, "_work", starts_one_of_its_own)
    plans = [planned(name) for name in "ab"]
    ended = launch(plans, Options(jobs=2), Silent())
    assert [report.reason for _, report in ended] == ["a: 0", "b: 0"]
