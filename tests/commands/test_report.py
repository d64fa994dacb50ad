"""`fsam report` as a user runs it."""

from __future__ import annotations

import csv
import io
import json
import subprocess
import sys
from pathlib import Path

import pytest

from fsam_cli.commands.report import report
from fsam_cli.options import ReportRequest
from tests.support.command import command, fsam
from tests.support.recorded import configuration, record_cell, record_metrics, record_run

LABELS = (
    *("sgd-1x", "sgd-2x", "sam-0.1", "sam-0.2", "asam-0.5"),
    *("asam-1.0", "fsam-0.1", "fsam-0.2", "sam_matched"),
)


@pytest.fixture
def runs(tmp_path):
    for position, label in enumerate(LABELS):
        name, _, radius = label.partition("-")
        config = configuration(method={"name": name, "radius": radius})
        accuracies = [0.7 + 0.03 * position + 0.01 * seed for seed in range(3)]
        record_cell(
            tmp_path / "runs",
            accuracies,
            label=label,
            config=config,
            labels=LABELS,
            selected=0.8,
        )
    return tmp_path / "runs"


@pytest.mark.parametrize("width", [80, 100])
def test_nine_methods_fit_the_terminal_one_unbroken_line_each(runs, width):
    done = fsam("report", "--versus", "sam-0.1", cwd=runs.parent, COLUMNS=str(width))
    table = done.stdout.partition("quickstart: digits")[0]
    assert all(len(line) <= width for line in table.splitlines())
    for label in LABELS:
        lines = [line for line in table.splitlines() if line.strip().startswith(label + " ")]
        assert len(lines) == (1 if label == "sam-0.1" else 3)  # the table, and two of differences
    assert "…" not in table
    assert "83.00±1.00" in table
    assert "\x1b" not in done.stdout  # not a terminal


def test_eight_methods_one_of_them_incomplete_fit_80_columns_to_the_last_note(tmp_path):
    labels = LABELS[:8]
    for position, label in enumerate(labels):
        config = configuration(method={"name": label})
        numbers = {seed: 0.7 + 0.03 * position + 0.01 * seed for seed in range(5)}
        more = {"label": label, "labels": labels, "config": config, "seeds": tuple(range(5))}
        if label == "fsam-0.2":
            del numbers[3], numbers[4]
            record_run(tmp_path / "runs", seed=3, status="diverged", reason="nan", **more)
        record_cell(tmp_path / "runs", numbers, selected=0.8, data_verified=False, **more)
    shown = fsam("report", cwd=tmp_path, COLUMNS="80").stdout
    lines = shown.splitlines()
    assert "…" not in shown
    for label in labels:
        assert len([line for line in lines if line.strip().startswith(label + " ")]) == 1
    # What is missing may take several lines, but all of it is there.
    assert "fsam-0.2 1 of 5 diverged, 1 missing" in " ".join(shown.split())
    assert all(len(line) <= 80 for line in lines if "runs/" not in line)  # paths stay whole
    assert "unverified data" in shown


def test_diverged_and_damaged_runs_are_shown_and_the_code_is_0(runs):
    record_run(runs, label="new", status="diverged", reason="[bold]nan[/bold]")
    (record_run(runs, recipe="other", seeds=(0,)) / "result.json").write_text("{")
    done = fsam("report", cwd=runs.parent, COLUMNS="100")
    assert "quickstart/new seed 0: diverged: [bold]nan[/bold]" in " ".join(done.stdout.split())
    assert "1 of 1 unreadable" in done.stdout
    assert "result.json is damaged" in done.stdout


def test_brackets_in_names_are_text_and_not_markup(runs):
    record_run(runs, config=configuration(**{"model.norm": "[red]group"}))
    assert "(model.norm=[red]group)" in fsam("report", cwd=runs.parent).stdout


