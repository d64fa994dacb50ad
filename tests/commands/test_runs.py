"""`fsam runs`, and the front door."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import pytest

from tests.support.command import TINY, fsam
from tests.support.recorded import record_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    fsam("train", "-r", "quickstart", *TINY, "--shard", "1/2", "-q", cwd=folder)
    return folder


def test_ls_tells_status_size_and_age(trained):
    rows = json.loads(fsam("runs", "ls", "-f", "json", cwd=trained).stdout)
    assert sorted(row["status"] for row in rows) == ["done", "planned"]
    done = next(row for row in rows if row["status"] == "done")
    assert done["test"].endswith("%")
    assert done["size"].endswith("MB")


def test_ls_and_clean_see_a_damaged_record_as_reports_do(trained, tmp_path):
    shutil.copytree(trained / "runs", tmp_path / "runs")
    damaged = next(path for path in tmp_path.rglob("config.yaml"))
    damaged.write_text("run: [")
    for path in damaged.parent.iterdir():
        if path != damaged:
            shutil.rmtree(path) if path.is_dir() else path.unlink()
    rows = json.loads(fsam("runs", "ls", "-f", "json", cwd=tmp_path).stdout)
    [row] = [row for row in rows if row["status"] == "unreadable"]
    assert "config.yaml is damaged" in row["reason"]
    told = fsam("runs", "clean", "--status", "unreadable", cwd=tmp_path).stdout
    assert told.startswith(f"would remove {row['run']}")


def test_show_prints_configuration_result_and_log(trained):
    rows = json.loads(fsam("runs", "ls", "-f", "json", cwd=trained).stdout)
    done = next(row for row in rows if row["status"] == "done")
    text = fsam("runs", "show", done["run"], cwd=trained).stdout
    assert "status: done" in text
    assert "label_noise" in text
    assert "# log" in text
    assert "no run directory" in fsam("runs", "show", ".", cwd=trained, check=2).stderr


def test_show_shows_what_it_can_of_a_damaged_run(tmp_path):
    run = record_run(tmp_path / "runs", seeds=(0,))
    (run / "config.yaml").write_bytes(b"schema: \xff\xfe\n")
    (run / "log.txt").write_bytes(b"".join(b"line %d\n" % n for n in range(30)) + b"\xe9nd\n")
    shown = fsam("runs", "show", run, cwd=tmp_path).stdout
    assert "# config.yaml is no UTF-8: read \\xNN as bytes\nschema: \\xff\\xfe" in shown
    assert '"test_accuracy": 0.8' in shown
    log = shown.partition("# log\n")[2].splitlines()
    assert log == [
        "# log.txt is no UTF-8: read \\xNN as bytes",
        *(f"line {n}" for n in range(11, 30)),
        "\\xe9nd",
    ]


@pytest.mark.parametrize("name", ["config.yaml", "result.json", "log.txt"])
def test_show_names_a_file_that_cannot_be_read(tmp_path, name):
    run = record_run(tmp_path / "runs", seeds=(0,))
    (run / name).unlink(missing_ok=True)
    (run / name).mkdir()
    shown = fsam("runs", "show", run, cwd=tmp_path).stdout
    assert f"# {name} cannot be read: Is a directory" in shown
    assert shown.startswith("status: " + ("unreadable" if name == "result.json" else "done"))
    assert "small_resnet" in shown  # of config.yaml, or of result.json


def test_clean_says_what_it_would_do_and_does_it_only_when_told(tmp_path):
    fsam("train", "-r", "quickstart", *TINY, "--shard", "1/2", "-q", cwd=tmp_path)
    told = fsam("runs", "clean", cwd=tmp_path).stdout
    assert "would remove" in told
    assert "--yes" in told
    assert len(list(tmp_path.rglob("config.yaml"))) == 2
    assert "removed" in fsam("runs", "clean", "--yes", cwd=tmp_path).stdout
    assert len(list(tmp_path.rglob("config.yaml"))) == 1
    assert "nothing to remove" in fsam("runs", "clean", cwd=tmp_path).stdout
    assert "--status" in fsam("runs", "clean", "--status", "dnoe", cwd=tmp_path, check=2).stderr


def test_a_root_that_is_not_there_is_a_usage_error(tmp_path):
    assert "no such folder" in fsam("runs", "ls", "nowhere", cwd=tmp_path, check=2).stderr


def test_help_needs_none_of_the_heavy_libraries():
    code = (
        "import sys\n"
        "sys.argv = ['fsam', '--help']\n"
        "from fsam_cli.app import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'pandas', 'numpy', 'pydantic', 'scipy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True, capture_output=True)


def test_the_version_is_told(tmp_path):
    import fsam_cli

    assert fsam("--version", cwd=tmp_path).stdout == f"fsam {fsam_cli.__version__}\n"


def test_an_unknown_option_exits_with_2(tmp_path):
    fsam("train", "--recipee", "x", cwd=tmp_path, check=2)
