"""`--rerun all` loses no result before it has a new one, whatever ends it and when."""

from __future__ import annotations

import shutil
from contextlib import suppress
from pathlib import Path

import pytest

from fsam_cli.engine.run import execute
from fsam_cli.engine.train import Hooks, Training
from fsam_cli.errors import Interrupted
from fsam_cli.recipe.load import load_experiment
from fsam_cli.recipe.plan import plan
from fsam_cli.records.store import RunDirectory
from tests.support.command import bits

OLD = (
    "result.json",
    "weights.pt",
    "predictions.npz",
    "metrics.csv",
    "perturbation.csv",
    "sharpness.csv",
)


class Killed(BaseException):
    """What no handler of ours catches."""


def killed_at(monkeypatch, number):
    """The process ends before its `number`-th change of a folder."""
    left = iter(range(number))

    def counted(change):
        def counting(*arguments, **settings):
            if next(left, None) is None:
                raise Killed
            return change(*arguments, **settings)

        return counting

    for owner, name in ((Path, "mkdir"), (Path, "replace"), (Path, "unlink"), (shutil, "rmtree")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))


@pytest.mark.parametrize("number", range(15))
def test_killed_at_any_change_every_result_is_somewhere_and_the_next_call_finishes(
    tmp_path, monkeypatch, number
):
    run = RunDirectory(tmp_path / "run")
    (run.path / "before_rerun").mkdir(parents=True)
    (run.path / "before_rerun" / "result.json").write_text("still older")
    for name in (*OLD, "checkpoint.pt"):
        (run.path / name).write_text(name)
    with monkeypatch.context() as patched:
        killed_at(patched, number)
        with suppress(Killed):
            run.set_aside()
    over = run.result.exists()
    for name in OLD:
        assert [file for file in run.path.rglob(name) if file.read_text() == name]
        assert not over or (run.path / name).exists()  # a run that is over is whole
    if over or run.half_set_aside():
        run.set_aside()
    assert {file.name: file.read_text() for file in run.before_rerun.iterdir()} == {
        name: name for name in OLD
    }
    assert not run.half_set_aside()
    assert not run.result.exists()


@pytest.fixture
def done(tmp_path):
    """A run of two epochs of six steps that is over, and its bits."""
    settings = ["methods={sam: {}}", "train.epochs=2", "seeds=[0]", "train.batch_size=256"]
    (one,) = plan(load_experiment("quickstart", settings), out=tmp_path, device="cpu")
    assert execute(one, Hooks()).ended == "done"
    return one, bits(tmp_path)


def stopping_at(step):
    steps = iter(range(10_000))
    return Hooks(should_stop=lambda: next(steps) == step)


def the_only(found):
    (one,) = found.values()
    return one


def test_an_interrupted_rerun_keeps_the_old_results_until_it_is_resumed_to_its_end(done):
    one, before = done
    with pytest.raises(Interrupted):
        execute(one, stopping_at(3), rerun="all")
    run = RunDirectory(one.folder)
    assert run.status() == ("interrupted", "")
    assert the_only(bits(run.before_rerun)) == the_only(before)
    assert execute(one, Hooks()).ended == "done"
    assert bits(one.out) == before
    assert not run.before_rerun.exists()
    assert "continued at step 4 of 12" in run.log_file.read_text()


def test_a_rerun_that_fails_twice_keeps_the_results_from_before_both(done, monkeypatch):
    one, before = done
    with monkeypatch.context() as broken:
        broken.setattr(Training, "run", lambda _training: 1 / 0)
        for _ in range(2):
            assert execute(one, Hooks(), rerun="all").status == "failed"
    run = RunDirectory(one.folder)
    assert the_only(bits(run.before_rerun)) == the_only(before)
    assert execute(one, Hooks()).ended == "done"
    assert bits(one.out) == before


def test_a_crash_in_the_middle_of_setting_aside_is_finished_by_the_next_command(done, monkeypatch):
    one, before = done
    with monkeypatch.context() as patched:
        patched.setattr(RunDirectory, "plan", lambda *_arguments: None)  # makes folders, too
        killed_at(patched, 3)
        with pytest.raises(Killed):
            execute(one, Hooks(), rerun="all")
    run = RunDirectory(one.folder)
    assert run.status()[0] == "planned"
    assert not run.before_rerun.exists()
    with pytest.raises(Interrupted):
        execute(one, stopping_at(3))
    assert the_only(bits(run.before_rerun)) == the_only(before)


def test_what_a_crash_left_beside_a_new_result_goes_when_the_run_is_skipped(done):
    one, before = done
    run = RunDirectory(one.folder)
    shutil.copytree(one.folder, run.before_rerun)
    run.checkpoint.write_bytes(b"")
    assert execute(one, Hooks()).ended == "skipped"
    assert bits(one.out) == before
    assert not run.checkpoint.exists()


def test_a_failed_run_that_is_skipped_can_still_be_continued(done, monkeypatch):
    one, before = done
    with pytest.raises(Interrupted):
        execute(one, stopping_at(3), rerun="all")
    with monkeypatch.context() as broken:
        broken.setattr(Training, "run", lambda _training: 1 / 0)
        execute(one, Hooks())
    assert execute(one, Hooks(), rerun="none").ended == "skipped"
    assert execute(one, Hooks()).ended == "done"
    assert bits(one.out) == before
    assert RunDirectory(one.folder).log_file.read_text().count("continued at step 4 of 12") == 2
