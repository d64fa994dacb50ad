"""`fsam runs`, and the front door."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from fsam_cli.commands._print import print_rows
from fsam_cli.commands.runs import _age
from fsam_cli.records.store import RunDirectory
from tests.support.command import TINY, fsam
from tests.support.recorded import configuration, record_run


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    fsam("train", "-r", "quickstart", *TINY, "--shard", "1/2", "-q", cwd=folder)
    return folder


def test_ls_tells_status_size_and_age(trained):
    rows = json.loads(fsam("runs", "ls", "-f", "json", cwd=trained).stdout)
    assert sorted(row["status"] for row in rows) == ["done", "planned"]
    done = next(row for row in rows if row["status"] == "done")
    assert 0 < done["test_accuracy"] <= 1
    assert done["bytes"] > 10_000
    assert 0 <= done["age_seconds"] < 600
    planned = next(row for row in rows if row["status"] == "planned")
    assert planned["test_accuracy"] is None
    table = fsam("runs", "ls", cwd=trained, COLUMNS="200").stdout
    assert f"{100 * done['test_accuracy']:.2f} %" in table
    assert " MB " in table


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


def listed(folder, *more):
    return json.loads(fsam("runs", "ls", "-f", "json", *more, cwd=folder).stdout)


def test_ls_shows_what_the_settings_of_a_run_s_method_are(tmp_path):
    runs = tmp_path / "runs"
    fsam_settings = {"name": "fsam", "gamma": 0.1, "eta": 1.0, "fisher": "model", "on": True}
    record_run(runs, label="fsam", config=configuration(method=fsam_settings))
    record_run(runs, label="sgd", config=configuration(method={"name": "sgd"}))
    for rho, lr in ((0.1, 0.1), (0.2, 0.3)):
        record_run(runs, config=configuration(**{"method.rho": rho, "train.lr": lr}))
    nested = {"name": "sam", "rho": 0.5, "natural_gradient": {"eta": 2.0}}
    record_run(runs, label="natural", config=configuration(method=nested))
    lost = record_run(runs, label="fsam", status="planned", cell="0123abcd")
    (lost / "config.yaml").write_text("run: [")
    told = {(Path(row["run"]).parent.name, row["settings"]) for row in listed(tmp_path)}
    assert told == {
        ("fsam", "gamma=0.1, eta=1.0"),
        ("sgd", ""),
        ("sam-0.1", "rho=0.1, train.lr=0.1"),
        ("sam-0.1", "rho=0.2, train.lr=0.3"),
        ("natural", "rho=0.5, natural_gradient.eta=2.0"),
        ("fsam", ""),
    }
    assert "gamma=0.1, eta=1.0" in fsam("runs", "ls", cwd=tmp_path, COLUMNS="250").stdout


def test_ls_tells_settings_that_are_no_numbers_where_the_runs_of_a_label_differ_in_them(tmp_path):
    for norm in ("batch", "group"):  # of the protocol, which would be long
        for scope in ("all", "weights"):
            method = {"name": "asam", "rho": 0.5, "scope": scope}
            config = configuration(method=method, **{"model.norm": norm})
            record_run(tmp_path / "runs", label="asam", config=config)
    told = {row["settings"] for row in listed(tmp_path)}
    assert told == {"rho=0.5, scope=all", "rho=0.5, scope=weights"}


def test_ls_marks_trials_and_shows_no_test_accuracy_of_theirs(tmp_path):
    runs = tmp_path / "runs"
    record_run(runs, seed=0, trial=True, accuracy=0.77)
    record_run(runs, seed=0, label="renamed", accuracy=0.77)  # the same run
    record_run(runs, seed=5, accuracy=0.88)
    rows = {Path(row["run"]).name[:5] + row["run"].split("/")[2]: row for row in listed(tmp_path)}
    facts = {key: (row["trial"], row["test_accuracy"]) for key, row in rows.items()}
    assert facts == {
        "seed0sam-0.1": (True, None),
        "seed0renamed": (True, None),
        "seed5sam-0.1": (False, 0.88),
    }
    assert {row["status"] for row in rows.values()} == {"done"}
    table = fsam("runs", "ls", cwd=tmp_path, COLUMNS="250").stdout
    assert table.count("done, trial") == 2
    assert ("77.00" in table, "88.00 %" in table) == (False, True)


def test_brackets_in_a_reason_are_text_and_not_markup(tmp_path):
    record_run(tmp_path / "runs", status="failed", reason="[c3a03cf5] is [/x] | [red]")
    shown = fsam("runs", "ls", cwd=tmp_path, COLUMNS="200").stdout
    assert "[c3a03cf5] is [/x] | [red]" in shown
    markdown = fsam("runs", "ls", "-f", "markdown", cwd=tmp_path).stdout
    assert "| [c3a03cf5] is [/x] \\| [red] |" in markdown


def test_brackets_in_a_title_a_heading_and_a_total_are_text_and_not_markup(capsys):
    print_rows([{"[/a]": 1}], format="table", title="[/b] [c3a03cf5]", total="[/c]")
    shown = capsys.readouterr().out
    folded = "".join(shown.replace("─", "").split())  # to the table's width
    assert folded == "[/b][c3a03cf5][/a]1[/c]"


def test_show_prints_configuration_result_and_log(trained):
    rows = json.loads(fsam("runs", "ls", "-f", "json", cwd=trained).stdout)
    done = next(row for row in rows if row["status"] == "done")
    text = fsam("runs", "show", done["run"], cwd=trained).stdout
    assert "status: done" in text
    assert "label_noise" in text
    assert "# log" in text
    assert "is not a run directory" in fsam("runs", "show", ".", cwd=trained, check=2).stderr


def test_show_shows_what_it_can_of_a_damaged_run(tmp_path):
    run = record_run(tmp_path / "runs", seeds=(0,))
    (run / "config.yaml").write_bytes(b"schema: \xff\xfe\n")
    (run / "log.txt").write_bytes(b"".join(b"line %d\n" % n for n in range(30)) + b"\xe9nd\n")
    shown = fsam("runs", "show", run, cwd=tmp_path).stdout
    assert "# config.yaml is not UTF-8: read \\xNN as bytes\nschema: \\xff\\xfe" in shown
    assert '"test_accuracy": 0.8' in shown
    log = shown.partition("# log\n")[2].splitlines()
    assert log == [
        "# log.txt is not UTF-8: read \\xNN as bytes",
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


def test_show_takes_every_run_that_ls_lists_from_wherever_it_is_named(tmp_path):
    run = record_run(tmp_path / "runs")
    assert fsam("runs", "show", ".", cwd=run).stdout.startswith("status: done")
    (run / "config.yaml").unlink()
    (run / "result.json").rename(run / "log.txt")
    shown = fsam("runs", "show", run, cwd=tmp_path).stdout
    assert shown.startswith("status: unreadable (config.yaml cannot be read (No such file")
    assert "# log" in shown
    assert (
        "is not a run directory" in fsam("runs", "show", run.parent, cwd=tmp_path, check=2).stderr
    )


def test_clean_says_what_it_would_do_and_does_it_only_when_told(tmp_path):
    fsam("train", "-r", "quickstart", *TINY, "--shard", "1/2", "-q", cwd=tmp_path)
    told = fsam("runs", "clean", cwd=tmp_path).stdout
    assert "would remove" in told
    assert "--yes" in told
    assert len(list(tmp_path.rglob("config.yaml"))) == 2
    assert "removed" in fsam("runs", "clean", "--yes", cwd=tmp_path).stdout
    assert len(list(tmp_path.rglob("config.yaml"))) == 1
    assert "nothing to remove" in fsam("runs", "clean", cwd=tmp_path).stdout
    for status in ("dnoe", ",", "failed,runing"):
        refused = fsam("runs", "clean", "--status", status, cwd=tmp_path, check=2)
        assert "--status" in refused.stderr


def test_clean_removes_the_last_run_of_a_label_from_within_its_folder(tmp_path):
    run = record_run(tmp_path / "runs", status="failed")
    done = fsam("runs", "clean", run.name, "--yes", cwd=run.parent)
    assert done.stdout == f"removed {run.name}\n"
    assert list(run.parent.iterdir()) == []


def test_clean_removes_the_folders_of_a_label_and_a_recipe_only_if_they_are_empty(tmp_path):
    run = record_run(tmp_path / "runs", status="failed")
    record_run(tmp_path / "runs", label="sgd-1x")
    fsam("runs", "clean", "--yes", cwd=tmp_path)
    assert not run.parent.exists()
    fsam("runs", "clean", "--yes", "--status", "done", cwd=tmp_path)
    assert list((tmp_path / "runs").iterdir()) == []


def test_clean_leaves_a_run_alone_that_is_being_measured(tmp_path):
    run = record_run(tmp_path / "runs")
    with RunDirectory(run).locked():
        refused = fsam("runs", "clean", "--yes", "--status", "done", cwd=tmp_path, check=1)
    assert "is at work now; nothing was removed there" in refused.stderr
    assert "removed runs" not in refused.stdout
    assert (run / "result.json").exists()


def test_the_age_of_a_run_is_that_of_its_newest_file_and_folders_have_no_size(tmp_path):
    run = record_run(tmp_path / "runs")
    os.utime(run / "config.yaml", (0, 0))
    (run / "plugins").mkdir()
    [listed] = json.loads(fsam("runs", "ls", "-f", "json", cwd=tmp_path).stdout)
    assert listed["age_seconds"] < 600
    assert listed["bytes"] == sum(
        (run / name).stat().st_size for name in ("config.yaml", "result.json")
    )


@pytest.mark.parametrize(
    ("seconds", "told"),
    [(59, "59 s"), (60, "1 min"), (3600, "1 h"), (86_399, "24 h"), (86_400, "1 d")],
)
def test_ages_are_told_in_the_largest_unit_that_they_fill(seconds, told):
    assert _age(seconds) == told


def test_no_runs_are_a_word_for_people_and_an_empty_list_for_programs(tmp_path):
    (tmp_path / "runs").mkdir()
    assert fsam("runs", "ls", cwd=tmp_path).stdout == "no runs\n"
    assert json.loads(fsam("runs", "ls", "-f", "json", cwd=tmp_path).stdout) == []


def test_ls_minds_no_file_that_a_run_at_work_renames_meanwhile(tmp_path, monkeypatch):
    run = record_run(tmp_path / "runs")
    for name in ("gone", "going"):
        (run / name).write_text("")
    stat = Path.stat

    def meanwhile(path, **more):
        if path.name == "gone":
            path.unlink(missing_ok=True)
        found = stat(path, **more)
        if path.name == "going":
            path.unlink()
        return found

    monkeypatch.setattr(Path, "stat", meanwhile)
    [listed] = json.loads(fsam("runs", "ls", "-f", "json", cwd=tmp_path).stdout)
    assert {path.name for path in run.iterdir()} == {"config.yaml", "result.json"}
    assert listed["bytes"] == sum(path.stat().st_size for path in run.iterdir())


def test_a_root_that_is_not_there_is_a_usage_error(tmp_path):
    assert "no such folder" in fsam("runs", "ls", "nowhere", cwd=tmp_path, check=2).stderr


def test_the_package_is_the_command(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "fsam_cli", "train"],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2]), "COLUMNS": "120"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 2
    assert "Usage: fsam train" in done.stderr
    assert "Missing option '--recipe'" in done.stderr


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


def test_help_tells_only_exit_codes_that_there_are(tmp_path):
    text = " ".join(fsam("--help", cwd=tmp_path, COLUMNS="200").stdout.split())
    assert "3 a gate does not hold" in text
    assert "`fsam report` without --gate ends with 0 even where runs failed" in text


def test_the_version_is_told(tmp_path):
    import fsam_cli

    assert fsam("--version", cwd=tmp_path).stdout == f"fsam {fsam_cli.__version__}\n"


def test_an_unknown_option_exits_with_2(tmp_path):
    fsam("train", "--recipee", "x", cwd=tmp_path, check=2)


@pytest.mark.parametrize(
    ("column", "flush_right"),
    [
        ([1, 2.5, None], True),
        ([1e-05, float("nan"), float("inf")], True),
        (["83.48±1.97", "83.48±1.97*", ""], True),
        (["85.07 %", "5.00 %"], True),
        (["0.34 MB", "12.00 GB"], True),
        (["9 min", "3 d"], True),
        (["1,024", "+2.50", "-1"], True),
        (["", ""], False),
        (["done", "1"], False),
        (["2 of 3 missing", "1"], False),
        (["resnet20", "1"], False),
        (["2, control", "3"], False),
    ],
)
def test_columns_of_numbers_are_flush_right_and_others_flush_left(capsys, column, flush_right):
    print_rows([{"what": "a", "column": value} for value in column], format="markdown")
    rule = capsys.readouterr().out.splitlines()[1]
    assert rule == f"| --- | {'---:' if flush_right else '---'} |"


@pytest.mark.parametrize("columns", ["20", None])
def test_no_number_and_no_path_is_broken_in_a_narrow_table(capsys, monkeypatch, columns):
    if columns is None:
        monkeypatch.delenv("COLUMNS", raising=False)
    else:
        monkeypatch.setenv("COLUMNS", columns)
    path, number = "runs/quickstart/a-rather-long-label/seed0-0123abcd", "85.77±2.59*"
    print_rows([{"run": path, "accuracy of all": number, "why": "a reason " * 9}], format="table")
    printed = capsys.readouterr().out
    assert path in printed
    assert number in printed


def test_clean_keeps_a_failed_rerun_that_holds_earlier_results(tmp_path):
    run = record_run(tmp_path, status="failed")
    (run / "before_rerun").mkdir()
    done = fsam("runs", "clean", ".", "--yes", cwd=tmp_path)
    kept = run.relative_to(tmp_path)
    assert done.stdout == (
        f"kept {kept}: it holds earlier results in before_rerun/\nnothing to remove\n"
    )
    assert (run / "result.json").exists()
