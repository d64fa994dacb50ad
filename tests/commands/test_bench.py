"""`fsam bench` as a user gives it; times are whatever they are."""

from __future__ import annotations

import csv
import io
import json
import os
import signal
from dataclasses import replace

import pytest

from fsam_cli.commands import bench as command
from fsam_cli.commands.bench import plan_of
from fsam_cli.errors import Interrupted, RecordError, UsageError
from fsam_cli.measure.bench import peer_files, sections
from fsam_cli.options import BenchRequest
from tests.support.command import fsam
from tests.support.plugins import MINIMISER, MODEL

SHORT = ("--models", "resnet20", "--repeats", "3", "--threads", "1", "--quiet")
ALONE = (*SHORT, "--methods", "sgd,sam", "--only", "minimiser")


@pytest.fixture(autouse=True)
def eager_only(monkeypatch):
    """Compiling takes seconds; the engine's own tests do it."""
    monkeypatch.setattr(sections, "why_not_compiled", lambda asked, device: "off in a test")


def test_a_table_names_the_lines_and_the_machine(tmp_path):
    shown = fsam("bench", *ALONE, cwd=tmp_path).stdout
    assert "minimiser alone: resnet20, 272,474 weights; floor" in " ".join(shown.split())
    for line in ("sgd", "sam", "zero, add g", "1 thread,"):
        assert line in shown
    assert not list(tmp_path.iterdir())


def test_json_and_pages_and_pictures_are_of_one_measurement(tmp_path):
    pytest.importorskip("matplotlib")
    done = fsam("bench", *ALONE, "-f", "json", "--out", "found", "--figures", "drawn", cwd=tmp_path)
    document = json.loads(done.stdout)
    assert document["schema"] == "fsam-bench/1"
    assert json.loads((tmp_path / "found" / "bench.json").read_text()) == document
    assert [line["seconds"]["rounds"] for line in document["minimiser"][0]["lines"]] == [3] * 3
    assert document["settings"]["repeats"] == 3
    assert sorted(path.name for path in (tmp_path / "found").iterdir()) == [
        "bench.json",
        "bench.md",
    ]
    assert "| sam | eager |" in (tmp_path / "found" / "bench.md").read_text()
    assert sorted(path.name for path in (tmp_path / "drawn").iterdir()) == [
        "bench.png",
        "bench.svg",
    ]


def test_csv_has_a_row_for_every_number(tmp_path):
    shown = fsam("bench", *ALONE, "-f", "csv", cwd=tmp_path).stdout
    rows = list(csv.DictReader(io.StringIO(shown)))
    of_the_floor = [row for row in rows if row["variant"] == "floor"]
    assert [row["quantity"] for row in of_the_floor] == ["bandwidth"]
    others = {row["label"] for row in rows if row not in of_the_floor}
    assert others == {"sgd", "sam", "zero, add g"}
    assert all(float(row["median"]) > 0 for row in rows if row["quantity"] == "seconds")


def test_a_peer_of_ones_own_stands_beside_fsam(tmp_path):
    (tmp_path / "plain.py").write_text(
        "import torch\n"
        "class Plain:\n"
        "    def __init__(self, parameters, setting):\n"
        "        self.p, self.rho = parameters, setting.rho\n"
        "        self.sgd = torch.optim.SGD(parameters, lr=setting.lr,\n"
        "            momentum=setting.momentum, weight_decay=setting.weight_decay)\n"
        "    @torch.no_grad()\n"
        "    def first_step(self):\n"
        "        self.w = [p.clone() for p in self.p]\n"
        "        norm = torch.stack([p.grad.norm() for p in self.p]).norm()\n"
        "        for p in self.p:\n"
        "            p += self.rho * p.grad / norm\n"
        "    @torch.no_grad()\n"
        "    def second_step(self):\n"
        "        for p, w in zip(self.p, self.w):\n"
        "            p.copy_(w)\n"
        "        self.sgd.step()\n"
        "PROVIDES = {'plain': Plain}\n"
    )
    options = (*SHORT, "--only", "peers", "--peer", "plain.py", "-f", "json")
    document = json.loads(fsam("bench", *options, cwd=tmp_path).stdout)
    lines = {line["label"]: line for line in document["peers"][0]["lines"]}
    assert lines["plain"]["agrees"]
    assert lines["plain"]["difference"] < 1e-5
    assert lines["plain"]["over"]["eager"]["median"] > 0
    assert {path.name for path in tmp_path.iterdir()} == {"plain.py"}


