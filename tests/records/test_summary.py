"""What may be pooled, what is complete, and how rows are named."""

from __future__ import annotations

import pytest

from fsam_cli.records.frame import as_rows, load_runs
from fsam_cli.records.summary import (
    LAST,
    SELECTED,
    cells_of,
    label_order,
    one_row,
    rows_of,
    tuned_values,
)
from fsam_cli.reports.table import build_table
from tests.support.recorded import configuration, record_cell, record_run

FSAM = {"name": "fsam", "gamma": 0.1, "eta": 1.0}


def only_cell(root):
    [cell] = cells_of(load_runs(root))
    return cell


def named(root):
    """Row name -> the names of its cells."""
    return {row.name: list(row.cells) for row in rows_of(load_runs(root))}


def test_a_complete_cell_has_its_mean_by_hand(tmp_path):
    record_cell(tmp_path, [0.80, 0.82, 0.87])
    cell = only_cell(tmp_path)
    assert cell.status == "done"
    assert cell.sample(LAST).by_seed == {0: 0.80, 1: 0.82, 2: 0.87}
    assert cell.sample(LAST).mean == pytest.approx(0.83)
    assert cell.sample(LAST).std == pytest.approx(0.0360555, abs=1e-7)  # sqrt(0.0026 / 2)


@pytest.mark.parametrize("status", ["diverged", "failed", "interrupted", "planned"])
def test_there_is_never_a_mean_over_survivors(tmp_path, status):
    record_cell(tmp_path, [0.8, 0.9])
    record_run(tmp_path, seed=2, status=status, reason="why")
    cell = only_cell(tmp_path)
    assert cell.status == f"1 of 3 {status}"
    assert cell.sample(LAST) is None


def test_an_unreadable_run_makes_its_cell_incomplete(tmp_path):
    record_cell(tmp_path, [0.8, 0.9])
    (record_run(tmp_path, seed=2) / "result.json").write_text("{")
    assert only_cell(tmp_path).status == "1 of 3 unreadable"


def test_a_planned_seed_without_a_folder_is_missing(tmp_path):
    record_cell(tmp_path, [0.8, 0.9], seeds=(0, 1, 2, 3))
    assert only_cell(tmp_path).status == "2 of 4 missing"


def test_several_things_wrong_are_all_named(tmp_path):
    record_run(tmp_path, seed=0)
    record_run(tmp_path, seed=1, status="diverged")
    assert only_cell(tmp_path).status == "1 of 3 diverged, 1 missing"


def test_seeds_of_several_plans_add_up(tmp_path):
    record_cell(tmp_path, {0: 0.8, 1: 0.9}, seeds=(0, 1))
    record_cell(tmp_path, {5: 0.7}, seeds=(5, 6))
    assert only_cell(tmp_path).expected_seeds == (0, 1, 5, 6)
    assert only_cell(tmp_path).status == "1 of 4 missing"


def test_a_seed_that_no_plan_names_is_expected_all_the_same(tmp_path):
    record_cell(tmp_path, {0: 0.8, 7: 0.9}, seeds=(0, 1))
    assert only_cell(tmp_path).expected_seeds == (0, 1, 7)
    assert only_cell(tmp_path).status == "1 of 3 missing"


@pytest.mark.parametrize(
    ("runs", "verified"),
    [
        ((True, True), True),
        ((True, False), False),
        ((None, False), False),
        ((True, None), None),
        ((None, None), None),
    ],
)
def test_data_are_verified_only_if_they_are_in_every_run(tmp_path, runs, verified):
    for seed, each in enumerate(runs):
        record_run(tmp_path, seed=seed, seeds=(0, 1), data_verified=each)
    assert only_cell(tmp_path).data_verified is verified


def test_a_done_run_without_a_finite_number_leaves_no_mean(tmp_path):
    record_run(tmp_path, seed=0, selected=0.8, seeds=(0, 1))
    record_run(tmp_path, seed=1, seeds=(0, 1))
    assert only_cell(tmp_path).sample(SELECTED) is None
    assert only_cell(tmp_path).sample(LAST) is not None


