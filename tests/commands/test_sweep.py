"""`fsam sweep`: grids and equal budgets."""

from __future__ import annotations

import csv
import io
import json
from contextlib import redirect_stderr

import pandas as pd
import pytest

from fsam_cli.commands.sweep import verdict
from fsam_cli.errors import Interrupted
from fsam_cli.reports._style import file_name
from fsam_cli.reports.sweep import best_of, grid_frame, heat_map, picture_name, points_of
from tests.support.command import TINY, bits, fsam

SHORT = ("-r", "quickstart", *TINY, "train.epochs=1", "-q")
GRID = ("--grid", "methods.fsam.gamma=0.05,0.5", "--grid", "methods.fsam.eta=1e-3,1")
RATES = ("--grid", "train.lr=0.05,0.1")
TUNE = (*SHORT, "--tune", "--trials", "2")


def strict(text):
    """One JSON document; NaN and a second document are errors."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


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
    (picture,) = (tmp_path / "pictures").glob("*.png")
    assert picture.name == "sweep-quickstart-fsam-gamma=0.05_0.5-eta=0.001_1.png"
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
        (("--grid", "methods.fsam.gamma=1,1.0"), "the value 1.0 stands there twice"),
        (
            (*RATES, "--grid", "train.lr=0.2"),
            "--grid train.lr is given twice; write all its values",
        ),
        (("sweep={grid: {train.lr: [0.1, 0.10]}}",), "the value 0.1 stands there twice"),
        (("sweep={grid: {train.lr: []}}",), "the grid of train.lr has no value"),
        ((*GRID, "--only", "sgd"), "the grid changes nothing: no run of sgd depends on"),
        (("--grid", "methods.fsam.gamma=1", "--only", "sgd"), "the grid changes nothing"),
        (("--grid", "methods.fsam.gama=1,2"), "did you mean 'gamma'"),
        ((*GRID, "data.validation=0"), "selecting on validation needs a validation part"),
        (("--tune", *GRID), "takes no --grid"),
        (("--tune", "data.validation=0"), "--tune selects on validation"),
        (("--tune", "--shard", "1/2"), "cannot be sharded"),
        (("--tune", "--only", "nosuch"), "--only: no method 'nosuch' in"),
        (("--tune", "--tuning-seeds", "3", "seeds=4:6"), "which has 2 seeds (4, 5)"),
    ],
)
def test_mistakes_are_usage_errors_and_nothing_is_written(tmp_path, arguments, message):
    done = fsam("sweep", *SHORT, *arguments, cwd=tmp_path, check=2)
    assert message in done.stderr
    assert not (tmp_path / "runs").exists()


def test_json_is_one_document_with_null_for_what_is_missing(tmp_path):
    content = strict(fsam("sweep", *SHORT, *RATES, "-f", "json", cwd=tmp_path).stdout)
    assert content["schema"] == "fsam-sweep/1"
    assert content["grid"] == {"train.lr": [0.05, 0.1]}
    where = [(each["method"], each["point"]["train.lr"]) for each in content["points"]]
    assert where == [("sgd", 0.05), ("sgd", 0.1), ("fsam", 0.05), ("fsam", 0.1)]
    assert {each["std"] for each in content["points"]} == {None}  # of a single seed
    for label, best in content["best"].items():
        means = {
            e["point"]["train.lr"]: e["mean"] for e in content["points"] if e["method"] == label
        }
        assert best["mean"] == means[best["point"]["train.lr"]] == max(means.values())
        (near,) = best["neighbours"]
        assert near["difference"] == means[near["point"]["train.lr"]] - best["mean"]
        assert best["on_edge"] == ["train.lr"]


def test_csv_is_one_table_with_nothing_where_something_is_missing(tmp_path):
    text = fsam("sweep", *SHORT, *RATES, "-f", "csv", cwd=tmp_path).stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert [row["method"] for row in rows] == ["sgd", "sgd", "fsam", "fsam"]
    assert {row["std"] for row in rows} == {""}
    assert all(0 < float(row["mean"]) < 1 for row in rows)


def test_a_grid_of_one_point_has_its_table_for_the_methods_it_is_about(tmp_path):
    one = ("--grid", "methods.fsam.gamma=0.3", "-f", "csv")
    rows = list(csv.DictReader(io.StringIO(fsam("sweep", *SHORT, *one, cwd=tmp_path).stdout)))
    assert [(row["method"], row["methods.fsam.gamma"]) for row in rows] == [("fsam", "0.3")]
    shared = ("--grid", "train.lr=0.05")
    table = fsam("sweep", *SHORT, *shared, cwd=tmp_path).stdout
    assert table.count("best by validation: train.lr=0.05") == 2


def test_a_method_named_twice_is_counted_once(tmp_path):
    twice = ("--only", "sgd", "--only", "sgd", "-f", "csv")
    rows = list(
        csv.DictReader(io.StringIO(fsam("sweep", *SHORT, *RATES, *twice, cwd=tmp_path).stdout))
    )
    assert [row["n"] for row in rows] == ["1", "1"]


def test_a_grid_may_hold_null_and_lists():
    grid = {"train.clip_norm": [None, 1], "data.augment": [[], ["crop"]]}
    numbers = {"status": "done", "last_test_accuracy": 0.5}
    runs = pd.DataFrame(
        [{"path": str(i), "seed": 0, "score": [0.1, 0.4, 0.2, 0.3][i], **numbers} for i in range(4)]
    )
    table = grid_frame(grid, runs, [["0"], ["1"], ["2"], ["3"]], "score")
    best = best_of(grid, table)
    assert best.point == {"train.clip_norm": None, "data.augment": ["crop"]}
    assert sorted(round(d, 6) for _, d in best.neighbours) == [-0.3, -0.1]
    heat_map(grid, table, title="t", what="w")


def test_grids_over_one_method_have_pictures_of_different_names():
    key = "methods.sam-0.1.rho"
    grids = [None, {key: [0.1, 0.2]}, {key: [0.1, 0.3]}, {"train.lr": [0.1, 0.2]}]
    many = [number / 1000 for number in range(100)]
    grids += [{key: many}, {key: [*many, 1.0]}]
    names = [file_name(picture_name("quickstart", "sam-0.1", grid)) for grid in grids]
    assert names[0] == "sweep-quickstart-sam-0.1"
    assert names[1] == "sweep-quickstart-sam-0.1-rho=0.1_0.2"
    assert len(set(names)) == len(names)
    assert all(len(f"{name}.png") <= 100 for name in names)


@pytest.mark.parametrize("how", [RATES, ("--tune", "--trials", "1")], ids=["grid", "tune"])
@pytest.mark.parametrize("force", [True, False])
def test_a_sweep_forces_resuming_as_training_does(tmp_path, monkeypatch, how, force):
    seen = []

    def launch(plans, options, monitor):
        seen.append(options.force_resume)
        raise Interrupted("enough")

    monkeypatch.setattr("fsam_cli.commands.train.launch", launch)
    asked = (*SHORT, *how, *(["--force-resume"] if force else []))
    fsam("sweep", *asked, cwd=tmp_path, check=130)
    assert seen == [force]


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


def test_tuning_prints_one_json_document_of_trials_and_report(tmp_path):
    content = strict(fsam("sweep", *TUNE, "-f", "json", cwd=tmp_path).stdout)
    report = content.pop("report")
    assert content == json.loads((tmp_path / "runs" / "quickstart" / "tuning.json").read_text())
    assert report["schema"] == "fsam-report/1"
    assert {run["seed"] for run in report["runs"]} == set(content["final_seeds"])
    assert {entry["std"] for entry in report["table"]} == {None}  # of a single seed


def test_tuning_prints_one_csv_table_of_trials_and_report(tmp_path):
    text = fsam("sweep", *TUNE, "-f", "csv", cwd=tmp_path).stdout
    rows = list(csv.DictReader(io.StringIO(text)))
    assert "method" not in {row["method"] for row in rows}  # a single heading
    last = [row for row in rows if row["metric"] == "last_test_accuracy"]
    assert [(row["method"], row["trials"], row["std"]) for row in last] == [
        ("sgd", "2", ""),
        ("fsam", "2", ""),
    ]


@pytest.mark.parametrize("format", ["json", "csv"])
def test_a_method_without_a_winner_stays_in_the_output(tmp_path, format):
    bad = (*TUNE, "train.lr=1e30", *("--only", "fsam") * 2, "-f", format)
    done = fsam("sweep", *bad, cwd=tmp_path, check=1)
    assert "no winner for fsam: no trial has all its runs done" in done.stderr
    text = done.stdout
    if format == "json":
        content = strict(text)
        assert content["report"] is None
        (method,) = content["methods"]
        assert method["scores"] == [None, None]
    else:
        (row,) = csv.DictReader(io.StringIO(text))
        assert (row["method"], row["bad trials"], row["validation %"]) == ("fsam", "2", "")


def test_methods_tuned_by_different_commands_share_the_record(tmp_path):
    record = tmp_path / "runs" / "quickstart" / "tuning.json"
    fsam("sweep", *TUNE, "--only", "sgd", cwd=tmp_path)
    fsam("sweep", *TUNE, "--only", "fsam", "seeds=[0, 1]", cwd=tmp_path)
    methods = {entry["method"]: entry for entry in json.loads(record.read_text())["methods"]}
    assert methods["sgd"]["final_seeds"] == [1]  # not those of the later command
    assert methods["fsam"]["final_seeds"] == [2, 3]
    fsam("sweep", *TUNE, "--only", "fsam", cwd=tmp_path)
    apart = json.loads(record.read_text())
    fsam("sweep", *TUNE, "--out", "at-once", cwd=tmp_path)
    together = json.loads((tmp_path / "at-once" / "quickstart" / "tuning.json").read_text())
    assert apart == together


def test_methods_tuned_under_another_protocol_are_set_aside_and_not_pooled(tmp_path):
    record = tmp_path / "runs" / "quickstart" / "tuning.json"
    fsam("sweep", *TUNE, "--only", "sgd", cwd=tmp_path)
    before = record.read_text()
    done = fsam("sweep", *TUNE, "--only", "fsam", "train.label_smoothing=0.1", cwd=tmp_path)
    assert "tuned under another protocol" in done.stderr
    assert [entry["method"] for entry in json.loads(record.read_text())["methods"]] == ["fsam"]
    assert record.with_name("tuning-set-aside-1.json").read_text() == before


@pytest.mark.parametrize(
    "content",
    [
        '{"schema": "fsam-tuning/1", "tuning',
        "[" * 100_000,
        "[]",
        '{"schema": "fsam-tuning/2"}',
        '{"schema": "fsam-tuning/1"}',
        '{"schema": "fsam-tuning/1", "protocol": "p", "methods": [3]}',
    ],
    ids=["cut short", "nested", "list", "other version", "no methods", "no method"],
)
def test_a_record_that_cannot_be_continued_is_kept_beside_the_new_one(tmp_path, content):
    from fsam_cli.commands.tune import write_record

    (tmp_path / "tuning-set-aside-1.json").write_text("earlier")
    record = tmp_path / "tuning.json"
    record.write_text(content)
    said = io.StringIO()
    with redirect_stderr(said):
        write_record(record, {"protocol": "p", "methods": [{"method": "sgd"}]})
    assert json.loads(record.read_text())["methods"] == [{"method": "sgd"}]
    assert (tmp_path / "tuning-set-aside-1.json").read_text() == "earlier"
    assert (tmp_path / "tuning-set-aside-2.json").read_text() == content
    assert "is kept as" in said.getvalue()
    assert "tuning-set-aside-2.json" in said.getvalue()
