"""Killed at any moment, the same command ends in the same bits."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

import pytest

from tests.support.command import TINY, bits, fsam, start

SLOWER = (*TINY, "train.epochs=12", "train.select=validation", "train.ema=0.9")
TRAIN = ("train", "--recipe", "quickstart", *SLOWER, "--checkpoint-every", "0.05", "-q")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("whole")
    fsam(*TRAIN, "-j", "1", cwd=folder)
    return bits(folder / "runs")


def wait_for(condition, process, seconds=60.0):
    end = time.monotonic() + seconds
    while time.monotonic() < end and process.poll() is None:
        if condition():
            return True
        time.sleep(0.01)
    return condition()


def kill_group(process, number=signal.SIGKILL):
    os.killpg(process.pid, number)
    process.communicate(timeout=60)


def count(root: Path, name: str) -> int:
    return len(list(root.rglob(name)))


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_killed_three_times_and_repeated_ends_in_the_same_bits(tmp_path, uninterrupted, jobs):
    runs = tmp_path / "runs"
    moments = [
        lambda: count(runs, "config.yaml") == 2,  # planned, nothing trained
        lambda: count(runs, "checkpoint.pt") >= 1,  # in mid-run
        lambda: count(runs, "result.json") >= 1,  # one run over
    ]
    for moment in moments:
        process = start(*TRAIN, "-j", jobs, cwd=tmp_path)
        assert wait_for(moment, process)
        kill_group(process)
    fsam(*TRAIN, "-j", jobs, cwd=tmp_path)
    assert bits(runs) == uninterrupted
    assert count(runs, "checkpoint.pt") == 0
    assert count(runs, "*.tmp") == 0 or all(p.name.startswith(".") for p in runs.rglob("*.tmp"))


@pytest.mark.parametrize(("jobs", "number"), [("1", signal.SIGINT), ("2", signal.SIGTERM)])
def test_an_interrupt_saves_says_how_to_go_on_and_exits_with_130(
    tmp_path, uninterrupted, jobs, number
):
    runs = tmp_path / "runs"
    process = start(*TRAIN, "-j", jobs, cwd=tmp_path)
    assert wait_for(lambda: count(runs, "checkpoint.pt") >= 1, process)
    os.kill(process.pid, number)
    os.kill(process.pid, number)  # as a scheduler that signals the process and its group does
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "the same command goes on" in stderr
    assert "Traceback" not in stderr
    assert count(runs, "result.json") < 2
    fsam(*TRAIN, "-j", jobs, cwd=tmp_path)
    assert bits(runs) == uninterrupted


def test_ctrl_c_reaches_the_whole_group_and_still_ends_cleanly(tmp_path):
    process = start(*TRAIN, "-j", "2", cwd=tmp_path)
    assert wait_for(lambda: count(tmp_path / "runs", "checkpoint.pt") >= 1, process)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr


def test_a_worker_that_dies_takes_no_other_run_with_it(tmp_path):
    process = start(*TRAIN, "-j", "2", "seeds=[0, 1]", cwd=tmp_path)
    runs = tmp_path / "runs"
    assert wait_for(lambda: count(runs, "checkpoint.pt") >= 1, process)
    os.kill(_children(process.pid)[-1], signal.SIGKILL)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "killed by signal 9" in stderr
    assert count(runs, "result.json") == 3
    fsam(*TRAIN, "-j", "2", "seeds=[0, 1]", cwd=tmp_path)
    assert count(runs, "result.json") == 4


def _children(parent: int) -> list[int]:
    """Training workers of a process (multiprocessing's resource tracker is not one)."""
    found = []
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
            arguments = (stat.parent / "cmdline").read_bytes().decode()
        except OSError:
            continue
        if int(fields[1]) == parent and "spawn_main" in arguments:
            found.append(int(stat.parent.name))
    return sorted(found)
