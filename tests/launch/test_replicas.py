"""Runs of several processes, on the loopback interface; each ends by itself."""

from __future__ import annotations

import multiprocessing
import os
import signal
import tempfile
from dataclasses import replace
from multiprocessing import Pipe

import pandas as pd
import pytest
import torch
from torch import distributed

from fsam_cli.engine.replicas import ConnectionBroken, Together
from fsam_cli.engine.run import execute
from fsam_cli.engine.train import Hooks
from fsam_cli.errors import DataError, Interrupted, UsageError
from fsam_cli.launch import local
from fsam_cli.launch import replicas as launched
from fsam_cli.launch.local import default_jobs
from fsam_cli.launch.replicas import replicated
from fsam_cli.recipe.load import load_experiment
from fsam_cli.recipe.plan import plan
from tests.crash.test_killed import wait_for
from tests.support.command import bits, fsam, start
from tests.support.launched import planned

pytestmark = pytest.mark.skipif(
    not (distributed.is_available() and distributed.is_gloo_available()),
    reason="no gloo in this torch",
)

SHORT = ("train.epochs=2", "seeds=[0]", "train.batch_size=256", "replicas=2")


@pytest.fixture(autouse=True)
def meeting_here(monkeypatch, tmp_path):
    """What the first replica, which is this process, is told stays in this test."""
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    odd = tmp_path / "möbius #1 %20"
    odd.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(odd))


def planned_run(tmp_path, *settings, method="{method: sam, rho: 0.1}", plugins=()):
    experiment = load_experiment(
        "quickstart", [f"methods={{it: {method}}}", *SHORT, *settings], list(plugins)
    )
    (one,) = plan(experiment, out=tmp_path, device="cpu")
    return one


def carried_out(run, hooks=None):
    return execute(run, hooks or Hooks(), replicated=replicated)


def rows(run):
    return pd.read_csv(run.folder / "metrics.csv")


def test_two_processes_train_what_one_trains_with_whole_batches(tmp_path):
    """Without batch normalisation; the rounding of 6 steps apart. Batches are of 255 images and the
    last one of 23, so that parts are of unequal size."""
    settings = (
        "model.norm=group",
        "train.epochs=1",
        "train.batch_size=255",
        "train.diagnostics=full",
    )
    two = planned_run(tmp_path, *settings)
    one = planned_run(tmp_path, *settings, "replicas=1")
    assert one.cell != two.cell
    assert carried_out(two).ended == carried_out(one).ended == "done"
    whole, shared = (rows(run).iloc[0].dropna() for run in (one, two))
    assert list(whole.index) == list(shared.index)
    for key in whole.index:
        if "seconds" not in key:
            assert shared[key] == pytest.approx(whole[key], rel=1e-3, abs=2e-3), key
    assert shared["sample_gradients"] == whole["sample_gradients"]


@pytest.mark.parametrize(
    ("method", "settings"),
    [
        ("{method: friendly_sam}", ("train.ema=0.9", "train.select=validation")),
        ("{method: fsam, m_sharpness: 32}", ("train.micro_batch_size=16",)),
    ],
)
def test_a_run_stopped_in_mid_epoch_continues_to_the_same_bits(tmp_path, method, settings):
    whole = planned_run(tmp_path / "whole", *settings, method=method)
    cut = planned_run(tmp_path / "cut", *settings, method=method)
    steps = iter(range(10_000))
    assert carried_out(whole).ended == "done"
    with pytest.raises(Interrupted):
        carried_out(cut, Hooks(should_stop=lambda: next(steps) == 9))
    assert (cut.folder / "checkpoint.pt").exists()
    assert not multiprocessing.active_children()
    assert carried_out(cut).ended == "done"
    assert bits(tmp_path / "cut") == bits(tmp_path / "whole")


def test_a_killed_replica_is_named_and_the_run_continues(tmp_path):
    run, steps = planned_run(tmp_path), iter(range(10_000))

    def kill_the_other():
        if next(steps) == 4:
            (other,) = multiprocessing.active_children()
            os.kill(other.pid, signal.SIGKILL)
        return False

    outcome = carried_out(run, Hooks(should_stop=kill_the_other, checkpoint_seconds=0))
    assert outcome.ended == "failed"
    assert "the process of replica 1 was killed by signal 9" in outcome.reason
    assert not multiprocessing.active_children()
    assert carried_out(run).ended == "done"
    assert "continued at step" in (run.folder / "log.txt").read_text(encoding="utf-8")


BREAKS = """
import torch
from fsam_cli.contracts import DataError
from fsam_cli.minimisers.sam import Sam


class Breaks(Sam):
    data: bool = False
    ranks: tuple[int, ...] = (1,)

    def length(self, sums):
        if torch.distributed.is_initialized() and torch.distributed.get_rank() in self.ranks:
            if self.data:
                raise DataError("photo.jpg cannot be read")
            raise RuntimeError(f"too steep for {torch.distributed.get_rank()}")
        return super().length(sums)


PROVIDES = {"breaks": Breaks}
"""


@pytest.mark.parametrize(
    ("ranks", "reason"),
    [
        # The other two lose their connections, which is nobody's reason.
        ([2], "ReplicaLost: replica 2: RuntimeError: too steep for 2"),
        # The first one's own, which names the plugin's line.
        ([0, 1, 2], "RuntimeError: too steep for 0 (breaks.py, line 15, in length)"),
    ],
)
def test_what_a_replica_fails_by_is_the_runs_result(tmp_path, ranks, reason):
    file = tmp_path / "breaks.py"
    file.write_text(f"{BREAKS}# {ranks}", encoding="utf-8")  # known by its content
    method = f"{{method: breaks, ranks: {ranks}}}"
    run = planned_run(tmp_path, "replicas=3", method=method, plugins=[file])
    outcome = carried_out(run)
    assert (outcome.ended, outcome.reason) == ("failed", reason)
    log = (run.folder / "log.txt").read_text(encoding="utf-8")
    assert "raise RuntimeError(f" in log  # where it happened, in that process