FAILING = """
from torch import nn

from fsam_cli.models._contract import Model


class Net(nn.Linear):
    def forward(self, images):
        if len(images) > 4 and images.device.type != "meta":
            raise RuntimeError("out of\\nmemory")
        return super().forward(images.flatten(1))


class Failing(Model):
    def build(self, *, channels, classes, image_size):
        return Net(channels * image_size**2, classes)


PROVIDES = {"failing": Failing}
"""


@pytest.mark.parametrize("format", ["table", "json", "csv"])
def test_a_race_that_fails_costs_no_other_and_ends_with_1(tmp_path, format):
    (tmp_path / "failing.py").write_text(FAILING)
    options = ("--models", "failing", "--plugin", "failing.py", "--methods", "sgd,sam")
    races = (
        "--only",
        "minimiser,step",
        "--variants",
        "fp32",
        "--batch-size",
        "8",
        "--repeats",
        "3",
    )
    asked = (*options, *races, "--quiet", "-f", format, "--out", "found")
    done = fsam("bench", *asked, cwd=tmp_path, check=1)
    reason = "whole step, failing, fp32: RuntimeError: out of memory"
    told = done.stdout if format == "table" else done.stderr
    assert told.count(f"failed: {reason}\n") == 1
    assert "zero, add g" in done.stdout
    document = json.loads((tmp_path / "found" / "bench.json").read_text())
    assert document["failed"] == [reason]
    assert len(document["minimiser"][0]["lines"]) == 3
    assert document["step"] == []
    assert f"- failed: {reason}\n" in (tmp_path / "found" / "bench.md").read_text()


@pytest.mark.parametrize("races", [0, 1])
def test_an_interrupted_benchmark_keeps_the_races_that_were_over(
    tmp_path, monkeypatch, capsys, races
):
    begun = []

    def asked_to_stop(title):
        begun.append(title)
        if len(begun) > races:
            os.kill(os.getpid(), signal.SIGTERM)

    monkeypatch.setattr(command, "_silence", asked_to_stop)
    asked = request(models="small_resnet", methods="sgd", only="minimiser,step", repeats=3)
    with pytest.raises(Interrupted):
        command.bench(replace(asked, out=tmp_path / "found"))
    if not races:
        assert not list((tmp_path / "found").iterdir())
        return
    document = json.loads((tmp_path / "found" / "bench.json").read_text())
    assert [race["model"] for race in document["minimiser"]] == ["small_resnet"]
    assert document["step"] == document["failed"] == []
    assert document["interrupted"] == begun[-1]
    assert f"interrupted at: {begun[-1]}" in capsys.readouterr().out


def test_files_are_there_although_nobody_reads_the_output(tmp_path, monkeypatch):
    def seen_enough(*_):
        raise BrokenPipeError

    monkeypatch.setattr(command, "_print", seen_enough)
    monkeypatch.setattr(command, "measured", lambda plan, say: {**EMPTY})
    with pytest.raises(BrokenPipeError):
        command.bench(request(only="minimiser", out=tmp_path / "found"))
    assert json.loads((tmp_path / "found" / "bench.json").read_text()) == EMPTY


def test_output_is_there_although_the_files_cannot_be_written(tmp_path, monkeypatch):
    def full(*_):
        raise RecordError("no space")

    printed = []
    monkeypatch.setattr(command, "_print", lambda document, format: printed.append(document))
    monkeypatch.setattr(command, "measured", lambda plan, say: {**EMPTY})
    monkeypatch.setattr(command, "write_atomically", full)
    with pytest.raises(RecordError):
        command.bench(request(only="minimiser", out=tmp_path / "found"))
    assert printed == [EMPTY]


EMPTY = {
    "environment": {
        **dict.fromkeys(("fsam", "torch", "device_name", "date"), "x"),
        "device": "cpu",
        "cores": 1,
        "threads": 1,
    },
    "left_out": [],
    "failed": [],
    "interrupted": None,
}


def request(**changes):
    asked = {"seconds": 1.0, "device": "cpu", "peers": [], "plugins": [], "quiet": True}
    return BenchRequest(**{**asked, **changes})


