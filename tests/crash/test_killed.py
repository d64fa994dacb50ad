"""Killed at any moment, the same command ends in the same bits."""

from __future__ import annotations

import json
import os
import shlex
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.command import TINY, bits, command, fsam, start

SLOWER = (*TINY, "train.epochs=6", "train.select=validation", "train.ema=0.9")
WHOLE = ("train", "--recipe", "quickstart", *SLOWER, "-q")
TRAIN = (*WHOLE, "--checkpoint-every", "0.05")


@pytest.fixture(scope="module")
def uninterrupted(tmp_path_factory) -> dict:
    folder = tmp_path_factory.mktemp("whole")
    fsam(*WHOLE, "-j", "1", cwd=folder)
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
    fsam(*WHOLE, "-j", jobs, cwd=tmp_path)
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
    assert "run the same command again to resume" in stderr
    assert "Traceback" not in stderr
    assert count(runs, "result.json") < 2
    fsam(*WHOLE, "-j", jobs, cwd=tmp_path)
    assert bits(runs) == uninterrupted


def test_ctrl_c_reaches_the_whole_group_and_still_ends_cleanly(tmp_path):
    process = start(*TRAIN, "-j", "2", cwd=tmp_path)
    assert wait_for(lambda: count(tmp_path / "runs", "checkpoint.pt") >= 1, process)
    os.killpg(process.pid, signal.SIGINT)
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in stderr


def test_a_worker_that_dies_takes_no_other_run_with_it(tmp_path):
    three = ("methods={sgd: {}}", "seeds=[0, 1, 2]", "-j", "2")
    process = start(*TRAIN, *three, cwd=tmp_path)
    runs = tmp_path / "runs"
    assert wait_for(lambda: count(runs, "checkpoint.pt") >= 1, process)
    os.kill(_children(process.pid)[-1], signal.SIGKILL)
    _, stderr = process.communicate(timeout=120)
    assert process.returncode == 1
    assert "killed by signal 9" in stderr
    assert count(runs, "result.json") == 2
    fsam(*WHOLE, *three, cwd=tmp_path)
    assert count(runs, "result.json") == 3


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


SLOW_MODEL = """
import time
from torch import nn
from fsam_cli.contracts import Model

class Slow(Model):
    def build(self, *, channels, classes, image_size):
        class Network(nn.Module):
            def __init__(self):
                super().__init__()
                self.layer = nn.Linear(channels * image_size ** 2, classes)

            def forward(self, images):
                time.sleep(0.4)  # longer than a worker is silent
                return self.layer(images.flatten(1))

        return Network()

PROVIDES = {"slow": Slow}
"""


def test_workers_whose_parent_was_killed_save_and_do_not_fail(tmp_path):
    (tmp_path / "slow.py").write_text(SLOW_MODEL)
    slow = ("--plugin", "slow.py", "model=slow", "train.batch_size=128")
    process = start(*WHOLE, *slow, "-j", "2", cwd=tmp_path)
    runs = tmp_path / "runs"
    assert wait_for(lambda: count(runs, "environment.json") == 2, process)
    workers = _children(process.pid)
    time.sleep(1.0)
    os.kill(process.pid, signal.SIGKILL)
    end = time.monotonic() + 60
    while time.monotonic() < end and any(Path(f"/proc/{worker}").exists() for worker in workers):
        time.sleep(0.05)
    process.communicate(timeout=60)
    assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert count(runs, "result.json") == 0
    assert count(runs, "checkpoint.pt") == 2


@pytest.mark.parametrize("jobs", ["1", "2"])
@pytest.mark.parametrize("listener", ["gone", "full"])
def test_a_log_that_cannot_be_written_any_more_stops_no_training(tmp_path, jobs, listener):
    end = "2>/dev/full" if listener == "full" else "2>&1 >table | head -1"
    train = shlex.join(command("train", "-r", "quickstart", *TINY, "-j", jobs))
    done = subprocess.run(
        ["bash", "-c", f"set -o pipefail; {train} {end}"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).resolve().parents[2])},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    table = done.stdout if listener == "full" else (tmp_path / "table").read_text()
    assert "fsam" in table
    results = [json.loads(path.read_text()) for path in tmp_path.rglob("result.json")]
    assert [result["status"] for result in results] == ["done", "done"]
