"""Reading run directories: every one visible, none able to harm the others."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys

import filelock
import pytest
import yaml

import fsam_cli
from fsam_cli.errors import RecordError, UsageError
from fsam_cli.records.frame import Planned, as_rows, load_planned, load_runs
from tests.support.recorded import configuration, record_cell, record_run


def rewritten(file, change):
    """A record with one thing changed."""
    read, write = (json.loads, json.dumps) if file.suffix == ".json" else (_yaml, yaml.safe_dump)
    record = read(file.read_text())
    change(record)
    file.write_text(write(record))


def _yaml(text):
    return yaml.safe_load(text)


def test_one_row_per_run_with_its_numbers_unrounded(tmp_path):
    path = record_run(tmp_path, seed=2, accuracy=0.123456789, selected=0.5)
    [row] = load_runs(tmp_path).to_dict("records")
    assert row["path"] == str(path)
    assert (row["recipe"], row["label"], row["seed"]) == ("quickstart", "sam-0.1", 2)
    assert (row["status"], row["reason"]) == ("done", "")
    assert (row["last_test_accuracy"], row["last_epoch"]) == (0.123456789, 20)
    assert (row["selected_test_accuracy"], row["selected_epoch"]) == (0.5, 7)
    assert row["best_test_test_accuracy"] == pytest.approx(0.133456789)
    assert (row["sample_gradients"], row["train_seconds"]) == (57480, 12.5)
    assert row["config"] == configuration()
    assert row["environment"]["torch"] == "2.11.0"
    assert row["planned_seeds"] == [0, 1, 2]
    assert row["planned_labels"] == ["sgd-1x", "sam-0.1", "fsam-0.1"]
    assert row["data_verified"] is True


def test_the_package_exports_the_frame(tmp_path):
    record_run(tmp_path)
    assert len(fsam_cli.load_runs(tmp_path)) == 1


def test_every_column_is_documented(tmp_path):
    record_run(tmp_path)
    documented = load_runs.__doc__
    for column in load_runs(tmp_path).columns:
        number = re.sub("^(last|selected|best_test|before)(?=_)", "", column)
        assert f"`{number}`" in documented or f"`<which>{number}`" in documented, column


@pytest.mark.parametrize("depth", range(4))
def test_a_root_may_be_the_runs_a_recipe_a_label_or_a_single_run(tmp_path, depth):
    run = record_run(tmp_path / "runs")
    root = [tmp_path / "runs", run.parents[1], run.parent, run][depth]
    assert load_runs(root)["label"].tolist() == ["sam-0.1"]


def test_roots_that_overlap_give_a_run_once(tmp_path):
    run = record_run(tmp_path / "runs")
    (tmp_path / "link").symlink_to(tmp_path / "runs")
    assert len(load_runs(tmp_path / "runs", run, run.parent, tmp_path / "link")) == 1


def test_a_folder_that_does_not_exist_is_a_usage_error_that_says_what_instead(tmp_path):
    with pytest.raises(UsageError, match=r"no such folder; runs are recorded below runs/"):
        load_runs(tmp_path / "nowhere")


def test_a_folder_without_runs_is_an_empty_frame(tmp_path):
    assert load_runs(tmp_path).empty
    assert "status" in load_runs(tmp_path)


def test_a_run_without_result_is_planned_interrupted_or_running(tmp_path):
    record_run(tmp_path, seed=0, status="planned")
    record_run(tmp_path, seed=1, status="interrupted")
    held = record_run(tmp_path, seed=2, status="interrupted")
    with filelock.FileLock(held / ".lock"):
        statuses = load_runs(tmp_path).set_index("seed")["status"].to_dict()
    assert statuses == {0: "planned", 1: "interrupted", 2: "running"}
    assert load_runs(held)["status"].tolist() == ["interrupted"]


def test_reading_leaves_nothing_behind(tmp_path):
    run = record_run(tmp_path, status="planned")
    load_runs(tmp_path)
    assert [file.name for file in run.iterdir()] == ["config.yaml"]


def test_a_diverged_run_keeps_its_reason_and_its_last_numbers(tmp_path):
    record_run(tmp_path, status="diverged", reason="non-finite loss", accuracy=0.3)
    [row] = load_runs(tmp_path).to_dict("records")
    assert (row["status"], row["reason"]) == ("diverged", "non-finite loss")
    assert row["last_test_accuracy"] == 0.3


def test_a_reason_is_one_line_whatever_ends_its_lines(tmp_path):
    record_run(tmp_path, status="failed", reason=" out\r of\r\n\tmemory\n")
    assert load_runs(tmp_path)["reason"].tolist() == ["out of memory"]


def test_a_failed_run_without_numbers_has_none(tmp_path):
    record_run(tmp_path, status="failed", reason="out of memory")
    assert load_runs(tmp_path)["last_test_accuracy"].isna().all()


DAMAGE = {
    "cut off": lambda file: file.write_text(file.read_text()[:50]),
    "empty": lambda file: file.write_text(""),
    "not text": lambda file: file.write_bytes(b"\xff\xfe\x00"),
    "another schema": lambda file: rewritten(file, lambda r: r.update(schema="fsam-run/9")),
    "no identity": lambda file: rewritten(file, lambda r: r.pop("run")),
    "a list for a mapping": lambda file: rewritten(file, lambda r: r.update(config=[])),
    "no method": lambda file: rewritten(file, lambda r: r["config"].pop("method")),
    "words for epochs": lambda file: rewritten(
        file, lambda r: r["config"]["train"].update(epochs="x")
    ),
    "brackets without end": lambda file: file.write_text('{"a": ' + "[" * 5000),
    "words for a seed": lambda file: rewritten(file, lambda r: r["run"].update(seed="zero")),
    "a recipe that leaves its folder": lambda file: rewritten(
        file, lambda r: r["run"].update(recipe="../../evil")
    ),
    "a label that leaves its folder": lambda file: rewritten(
        file, lambda r: r["run"].update(label="/evil")
    ),
    "a planned label with a line feed": lambda file: rewritten(
        file, lambda r: r["planned"].update(labels=["sam\n"])
    ),
    "words for a hash": lambda file: rewritten(file, lambda r: r["run"].update(cell="0123abc/")),
    "a number for a method": lambda file: rewritten(
        file, lambda r: r["config"]["method"].update(name=3)
    ),
    "negative epochs": lambda file: rewritten(
        file, lambda r: r["config"]["train"].update(epochs=-1)
    ),
}
OF_RESULTS = {
    "words for a number": lambda file: rewritten(file, lambda r: r["last"].update(test_loss="low")),
    "an unknown status": lambda file: rewritten(file, lambda r: r.update(status="fine")),
    "words for costs": lambda file: rewritten(file, lambda r: r.update(train_seconds="long")),
    "a number for a reason": lambda file: rewritten(file, lambda r: r.update(reason=5)),
    "a list for an epoch": lambda file: rewritten(file, lambda r: r.update(last=[1])),
    "half a character": lambda file: rewritten(file, lambda r: r.update(reason="\ud800")),
    "words for earlier machines": lambda file: rewritten(
        file, lambda r: r["environment"].update(earlier=["here"])
    ),
    **{
        f"{value} for {which}.{key}": lambda file, which=which, key=key, value=value: rewritten(
            file, lambda r: (r[which] if which else r).update({key: value})
        )
        for which, key, value in (
            ("last", "test_accuracy", 1.5),
            ("last", "test_accuracy", -0.1),
            ("last", "test_accuracy", int("9" * 400)),
            ("last", "corrupted_fit", 2),
            ("best_test", "test_accuracy", float("nan")),
            ("last", "test_loss", float("inf")),
            ("last", "test_loss", int("9" * 400)),
            ("last", "epoch", -1),
            ("last", "epoch", 1.5),
            ("", "train_seconds", float("inf")),
            ("", "train_seconds", int("9" * 400)),
            ("", "sample_gradients", 2**63),  # one more than pandas has room for
            ("", "sample_gradients", int("9" * 400)),
            ("", "sample_gradients", True),
        )
    },
}


@pytest.mark.parametrize("damage", [*DAMAGE, *OF_RESULTS])
def test_a_damaged_result_is_one_unreadable_row_that_still_knows_whose_it_is(tmp_path, damage):
    record_cell(tmp_path, [0.8, 0.9])
    damaged = record_run(tmp_path, seed=2)
    {**DAMAGE, **OF_RESULTS}[damage](damaged / "result.json")
    frame = load_runs(tmp_path).set_index("seed")
    assert frame["status"].to_dict() == {0: "done", 1: "done", 2: "unreadable"}
    assert frame.loc[2, "reason"].startswith("result.json is damaged (")
    assert frame.loc[2, "config"] == configuration()
    assert frame["last_test_accuracy"].dtype == float
    assert frame["cell"].nunique() == 1


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_plan_is_known_by_its_folder(tmp_path, damage):
    folder = record_run(tmp_path, seed=4, status="planned", cell="0123abcd")
    DAMAGE[damage](folder / "config.yaml")
    [row] = load_runs(tmp_path).to_dict("records")
    assert row["status"] == "unreadable"
    assert row["reason"].startswith("config.yaml is damaged (")
    assert (row["recipe"], row["label"], row["seed"]) == ("quickstart", "sam-0.1", 4)
    assert row["cell"] == "0123abcd"


@pytest.mark.parametrize("opening", ["[", "- ", "{a: ", "? "])
def test_nesting_that_ends_libyaml_s_process_is_one_unreadable_row(tmp_path, opening):
    """In a process of its own: without a guard the loader's recursion in C is a crash."""
    record_run(tmp_path, seed=0)
    deep = record_run(tmp_path, seed=1, status="planned")
    (deep / "config.yaml").write_text(opening * 100_000)
    code = (
        "import sys, fsam_cli; frame = fsam_cli.load_runs(sys.argv[1]).sort_values('seed');"
        "print(frame[['status', 'reason']].to_json(orient='values'))"
    )
    read = subprocess.run(
        [sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert read.returncode == 0, read.stderr
    (whole, _), (damaged, reason) = json.loads(read.stdout)
    assert (whole, damaged) == ("done", "unreadable")
    assert reason.startswith("config.yaml is damaged (")
    assert "nest" in reason  # fsam's limit, or that of a libyaml which has one itself


@pytest.mark.parametrize("value", ["2024-01-01", "!!set {a, b}"])
def test_what_only_yaml_can_say_is_no_configuration(tmp_path, value):
    record_run(tmp_path, seed=0)
    plan = record_run(tmp_path, seed=1, status="planned") / "config.yaml"
    plan.write_text(plan.read_text().replace("threads: 1", f"threads: {value}"))
    frame = load_runs(tmp_path).set_index("seed")
    assert frame["status"].to_dict() == {0: "done", 1: "unreadable"}
    assert "not JSON serializable" in frame.loc[1, "reason"]


def test_a_plan_whose_aliases_stand_for_gigabytes_is_one_unreadable_row(tmp_path):
    record_run(tmp_path, seed=0)
    plan = record_run(tmp_path, seed=1, status="planned") / "config.yaml"
    laughs = [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 9)}]" for n in range(1, 12)]
    plan.write_text("\n".join([plan.read_text(), "a0: &a0 [ha, ha]", *laughs]))
    frame = load_runs(tmp_path).set_index("seed")
    assert frame["status"].to_dict() == {0: "done", 1: "unreadable"}
    assert "alias" in frame.loc[1, "reason"]