def test_what_is_measured_when_nobody_says():
    plan, _ = plan_of(request())
    assert list(plan.protocol.models) == ["resnet20", "wrn28_10"]
    assert [method.label for method in plan.protocol.methods] == ["sgd", "sam", "asam", "fsam"]
    assert [method.label for method in plan.step_methods] == ["sgd", "sam", "fsam"]
    assert plan.sections == ("minimiser", "step", "augmentation", "peers", "runs")
    assert (plan.batch_size, plan.precisions, plan.rounds) == (None, None, None)
    assert plan.at_once is None


def test_numbers_of_runs_at_once_are_taken_in_the_order_given():
    assert plan_of(request(at_once="4, 1,2"))[0].at_once == (4, 1, 2)


def test_methods_that_are_named_take_whole_steps_too():
    plan, _ = plan_of(request(methods="asam,sam"))
    assert [method.label for method in plan.step_methods] == ["asam", "sam"]


def test_parts_of_a_plugin_can_be_named(tmp_path):
    (tmp_path / "mine.py").write_text(MINIMISER)
    (tmp_path / "net.py").write_text(MODEL)
    files = (tmp_path / "mine.py", tmp_path / "net.py")
    plan, _ = plan_of(request(methods="sam,doubled", models="flat", plugins=files))
    assert [method.label for method in plan.step_methods] == ["sam", "doubled"]
    assert list(plan.protocol.models) == ["flat"]
    assert [plugin.path.name for plugin in plan.protocol.plugins] == ["mine.py", "net.py"]
    options = ("--only", "minimiser", "--models", "flat", "--methods", "doubled", "-f", "json")
    given = ("--plugin", "mine.py", "--plugin", "net.py", "--repeats", "3", "-q")
    document = json.loads(fsam("bench", *options, *given, cwd=tmp_path).stdout)
    assert document["minimiser"][0]["lines"][0]["label"] == "doubled"


def test_a_recipe_gives_model_methods_settings_and_batch_size():
    plan, _ = plan_of(request(recipe="wrn28-10-c100"))
    assert list(plan.protocol.models) == ["wrn28_10"]
    by_label = {method.label: method for method in plan.step_methods}
    assert by_label["sgd-2x"].name == "sgd"
    assert by_label["sam"].settings.rho == 0.1
    assert (plan.batch_size, plan.protocol.classes) == (128, 100)
    assert plan.protocol.label_smoothing == 0.1
    assert plan.protocol.optimizer.settings == {"momentum": 0.9, "weight_decay": 5e-4}
    assert plan_of(request(recipe="wrn28-10-c100", batch_size=8))[0].batch_size == 8


def test_a_plugin_that_is_not_measured_is_named(tmp_path, capsys):
    (tmp_path / "mine.py").write_text(MINIMISER)
    files = [tmp_path / "mine.py"]
    plan_of(request(methods="sam", plugins=files))
    plan_of(request(methods="doubled", plugins=files, quiet=False))
    assert capsys.readouterr().err == ""
    plan_of(request(methods="sam", plugins=files, quiet=False))
    assert "no part of it is used; it provides the method 'doubled'" in capsys.readouterr().err


def test_a_recipe_says_whether_to_compile_and_what_takes_the_step(tmp_path):
    mine = tmp_path / "mine.yaml"
    mine.write_text("extends: quickstart\ncompile: minimiser\ntrain: {optimizer: adamw}\n")
    for recipe, found in ((str(mine), ("minimiser", "adamw")), ("quickstart", ("none", "sgd"))):
        protocol = plan_of(request(recipe=recipe))[0].protocol
        assert (protocol.compile, protocol.optimizer.name) == found


def test_options_reach_the_plan():
    plan, _ = plan_of(request(threads=3, repeats=4, seconds=0.5, variants="fp32"))
    assert (plan.threads, plan.rounds, plan.seconds) == (3, 4, 0.5)
    assert plan.precisions == ("fp32",)


