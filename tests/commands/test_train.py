"""`fsam train`, as a user sees it."""

from __future__ import annotations

import itertools
import json
import os
import re
import shlex
import subprocess
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from fsam_cli.datasets.digits import Digits
from fsam_cli.errors import DataError, Interrupted
from tests.support.command import TINY, bits, command, fsam

TRAIN = ("train", "--recipe", "quickstart", *TINY)


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    return folder, fsam(*TRAIN, "-j", "1", cwd=folder)


def test_the_differences_from_a_method_are_of_what_the_recipe_plans_now(tmp_path):
    """Not of what an older plan left beside it under the same label."""
    short = (*TRAIN, "train.epochs=1", "seeds=[0, 1]", "-q")
    fsam(*short, cwd=tmp_path)
    done = fsam(*short, "methods.fsam.eta=10", "--versus", "sgd", cwd=tmp_path)
    lines = [line.split() for line in done.stdout.splitlines()]
    differences = [(line[0], line[-1]) for line in lines if line[-2:-1] == ["paired"]]
    assert differences == [("fsam", "2")] * 2  # at the last and at the selected epoch


def test_results_go_to_stdout_and_one_line_an_epoch_to_stderr(trained):
    _, done = trained
    assert "sgd" in done.stdout
    assert "epoch" not in done.stdout.split("\n")[0]
    lines = [line for line in done.stderr.splitlines() if "epoch" in line]
    assert len(lines) == 6
    assert "fsam seed 0  epoch 3/3" in done.stderr


def test_a_run_directory_holds_everything_and_only_the_weights_are_kept(trained):
    folder, _ = trained
    for result in (folder / "runs").rglob("result.json"):
        names = {path.name for path in result.parent.iterdir()}
        assert names == {
            ".lock",
            "config.yaml",
            "environment.json",
            "log.txt",
            "metrics.csv",
            "predictions.npz",
            "result.json",
            "weights.pt",
        }


def test_every_file_column_and_array_of_a_run_is_documented(trained):
    page = (Path(__file__).resolve().parents[2] / "docs" / "run-directory.md").read_text()
    run = next(path.parent for path in (trained[0] / "runs").rglob("result.json"))
    files = [path.name for path in run.iterdir() if path.name != ".lock"]
    columns = (run / "metrics.csv").read_text().partition("\n")[0].split(",")
    observed = [re.sub("_(mean|min|max)$", "_*", column) for column in columns]
    with np.load(run / "predictions.npz") as arrays:
        for name in (*files, *observed, *arrays):
            assert f"`{name}`" in page, name


def test_every_epoch_records_what_the_protocol_asks(trained):
    folder, _ = trained
    for run in bits(folder / "runs").values():
        assert [row["epoch"] for row in run["metrics"]] == ["1", "2", "3"]
        for row in run["metrics"]:
            for key in (
                "train_loss",
                "train_accuracy",
                "corrupted_fit",
                "validation_accuracy",
                "test_loss",
                "test_accuracy",
                "lr",
                "sample_gradients",
            ):
                assert row[key] != "", key
        fsam_run = run["result"]["run"]["label"] == "fsam"
        assert (run["metrics"][0]["eps_norm_mean"] != "") == fsam_run
        assert (run["metrics"][0]["fisher_share_mean"] != "") == fsam_run


def test_sample_gradients_count_two_passes_for_fisher_sam(trained):
    folder, _ = trained
    spent = {
        run["result"]["run"]["label"]: run["result"]["sample_gradients"]
        for run in bits(folder / "runs").values()
    }
    assert spent["fsam"] == 2 * spent["sgd"]


def test_both_selections_are_recorded(trained):
    folder, _ = trained
    for run in bits(folder / "runs").values():
        result = run["result"]
        assert result["last"]["epoch"] == 3
        assert result["selected"]["validation_accuracy"] == max(
            float(row["validation_accuracy"]) for row in run["metrics"]
        )
        assert result["best_test"]["test_accuracy"] >= result["last"]["test_accuracy"]


def test_the_same_command_again_skips_what_is_done(trained):
    folder, first = trained
    again = fsam(*TRAIN, "-j", "1", cwd=folder)
    assert again.stdout == first.stdout
    assert "epoch" not in again.stderr
    assert again.stderr.count("skipped") == 2


