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
from fsam_cli.reports.published import beside_published
from fsam_cli.reports.render import Beside
from fsam_cli.reports.table import build_table, differences
from fsam_cli.reports.text_table import TextTable, markdown, pipe_table, titled_markdown
from tests.support.recorded import configuration, planned_cells, record_cell, record_run
from tests.support.tables import cells

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
    [shown] = render.terminal_tables(table)
    assert shown.title == "quickstart"
    assert shown.headings == ["method", "n", "test, last %", "noise fit %", "gradients", "train s"]
    assert cells(shown) == [
        ["sgd-1x", "3", "52.00±2.00", "30.00±0.00", "57,480", "12.5±0.0"],
        ["sam-0.1", "3", "83.47±1.36*", "30.00±0.00", "57,480", "12.5±0.0"],
        ["fsam-0.1", "", "1 of 3 diverged", "", "", ""],
    ]


def test_csv_is_long_and_unrounded(table):
    rows = list(csv.DictReader(io.StringIO(render.csv_text(table))))
    assert list(rows[0]) == [
        *("recipe", "row", "label", "settings", "cell", "metric"),
        *("mean", "std", "n", "status", "marked", "data_verified"),
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
    content = json.loads(render.json_text(table, Beside(differences(table, "sgd-1x"))))
    assert list(content) == ["schema", "table", "runs", "notes", "differences"]
    assert content["schema"] == "fsam-report/2"
    assert list(content["table"][0]) == [
        *("recipe", "row", "label", "settings", "cell", "metric"),
        *("mean", "std", "n", "status", "marked", "data_verified"),
    ]
    assert list(content["differences"][0]) == [
        *("recipe", "row", "method", "settings", "versus", "versus_settings", "metric"),
        *("difference", "standard_error"),
        *("low", "high", "p", "p_holm", "detectable", "test", "n", "status"),
    ]
    assert content["runs"][0]["config"]["label_noise"] == {"rate": 0.4, "flip": "different"}
    assert list(content["runs"][0]) == list(table.runs.columns)
    assert content["notes"] == render.notes(table, Beside(differences(table, "sgd-1x")))
    assert [entry["versus"] for entry in content["differences"]] == ["sgd-1x"] * 2
    assert [repr(entry["n"]) for entry in content["differences"]] == ["3", "None"]


def test_every_key_of_the_json_is_documented(table):
    page = (Path(__file__).resolve().parents[2] / "docs" / "report-schema.md").read_text()
    content = json.loads(render.json_text(table, Beside(differences(table, "sgd-1x"))))
    for key in (*content, *content["table"][0], *content["differences"][0]):
        assert f"`{key}`" in page, key
    for column in content["runs"][0]:
        number = re.sub("^(last|selected|best_test|before)(?=_)", "", column)
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
    [shown] = render.difference_tables(table, frame)
    assert shown.title == "quickstart: test accuracy, last epoch (%), minus sgd-1x"
    assert shown.headings == [
        "method",
        "diff.",
        "SE",
        "95 % interval",
        "p",
        "p (Holm)",
        "MDE",
        "test",
        "n",
    ]
    assert cells(shown)[0][:2] == ["sam-0.1", "+31.47"]
    assert cells(shown)[1] == ["fsam-0.1", "", "", "1 of 3 diverged", "", "", "", "", ""]
    assert "| quickstart | test accuracy, last epoch (%) | sam-0.1 | +31.47 |" in render.markdown(
        table, Beside(frame)
    )


def record_sweep(root):
    """SGD, and SAM with two radii; the second has one seed more, and is the best."""
    sgd = configuration(method={"name": "sgd"})
    record_cell(root, [0.5, 0.51, 0.52], label="sgd-1x", config=sgd)
    for rho, accuracies in ((0.2, [0.9, 0.92, 0.93, 0.94]), (0.1, [0.6, 0.7, 0.8])):
        config = configuration(**{"method.rho": rho})
        record_cell(root, accuracies, config=config, seeds=tuple(range(len(accuracies))))
    return build_table(load_runs(root))


def test_a_method_of_several_configurations_has_a_line_for_each_in_every_text(tmp_path):
    table = record_sweep(tmp_path)
    [shown] = render.terminal_tables(table)
    assert shown.title == "quickstart"
    assert [row[:3] for row in cells(shown)] == [
        ["sgd-1x", "3", "51.00±1.00"],
        ["sam-0.1 [rho=0.1]", "3", "70.00±10.00*"],
        ["sam-0.1 [rho=0.2]", "4", "92.25±1.71*"],
    ]
    text = render.markdown(table)
    assert text.startswith("**quickstart**\n\n| method | n | test accuracy, last epoch (%) | test ")
    assert [row[:4] for row in markdown_rows(text)[2:]] == [
        ["sgd-1x", "3", "51.00±1.00", "0.4900±0.0100"],
        ["sam-0.1 [rho=0.1]", "3", "**70.00±10.00**", "**0.3000±0.1000**"],
        ["sam-0.1 [rho=0.2]", "4", "**92.25±1.71**", "**0.0775±0.0171**"],
    ]
    assert "sam-0.1 [rho=0.2] & $4$ & $\\mathbf{92.25 \\pm 1.71}$" in render.latex_text(table)
    lines = json.loads(render.json_text(table))["table"]
    assert {(line["row"], line["label"], line["settings"]) for line in lines} == {
        ("", "sgd-1x", ""),
        ("", "sam-0.1", "rho=0.1"),
        ("", "sam-0.1", "rho=0.2"),
    }


def test_differences_name_the_configurations_on_both_sides(tmp_path):
    table = record_sweep(tmp_path)
    frame = differences(table, "sam-0.1")
    first, second = render.difference_tables(table, frame)
    assert first.title.endswith(", minus sam-0.1 [rho=0.1]")
    assert [row[0] for row in cells(first)] == ["sgd-1x", "sam-0.1 [rho=0.2]"]
    assert second.title.endswith(", minus sam-0.1 [rho=0.2]")
    assert [row[0] for row in cells(second)] == ["sgd-1x", "sam-0.1 [rho=0.1]"]
    text = render.markdown(table, Beside(frame))
    assert "**Differences from sam-0.1**" in text
    assert "| metric | method | minus | diff. |" in text
    assert "| --- | --- | --- | ---: |" in text
    assert "| sgd-1x | sam-0.1 [rho=0.1] | -19.00 |" in text
    one = render.markdown(table, Beside(differences(table, "sam-0.1 [rho=0.1]")))
    assert "**Differences from sam-0.1 [rho=0.1]**" in one
    assert "| sgd-1x | -19.00 |" in one


def record_differences(root):
    """Against `sgd`, `sam` differs by 0.01, 0.02 and 0.03 (see test_statistics), `same` not."""
    for label, accuracies in {
        "sgd": [0.1, 0.2, 0.3],
        "sam": [0.11, 0.22, 0.33],
        "same": [0.1, 0.2, 0.3],
    }.items():
        config = configuration(method={"name": label})
        record_cell(root, accuracies, label=label, config=config, labels=("sgd", "sam", "same"))
    return build_table(load_runs(root))


def test_every_number_of_a_difference_by_hand(tmp_path):
    table = record_differences(tmp_path)
    [shown] = render.difference_tables(table, differences(table, "sgd"))
    assert cells(shown) == [
        ["sam", "+2.00", "0.58", "-0.48 to +4.48", "0.074", "0.148", "3.26", "paired", "3"],
        ["same", "+0.00", "0.00", "", "1.000", "1.000", "", "paired", "3"],
    ]


@pytest.mark.parametrize(
    ("p", "shown"),
    [
        (0.0009, "<0.001"),
        (0.001, "0.001"),
        (0.004, "0.004"),
        (0.0494, "0.049"),
        (0.0495, "0.0495"),
        (0.0496, "0.0496"),
        (0.04999, "0.0499"),
        (0.05, "0.050"),
        (0.0504, "0.050"),
    ],
)
def test_what_is_significant_never_looks_as_if_it_were_not(tmp_path, p, shown):
    table = record_differences(tmp_path)
    frame = differences(table, "sgd").assign(p_holm=p)
    [printed] = render.difference_tables(table, frame)
    assert {row["p (Holm)"] for row in printed.rows} == {shown}


def test_markdown_says_what_the_differences_are_from_and_what_is_adjusted(tmp_path):
    table = record_differences(tmp_path)
    text = render.markdown(table, Beside(differences(table, "sgd")))
    assert text.index("**Differences from sgd**") < text.index(
        "| quickstart | test accuracy, last epoch (%) | sam | +2.00"
    )
    [note] = [line for line in text.splitlines() if line.startswith("- Differences from sgd: ")]
    for words in ("95 % interval", "unadjusted", "p (Holm) is adjusted over all differences"):
        assert words in note
    assert "Differences from" not in render.markdown(table)


def test_no_text_in_a_cell_breaks_a_markdown_table():
    line = pipe_table([["a | b", "c\r\nd\re\tf", ""]])
    assert line == "| a \\| b | c d e f |  |"


def test_a_mean_that_is_missing_says_why_though_every_run_is_done(tmp_path):
    record_run(tmp_path, seed=0, selected=0.8, seeds=(0, 1))
    record_run(tmp_path, seed=1, seeds=(0, 1))
    content = json.loads(render.json_text(build_table(load_runs(tmp_path))))
    status = {line["metric"]: (line["mean"], line["status"]) for line in content["table"]}
    assert status["selected_test_accuracy"] == (None, "not in every run")
    assert status["last_test_accuracy"] == (0.8, "done")


@pytest.mark.parametrize(
    ("verified", "json_value", "csv_value"),
    [(True, True, "True"), (False, False, "False"), (None, None, "")],
)
def test_data_that_nothing_verifies_are_not_called_verified(
    tmp_path, verified, json_value, csv_value
):
    record_run(tmp_path, seeds=(0,), data_verified=verified)
    table = build_table(load_runs(tmp_path))
    lines = json.loads(render.json_text(table))["table"]
    assert {line["data_verified"] for line in lines} == {json_value}
    rows = csv.DictReader(io.StringIO(render.csv_text(table)))
    assert {row["data_verified"] for row in rows} == {csv_value}


def test_rows_whose_names_print_alike_keep_their_own_numbers(tmp_path):
    for norm, accuracy in (("1", 0.5), (1, 0.7)):
        config = configuration(**{"model.norm": norm})
        record_run(tmp_path, config=config, accuracy=accuracy, seeds=(0,))
    table = build_table(load_runs(tmp_path))
    [first, second] = render.terminal_tables(table)
    assert sorted([cells(first)[0][2], cells(second)[0][2]]) == ["50.00", "70.00"]
    lines = json.loads(render.json_text(table))["table"]
    runs = {
        run["cell"]: run["last_test_accuracy"]
        for run in json.loads(render.json_text(table))["runs"]
    }
    means = {line["cell"]: line["mean"] for line in lines if line["metric"] == "last_test_accuracy"}
    assert means == runs


def test_runs_csv_has_a_line_for_each_run_whatever_a_reason_holds(tmp_path):
    record_run(tmp_path, status="failed", reason="one\rtwo\r\nthree")
    text = render.runs_csv(build_table(load_runs(tmp_path)))
    assert "\r" not in text
    assert len(text.splitlines()) == 2


def test_the_papers_numbers_stand_once_beside_each_of_two_rows_whose_names_print_alike(tmp_path):
    sam = planned_cells("wrn28-10-c100", "seeds=0:2")["sam"]
    for extra in ("1", 1):
        more = {"recipe": sam.recipe.name, "label": "sam", "config": {**sam.config, "extra": extra}}
        record_cell(tmp_path, [0.8, 0.9], seeds=(0, 1), **more)
    table = build_table(load_runs(tmp_path))
    rows = list(
        csv.DictReader(
            io.StringIO(render.csv_text(table, Beside(published=beside_published(table))))
        )
    )
    assert len(rows) == len(render.long_frame(table))
    assert sum(row["published_mean"] != "" for row in rows) == 2


def test_runs_csv_leaves_objects_out(tmp_path):
    record_run(tmp_path, seeds=(0,), tuned=("train.lr",))
    header = render.runs_csv(build_table(load_runs(tmp_path))).splitlines()[0].split(",")
    assert {"config", "environment", "planned_labels", "planned_seeds", "tuned"}.isdisjoint(header)


def test_the_selected_epoch_stays_whole_beside_a_run_without_one(tmp_path):
    record_run(tmp_path, seed=0, selected=0.8, seeds=(0, 1))
    record_run(tmp_path, seed=1, seeds=(0, 1))
    runs = json.loads(render.json_text(build_table(load_runs(tmp_path))))["runs"]
    assert [repr(run["selected_epoch"]) for run in runs] == ["7", "None"]


def test_the_first_column_alone_is_flush_left_unless_others_are_named():
    rows = [{"method": "sam", "n": "3"}]
    left, both = "| method | n |\n| --- | ---: |\n| sam | 3 |", "| --- | --- |"
    assert markdown(TextTable("", rows)) == left
    assert markdown(TextTable("", rows, ("method", "n"))).splitlines()[1] == both
    assert markdown(TextTable("", rows, ())).splitlines()[1] == "| ---: | ---: |"


def test_a_title_is_one_line():
    assert titled_markdown(TextTable("one\ntwo", [{"a": "1"}]))[0] == "**one two**"
