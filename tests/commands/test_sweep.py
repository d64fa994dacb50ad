"""`fsam sweep`: grids and equal budgets."""

from __future__ import annotations

import csv
import io
import json
from contextlib import redirect_stderr
from dataclasses import replace
from pathlib import Path

import pytest

from fsam_cli.commands.train import plans_of
from fsam_cli.commands.tune import protocol_hash
from fsam_cli.errors import Interrupted
from fsam_cli.plugins import PluginFile
from fsam_cli.recipe.load import load_experiment
from fsam_cli.recipe.plan import plan
from tests.support.command import TINY, bits, fsam
from tests.support.plugins import MINIMISER
from tests.support.recorded import planned_cells

SHORT = ("-r", "quickstart", *TINY, "train.epochs=1", "-q")
GRID = ("--grid", "methods.fsam.gamma=0.05,0.5", "--grid", "methods.fsam.eta=1e-3,1")
RATES = ("--grid", "train.lr=0.05,0.1")
TUNE = (*SHORT, "--tune", "--trials", "2")


def strict(text):
    """One JSON document; NaN and a second document are errors."""
    return json.loads(text, parse_constant=lambda name: pytest.fail(f"{name} is no JSON"))


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
    cells = {(row["row"], row["label"], row["settings"]) for row in report["table"]}
    assert ("", "fsam", "gamma=0.05, eta=0.001") in cells


@pytest.mark.parametrize("given", ["--grid", "sweep"])
def test_a_bare_key_is_the_setting_of_the_one_method_that_has_it(tmp_path, given):
    def planned(*grid):
        asked = ("-r", "quickstart", "methods={sgd: {}, sam: {}, fsam: {}}", *grid)
        return fsam("sweep", *asked, "--dry-run", "-f", "json", cwd=tmp_path).stdout

    long = ("--grid", "methods.fsam.gamma=0.05,0.5", "--grid", "train.lr=0.1,0.2")
    short = {
        "--grid": ("--grid", "gamma=0.05,0.5", "--grid", "train.lr=0.1,0.2"),
        "sweep": ("sweep={grid: {gamma: [0.05, 0.5], train.lr: [0.1, 0.2]}}",),
    }
    assert planned(*short[given]) == planned(*long)


def test_only_tells_whose_a_bare_key_is(tmp_path):
    asked = ("-r", "quickstart", "--grid", "rho=0.3,0.4", "--only", "sam-0.1", "seeds=[0]")
    done = fsam("sweep", *asked, "--dry-run", "-f", "json", cwd=tmp_path)
    assert [row["method"] for row in json.loads(done.stdout)] == ["sam-0.1"] * 2


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
        (("--grid", "gama=1,2"), "the grid of gama: no method has it, and it is not a key of the"),
        (("--grid", "gamma=1,2", "--only", "sgd"), "the grid of gamma: no method has it"),
        (
            ("--grid", "rho=1,2", "methods={sam: {}, asam: {}, sgd: {}}"),
            "name one, methods.sam.rho or methods.asam.rho",
        ),
        (("--grid", "gamma=1", *GRID), "--grid methods.fsam.gamma is given twice"),
        ((*GRID, "data.validation=0"), "selecting on validation needs a validation part"),
        (("--tune", *GRID), "takes no --grid"),
        (("--tune", "data.validation=0"), "--tune selects on validation"),
        (("--tune", "--shard", "1/2"), "cannot be sharded"),
        (("--tune", "--only", "nosuch"), "--only: no method 'nosuch' in"),
        (("--grid", "gamma=1,2", "--only", "nosuch"), "--only: no method 'nosuch' in"),
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
    found = [(row["method"], row["methods.fsam.gamma"]) for row in rows]
    assert found == [("fsam", "0.3"), ("sgd", "")]
    shared = ("--grid", "train.lr=0.05")
    table = fsam("sweep", *SHORT, *shared, cwd=tmp_path).stdout
    assert table.count("best by validation: train.lr=0.05") == 2


