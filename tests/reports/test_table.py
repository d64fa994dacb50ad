"""The table as data: marks, notes, differences."""

from __future__ import annotations

import math

import pytest

from fsam_cli.records.frame import load_runs
from fsam_cli.records.statistics import holm
from fsam_cli.reports.table import build_table, differences
from tests.support.recorded import ENVIRONMENT, configuration, record_cell, record_run

LABELS = ("sgd-1x", "sam-0.1", "fsam-0.1")
ACCURACIES = {
    "sgd-1x": [0.50, 0.52, 0.55],
    "sam-0.1": [0.90, 0.92, 0.94],
    "fsam-0.1": [0.91, 0.91, 0.93],
}


def config_of(label, **changes):
    return configuration(**{"method": {"name": label.partition("-")[0]}, **changes})


def record_table(root, accuracies=ACCURACIES, **more):
    for label, by_seed in accuracies.items():
        record_cell(root, by_seed, label=label, config=config_of(label), labels=LABELS, **more)


def table_of(root, **options):
    return build_table(load_runs(root), **options)


def line_of(table, column):
    [line] = [line for line in table.lines if line.metric.column == column]
    return line


def marked(table, column="last_test_accuracy"):
    return {label for label, entry in line_of(table, column).entries.items() if entry.marked}


def text(table):
    return "\n".join(table.notes)


def test_the_best_and_all_within_noise_of_it_are_marked_and_the_note_says_how(tmp_path):
    record_table(tmp_path)
    table = table_of(tmp_path)
    assert table.names == table.known == list(LABELS)
    assert marked(table) == {"sam-0.1", "fsam-0.1"}
    assert marked(table, "last_test_loss") == {"sam-0.1", "fsam-0.1"}  # where less is better
    for words in (
        "t-test",
        "paired over the seeds",
        "Welch",
        "5 %",
        "Holm",
        "little power",
        "ddof 1",
    ):
        assert words in text(table)
    assert "n = 3 seeds" in text(table)


def test_costs_are_not_a_race(tmp_path):
    record_table(tmp_path)
    table = table_of(tmp_path)
    assert marked(table, "sample_gradients") == marked(table, "train_seconds") == set()
    assert line_of(table, "train_seconds").entries["sgd-1x"].sample.mean == 12.5


def test_one_seed_each_marks_nothing(tmp_path):
    record_table(tmp_path, {label: values[:1] for label, values in ACCURACIES.items()}, seeds=(0,))
    table = table_of(tmp_path)
    assert marked(table) == set()
    assert "Marked:" not in text(table)


def test_an_incomplete_cell_is_named_never_marked_and_its_runs_are_in_the_notes(tmp_path):
    record_table(tmp_path, {label: ACCURACIES[label] for label in ("sgd-1x", "fsam-0.1")})
    more = {"label": "sam-0.1", "config": config_of("sam-0.1")}
    record_run(tmp_path, seed=0, accuracy=0.99, **more)
    record_run(tmp_path, seed=1, accuracy=0.99, **more)
    path = record_run(tmp_path, seed=2, status="diverged", reason="loss\nis nan", **more)
    table = table_of(tmp_path)
    entry = line_of(table, "last_test_accuracy").entries["sam-0.1"]
    assert (entry.sample, entry.status, entry.marked) == (None, "1 of 3 diverged", False)
    assert marked(table) == {"fsam-0.1"}
    assert f"quickstart/sam-0.1 seed 2: diverged: loss is nan ({path})" in table.notes


def test_validation_selected_stands_beside_the_last_epoch_where_there_is_any(tmp_path):
    def columns(**options):
        return [line.metric.column for line in table_of(tmp_path, **options).lines]

    record_table(tmp_path)
    assert columns()[:2] == ["last_test_accuracy", "last_test_loss"]
    record_cell(tmp_path, [0.7, 0.8, 0.9], label="new", selected=0.8)
    assert columns()[:2] == ["last_test_accuracy", "selected_test_accuracy"]