def write_shades(data, shades):
    """Two classes of six images, for training and for the test."""
    for place in itertools.product(("train", "test"), ("cat", "dog"), range(6)):
        path = data.joinpath(*map(str, place)).with_suffix(".png")
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (8, 8), (next(shades),) * 3).save(path)


def test_test_images_that_are_trained_on_are_worth_a_word(tmp_path):
    write_shades(tmp_path / "data", itertools.cycle(range(0, 240, 20)))
    train = (*TRAIN, "data={name: image_folder, size: 8}", "--data-dir", tmp_path / "data")
    for more in ((), ("--dry-run",)):
        told = fsam(*train, *more, cwd=tmp_path).stderr
        assert told.count("12 of 12 test images are trained on") == 1
    assert "trained on" not in fsam(*train, "-q", cwd=tmp_path).stderr


def test_a_run_on_data_below_a_name_that_is_not_utf8_is_known_again(tmp_path):
    data = tmp_path / os.fsdecode(b"d\xff")
    write_shades(data, itertools.count(0, 10))
    train = (*TRAIN, "data={name: image_folder, size: 8}", "--data-dir", data)
    assert "epoch 3/3" in fsam(*train, cwd=tmp_path).stderr
    assert "epoch" not in fsam(*train, cwd=tmp_path).stderr
    assert "unreadable" not in fsam("report", cwd=tmp_path).stdout
    for result in (tmp_path / "runs").rglob("result.json"):
        result.unlink()  # config.yaml is what is left to be read
    assert "unreadable" not in fsam("report", cwd=tmp_path).stdout


def test_processes_give_the_same_bits_as_one(trained, tmp_path):
    folder, _ = trained
    fsam(*TRAIN, "-j", "2", "-q", cwd=tmp_path)
    assert bits(tmp_path / "runs") == bits(folder / "runs")


def test_rerun_all_repeats_to_the_same_bits(trained, tmp_path):
    folder, _ = trained
    before = bits(folder / "runs")
    done = fsam(*TRAIN, "-j", "1", "--rerun", "all", cwd=folder)
    assert "epoch 3/3" in done.stderr
    assert bits(folder / "runs") == before


def test_a_dry_run_shows_done_and_to_do_with_the_cost_and_writes_nothing(trained, tmp_path):
    folder, _ = trained
    rows = json.loads(fsam(*TRAIN, "seeds=[0, 1]", "--dry-run", "-f", "json", cwd=folder).stdout)
    assert [(row["seed"], row["turn"]) for row in rows] == [
        (0, "skipped"),
        (0, "skipped"),
        (1, "to do"),
        (1, "to do"),
    ]
    assert rows[3]["sample-gradients"] == 2 * rows[2]["sample-gradients"]
    assert all(row["seconds"] > 0 for row in rows)
    fsam(*TRAIN, "--dry-run", cwd=tmp_path)
    assert not (tmp_path / "runs").exists()


def test_a_dry_run_shows_the_turns_and_the_part_that_the_command_would_take(trained):
    folder, _ = trained

    def shown(*more):
        dry = fsam(*TRAIN, "--dry-run", "-f", "json", *more, cwd=folder)
        return [(row["method"], row["turn"]) for row in json.loads(dry.stdout)]

    assert shown("--rerun", "all") == [("sgd", "to do"), ("fsam", "to do")]
    assert shown("--shard", "1/2") == [("sgd", "skipped")]
    assert shown("--shard", "2/2", "--rerun", "all") == [("fsam", "to do")]


def test_where_all_is_done_the_table_needs_no_data(trained, monkeypatch):
    folder, _ = trained

    def gone(plan):
        raise DataError("the data are gone")

    monkeypatch.setattr("fsam_cli.commands.train.loaded", gone)
    assert " fsam    1 " in fsam(*TRAIN, cwd=folder).stdout
    again = fsam(*TRAIN, "--rerun", "all", cwd=folder, check=2)
    assert "the data are gone" in again.stderr


