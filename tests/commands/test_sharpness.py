"""`fsam sharpness`, as a user sees it."""

from __future__ import annotations

import csv
import io
import json
import math
import shutil
from pathlib import Path

import pytest
import torch

from fsam_cli.commands import sharpness as command
from fsam_cli.commands.sharpness import columns_of, setting_of, sharpness
from fsam_cli.errors import Interrupted, RecordError, UsageError
from fsam_cli.measure import sharpness as measuring
from fsam_cli.options import SharpnessRequest
from fsam_cli.records.sharpness import TABLE
from fsam_cli.records.store import RunDirectory
from tests.support.command import fsam
from tests.support.threads import threads_as_before  # noqa: F401 (a fixture)

FAST = ("--images", "60", "--draws", "2", "--m", "30", "--device", "cpu")
PLUGIN = '''
from fsam_cli.minimisers.sam import Sam


class Twice(Sam):
    """SAM with twice the radius."""

    @property
    def radius(self):
        return 2 * self.rho


PROVIDES = {"twice": Twice}
'''


def asked(*roots, **options):
    usual = {
        "images": "60",
        "draws": 2,
        "within": [],
        "only": [],
        "m": 30,
        "device": "cpu",
        "quiet": True,
        "plugins": [],
    }
    return SharpnessRequest(roots=list(roots), **{**usual, **options})


def rows_of(run):
    return TABLE.read(run / TABLE.name)


def run_of(runs, label, seed):
    [run] = (runs / "quickstart" / label).glob(f"seed{seed}-*")
    return run


def test_the_table_has_the_mean_of_what_is_on_record_of_each_run(runs):
    done = fsam("sharpness", *FAST, "-f", "json", cwd=runs.parent)
    document = json.loads(done.stdout)
    assert document["schema"] == "fsam-sharpness/1"
    by_metric = {(each["label"], each["metric"]): each for each in document["table"]}
    for label in ("sgd", "fsam"):
        of_seeds = [rows_of(run_of(runs, label, seed)) for seed in (0, 1)]
        for row in of_seeds[0]:
            (other,) = [each for each in of_seeds[1] if each["measure"] == row["measure"]]
            entry = by_metric[label, row["measure"]]
            assert entry["mean"] == pytest.approx((row["value"] + other["value"]) / 2)
            assert (entry["n"], entry["status"], entry["marked"]) == (2, "done", False)
    result = json.loads(fsam("report", "-f", "json", cwd=runs.parent).stdout)["table"]
    assert by_metric["sgd", "last_test_accuracy"] in result
    measures = ["loss", "gradient_norm", "lambda_max", "trace", "rise.sam", "rise.asam"]
    assert list({each["metric"]: None for each in document["table"]}) == [
        "last_test_accuracy",
        *measures,
        "rise.fsam",
    ]
    assert {each["metric"] for each in document["rank_correlations"]} == {*measures, "rise.fsam"}
    assert all(each["kendall_tau"] is None for each in document["rank_correlations"])  # two methods
    assert document["setting"]["images"] == 60
    assert [each["method"] for each in document["setting"]["within"]] == ["sam", "asam", "fsam"]
    assert all(run["lambda_max"] > 0 for run in document["runs"])
    page = (Path(__file__).parents[2] / "docs" / "report-schema.md").read_text()
    section = page.partition("\n## `fsam sharpness")[2].partition("\n## ")[0]
    keys = {*document, *document["setting"], *document["rank_correlations"][0], *measures[:4]}
    assert all(f"`{key}`" in section for key in keys)


def test_again_nothing_is_measured_and_another_radius_is(runs, monkeypatch):
    assert sharpness(asked(runs)) == 0
    before = rows_of(run_of(runs, "sgd", 0))
    monkeypatch.setattr(measuring, "hessian_product", None)  # whoever measures it fails
    assert sharpness(asked(runs)) == 0
    assert rows_of(run_of(runs, "sgd", 0)) == before
    assert sharpness(asked(runs, within=["sam:rho=0.2", "sam"])) == 0
    after = rows_of(run_of(runs, "sgd", 0))
    (new,) = [row for row in after if row not in before]
    assert (new["measure"], new["setting"]) == ("rise.sam", "rho=0.2, m=30")