def test_the_same_seed_in_two_roots_is_one_seed(tmp_path):
    record_cell(tmp_path / "a", [0.8, 0.9], seeds=(0, 1))
    record_cell(tmp_path / "b", [0.8, 0.9], seeds=(0, 1))
    [cell] = cells_of(load_runs(tmp_path))
    assert (cell.status, cell.sample(LAST).n) == ("done", 2)


@pytest.mark.parametrize(
    ("first", "second", "kept"),
    [
        ("interrupted", "done", "done"),
        ("done", "failed", "done"),
        ("done", "diverged", "diverged"),  # a copy elsewhere does not undo it
        ("planned", "interrupted", "interrupted"),
    ],
)
def test_of_two_records_of_a_seed_the_one_that_says_most_counts(tmp_path, first, second, kept):
    record_run(tmp_path / "a", status=first, seeds=(0,))
    record_run(tmp_path / "b", status=second, seeds=(0,))
    [cell] = cells_of(load_runs(tmp_path))
    assert cell.runs["status"].tolist() == [kept]


def test_a_damaged_copy_does_not_replace_a_done_record(tmp_path):
    for folder in ("a", "b", "c"):
        run = record_run(tmp_path / folder, seeds=(0,))
        if folder != "b":
            (run / "result.json").write_text("{")
    assert only_cell(tmp_path).runs["status"].tolist() == ["done"]


@pytest.mark.parametrize("first", ["a", "b"])
def test_of_equal_records_the_same_one_counts_whatever_the_order_of_the_roots(tmp_path, first):
    run = record_run(tmp_path / "a", seeds=(0,))
    record_run(tmp_path / "b", seeds=(0,))
    roots = sorted([tmp_path / "a", tmp_path / "b"], key=lambda root: root.name != first)
    [cell] = cells_of(load_runs(*roots))
    assert cell.runs["path"].tolist() == [str(run)]
    assert cell.status == "done"


@pytest.mark.parametrize("first", ["a", "b"])
def test_a_seed_done_again_with_other_numbers_leaves_no_mean(tmp_path, first):
    record_cell(tmp_path / "a", [0.8, 0.9], seeds=(0, 1))
    record_cell(tmp_path / "b", [0.8, 0.91], seeds=(0, 1))
    roots = sorted([tmp_path / "a", tmp_path / "b"], key=lambda root: root.name != first)
    [cell] = cells_of(load_runs(*roots))
    assert cell.contradicted == {1}
    assert cell.status == "1 of 2 recorded again with other numbers"
    assert cell.sample(LAST) is None


def test_labels_stand_in_planned_order(tmp_path):
    for label in ("fsam-0.1", "extra", "sgd-1x", "sam-0.1"):
        record_run(tmp_path, label=label)
    planned = ["sgd-1x", "sam-0.1", "fsam-0.1"]
    assert label_order(load_runs(tmp_path)) == [*planned, "extra"]
    assert named(tmp_path) == {"": [*planned, "extra"]}


def test_methods_of_one_recipe_share_a_row_though_sgd_trains_twice_as_long(tmp_path):
    sgd = configuration(**{"method": {"name": "sgd"}, "train.epochs": 40})
    record_run(tmp_path, label="sgd-2x", config=sgd)
    record_run(tmp_path, label="fsam-0.1", config=configuration(method=FSAM))
    assert [len(row.cells) for row in rows_of(load_runs(tmp_path))] == [2]


def test_configurations_that_differ_are_rows_named_by_the_keys_in_which_they_differ(tmp_path):
    for rate in (0.8, 0.2):
        for label, method in (("sam-0.1", {"name": "sam"}), ("fsam-0.1", FSAM)):
            config = configuration(**{"label_noise.rate": rate, "method": method})
            record_cell(tmp_path, [0.5, 0.6, 0.7], label=label, config=config)
    labels = ["sam-0.1", "fsam-0.1"]
    assert named(tmp_path) == {"label_noise.rate=0.2": labels, "label_noise.rate=0.8": labels}
    assert list(named(tmp_path)) == ["label_noise.rate=0.2", "label_noise.rate=0.8"]
    assert all(cell.sample(LAST).n == 3 for cell in cells_of(load_runs(tmp_path)))