def test_data_are_fetched_to_where_they_are_looked_for(tmp_path, monkeypatch):
    asked = []
    monkeypatch.setattr(Digits, "download", lambda data, root: asked.append(root))
    for more in ((), ("--download",), ("--download", "--data-dir", "there")):
        fsam(*TRAIN, "--dry-run", *more, cwd=tmp_path)
    assert asked == [None, Path("there")]


def test_a_dry_run_names_what_will_be_refused(tmp_path):
    fsam(*TRAIN, "train.epochs=1", "-q", cwd=tmp_path)
    result = next((tmp_path / "runs").rglob("result.json"))
    result.write_text("{")
    dry = fsam(*TRAIN, "train.epochs=1", "--dry-run", "-f", "json", cwd=tmp_path)
    turns = sorted(row["turn"] for row in json.loads(dry.stdout))
    assert turns == ["refused", "skipped"]
    assert f"refused: {result.relative_to(tmp_path)} is damaged" in dry.stderr
    refused = fsam(*TRAIN, "train.epochs=1", "-q", cwd=tmp_path, check=1)
    assert f"{result.relative_to(tmp_path)} is damaged" in refused.stderr


def dry_run_on_stderr(folder, *overrides):
    return fsam("train", "-r", "quickstart", "--dry-run", *overrides, cwd=folder).stderr


@pytest.mark.parametrize(
    ("batch_size", "last"),
    [(19, 6), (43, 0), (128, 0), (129, 8), (1220, 0), (1222, 76), (1294, 4), (1297, 0), (2, 0)],
)
def test_a_dry_run_warns_of_a_last_batch_too_small_for_batch_normalisation(
    tmp_path, batch_size, last
):
    # 1,298 digits are trained on. Few are less than 8 (19 leaves 6, and 43 leaves 8), or than a
    # sixteenth of the batch (129 leaves 8, 1,220 leaves 78, 1,222 leaves 76). A single image joins
    # the batch before it (1,297), and a whole last batch is as large as was asked for (2).
    said = dry_run_on_stderr(tmp_path, f"train.batch_size={batch_size}")
    if last == 0:
        assert said == ""
    else:
        assert said.splitlines() == [
            f"warning: the last batch of every epoch has {last} of {batch_size} images, few for the"
            " statistics of batch normalisation; change data.validation or train.batch_size"
        ]


def test_a_dry_run_does_not_warn_of_it_without_batch_normalisation_or_a_second_batch(tmp_path):
    tiny = "train.batch_size=1294"
    assert "warning" in dry_run_on_stderr(tmp_path, tiny)
    assert dry_run_on_stderr(tmp_path, tiny, "model.norm=group") == ""
    assert dry_run_on_stderr(tmp_path, "train.batch_size=40000") == ""
    assert dry_run_on_stderr(tmp_path, tiny, "data.validation=0.2") == ""


@pytest.mark.parametrize("emulated", [True, False])
def test_bf16_on_a_processor_that_only_emulates_it_is_worth_a_word(tmp_path, monkeypatch, emulated):
    monkeypatch.setattr("fsam_cli.commands._cost._computes_bf16", lambda: not emulated)
    assert ("only emulates bf16" in dry_run_on_stderr(tmp_path, "precision=bf16")) == emulated
    assert "emulates" not in dry_run_on_stderr(tmp_path, "precision=auto")
    train = (*TRAIN, "precision=bf16", "methods={sgd: {}}", "train.epochs=1")
    assert ("only emulates bf16" in fsam(*train, cwd=tmp_path).stderr) == emulated
    assert fsam(*train, "-q", cwd=tmp_path).stderr == ""


@pytest.mark.parametrize("emulated", [True, False])
def test_bf16_on_a_gpu_that_only_emulates_it_is_worth_a_word(tmp_path, monkeypatch, emulated):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.is_bf16_supported", lambda including_emulation: not emulated)
    found = dry_run_on_stderr(tmp_path, "precision=bf16", "device=cuda")
    assert ("this GPU only emulates bf16" in found) == emulated