BEST = {  # gamma of the best point by each number
    ("last", "validation"): 0.1,
    ("last", "test"): 0.2,
    ("selected", "validation"): 0.3,
    ("selected", "test"): 0.5,
}
GAMMAS = ("--grid", "methods.fsam.gamma=0.1,0.2,0.3,0.4,0.5", "seeds=[0, 1]")


def accuracies_by_gamma(each):
    gamma = each.config["method"].get("gamma", 0)  # sgd has none
    return {
        where: (0.8 if gamma == best else 0.6 - gamma / 10) + each.seed / 10
        for where, best in BEST.items()
    }


@pytest.mark.parametrize("epoch", ["last", "selected"])
@pytest.mark.parametrize("part", ["validation", "test"])
def test_points_are_compared_on_the_part_asked_for_at_the_epoch_of_the_recipe(
    tmp_path, instead_of_training, part, epoch
):
    instead_of_training(accuracies_by_gamma)
    kept = "validation" if epoch == "selected" else "last"
    arguments = (*SHORT, *GAMMAS, f"train.select={kept}", "--select", part)
    content = strict(fsam("sweep", *arguments, "-f", "json", cwd=tmp_path).stdout)
    assert content["metric"] == f"{epoch}_{part}_accuracy"
    assert content["test_metric"] == f"{epoch}_test_accuracy"
    assert content["best"]["fsam"]["point"] == {"methods.fsam.gamma": BEST[epoch, part]}
    assert content["best"]["fsam"]["mean"] == pytest.approx(0.85)  # of both seeds
    shown = {each["point"]["methods.fsam.gamma"]: each["test_mean"] for each in content["points"]}
    assert max(shown, key=shown.get) == BEST[epoch, "test"]
    table = " ".join(fsam("sweep", *arguments, cwd=tmp_path).stdout.split())
    assert f"accuracy at the {epoch} epoch, points compared on {part}" in table
    assert f"test, {epoch} %" in table
    assert f"{part}, {epoch} %" in table
    assert f"85.00 % at the {epoch} epoch" in table


def test_validation_selects_where_nothing_else_is_asked_for(tmp_path, instead_of_training):
    instead_of_training(accuracies_by_gamma)
    done = fsam("sweep", *SHORT, *GAMMAS, cwd=tmp_path)
    assert "best by validation: methods.fsam.gamma=0.1 with" in done.stdout


def test_a_grid_over_two_methods_is_each_ones_own(tmp_path, instead_of_training):
    def by_radius(each):
        method = each.config["method"]
        return dict.fromkeys(BEST, method.get("gamma", method.get("rho", 0)))

    instead_of_training(by_radius)
    both = ("--grid", "methods.fsam.gamma=0.2,0.3,0.1", "--grid", "methods.sam.rho=0.4,0.5")
    arguments = (*SHORT, *both, "--figures", "pictures")
    methods = "methods={sgd: {}, sam: {}, fsam: {}}"
    content = strict(fsam("sweep", *arguments, methods, "-f", "json", cwd=tmp_path).stdout)
    where = [(each["method"], *each["point"].items()) for each in content["points"]]
    gammas = [("fsam", ("methods.fsam.gamma", gamma)) for gamma in (0.2, 0.3, 0.1)]
    assert where == [*(("sam", ("methods.sam.rho", rho)) for rho in (0.4, 0.5)), *gammas]
    best = content["best"]["fsam"]
    assert best["point"] == {"methods.fsam.gamma": 0.3}
    assert [near["point"] for near in best["neighbours"]] == [{"methods.fsam.gamma": 0.2}]
    assert best["on_edge"] == ["methods.fsam.gamma"]
    assert len(list((tmp_path / "pictures").glob("*.png"))) == 2
    done = fsam("sweep", *arguments, methods, "-f", "csv", cwd=tmp_path)
    rows = list(csv.DictReader(io.StringIO(done.stdout)))
    assert [(row["methods.fsam.gamma"], row["methods.sam.rho"]) for row in rows] == [
        *(("", rho) for rho in ("0.4", "0.5")),
        *((gamma, "") for gamma in ("0.2", "0.3", "0.1")),
        ("", ""),  # sgd, for comparison
    ]
    said = done.stderr.partition("fsam: best")[2].partition("wrote")[0]
    assert "neighbour methods.fsam.gamma=0.2" in said
    assert "rho" not in said


