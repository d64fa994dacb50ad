"""The table as text: rounded here and nowhere else."""

from __future__ import annotations

import csv
import io
import json
import re
from pathlib import Path

import pytest

from fsam_cli.records.frame import load_runs
from fsam_cli.reports import render
from fsam_cli.reports.table import build_table, differences
from tests.support.recorded import configuration, record_cell, record_run

METHODS = {
    "sgd-1x": ({"name": "sgd"}, [0.50, 0.52, 0.54]),
    "sam-0.1": ({"name": "sam", "rho": 0.1}, [0.83, 0.85, 0.824]),
}


@pytest.fixture
def folder(tmp_path):
    for label, (method, accuracies) in METHODS.items():
        record_cell(
            tmp_path,
            accuracies,
            label=label,
            config=configuration(method=method),
            data_verified=False,
            labels=("sgd-1x", "sam-0.1", "fsam-0.1"),
        )
    more = {"label": "fsam-0.1", "config": configuration(method={"name": "fsam"})}
    record_cell(tmp_path, [0.8, 0.9], **more)
    record_run(tmp_path, seed=2, status="diverged", reason="[red]nan[/red] | pipe", **more)
    return tmp_path


@pytest.fixture
def table(folder):
    return build_table(load_runs(folder))


def markdown_rows(text):
    lines = [line for line in text.splitlines() if line.startswith("| ")]
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in lines]


def test_markdown_has_a_row_per_recipe_and_metric_and_a_column_per_label(table):
    text = render.markdown(table)
    head, _, first, *rest = markdown_rows(text)
    assert head == ["recipe", "metric", "n", "sgd-1x", "sam-0.1", "fsam-0.1"]
    assert first == [
        *("quickstart", "test accuracy, last epoch (%)", "3"),
        *("52.00±2.00", "**83.47±1.36**", "1 of 3 diverged"),
    ]
    assert [row[1] for row in rest] == [
        "test loss, last epoch (nats)",
        "fit to corrupted labels (%)",
        "sample-gradients",
        "training seconds",
    ]
    assert rest[2][3:] == ["57,480", "57,480", "1 of 3 diverged"]
    assert "- quickstart: unverified data" in text
    assert "0.80" not in text and "90.00" not in text  # the survivors' numbers


def test_a_single_seed_is_shown_without_a_spread(tmp_path):
    record_run(tmp_path, accuracy=0.8348, seeds=(0,))
    [row] = markdown_rows(render.markdown(build_table(load_runs(tmp_path))))[2:3]
    assert row[2:] == ["1", "83.48"]


def test_where_seeds_differ_in_number_each_cell_says_its_own(tmp_path):
    record_cell(tmp_path, [0.5, 0.6], label="sgd-1x", seeds=(0, 1))
    config = configuration(method={"name": "sgd"})
    record_cell(tmp_path, [0.5, 0.6, 0.7], label="sam-0.1", config=config)
    row = markdown_rows(render.markdown(build_table(load_runs(tmp_path))))[2]
    assert row[2:] == ["2/3", "**55.00±7.07 (n=2)**", "**60.00±10.00 (n=3)**"]


def test_a_terminal_table_has_a_line_per_method_and_says_once_what_is_missing(table):
    [(title, headings, body)] = render.terminal_tables(table)
    assert title == "quickstart"
    assert headings == ["method", "n", "test, last %", "noise fit %", "gradients", "train s"]
    assert body == [
        ["sgd-1x", "3", "52.00±2.00", "30.00±0.00", "57,480", "12.5±0.0"],
        ["sam-0.1", "3", "83.47±1.36*", "30.00±0.00", "57,480", "12.5±0.0"],
        ["fsam-0.1", "", "1 of 3 diverged", "", "", ""],
    ]


def test_csv_is_long_and_unrounded(table):
    rows = list(csv.DictReader(io.StringIO(render.csv_text(table))))
    assert list(rows[0]) == [
        *("recipe", "row", "label", "cell", "metric", "mean", "std", "n", "status", "marked"),
        "data_verified",
    ]
    by_key = {(row["label"], row["metric"]): row for row in rows}
    sam = by_key["sam-0.1", "last_test_accuracy"]
    assert float(sam["mean"]) == pytest.approx((0.83 + 0.85 + 0.824) / 3, abs=1e-15)
    assert (sam["n"], sam["status"], sam["marked"]) == ("3", "done", "True")
    assert sam["data_verified"] == "False"
    fsam = by_key["fsam-0.1", "last_test_accuracy"]
    assert (fsam["mean"], fsam["n"], fsam["status"]) == ("", "0", "1 of 3 diverged")


