"""Methods with learning rates of their own: given, tuned, written down, and told in every table."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from fsam_cli.commands._winners import _command
from fsam_cli.commands.tune import protocol_hash
from fsam_cli.options import SweepRequest
from fsam_cli.recipe import yaml12
from fsam_cli.recipe.load import load_experiment
from fsam_cli.recipe.plan import plan
from tests.support.command import TINY, bits, fsam
from tests.support.recorded import planned_cells

SHORT = ("-r", "quickstart", *TINY, "train.epochs=1", "-q")
OWN = "methods.sgd.lr=0.3"
TUNE = ("--tune", "--trials", "3", "--write-recipe", "final.yaml")


def words(text):
    return " ".join(text.split())


def test_one_table_holds_methods_with_learning_rates_of_their_own_and_tells_them(tmp_path):
    done = fsam("train", *SHORT, OWN, cwd=tmp_path)
    told = "train.lr is each method's own, the recipe's for all unless the method has one there"
    assert told in words(done.stdout)
    assert "sgd 0.3, fsam 0.1" in words(done.stdout)
    assert "each method's own lr, cosine" in words(done.stdout)
    report = json.loads(fsam("report", "-f", "json", cwd=tmp_path).stdout)
    assert {(row["row"], row["label"]) for row in report["table"]} == {("", "sgd"), ("", "fsam")}


def test_a_method_trains_at_its_own_as_at_one_of_the_protocol(tmp_path):
    only = (*SHORT, "--only", "sgd", "train.warmup_epochs=0.5")
    fsam("train", *only, OWN, "--out", "own", cwd=tmp_path)
    fsam("train", *only, "train.lr=0.3", "--out", "override", cwd=tmp_path)
    fsam("train", *only, "--out", "usual", cwd=tmp_path)
    own, override, usual = (
        [run["weights"] for run in bits(tmp_path / out).values()]
        for out in ("own", "override", "usual")
    )
    assert own == override != usual


def test_runs_that_were_there_already_stand_in_the_table_of_the_command(tmp_path):
    fsam("train", *SHORT, cwd=tmp_path)
    done = fsam("train", *SHORT, OWN, "-f", "json", cwd=tmp_path)
    rows = {(row["row"], row["label"]) for row in json.loads(done.stdout)["table"]}
    assert rows == {("", "sgd"), ("", "fsam")}


def test_a_learning_rate_of_the_command_line_that_does_not_reach_a_method_is_told(tmp_path):
    def said(*more):
        asked = (*SHORT[:-1], "--dry-run", *more)
        return fsam("train", *asked, cwd=tmp_path).stderr

    told = "train.lr does not concern sgd: methods.LABEL.lr is a method's own"
    assert told in said(OWN, "train.lr=0.2")
    assert "does not concern" not in said(OWN) + said("train.lr=0.2")
    assert "does not concern" not in said(OWN, "train.lr=0.2", "-q")


def test_a_dry_run_has_a_column_for_them_and_else_has_none(tmp_path):
    def rows(*more):
        done = fsam("train", *SHORT, "--dry-run", "-f", "json", *more, cwd=tmp_path)
        return json.loads(done.stdout)

    assert [(row["method"], row["lr"]) for row in rows(OWN)] == [("sgd", 0.3), ("fsam", 0.1)]
    assert "lr" not in rows()[0]


def test_the_recipe_of_the_winners_finds_all_their_runs_done(tmp_path):
    sweep = ("sweep", *SHORT, *TUNE, "seeds=[0, 1]", "--space", "methods.fsam.lr=0.05:0.2")
    done = fsam(*sweep, cwd=tmp_path)
    assert "wrote final.yaml" in done.stderr
    text = (tmp_path / "final.yaml").read_text()
    assert "# Trials     3 trials a method on seeds 0, selected by validation accuracy at" in text
    assert "# Record     runs/quickstart/tuning.json\n" in text
    assert "# Command    fsam train --recipe final.yaml\n" in text
    written = yaml12.parse(text)
    record = json.loads((tmp_path / "runs" / "quickstart" / "tuning.json").read_text())
    for method in record["methods"]:
        best = dict(method["points"][method["scores"].index(max(method["scores"]))])
        own = written["methods"][method["method"]]
        assert own["lr"] == best.pop("train.lr")
        assert {key: own[key] for key in best} == best
    assert written["seeds"] == [2, 3]
    assert written["name"] == "quickstart"
    before = bits(tmp_path / "runs")
    again = fsam("train", "-r", "final.yaml", "-q", "-f", "json", cwd=tmp_path)
    assert bits(tmp_path / "runs") == before
    report = json.loads(again.stdout)
    assert {run["seed"] for run in report["runs"]} == {2, 3}
    assert {row["status"] for row in report["table"]} == {"done"}
    more = fsam("train", "-r", "final.yaml", "seeds=2:5", "-q", "--dry-run", cwd=tmp_path)
    assert "2 of 6 runs to do" in more.stdout


def test_a_recipe_that_is_there_is_never_overwritten_nor_found_out_late(tmp_path):
    (tmp_path / "final.yaml").write_text("mine")
    for more in ((), ("--dry-run",)):
        done = fsam("sweep", *SHORT, *TUNE, *more, cwd=tmp_path, check=2)
        assert "final.yaml: it exists, and nothing is overwritten" in done.stderr
    assert (tmp_path / "final.yaml").read_text() == "mine"
    link = ("--tune", "--write-recipe", "link.yaml")
    (tmp_path / "link.yaml").symlink_to("never.yaml")  # nothing is written through it either
    assert "link.yaml: it exists" in fsam("sweep", *SHORT, *link, cwd=tmp_path, check=2).stderr
    assert not (tmp_path / "runs").exists()
    lost = ("--tune", "--write-recipe", "nowhere/final.yaml")
    assert "no folder nowhere" in fsam("sweep", *SHORT, *lost, cwd=tmp_path, check=2).stderr


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("final.yaml", "final.yaml: it exists, and nothing is overwritten"),
        ("nowhere/final.yaml", "cannot write nowhere/final.yaml: No such file or directory"),
    ],
)
def test_what_has_changed_meanwhile_is_found_when_the_recipe_is_written(
    tmp_path, monkeypatch, path, message
):
    monkeypatch.setattr("fsam_cli.commands.tune.refuse_beforehand", lambda *_: None)
    (tmp_path / "final.yaml").write_text("mine")
    asked = ("--tune", "--trials", "1", "--only", "sgd", "--write-recipe", path)
    assert message in fsam("sweep", *SHORT, *asked, cwd=tmp_path, check=2).stderr
    assert (tmp_path / "final.yaml").read_text() == "mine"
    assert (tmp_path / "runs" / "quickstart" / "tuning.json").exists()


def test_the_command_of_the_recipe_says_where_and_on_what_it_was_tuned():
    plain = {"recipe": "quickstart", "grid": [], "space": [], "only": [], "plugins": []}
    usual = SweepRequest(**plain)
    there = replace(usual, out=Path("my runs"), data_dir=Path("data"), device="cpu")
    assert _command(Path("a.yaml"), usual) == "fsam train --recipe a.yaml"
    assert _command(Path("a.yaml"), there) == (
        "fsam train --recipe a.yaml --out 'my runs' --data-dir data --device cpu"
    )


def test_what_a_recipe_cannot_say_of_each_method_is_not_written_wrongly(tmp_path):
    space = ("--space", "train.optimizer.weight_decay=1e-4:1e-2")
    done = fsam("sweep", *SHORT, *TUNE, *space, cwd=tmp_path, check=2)
    assert "train.optimizer.weight_decay is searched for each method" in done.stderr
    assert not (tmp_path / "runs").exists()


def test_only_a_tuning_writes_a_recipe(tmp_path):
    asked = ("--grid", "train.lr=0.1,0.2", "--write-recipe", "final.yaml")
    assert "for --tune" in fsam("sweep", *SHORT, *asked, cwd=tmp_path, check=2).stderr


def test_a_method_without_a_winner_is_named_and_left_out_of_the_recipe(tmp_path):
    methods = "methods={sgd: {}, sam: {rho: 0.1}}"
    space = ("--space", "methods.sam.rho=1e30:1e31")  # from where nothing comes back
    done = fsam("sweep", *SHORT, methods, *TUNE, *space, cwd=tmp_path, check=1)
    assert "no winner for sam" in done.stderr
    text = (tmp_path / "final.yaml").read_text()
    assert "# Without    sam: no winner\n" in text
    assert list(yaml12.parse(text)["methods"]) == ["sgd"]


def test_methods_that_were_not_tuned_stay_in_the_recipe_and_are_told_apart(tmp_path):
    only = ("--only", "fsam", "--trials", "2", "--tune", "--write-recipe")
    lr = ("--space", "train.lr=0.05:0.2")
    fsam("sweep", *SHORT, *only, "one.yaml", *lr, cwd=tmp_path)
    text = (tmp_path / "one.yaml").read_text()
    assert "--recipe quickstart: the winner of fsam\n" in text
    assert "# Kept       sgd: as they were, not tuned here\n" in text
    one = yaml12.parse(text)
    assert list(one["methods"]) == ["sgd", "fsam"]
    assert "lr" not in one["methods"]["sgd"]
    assert "lr" in one["methods"]["fsam"]
    again = ("-r", "one.yaml", "-q", "--only", "sgd", *only[2:], "both.yaml", *lr)
    fsam("sweep", *again, cwd=tmp_path)
    both = yaml12.parse((tmp_path / "both.yaml").read_text())
    assert both["methods"]["fsam"] == one["methods"]["fsam"]
    assert "lr" in both["methods"]["sgd"]
    assert both["seeds"] == [2]


def test_a_tuning_searches_beyond_a_learning_rate_that_the_recipe_gives_a_method(tmp_path):
    trials = ("--tune", "--trials", "3", "--only", "sgd", "-f", "json")
    own = json.loads(fsam("sweep", *SHORT, *trials, OWN, cwd=tmp_path).stdout)
    (method,) = own["methods"]
    assert len(set(method["cells"])) == 3
    usual = json.loads(fsam("sweep", *SHORT, *trials, "--out", "usual", cwd=tmp_path).stdout)
    assert usual["methods"] == own["methods"]
    assert usual["protocol"] == own["protocol"]


def test_a_protocol_does_not_know_the_methods_own_learning_rates():
    own = planned_cells("quickstart", "methods={sgd: {lr: 0.3}, sam: {}}")
    usual = planned_cells("quickstart", "methods={sgd: {}, sam: {}}")
    every = {protocol_hash(each) for each in (*own.values(), *usual.values())}
    assert len(every) == 1
    assert protocol_hash(planned_cells("quickstart", "train.lr=0.3")["sgd-1x"]) not in every


@pytest.mark.parametrize("rates", ["0.05,0.2", "0.05"])
def test_a_grid_of_the_protocols_learning_rate_is_none_of_a_method_with_its_own(tmp_path, rates):
    grid = ("--grid", f"train.lr={rates}", "--dry-run", "-f", "json")
    rows = json.loads(fsam("sweep", *SHORT, OWN, *grid, cwd=tmp_path).stdout)
    assert {row["train.lr"] for row in rows if row["method"] == "sgd"} == {None}
    assert {row["lr"] for row in rows if row["method"] == "sgd"} == {0.3}
    of_fsam = [row for row in rows if row["method"] == "fsam"]
    assert all(row["train.lr"] == row["lr"] for row in of_fsam)
    every = ("methods.fsam.lr=0.2", *grid)
    nothing = fsam("sweep", *SHORT, OWN, *every, cwd=tmp_path, check=2)
    assert "the grid changes nothing" in nothing.stderr


def test_the_own_learning_rate_is_swept_as_any_setting_of_a_method(tmp_path):
    grid = ("--grid", "methods.sgd.lr=0.05,0.2", "--dry-run", "-f", "json")
    rows = json.loads(fsam("sweep", *SHORT, *grid, cwd=tmp_path).stdout)
    assert [row["lr"] for row in rows if row["method"] == "sgd"] == [0.05, 0.2]


def test_a_recipe_is_shown_with_them(tmp_path):
    shown = fsam("recipes", "show", "quickstart", "methods.sgd-1x.lr=0.3", cwd=tmp_path).stdout
    methods = yaml12.parse(shown)["methods"]
    assert methods["sgd-1x"]["lr"] == 0.3
    assert all("lr" not in method for label, method in methods.items() if label != "sgd-1x")
    (tmp_path / "shown.yaml").write_text(shown)
    again, usual = (
        {run.folder for run in plan(load_experiment(name, more), out=tmp_path, device="cpu")}
        for name, more in (
            (str(tmp_path / "shown.yaml"), ["name=quickstart"]),
            ("quickstart", ["methods.sgd-1x.lr=0.3"]),
        )
    )
    assert again == usual
