"""`fsam sweep`: grids and equal budgets."""

from __future__ import annotations

import json

import pandas as pd
import pytest

from fsam_cli.commands.sweep import verdict
from fsam_cli.reports.sweep import best_of, heat_map, points_of
from tests.support.command import TINY, bits, fsam

SHORT = ("-r", "quickstart", *TINY, "train.epochs=1", "-q")
GRID = ("--grid", "methods.fsam.gamma=0.05,0.5", "--grid", "methods.fsam.eta=1e-3,1")


def frame(means, statuses=None):
    grid = {"a": [1, 2, 3], "b": [10, 20]}
    rows = [
        {**p, "mean": m, "std": 0.0, "test_mean": m, "test_std": 0.0, "n": 2, "status": "done"}
        for p, m in zip(points_of(grid), means, strict=True)
    ]
    return grid, pd.DataFrame(rows)


def test_every_point_is_an_ordinary_run_and_untouched_methods_run_once(tmp_path):
    done = fsam("sweep", *SHORT, *GRID, cwd=tmp_path)
    runs = bits(tmp_path / "runs")
    assert sum("/fsam/" in path for path in runs) == 4
    assert sum("/sgd/" in path for path in runs) == 1
    assert "best by validation" in done.stdout
    assert "edge of the grid" in done.stdout
    again = fsam("sweep", *SHORT, *GRID, "--figures", "pictures", cwd=tmp_path)
    assert bits(tmp_path / "runs") == runs
    assert (tmp_path / "pictures" / "sweep-quickstart-fsam.png").exists()
    assert again.stdout == done.stdout
    report = json.loads(fsam("report", "-f", "json", cwd=tmp_path).stdout)
    names = {row["row"] for row in report["table"]}
    assert "fsam: method.gamma=0.05, method.eta=0.001" in names


def test_the_recipes_own_grid_is_used_when_none_is_given(tmp_path):
    rows = json.loads(
        fsam("sweep", "-r", "figure5-digits", "--dry-run", "-f", "json", cwd=tmp_path).stdout
    )
    assert len(rows) == 5 * 6 * 2


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((), "nothing to sweep"),
        (("--grid", "methods.fsam.gamma"), "write key=v1,v2"),
        (("--grid", "methods.fsam.gamma="), "write key=v1,v2"),
        (("--grid", "methods.fsam.gamma=1,1"), "stands there twice"),
        (("--grid", "methods.fsam.gama=1,2"), "did you mean 'gamma'"),
        ((*GRID, "data.validation=0"), "selecting on validation needs a validation part"),
        (("--tune", *GRID), "takes no --grid"),
        (("--tune", "data.validation=0"), "--tune selects on validation"),
        (("--tune", "--shard", "1/2"), "cannot be sharded"),
    ],
)
def test_mistakes_are_usage_errors_and_nothing_is_written(tmp_path, arguments, message):
    done = fsam("sweep", *SHORT, *arguments, cwd=tmp_path, check=2)
    assert message in done.stderr
    assert not (tmp_path / "runs").exists()


def test_the_best_point_its_neighbours_and_the_edges():
    grid, table = frame([0.1, 0.2, 0.3, 0.9, 0.5, 0.6])  # best: a=2, b=20
    best = best_of(grid, table)
    assert best.point == {"a": 2, "b": 20}
    assert sorted(round(d, 6) for _, d in best.neighbours) == [-0.7, -0.6, -0.3]
    assert best.on_edge == ["b"]
    assert "edge of the grid in b" in verdict(grid, table, "validation")
    assert "flattered" in verdict(grid, table, "test")


def test_a_diverged_point_is_crossed_out_and_never_best():
    grid, table = frame([0.1, 0.2, 0.3, None, 0.5, 0.6])
    assert best_of(grid, table).point == {"a": 3, "b": 20}
    texts = [t.get_text() for t in heat_map(grid, table, title="t", what="w").axes[0].texts]
    assert texts.count("×") == 1
    assert "60.0" in texts


def test_a_grid_without_a_complete_point_has_no_best():
    grid, table = frame([None] * 6)
    assert best_of(grid, table) is None
    assert "no best one" in verdict(grid, table, "validation")
    heat_map(grid, table, title="t", what="w")


def test_tuning_gives_every_method_the_same_trials_and_fresh_seeds(tmp_path):
    done = fsam("sweep", *SHORT, "--tune", "--trials", "3", "seeds=[0, 1]", cwd=tmp_path)
    content = json.loads((tmp_path / "runs" / "quickstart" / "tuning.json").read_text())
    assert [method["trials"] for method in content["methods"]] == [3, 3]
    assert content["tuning_seeds"] == [0]
    assert content["final_seeds"] == [2, 3]
    for method in content["methods"]:
        best = max(range(3), key=lambda i: method["scores"][i])
        selected = ", ".join(f"{k}={v:g}" for k, v in method["points"][best].items())
        assert method["selected"] == selected
    spent = {m["method"]: m["sample-gradients"] for m in content["methods"]}
    assert spent["fsam"] == 2 * spent["sgd"]
    assert "fresh seeds 2, 3" in done.stdout
    runs = bits(tmp_path / "runs")
    again = fsam("sweep", *SHORT, "--tune", "--trials", "3", "seeds=[0, 1]", cwd=tmp_path)
    assert bits(tmp_path / "runs") == runs
    assert again.stdout == done.stdout
