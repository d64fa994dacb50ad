"""What a plugin prints: stdout is for results."""

from __future__ import annotations

import json

import pytest

from tests.support.command import fsam, start

TALKS = """
import multiprocessing, os
from torch import nn
from fsam_cli.contracts import Model

print("loaded")
if multiprocessing.parent_process() is not None:
    os.write(1, b"from below Python")

class Talks(Model):
    widths: tuple[int, ...] | None = (4,)

    def model_post_init(self, _):
        print("checked")

    def build(self, *, channels, classes, image_size):
        print(f"built of {self.widths}")
        return nn.Sequential(nn.Flatten(), nn.Linear(channels * image_size**2, classes))

PROVIDES = {"talks": Talks}
"""


@pytest.mark.parametrize("jobs", ["1", "2"])
def test_it_is_no_result_of_a_training_and_a_list_fills_a_tuple(tmp_path, jobs):
    (tmp_path / "talks.py").write_text(TALKS)
    talks = ("--plugin", "talks.py", "model={name: talks, widths: [3, 5]}")
    short = ("methods={sgd: {}}", "train.epochs=1", "seeds=0:2", "-j", jobs, "-f", "json")
    done = fsam("train", "-r", "quickstart", *talks, *short, cwd=tmp_path)
    json.loads(done.stdout)
    for said in ("loaded", "checked", "built of (3, 5)"):
        assert said in done.stderr
    assert ("from below Python" in done.stderr) == (jobs == "2")


@pytest.mark.parametrize(
    "arguments",
    [
        ("train", "-r", "quickstart", "model={name: talks}", "--dry-run"),
        (
            "sweep",
            "-r",
            "quickstart",
            "model={name: talks}",
            "--grid",
            "train.lr=1,2",
            "--dry-run",
        ),
        ("models",),
        ("bench", "--models", "talks", "--methods", "sgd", "--only", "minimiser", "--repeats", "3"),
    ],
    ids=lambda arguments: arguments[0],
)
def test_nor_of_a_command_that_trains_nothing(tmp_path, arguments):
    (tmp_path / "talks.py").write_text(TALKS)
    done = fsam(*arguments, "--plugin", "talks.py", "-f", "json", cwd=tmp_path)
    json.loads(done.stdout)
    assert "checked" in done.stderr
    assert "built of (4,)" in done.stderr


def test_nor_of_runs_at_once_in_processes_of_their_own(tmp_path):
    (tmp_path / "talks.py").write_text(TALKS)
    race = ("--only", "runs", "--models", "talks", "--methods", "sgd", "--at-once", "2")
    few = ("--repeats", "3", "--batch-size", "8", "--plugin", "talks.py", "-f", "json")
    process = start("bench", *race, *few, cwd=tmp_path)
    stdout, stderr = process.communicate(timeout=120)
    assert process.returncode == 0, stderr
    json.loads(stdout)
    assert stderr.count("built of (4,)") >= 2


def test_nor_of_an_analysis_of_the_trained_weights(tmp_path):
    (tmp_path / "talks.py").write_text(TALKS)
    talks = ("--plugin", "talks.py", "-f", "json")
    short = ("model={name: talks}", "methods={sgd: {}}", "train.epochs=1", "seeds=0:1", "-q")
    fsam("train", "-r", "quickstart", *short, *talks, cwd=tmp_path)
    done = fsam("perturb", "--alpha", "0.1", *talks, cwd=tmp_path)
    json.loads(done.stdout)
    assert "built of (4,)" in done.stderr


def test_while_help_is_a_result(tmp_path):
    assert "--recipe" in fsam("train", "--help", cwd=tmp_path).stdout
