"""`fsam sweep --tune --dry-run`: what a search will cost, against what it then does cost."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.support.command import TINY, fsam

TUNE = ("sweep", "-r", "quickstart", *TINY, "train.epochs=1", "seeds=0:2", "-q", "--tune")


def dry(folder: Path, *more: str) -> dict[str, dict]:
    """The rows of the dry run, by method."""
    rows = json.loads(fsam(*TUNE, *more, "--dry-run", "-f", "json", cwd=folder).stdout)
    return {row["method"]: row for row in rows}


def test_runs_and_sample_gradients_are_those_that_the_search_then_spends(tmp_path):
    asked = ("--trials", "3", "--tuning-seeds", "2")
    rows = dry(tmp_path, *asked)
    assert list(tmp_path.iterdir()) == [], "nothing may be written"
    assert {row["done"] for row in rows.values()} == {0}
    fsam(*TUNE, *asked, cwd=tmp_path)
    for label in ("sgd", "fsam"):
        own = [json.loads(path.read_text()) for path in tmp_path.glob(f"runs/*/{label}/*/*.json")]
        own = [record for record in own if "sample_gradients" in record]
        assert rows[label]["trials"] == 3
        assert rows[label]["runs"] == len(own) == 3 * 2 + 2
        spent = sum(result["sample_gradients"] for result in own)
        assert rows[label]["sample-gradients"] == spent
    for path in tmp_path.glob("runs/*/*/*/result.json"):
        result = json.loads(path.read_text())
        path.write_text(json.dumps({**result, "train_seconds": result["sample_gradients"] / 10}))
    again = dry(tmp_path, *asked)
    # Of the first round, which alone is known beforehand: two of the three trials.
    assert {label: row["done"] for label, row in again.items()} == {"sgd": 4, "fsam": 4}
    for row in again.values():
        assert row["seconds"] == pytest.approx(row["sample-gradients"] / 10, abs=0.05)


def test_arithmetic_is_that_of_all_runs(tmp_path):
    trained = fsam("train", *TUNE[1:-1], "--dry-run", "-f", "json", cwd=tmp_path)
    rows = dry(tmp_path)
    for one in json.loads(trained.stdout):
        row = rows[one["method"]]
        assert row["PFLOP"] == pytest.approx(row["runs"] * one["PFLOP"], rel=0.01)


def test_the_space_of_each_method_is_told_as_it_could_be_given(tmp_path):
    rows = dry(tmp_path, "--space", "eta=0.5:2")
    assert rows["sgd"]["space"] == "train.lr=0.02:0.5"
    assert rows["fsam"]["space"] == "gamma=0.02:0.5, eta=0.5:2"
    assert rows["fsam"]["trials"] == 12


PLAIN = """
from fsam_cli.parts import catalogue

class Plain(catalogue("minimisers")["sgd"]):
    search = {}

PROVIDES = {"plain": Plain}
"""


def test_a_method_without_a_space_has_one_trial(tmp_path):
    (tmp_path / "plain.py").write_text(PLAIN)
    rows = dry(tmp_path, "methods={plain: {}, sgd: {}}", "--plugin", "plain.py")
    assert (rows["plain"]["trials"], rows["plain"]["runs"]) == (1, 1 + 2)
    assert (rows["sgd"]["trials"], rows["sgd"]["runs"]) == (12, 12 + 2)


def test_the_table_names_seeds_and_adds_up(tmp_path):
    shown = fsam(*TUNE, "--dry-run", cwd=tmp_path)
    text = " ".join(shown.stdout.split())
    assert "12 trials a method on seeds 0, then the winner of each on the fresh seeds 2, 3" in text
    total = sum(row["sample-gradients"] for row in dry(tmp_path).values())
    assert (
        f"28 runs, 0 of the 16 known beforehand done; all together: {total:,} sample-gradients"
        in text
    )


def test_fresh_seeds_are_above_the_highest_in_whatever_order_the_recipe_has_them(tmp_path):
    text = " ".join(fsam(*TUNE, "seeds=[7, 0]", "--dry-run", cwd=tmp_path).stdout.split())
    assert "on seeds 7, then the winner of each on the fresh seeds 8, 9" in text


def test_what_a_search_refuses_its_dry_run_refuses(tmp_path):
    done = fsam(*TUNE, "--tuning-seeds", "3", "--dry-run", cwd=tmp_path, check=2)
    assert "--tuning-seeds 3" in done.stderr
