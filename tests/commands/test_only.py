"""`--only` of what shows recorded runs: some of the methods, as if no other were there."""

from __future__ import annotations

import csv
import io
import json

import pytest

from fsam_cli.commands.report import only_these
from fsam_cli.measure import subjects
from fsam_cli.options import ReportRequest
from fsam_cli.records.frame import load_runs
from tests.support.command import fsam
from tests.support.recorded import configuration, record_cell, record_metrics, record_run

LABELS = ("sgd", "sam", "fsam", "odd")
FAST = ("--images", "60", "--draws", "2", "--m", "30", "--device", "cpu")


@pytest.fixture
def four(tmp_path):
    """The last of the four has diverged."""
    accuracies = {
        "sgd": [0.70, 0.71, 0.72],
        "sam": [0.75, 0.79, 0.77],
        "fsam": [0.77, 0.78, 0.81],
    }
    for label in LABELS:
        more = {"label": label, "labels": LABELS, "config": configuration(method={"name": label})}
        if label in accuracies:
            record_cell(tmp_path / "runs", accuracies[label], **more)
        else:
            record_run(tmp_path / "runs", status="diverged", reason="nan", **more)
    return tmp_path


def document(folder, *asked):
    return json.loads(fsam("report", "-f", "json", *asked, cwd=folder).stdout)


def test_the_others_are_out_of_table_runs_and_corrections_and_are_told(four):
    every = document(four, "--versus", "sgd")
    some = document(four, "--versus", "sgd", "--only", "fsam,sgd")
    assert {entry["label"] for entry in some["table"]} == {"sgd", "fsam"}
    assert {run["label"] for run in some["runs"]} == {"sgd", "fsam"}
    [alone] = [each for each in some["differences"] if each["metric"] == "last_test_accuracy"]
    beside = next(
        each
        for each in every["differences"]
        if each["metric"] == "last_test_accuracy" and each["method"] == "fsam"
    )
    assert alone["p"] == beside["p"]
    assert alone["p_holm"] == alone["p"] < beside["p_holm"]  # of one difference, and of two
    assert (
        "Chosen with --only: fsam, sgd. Left out, from marks and corrections as well: sam, odd."
        in some["notes"]
    )
    assert not any("nan" in note for note in some["notes"])  # why the odd one diverged


def test_a_gate_looks_at_those_that_are_shown(four):
    fsam("report", "--gate", "complete", cwd=four, check=3)
    fsam(
        "report", "--gate", "complete", "--only", "sgd", "--only", "sam", "--only", "fsam", cwd=four
    )


def test_all_of_them_are_not_chosen(four):
    every = document(four)
    assert document(four, "--only", ",".join(LABELS)) == every
    assert not any("--only" in note for note in every["notes"])


def test_pictures_and_files_have_those_that_are_shown(four):
    for run in (four / "runs/quickstart").glob("*/*"):
        record_metrics(run, epochs=20)
    fsam("report", "--only", "sam", "--out", "some", "--figures", "some", cwd=four)
    rows = list(csv.DictReader(io.StringIO((four / "some/runs.csv").read_text())))
    assert [row["label"] for row in rows] == ["sam"] * 3
    fsam("report", "runs/quickstart/sam", "--figures", "alone", cwd=four)
    pictures = sorted((four / "alone").iterdir())
    assert pictures
    for picture in pictures:
        assert (four / "some" / picture.name).read_bytes() == picture.read_bytes()


def test_a_seed_that_chose_under_a_label_left_out_is_no_result(tmp_path):
    config = configuration(method={"name": "sam", "rho": 0.1})
    record_run(tmp_path, label="tried", labels=("tried",), config=config, trial=True, seeds=(0,))
    record_cell(tmp_path, [0.99, 0.8, 0.8], label="sam", labels=("sam",), config=config)
    request = ReportRequest(only=["sam"], gates=[])
    runs, _ = only_these(load_runs(tmp_path), request)
    assert dict(zip(runs["seed"], runs["trial"], strict=True)) == {0: True, 1: False, 2: False}


@pytest.mark.parametrize(
    ("asked", "message"),
    [
        (("report",), "--only: no method 'smm'; did you mean 'sam'?"),
        (("perturb",), "--only: no method 'smm'; did you mean 'sam'?"),
        (("sharpness",), "--only: no method 'smm'; did you mean 'sam'?"),
    ],
)
def test_an_unknown_label_is_refused(four, asked, message):
    done = fsam(*asked, "--only", "smm", cwd=four, check=2)
    assert done.stderr.startswith(f"error: {message}")


def test_a_method_that_is_planned_and_has_no_run_is_told(tmp_path):
    config = configuration(method={"name": "sgd"})
    record_cell(tmp_path / "runs", [0.7], label="sgd", labels=("sgd", "sam"), config=config)
    done = fsam("report", "--only", "sam", cwd=tmp_path, check=2)
    assert done.stderr == (
        "error: --only sam: planned, and without a run here; there are runs of sgd\n"
    )
    both = fsam("report", "--only", "sam,sgd", cwd=tmp_path).stdout
    assert "quickstart: planned, and without a run here: sam." in both


@pytest.mark.parametrize("command", ["report", "perturb", "sharpness"])
def test_a_reference_that_is_left_out_is_refused(four, command):
    done = fsam(command, "--only", "sam,fsam", "--versus", "sgd", cwd=four, check=2)
    assert done.stderr == "error: --versus sgd: --only leaves it out; name it there, too\n"


@pytest.mark.parametrize(
    ("asked", "table"),
    [
        (("perturb", "--alpha", "1", "--device", "cpu"), "perturbation.csv"),
        (("sharpness", "--no-hessian", "--within", "sam", *FAST), "sharpness.csv"),
    ],
)
def test_only_these_are_measured(runs, asked, table):
    done = fsam(*asked, "--only", "fsam", "-f", "json", cwd=runs.parent)
    measured = {path.parts[-3] for path in runs.rglob(table)}
    assert measured == {"fsam"}
    shown = json.loads(done.stdout)
    assert {entry["label"] for entry in shown["table"]} == {"fsam"}
    assert (
        "Chosen with --only: fsam. Left out, from marks and corrections as well: sgd."
        in shown["notes"]
    )


@pytest.mark.parametrize("asked", [("perturb", "--alpha", "1"), ("sharpness", "--no-hessian")])
def test_weights_of_what_is_left_out_are_not_even_read(runs, asked, monkeypatch):
    read, subject_from = set(), subjects._subject

    def noted(weights, **more):
        read.add(weights.parts[-3])
        return subject_from(weights, **more)

    monkeypatch.setattr(subjects, "_subject", noted)
    fsam(*asked, "--device", "cpu", "--only", "fsam", cwd=runs.parent)
    assert read == {"fsam"}