def test_the_runs_of_an_incomplete_cell_keep_their_numbers(table):
    rows = list(csv.DictReader(io.StringIO(render.runs_csv(table))))
    fsam = {row["seed"]: row for row in rows if row["label"] == "fsam-0.1"}
    assert [float(fsam[seed]["last_test_accuracy"]) for seed in ("0", "1")] == [0.8, 0.9]
    assert fsam["2"]["status"] == "diverged"


def test_json_is_the_documented_schema(table):
    content = json.loads(render.json_text(table, differences(table, "sgd-1x")))
    assert list(content) == ["schema", "table", "runs", "notes", "differences"]
    assert content["schema"] == "fsam-report/1"
    assert list(content["table"][0]) == [
        *("recipe", "row", "label", "cell", "metric", "mean", "std", "n", "status", "marked"),
        "data_verified",
    ]
    assert list(content["differences"][0]) == [
        *("recipe", "row", "method", "metric", "difference", "standard_error", "low", "high"),
        *("p", "p_holm", "test", "n", "status"),
    ]
    assert content["runs"][0]["config"]["label_noise"] == {"rate": 0.4, "flip": "different"}
    assert list(content["runs"][0]) == list(table.runs.columns)
    assert content["notes"] == table.notes


def test_every_key_of_the_json_is_documented(table):
    page = (Path(__file__).resolve().parents[2] / "docs" / "report-schema.md").read_text()
    content = json.loads(render.json_text(table, differences(table, "sgd-1x")))
    for key in (*content, *content["table"][0], *content["differences"][0]):
        assert f"`{key}`" in page, key
    for column in content["runs"][0]:
        number = re.sub("^(last|selected|best_test)(?=_)", "", column)
        assert f"`{number}`" in page or f"`<which>{number}`" in page, column


def test_json_has_no_nan_and_missing_numbers_are_null(tmp_path):
    record_run(tmp_path, seeds=(0,))
    record_run(tmp_path, label="new", status="planned", config=configuration(threads=2))
    text = render.json_text(build_table(load_runs(tmp_path)))
    content = json.loads(text, parse_constant=lambda name: pytest.fail(name))
    assert content["table"][0]["std"] is None
    [planned] = [run for run in content["runs"] if run["status"] == "planned"]
    assert planned["last_test_accuracy"] is None
    assert planned["train_seconds"] is None


def test_counts_stay_whole_beside_a_run_that_has_none(tmp_path):
    record_run(tmp_path, seed=3)
    record_run(tmp_path, seed=4, status="planned")
    damaged = record_run(tmp_path, label="lost", status="planned")
    damaged.rename(damaged.with_name("renamed"))
    (damaged.with_name("renamed") / "config.yaml").write_text("fsam-run/1")  # of no known seed
    table = build_table(load_runs(tmp_path))
    runs = json.loads(render.json_text(table))["runs"]
    assert [run["seed"] for run in runs] == [None, 3, 4]
    assert [repr(run["seed"]) for run in runs] == ["None", "3", "4"]
    assert [repr(run["last_epoch"]) for run in runs] == ["None", "20", "None"]
    assert [repr(run["sample_gradients"]) for run in runs] == ["None", "57480", "None"]
    rows = list(csv.DictReader(io.StringIO(render.runs_csv(table))))
    assert [row["seed"] for row in rows] == ["", "3", "4"]
    assert [row["last_epoch"] for row in rows] == ["", "20", ""]
    assert [row["sample_gradients"] for row in rows] == ["", "57480", ""]


def test_differences_are_percentage_points_in_every_text(table):
    frame = differences(table, "sgd-1x")
    [(title, headings, body)] = render.difference_tables(table, frame, "sgd-1x")
    assert title == "quickstart: test accuracy, last epoch (%), minus sgd-1x"
    assert headings == ["method", "diff.", "SE", "95 % interval", "p", "p (Holm)", "test", "n"]
    assert body[0][:2] == ["sam-0.1", "+31.47"]
    assert body[1] == ["fsam-0.1", "", "", "1 of 3 diverged", "", "", "", ""]
    assert "| quickstart | test accuracy, last epoch (%) | sam-0.1 | +31.47 |" in render.markdown(
        table, frame
    )