def test_a_label_that_may_be_a_slip_is_worth_a_word(tmp_path):
    said = dry_run_on_stderr(tmp_path, "methods={sgd: {}, sam-0.1: {method: sam}}")
    assert "methods." not in said  # all of them were given
    assert "methods." not in dry_run_on_stderr(tmp_path, "methods.sam-0.1.rho=0.3")
    assert "methods." not in dry_run_on_stderr(tmp_path, "methods.usam.rho=0.3")
    said = dry_run_on_stderr(tmp_path, "methods.sam.rho=0.3")
    assert "methods.sam is not in the recipe; it was added next to sam-0.1, sam-0.2\n" in said


def test_a_dry_run_of_a_cifar_recipe_needs_no_data(tmp_path):
    done = fsam("train", "-r", "wrn28-10-c100.yaml", "--dry-run", "-f", "csv", cwd=tmp_path)
    assert "sam_matched" in done.stdout


def test_the_weights_of_a_run_load_into_the_model_and_give_its_accuracy(trained):
    import torch

    from fsam_cli.recipe.load import load_experiment

    folder, _ = trained
    result = sorted((folder / "runs").rglob("result.json"))[0]
    recorded = json.loads(result.read_text())
    experiment = load_experiment("quickstart")
    model = experiment.model.build(channels=1, classes=10, image_size=8)
    saved = torch.load(result.parent / "weights.pt", weights_only=True)
    model.load_state_dict(saved["weights"])
    data = experiment.data.load(None)
    mean, std = torch.tensor(data.mean), torch.tensor(data.std)
    images = (data.test_images.float() / 255 - mean) / std
    with torch.no_grad():
        right = (model.eval()(images).argmax(1) == data.test_labels).double().mean().item()
    assert right == pytest.approx(recorded["last"]["test_accuracy"], abs=1e-12)


def test_a_diverging_run_is_a_result_stops_no_other_and_makes_the_exit_code_1(tmp_path):
    # A learning rate this high overflows float32 within an epoch or two.
    arguments = (*TRAIN, "train.lr=1e18", "-j", "1", "-q")
    done = fsam(*arguments, cwd=tmp_path, check=1)
    results = [json.loads(p.read_text()) for p in (tmp_path / "runs").rglob("result.json")]
    assert [r["status"] for r in results] == ["diverged", "diverged"]
    assert all("not finite" in r["reason"] for r in results)
    assert "diverged" in done.stdout
    again = fsam(*arguments, cwd=tmp_path, check=1)  # a result: not trained again
    assert "diverged" in again.stdout
    assert again.stderr.count(": diverged: loss or gradient not finite at epoch") == 2
    assert "epoch" not in again.stderr.replace("at epoch", "").replace("in epoch", "")


def test_a_failing_run_stops_no_other_and_is_tried_again(tmp_path):
    """A network that wants larger images fails when it is built."""
    arguments = (*TRAIN, "model=vgg19_bn_small", "-j", "1")
    done = fsam(*arguments, cwd=tmp_path, check=1)
    results = [json.loads(p.read_text()) for p in (tmp_path / "runs").rglob("result.json")]
    assert [r["status"] for r in results] == ["failed", "failed"]
    nothing = ("sample_gradients", "train_seconds", "evaluation_seconds")
    assert {r[key] for r in results for key in nothing} == {0}
    assert "failed" in done.stdout
    assert fsam(*arguments, "--rerun", "none", cwd=tmp_path, check=1).stderr.count("skipped") == 2
    assert "skipped" not in fsam(*arguments, cwd=tmp_path, check=1).stderr
    stopped = fsam(*arguments, "--fail-fast", cwd=tmp_path, check=1)
    assert "not started (--fail-fast): 1 run" in stopped.stderr


def test_the_reason_of_a_failure_may_name_a_file_that_is_not_utf8(tmp_path):
    (tmp_path / "mine.py").write_text(
        "from fsam_cli.contracts import Minimiser\n"
        "class Mine(Minimiser):\n"
        "    @property\n"
        "    def radius(self):\n"
        "        return 1.0\n"
        "    def direction(self, at):\n"
        "        raise OSError('cannot read d\\udcff')\n"
        "PROVIDES = {'mine': Mine}\n"
    )
    train = (*TRAIN, "methods={mine: {}}", "--plugin", "mine.py")
    fsam(*train, cwd=tmp_path, check=1)
    log = next((tmp_path / "runs").rglob("log.txt")).read_text()
    assert "failed: OSError: cannot read d\\udcff" in log
    assert "OSError: cannot read d\\udcff" in fsam("report", cwd=tmp_path).stdout
    assert "skipped" not in fsam(*train, cwd=tmp_path, check=1).stderr  # tried again