def test_a_single_damaged_run_named_from_its_own_folder_knows_its_parents(tmp_path, monkeypatch):
    folder = record_run(tmp_path, seed=4, status="planned")
    (folder / "config.yaml").write_text("")
    monkeypatch.chdir(folder)
    [row] = load_runs(".").to_dict("records")
    assert (row["recipe"], row["label"], row["seed"]) == ("quickstart", "sam-0.1", 4)


def test_a_finished_run_without_its_plan_is_read(tmp_path):
    folder = record_run(tmp_path)
    (folder / "config.yaml").unlink()
    assert load_runs(tmp_path)["status"].tolist() == ["done"]


def test_a_checkpoint_that_lost_its_plan_stays_visible(tmp_path):
    folder = record_run(tmp_path, status="interrupted")
    (folder / "config.yaml").unlink()
    [row] = load_runs(tmp_path).to_dict("records")
    assert row["status"] == "unreadable"
    assert "No such file" in row["reason"]


def test_a_run_of_which_only_its_log_or_its_weights_are_left_is_not_forgotten(tmp_path):
    for seed, name in enumerate(("log.txt", "weights.pt", "metrics.csv")):
        folder = record_run(tmp_path, seed=seed)
        (folder / "config.yaml").unlink()
        (folder / "result.json").rename(folder / name)
    frame = load_runs(tmp_path)
    assert frame["seed"].tolist() == [0, 1, 2]
    assert set(frame["status"]) == {"unreadable"}