def test_numbers_that_no_float_holds_are_sorted_too(tmp_path):
    for size in (10**400, 64, 0.5):
        record_run(tmp_path, config=configuration(**{"train.batch_size": size}))
    sizes = [row.name.removeprefix("train.batch_size=") for row in rows_of(load_runs(tmp_path))]
    assert sizes == ["0.5", "64", f"1{'0' * 400}"]


def test_no_noise_and_digests_are_named_as_a_person_would(tmp_path):
    record_run(tmp_path, config=configuration(label_noise=None))
    record_run(tmp_path, config=configuration(**{"data.digest": "cd" * 32}))
    assert set(named(tmp_path)) == {
        "data.digest=abababababab, label_noise=null",
        "data.digest=cdcdcdcdcdcd, label_noise.rate=0.4, label_noise.flip=different",
    }


def test_a_key_that_only_one_has_names_both(tmp_path):
    without = configuration()
    del without["model"]["norm"]
    record_run(tmp_path, config=configuration())
    record_run(tmp_path, config=without)
    assert set(named(tmp_path)) == {"model.norm=batch", "without model.norm"}


def test_two_recipes_are_never_mixed(tmp_path):
    record_run(tmp_path, recipe="one")
    record_run(tmp_path, recipe="two")
    assert [row.recipe for row in rows_of(load_runs(tmp_path))] == ["one", "two"]


def test_the_points_of_a_sweep_stand_in_one_row_by_size_beside_the_other_methods(tmp_path):
    record_run(tmp_path, label="sgd-1x", config=configuration(method={"name": "sgd"}))
    for eta in (10.0, 0.1, 1.0):
        config = configuration(method={**FSAM, "eta": eta})
        record_run(tmp_path, label="fsam-0.1", config=config)
    [row] = rows_of(load_runs(tmp_path))
    assert row.name == ""
    assert list(row.cells) == [
        "sgd-1x",
        "fsam-0.1 [eta=0.1]",
        "fsam-0.1 [eta=1.0]",
        "fsam-0.1 [eta=10.0]",
    ]
    assert [(cell.name, cell.label) for cell in row.cells.values()] == [
        (name, name.partition(" ")[0]) for name in row.cells
    ]
    etas = [cell.config["method"].get("eta") for cell in row.cells.values()]
    assert etas == [None, 0.1, 1.0, 10.0]


def test_a_user_means_one_cell_by_its_name_and_all_of_a_label(tmp_path):
    for rho in (0.1, 0.2):
        record_run(tmp_path, config=configuration(**{"method.rho": rho}))
    record_run(tmp_path, label="sgd-1x", config=configuration(method={"name": "sgd"}))
    [row] = rows_of(load_runs(tmp_path))
    assert row.meant("sam-0.1") == ["sam-0.1 [rho=0.1]", "sam-0.1 [rho=0.2]"]
    assert row.meant("sam-0.1 [rho=0.2]") == ["sam-0.1 [rho=0.2]"]
    assert row.meant("sgd-1x") == ["sgd-1x"]
    assert row.meant("sam") == row.meant("rho=0.2") == []


def test_configurations_whose_settings_print_alike_are_all_there(tmp_path):
    for rho in (1, "1", 2):
        record_run(tmp_path, config=configuration(**{"method.rho": rho}))
    [row] = rows_of(load_runs(tmp_path))
    hashes = {cell.config["method"]["rho"]: cell.hash for cell in row.cells.values()}
    assert set(row.cells) == {
        f"sam-0.1 [rho=1, {hashes[1]}]",
        f"sam-0.1 [rho=1, {hashes['1']}]",
        "sam-0.1 [rho=2]",
    }


def test_a_setting_of_several_lines_is_told_in_one(tmp_path):
    for mode in ("one\n  two", "three"):
        record_run(tmp_path, config=configuration(**{"method.mode": mode}))
    assert named(tmp_path) == {"": ["sam-0.1 [mode=one two]", "sam-0.1 [mode=three]"]}