def test_what_another_version_measured_is_measured_anew_and_kept_apart(runs, monkeypatch, capsys):
    assert sharpness(asked(runs, within=["sam"], hessian=False)) == 0
    run = run_of(runs, "sgd", 0)
    (before,) = [row for row in rows_of(run) if row["measure"] == "rise.sam"]
    TABLE.write(run / TABLE.name, [{**row, "value": 1.0} for row in rows_of(run)])
    monkeypatch.setattr(measuring, "VERSION", 2)
    capsys.readouterr()
    assert sharpness(asked(runs, within=["sam"], hessian=False, format="json")) == 0
    rises = [row for row in rows_of(run) if row["measure"] == "rise.sam"]
    assert [(row["version"], row["value"]) for row in rises] == [(1, 1.0), (2, before["value"])]
    shown = json.loads(capsys.readouterr().out)["runs"]
    assert before["value"] in [each["rise.sam"] for each in shown]


def test_two_radii_of_one_method_are_two_columns(runs, capsys):
    sharpness(asked(runs, within=["sam:rho=0.2", "sam"], hessian=False, format="csv"))
    rows = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    rises = {
        row["metric"]: float(row["mean"])
        for row in rows
        if row["label"] == "sgd" and row["metric"].startswith("rise")
    }
    assert list(rises) == ["rise.sam (rho=0.2, m=30)", "rise.sam (rho=0.05, m=30)"]
    assert rises["rise.sam (rho=0.2, m=30)"] > 2 * rises["rise.sam (rho=0.05, m=30)"] > 0


def test_in_a_terminal_of_100_columns_eight_measures_are_a_line_each(runs):
    done = fsam("sharpness", *FAST, cwd=runs.parent, COLUMNS="100")
    (heading,) = [line for line in done.stdout.splitlines() if "λmax" in line and "trace  " in line]
    assert heading.split()[0] == "method"
    assert "…" not in done.stdout
    assert "[4/4] fsam seed 1: 7 measures in" in done.stderr
    again = fsam("sharpness", *FAST[:2], "--draws", "3", *FAST[4:], cwd=runs.parent)
    assert "[4/4] fsam seed 1: 1 measure in" in again.stderr
    assert "with the labels it was given" in done.stdout.replace("\n  ", " ")


def test_differences_are_in_the_measure_s_own_unit(runs, capsys):
    sharpness(asked(runs, versus="sgd", format="json"))
    document = json.loads(capsys.readouterr().out)
    by_metric = {(each["label"], each["metric"]): each["mean"] for each in document["table"]}
    found = {each["metric"]: each["difference"] for each in document["differences"]}
    assert found["lambda_max"] == pytest.approx(
        by_metric["fsam", "lambda_max"] - by_metric["sgd", "lambda_max"]
    )
    sharpness(asked(runs, versus="sgd"))
    shown = capsys.readouterr().out
    line = shown.partition("largest eigenvalue of its Hessian, minus sgd")[2].splitlines()[4]
    label, difference, error, *_ = line.split()
    assert label == "fsam"
    assert float(difference) == pytest.approx(found["lambda_max"], abs=float(error) / 10)


def test_pictures_have_a_panel_for_each_measure_of_the_terminal(runs, tmp_path):
    assert sharpness(asked(runs, figures=tmp_path / "figures")) == 0
    text = (tmp_path / "figures" / "sharpness-quickstart.svg").read_text()
    assert "largest eigenvalue of its Hessian" in text
    assert "rise within fsam gamma=0.1, eta=1.0" in text
    assert "norm of its gradient" not in text
    assert "fsam (n=2)" in text