def test_a_method_named_twice_is_counted_once(tmp_path):
    twice = ("--only", "sgd, sgd", "--only", "sgd", "-f", "csv")
    rows = list(
        csv.DictReader(io.StringIO(fsam("sweep", *SHORT, *RATES, *twice, cwd=tmp_path).stdout))
    )
    assert [row["n"] for row in rows] == ["1", "1"]


def test_all_points_run_the_code_that_was_there_at_the_start(tmp_path, monkeypatch):
    file, seen = tmp_path / "mine.py", set()
    file.write_text(MINIMISER)

    def edited_meanwhile(*arguments):
        plans = plans_of(*arguments)
        seen.update(each.config["method"]["plugin"] for each in plans)
        file.write_text(MINIMISER + f"# edit {len(seen)}\n")
        return plans

    monkeypatch.setattr("fsam_cli.commands.sweep.plans_of", edited_meanwhile)
    asked = ("methods={doubled: {}}", "--plugin", "mine.py", *RATES, "--dry-run")
    fsam("sweep", *SHORT, *asked, cwd=tmp_path)
    assert len(seen) == 1


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
    assert (
        f"not the same compute: sgd {spent['sgd']:,}, fsam {spent['fsam']:,} sample-gradients"
        in (" ".join(done.stderr.split()))
    )
    assert "fresh seeds 2, 3" in done.stdout
    runs = bits(tmp_path / "runs")
    again = fsam("sweep", *SHORT, "--tune", "--trials", "3", "seeds=[0, 1]", cwd=tmp_path)
    assert bits(tmp_path / "runs") == runs
    assert again.stdout == done.stdout


def test_a_trial_is_scored_by_the_mean_validation_accuracy_of_all_its_seeds(
    tmp_path, instead_of_training
):
    trials = [  # validation accuracy of either tuning seed
        (0.9, 0.1),
        (0.6, 0.5),  # the best mean
        (0.9, 0.8),  # one seed of which diverged
        (0.9, None),  # as where validation was not finite
    ]
    cells = []

    def accuracies_of(each):
        if each.cell not in cells:
            cells.append(each.cell)
        trial = cells.index(each.cell)
        reached = trials[trial][each.seed % 2]
        status = "diverged" if (trial, each.seed) == (2, 1) else "done"
        others = dict.fromkeys(BEST, 1 - (reached or 0))  # every other number misleads
        return {**others, ("last", "validation"): reached, "status": status}

    instead_of_training(accuracies_of)
    arguments = ("--tune", "--trials", "4", "--tuning-seeds", "2", "--only", "fsam")
    done = fsam("sweep", *SHORT, *arguments, "seeds=[0, 1]", cwd=tmp_path)
    content = json.loads((tmp_path / "runs" / "quickstart" / "tuning.json").read_text())
    (method,) = content["methods"]
    assert method["scores"] == [pytest.approx(0.5), pytest.approx(0.55), None, None]
    assert (method["validation %"], method["bad trials"]) == (55, 2)
    assert method["cells"] == cells
    trained = {run.parent.name for run in (tmp_path / "runs").rglob("result.json")}
    finals = {f"seed{seed}-{cells[1]}" for seed in (2, 3)}
    assert {name for name in trained if name.startswith(("seed2", "seed3"))} == finals
    assert "selected by validation accuracy at the last epoch" in " ".join(done.stdout.split())


def test_tuning_takes_the_selected_epoch_where_the_recipe_does(tmp_path, instead_of_training):
    instead_of_training(lambda each: {**dict.fromkeys(BEST, 0.1), ("selected", "validation"): 0.7})
    fsam("sweep", *TUNE, "--only", "fsam", "train.select=validation", cwd=tmp_path)
    content = json.loads((tmp_path / "runs" / "quickstart" / "tuning.json").read_text())
    assert content["methods"][0]["scores"] == [0.7, 0.7]