def test_one_configuration_under_two_hashes_is_two_cells_named_by_these(tmp_path):
    for cell in ("0123abcd", "0123abce"):
        record_run(tmp_path, cell=cell)
    [row] = rows_of(load_runs(tmp_path))
    assert sorted(row.cells) == ["sam-0.1 [0123abcd]", "sam-0.1 [0123abce]"]


def test_a_method_s_own_epochs_tell_its_cells_apart_within_one_budget(tmp_path):
    for epochs in (20, 30):
        config = configuration(**{"train.epochs": epochs})
        record_run(tmp_path, config=config, planned_epochs=20)
    record_run(tmp_path, label="sgd-1x", config=configuration(method={"name": "sgd"}))
    assert named(tmp_path) == {
        "": ["sgd-1x", "sam-0.1 [train.epochs=20]", "sam-0.1 [train.epochs=30]"]
    }


def record_budgets(root, *factors):
    for factor in factors:
        for label, method, epochs in (("sgd-2x", {"name": "sgd"}, 10), ("fsam-0.1", FSAM, 5)):
            config = configuration(**{"method": method, "train.epochs": factor * epochs})
            record_run(
                root,
                label=label,
                config=config,
                labels=("sgd-2x", "fsam-0.1"),
                planned_epochs=5 * factor,
            )


def test_a_recipe_trained_for_two_budgets_is_two_rows_and_not_one_per_label(tmp_path):
    record_budgets(tmp_path, 1, 4)
    labels = ["sgd-2x", "fsam-0.1"]
    rows = {row.name: row for row in rows_of(load_runs(tmp_path))}
    assert {name: list(row.cells) for name, row in rows.items()} == {
        "train.epochs=5 [sgd-2x: 10]": labels,
        "train.epochs=20 [sgd-2x: 40]": labels,
    }
    short = rows["train.epochs=5 [sgd-2x: 10]"]
    assert [cell.config["train"]["epochs"] for cell in short.cells.values()] == [10, 5]


def test_where_a_recipe_has_several_budgets_every_row_names_its_own(tmp_path):
    record_budgets(tmp_path, 1, 4)
    less = configuration(**{"method": FSAM, "train.epochs": 5, "label_noise.rate": 0.2})
    record_run(tmp_path, label="fsam-0.1", config=less, planned_epochs=5)
    assert list(named(tmp_path)) == [
        "label_noise.rate=0.2, train.epochs=5",
        "label_noise.rate=0.4, train.epochs=5 [sgd-2x: 10]",
        "label_noise.rate=0.4, train.epochs=20 [sgd-2x: 40]",
    ]


def test_a_label_trained_longer_alone_leaves_the_others_together(tmp_path):
    record_budgets(tmp_path, 1)
    longer = configuration(**{"method": FSAM, "train.epochs": 50})
    labels = ("sgd-2x", "fsam-0.1")
    record_run(tmp_path, label="fsam-0.1", config=longer, labels=labels, planned_epochs=50)
    assert named(tmp_path) == {
        "train.epochs=5 [sgd-2x: 10]": ["sgd-2x", "fsam-0.1"],
        "train.epochs=50": ["fsam-0.1"],
    }


def test_settings_that_another_budget_has_otherwise_are_in_the_name_of_the_cell(tmp_path):
    record_budgets(tmp_path, 1)
    for label, method in (("sgd-2x", {"name": "sgd"}), ("fsam-0.1", {**FSAM, "eta": 7.0})):
        config = configuration(**{"method": method, "train.epochs": 20})
        labels = ("sgd-2x", "fsam-0.1")
        record_run(tmp_path, label=label, config=config, labels=labels, planned_epochs=20)
    assert named(tmp_path) == {
        "train.epochs=5 [sgd-2x: 10]": ["sgd-2x", f"fsam-0.1 [eta={FSAM['eta']}]"],
        "train.epochs=20": ["sgd-2x", "fsam-0.1 [eta=7.0]"],
    }