def test_the_best_test_epoch_is_shown_on_demand_only_and_labelled(tmp_path):
    record_table(tmp_path)
    names = [line.metric.name for line in table_of(tmp_path).lines]
    assert not any("best test epoch" in name for name in names)
    names = [line.metric.name for line in table_of(tmp_path, best_test=True).lines]
    assert "test accuracy, best test epoch: selected on test (%)" in names


def test_unverified_data_and_mixed_environments_are_told(tmp_path):
    record_table(tmp_path, {"sgd-1x": ACCURACIES["sgd-1x"]}, data_verified=False)
    newer = {**ENVIRONMENT, "torch": "2.12.0"}
    more = {"label": "sam-0.1", "config": config_of("sam-0.1")}
    record_run(tmp_path, seed=0, **more)
    record_run(tmp_path, seed=1, environment=newer, **more)
    notes = text(table_of(tmp_path))
    assert "quickstart: unverified data" in notes
    assert "quickstart: its runs had different versions of torch" in notes
    assert "2.11.0, 2.12.0." in notes
    assert "hardware" not in notes


@pytest.mark.parametrize(
    ("difference", "words"),
    [
        ({"device_name": "another"}, "different hardware"),
        ({"cuda_graph": "yes"}, "different ways to launch"),
        ({"runs_at_once": "8"}, "different numbers of runs at once"),
        ({"earlier": [{**ENVIRONMENT, "device_name": "another"}]}, "different hardware"),
    ],
)
def test_seconds_that_do_not_compare_are_told_across_the_methods_of_a_row(
    tmp_path, difference, words
):
    usual = {**ENVIRONMENT, "cuda_graph": "no", "runs_at_once": "1"}
    for label, environment in (("sgd-1x", usual), ("sam-0.1", {**usual, **difference})):
        config = config_of(label)
        for seed in range(2):
            record_run(tmp_path, label=label, config=config, seed=seed, environment=environment)
    assert words in text(table_of(tmp_path))


def test_a_seed_recorded_twice_is_counted_once_and_told(tmp_path):
    record_table(tmp_path / "a")
    twin = record_run(
        tmp_path / "b", seed=1, label="sgd-1x", config=config_of("sgd-1x"), status="interrupted"
    )
    table = table_of(tmp_path)
    assert line_of(table, "last_test_accuracy").entries["sgd-1x"].sample.n == 3
    [note] = [note for note in table.notes if "more than once" in note]
    assert note.endswith(f"not counted, interrupted: {twin}")


def test_a_seed_done_again_with_other_numbers_is_told_with_both_records(tmp_path):
    record_table(tmp_path / "a")
    more = {"label": "sgd-1x", "config": config_of("sgd-1x")}
    twin = record_run(tmp_path / "b", seed=1, accuracy=0.53, **more)
    table = build_table(load_runs(tmp_path / "b", tmp_path / "a"))
    entry = line_of(table, "last_test_accuracy").entries["sgd-1x"]
    assert (entry.sample, entry.status) == (None, "1 of 3 recorded again with other numbers")
    [told] = [note for note in table.notes if "with other numbers" in note]
    assert told.startswith("quickstart/sgd-1x seed 1: ")
    assert told.endswith(str(twin).replace("/b/", "/a/"))
    assert f"quickstart/sgd-1x seed 1: recorded more than once; not counted, done: {twin}" in (
        table.notes
    )


def test_one_run_on_unverified_data_is_told(tmp_path):
    record_run(tmp_path, seed=0, data_verified=False)
    record_run(tmp_path, seed=1)
    assert "quickstart: unverified data" in text(table_of(tmp_path))


def test_a_method_whose_runs_lie_beside_those_reported_is_not_called_absent(tmp_path):
    for label in ("sgd-1x", "sam-0.1", "fsam-0.1"):
        record_run(tmp_path, label=label)
    alone = build_table(load_runs(tmp_path / "quickstart" / "sam-0.1"))
    assert not any("without a run here" in note for note in alone.notes)