def test_shards_divide_the_work(tmp_path):
    fsam(*TRAIN, "--shard", "1/2", "-j", "1", "-q", cwd=tmp_path)
    assert len(list((tmp_path / "runs").rglob("result.json"))) == 1
    fsam(*TRAIN, "--shard", "2/2", "-j", "1", "-q", cwd=tmp_path)
    assert len(list((tmp_path / "runs").rglob("result.json"))) == 2


def test_quiet_says_nothing_on_stderr(tmp_path):
    assert fsam(*TRAIN, "-q", "train.epochs=1", cwd=tmp_path).stderr == ""


@pytest.mark.parametrize("noise", ["different", "uniform"])
def test_methods_of_a_seed_start_equal_and_see_equal_labels(tmp_path, noise):
    """With a radius of next to nothing SAM walks SGD's path: same weights, batches and noise."""
    fsam(
        "train",
        "-r",
        "quickstart",
        "train.epochs=1",
        "seeds=[4]",
        f"data.label_noise.flip={noise}",
        "methods={sgd: {}, sam: {rho: 1e-9}}",
        "-q",
        cwd=tmp_path,
    )
    runs = list(bits(tmp_path / "runs").values())
    first, second = (run["metrics"][0] for run in runs)
    assert float(first["train_loss"]) == pytest.approx(float(second["train_loss"]), rel=1e-5)
    assert first["corrupted_fit"] != ""


@pytest.mark.parametrize(
    "arguments",
    [
        *(("report",), ("runs", "ls"), ("models",), ("recipes", "validate", "quickstart")),
        *(("--version",), ("train", "--help")),
    ],
    ids=" ".join,
)
def test_output_that_a_full_disk_refuses_is_one_clear_error(trained, arguments):
    root = str(Path(__file__).resolve().parents[2])
    done = subprocess.run(
        ["bash", "-c", f"{shlex.join(command(*arguments))} > /dev/full"],
        cwd=trained[0],
        # Buffered, as it is for users: a short output then fails only when it is flushed.
        env={**os.environ, "PYTHONPATH": root, "PYTHONUNBUFFERED": ""},
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: cannot write the output: No space left on device")
    assert ("; free space or write elsewhere" in done.stderr) == (arguments[-1][:2] != "--")
    assert done.stderr.count("\n") == 1


def test_a_terminal_that_knows_no_plus_minus_gets_a_question_mark(trained):
    done = subprocess.run(
        command("report"),
        cwd=trained[0],
        env={
            **os.environ,
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
            "PYTHONIOENCODING": "ascii",
        },
        capture_output=True,
        timeout=120,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert b"mean?std over n = " in done.stdout


def test_fewer_seeds_than_an_earlier_command_planned_are_all_there(tmp_path):
    arguments = ("train", "-r", "quickstart", *TINY, "train.epochs=1", "-q", "-f", "json")
    fsam(*arguments, "seeds=0:2", cwd=tmp_path)
    table = json.loads(fsam(*arguments, "seeds=[0]", cwd=tmp_path).stdout)["table"]
    assert {row["n"] for row in table if row["metric"] == "last_test_accuracy"} == {1}
    assert {row["status"] for row in table if row["metric"] == "last_test_accuracy"} == {"done"}


@pytest.mark.parametrize(
    ("more", "again"), [((), ""), (("--rerun", "all"), " without --rerun all")]
)
def test_an_interrupt_says_what_resumes(tmp_path, monkeypatch, more, again):
    def launch(*_arguments):
        raise Interrupted("interrupted")

    monkeypatch.setattr("fsam_cli.commands.train.launch", launch)
    done = fsam("train", "-r", "quickstart", *TINY, *more, cwd=tmp_path, check=130)
    assert f"run the same command again{again} to resume" in done.stderr
