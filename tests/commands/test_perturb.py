"""`fsam perturb`, as a user sees it."""

from __future__ import annotations

import csv
import json
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
import torch
from rich.progress import Progress

from fsam_cli.commands.perturb import DRAWS, alphas_of, perturb, wanted_of
from fsam_cli.errors import DataError, Interrupted, RecordError, UsageError
from fsam_cli.measure import weight_perturbation
from fsam_cli.options import PerturbRequest
from fsam_cli.records.store import RunDirectory
from tests.support.command import fsam, start
from tests.support.threads import threads_as_before  # noqa: F401 (a fixture)
from tests.support.trained import SHORT


def asked(*roots, **options):
    usual = {
        "only": [],
        "alpha": "0.5,1",
        "device": "cpu",
        "format": "csv",
        "quiet": True,
        "plugins": [],
    }
    return PerturbRequest(runs=list(roots), **{**usual, **options})


def one(runs):
    """A run directory of several."""
    return sorted(path.parent for path in runs.rglob("sgd/*/result.json"))[0]


def tables(root):
    return sorted(root.rglob("*perturbation.csv"))


def rows(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def strengths(text):
    """At which there is a number of the only run of a JSON document."""
    (run,) = json.loads(text)["runs"]
    return [key.partition("α=")[2] for key in run if "α=" in key and run[key] is not None]


@pytest.mark.parametrize(
    ("text", "alphas"),
    [
        (
            "0.1:5.0",
            (0, 0.1, 0.59, 1.08, 1.57, 2.06, 2.55, 3.04, 3.53, 4.02, 4.51, 5),
        ),
        ("0:1", (0, 0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8, 0.9, 1)),
        ("0.1:0.5:0.1", (0, 0.1, 0.2, 0.3, 0.4, 0.5)),
        ("0.1:0.5:0.3", (0, 0.1, 0.4)),
        ("2:2", (0, 2)),
        ("3,1,1,0.5", (0, 0.5, 1, 3)),
        ("1e-3", (0, 0.001)),
        ("0", (0,)),
    ],
)
def test_strengths_are_ranges_with_both_ends_steps_or_lists_and_always_the_control(text, alphas):
    assert alphas_of(text) == alphas


@pytest.mark.parametrize(
    "text",
    [
        *("", ",", "1,", "x", "-1", "1,-1", "nan", "inf", "1e101", "1:2,3"),
        *(":", "1:", "2:1", "0:inf", "1:2:0", "1:2:-1", "1:2:3:4", "0:1:1e-9"),
    ],
)
def test_no_strengths_is_a_usage_error(text):
    with pytest.raises(UsageError, match="--alpha"):
        alphas_of(text)


def test_options_that_do_not_go_together_are_usage_errors():
    with pytest.raises(UsageError, match="--draws is for --direction gaussian"):
        wanted_of(asked(draws=3))
    with pytest.raises(UsageError, match="--gradient-split is for --direction gradient"):
        wanted_of(asked(direction="gaussian", gradient_split="test"))
    assert wanted_of(asked(direction="gaussian")).draws == DRAWS


def test_results_go_to_stdout_a_line_a_run_to_stderr_and_a_table_beside_every_run(runs):
    weights = {path: path.read_bytes() for path in runs.rglob("weights.pt")}
    done = fsam("perturb", "--alpha", "0.1:2.0", "--figures", "pictures", cwd=runs.parent)
    assert "half lost at α" in done.stdout
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "[4/4] fsam seed 1: 12 points" in done.stderr
    assert len(tables(runs)) == 4
    for path in tables(runs):
        assert path.name == "perturbation.csv"
        assert len(rows(path)) == 12
        recorded = json.loads((path.parent / "result.json").read_text())
        assert float(rows(path)[0]["test_accuracy"]) == recorded["last"]["test_accuracy"]
    assert {path: path.read_bytes() for path in runs.rglob("weights.pt")} == weights
    pictures = {path.name for path in (runs.parent / "pictures").iterdir()}
    assert pictures == {f"robustness-quickstart-gradient-train.{kind}" for kind in ("png", "svg")}

    before = [path.read_bytes() for path in tables(runs)]
    again = fsam("perturb", "--alpha", "0.1:2.0", cwd=runs.parent)
    assert again.stdout == done.stdout
    assert again.stderr.count("on record") == 4
    assert [path.read_bytes() for path in tables(runs)] == before


def test_every_way_of_perturbing_has_its_rows_in_the_one_table(runs, capsys):
    ways = [
        {},
        {"gradient_split": "test"},
        {"relative": "filter"},
        {"recalibrated": True},
        {"direction": "gaussian", "draws": 2},
        {"direction": "gaussian", "draws": 3},  # the first two are there already
    ]
    run = one(runs)
    for count, way in zip((3, 6, 9, 12, 18, 21), ways, strict=True):
        assert perturb(asked(run, **way, format="json")) == 0
        assert strengths(capsys.readouterr().out) == ["0", "0.5", "1"]
        assert len(rows(run / "perturbation.csv")) == count


def test_more_strengths_are_measured_and_only_those_asked_for_are_shown(runs, capsys):
    run = one(runs)
    perturb(asked(run, alpha="0.5,1"))
    capsys.readouterr()
    perturb(asked(run, alpha="2", format="json"))
    assert len(rows(run / "perturbation.csv")) == 4
    assert strengths(capsys.readouterr().out) == ["0", "2"]


def test_json_and_markdown_hold_every_strength(runs, capsys):
    perturb(asked(runs, alpha="0.1:1.0", format="json"))
    document = json.loads(capsys.readouterr().out)
    labels = [point["label"] for point in document["points"]]
    assert labels == ["sgd"] * 12 + ["fsam"] * 12  # as planned
    page = (Path(__file__).parents[2] / "docs" / "report-schema.md").read_text()
    section = page.partition("\n## `fsam perturb")[2].partition("\n## ")[0]
    metrics = {entry["metric"] for entry in document["table"]}
    assert {"half_alpha", "area"} < metrics
    keys = {*document, *document["setting"], *document["points"][0], "half_alpha", "area"}
    assert all(f"`{key}`" in section for key in keys)
    perturb(asked(runs, alpha="0.1:1.0", format="markdown"))
    text = capsys.readouterr().out
    assert text.count("| quickstart | test accuracy at α=") == 12
    perturb(asked(runs, alpha="0.1:1.0", format="latex"))
    assert r"\toprule" in capsys.readouterr().out


def test_a_run_that_is_not_done_is_named_and_stays_in_the_table(runs, capsys):
    result = sorted(runs.rglob("fsam/*/result.json"))[1]
    record = json.loads(result.read_text())
    record.update(status="diverged", reason="loss not finite in epoch 1", last=None)
    result.write_text(json.dumps(record))
    assert perturb(asked(runs, format="table")) == 0
    printed = capsys.readouterr()
    assert "diverged: loss not finite in epoch 1" in printed.err
    assert "1 of 2 diverged" in printed.out
    assert "not measured: quickstart: fsam seed 1" in printed.out
    assert len(tables(runs)) == 3


def test_one_run_of_a_plan_of_two_is_measured_and_has_no_mean(runs, capsys):
    run = one(runs)
    assert perturb(asked(run, format="json", figures=runs.parent / "pictures")) == 0
    printed = capsys.readouterr()
    (point,) = json.loads(printed.out)["points"]
    assert (point["n"], point["status"], point["accuracy_mean"]) == (0, "1 of 2 missing", None)
    assert len(rows(run / "perturbation.csv")) == 3
    assert "quickstart: no picture" in printed.err
    assert not (runs.parent / "pictures").exists()


def test_weights_that_do_not_serve_make_the_exit_code_1_and_harm_no_other_run(runs, capsys):
    missing, damaged, *_ = sorted(runs.rglob("weights.pt"))
    missing.unlink()
    damaged.write_bytes(b"weights")
    assert perturb(asked(runs, format="json")) == 1
    printed = capsys.readouterr()
    assert f"cannot read {missing}" in printed.err
    document = json.loads(printed.out)
    statuses = [run["status"] for run in document["runs"]]
    assert sorted(statuses) == ["done"] * 2 + ["unmeasurable"] * 2
    assert sum("weights.pt is damaged" in note for note in document["notes"]) == 1
    assert len(tables(runs)) == 2


def test_a_run_of_a_network_that_is_not_there_any_more_is_named_and_harms_no_other(runs, capsys):
    path = one(runs) / "result.json"
    record = json.loads(path.read_text())
    record["config"]["model"]["name"] = "gone"
    path.write_text(json.dumps(record))
    assert perturb(asked(runs)) == 1
    told = capsys.readouterr().err
    assert "its configuration is not known here: model: unknown model 'gone'" in told
    assert len(tables(runs)) == 3


def test_weights_that_may_not_be_read_are_named_with_another_remedy(runs, tmp_path, monkeypatch):
    def refused(path):
        raise PermissionError(13, "Permission denied")

    kept = shutil.copy(next(runs.rglob("weights.pt")), tmp_path / "kept.pt")
    monkeypatch.setattr(Path, "read_bytes", refused)
    with pytest.raises(RecordError, match=r"kept\.pt: Permission denied; check its permissions"):
        perturb(asked(Path(kept), recipe="quickstart"))


def test_on_a_terminal_a_bar_counts_what_was_missing(runs, monkeypatch):
    seen = []

    class Seen(Progress):
        def stop(self):
            seen.extend((task.completed, task.total) for task in self.tasks)
            super().stop()

    monkeypatch.setattr("rich.progress.Progress", Seen)
    monkeypatch.setattr("sys.stderr.isatty", lambda: True)
    perturb(asked(one(runs), alpha="0.5"))
    next(runs.rglob("fsam/*/weights.pt")).write_bytes(b"")
    perturb(asked(runs, alpha="0.5,1", quiet=False))
    assert seen == [(1 + 2 * 3, 1 + 3 * 3)]  # the damaged one's three stay


def test_a_damaged_table_is_named_with_its_remedy_and_left_as_it_is(runs, capsys):
    damaged = one(runs) / "perturbation.csv"
    damaged.write_text("something else\n")
    assert perturb(asked(runs, format="json")) == 1
    document = json.loads(capsys.readouterr().out)
    assert damaged.read_text() == "something else\n"
    assert any("remove it to have it measured again" in note for note in document["notes"])
    (run,) = [run for run in document["runs"] if run["status"] == "unmeasurable"]
    assert run["path"] == str(damaged.parent)


def test_a_run_that_is_at_work_is_left_alone(runs, capsys):
    busy = one(runs)
    with RunDirectory(busy).locked():
        assert perturb(asked(runs, format="table")) == 0
    shown = " ".join(capsys.readouterr().out.split())
    assert f"busy: another process works on it ({busy})" in shown
    assert "1 of 2 busy" in shown
    assert not (busy / "perturbation.csv").exists()


def test_a_run_whose_folder_cannot_be_written_has_a_remedy_without_options(runs, monkeypatch):
    def refused(lock, **_):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("filelock.FileLock.acquire", refused)
    with pytest.raises(RecordError, match="make the folder writable, or measure a copy of it"):
        perturb(asked(runs))
    assert tables(runs) == []


def test_the_same_run_found_twice_counts_once(runs, tmp_path, capsys):
    copy = shutil.copytree(runs, tmp_path / "copy")
    perturb(asked(runs, next(runs.iterdir()), copy, format="json"))
    document = json.loads(capsys.readouterr().out)
    areas = [entry for entry in document["table"] if entry["metric"] == "area"]
    assert [(entry["n"], entry["status"]) for entry in areas] == [(2, "done")] * 2
    assert sum("recorded more than once" in note for note in document["notes"]) == 4


def test_runs_of_several_settings_are_told_apart_while_they_are_measured(runs, capsys):
    other = ("seeds=[0]", "methods.fsam.eta=1", "--only", "fsam")
    fsam("train", *SHORT, *other, cwd=runs.parent)
    perturb(asked(runs, alpha="0", format="json", quiet=False))
    lines = [line for line in capsys.readouterr().err.splitlines() if line.startswith("[")]
    names = [line.partition("] ")[2].partition(":")[0] for line in lines]
    assert len(set(names)) == len(names) == 5
    assert "sgd seed 0" in names


def test_weights_trained_anew_are_measured_anew(runs, capsys):
    perturb(asked(runs))
    first, other = sorted(runs.rglob("sgd/*/weights.pt"))
    before = rows(first.with_name("perturbation.csv"))
    first.write_bytes(other.read_bytes())
    perturb(asked(runs))
    after = rows(first.with_name("perturbation.csv"))
    assert len(after) == len(before)
    assert after[0]["test_loss"] == rows(other.with_name("perturbation.csv"))[0]["test_loss"]


def test_a_plain_weight_file_is_measured_with_a_recipe(runs, tmp_path, capsys):
    saved = torch.load(next(runs.rglob("fsam/*/weights.pt")), weights_only=True)
    kept, bare = tmp_path / "kept.pt", tmp_path / "bare.pth"
    torch.save(saved, kept)
    torch.save(saved["weights"], bare)
    before = kept.read_bytes(), bare.read_bytes()
    perturb(asked(kept, bare, recipe="quickstart"))
    assert (kept.read_bytes(), bare.read_bytes()) == before
    found = rows(tmp_path / "kept.perturbation.csv"), rows(tmp_path / "bare.perturbation.csv")
    assert [row["test_loss"] for row in found[0]] == [row["test_loss"] for row in found[1]]
    shown = capsys.readouterr().out
    accuracy = found[0][0]["test_accuracy"]
    assert f"quickstart,,kept,,,0.0,1,done,{accuracy}," in shown
    assert f"quickstart,,bare,,,0.0,1,done,{accuracy}," in shown


def test_weight_files_of_one_name_are_networks_of_their_own(runs, capsys):
    files = sorted(runs.rglob("seed*/weights.pt"))[:2]
    perturb(asked(*files, recipe="quickstart", format="json"))
    table = json.loads(capsys.readouterr().out)["table"]
    areas = [(entry["label"], entry["n"]) for entry in table if entry["metric"] == "area"]
    assert areas == [(str(file), 1) for file in files]


@pytest.mark.parametrize("name", ["metrics.csv", "config.yaml", "result.json", "predictions.npz"])
def test_another_file_of_a_run_is_no_weight_file(runs, capsys, name):
    file = next(runs.rglob(name))
    with pytest.raises(RecordError, match="is damaged or no weight file"):
        perturb(asked(file, recipe="quickstart"))


def test_mistakes_in_what_is_named_are_usage_errors(runs, tmp_path, capsys):
    file = next(runs.rglob("weights.pt"))
    with pytest.raises(UsageError, match=r"is a file: name the recipe .* with --recipe"):
        perturb(asked(file))
    with pytest.raises(UsageError, match="--recipe is for weight files"):
        perturb(asked(runs, recipe="quickstart"))
    with pytest.raises(UsageError, match="no such folder"):
        perturb(asked(tmp_path / "nowhere"))
    (tmp_path / "empty").mkdir()
    with pytest.raises(UsageError, match="no finished run in"):
        perturb(asked(tmp_path / "empty"))
    notes = tmp_path / "notes.txt"
    notes.write_text("no weights")
    with pytest.raises(RecordError, match="no run could be measured"):
        perturb(asked(notes, recipe="quickstart"))


@pytest.mark.parametrize("quiet", [(), ("-q",)])
def test_where_nothing_can_be_measured_the_error_itself_says_why(runs, quiet):
    for weights in runs.rglob("weights.pt"):
        weights.write_bytes(b"")
    done = fsam("perturb", "--alpha", "0,.1", *quiet, cwd=runs.parent, check=1)
    error = done.stderr[done.stderr.index("no run could be measured:") :].splitlines()
    assert len(error) == 5
    for line in error[1:]:
        assert re.fullmatch(r"  runs/quickstart/.+/seed.+: unmeasurable: .*weights.pt.*", line)


def test_many_reasons_are_not_all_repeated(runs, tmp_path, monkeypatch):
    for weights in runs.rglob("weights.pt"):
        weights.write_bytes(b"")
    monkeypatch.setattr("fsam_cli.commands._measuring.MOST_REASONS", 1)
    with pytest.raises(RecordError, match=r"measured:\n  .*\n  and 3 more; `fsam runs ls`"):
        perturb(asked(runs))
    monkeypatch.setattr("fsam_cli.commands._measuring.MOST_REASONS", 4)  # as many as there are
    with pytest.raises(RecordError, match=r"measured:(\n  .*seed.*){4}$"):
        perturb(asked(runs))


def test_a_step_of_any_length_is_measured_and_shown_in_few_digits(runs):
    done = fsam("perturb", "--alpha", "1e100", "--figures", "figures", cwd=runs.parent)
    assert max(map(len, done.stdout.splitlines())) <= 100
    assert "α=1e+100" in done.stdout
    assert "Warning" not in done.stderr
    assert len(list((runs.parent / "figures").iterdir())) == 2


def test_other_data_than_at_the_training_are_a_data_error_before_anything_is_measured(runs):
    for result in runs.rglob("result.json"):
        record = json.loads(result.read_text())
        record["config"]["data"]["digest"] = "0" * 16
        result.write_text(json.dumps(record))
    with pytest.raises(DataError, match="digest 0000000000000000"):
        perturb(asked(runs))
    assert tables(runs) == []


def test_help_and_exit_codes_on_the_command_line(tmp_path):
    done = fsam("perturb", "--help", cwd=tmp_path)
    assert "LOW:HIGH:STEP" in done.stdout
    refused = fsam("perturb", "--alpha", "2:1", cwd=tmp_path, check=2)
    assert refused.stderr.startswith("error: --alpha 2:1")
    assert refused.stdout == ""


def test_an_interrupted_command_says_so_and_the_same_command_goes_on(runs):
    arguments = ("perturb", "--direction", "gaussian", "--draws", "400", "--alpha", "1", "--quiet")
    process = start(*arguments, cwd=runs.parent)
    deadline = time.monotonic() + 120
    while not tables(runs) and time.monotonic() < deadline:
        time.sleep(0.05)
    process.send_signal(signal.SIGINT)
    out, err = process.communicate(timeout=60)
    assert process.returncode == 130, (out, err)
    assert "run the same command again to resume" in err
    assert out == ""
    table = tables(runs)[0]
    before = rows(table)
    assert 0 < len(before) <= 800
    assert not list(runs.rglob("*.tmp"))
    draws = len(before) // 2 + 3
    perturb(asked(table.parent, direction="gaussian", draws=draws, alpha="1"))
    after = rows(table)
    assert len(after) == 2 * draws
    assert all(row in after for row in before)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_either_signal_interrupts_and_the_handlers_come_back(runs, monkeypatch, number):
    before = signal.getsignal(number)

    def asked_to_stop(*_, **__):
        signal.raise_signal(number)

    monkeypatch.setattr(weight_perturbation, "measure", asked_to_stop)
    with pytest.raises(Interrupted, match="run the same command again to resume"):
        perturb(asked(one(runs)))
    assert signal.getsignal(number) is before


def test_methods_are_compared_by_their_area(runs, capsys):
    assert perturb(asked(runs, versus="sgd", format="table")) == 0
    shown, _ = capsys.readouterr()
    assert "quickstart: area (%), minus sgd" in shown
    assert "paired, over the seeds that both have" in shown.replace("\n  ", " ")
    assert perturb(asked(runs, versus="sgd", format="markdown")) == 0
    assert "**Differences from sgd**" in capsys.readouterr()[0]
    assert perturb(asked(runs, versus="sgd")) == 0
    assert "differences are not in csv" in capsys.readouterr()[1]


def test_a_method_that_is_not_there_is_refused_before_anything_is_measured(runs):
    with pytest.raises(UsageError, match=r"--versus: no method 'sgd-1x'; .*there are: fsam, sgd"):
        perturb(asked(runs, versus="sgd-1x"))
    assert tables(runs) == []


def test_a_record_that_cannot_be_read_is_named_and_the_exit_code_is_1(runs, capsys):
    (one(runs) / "result.json").write_text("x")
    assert perturb(asked(runs, format="table")) == 1
    assert "unreadable: result.json is damaged" in capsys.readouterr()[0].replace("\n  ", " ")