def test_trials_of_a_tuning_are_no_part_of_the_winners_result(tmp_path):
    record_cell(tmp_path, {0: 0.9, 1: 0.9}, seeds=(0, 1), trial=True)
    record_cell(tmp_path, {7: 0.5, 8: 0.6, 9: 0.7}, seeds=(7, 8, 9))
    loser = configuration(**{"method.rho": 0.9})
    record_cell(tmp_path, {0: 0.1, 1: 0.1}, seeds=(0, 1), config=loser, trial=True)
    [row] = rows_of(load_runs(tmp_path))
    assert row.cells["sam-0.1"].sample(LAST).by_seed == {7: 0.5, 8: 0.6, 9: 0.7}


def test_what_a_tuning_searched_is_each_method_s_own(tmp_path):
    """Beside a row of the recipe's own learning rate, and a second tuning's winner of a method."""
    sgd, sam = {"name": "sgd"}, {"name": "sam", "rho": 0.07}

    def winner(label, method, lr):
        config = configuration(**{"method": method, "train.lr": lr})
        record_run(tmp_path, label=label, config=config, tuned=("train.lr",))

    winner("sam-0.1", sam, 0.1)
    winner("sgd-1x", sgd, 0.3)
    [row] = rows_of(load_runs(tmp_path))
    assert (row.name, list(row.cells)) == ("", ["sgd-1x", "sam-0.1"])
    assert tuned_values(row) == {"train.lr": {"sgd-1x": 0.3, "sam-0.1": 0.1}}
    record_run(tmp_path, label="sgd-1x", config=configuration(method=sgd))
    record_run(tmp_path)
    assert named(tmp_path) == {
        "train.lr=0.1": ["sgd-1x", "sam-0.1"],
        "train.lr=own": ["sgd-1x", "sam-0.1"],
    }
    winner("sgd-1x", sgd, 0.2)
    assert named(tmp_path) == {
        "train.lr=0.1": ["sgd-1x", "sam-0.1"],
        "train.lr=own": ["sgd-1x [train.lr=0.2]", "sgd-1x [train.lr=0.3]", "sam-0.1"],
    }


def test_trials_are_rows_as_long_as_there_is_no_result(tmp_path):
    for rho in (0.1, 0.9):
        config = configuration(**{"method.rho": rho})
        record_cell(tmp_path, {0: rho}, seeds=(0,), config=config, trial=True)
    assert named(tmp_path) == {"": ["sam-0.1 [rho=0.1]", "sam-0.1 [rho=0.9]"]}


def test_a_trial_whose_seed_is_planned_for_the_result_is_neither_part_of_it_nor_missing(tmp_path):
    record_run(tmp_path, seed=0, seeds=(0,), trial=True, accuracy=0.4)
    record_cell(tmp_path, {1: 0.5, 2: 0.6}, seeds=(0, 1, 2))
    [row] = rows_of(load_runs(tmp_path))
    assert row.cells["sam-0.1"].sample(LAST).by_seed == {1: 0.5, 2: 0.6}
    notes = build_table(load_runs(tmp_path)).notes
    assert (
        "quickstart/sam-0.1: without seeds 0, which chose its settings as trials of a tuning; a "
        "mean with them would be too good." in notes
    )


@pytest.mark.parametrize("where", [{"label": "sam-best"}, {"recipe": "final"}])
def test_a_seed_that_chose_the_settings_is_no_result_under_another_name_either(tmp_path, where):
    record_run(tmp_path, seed=0, seeds=(0,), trial=True)
    record_cell(tmp_path, {5: 0.7, 6: 0.8}, seeds=(5, 6))
    record_cell(tmp_path, {0: 0.9, 1: 0.5, 2: 0.6}, **where)
    table = build_table(load_runs(tmp_path))
    cells = [cell for row in rows_of(load_runs(tmp_path)) for cell in row.cells.values()]
    found = {(cell.recipe, cell.label): cell.sample(LAST).by_seed for cell in cells}
    there = (where.get("recipe", "quickstart"), where.get("label", "sam-0.1"))
    assert found == {("quickstart", "sam-0.1"): {5: 0.7, 6: 0.8}, there: {1: 0.5, 2: 0.6}}
    assert f"{'/'.join(there)}: without seeds 0, which chose its settings" in " ".join(table.notes)
    assert not any("no results" in note for note in table.notes)
    assert [run["seed"] for run in as_rows(table.runs) if run["trial"]] == [0, 0]


