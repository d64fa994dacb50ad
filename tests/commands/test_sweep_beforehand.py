"""What `fsam sweep` and `fsam toy` say before or beside their numbers."""

from __future__ import annotations

import csv
import io
import json
import sys

import pytest

from tests.support.command import TINY, fsam

GRID = ("sweep", "-r", "quickstart", *TINY, "train.epochs=1", "-q", "--only", "fsam")


@pytest.mark.parametrize("command", [(*GRID, "--grid", "eta=1,10"), ("toy",)], ids=["sweep", "toy"])
def test_pictures_without_matplotlib_are_refused_before_anything_is_done(
    tmp_path, monkeypatch, command
):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = fsam(*command, "--figures", "pictures", cwd=tmp_path, check=2)
    assert "pictures need matplotlib" in done.stderr
    assert done.stdout == ""
    assert list(tmp_path.iterdir()) == []


def test_a_shard_says_that_its_table_is_a_part_and_how_to_get_the_whole(tmp_path):
    grid = (*GRID, "--grid", "eta=1,10")
    part = fsam(*grid, "--shard", "1/2", cwd=tmp_path)
    assert "--shard 1/2: the table lacks what other shards train" in part.stderr
    assert "planned" in part.stdout
    whole = fsam(*grid, cwd=tmp_path)
    assert "--shard" not in whole.stderr
    assert "planned" not in whole.stdout


def test_the_dry_run_of_a_part_shows_its_runs_with_their_settings(tmp_path):
    grid = (*GRID, "--grid", "eta=1,10", "--dry-run", "-f", "json")

    def settings(*more):
        rows = json.loads(fsam(*grid, *more, cwd=tmp_path).stdout)
        return [row["methods.fsam.eta"] for row in rows]

    assert settings() == [1, 10]
    assert settings("--shard", "2/2") == [10]


def test_a_part_of_the_grid_that_no_run_depends_on_is_named(tmp_path):
    grid = ("--grid", "eta=1,10", "--grid", "methods.sgd.epochs_factor=1,2")
    loud = [each for each in GRID if each != "-q"]
    done = fsam(*loud, *grid, "--dry-run", cwd=tmp_path)
    assert "no run of these methods depends on it: methods.sgd.epochs_factor\n" in done.stderr
    assert "not swept" not in fsam(*loud, *grid[:2], "--dry-run", cwd=tmp_path).stderr
    assert "not swept" not in fsam(*GRID, *grid, "--dry-run", cwd=tmp_path).stderr


@pytest.mark.parametrize(
    "option", ["--trials=3", "--tuning-seeds=1", "--space=rho=0.1:1", "--write-recipe=a.yaml"]
)
def test_what_is_for_a_tuning_is_refused_for_a_grid(tmp_path, option):
    done = fsam(*GRID, "--grid", "eta=1,10", option, "--dry-run", cwd=tmp_path, check=2)
    assert "--trials, --tuning-seeds, --space and --write-recipe are for --tune" in done.stderr


@pytest.mark.parametrize("option", ["--grid=eta=1,10", "--select=test", "--figures=pictures"])
def test_what_is_for_a_grid_is_refused_for_a_tuning(tmp_path, option):
    done = fsam(*GRID, "--tune", option, "--dry-run", cwd=tmp_path, check=2)
    assert "it takes no --grid, --select or --figures" in done.stderr


def test_methods_that_the_grid_does_not_touch_are_trained_and_shown_for_comparison(tmp_path):
    grid = ("sweep", "-r", "quickstart", *TINY, "train.epochs=1", "-q", "--grid", "eta=1,10")
    beside = json.loads(fsam(*grid, "-f", "json", cwd=tmp_path).stdout)
    trained = json.loads(fsam("report", "-f", "json", cwd=tmp_path).stdout)["runs"]
    (sgd,) = [run for run in trained if run["label"] == "sgd"]
    (reference,) = beside["references"]
    assert (reference["method"], reference["n"], reference["status"]) == ("sgd", 1, "done")
    assert reference["mean"] == sgd["last_validation_accuracy"]
    assert reference["test_mean"] == sgd["last_test_accuracy"]
    assert {point["method"] for point in beside["points"]} == set(beside["best"]) == {"fsam"}
    rows = list(csv.DictReader(io.StringIO(fsam(*grid, "-f", "csv", cwd=tmp_path).stdout)))
    assert [(row["method"], row["methods.fsam.eta"]) for row in rows][-1] == ("sgd", "")
    table = fsam(*grid, cwd=tmp_path).stdout
    shown = [
        line.split()[0]
        for line in table.splitlines()
        if f"{100 * sgd['last_test_accuracy']:.2f}" in line
    ]
    assert "sgd" in shown
    assert "for comparison, changed by no key of the grid: sgd" in table
    alone = fsam(*grid, "--only", "fsam", "-f", "json", cwd=tmp_path).stdout
    assert json.loads(alone)["references"] == []
    assert "for comparison" not in fsam(*grid, "--only", "fsam", cwd=tmp_path).stdout


@pytest.mark.parametrize(
    ("entry", "message"),
    [
        ("seeds=0,1", "the grid of seeds: its values are not compared with each other; set it "),
        ("name=a,b", "set it outside the grid, name=another"),
        ("eta=[1", "--grid eta=[1: "),
        ("=1,2", "--grid =1,2: write key=v1,v2"),
    ],
)
def test_what_is_no_setting_with_values_is_refused(tmp_path, entry, message):
    done = fsam(*GRID, "--grid", entry, cwd=tmp_path, check=2)
    assert message in done.stderr
    assert not (tmp_path / "runs").exists()


def test_a_picture_has_two_settings_and_that_of_the_recipes_own_grid_its_plain_name(tmp_path):
    pictures = ("--figures", "pictures")
    three = ("--grid", "eta=1", "--grid", "gamma=0.1", "--grid", "train.lr=0.1")
    done = fsam(*GRID, *three, *pictures, cwd=tmp_path)
    assert "fsam: a heat map has two settings; none is drawn for more" in done.stderr
    assert not (tmp_path / "pictures").exists()
    fsam(*GRID, "sweep={grid: {eta: [1], gamma: [0.1]}}", *pictures, cwd=tmp_path)
    names = {path.name for path in (tmp_path / "pictures").iterdir()}
    assert names == {"sweep-quickstart-fsam.png", "sweep-quickstart-fsam.svg"}


def test_a_grid_given_replaces_that_of_the_recipe(tmp_path):
    own = "sweep={grid: {eta: [1, 10]}, select: test}"
    asked = (*GRID, own, "-f", "json")
    found = json.loads(fsam(*asked, "--grid", "gamma=0.1", cwd=tmp_path).stdout)
    assert found["grid"] == {"methods.fsam.gamma": [0.1]}
    assert found["metric"] == "last_test_accuracy"  # what the recipe selects by is not replaced
    usual = (*asked, "--grid", "gamma=0.1", "--select", "validation")
    assert json.loads(fsam(*usual, cwd=tmp_path).stdout)["metric"] == "last_validation_accuracy"


@pytest.mark.parametrize("how", [("--grid", "eta=1,10"), ("--tune",)], ids=["grid", "tune"])
def test_oversights_are_named_as_for_a_training(tmp_path, how):
    loud = [each for each in GRID if each != "-q"]
    done = fsam(*loud, "methods.fsam.lr=0.3", "train.lr=0.2", *how, "--dry-run", cwd=tmp_path)
    assert "train.lr does not concern fsam" in done.stderr
