"""Planning a run: its folder says what is planned, whatever lay there before."""

from __future__ import annotations

import pytest
import yaml

from fsam_cli.records.store import RunDirectory

PLAN = {"schema": "fsam-run/1", "data_root": "/données"}


@pytest.mark.parametrize("damaged", [b"", b"schema: other", b"\xff\xfe", b"[" * 1000])
def test_a_damaged_plan_is_written_again(tmp_path, damaged):
    run = RunDirectory(tmp_path / "run")
    run.plan(PLAN, {})
    run.config.write_bytes(damaged)
    run.plan(PLAN, {})
    assert yaml.safe_load(run.config.read_text(encoding="utf-8")) == PLAN


def test_what_is_there_already_is_left_alone(tmp_path):
    run = RunDirectory(tmp_path / "run")
    run.plan(PLAN, {"own.py": b"one"})
    files = [run.config, run.plugins / "own.py"]
    written = [file.stat().st_ino for file in files]
    run.plan(PLAN, {"own.py": b"one"})
    assert [file.stat().st_ino for file in files] == written
    run.plan(PLAN, {"own.py": b"two"})
    assert files[1].read_bytes() == b"two"
