"""Every method, stopped in mid-epoch and continued, ends in the same bits as without the stop."""

from __future__ import annotations

import json
from collections import Counter
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from PIL import Image

from fsam_cli.engine import checkpoint
from fsam_cli.engine.optimizer import FlatOptimizer
from fsam_cli.engine.run import execute, is_to_do, loaded
from fsam_cli.engine.state import State
from fsam_cli.engine.train import Hooks, Training
from fsam_cli.errors import DataError, Interrupted
from fsam_cli.parts import catalogue
from fsam_cli.recipe.load import load_experiment
from fsam_cli.recipe.plan import plan
from fsam_cli.records.store import RunDirectory
from tests.support.command import bits
from tests.support.recorder import CallAgain

SETTINGS = {
    "late_sam": "{method: late_sam, start: 1}",
    "gsam": "{method: gsam, natural_gradient: true, m_sharpness: 128}",
}


def stopping_at(step):
    steps = iter(range(10_000))
    return Hooks(should_stop=lambda: next(steps) == step)


@pytest.mark.parametrize("name", sorted(catalogue("minimisers")))
def test_a_run_stopped_in_mid_epoch_continues_to_the_same_bits(name, tmp_path):
    experiment = load_experiment(
        "quickstart",
        [
            f"methods={{it: {SETTINGS.get(name, f'{{method: {name}}}')}}}",
            *("train.epochs=2", "seeds=[0]", "train.batch_size=256"),
        ],
    )
    (whole,) = plan(experiment, out=tmp_path / "whole", device="cpu")
    (cut,) = plan(experiment, out=tmp_path / "cut", device="cpu")
    assert execute(whole, Hooks()).ended == "done"
    with pytest.raises(Interrupted):
        execute(cut, stopping_at(9))  # in the second epoch of seven steps
    assert (cut.folder / "checkpoint.pt").exists()
    assert execute(cut, Hooks()).ended == "done"
    assert bits(tmp_path / "cut") == bits(tmp_path / "whole")


def cut_run(tmp_path):
    """A run that was stopped in its second epoch."""
    settings = ["methods={sam: {}}", "train.epochs=2", "seeds=[0]", "train.batch_size=256"]
    (one,) = plan(load_experiment("quickstart", settings), out=tmp_path, device="cpu")
    with pytest.raises(Interrupted):
        execute(one, stopping_at(9))
    return one


@pytest.mark.parametrize("seconds", [0.0, 1e9])
def test_a_checkpoint_is_written_when_it_is_due_and_not_beside_a_result(tmp_path, seconds):
    settings = ["methods={sgd: {}}", "train.epochs=3", "seeds=[0]", "train.batch_size=1437"]
    (one,) = plan(load_experiment("quickstart", settings), out=tmp_path, device="cpu")
    file, there = one.folder / "checkpoint.pt", []

    def look(_row):
        there.append(file.exists())
        file.unlink(missing_ok=True)

    execute(one, Hooks(on_epoch=look, checkpoint_seconds=seconds))
    assert there == [seconds == 0, seconds == 0, False]


def test_a_run_stopped_at_the_end_of_an_epoch_has_all_of_it_in_its_checkpoint(tmp_path):
    settings = ["methods={sgd: {}}", "train.epochs=2", "seeds=[0]", "train.batch_size=256"]
    (one,) = plan(load_experiment("quickstart", settings), out=tmp_path, device="cpu")
    with pytest.raises(Interrupted):
        execute(one, Hooks(should_stop=(one.folder / "metrics.csv").exists))
    content = checkpoint.load(one.folder / "checkpoint.pt")
    assert content["step"] == content["rows"][0]["sample_gradients"] // 256 + 1
    assert len(content["rows"]) == 1


def test_even_where_all_is_to_be_repeated_an_unfinished_run_is_continued(tmp_path):
    one = cut_run(tmp_path)
    assert execute(one, Hooks(), rerun="all").ended == "done"
    assert "continued at step 10" in (one.folder / "log.txt").read_text()


@pytest.mark.parametrize(
    ("rerun", "over"),
    [("failed", {"done", "diverged"}), ("none", {"done", "diverged", "failed"}), ("all", set())],
)
def test_what_the_same_command_trains_again(rerun, over):
    statuses = {"planned", "interrupted", "running", "done", "diverged", "failed"}
    assert {status for status in statuses if not is_to_do(status, rerun)} == over


def rewritten(one, change):
    content = checkpoint.load(one.folder / "checkpoint.pt")
    change(content)
    checkpoint.save(one.folder / "checkpoint.pt", content)


def test_a_device_without_memory_is_not_the_file_s_fault(tmp_path, monkeypatch):
    one = cut_run(tmp_path)

    def full(*_, **__):
        raise torch.OutOfMemoryError("CUDA out of memory")

    with monkeypatch.context() as patched:
        patched.setattr(FlatOptimizer, "load_state_by_name", full)
        report = execute(one, Hooks())
    assert (report.ended, report.reason) == ("failed", "OutOfMemoryError: CUDA out of memory")
    assert execute(one, Hooks()).ended == "done"
    assert "continued at step 10" in (one.folder / "log.txt").read_text()