def test_a_planned_method_without_any_run_is_told(tmp_path):
    record_table(tmp_path, {"sam-0.1": ACCURACIES["sam-0.1"]})
    record_run(tmp_path, recipe="other", label="new", labels=("new",))
    notes = [note for note in table_of(tmp_path).notes if "without a run" in note]
    assert notes == ["quickstart: planned, and without a run here: sgd-1x, fsam-0.1."]


def test_rows_whose_names_print_alike_are_told_apart(tmp_path):
    for norm, seeds in (("1", 2), (1, 3)):
        config = configuration(**{"model.norm": norm})
        record_cell(tmp_path, [0.8] * seeds, config=config, seeds=tuple(range(seeds)))
    table = table_of(tmp_path)
    assert [row.name for row in table.rows] == ["model.norm=1"] * 2
    lines = [line for line in table.lines if line.metric.column == "last_test_accuracy"]
    cells = [line.row.cells["sam-0.1"] for line in lines]
    assert [len(cell.runs) for cell in cells] == [
        line.entries["sam-0.1"].sample.n for line in lines
    ]
    assert {len(cell.runs) for cell in cells} == {2, 3}


def test_paired_differences_by_hand(tmp_path):
    accuracies = {"sgd-1x": [0.1, 0.2, 0.3], "sam-0.1": [0.11, 0.22, 0.33]}
    record_table(tmp_path, {**accuracies, "fsam-0.1": [0.1, 0.2, 0.3]})
    table = table_of(tmp_path)
    frame = differences(table, "sgd-1x").set_index("method")
    sam = frame.loc["sam-0.1"]  # 0.01, 0.02, 0.03: see test_statistics
    assert (sam["versus"], sam["metric"]) == ("sgd-1x", "last_test_accuracy")
    assert (sam["test"], sam["n"], sam["status"]) == ("paired", 3, "done")
    assert sam["difference"] == pytest.approx(0.02)
    assert sam["standard_error"] == pytest.approx(0.01 / math.sqrt(3))
    assert sam["p"] == pytest.approx(1 - math.sqrt(12 / 14))
    assert sam["p_holm"] == pytest.approx(2 * sam["p"])
    half = 4.302652729911275 * 0.01 / math.sqrt(3)
    assert (sam["low"], sam["high"]) == pytest.approx((0.02 - half, 0.02 + half))
    assert frame.loc["fsam-0.1", "p"] == 1


def test_differences_without_a_number_say_why(tmp_path):
    record_table(tmp_path, {label: ACCURACIES[label] for label in ("sgd-1x", "fsam-0.1")})
    record_run(tmp_path, label="sam-0.1", config=config_of("sam-0.1"), status="failed")
    table = table_of(tmp_path)
    status = differences(table, "sgd-1x").set_index("method")["status"].to_dict()
    assert status == {"sam-0.1": "1 of 3 failed, 2 missing", "fsam-0.1": "done"}
    status = set(differences(table, "sam-0.1")["status"])
    assert status == {"sam-0.1: 1 of 3 failed, 2 missing"}


def test_one_seed_has_no_paired_difference(tmp_path):
    record_table(tmp_path, {label: values[:1] for label, values in ACCURACIES.items()}, seeds=(0,))
    assert set(differences(table_of(tmp_path), "sgd-1x")["status"]) == {"one seed only"}


def test_a_difference_without_spread_is_shown_and_not_tested(tmp_path):
    """One image more in each of three pairs is no overwhelming evidence."""
    accuracies = {
        "sgd-1x": [0.50, 0.60, 0.55],
        "sam-0.1": [0.53, 0.63, 0.58],
        "fsam-0.1": [0.10, 0.30, 0.20],
    }
    record_table(tmp_path, accuracies)
    table = table_of(tmp_path)
    assert marked(table) >= {"sgd-1x", "sam-0.1"}
    frame = differences(table, "sgd-1x")
    one = frame[(frame["method"] == "sam-0.1") & (frame["metric"] == "last_test_accuracy")]
    assert one["difference"].item() == pytest.approx(0.03)
    assert (one["status"].item(), one["p"].isna().item()) == ("no spread to test by", True)


