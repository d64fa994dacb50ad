"""A run directory: what is planned, whatever lay there before, and files that are whole."""

from __future__ import annotations

import os
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta

import pytest
import yaml

from fsam_cli.records.store import RunDirectory, write_atomically

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


def test_the_disk_has_the_whole_content_before_the_file_takes_its_name(tmp_path, monkeypatch):
    file, waited = tmp_path / "result.json", []

    def wait(descriptor):
        waited.append((os.fstat(descriptor).st_size, file.exists()))

    monkeypatch.setattr("os.fsync", wait)
    write_atomically(file, b"content")
    assert waited == [(7, False)]
    write_atomically(file, b"content", durably=False)
    assert len(waited) == 1


def test_a_line_of_the_log_begins_with_a_time_that_says_its_zone(tmp_path):
    RunDirectory(tmp_path).log("two words")
    stamp, message = (tmp_path / "log.txt").read_text().split(" ", 1)
    assert message == "two words\n"
    assert datetime.fromisoformat(stamp).utcoffset() == timedelta(0)
    assert abs(datetime.now(UTC) - datetime.fromisoformat(stamp)) < timedelta(minutes=5)


def test_two_writers_of_one_file_on_machines_that_number_processes_alike_do_not_meet(tmp_path):
    file = tmp_path / "config.yaml"

    def write(content):  # in threads, which have one process's number
        for _ in range(300):
            write_atomically(file, content, durably=False)

    with ThreadPoolExecutor(2) as writers:
        for written in [writers.submit(write, b"one"), writers.submit(write, b"two")]:
            written.result()
    assert file.read_bytes() in (b"one", b"two")
    assert list(tmp_path.iterdir()) == [file]
