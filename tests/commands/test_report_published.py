"""`fsam report --published` as a user runs it."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest

from tests.support.command import fsam
from tests.support.recorded import record_cell, record_recipe

RESULTS = {
    "sgd-1x": [0.82, 0.83],
    "sgd-2x": [0.83, 0.84],
    "sam": [0.85, 0.86],
    "asam": [0.851, 0.853],
    "fsam": [0.851, 0.859],
}


@pytest.fixture
def runs(tmp_path):
    record_recipe(tmp_path / "runs", "wrn28-10-c100", "seeds=0:2", accuracies=RESULTS)
    return tmp_path / "runs"


def test_a_table_beside_the_paper_follows_the_usual_one(runs):
    usual = fsam("report", cwd=runs.parent).stdout
    shown = fsam("report", "--published", cwd=runs.parent).stdout
    assert "beside Table 1 of arXiv 2206.04920" not in usual
    before, _, after = shown.partition("wrn28-10-c100, beside Table 1 of arXiv 2206.04920")
    assert "test, last %" in before
    lines = {line.split()[0]: line.split()[1:] for line in after.splitlines() if line.split()}
    assert lines["fsam"] == ["2", "85.50±0.57", "85.60±0.11", "-0.10"]
    assert lines["sgd-2x"] == ["2", "83.50±0.71", "83.47±0.21", "+0.03"]
    assert lines["(all)"] == ["seeds=2", "(not", "stated)"]
    assert "sgd-1x" not in lines
    assert "no test is made" in " ".join(after.split())


def test_it_fits_80_columns_with_every_deviation_whole(tmp_path):
    settings = ("seeds=0:2", "train.lr=0.2", "data.augment=[]", "precision=bf16")
    more = ("train.epochs=10", "methods.fsam.gamma=0.2")
    record_recipe(tmp_path / "runs", "wrn28-10-c100", *settings, *more, data_verified=False)
    shown = fsam("report", "--published", cwd=tmp_path, COLUMNS="80").stdout
    after = shown.partition("beside Table 1")[2]
    assert all(len(line) <= 80 for line in after.splitlines())
    assert "…" not in after
    words = " ".join(after.split())
    assert "90.00±0.00 83.47±0.21 +6.53 train.epochs=20 (paper: 400)" in words
    assert "method.gamma=0.2 (paper: 0.1)" in words
    assert "crop flip autoaugment cutout)" in words


def test_without_a_published_number_one_line_says_so_and_the_code_is_0(tmp_path):
    record_cell(tmp_path / "runs", [0.8, 0.82, 0.84])
    done = fsam("report", "--published", cwd=tmp_path)
    assert done.stderr == "--published: the paper has no number for any of these cells\n"
    assert "82.00±2.00" in done.stdout
    assert "arXiv" not in done.stdout
    content = json.loads(fsam("report", "--published", "-f", "json", cwd=tmp_path).stdout)
    assert content["published"] == []


def test_the_written_files_carry_it(runs, tmp_path):
    done = fsam("report", "--published", "-f", "json", "--out", "tables", cwd=tmp_path)
    assert (tmp_path / "tables" / "report.json").read_text() == done.stdout
    assert len(json.loads(done.stdout)["published"]) == 4
    markdown = (tmp_path / "tables" / "report.md").read_text()
    assert "| fsam | 2 | 85.50±0.57 | 85.60±0.11 | -0.10 |" in markdown
    table = (tmp_path / "tables" / "report.csv").read_text().splitlines()
    assert table[0].endswith(
        "data_verified,published_mean,published_std,published_difference,deviations"
    )
    assert fsam("report", "--published", "-f", "csv", cwd=tmp_path).stdout.splitlines() == table
    assert fsam("report", "--published", "-f", "markdown", cwd=tmp_path).stdout == markdown


def test_it_stands_beside_paired_differences(runs):
    shown = fsam("report", "--published", "--versus", "sam", cwd=runs.parent).stdout
    assert shown.index("minus sam") < shown.index("beside Table 1")


def test_it_imports_no_torch(runs):
    program = (
        "import sys\n"
        "from fsam_cli.app import main\n"
        f"sys.argv = ['fsam', 'report', '--published', {str(runs)!r}]\n"
        "try:\n    main()\n"
        "finally:\n"
        "    print(sorted({'torch', 'scipy.stats'} & set(sys.modules)), file=sys.stderr)\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert done.stderr.strip() == "[]"
    assert "beside Table 1" in done.stdout