def test_trials_are_counted_and_a_method_that_has_nothing_else_is_named(tmp_path):
    for rho in (0.1, 0.9):
        record_cell(tmp_path, [0.8, 0.9], config=configuration(**{"method.rho": rho}))
    record_run(tmp_path, seed=7, label="sam-0.1", trial=True)
    note = "quickstart: not counted: 1 trial of a tuning, which chose settings"
    assert f"{note}." in build_table(load_runs(tmp_path)).notes
    record_run(tmp_path, seed=7, label="fsam-0.1", trial=True, status="diverged")
    note = f"{note.replace('1 trial', '2 trials')}; there is nothing else of fsam-0.1."
    assert note in build_table(load_runs(tmp_path)).notes


def test_what_another_shard_has_yet_to_do_is_no_second_record(tmp_path):
    """Each of two machines has the other's runs on record as planned."""
    for mine, other in ((0, 1), (1, 0)):
        record_run(tmp_path / f"m{mine}", seed=mine, seeds=(0, 1))
        record_run(tmp_path / f"m{mine}", seed=other, seeds=(0, 1), status="planned")
    table = build_table(load_runs(tmp_path / "m0", tmp_path / "m1"))
    [row] = table.rows
    assert row.cells["sam-0.1"].status == "done"
    assert not any("more than once" in note for note in table.notes)


def test_top5_accuracies_are_lines_of_their_own_where_there_are_any(tmp_path):
    record_table(tmp_path / "without")
    assert not any("top-5" in line.metric.name for line in table_of(tmp_path / "without").lines)
    record_table(tmp_path / "with", top5=0.975)
    line = line_of(table_of(tmp_path / "with"), "last_test_top5_accuracy")
    assert line.entries["sam-0.1"].sample.mean == 0.975
    compared = differences(table_of(tmp_path / "with"), "sgd-1x")
    assert set(compared["metric"]) == {"last_test_accuracy", "last_test_top5_accuracy"}


def test_a_note_says_what_the_weights_of_a_file_reached_before(tmp_path):
    before = {"test_loss": 0.8, "test_accuracy": 0.8194, "test_top5_accuracy": 0.9563}
    record_table(tmp_path / "both", before=before)
    expected = "began with have a test accuracy of 81.94 %, top-5 95.63 %."
    assert text(table_of(tmp_path / "both")).count(expected) == 1
    record_table(tmp_path / "one", before={**before, "test_top5_accuracy": None})
    assert "a test accuracy of 81.94 %." in text(table_of(tmp_path / "one"))


def test_a_note_names_each_recipe_whose_data_had_no_official_checksum(tmp_path):
    for recipe, verified in (("official", True), ("built-in", None), ("own", False)):
        record_table(tmp_path, recipe=recipe, data_verified=verified)
    noted = [note for note in table_of(tmp_path).notes if "unverified data" in note]
    assert noted == ["own: unverified data (no official checksum was asked for)."]


def test_a_record_from_before_top5_was_counted_does_not_contradict_a_later_one(tmp_path):
    for root, top5 in (("old", None), ("new", 0.9)):
        record_cell(tmp_path / root, [0.8, 0.81, 0.82], label="sam-0.1", top5=top5)
    table = build_table(load_runs(tmp_path / "old", tmp_path / "new"))
    assert line_of(table, "last_test_accuracy").entries["sam-0.1"].sample.n == 3


def record_sweep(root):
    """A SAM without a radius and one of 0.9, beside SGD and FSAM."""
    record_table(root)
    wide = configuration(method={"name": "sam", "rho": 0.9})
    record_cell(root, [0.95, 0.96, 0.98], label="sam-0.1", config=wide, labels=LABELS)


