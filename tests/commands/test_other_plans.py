"""What `fsam train` says of seeds that an earlier, wider plan left in the same cells."""

from __future__ import annotations

import json

import pytest

from tests.support.command import TINY, fsam

TRAIN = ("train", "-r", "quickstart", *TINY, "train.epochs=1", "-q", "--only", "sgd")


def rewritten(folder, seed, **changes):
    """The record of a seed, changed."""
    (file,) = (folder / "runs").rglob(f"seed{seed}-*/result.json")
    record = json.loads(file.read_text())
    record["planned"] |= changes.pop("planned", {})
    file.write_text(json.dumps({**record, **changes}))


@pytest.fixture
def two_seeds(tmp_path):
    fsam(*TRAIN, "seeds=[0, 7]", cwd=tmp_path)
    return tmp_path


def notes(folder, *more):
    done = fsam(*TRAIN, *more, "-f", "json", cwd=folder)
    report = json.loads(done.stdout)
    (entry,) = [row for row in report["table"] if row["metric"] == "last_test_accuracy"]
    assert (entry["n"], entry["status"]) == (1, "done")
    return " ".join(report["notes"])


def test_a_diverged_seed_beside_those_that_were_planned_is_named(two_seeds):
    assert "seed 7" not in notes(two_seeds, "seeds=[0]")
    rewritten(two_seeds, 7, status="diverged", reason="loss is nan")
    told = notes(two_seeds, "seeds=[0]")
    assert "quickstart/sgd: seed 7 of the same settings, which this command did not plan, " in told
    assert "diverged; `fsam report`, which counts it, shows no mean." in told
    assert "seed 7" not in notes(two_seeds, "seeds=[0]", "train.lr=0.2")  # of other settings
    rewritten(two_seeds, 7, planned={"trial": True})
    assert "seed 7" not in notes(two_seeds, "seeds=[0]")


def test_a_diverged_seed_that_was_planned_is_in_the_table_and_in_no_such_note(two_seeds):
    rewritten(two_seeds, 7, status="diverged", reason="loss is nan")
    done = fsam(*TRAIN, "seeds=[0, 7]", cwd=two_seeds, check=1)
    assert "1 of 2 diverged" in done.stdout
    assert "did not plan" not in done.stdout