def test_a_path_in_a_note_is_never_broken(runs):
    more = {"label": "new", "status": "failed", "reason": "out of memory"}
    paths = [record_run(runs, seed=s, recipe=f"a-{'b-' * s}c", **more) for s in range(30, 45)]
    done = fsam("report", cwd=runs.parent)
    assert all(str(path.relative_to(runs.parent)) in done.stdout for path in paths)


def test_files_are_written_in_every_form_beside_what_is_printed(runs, tmp_path):
    done = fsam("report", "-f", "json", "--out", "tables", cwd=tmp_path)
    written = sorted(path.name for path in (tmp_path / "tables").iterdir())
    assert written == ["report.csv", "report.json", "report.md", "report.tex", "runs.csv"]
    assert (tmp_path / "tables" / "report.json").read_text() == done.stdout
    assert "wrote" in done.stderr and "wrote" not in done.stdout
    assert len(json.loads(done.stdout)["runs"]) == 3 * len(LABELS)


GATES = ("--gate", "complete", "--gate", "sam > sgd + 4", "--gate", "sgd >= 71")


@pytest.fixture
def two(tmp_path):
    for label, accuracies in {"sgd": [0.70, 0.71, 0.72], "sam": [0.76, 0.77, 0.79]}.items():
        config = configuration(method={"name": label})
        record_cell(
            tmp_path / "runs", accuracies, label=label, config=config, labels=("sgd", "sam")
        )
    return tmp_path / "runs"


def test_gates_that_hold_end_with_0_and_one_that_does_not_with_3(two):
    done = fsam("report", *GATES, cwd=two.parent)
    assert [line.split()[-1] for line in done.stdout.partition("Gates")[2].splitlines()[4:7]] == [
        "yes"
    ] * 3
    assert "gate" not in done.stderr
    missed = fsam("report", *GATES, "--gate", "sgd>=71.5", cwd=two.parent, check=3)
    assert missed.stdout.startswith(done.stdout.partition("Gates")[0])  # the tables all the same
    assert missed.stderr == "gate sgd>=71.5: quickstart: 71.00 (n = 3)\n"
    assert missed.stdout.count("NO") == 1


def test_a_run_that_is_missing_fails_the_gate_and_files_are_written_all_the_same(two):
    record_run(two, label="new", labels=("new",), status="diverged", reason="nan")
    done = fsam("report", "--gate", "complete", "--out", "there", cwd=two.parent, check=3)
    assert "gate complete: quickstart: new: 1 of 3 diverged, 2 missing" in done.stderr
    assert "| complete |  | quickstart: new: 1 of 3" in (two.parent / "there/report.md").read_text()


def test_gates_are_a_file_too_and_csv_says_where_they_are(two):
    done = fsam("report", "-f", "csv", *GATES, cwd=two.parent)
    assert "differences and gates are not in csv" in done.stderr
    assert "complete" not in done.stdout
    fsam("report", "--out", "there", *GATES, cwd=two.parent)
    rows = list(csv.DictReader((two.parent / "there/gates.csv").read_text().splitlines()))
    assert [(row["gate"], row["holds"]) for row in rows] == [(gate, "True") for gate in GATES[1::2]]


def test_gates_are_in_the_json_with_every_key_documented(two):
    shown = fsam("report", "-f", "json", *GATES, cwd=two.parent).stdout
    gates = json.loads(shown)["gates"]
    assert [gate["gate"] for gate in gates] == list(GATES[1::2])
    assert [gate["holds"] for gate in gates] == [True] * 3
    assert gates[1]["value"] == pytest.approx(0.19 / 3)
    page = (Path(__file__).parents[2] / "docs" / "report-schema.md").read_text()
    section = page.partition("\n### `gates`")[2].partition("\n### ")[0]
    assert all(f"`{key}`" in section for gate in gates for key in gate)


def test_a_file_where_the_folder_should_be_is_one_message(runs, tmp_path):
    (tmp_path / "tables").write_text("")
    done = fsam("report", "--out", "tables", cwd=tmp_path, check=1)
    assert "cannot write tables" in done.stderr
    assert "with --out," in done.stderr