def test_a_run_that_did_not_end_well_leaves_its_cell_without_a_mean(runs, capsys):
    shutil.rmtree(run_of(runs, "sgd", 1))
    lost = run_of(runs, "fsam", 1)
    (lost / "weights.pt").write_bytes(b"damaged")
    assert sharpness(asked(runs, hessian=False, format="markdown")) == 1
    shown = capsys.readouterr()
    assert "1 of 2 missing" in shown.out
    (accuracy,) = [line for line in shown.out.splitlines() if "| test accuracy" in line]
    assert accuracy.split("|")[4:6] == [" 1 of 2 missing ", " 1 of 2 unmeasurable "]
    assert "sam rho=0.05; asam rho=0.5, eta=0.01; fsam gamma=0.1, eta=1.0" in shown.out
    assert "Lanczos" not in shown.out  # nothing of the Hessian was asked for
    assert "quickstart/fsam seed 1: unmeasurable: " in shown.out
    assert f"({lost})" in shown.out
    assert rows_of(run_of(runs, "fsam", 0))


def test_where_no_run_can_be_measured_every_reason_is_told_once(runs, capsys):
    for path in runs.rglob("weights.pt"):
        path.unlink()
    with pytest.raises(RecordError, match=r"no run could be measured:(?s:.*)cannot read"):
        sharpness(asked(runs))
    assert capsys.readouterr().err == ""
    for path in runs.rglob("result.json"):
        (path.parent / "weights.pt").write_bytes(b"damaged")
    with pytest.raises(RecordError, match=r"no run could be measured:(?s:.*)damaged"):
        sharpness(asked(runs))


def test_a_run_that_is_busy_is_named_and_no_failure(runs, capsys):
    busy = run_of(runs, "sgd", 0)
    with RunDirectory(busy).locked():
        assert sharpness(asked(runs, hessian=False)) == 0
    shown = capsys.readouterr().out.replace("\n  ", " ")
    assert f"quickstart/sgd seed 0: busy: another process works on it ({busy})" in shown
    assert "1 of 2 busy" in shown
    assert not (busy / TABLE.name).exists()


def test_of_two_copies_of_a_run_the_one_in_the_table_is_measured(runs, capsys):
    copy = shutil.copytree(runs, runs.parent / "copy")
    for roots in ((copy, runs), (runs, copy)):
        assert sharpness(asked(*roots, hessian=False, format="json")) == 0
        document = json.loads(capsys.readouterr().out)
        assert sum("recorded more than once; not" in note for note in document["notes"]) == 4
        assert {entry["status"] for entry in document["table"]} == {"done"}


def test_what_is_not_finite_is_told_and_its_method_has_no_mean(runs, capsys):
    run = run_of(runs, "sgd", 0)
    weights = torch.load(run / "weights.pt", weights_only=True)
    weights["weights"]["classifier.weight"].fill_(math.nan)
    torch.save(weights, run / "weights.pt")
    assert sharpness(asked(runs, within=["sam"], figures=runs.parent, format="markdown")) == 0
    shown = capsys.readouterr().out
    assert f"{run}: not finite: loss, gradient_norm, lambda_max, trace, rise.sam." in shown
    assert "did not settle" not in shown
    assert "not in every run" in shown
    picture = (runs.parent / "sharpness-quickstart.svg").read_text()
    assert "not drawn: sgd: not in every run" in picture


def test_a_single_method_has_nothing_beside_it_and_that_is_said_once(runs, capsys):
    run = run_of(runs, "sgd", 0)
    options = {"within": ["sam"], "hessian": False, "format": "csv"}
    assert sharpness(asked(run, **options, versus="sgd", figures=runs.parent)) == 0
    told = capsys.readouterr().err
    assert told.count("--versus sgd: in no row") == 1
    assert "quickstart: no picture, as no method has all its planned seeds measured" in told
    assert "differences are not in csv" in told


def test_an_interrupt_keeps_what_was_measured(runs, monkeypatch):
    def interrupted(*_, **__):
        raise KeyboardInterrupt

    monkeypatch.setattr(measuring, "rise", interrupted)
    with pytest.raises(Interrupted, match="run the same command again to resume"):
        sharpness(asked(runs))
    first = rows_of(run_of(runs, "sgd", 0))
    assert {row["measure"] for row in first} == {"loss", "gradient_norm", "lambda_max", "trace"}
    monkeypatch.undo()
    assert sharpness(asked(runs)) == 0
    assert len(rows_of(run_of(runs, "sgd", 0))) == 7


