"""The parts of `fsam sweep --tune`; tests/commands/test_sweep.py tunes."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from threading import Thread
from types import SimpleNamespace

import filelock
import pytest

from fsam_cli.commands import tune
from fsam_cli.commands._space import Space
from fsam_cli.errors import RecordError
from fsam_cli.minimisers.sam import Sam
from fsam_cli.recipe import yaml12
from tests.support.command import TINY, fsam
from tests.support.plugins import MINIMISER


def test_a_method_has_the_same_trials_whatever_it_is_compared_with():
    tuning = SimpleNamespace(plans=lambda *_, **__: [], seeds=(7, 8))
    found = []
    for labels in (["sam", "other"], ["other", "sam"], ["sam"]):
        searches = {label: tune.Search(label, Space(Sam.search)) for label in labels}
        tune._draw(tuning, list(searches.values()), 2, later=False)
        for search in searches.values():
            search.scores = [0.5, 0.4]
        tune._draw(tuning, list(searches.values()), 1, later=True)
        found.append(searches["sam"].points)
    assert found[0] == found[1] == found[2]
    first, second, around_first = (point["rho"] for point in found[0])
    assert len({first, second, around_first}) == 3
    tuning.seeds = (8,)
    search = tune.Search("sam", Space(Sam.search))
    tune._draw(tuning, [search], 2, later=False)
    assert search.points != found[0][:2]


def of_scores(label, *scores, images=(50, 50)):
    """A search with these scores, on so many validation images of each tuning seed."""
    points = [{"rho": 0.1 * (number + 1)} for number in range(len(scores))]
    plans = [
        [SimpleNamespace(validation_images=each, sample_gradients=100) for each in images]
        for _ in scores
    ]
    return tune.Search(label, Space(Sam.search), points, plans, list(scores))


def test_trials_within_a_standard_error_of_the_winner_are_counted_and_told(capsys):
    search = of_scores("sam", 0.5, 0.55, None, 0.54)
    assert search.standard_error == pytest.approx(0.04975, abs=1e-5)  # sqrt(0.55 * 0.45 / 100)
    assert search.close == 2  # 0.5 is below 0.55 - 0.04975
    assert of_scores("sam", 0.5, 0.55, None, 0.54, images=(50,)).close == 3
    tune._name_luck([search, of_scores("asam", 0.9, 0.1), of_scores("usam", None, None)])
    told = capsys.readouterr().err
    assert "a standard error of about 5.0 points" in told
    assert "within one of the winner's are sam 2 of 4; --tuning-seeds" in told


def test_winners_that_stand_out_are_nobodys_luck(capsys):
    assert of_scores("sam", None).standard_error is None
    assert of_scores("sam", None).close == 0
    tune._name_luck([of_scores("sam", 0.9, 0.1), of_scores("sgd", None)])
    assert capsys.readouterr().err == ""


def test_two_commands_that_end_at_once_write_one_after_the_other(tmp_path):
    record = tmp_path / "tuning.json"
    of_sgd, of_sam = ({"method": name} for name in ("sgd", "sam"))
    whole = {"schema": tune.TUNING_SCHEMA, "protocol": "p"}
    with filelock.FileLock(tmp_path / ".tuning.lock"):
        other = Thread(target=tune.write_record, args=(record, {**whole, "methods": [of_sam]}))
        other.start()
        other.join(timeout=0.5)
        assert not record.exists()
        record.write_text(json.dumps({**whole, "methods": [of_sgd]}))
    other.join(timeout=30)
    assert json.loads(record.read_text())["methods"] == [of_sgd, of_sam]


@pytest.mark.parametrize(
    ("spent", "told"), [([10, 10], False), ([10, 20], True), ([10, 20, 20], True)]
)
def test_methods_that_cost_unlike_are_named(capsys, spent, told):
    tune._name_unequal_compute([SimpleNamespace(label="m", spent=each) for each in spent])
    assert ("but not the same compute: m 10" in capsys.readouterr().err) == told


def test_a_record_that_cannot_be_set_aside_stays_and_says_why(tmp_path, monkeypatch):
    def refused(path, target):
        raise PermissionError(13, "Permission denied")

    record = tmp_path / "tuning.json"
    record.write_text("damaged")
    monkeypatch.setattr(Path, "rename", refused)
    with pytest.raises(RecordError, match=r"tuning-set-aside-1\.json: Permission denied"):
        tune.write_record(record, {"protocol": "p", "methods": []})
    assert record.read_text() == "damaged"


def test_what_cannot_be_read_is_set_aside_like_a_damaged_record(tmp_path, capsys):
    record = tmp_path / "tuning.json"
    record.mkdir()
    tune.write_record(record, {"protocol": "p", "methods": []})
    assert record.is_file()
    assert (tmp_path / "tuning-set-aside-1.json").is_dir()
    assert "Is a directory" in capsys.readouterr().err


ASKED = ("sweep", "-r", "quickstart", *TINY, "train.epochs=1", "-q", "--tune")


def everywhere(accuracy):
    return {(epoch, part): accuracy for epoch in ("last", "selected") for part in PARTS}


PARTS = ("validation", "test")


def test_all_trials_run_the_code_that_was_there_at_the_start(tmp_path, instead_of_training):
    file, seen = tmp_path / "mine.py", set()
    file.write_text(MINIMISER)

    def accuracies_of(each):
        seen.add(each.config["method"]["plugin"])
        file.write_text(MINIMISER + f"# edit {len(seen)}\n")
        return everywhere(0.5)

    instead_of_training(accuracies_of)
    fsam(*ASKED, "methods={doubled: {}}", "--plugin", "mine.py", "--trials", "3", cwd=tmp_path)
    assert len(seen) == 1


def test_a_tuning_without_a_single_winner_writes_no_recipe(tmp_path, instead_of_training):
    instead_of_training(lambda each: {**everywhere(None), "status": "diverged"})
    done = fsam(*ASKED, "--trials", "2", "--write-recipe", "a.yaml", cwd=tmp_path, check=1)
    assert "no winner for sgd, fsam" in done.stderr
    assert not (tmp_path / "a.yaml").exists()


def test_a_search_that_went_beyond_its_space_says_where(tmp_path, instead_of_training):
    instead_of_training(lambda each: everywhere(each.recipe.methods["sgd"].lr))
    asked = (*ASKED, "--only", "sgd", "--space", "train.lr=0.1:0.2", "--trials", "12")
    declared = ("methods={sgd: {}, sam: {}}", "--only", "sam", "--trials", "12")
    (method,) = _methods(fsam(*asked, "-f", "json", cwd=tmp_path).stdout)
    assert method["extended"] == ""  # what the user gave is not left
    assert max(point["train.lr"] for point in method["points"]) <= 0.2
    instead_of_training(lambda each: everywhere(each.config["method"]["rho"] / 100))
    (method,) = _methods(fsam(*ASKED, *declared, "-f", "json", cwd=tmp_path).stdout)
    assert method["extended"].startswith("rho up to ")
    assert "rho up to " in fsam(*ASKED, *declared, "-f", "csv", cwd=tmp_path).stdout


def _methods(text):
    return json.loads(text)["methods"]


def test_points_that_fall_together_are_one_run(tmp_path, instead_of_training):
    instead_of_training(lambda each: everywhere(0.5))
    narrow = ("--only", "sgd", "--space", "train.lr=0.1:0.101", "--trials", "9")
    done = fsam(*ASKED, *narrow, cwd=tmp_path)
    assert "round 1: 2 runs in all" in done.stderr  # 0.1 and 0.101, in three digits
    assert "9 trials a method" in done.stdout


def test_the_recipe_of_the_winners_has_no_grid_and_breaks_no_word_of_its_command(
    tmp_path, instead_of_training
):
    instead_of_training(lambda each: everywhere(0.5))
    out = "-".join(["my runs", *["runs"] * 30])
    asked = ("--trials", "1", "--write-recipe", "a.yaml", "--out", out)
    fsam(*ASKED, "sweep={grid: {eta: [1, 2]}}", *asked, cwd=tmp_path)
    text = (tmp_path / "a.yaml").read_text()
    assert "sweep" not in yaml12.parse(text)
    header = [line for line in text.splitlines() if line.startswith("#")]
    command = " ".join(line[13:] for line in header).partition("fsam train ")[2]
    assert shlex.split(command) == ["--recipe", "a.yaml", "--out", out]


def test_a_terminal_is_shown_bad_trials_only_where_there_are_some():
    bad, good = (tune._rows([of_scores("sam", *scores)])[0] for scores in ((0.5, None), (0.5, 0.4)))
    row = tune._for_a_terminal({**bad, "sample-gradients": 1200})
    assert list(row) == [
        *("method", "trials", "selected", "validation %", "close", "extended", "gradients")
    ]
    assert (row["trials"], row["gradients"], row["validation %"]) == ("2 (1 bad)", 1200, 50.0)
    assert tune._for_a_terminal(good)["trials"] == 2