def test_a_reader_that_has_seen_enough_costs_neither_files_nor_pictures(two, tmp_path, monkeypatch):
    for run in two.rglob("seed*"):
        record_metrics(run, epochs=20)

    class Gone(io.StringIO):
        def flush(self):
            raise BrokenPipeError

    monkeypatch.setattr("sys.stdout", Gone())
    folders = {"out": tmp_path / "out", "figures": tmp_path / "drawn"}
    request = ReportRequest(roots=[two], only=[], gates=[], format="markdown", **folders)
    with pytest.raises(BrokenPipeError):
        report(request)
    assert {path.name for path in (tmp_path / "out").iterdir()} > {"report.md", "runs.csv"}
    assert "quickstart-accuracy.svg" in {path.name for path in (tmp_path / "drawn").iterdir()}


def test_pictures_without_matplotlib_are_refused_before_the_table(two, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    done = fsam("report", two, "--figures", "drawn", "--out", "out", cwd=tmp_path, check=2)
    assert "pictures need matplotlib" in done.stderr
    assert done.stdout == ""
    assert not (tmp_path / "out").exists()


def test_a_file_where_pictures_should_go_is_told_with_the_option_that_names_the_place(tmp_path):
    run = record_run(tmp_path / "runs", seeds=(0,))
    record_metrics(run, epochs=3)
    (tmp_path / "figures").touch()
    done = fsam("report", "--figures", "figures", cwd=tmp_path, check=1)
    assert "cannot write figures" in done.stderr
    assert "with --figures," in done.stderr
    assert "80.00" in done.stdout, "the table is printed all the same"


def test_a_record_cannot_name_a_folder_for_its_pictures(tmp_path):
    for seed in range(3):
        run = record_run(tmp_path / "runs", seed=seed)
        record_metrics(run, epochs=20)
        for name in ("config.yaml", "result.json"):
            text = (run / name).read_text()
            assert "quickstart" in text
            (run / name).write_text(text.replace("quickstart", "../../evil"))
    done = fsam("report", "--figures", "a/b/f4", cwd=tmp_path)
    assert "3 of 3 unreadable" in done.stdout
    assert "run.recipe is '../../evil', not a plain name" in " ".join(done.stdout.split())
    assert "no picture, as no method is complete" in done.stderr
    assert not list(tmp_path.rglob("*evil*"))


def test_a_damaged_metrics_csv_takes_its_curve_and_nothing_else(tmp_path):
    for label in ("sgd", "sam"):
        for seed in range(3):
            config = configuration(**{"method.name": label, "train.epochs": 3})
            run = record_run(tmp_path / "runs", label=label, seed=seed, config=config)
            record_metrics(run, epochs=3)
    (run / "metrics.csv").write_text("epoch,loss\n1,2\n")
    done = fsam("report", "--figures", "figures", cwd=tmp_path)
    assert "quickstart: no curves of sam: metrics.csv of seed 2 is unreadable" in done.stderr
    assert "Traceback" not in done.stderr
    drawn = sorted(path.stem for path in (tmp_path / "figures").glob("*.svg"))
    names = ("accuracy", "cost", "noise-fit", "radius", "test-loss", "train-loss")
    assert drawn == [f"quickstart-{name}" for name in names]
    picture = (tmp_path / "figures" / "quickstart-accuracy.svg").read_text()
    assert "sgd (n=3)" in picture
    assert "sam (n=" not in picture
    assert "sam: metrics.csv of seed 2 is unreadable (no column" in picture


def test_a_method_that_is_a_number_and_an_infinite_accuracy_are_damage_and_no_traceback(tmp_path):
    for seed, change in enumerate(
        [
            lambda record: record["config"]["method"].update(name=3),
            lambda record: record["last"].update(test_accuracy=int("9" * 400)),
            lambda record: record["last"].update(test_accuracy=float("inf")),
        ]
    ):
        file = record_run(tmp_path / "runs", seed=seed) / "result.json"
        record = json.loads(file.read_text())
        change(record)
        file.write_text(json.dumps(record))
    for asked in (("report", "--figures", "figures"), ("runs", "ls")):
        done = fsam(*asked, cwd=tmp_path)
        assert "result.json is damaged" in " ".join(done.stdout.split()), asked
        assert "Traceback" not in done.stderr
    assert "3 of 3 unreadable" in fsam("report", cwd=tmp_path).stdout


def test_differences_are_a_file_too_and_csv_says_where_they_are(runs, tmp_path):
    done = fsam("report", "--versus", "sam-0.1", "-f", "csv", cwd=tmp_path)
    assert done.stderr == (
        "differences and gates are not in csv; see -f json, -f markdown or --out\n"
    )
    done = fsam("report", "--versus", "sam-0.1", "-f", "csv", "--out", "tables", cwd=tmp_path)
    assert "not in csv" not in done.stderr
    assert "wrote tables/differences.csv" in done.stderr
    with (tmp_path / "tables" / "differences.csv").open() as file:
        lines = list(csv.DictReader(file))
    assert len(lines) == 2 * (len(LABELS) - 1)
    told = {(line["versus"], line["n"], line["status"]) for line in lines}
    # Accuracies of the last epoch differ by the same in every seed.
    assert told == {("sam-0.1", "3", "done"), ("sam-0.1", "", "no spread to test by")}
    assert all(line["difference"] for line in lines)
    for name in ("report.md", "report.tex", "report.json"):
        text = " ".join((tmp_path / "tables" / name).read_text().split()).replace("\\", "")
        assert "interval is of the one difference" in text, name


@pytest.mark.parametrize("format", ["table", "markdown", "json"])
def test_a_label_that_stands_alone_has_no_differences_and_is_told(tmp_path, format):
    record_cell(tmp_path / "runs", [0.8, 0.9], label="new", labels=("new",), seeds=(0, 1))
    done = fsam("report", "--versus", "new", "-f", format, cwd=tmp_path)
    assert done.stderr == (
        "--versus new: in no row does it stand beside another method to be compared with; `fsam "
        "train` with the recipe and --versus compares what that plans now\n"
    )
    assert "Differences from" not in done.stdout


def test_an_unknown_label_is_refused_with_those_there_are(runs):
    done = fsam("report", "--versus", "sam", cwd=runs.parent, check=2)
    assert "no method 'sam'" in done.stderr
    assert "sam_matched" in done.stderr


@pytest.fixture
def swept(tmp_path):
    for label, method, accuracies in (
        ("sgd-1x", {"name": "sgd"}, [0.5, 0.6, 0.7]),
        ("sam-0.1", {"name": "sam", "rho": 0.2}, [0.4, 0.5, 0.7]),
        ("sam-0.1", {"name": "sam", "rho": 0.1}, [0.6, 0.71, 0.82]),
    ):
        more = {"label": label, "labels": ("sgd-1x", "sam-0.1")}
        record_cell(tmp_path / "runs", accuracies, config=configuration(method=method), **more)
    return tmp_path / "runs"


def test_a_configuration_is_named_in_versus_and_gates_as_the_table_names_it(swept):
    wide = "sam-0.1 [rho=0.2]"
    asked = ("--versus", wide, "--gate", f"{wide} > sgd-1x")
    done = fsam("report", *asked, cwd=swept.parent, check=3)
    assert f"quickstart: test accuracy, last epoch (%), minus {wide}" in done.stdout
    assert "minus sam-0.1 [rho=0.1]" not in done.stdout
    assert f"gate {wide} > sgd-1x: quickstart: -6.67, 95 % interval" in done.stderr


def test_a_label_of_several_configurations_is_all_of_them_in_versus_and_gates(swept):
    asked = ("--versus", "sam-0.1", "--gate", "sam-0.1>sgd-1x")
    done = fsam("report", *asked, cwd=swept.parent, check=3)
    for rho in ("0.1", "0.2"):
        assert f"last epoch (%), minus sam-0.1 [rho={rho}]" in done.stdout
        assert f"\n sam-0.1 [rho={rho}]>sgd-1x " in done.stdout
    [missed] = done.stderr.splitlines()
    assert missed.startswith("gate sam-0.1 [rho=0.2]>sgd-1x: quickstart: ")


def test_of_configurations_that_are_not_there_those_that_are_are_named_the_nearest_first(swept):
    done = fsam("report", "--versus", "sam-0.1[rho=0.2]", cwd=swept.parent, check=2)
    assert (
        "--versus: no method 'sam-0.1[rho=0.2]'; did you mean 'sam-0.1 [rho=0.2]'? there are: "
        "sam-0.1, sam-0.1 [rho=0.1], sam-0.1 [rho=0.2], sgd-1x"
    ) in done.stderr


def test_a_report_imports_neither_torch_nor_scipy_stats(runs):
    program = (
        "import sys\n"
        "from fsam_cli.app import main\n"
        f"sys.argv = ['fsam', 'report', {str(runs)!r}]\n"
        "try:\n    main()\n"
        "finally:\n"
        "    heavy = {'torch', 'torchvision', 'scipy.stats', 'sklearn', 'matplotlib'}\n"
        "    print(sorted(heavy & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"


def test_a_tilde_that_the_shell_left_alone_is_the_home_folder(runs, tmp_path):
    home = tmp_path / "home"
    home.mkdir()
    fsam("report", "--out=~/there", cwd=tmp_path, HOME=str(home))
    assert (home / "there" / "report.md").is_file()
    fsam("report", "~/../runs", "-f", "csv", cwd=home, HOME=str(home))
    fsam("recipes", "cp", "quickstart", "~/mine.yaml", cwd=tmp_path, HOME=str(home))
    assert (home / "mine.yaml").is_file()
    for arguments in (
        ("runs", "show", "~/absent"),
        ("models", "--plugin=~/absent"),
        ("bench", "--only=peers", "--peer=~/absent"),
    ):
        done = fsam(*arguments, cwd=tmp_path, check=2, HOME=str(home))
        assert str(home / "absent") in done.stderr


@pytest.mark.parametrize("columns", ["0", "1", "39"])
def test_tables_are_readable_whatever_columns_says(runs, tmp_path, columns):
    done = fsam("report", cwd=tmp_path, COLUMNS=columns)
    assert "sam_matched" in done.stdout


@pytest.mark.parametrize("asked", ["--version", "--help"])
def test_help_that_cannot_be_written_is_one_line(asked, tmp_path):
    device = Path("/dev/full")
    if not device.exists():
        pytest.skip("no /dev/full here")
    with device.open("w") as full:
        done = subprocess.run(
            command(asked), stdout=full, stderr=subprocess.PIPE, text=True, cwd=tmp_path
        )
    assert done.returncode == 1
    assert done.stderr == "error: cannot write the output: No space left on device\n"


def test_one_seed_is_said_to_be_without_a_spread(tmp_path):
    record_run(tmp_path / "runs", seeds=(0,))
    assert "over n = 1 seed, so without a spread" in fsam("report", cwd=tmp_path).stdout


def test_the_best_test_epoch_is_reported_only_when_it_is_asked_for(runs):
    asked = ("report", "-f", "markdown")
    assert "selected on test" not in fsam(*asked, cwd=runs.parent).stdout
    assert "selected on test" in fsam(*asked, "--best-test", cwd=runs.parent).stdout


def test_every_recipe_has_its_pictures(tmp_path):
    for recipe in ("one", "other"):
        record_metrics(record_run(tmp_path / "runs", recipe=recipe, seeds=(0,)))
    fsam("report", "--figures", "drawn", cwd=tmp_path)
    drawn = [path.name for path in (tmp_path / "drawn").iterdir()]
    assert any(name.startswith("one") for name in drawn)
    assert any(name.startswith("other") for name in drawn)
