"""Which of the paper's numbers belongs to a cell, where a run departs, and how both are shown."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path

import pytest

from fsam_cli.records.frame import load_runs
from fsam_cli.reports import published, render
from fsam_cli.reports.render import Beside
from fsam_cli.reports.table import build_table
from tests.support.recorded import (
    configuration,
    planned_cells,
    record_cell,
    record_recipe,
    record_run,
)
from tests.support.tables import cells

ROOT = Path(__file__).resolve().parents[2]
RESULTS = {"sgd-2x": [0.83, 0.84], "sam": [0.85, 0.86], "fsam": [0.851, 0.859]}


def beside(root):
    return published.beside_published(build_table(load_runs(root)))


def listed(frame, label):
    """The deviations of one method, by key."""
    [line] = [line for line in frame.to_dict("records") if line["label"] == label]
    return {each.key: str(each) for each in line["deviations"]}


# What is listed


@pytest.mark.parametrize(
    ("override", "label", "expected"),
    [
        ("train.epochs=100", "sgd-2x", "train.epochs=200 (paper: 400)"),
        ("train.epochs=100", "fsam", "train.epochs=100 (paper: 200)"),
        ("train.batch_size=64", "sam", "train.batch_size=64 (paper: 128)"),
        ("train.lr=0.05", "sam", "train.lr=0.05 (paper: 0.1)"),
        ("train.schedule=constant", "sam", "train.schedule=constant (paper: cosine)"),
        ("train.label_smoothing=0", "sam", "train.label_smoothing=0.0 (paper: 0.1)"),
        (
            "train.optimizer.weight_decay=1e-4",
            "sgd-2x",
            "train.optimizer.weight_decay=0.0001 (paper: 0.0005)",
        ),
        (
            "train.optimizer={name: sgd, weight_decay: 5e-4}",
            "sgd-2x",
            "train.optimizer.momentum=none (paper: 0.9)",
        ),
        (
            "train.optimizer.nesterov=true",
            "fsam",
            "train.optimizer.nesterov=yes (not stated)",
        ),
        ("train.clip_norm=1.0", "fsam", "train.clip_norm=1.0 (not stated)"),
        ("train.micro_batch_size=32", "fsam", "train.micro_batch_size=32 (not stated)"),
        ("data.validation=0.1", "fsam", "validation=0.1 (not stated, guess: 0)"),
        ("precision=bf16", "fsam", "precision=bf16 (not stated, guess: fp32)"),
        ("model.norm=group", "sam", "model.norm=group (not stated, guess: batch)"),
        ("model.dropout=0.3", "sam", "model.dropout=0.3 (not stated, guess: 0)"),
        ("methods.sam.rho=0.2", "sam", "method.rho=0.2 (paper: 0.1)"),
        ("methods.asam.eta=0.01", "asam", "method.eta=0.01 (paper: 0.1)"),
        ("methods.asam.scope=all", "asam", "method.scope=all (not stated, guess: weights)"),
        ("methods.fsam.gamma=0.5", "fsam", "method.gamma=0.5 (paper: 0.1)"),
        (
            "methods.fsam.inverse=damped",
            "fsam",
            "method.inverse=damped (paper: anti_regularised)",
        ),
        (
            "data.augment=[crop, flip]",
            "sam",
            "augment=crop flip (paper, partly a guess: crop flip autoaugment cutout)",
        ),
        (
            "data.augment=[]",
            "sam",
            "augment=none (paper, partly a guess: crop flip autoaugment cutout)",
        ),
        (
            "data.augment=[crop, flip, autoaugment, {name: cutout, size: 8}]",
            "sam",
            "augment.cutout.size=8 (not stated, guess: 16)",
        ),
    ],
)
def test_a_changed_setting_is_listed_and_nothing_else(override, label, expected, tmp_path):
    record_recipe(tmp_path, "wrn28-10-c100", "seeds=[0]", override)
    found = listed(beside(tmp_path), label)
    assert found.pop("seeds") == "seeds=1 (not stated)"
    assert list(found.values()) == [expected]


def test_a_learning_rate_of_the_methods_own_is_its_deviation_alone(tmp_path):
    record_recipe(tmp_path, "wrn28-10-c100", "seeds=[0]", "methods.sam.lr=0.2")
    frame = beside(tmp_path)
    assert set(frame["row"]) == {""}
    assert listed(frame, "sam")["train.lr"] == "train.lr=0.2 (paper: 0.1)"
    assert "train.lr" not in listed(frame, "fsam")


def test_a_setting_that_does_not_bear_on_the_result_is_not_listed(tmp_path):
    changed = ("train.diagnostics=off", "train.evaluate_every=1", "threads=4", "seeds=0:3")
    record_recipe(tmp_path, "wrn28-10-c100", *changed)
    assert list(listed(beside(tmp_path), "fsam").values()) == ["seeds=3 (not stated)"]


def test_unverified_data_are_listed(tmp_path):
    record_recipe(tmp_path, "resnet20-c10", "seeds=[0]", data_verified=False)
    found = listed(beside(tmp_path), "sam")
    assert found["data_verified"] == "data_verified=no (paper: yes)"


@pytest.mark.parametrize("flip", ["different", "uniform"])
def test_either_reading_of_symmetric_noise_is_listed_as_one_the_paper_does_not_state(
    flip, tmp_path
):
    record_recipe(tmp_path, "noise40-c10", f"data.label_noise.flip={flip}", "seeds=[0]")
    found = listed(beside(tmp_path), "fsam")
    assert found["label_noise.flip"] == f"label_noise.flip={flip} (not stated)"


def test_what_the_paper_leaves_open_for_table_4_is_a_guess_and_said_to_be(tmp_path):
    record_recipe(tmp_path, "noise40-c10", "seeds=[0]", "train.lr=0.2")
    frame = beside(tmp_path)
    assert listed(frame, "sam")["train.lr"] == "train.lr=0.2 (not stated, guess: 0.1)"
    [note] = [note for note in published.notes_on(frame) if note.startswith("Table 4")]
    assert "the paper does not state, and fsam guesses" in note
    assert "train.epochs" in note and "augment" in note and "precision" in note
    assert "train.lr" not in note and "method.rho" not in note


# Which number belongs to a cell


def test_what_was_run_decides_and_not_the_names(tmp_path):
    cells = planned_cells("wrn28-10-c100", "seeds=[0]")
    record_run(tmp_path, recipe="mine", label="x", config=cells["fsam"].config, seeds=(0,))
    more = {"recipe": "resnet20-c10", "label": "sam", "seeds": (0,)}
    record_run(tmp_path, config=configuration(method={"name": "sam", "rho": 0.05}), **more)
    [line] = beside(tmp_path).to_dict("records")
    assert (line["recipe"], line["label"], line["method"]) == ("mine", "x", "fsam")
    assert (line["table"], line["published_mean"]) == ("1", 0.856)


@pytest.mark.parametrize(
    "override",
    ["model=resnet32", "data.label_noise={rate: 0.2}", "data.name=cifar100", "model=resnet34"],
)
def test_another_network_data_set_or_rate_has_no_number(override, tmp_path):
    record_recipe(tmp_path, "densenet121-c10", "seeds=[0]", "model=resnet20", override)
    found = beside(tmp_path)
    if "cifar100" in override:  # ResNet-20 is published there, too
        assert set(found["published_mean"]) == {0.6824, 0.6861, 0.6868, 0.6904}
    else:
        assert found.empty


def test_a_method_that_the_paper_does_not_have_has_no_number(tmp_path):
    record_recipe(tmp_path, "wrn28-10-c100", "seeds=[0]")
    assert "sam_matched" not in set(beside(tmp_path)["label"])


def test_another_reading_of_a_network_is_compared_and_named(tmp_path):
    record_recipe(tmp_path, "vgg19-bn-c10", "seeds=[0]", "model=vgg19_bn_small")
    found = listed(beside(tmp_path), "sam")
    assert list(found.values()) == [
        "model.name=vgg19_bn_small (not stated, guess: vgg19_bn)",
        "seeds=1 (not stated)",
    ]


def test_sam_at_another_radius_is_compared_too(tmp_path):
    record_recipe(tmp_path, "resnet20-c10", "seeds=[0]")
    frame = beside(tmp_path).set_index("label")
    assert frame.loc["sam-as-fsam", "published_mean"] == frame.loc["sam", "published_mean"]
    assert frame.loc["sam", "published_mean"] == 0.9299


@pytest.mark.parametrize("epochs", [5, 200])
def test_the_number_of_sgd_belongs_to_the_one_with_twice_the_epochs_of_the_others(epochs, tmp_path):
    record_recipe(tmp_path, "resnet20-c10", "seeds=[0]", f"train.epochs={epochs}")
    labels = list(beside(tmp_path)["label"])
    assert "sgd-2x" in labels
    assert "sgd-1x" not in labels


def test_sgd_at_any_other_multiple_has_no_number(tmp_path):
    record_recipe(tmp_path, "resnet20-c10", "seeds=[0]", "methods.sgd-2x.epochs_factor=3")
    assert {"sgd-1x", "sgd-2x"}.isdisjoint(beside(tmp_path)["label"])


def test_sgd_alone_has_the_number_if_it_has_the_epochs_of_the_paper(tmp_path):
    results = {"sgd-1x": [0.9], "sgd-2x": [0.91]}
    record_recipe(tmp_path, "resnet20-c10", "seeds=[0]", accuracies=results)
    assert list(beside(tmp_path)["label"]) == ["sgd-2x"]


def test_sgd_beside_methods_of_different_epochs_has_no_double(tmp_path):
    record_recipe(tmp_path, "resnet20-c10", "seeds=[0]", "methods.fsam.epochs_factor=0.5")
    labels = set(beside(tmp_path)["label"])
    assert {"sgd-1x", "sgd-2x"}.isdisjoint(labels)
    assert {"sam", "fsam"} <= labels


def test_records_without_what_training_writes_have_no_number_and_harm_nothing(tmp_path):
    odd = [{}, {"data": "cifar10"}, {"model": None, "label_noise": "much"}, {"augment": "all"}]
    for seed, more in enumerate(odd):
        config = {"train": {"epochs": 3}, "method": {"name": "sam"}, **more}
        config["train"] = {**config["train"], "select": "last"}
        record_run(tmp_path, seed=seed, config=config, recipe=f"odd{seed}")
    damaged = record_run(tmp_path, recipe="lost")
    (damaged / "config.yaml").write_text("fsam-run/1")
    (damaged / "result.json").write_text("{")
    assert beside(tmp_path).empty


# The numbers beside each other


def test_the_difference_is_of_the_means_and_has_no_test(tmp_path):
    record_recipe(tmp_path, "wrn28-10-c100", "seeds=0:2", accuracies=RESULTS)
    frame = beside(tmp_path).set_index("label")
    # SGD: 83.5 - 83.47; SAM and FSAM: 85.5 - 85.60.
    assert 100 * frame.loc["sgd-2x", "difference"] == pytest.approx(0.03, abs=1e-9)
    assert 100 * frame.loc["sam", "difference"] == pytest.approx(-0.1, abs=1e-9)
    assert 100 * frame.loc["fsam", "difference"] == pytest.approx(-0.1, abs=1e-9)
    assert frame.loc["sam", "std"] == pytest.approx(0.005 * 2**0.5)  # ddof 1 of two
    assert frame.loc["sam", "n"] == 2
    assert frame["published_n"].isna().all()
    first = published.notes_on(beside(tmp_path))[0]
    assert "says neither over how many seeds" in first and "no test is made" in first


def test_the_result_of_a_recipe_that_selects_by_validation_is_the_selected_epoch(tmp_path):
    settings = ("data.validation=0.1", "train.select=validation", "seeds=[0]")
    record_recipe(tmp_path, "wrn28-10-c100", *settings, selected=0.8)
    frame = beside(tmp_path).set_index("label")
    assert frame.loc["fsam", "metric"] == "selected_test_accuracy"
    assert frame.loc["fsam", "mean"] == 0.8
    assert "train.select" in listed(frame.reset_index(), "fsam")


def test_tables_print_ours_and_the_papers_and_shared_deviations_once(tmp_path):
    record_recipe(tmp_path, "wrn28-10-c100", "seeds=0:2", "train.lr=0.2", accuracies=RESULTS)
    record_recipe(
        *(tmp_path, "wrn28-10-c100", "seeds=0:2", "train.lr=0.2", "methods.asam.rho=0.5"),
        accuracies={"asam": [0.8]},  # one of two seeds
    )
    [shown] = render.published_tables(beside(tmp_path))
    assert shown.title == "wrn28-10-c100, beside Table 1 of arXiv 2206.04920"
    assert shown.headings == ["method", "n", "ours %", "paper %", "diff.", "deviations"]
    assert cells(shown) == [
        ["sgd-2x", "2", "83.50±0.71", "83.47±0.21", "+0.03", ""],
        ["sam", "2", "85.50±0.71", "85.60±0.05", "-0.10", ""],
        ["asam", "", "1 of 2 missing", "85.20±0.18", "", "method.rho=0.5 (paper: 1.0)"],
        ["fsam", "2", "85.50±0.57", "85.60±0.11", "-0.10", ""],
        ["(all)", "", "", "", "", "train.lr=0.2 (paper: 0.1); seeds=2 (not stated)"],
    ]


def test_a_method_alone_keeps_its_deviations_to_itself(tmp_path):
    record_recipe(tmp_path, "wrn28-10-c100", "seeds=[0]", accuracies={"fsam": [0.85]})
    [shown] = render.published_tables(beside(tmp_path))
    assert cells(shown) == [["fsam", "1", "85.00", "85.60±0.11", "-0.60", "seeds=1 (not stated)"]]


def test_a_top5_accuracy_stands_beside_the_printed_one_in_a_table_of_its_own(tmp_path, vision_data):
    planned = ("deit-b-imagenet", "seeds=[0]", f"data.root={vision_data}")
    record_recipe(tmp_path, *planned, accuracies={"sam": [0.82], "fsam": [0.821]}, top5=0.96)
    top1, top5 = render.published_tables(beside(tmp_path))
    assert top1.title == "deit-b-imagenet, beside Table 2 of arXiv 2206.04920"
    assert top5.title == top1.title + ", top-5"
    assert [row[:5] for row in cells(top1)][1] == ["fsam", "1", "82.10", "82.17±0.01", "-0.07"]
    assert [row[:5] for row in cells(top5)][:2] == [
        ["sam", "1", "96.00", "95.71±0.03", "+0.29"],
        ["fsam", "1", "96.00", "95.90±0.01", "+0.10"],
    ]


def test_records_from_before_top5_was_counted_say_so_beside_the_paper(tmp_path, vision_data):
    planned = ("deit-b-imagenet", "seeds=[0]", f"data.root={vision_data}")
    record_recipe(tmp_path, *planned, accuracies={"fsam": [0.821]})
    _, top5 = render.published_tables(beside(tmp_path))
    assert [row[:5] for row in cells(top5)] == [["fsam", "", "not in every run", "95.90±0.01", ""]]


@pytest.fixture
def two_recipes(tmp_path):
    record_recipe(tmp_path, "wrn28-10-c100", "seeds=0:2", accuracies=RESULTS)
    record_cell(tmp_path, [0.8, 0.82, 0.84])  # the quickstart's, of which the paper has nothing
    return build_table(load_runs(tmp_path))


def test_markdown_has_the_tables_and_the_notes(two_recipes):
    text = render.markdown(two_recipes, Beside(published=published.beside_published(two_recipes)))
    assert "**wrn28-10-c100, beside Table 1 of arXiv 2206.04920**" in text
    assert "| method | n | ours % | paper % | diff. | deviations |" in text
    assert "| fsam | 2 | 85.50±0.57 | 85.60±0.11 | -0.10 |  |" in text
    assert "- Table 1 of arXiv 2206.04920: the paper does not state" in text
    assert "quickstart, beside" not in text
    assert "arXiv" not in render.markdown(two_recipes)


def test_every_configuration_has_its_number_of_the_paper_and_sgd_the_budget_of_the_others(
    tmp_path,
):
    record_recipe(tmp_path, "wrn28-10-c100", "seeds=0:2", accuracies=RESULTS)
    wide = ("wrn28-10-c100", "seeds=0:2", "methods.sam.rho=0.3")
    record_recipe(tmp_path, *wide, accuracies={"sam": [0.8, 0.81]})
    frame = beside(tmp_path)
    assert list(zip(frame["label"], frame["settings"], strict=True)) == [
        *(("sgd-2x", ""), ("sam", "rho=0.1"), ("sam", "rho=0.3"), ("fsam", "")),
    ]
    [table] = render.published_tables(frame)
    assert [row["method"] for row in table.rows] == [
        *("sgd-2x", "sam [rho=0.1]", "sam [rho=0.3]", "fsam", "(all)"),
    ]
    assert table.rows[2]["deviations"] == "method.rho=0.3 (paper: 0.1)"
    text = render.csv_text(build_table(load_runs(tmp_path)), Beside(published=frame))
    lines = [line for line in csv.DictReader(io.StringIO(text)) if line["published_mean"]]
    assert [line["settings"] for line in lines] == ["", "rho=0.1", "rho=0.3", ""]


def test_csv_has_columns_of_its_own_filled_where_there_is_a_number(two_recipes):
    text = render.csv_text(two_recipes, Beside(published=published.beside_published(two_recipes)))
    rows = list(csv.DictReader(io.StringIO(text)))
    plain = list(csv.DictReader(io.StringIO(render.csv_text(two_recipes))))
    more = ["published_mean", "published_std", "published_difference", "deviations"]
    assert list(rows[0]) == [*plain[0], *more]
    assert [{key: row[key] for key in plain[0]} for row in rows] == plain
    filled = {(row["label"], row["metric"]): row for row in rows if row["published_mean"]}
    assert set(filled) == {(label, "last_test_accuracy") for label in RESULTS}
    fsam = filled["fsam", "last_test_accuracy"]
    assert [fsam["published_mean"], fsam["published_std"]] == ["0.856", "0.0011"]
    assert float(fsam["published_difference"]) == pytest.approx(-0.001, abs=1e-12)
    assert fsam["deviations"] == "seeds=2 (not stated)"


def test_json_is_the_documented_schema(two_recipes):
    frame = published.beside_published(two_recipes)
    content = json.loads(render.json_text(two_recipes, Beside(published=frame)))
    page = (ROOT / "docs" / "report-schema.md").read_text().partition("\n### `published`")[2]
    assert content["schema"] == "fsam-report/2"
    assert [line["label"] for line in content["published"]] == ["sgd-2x", "sam", "fsam"]
    fsam = content["published"][2]
    assert list(fsam) == [
        *("recipe", "row", "label", "settings", "cell"),
        *("metric", "mean", "std", "n", "status"),
        *("source", "table", "method", "published_mean", "published_std", "published_n"),
        *("difference", "deviations", "guesses"),
    ]
    assert fsam["published_mean"] == 0.856
    assert fsam["published_n"] is None
    [deviation] = fsam["deviations"]
    assert deviation == {"key": "seeds", "run": "2", "paper": None, "basis": "unknown"}
    assert "precision" in fsam["guesses"]
    for key in (*fsam, *deviation):
        assert f"`{key}`" in page, key
    assert content["notes"][: len(two_recipes.notes)] == two_recipes.notes
    assert len(content["notes"]) == len(two_recipes.notes) + 2
    assert "published" not in json.loads(render.json_text(two_recipes))


def test_a_cell_of_one_seed_and_one_that_is_incomplete_are_null_in_json(tmp_path):
    results = {"sam": [0.85], "fsam": []}
    record_recipe(tmp_path, "wrn28-10-c100", "seeds=[0]", accuracies=results)
    fsam = planned_cells("wrn28-10-c100", "seeds=[0]")["fsam"]
    record_run(
        *(tmp_path,),
        recipe=fsam.recipe.name,
        label="fsam",
        config=fsam.config,
        seeds=(0,),
        status="diverged",
        reason="nan",
    )
    table = build_table(load_runs(tmp_path))
    content = json.loads(
        render.json_text(table, Beside(published=published.beside_published(table)))
    )
    by_label = {line["label"]: line for line in content["published"]}
    assert by_label["sam"]["std"] is None
    assert by_label["fsam"]["status"] == "1 of 1 diverged"
    assert by_label["fsam"]["n"] == 0
    assert [by_label["fsam"][key] for key in ("mean", "std", "difference")] == [None] * 3
    assert by_label["fsam"]["published_mean"] == 0.856


def test_names_and_deviations_are_flush_left(tmp_path):
    record_recipe(tmp_path, "resnet20-c10", "seeds=[0]")
    for shown in render.published_tables(beside(tmp_path)):
        words = [each for each in shown.headings if shown.has_words(each)]
        assert words == ["method", "deviations"]