def test_a_run_continued_on_another_machine_names_both(tmp_path):
    one = cut_run(tmp_path)
    rewritten(one, lambda content: content["environments"][0].update(device_name="machine A"))
    assert execute(one, Hooks()).ended == "done"
    environment = json.loads((one.folder / "result.json").read_text())["environment"]
    assert [earlier["device_name"] for earlier in environment["earlier"]] == ["machine A"]
    assert environment["device_name"] != "machine A"
    assert json.loads((one.folder / "environment.json").read_text()) == environment


def test_a_refused_continuation_leaves_the_record_of_where_it_was_begun(tmp_path):
    one = cut_run(tmp_path)
    before = (one.folder / "environment.json").read_bytes()
    rewritten(one, lambda content: content["environments"][0].update(torch="1.0.0"))
    assert execute(one, Hooks(), at_once=7).ended == "unreadable"
    assert (one.folder / "environment.json").read_bytes() == before


def test_steps_that_no_graph_could_hold_are_recorded_as_eager(tmp_path, monkeypatch):
    monkeypatch.setattr("fsam_cli.engine.train.CudaRecorder", CallAgain)
    recorded = {}
    for name in ("sgd", "adam"):
        settings = ["methods={sam: {}}", "train.epochs=1", "seeds=[0]", "train.batch_size=256"]
        optimizer = f"train.optimizer={{name: {name}}}"
        experiment = load_experiment("quickstart", [*settings, optimizer])
        (one,) = plan(experiment, out=tmp_path / name, device="cpu")
        assert execute(replace(one, cuda_graph=True), Hooks()).ended == "done"
        result = json.loads((one.folder / "result.json").read_text())
        recorded[name] = result["environment"]["cuda_graph"]
    assert recorded == {"sgd": "yes", "adam": "no"}
    assert "steps are eager from here on" in (one.folder / "log.txt").read_text()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda content: content.update(format="fsam-checkpoint/2"), "has the form"),
        (lambda content: content.pop("lr"), "does not fit this network (KeyError: 'lr')"),
        (lambda content: content["weights"].update(new=torch.ones(1)), "does not fit this network"),
    ],
    ids=["another form", "a key less", "another network"],
)
def test_a_checkpoint_that_cannot_be_continued_is_named_and_kept(tmp_path, change, words):
    one = cut_run(tmp_path)
    rewritten(one, change)
    report = execute(one, Hooks())
    assert report.ended == "unreadable"
    assert words in report.reason
    assert "remove it" in report.reason
    assert (one.folder / "checkpoint.pt").exists()
    assert not (one.folder / "result.json").exists()


def test_data_that_changed_after_planning_are_not_trained_on(tmp_path):
    for part in ("train", "test"):
        for kind in "ab":
            (tmp_path / part / kind).mkdir(parents=True)
            for number in range(6):
                picture = Image.new("L", (8, 8), 40 * number + 20 * (kind == "b"))
                picture.save(tmp_path / part / kind / f"{number}.png")
    settings = [
        *("data={name: image_folder, size: 8, channels: 1}", "methods={sam: {}}"),
        *("train.epochs=1", "seeds=[0]"),
    ]
    experiment = load_experiment("quickstart", settings)
    (one,) = plan(experiment, out=tmp_path / "runs", device="cpu", data_dir=tmp_path)
    Image.new("L", (8, 8), 3).save(tmp_path / "test/a/0.png")
    with pytest.raises(DataError, match="changed while the command ran"):
        execute(one, Hooks())
    assert not (one.folder / "result.json").exists()


@pytest.mark.parametrize("method", ["{method: sam}", "{method: fsam, fisher: model}"])
def test_a_diverged_run_costs_what_was_computed(tmp_path, method):
    settings = [
        *(f"methods={{it: {method}}}", "model.norm=group", "train.epochs=2", "seeds=[0]"),
        *("train.batch_size=256", "train.lr=1e30"),
    ]
    (one,) = plan(load_experiment("quickstart", settings), out=tmp_path, device="cpu")
    assert execute(one, Hooks()).ended == "diverged"
    result = json.loads((one.folder / "result.json").read_text())
    assert result["last"] is None  # not one whole epoch
    assert result["sample_gradients"] >= 2 * 256
    assert result["train_seconds"] > 0