def test_a_seed_that_chose_is_not_missing_where_it_has_no_record_under_its_new_name(tmp_path):
    record_run(tmp_path, seed=0, seeds=(0,), trial=True)
    record_cell(tmp_path, {1: 0.5, 2: 0.6}, recipe="final", seeds=(0, 1, 2))
    [cell] = [
        cell
        for row in rows_of(load_runs(tmp_path))
        for cell in row.cells.values()
        if row.recipe == "final"
    ]
    assert cell.status == "done"
    assert cell.sample(LAST).by_seed == {1: 0.5, 2: 0.6}
    assert "final/sam-0.1: without seeds 0" in " ".join(build_table(load_runs(tmp_path)).notes)


def test_of_other_settings_a_seed_of_a_trial_is_a_result(tmp_path):
    record_run(tmp_path, seed=0, trial=True)
    record_cell(tmp_path, [0.5, 0.6], seeds=(0, 1), config=configuration(**{"method.rho": 0.9}))
    [row] = rows_of(load_runs(tmp_path))
    assert row.cells["sam-0.1"].sample(LAST).by_seed == {0: 0.5, 1: 0.6}


def test_runs_that_only_chose_are_shown_and_called_so_whatever_their_name(tmp_path):
    record_run(tmp_path, seed=0, seeds=(0,), trial=True)
    record_run(tmp_path, seed=0, seeds=(0,), recipe="final")
    notes = build_table(load_runs(tmp_path)).notes
    for recipe in ("quickstart", "final"):
        note = (
            f"{recipe}: no results: there are only trials of a tuning, whose seeds chose settings."
        )
        assert note in notes


def test_a_cell_of_unknown_configuration_stays_in_the_only_row(tmp_path):
    record_run(tmp_path, label="sgd-1x")
    lost = record_run(tmp_path, label="sam-0.1", status="planned", cell="0123abcd")
    (lost / "config.yaml").write_text("")
    record_run(tmp_path, label="fsam-0.1")
    assert named(tmp_path) == {"": ["sgd-1x", "sam-0.1", "fsam-0.1"]}


def test_a_cell_of_unknown_configuration_is_a_row_where_it_could_belong_to_several(tmp_path):
    record_run(tmp_path)
    lost = record_run(tmp_path, status="planned", cell="0123abcd")
    (lost / "config.yaml").write_text("")
    assert named(tmp_path) == {"": ["sam-0.1"], "unreadable configuration 0123abcd": ["sam-0.1"]}


def test_where_no_configuration_is_known_each_label_is_a_line_of_one_row(tmp_path):
    for label in ("sgd-1x", "sam-0.1"):
        lost = record_run(tmp_path, label=label, status="planned")
        (lost / "config.yaml").write_text("")
    assert named(tmp_path) == {"": ["sam-0.1", "sgd-1x"]}


def test_a_finished_run_that_could_not_be_measured_is_not_replaced_by_a_copy(tmp_path):
    for root in ("a", "b"):
        record_run(tmp_path / root, seeds=(0,))
    runs = load_runs(tmp_path / "b", tmp_path / "a")
    first = runs["path"].str.startswith(str(tmp_path / "a"))
    lost = runs.assign(status=runs["status"].mask(first, "unmeasurable"))
    assert [cell.status for cell in cells_of(lost)] == ["1 of 1 unmeasurable"]
    assert [cell.status for cell in cells_of(runs)] == ["done"]


def test_configurations_may_be_put_side_by_side_on_purpose_but_one_per_label(tmp_path):
    record_run(tmp_path, label="sgd-1x", config=configuration(**{"train.lr": 0.2}))
    record_run(tmp_path, label="sam-0.1")
    assert list(one_row(load_runs(tmp_path), "tuned").cells) == ["sam-0.1", "sgd-1x"]
    record_run(tmp_path, label="sam-0.1", config=configuration(**{"train.lr": 0.3}))
    with pytest.raises(ValueError, match="several configurations"):
        one_row(load_runs(tmp_path), "tuned")
