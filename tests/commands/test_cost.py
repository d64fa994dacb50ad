"""What `train --dry-run` tells of the time, from whatever earlier runs recorded."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import pytest

from tests.support.command import TINY, fsam
from tests.support.recorded import record_run

DRY = ("train", "-r", "quickstart", *TINY, "--dry-run", "-f", "json")


def planned(folder: Path) -> dict[str, dict]:
    """The rows of the dry run, by method."""
    return {row["method"]: row for row in json.loads(fsam(*DRY, cwd=folder).stdout)}


def record(folder: Path, **costs: object) -> None:
    """A finished run of another seed of the same cell as the planned one in this folder."""
    cell = folder.name.removeprefix("seed0-")
    other = record_run(
        folder.parents[2], recipe="quickstart", label=folder.parent.name, seed=7, cell=cell
    )
    content = json.loads((other / "result.json").read_text())
    for key in ("train_seconds", "sample_gradients"):
        content.pop(key)
    (other / "result.json").write_text(json.dumps({**content, **costs}))


def test_an_earlier_run_tells_the_time(tmp_path):
    row = planned(tmp_path)["sgd"]
    record(tmp_path / row["folder"], train_seconds=10.0, sample_gradients=4 * 1000)
    expected = pytest.approx(row["sample-gradients"] * 10 / 4000, abs=0.05)
    assert planned(tmp_path)["sgd"]["seconds"] == expected


HUGE = int("9" * 400)


@pytest.mark.parametrize(
    "costs",
    [
        {},
        {"train_seconds": "x", "sample_gradients": 1000},
        {"train_seconds": None, "sample_gradients": 1000},
        {"train_seconds": [1], "sample_gradients": 1000},
        {"train_seconds": float("inf"), "sample_gradients": 1000},
        {"train_seconds": float("nan"), "sample_gradients": 1000},
        {"train_seconds": HUGE, "sample_gradients": 1000},
        {"train_seconds": 1.0, "sample_gradients": HUGE},
        {"train_seconds": 1.0, "sample_gradients": 0},
        {"train_seconds": -1.0, "sample_gradients": 1000},
        {"train_seconds": 0.0, "sample_gradients": 1000},
        {"train_seconds": 1.0, "sample_gradients": 1000, "status": "diverged"},
        {"train_seconds": 1.0, "sample_gradients": None},
        {"train_seconds": 1.0},
    ],
    ids=str,
)
def test_a_record_whose_costs_are_no_numbers_tells_nothing(tmp_path, costs):
    record(tmp_path / planned(tmp_path)["sgd"]["folder"], **costs)
    assert planned(tmp_path)["sgd"]["seconds"] is None


def swept(folder: Path, *grid: str) -> list[dict]:
    asked = ("-r", "quickstart", "methods={sgd: {}}", "seeds=[0]", *grid)
    return json.loads(fsam("sweep", *asked, "--dry-run", "-f", "json", cwd=folder).stdout)


def test_every_network_of_a_sweep_has_its_own_cost(tmp_path):
    rows = swept(tmp_path, "--grid", "model=small_resnet,resnet20")
    assert [row["model"] for row in rows] == ["small_resnet", "resnet20"]
    alone = [swept(tmp_path, "--grid", f"model={row['model']}")[0] for row in rows]
    assert [row["PFLOP"] for row in rows] == [row["PFLOP"] for row in alone]
    assert rows[1]["PFLOP"] > 2 * rows[0]["PFLOP"]


def test_arithmetic_is_six_operations_for_every_multiply_add_of_every_sample_gradient(tmp_path):
    asked = ("--channels", "1", "--image-size", "8", "-f", "json")
    networks = json.loads(fsam("models", *asked, cwd=tmp_path).stdout)
    of_an_image = {row["model"]: row["multiply-adds"] for row in networks}["small_resnet"]
    for row in planned(tmp_path).values():
        expected = 6 * of_an_image * row["sample-gradients"] / 1e15
        assert row["PFLOP"] == pytest.approx(expected, rel=0.005)


def test_larger_images_cost_more(tmp_path):
    small, large = swept(tmp_path, "--grid", "data.resize=8,16")
    assert large["PFLOP"] == pytest.approx(4 * small["PFLOP"], rel=0.1)


def test_what_is_done_is_not_in_the_cost_of_what_is_to_do():
    from fsam_cli.commands._cost import _total

    plans = [SimpleNamespace(sample_gradients=number) for number in (1000, 200, 30)]
    turns, seconds, flop = [False, True, True], [5.0, 60.0, 40.0], [1e12, 2e9, 3e9]
    assert _total(plans, turns, seconds, flop) == (
        "2 of 3 runs to do: 230 sample-gradients, 5 GFLOP, about 100 s one after the other "
        "(by earlier runs)"
    )
    assert _total(plans, turns, [5.0, None, None], flop).endswith("; no earlier run tells the time")


def test_each_network_of_a_grid_is_looked_at_for_a_last_batch_too_small(tmp_path):
    def told(*norms):
        asked = ("-r", "quickstart", "methods={sgd: {}}", "seeds=[0]", "train.batch_size=1294")
        grid = ("--grid", f"model.norm={','.join(norms)}")
        return fsam("sweep", *asked, *grid, "--dry-run", cwd=tmp_path).stderr

    assert "the last batch of every epoch has 4" in told("group", "batch")
    assert "the last batch" not in told("group")


def test_the_time_of_a_point_is_told_by_its_own_runs_else_by_those_of_the_same_network(tmp_path):
    grid = ("--grid", "train.lr=0.1,0.2,0.3", "--grid", "model=small_resnet,resnet20")
    folders = [tmp_path / row["folder"] for row in swept(tmp_path, *grid)]
    record(folders[0], train_seconds=10.0, sample_gradients=1000)
    record(folders[2], train_seconds=30.0, sample_gradients=1000)
    rows = swept(tmp_path, *grid)
    each = rows[0]["sample-gradients"] / 1000
    expected = [10 * each, None, 30 * each, None, 20 * each, None]
    assert [row["seconds"] for row in rows] == [pytest.approx(one, abs=0.1) for one in expected]


BUDGET = "train={gradient_evaluations: %s, batch_size: 256}"


@pytest.mark.parametrize(
    ("budget", "told"), [("3", "train.gradient_evaluations: 3 is not"), ("4", None), ("4.4", None)]
)
def test_methods_that_cannot_spend_the_same_of_a_budget_are_named(tmp_path, budget, told):
    asked = ("-r", "quickstart", "methods={sgd: {}, sam: {}}", "seeds=0:2", BUDGET % budget)
    for command in (("train",), ("sweep", "--grid", "train.lr=0.1,0.2")):
        lines = fsam(*command, *asked, "--dry-run", cwd=tmp_path).stderr.splitlines()
        found = [line for line in lines if "gradient_evaluations" in line]
        assert len(found) == (told is not None)
        for line in found:
            assert told in line
            assert "sgd 3, sam 2 passes per image" in line


def test_of_the_budgets_of_a_grid_each_is_compared_by_itself(tmp_path):
    def told(*budgets):
        asked = ("-r", "quickstart", "methods={sgd: {}, sam: {}}", "seeds=[0]", BUDGET % "4")
        grid = ("--grid", f"train.gradient_evaluations={','.join(budgets)}")
        return fsam("sweep", *asked, *grid, "--dry-run", cwd=tmp_path).stderr

    assert "warning" not in told("4", "6")
    assert "train.gradient_evaluations: 5 is not" in told("4", "5", "6")


def test_a_method_by_itself_has_nobody_to_spend_a_budget_unlike(tmp_path):
    asked = ("-r", "quickstart", "methods={sgd: {}}", "seeds=[0]", BUDGET % "4")
    grid = ("--grid", "methods.sgd.epochs_factor=1,2")
    assert "warning" not in fsam("sweep", *asked, *grid, "--dry-run", cwd=tmp_path).stderr


@pytest.mark.parametrize(
    ("flop", "shown"),
    [
        (0.0, "0 GFLOP"),
        (1.23456e8, "0.123 GFLOP"),
        (1.19e11, "119 GFLOP"),
        (9.996e11, "1,000 GFLOP"),
        (1e12, "1 TFLOP"),
        (5.35e15, "5.35 PFLOP"),
        (1.73e19, "17.3 EFLOP"),
        (1.234e22, "12,300 EFLOP"),
    ],
)
def test_arithmetic_is_told_in_the_unit_that_suits_it(flop, shown):
    from fsam_cli.commands._cost import _arithmetic, _spent

    number, unit = shown.split()
    assert f", {shown}; " in _spent(1, flop, [None])
    assert _arithmetic([flop, flop / 2], "table")[0] == unit
    assert _arithmetic([flop], "markdown") == (unit, [number])
    assert _arithmetic([flop], "csv") == ("PFLOP", [float(f"{flop / 1e15:.3g}")])


@pytest.mark.parametrize(
    ("seconds", "shown"),
    [
        ([0.4], "0 s"),
        ([60.0, 59.0], "119 s"),
        ([120.0], "2.0 min"),
        ([5400.0, 5400.0], "3.0 h"),
        ([86400.0] * 30, "30.0 d"),
    ],
)
def test_the_time_of_all_is_told_in_the_unit_that_suits_it(seconds, shown):
    from fsam_cli.commands._cost import _spent

    assert _spent(1, 1e9, seconds).endswith(f"about {shown} one after the other (by earlier runs)")
    assert _spent(1, 1e9, [*seconds, None]).endswith("; of some no earlier run tells the time")
    assert _spent(1, 1e9, [None]).endswith("; no earlier run tells the time")


def test_a_table_has_one_unit_that_suits_its_largest_number(tmp_path):
    table = fsam(*[each for each in DRY if each not in ("-f", "json")], cwd=tmp_path).stdout
    assert "GFLOP" in table.splitlines()[1]
    rows = planned(tmp_path)
    shown = {line.split()[0]: line.split()[-1] for line in table.splitlines() if " to do " in line}
    for label in ("sgd", "fsam"):
        assert float(shown[label]) == pytest.approx(1e6 * rows[label]["PFLOP"], rel=0.01)