def test_peers_that_nobody_asked_for_are_not_left_out(monkeypatch):
    monkeypatch.setattr(command, "found_peers", lambda files: ((), ("one: not installed",)))
    assert plan_of(request(only="step"))[1] == []
    assert plan_of(request(only="step,peers"))[1] == ["other implementations, one: not installed"]
    with pytest.raises(UsageError, match="nothing to compare with: one: not installed; or name"):
        plan_of(request(only="peers"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--models", "resnet21"), "unknown model 'resnet21'; did you mean 'resnet"),
        (("--models", "timm"), "--models: 'timm' has no default for architecture; set it in a rec"),
        (("--methods", "samm"), "unknown method 'samm'; did you mean 'sam'?"),
        (("--only", "steps"), "--only: unknown 'steps'; did you mean 'step'?"),
        (("--variants", "fp16"), "--variants: unknown 'fp16'"),
        (("--models", ","), "--models ',': name at least one"),
        (("--models", ""), "--models '': name at least one"),
        (("--only", ""), "--only '': name at least one"),
        (("--variants", ""), "--variants '': name at least one"),
        (("--methods", ""), "--methods '': name at least one"),
        (("--recipe", "wrn"), "no recipe 'wrn'"),
        (("--recipe", "quickstart", "--models", "resnet20"), "leave one of them out"),
        (("--peer", "there.py"), "--peer: no file there.py; paths start at"),
        (("--only", "step", "--peer", "there.py"), "which --only leaves out"),
        (
            ("--at-once", "0"),
            "--at-once '0': write positive integers up to 256, each once, such as 1,2,4",
        ),
        (("--at-once", "257"), "write positive integers up to 256"),
        (("--at-once", "2,2"), "--at-once '2,2': write positive integers"),
        (("--at-once", "2,"), "--at-once '2,': write positive integers"),
        (("--at-once", "-1"), "--at-once '-1': write positive integers"),
        (("--at-once", "two"), "--at-once 'two': write positive integers"),
        (("--at-once", ""), "--at-once '': write positive integers"),
        (("--at-once", "2", "--only", "step"), "for the section 'runs', which --only leaves out"),
        (
            ("--models", "resnet20", "--only", "augmentation"),
            "--models is for the sections 'minimiser', 'step', 'peers' and 'runs', which --only",
        ),
        (("--methods", "sam", "--only", "peers"), "'minimiser', 'step' and 'runs', which --only"),
        (("--repeats", "2"), "Invalid value for '--repeats'"),
        (("--batch-size", "1"), "Invalid value for '--batch-size'"),
        (("--device", "tpu"), "Invalid value for '--device'"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_anything_is(tmp_path, options, message):
    done = fsam("bench", *options, "--out", "found", cwd=tmp_path, check=2)
    flat = " ".join(done.stderr.replace("│", " ").split())
    assert message in flat
    assert done.stdout == ""
    assert not list(tmp_path.iterdir())


def test_without_any_peer_there_is_nothing_to_compare_with(tmp_path, monkeypatch):
    monkeypatch.setattr(peer_files, "_version", lambda distribution: None)
    done = fsam("bench", "--only", "peers", cwd=tmp_path, check=2)
    assert "nothing to compare with: pytorch-optimizer is not installed" in done.stderr


def test_without_any_peer_the_other_sections_are_measured_and_the_lack_is_told(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(peer_files, "_version", lambda distribution: None)
    options = (*SHORT, "--methods", "sgd", "--only", "minimiser,peers")
    shown = fsam("bench", *options, cwd=tmp_path).stdout
    assert "left out: other implementations, pytorch-optimizer is not installed" in shown


def test_where_there_is_nothing_to_draw_nothing_is_drawn(tmp_path):
    pytest.importorskip("matplotlib")
    options = ("--methods", "sgd", "--only", "step", "--variants", "fp32", "--batch-size", "2")
    fsam("bench", *SHORT, *options, "--figures", "drawn", cwd=tmp_path)
    assert not list(tmp_path.iterdir())  # SGD alone is a multiple of nothing


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written_is_known_before_the_measuring(tmp_path):
    (tmp_path / "shut").mkdir(mode=0o500)
    done = fsam("bench", *ALONE, "--out", "shut/found", cwd=tmp_path, check=1)
    assert "cannot write shut/found" in done.stderr


def test_an_out_that_is_a_file_is_refused_before_the_measuring(tmp_path):
    (tmp_path / "found").write_text("mine")
    done = fsam("bench", *ALONE, "--out", "found", cwd=tmp_path, check=1)
    assert "cannot write found" in done.stderr
    assert done.stdout == ""
    assert (tmp_path / "found").read_text() == "mine"