def test_tuning_prints_one_json_document_of_trials_and_report(tmp_path):
    content = strict(fsam("sweep", *TUNE, "-f", "json", cwd=tmp_path).stdout)
    report = content.pop("report")
    assert content == json.loads((tmp_path / "runs" / "quickstart" / "tuning.json").read_text())
    assert report["schema"] == "fsam-report/2"
    assert {run["seed"] for run in report["runs"]} == set(content["final_seeds"])
    assert {entry["std"] for entry in report["table"]} == {None}  # of a single seed
    later = strict(fsam("report", "-f", "json", cwd=tmp_path).stdout)
    assert _means(later) == _means(report)  # the trials are no part of it
    assert any("trials of a tuning" in note for note in later["notes"])
    rows = dict.fromkeys((line["row"], line["label"]) for line in later["table"])
    assert list(rows) == [("", "sgd"), ("", "fsam")]  # though sgd has a train.lr of its own
    assert any("train.lr is each method's own" in note for note in later["notes"])


def _means(report):
    return {
        (line["label"], line["metric"]): (line["n"], line["mean"])
        for line in report["table"]
        if "seconds" not in line["metric"]
    }


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


def protocol(*overrides):
    """The same, whichever method's run it is taken from."""
    (found,) = {protocol_hash(each) for each in planned_cells("quickstart", *overrides).values()}
    return found


def test_a_protocol_is_what_all_methods_share(monkeypatch):
    usual = protocol()
    assert protocol("methods={sgd: {}, fsam: {gamma: 0.7}}") == usual
    for changed in (
        *("train.epochs=30", "train={gradient_evaluations: 20, batch_size: 128}", "train.lr=0.2"),
        *("data.validation=0.2", "model.norm=group", "precision=bf16", "threads=2"),
    ):
        assert protocol(changed) != usual, changed
    budgets = [f"train={{gradient_evaluations: {each}, batch_size: 128}}" for each in (20, 30)]
    assert protocol(budgets[0]) != protocol(budgets[1])
    monkeypatch.setattr("fsam_cli.recipe.plan.NUMERICS", 0)
    assert protocol() != usual


def test_a_protocol_knows_the_data_and_code_and_not_where_they_lie():
    each = planned_cells("quickstart")["sgd-1x"]
    data = replace(each.fingerprint, digest="0")
    code = PluginFile(Path("mine.py"), "0", b"", {"models": {"small_resnet": type(each.model)}})
    for other in (replace(each, fingerprint=data), replace(each, plugins=(code,))):
        assert protocol_hash(other) != protocol_hash(each)
    assert other.config["model"]["plugin"] == "0"
    moved = plan(
        load_experiment("quickstart", ["data.root=elsewhere"]), out=Path("runs"), device="cpu"
    )
    assert moved[0].data_root is not None
    assert protocol_hash(moved[0]) == protocol_hash(each)


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


def test_a_tuning_repeated_with_more_seeds_misses_none_of_the_older_plan(tmp_path):
    few = ("--tune", "--trials", "1", "--only", "sgd", "-f", "json")
    fsam("sweep", *SHORT, *few, "seeds=0:2", cwd=tmp_path)
    more = strict(fsam("sweep", *SHORT, *few, "seeds=0:3", cwd=tmp_path).stdout)
    assert more["final_seeds"] == [3, 4, 5]
    (cell,) = [row for row in more["report"]["table"] if row["metric"] == "last_test_accuracy"]
    assert (cell["n"], cell["status"]) == (3, "done")


def test_seeds_that_were_results_and_now_choose_are_named(tmp_path):
    once = ("--tune", "--trials", "1", "--only", "sgd")
    first = fsam("sweep", *SHORT, *once, "seeds=[0]", cwd=tmp_path)
    assert "as results" not in first.stderr
    again = fsam("sweep", *SHORT, *once, "--tuning-seeds", "2", "seeds=0:2", cwd=tmp_path)
    assert "sgd: an earlier command trained the winner's seeds 1 as results" in again.stderr
