"""Gates against numbers computed by hand."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest

from fsam_cli.errors import UsageError
from fsam_cli.records.frame import load_runs
from fsam_cli.reports.gate import evaluate_gates
from fsam_cli.reports.table import build_table
from tests.support.recorded import configuration, record_cell, record_run

LABELS = ("sgd", "sam", "same", "noisy")
# sam minus sgd: 1, 2 and 3 points, so 2 with a standard deviation of 1; t(2, 0.975) = 4.302653.
CELLS = {
    "sgd": [0.80, 0.70, 0.60],
    "sam": [0.81, 0.72, 0.63],
    "same": [0.80, 0.70, 0.60],
    "noisy": [0.90, 0.62, 0.61],
}
HALF = 100 * 0.01 / math.sqrt(3) * 4.302652729911275  # points: 2.4841


def record(root, **cells):
    for label, accuracies in cells.items():
        config = configuration(method={"name": label})
        seeds = tuple(range(len(accuracies)))
        record_cell(root, accuracies, label=label, config=config, labels=LABELS, seeds=seeds)


@pytest.fixture
def table(tmp_path):
    record(tmp_path, **CELLS)
    return build_table(load_runs(tmp_path))


def verdict(table, gate):
    [found] = evaluate_gates(table, [gate])
    return found


@pytest.mark.parametrize(
    ("gate", "holds"),
    [
        ("sam >= 72", True),
        ("sam>=72.0%", True),
        ("sam >= 72 %", True),
        ("sam > 0", True),
        ("sam > 72", False),
        ("sam <= 72", True),
        ("sam < 72", False),
        ("sam < 72.1", True),
        ("sam >= 72.1", False),
    ],
)
def test_a_mean_is_held_against_a_number_in_percent(table, gate, holds):
    found = verdict(table, gate)
    assert found.holds is holds
    assert found.value == pytest.approx(0.72)
    assert (found.recipe, found.found) == ("quickstart", "72.00 (n = 3)")


@pytest.mark.parametrize(
    ("gate", "holds"),
    [
        ("sam > sgd", False),  # 2 points, and the interval goes from -0.48 to 4.48
        (f"sam > sgd - {HALF - 2 + 0.001}", True),
        (f"sam > sgd - {HALF - 2 - 0.001}", False),
        ("sam > sgd - 0.5", True),
        ("sam > sgd -0.4", False),
        ("sam > sgd + 0.5", False),
        ("noisy > sgd - 0.5", False),  # as good in the mean, and anything between seeds
    ],
)
def test_a_difference_has_to_show_in_its_whole_interval(table, gate, holds):
    assert verdict(table, gate).holds is holds


def test_a_verdict_has_the_difference_with_its_interval(table):
    found = verdict(table, "sam  >  sgd")
    assert found.gate == "sam > sgd"
    assert found.value == pytest.approx(0.02)
    assert 100 * found.low == pytest.approx(2 - HALF)
    assert 100 * found.high == pytest.approx(2 + HALF)
    assert found.found == "+2.00, 95 % interval -0.48 to +4.48 (paired, n = 3)"


@pytest.mark.parametrize("gate", ["same > sgd", "same > sgd - 0.1"])
def test_equal_numbers_in_every_seed_show_nothing(table, gate):
    found = verdict(table, gate)
    assert (found.holds, found.found) == (False, "+0.00: no spread to test by")
    assert (found.low, found.high) == (None, None)


@pytest.mark.parametrize("percent", [29, 55, 57, 58])
def test_a_mean_at_the_number_is_not_decided_by_rounding(tmp_path, percent):
    record(tmp_path, sgd=[percent / 100] * 3, sam=[percent / 100 - 2e-4, percent / 100 + 2e-4])
    table = build_table(load_runs(tmp_path))
    for label in ("sgd", "sam"):
        for gate, holds in {">=": True, "<=": True, ">": False, "<": False}.items():
            assert verdict(table, f"{label} {gate} {percent}").holds is holds, (label, gate)


def test_a_difference_is_over_the_seeds_that_were_compared(tmp_path):
    config = {label: configuration(method={"name": label}) for label in ("sgd", "sam")}
    seeds = {
        "sgd": {0: 0.50, 1: 0.60, 2: 0.70, 3: 0.99, 4: 0.99},
        "sam": {0: 0.61, 1: 0.70, 2: 0.79, 5: 0.10, 6: 0.10},
    }
    for label, accuracies in seeds.items():
        more = {"label": label, "config": config[label], "labels": ("sgd", "sam")}
        record_cell(tmp_path, accuracies, seeds=tuple(accuracies), **more)
    found = verdict(build_table(load_runs(tmp_path)), "sam > sgd")
    assert found.holds
    assert found.value == pytest.approx(0.1)  # over all seeds it would be -0.296
    assert found.found.startswith("+10.00, 95 % interval +7.52 to +12.48 (paired, n = 3)")


def test_methods_are_compared_by_the_epoch_which_the_recipe_selects(tmp_path):
    numbers = {"sgd": (0.9, 0.5, 0.02), "sam": (0.5, 0.9, 0.03)}  # last, selected, more each seed
    for label, (last, selected, more) in numbers.items():
        config = configuration(method={"name": label}, **{"train.select": "validation"})
        for seed in range(3):
            reached = {"accuracy": last + more * seed, "selected": selected + more * seed}
            labels = {"label": label, "labels": ("sgd", "sam")}
            record_run(tmp_path, seed=seed, config=config, **labels, **reached)
    found = verdict(build_table(load_runs(tmp_path)), "sam > sgd")
    assert found.holds
    assert found.value == pytest.approx(0.41)


def test_a_label_that_looks_like_a_number_is_a_method_unless_a_percent_sign_is_there(
    tmp_path,
):
    for label, accuracies in {"90": [0.95, 0.96, 0.97], "sam": [0.91, 0.93, 0.92]}.items():
        config = configuration(method={"name": label})
        record_cell(tmp_path, accuracies, label=label, config=config, labels=("90", "sam"))
    table = build_table(load_runs(tmp_path))
    assert verdict(table, "90 > sam").value == pytest.approx(0.04)
    assert verdict(table, "sam >= 90%").holds
    with pytest.raises(UsageError, match=r"between methods .*; write 90% for the number"):
        evaluate_gates(table, ["sam >= 90"])


def test_trials_of_a_tuning_show_nothing_and_are_no_whole_plan(tmp_path):
    for label in ("sgd", "sam"):
        config = configuration(method={"name": label})
        for seed in range(2):
            accuracy = 0.9 + 0.01 * seed * (1 + (label == "sam"))
            more = {"config": config, "labels": ("sgd", "sam"), "seeds": (0, 1), "trial": True}
            record_run(tmp_path, label=label, seed=seed, accuracy=accuracy, **more)
    table = build_table(load_runs(tmp_path))
    for gate in ("sam >= 1", "sam > sgd - 50"):
        found = verdict(table, gate)
        assert (found.holds, found.found) == (
            False,
            "sam: only trials of a tuning, which are not results",
        )
    assert "quickstart: sgd: only trials of a tuning" in verdict(table, "complete").found
    config = configuration(method={"name": "sgd"})
    more = {"label": "sgd", "config": config, "labels": ("sgd", "sam"), "seeds": (2,)}
    record_run(tmp_path, seed=2, **more)
    found = verdict(build_table(load_runs(tmp_path)), "complete")
    assert not found.holds
    assert found.found == "quickstart: planned, and not among these runs: sam"


def test_a_difference_without_any_spread_cannot_be_tested(tmp_path):
    record(tmp_path, sgd=[0.5, 0.25], sam=[0.75, 0.5])
    found = verdict(build_table(load_runs(tmp_path)), "sam > sgd")
    assert (found.holds, found.found) == (False, "+25.00: no spread to test by")
    assert (found.low, found.high) == (None, None)


def test_single_seeds_show_nothing(tmp_path):
    record(tmp_path, sgd=[0.1], sam=[0.9])
    found = verdict(build_table(load_runs(tmp_path)), "sam > sgd")
    assert (found.holds, found.found) == (False, "+80.00: one seed only")


@pytest.mark.parametrize("gate", ["sam >= 1", "sam > sgd", "sgd > sam", "sgd > sam - 99"])
def test_nothing_holds_of_a_cell_that_is_not_complete(tmp_path, gate):
    record(tmp_path, sgd=CELLS["sgd"])
    config = configuration(method={"name": "sam"})
    record_cell(
        tmp_path, {0: 0.81, 1: 0.72}, label="sam", config=config, labels=LABELS, seeds=(0, 1, 2)
    )
    record_run(
        tmp_path, label="sam", config=config, labels=LABELS, seed=2, status="diverged", reason="nan"
    )
    found = verdict(build_table(load_runs(tmp_path)), gate)
    assert (found.holds, found.found) == (False, "sam: 1 of 3 diverged")
    assert found.value is None


def test_the_result_is_that_of_the_epoch_which_the_recipe_selects(tmp_path):
    config = configuration(**{"train.select": "validation"})
    record_cell(tmp_path, [0.6, 0.7, 0.8], label="sam-0.1", config=config, selected=0.9)
    assert verdict(build_table(load_runs(tmp_path)), "sam-0.1 >= 89").value == pytest.approx(0.9)


def test_a_gate_is_for_every_row_in_which_its_methods_stand(tmp_path):
    for noise in (0.2, 0.4):
        for label, accuracy in {"sgd": 0.9 - noise, "sam": 0.8}.items():
            if (noise, label) != (0.2, "sam"):
                config = configuration(method={"name": label}, **{"label_noise.rate": noise})
                record_cell(tmp_path, [accuracy] * 3, label=label, config=config, labels=LABELS)
    table = build_table(load_runs(tmp_path))
    assert [each.row for each in evaluate_gates(table, ["sgd >= 60"])] == [
        "label_noise.rate=0.2",
        "label_noise.rate=0.4",
    ]
    assert [each.holds for each in evaluate_gates(table, ["sgd >= 60"])] == [True, False]
    assert [each.row for each in evaluate_gates(table, ["sam > sgd"])] == ["label_noise.rate=0.4"]


def test_complete_is_the_whole_plan(tmp_path):
    record(tmp_path, **CELLS)
    assert verdict(build_table(load_runs(tmp_path)), "complete").found == "all 12 runs are done"
    record_run(tmp_path, recipe="other", label="sam", seed=0, status="planned", labels=LABELS)
    found = verdict(build_table(load_runs(tmp_path)), " complete ")
    assert not found.holds
    assert found.found == (
        "other: sam: 2 of 3 missing, 1 planned; "
        "other: planned, and not among these runs: sgd, same, noisy"
    )


@pytest.mark.parametrize(
    ("gate", "message"),
    [
        ("", "write complete, 'sam >= 90'"),
        ("sam", "write complete, 'sam >= 90'"),
        ("sam = 90", "write complete, 'sam >= 90'"),
        ("sam > sgd-0.5", "a margin has spaces around its sign; did you mean 'sgd'?"),
        ("sam > sgd+1", "a margin has spaces around its sign; did you mean 'sgd'?"),
        ("sam > sgd-1x", "no method 'sgd-1x'; did you mean 'sgd'?"),
        ("sam > sdg-0.5", "no method 'sdg-0.5'; there are: "),
        ("sam >= 0.9", "accuracies are in %, 1 to 100; write 90 for .9"),
        ("sam >= 101", "accuracies are in %"),
        ("sam >= -1", "accuracies are in %"),
        ("smm >= 90", "no method 'smm'; did you mean 'sam'?"),
        ("sam > sdg", "no method 'sdg'; did you mean 'sgd'?"),
        ("sam > nan", "no method 'nan'; there are: noisy, sam, same, sgd"),
        ("sam >= 90 + 1", "write one number"),
        ("sam >= sgd", "between methods write sam > sgd, or sgd > sam"),
        ("sam < sgd", "between methods write sam > sgd, or sgd > sam"),
        ("sam > sam", "a method against itself"),
        ("sam > sgd + x", "'x' is not a number of percentage points"),
        ("sam > sgd + inf", "'inf' is not a number of percentage points"),
    ],
)
def test_what_is_no_gate_says_what_to_write(table, gate, message):
    with pytest.raises(UsageError) as raised:
        evaluate_gates(table, [gate])
    assert f"--gate '{gate}'" in str(raised.value)
    assert message in str(raised.value)


def test_methods_that_stand_in_no_row_together_are_refused(tmp_path):
    record_cell(tmp_path, [0.5, 0.6], label="sam", recipe="one")
    record_cell(tmp_path, [0.5, 0.6], label="sgd", recipe="other")
    with pytest.raises(UsageError, match="in no row of the table do both methods stand"):
        evaluate_gates(build_table(load_runs(tmp_path)), ["sam > sgd"])


def test_of_an_unreadable_cell_nothing_holds(tmp_path):
    record(tmp_path, sgd=[0.8, 0.7])
    run = record_run(tmp_path, label="sam", seed=0, seeds=(0, 1), labels=("sgd", "sam"))
    (run / "config.yaml").write_text("run: [")
    (run / "result.json").write_text("{")
    found = evaluate_gates(build_table(load_runs(tmp_path)), ["sam >= 1"])
    assert [(each.holds, each.found) for each in found] == [(False, "sam: 1 of 1 unreadable")]


def test_a_number_that_one_run_lacks_is_no_mean_of_the_others(tmp_path):
    config = configuration(**{"train.select": "validation"})
    record_run(tmp_path, config=config, seed=0, seeds=(0, 1), selected=0.9, labels=("sam-0.1",))
    record_run(tmp_path, config=config, seed=1, seeds=(0, 1), labels=("sam-0.1",))
    found = verdict(build_table(load_runs(tmp_path)), "sam-0.1 >= 1")
    assert (found.holds, found.found) == (False, "sam-0.1: not in every run")


def test_a_mean_is_compared_as_it_is_and_not_as_it_is_shown(tmp_path):
    record(tmp_path, sam=[0.71999])
    found = verdict(build_table(load_runs(tmp_path)), "sam >= 72")
    assert (found.holds, found.found) == (False, "72.00 (n = 1)")


def test_a_gate_is_for_every_configuration_of_a_swept_method(tmp_path):
    record(tmp_path, sgd=CELLS["sgd"], same=CELLS["same"])
    for rho, accuracies in ((0.1, [0.9, 0.81, 0.7]), (0.2, [0.6, 0.5, 0.4])):
        config = configuration(method={"name": "sam", "rho": rho})
        record_cell(tmp_path, accuracies, label="sam", config=config, labels=LABELS)
    table = build_table(load_runs(tmp_path))
    found = evaluate_gates(table, ["sam > sgd -  0.5"])
    assert [(each.gate, each.claim, each.row, each.holds) for each in found] == [
        ("sam > sgd - 0.5", "sam [rho=0.1] > sgd - 0.5", "", True),
        ("sam > sgd - 0.5", "sam [rho=0.2] > sgd - 0.5", "", False),
    ]
    assert [each.claim for each in evaluate_gates(table, ["sgd > sam"])] == [
        "sgd > sam [rho=0.1]",
        "sgd > sam [rho=0.2]",
    ]
    assert [each.claim for each in evaluate_gates(table, ["sam>=60"])] == [
        "sam [rho=0.1]>=60",
        "sam [rho=0.2]>=60",
    ]
    assert verdict(table, "same > sgd").claim == "same > sgd"
    assert verdict(table, "sgd >= 1").claim == "sgd >= 1"


def test_every_claim_of_one_configuration_is_a_gate_itself(tmp_path):
    record(tmp_path, sgd=CELLS["sgd"])
    for rho, eta in ((0.1, 1.0), (0.2, 1.0), (0.1, [1, 2])):
        config = configuration(method={"name": "sam", "rho": rho, "eta": eta})
        accuracies = [rho + 0.1, rho + 0.21, rho + 0.3 + 0.01 * (eta == 1.0)]
        record_cell(tmp_path, accuracies, label="sam", config=config, labels=LABELS)
    table = build_table(load_runs(tmp_path))
    gates = ["sam > sgd", "sgd > sam - 0.5", "sam>=20", "sam >= 30 %"]
    every = evaluate_gates(table, gates)
    assert len(every) == 12
    for each in every:
        assert verdict(table, each.claim) == replace(each, gate=each.claim)
    assert "sam [rho=0.1, eta=[1, 2]] >= 30 %" in [each.claim for each in every]


def test_two_configurations_of_one_method_can_be_held_against_each_other(tmp_path):
    for rho, accuracies in ((0.1, CELLS["sam"]), (0.2, CELLS["sgd"]), (0.3, CELLS["noisy"])):
        config = configuration(method={"name": "sam", "rho": rho})
        record_cell(tmp_path, accuracies, label="sam", config=config, labels=LABELS)
    table = build_table(load_runs(tmp_path))
    found = verdict(table, "sam [rho=0.1] > sam [rho=0.2]")
    assert 100 * found.low == pytest.approx(2 - HALF)
    others = evaluate_gates(table, ["sam [rho=0.1] > sam"])  # but not against itself
    assert [each.claim for each in others] == [
        "sam [rho=0.1] > sam [rho=0.2]",
        "sam [rho=0.1] > sam [rho=0.3]",
    ]
    with pytest.raises(UsageError, match=r"no method 'sam \[rho=0.9\]'; did you mean 'sam \[rho"):
        evaluate_gates(table, ["sam [rho=0.9] > sam"])
    with pytest.raises(UsageError, match="a method against itself"):
        evaluate_gates(table, ["sam [rho=0.1] > sam [rho=0.1]"])
