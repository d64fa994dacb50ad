"""Full disks, read-only folders, damaged files, and two processes on one run."""

from __future__ import annotations

import errno
import json
import shutil
from pathlib import Path

import pytest

from fsam_cli.errors import RecordError
from fsam_cli.records.store import Busy, RunDirectory, write_atomically
from tests.support.command import TINY, bits, fsam
from tests.support.recorded import record_run

TRAIN = ("train", "--recipe", "quickstart", *TINY, "-q", "-j", "1")


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    fsam(*TRAIN, cwd=folder)
    return folder


def test_a_full_disk_leaves_the_old_file_whole(tmp_path, monkeypatch):
    path = tmp_path / "metrics.csv"
    write_atomically(path, b"old")

    def full(_descriptor):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(RecordError, match=r"No space left on device.*unharmed.*--out"):
        write_atomically(path, b"new")
    assert path.read_bytes() == b"old"
    assert [p.name for p in tmp_path.iterdir()] == ["metrics.csv"]


def test_a_disk_that_is_full_in_mid_run_gives_one_message_and_the_run_goes_on_later(tmp_path):
    """A limit on the size of any file stands in for the disk."""
    code = (
        "import resource, signal, sys;"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN);"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, resource.RLIM_INFINITY));"
        "from fsam_cli.app import main; main()"
    )
    import subprocess
    import sys

    from tests.support.command import _environment

    done = subprocess.run(
        [sys.executable, "-c", code, *TRAIN, "--checkpoint-every", "0"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=240,
        env=_environment({}),
    )
    assert done.returncode == 1, done.stderr
    assert "cannot write" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.rglob("result.json"))
    fsam(*TRAIN, cwd=tmp_path)
    assert len(bits(tmp_path / "runs")) == 2


def test_a_folder_that_cannot_be_written_is_one_message(tmp_path):
    (tmp_path / "runs").write_text("a file stands where the folder should be")
    done = fsam(*TRAIN, cwd=tmp_path, check=1)
    assert done.stderr.count("cannot write") == 1
    assert "--out" in done.stderr


def test_a_damaged_checkpoint_is_named_and_harms_nothing_else(tmp_path):
    fsam(*TRAIN, cwd=tmp_path)
    first, second = sorted(p.parent for p in (tmp_path / "runs").rglob("result.json"))
    (first / "result.json").unlink()
    (first / "checkpoint.pt").write_bytes(b"PK\x03\x04 half a checkpoint")
    done = fsam(*TRAIN, cwd=tmp_path, check=1)
    assert "checkpoint.pt is damaged" in done.stderr
    assert "remove it" in done.stderr
    assert (first / "checkpoint.pt").exists()
    assert (second / "result.json").exists()
    (first / "checkpoint.pt").unlink()
    fsam(*TRAIN, cwd=tmp_path)


def changed(**entries):
    return lambda text: json.dumps({**json.loads(text), **entries})