def test_each_configuration_of_a_swept_method_is_compared_within_its_protocol(tmp_path):
    record_sweep(tmp_path)
    table = table_of(tmp_path)
    [row] = table.rows
    assert list(row.cells) == [
        *("sgd-1x", "sam-0.1 [rho=0.9]", "sam-0.1 [without rho]", "fsam-0.1"),
    ]
    frame = differences(table, "sgd-1x")
    shown = {(line.method, line.settings): line.difference for line in frame.itertuples()}
    assert shown == {
        ("fsam-0.1", ""): pytest.approx(1.18 / 3),
        ("sam-0.1", "without rho"): pytest.approx(1.19 / 3),
        ("sam-0.1", "rho=0.9"): pytest.approx(1.32 / 3),
    }
    assert set(frame["status"]) == {"done"}
    assert set(frame["row"]) == set(frame["versus_settings"]) == {""}
    other = configuration(**{"method": {"name": "sam", "rho": 0.9}, "train.lr": 0.3})
    record_cell(tmp_path, [0.95, 0.96, 0.98], label="sam-0.1", config=other, labels=LABELS)
    assert len(differences(table_of(tmp_path), "sgd-1x")) == 3  # another protocol has no SGD


def test_marks_are_corrected_for_all_configurations_of_a_row(tmp_path):
    """5, 4 and 3 points: t = 4 √3, p = 1 - t / √(t² + 2) = 0.020, which three pairs triple."""
    for rho, accuracies in ((0.1, [0.90, 0.92, 0.94]), (0.2, [0.95, 0.96, 0.97])):
        config = configuration(**{"method.rho": rho})
        record_cell(tmp_path, accuracies, config=config)
    assert marked(table_of(tmp_path)) == {"sam-0.1 [rho=0.2]"}
    record_cell(tmp_path, [0.5, 0.9, 0.99], config=configuration(**{"method.rho": 0.3}))
    table = table_of(tmp_path)
    assert marked(table) == set(table.names)


def test_a_label_of_several_configurations_is_subtracted_one_by_one_a_family_each(tmp_path):
    record_sweep(tmp_path)
    table = table_of(tmp_path)
    assert table.known == [
        *("sgd-1x", "sam-0.1", "sam-0.1 [rho=0.9]", "sam-0.1 [without rho]", "fsam-0.1"),
    ]
    frame = differences(table, "sam-0.1")
    assert list(zip(frame["versus"], frame["versus_settings"], strict=True)) == [
        *[("sam-0.1", "rho=0.9")] * 3,
        *[("sam-0.1", "without rho")] * 3,
    ]
    for name, settings in (("rho=0.9", "without rho"), ("without rho", "rho=0.9")):
        mine = frame[frame["versus_settings"] == name]
        assert list(mine["method"]) == ["sgd-1x", "sam-0.1", "fsam-0.1"]
        assert list(mine["settings"]) == ["", settings, ""]
        assert list(mine["p_holm"]) == pytest.approx(holm([float(p) for p in mine["p"]]))
        one = differences(table, f"sam-0.1 [{name}]")
        assert one.equals(mine.reset_index(drop=True))


def test_all_configurations_of_a_swept_method_are_one_family_of_tests(tmp_path):
    record_table(tmp_path)
    for rho in (0.7, 0.8, 0.9):
        config = configuration(method={"name": "sam", "rho": rho})
        accuracies = [0.5 + rho / 100, 0.52 + rho / 90, 0.55 + rho / 80]
        record_cell(tmp_path, accuracies, label="sam-0.1", config=config, labels=LABELS)
    frame = differences(table_of(tmp_path), "sgd-1x")
    last = frame[frame["metric"] == "last_test_accuracy"]
    assert len(last) == 5  # four of SAM, and FSAM
    assert list(last["p_holm"]) == pytest.approx(holm([float(p) for p in last["p"]]))
    assert (last["p_holm"] > last["p"]).sum() >= 4