@pytest.mark.usefixtures("quiet_compiler")
def test_the_first_evaluations_of_a_compiled_network_count_as_compiling(tmp_path, monkeypatch):
    monkeypatch.setattr(torch.nn.Module, "compile", lambda _module, **_: None)
    settings = ["methods={sgd: {}}", "train.epochs=2", "seeds=[0]", "train.batch_size=256"]
    settings += ["train.diagnostics=off", "data.validation=0.1"]
    (one,) = plan(load_experiment("quickstart", settings), out=tmp_path, device="cpu")
    one = replace(one, compile="all")
    seconds, timed = [], Counter()
    training = Training(
        one, loaded(one), RunDirectory(tmp_path), Hooks(on_epoch=seconds.append), {}
    )
    timing = training.clock.timing
    training.clock.timing = lambda what: timed.update([what]) or timing(what)
    training.run()
    assert [row["evaluation_seconds"] > 0 for row in seconds] == [False, True]
    assert timed["compiling"] == 4  # a whole batch, the trailing one; validation and test images


class Moves(torch.nn.Module):
    """Gives its weight another tensor in each pass, as a `.to()` in forward would."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)

    def forward(self, images):
        self.layer.weight.data = self.layer.weight.data.clone()
        return self.layer(images.flatten(1))


def test_a_network_that_takes_its_parameters_away_fails_with_the_reason(tmp_path, monkeypatch):
    monkeypatch.setattr("fsam_cli.engine.state.build_model", lambda _plan, _data: Moves())
    settings = ["methods={sgd: {}}", "train.epochs=2", "seeds=[0]", "train.batch_size=256"]
    (one,) = plan(load_experiment("quickstart", settings), out=tmp_path, device="cpu")
    report = execute(one, Hooks())
    assert report.ended == "failed"
    assert "gave a parameter another tensor" in report.reason


class Tied(torch.nn.Module):
    """Two layers with one weight."""

    def __init__(self):
        super().__init__()
        self.first, self.second = torch.nn.Linear(64, 64), torch.nn.Linear(64, 64)
        self.second.weight = self.first.weight
        self.last = torch.nn.Linear(64, 10)

    def forward(self, images):
        return self.last(self.second(self.first(images.flatten(1)).tanh()))


class Remembers(torch.nn.Module):
    """Its pace depends on buffers that are in no state dictionary: one written into, one replaced
    by another type, one made on the way."""

    def __init__(self):
        super().__init__()
        self.layer = torch.nn.Linear(64, 10)
        self.register_buffer("passes", torch.zeros(()), persistent=False)
        self.register_buffer("pace", torch.ones((), dtype=torch.int64), persistent=False)
        self.register_buffer("mean", None, persistent=False)

    def forward(self, images):
        images = images.flatten(1)
        if self.training:
            self.passes += 1
            self.pace = 0.9 * self.pace
            seen = images.mean(0)
            self.mean = seen if self.mean is None else self.mean.lerp(seen, 0.1)
        return self.layer(images - self.mean) / (1 + self.passes * self.pace)


@pytest.mark.parametrize("network", [Tied, Remembers])
def test_a_network_with_a_tied_weight_or_a_memory_of_its_own_continues_too(
    network, tmp_path, monkeypatch
):
    def build(_plan, _data):
        torch.manual_seed(0)
        return network()

    monkeypatch.setattr("fsam_cli.engine.state.build_model", build)
    settings = ["methods={sam: {}}", "train.epochs=2", "seeds=[0]", "train.batch_size=256"]
    experiment = load_experiment("quickstart", settings)
    (whole,) = plan(experiment, out=tmp_path / "whole", device="cpu")
    (cut,) = plan(experiment, out=tmp_path / "cut", device="cpu")
    assert execute(whole, Hooks()).ended == "done"
    with pytest.raises(Interrupted):
        execute(cut, stopping_at(9))
    assert execute(cut, Hooks()).ended == "done"
    assert bits(tmp_path / "cut") == bits(tmp_path / "whole")
    kept = torch.load(cut.folder / "weights.pt", weights_only=True)["weights"]
    network().load_state_dict(kept)


def test_a_save_that_takes_long_is_made_less_often(tmp_path, monkeypatch):
    settings = ["methods={sam: {}}", "train.epochs=3", "seeds=[0]", "train.batch_size=32"]
    (one,) = plan(load_experiment("quickstart", settings), out=tmp_path, device="cpu")
    now, saved, takes = [0.0], [], [0.0]

    def step(_self, *_):
        now[0] += 1.0

    def save(_self, _path):
        saved.append(now[0])
        now[0] += takes[0]

    monkeypatch.setattr("fsam_cli.engine.train.time.monotonic", lambda: now[0])
    monkeypatch.setattr(State, "count", step)
    monkeypatch.setattr(State, "save", save)
    for takes[0], apart in ((0.0, 6.0), (0.25, 6.25), (2.0, 43.0)):  # from one to the next
        saved.clear()
        training = Training(one, loaded(one), RunDirectory(tmp_path), Hooks(), {})
        training.hooks = replace(Hooks(), checkpoint_seconds=5.0)
        training.run()
        assert len(saved) > 2
        assert {after - before for before, after in pairwise(saved)} == {apart}