@pytest.mark.parametrize(
    ("damage", "reason"),
    [
        (lambda text: text[: len(text) // 2], "is damaged"),
        (lambda _: "[]", "the record is []"),
        (changed(status="wonderful"), "status 'wonderful'"),
        (changed(schema="fsam-run/0"), "this fsam reads fsam-run/1"),
        (changed(run=None), "run is None"),
        (changed(last={"test_accuracy": 1.5}), "not between 0 and 1"),
        (changed(wall_seconds=1e400), "not finite"),
    ],
    ids=["half", "list", "status", "schema", "run", "accuracy", "infinite"],
)
def test_a_damaged_result_is_named_and_left_alone(tmp_path, trained, damage, reason):
    shutil.copytree(trained, tmp_path, dirs_exist_ok=True)
    result = next((tmp_path / "runs").rglob("result.json"))
    content = damage(result.read_text())
    result.write_text(content)
    done = fsam(*TRAIN, cwd=tmp_path, check=1)
    assert str(result.relative_to(tmp_path)) in done.stderr
    assert reason in done.stderr
    assert result.read_text() == content
    assert "unreadable" in fsam("runs", "ls", cwd=tmp_path).stdout


def test_a_checkpoint_of_another_torch_is_continued_only_by_force(tmp_path):
    import torch

    from fsam_cli.engine import checkpoint
    from tests.crash.test_killed import kill_group, wait_for
    from tests.support.command import start

    train = (*TRAIN, "train.epochs=30", "--checkpoint-every", "0.05")
    process = start(*train, cwd=tmp_path)
    runs = tmp_path / "runs"
    assert wait_for(lambda: list(runs.rglob("checkpoint.pt")), process)
    kill_group(process)
    path = next(runs.rglob("checkpoint.pt"))
    content = checkpoint.load(path)
    content["environments"][-1]["torch"] = "1.0.0"
    torch.save(content, path)
    short = (*train, "--only", path.parent.parent.name)
    done = fsam(*short, cwd=tmp_path, check=1)
    assert "begun with torch 1.0.0" in done.stderr
    assert "--force-resume" in done.stderr
    fsam(*short, "--force-resume", cwd=tmp_path)


def test_the_second_process_on_a_run_leaves_it_alone_and_goes_on(tmp_path):
    plan = fsam(*TRAIN, "--dry-run", "--format", "json", cwd=tmp_path)
    rows = json.loads(plan.stdout)
    folder = tmp_path / rows[0]["folder"]
    folder.mkdir(parents=True)
    with RunDirectory(folder).locked():
        done = fsam(*TRAIN, cwd=tmp_path, check=0)
        assert "another process works on it; left alone" in done.stderr
        assert not (folder / "result.json").exists()
        assert (tmp_path / rows[1]["folder"] / "result.json").exists()
        with pytest.raises(Busy), RunDirectory(folder).locked(wait=0):
            pass
    fsam(*TRAIN, cwd=tmp_path)
    assert (folder / "result.json").exists()


def test_a_lock_file_without_a_process_holds_nothing(tmp_path):
    run = RunDirectory(tmp_path)
    (tmp_path / ".lock").write_text("")
    assert not run.held()
    with run.locked(wait=0):
        assert run.held()
    assert not run.held()


def test_a_result_without_a_status_of_ours_is_unreadable(tmp_path):
    run = RunDirectory(tmp_path)
    Path(run.result).write_text("{}")
    assert run.status()[0] == "unreadable"


def test_whoever_may_only_read_a_run_still_sees_whether_it_is_at_work(tmp_path, monkeypatch):
    run, reader = RunDirectory(tmp_path), RunDirectory(tmp_path)

    def refused(*_arguments, **_more):
        raise RecordError("cannot write .lock")

    with run.locked():
        monkeypatch.setattr(reader, "locked", refused)
        assert reader.held()
    assert not reader.held()


def test_a_record_that_may_not_be_read_is_not_called_damaged(tmp_path, monkeypatch):
    run = RunDirectory(record_run(tmp_path))

    def denied(*_arguments):
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr("fsam_cli.records.store.result_in", denied)
    status, reason = run.status()
    assert status == "unreadable"
    assert reason.endswith("result.json cannot be read (Permission denied); check its permissions")


def test_a_folder_that_cannot_be_written_is_told_what_the_command_can_do(tmp_path, monkeypatch):
    run = RunDirectory(tmp_path)
    monkeypatch.setattr("filelock.FileLock.acquire", _denied)
    with (
        pytest.raises(RecordError, match="or copy it, then repeat"),
        run.locked(elsewhere="copy it"),
    ):
        pass


def _denied(*_arguments, **_more):
    raise PermissionError(13, "Permission denied")


def test_what_a_killed_save_left_goes_when_the_run_has_its_turn(trained, tmp_path):
    folder = Path(shutil.copytree(trained, tmp_path / "copy"))
    run = next(folder.glob("runs/*/*/seed0-*"))
    left = [run / f".{name}.0123.tmp" for name in ("checkpoint.pt", "weights.pt")]
    other = run / ".config.yaml.0123.tmp"  # written without the lock, perhaps at this moment
    for file in (*left, other):
        file.write_bytes(b"half")
    fsam(*TRAIN, cwd=folder)
    assert [file.exists() for file in (*left, other)] == [False, False, True]