def test_what_has_not_settled_is_told(runs, monkeypatch, capsys):
    monkeypatch.setattr(measuring, "MOST_PRODUCTS", 2)
    sharpness(asked(run_of(runs, "sgd", 0)))
    shown = capsys.readouterr().out.replace("\n  ", " ")
    (row,) = [row for row in rows_of(run_of(runs, "sgd", 0)) if row["measure"] == "lambda_max"]
    assert f"λmax is known to ±{row['error']:.2g} only" in shown


def test_a_method_of_a_plugin_has_a_neighbourhood_and_its_version_is_told(runs, tmp_path, capsys):
    file = tmp_path / "twice.py"
    file.write_text(PLUGIN)
    options = {"plugins": [file], "hessian": False, "format": "csv"}
    sharpness(asked(runs, within=["twice:rho=0.1", "sam:rho=0.2"], **options))
    found = {
        (row["label"], row["metric"]): row["mean"]
        for row in csv.DictReader(io.StringIO(capsys.readouterr().out))
    }
    assert found["sgd", "rise.twice"] == found["sgd", "rise.sam"]
    (row,) = [row for row in rows_of(run_of(runs, "sgd", 0)) if row["measure"] == "rise.twice"]
    assert "plugin=" in row["setting"]
    file.write_text(PLUGIN.replace("2 *", "3 *"))
    sharpness(asked(runs, within=["twice:rho=0.1"], **options))
    again = [row for row in rows_of(run_of(runs, "sgd", 0)) if row["measure"] == "rise.twice"]
    assert len(again) == 2  # another version is another measurement
    assert again[0]["value"] != again[1]["value"]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"versus": "sdg"}, "no method 'sdg'"),
        ({"images": "0"}, "--images 0: write a number of images, or all"),
        ({"images": "many"}, "--images many: write a number of images, or all"),
        ({"within": ["sma"]}, r"unknown method 'sma'.*did you mean 'sam'"),
        ({"within": ["sam:rho"]}, r"--within sam:rho: write METHOD:KEY=VALUE"),
        ({"within": ["sam:rho=-1"]}, r"--within.*rho.*greater than 0"),
        ({"within": ["sam:rho=1, rho =2"]}, r"--within sam:rho=1, rho =2: rho twice"),
        ({"within": ["sam:roh=1"]}, r"--within.*roh.*did you mean 'rho'"),
        ({"within": ["sam:rho=["]}, r"--within sam:rho=\[: "),
        ({"within": ["sam:m_sharpness=4"]}, "m_sharpness is about training; leave it out"),
        ({"within": ["sgd"]}, "its perturbation is no function of weights and one gradient; name"),
        ({"within": ["msam"]}, "--within msam: it keeps a memory, or its perturbation is no"),
        ({"within": ["friendly_sam"]}, "--within friendly_sam: it keeps a memory"),
        ({"within": ["look_sam:k=2"]}, "--within look_sam:k=2: it keeps a memory, or its pert"),
        ({"within": ["fsam:fisher=empirical"]}, "its perturbation is no function"),
    ],
)
def test_options_that_say_nothing_are_refused_before_anything_is_measured(
    runs, monkeypatch, options, message
):
    monkeypatch.setattr("fsam_cli.commands._measuring._measured", None)
    with pytest.raises(UsageError, match=message):
        sharpness(asked(runs, **options))


def test_without_matplotlib_pictures_are_refused_before_anything_is_measured(runs, monkeypatch):
    def absent():
        raise UsageError("no matplotlib here")

    monkeypatch.setattr(command, "require_matplotlib", absent)
    monkeypatch.setattr("fsam_cli.commands._measuring._measured", None)
    with pytest.raises(UsageError, match="no matplotlib here"):
        sharpness(asked(runs, figures=runs.parent))


def test_a_weight_file_is_refused_by_name(runs):
    file = run_of(runs, "sgd", 0) / "weights.pt"
    with pytest.raises(UsageError, match=r"weights\.pt is a file; name its folder"):
        sharpness(asked(file))


def test_the_columns_are_named_by_what_tells_them_apart():
    one = columns_of(setting_of(asked(within=["sam", "fsam"])))
    assert list(one.values())[-2:] == ["rise.sam", "rise.fsam"]
    assert len(set(columns_of(setting_of(asked(within=["sam", "sam:rho=1"]))).values())) == 6