def test_a_file_is_no_folder_of_runs(tmp_path):
    result = record_run(tmp_path) / "result.json"
    with pytest.raises(UsageError, match=r"result\.json is a file; name its folder, or any above"):
        load_runs(result)


def test_a_renamed_run_is_read_and_other_programs_files_are_not(tmp_path):
    record_run(tmp_path).rename(tmp_path / "kept")
    (tmp_path / "service").mkdir()
    (tmp_path / "service" / "config.yaml").write_text("port: 80")
    (tmp_path / "seed0-0123abcd").mkdir()  # made, and nothing in it yet
    frame = load_runs(tmp_path)
    assert frame["path"].tolist() == [str(tmp_path / "kept")]
    assert frame["recipe"].tolist() == ["quickstart"]


def test_hidden_folders_are_not_searched(tmp_path):
    record_run(tmp_path / ".cache")
    assert load_runs(tmp_path).empty


def test_a_folder_that_may_not_be_listed_is_one_message(tmp_path, monkeypatch):
    record_run(tmp_path)
    listed = os.scandir

    def denied(path):
        if str(path).endswith("quickstart"):
            raise PermissionError(13, "Permission denied", str(path))
        return listed(path)

    monkeypatch.setattr(os, "scandir", denied)
    with pytest.raises(RecordError, match=r"quickstart cannot be listed \(Permission denied\)"):
        load_runs(tmp_path)


def test_runs_that_were_there_already_have_the_seeds_and_the_budget_of_the_command(tmp_path):
    first = record_run(tmp_path, seeds=(0, 1, 2), planned_epochs=1.0)
    [run] = as_rows(load_planned({first: Planned([0, 5], 2.0, ["train.lr"])}))
    assert (run["planned_seeds"], run["planned_epochs"]) == ([0, 5], 2.0)
    assert run["tuned"] == ["train.lr"]
    assert as_rows(load_runs(tmp_path))[0]["planned_epochs"] == 1.0