class Ended:
    """A replica that has said what it ended by."""

    def __init__(self, word):
        self.pipe, theirs = Pipe()
        theirs.send(word)

    def heard(self):
        return self.pipe.recv()


def test_who_lost_a_connection_does_not_say_why():
    broken, cause = ConnectionBroken("by peer"), ValueError("the cause")
    assert launched._why([Ended(broken), Ended(cause), Ended(broken)]).args == cause.args
    assert launched._why([Ended(broken), Ended(broken)]) is None


def test_a_replica_whose_first_one_is_gone_ends_while_it_waits_for_it(tmp_path):
    follower = launched._Follower(planned_run(tmp_path), 1, tmp_path / "meeting")
    follower.ready()
    follower.pipe.close()
    follower.process.join(30)
    assert follower.process.exitcode == 1


def test_gpus_are_given_something_to_do_together_once_all_processes_are_there(monkeypatch):
    """A GPU would wait for ever for one that is no more."""
    asked, kinds = [], set()

    def broadcast(message, **_):
        asked.append(message.device.type)
        kinds.add(message.dtype)

    monkeypatch.setattr(distributed, "get_rank", lambda: 0)
    monkeypatch.setattr(distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(distributed, "all_reduce", lambda it, **_: asked.append(it.device.type))
    monkeypatch.setattr(distributed, "broadcast", broadcast)
    for device in ("cpu", "meta"):  # meta: for a GPU
        Together().sum_(torch.zeros(2, device=device))
        Together().copy_first_([torch.zeros(2, device=device, dtype=torch.int16)])
    assert kinds == {torch.uint8}  # a message is of bytes: networks do not know every kind
    assert asked == ["cpu", "cpu", "cpu", "meta", "cpu", "meta"]


def test_data_that_a_replica_cannot_read_concern_all_runs(tmp_path):
    file = tmp_path / "breaks.py"
    file.write_text(BREAKS, encoding="utf-8")
    run = planned_run(tmp_path, method="{method: breaks, data: true}", plugins=[file])
    with pytest.raises(DataError, match=r"photo\.jpg cannot be read"):
        carried_out(run)


def test_a_diverging_run_ends_everywhere(tmp_path):
    outcome = carried_out(planned_run(tmp_path, "train.lr=1e30"))
    assert outcome.ended == "diverged"
    assert not multiprocessing.active_children()


def test_the_command_trains_with_replicas_and_is_stopped_by_a_signal(tmp_path):
    train = ("train", "-r", "quickstart", "methods={sam: {}}", *SHORT, "train.epochs=6")
    process = start(*train, "--checkpoint-every", "0.05", cwd=tmp_path)
    assert wait_for(lambda: list(tmp_path.rglob("checkpoint.pt")), process)
    os.killpg(process.pid, signal.SIGINT)  # as Ctrl-C: every process of the group hears it
    _, stderr = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "run the same command again to resume" in stderr
    assert "Traceback" not in stderr
    done = fsam(*train, "-f", "json", "-j", "2", cwd=tmp_path)
    assert "batch size 256 on 2 replicas" in done.stdout
    assert "Traceback" not in done.stderr


@pytest.mark.parametrize(
    ("threads", "replicas", "jobs"), [(1, 2, 4), (2, 2, 2), (1, 3, 2), (4, 4, 1)]
)
def test_the_default_is_as_many_runs_as_their_replicas_have_cores(
    monkeypatch, threads, replicas, jobs
):
    monkeypatch.setattr(local, "cores", lambda: 8)
    assert default_jobs([planned(threads=threads, replicas=replicas)] * 20) == jobs


def test_gpus_are_dealt_out_by_the_run(monkeypatch):
    monkeypatch.setattr(local, "gpus", lambda: list("01234"))
    assert default_jobs([planned(device="cuda", replicas=2)] * 20) == 2
    assert local._dealt(list("01234"), 2) == ["0,1", "2,3"]
    assert local._dealt(list("012"), 1) == ["0", "1", "2"]


@pytest.mark.parametrize(
    ("settings", "method", "told"),
    [
        (("replicas=0",), "sam", "replicas"),
        (("train.batch_size=6", "replicas=4"), "sam", "a batch of 6 has less than two images"),
        ((), "{method: friendly_sam, m_sharpness: 16}", "remembers the gradients of single hills"),
    ],
)
def test_what_cannot_be_shared_out_is_refused(tmp_path, settings, method, told):
    with pytest.raises(UsageError, match=told):
        planned_run(tmp_path, *settings, method=method)


def test_each_replica_has_a_gpu_and_none_has_graphs(tmp_path, monkeypatch):
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    monkeypatch.setattr("torch.cuda.device_count", lambda: 2)
    monkeypatch.setattr("fsam_cli.recipe.plan.has_bf16_gpu", lambda _device: False)

    def graphs(replicas):
        experiment = load_experiment("quickstart", [*SHORT, "cuda_graph=true", replicas])
        return {run.cuda_graph for run in plan(experiment, out=tmp_path, device="cuda")}

    assert graphs("replicas=1") == {True}
    assert graphs("replicas=2") == {False}
    with pytest.raises(UsageError, match="each has a GPU of its own, and this machine has 2"):
        graphs("replicas=3")


def test_one_replica_is_the_run_that_it_was_before(tmp_path):
    run = planned_run(tmp_path, "replicas=1")
    assert "replicas" not in run.config
    assert planned_run(tmp_path).config == {**run.config, "replicas": 2}
    assert replace(run, seed=7).cell == run.cell
