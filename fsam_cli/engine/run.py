"""One planned run, from its folder's lock to its result: skip, continue or train, and record."""

from __future__ import annotations

import io
import time
import traceback
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch

from fsam_cli.datasets._contract import DataSet, ImageSet
from fsam_cli.engine import checkpoint
from fsam_cli.engine.environment import enable_cudnn_benchmark, environment
from fsam_cli.engine.replicas import ALONE, Replicas
from fsam_cli.engine.train import Hooks, Outcome, Training
from fsam_cli.errors import DataError, Interrupted, RecordError
from fsam_cli.plugins import raised_in
from fsam_cli.recipe.plan import RunPlan
from fsam_cli.records.checks import HEADLINE, OVER
from fsam_cli.records.store import Busy, RunDirectory, now, write_atomically

Rerun = Literal["failed", "all", "none"]
# Starts the processes that train a run together; they follow until the block ends.
Replicated = Callable[[RunPlan], AbstractContextManager[Replicas]]
Ended = Literal["done", "diverged", "failed", "skipped", "busy", "unreadable"]


@dataclass(frozen=True)
class RunOutcome:
    """What became of a run when its turn came."""

    ended: Ended
    reason: str = ""
    status: str = ""  # of the record on disk


def is_to_do(status: str, rerun: Rerun) -> bool:
    """Whether a run with this status is trained by the same command given again."""
    if status == "unreadable":  # refused: what is recorded there is not written over
        return False
    if rerun == "all":
        return True
    return status not in OVER or (status == "failed" and rerun == "failed")


def execute(
    plan: RunPlan,
    hooks: Hooks,
    *,
    rerun: Rerun = "failed",
    force_resume: bool = False,
    at_once: int = 1,
    replicated: Replicated = lambda _plan: nullcontext(ALONE),
) -> RunOutcome:
    """Carry out a run unless it is over.

    Any error of the training itself becomes the run's result (`failed`); the caller goes on with
    the next.

    Args:
        plan: the run.
        hooks: what it tells, and asks.
        rerun: which runs that are over are trained again.
        force_resume: continue across versions of torch and kinds of device.
        at_once: how many runs share the machine; recorded beside the seconds.
        replicated: who trains along, this process being the first.

    Raises:
        Interrupted: asked to stop; the same plan continues.
        DataError: the data are not what the plan identified.
        RecordError: the disk refuses to be written. Nothing recorded is harmed.
    """
    directory = RunDirectory(plan.folder)
    directory.plan(plan.record(), plan.copies())  # the folder, with the lock in it
    try:
        with directory.locked():
            directory.remove_unfinished()
            status, reason = directory.status_unlocked()
            if status == "unreadable":
                return RunOutcome("unreadable", reason, status)
            if not is_to_do(status, rerun):
                if status != "failed":  # that one can still be continued
                    directory.tidy()  # a crash may have come before it
                return RunOutcome("skipped", reason, status)
            if directory.half_set_aside() or (rerun == "all" and status in ("done", "diverged")):
                directory.set_aside()
            elif rerun == "all" and status == "failed":
                directory.forget()
            directory.result.unlink(missing_ok=True)
            directory.plan(plan.record(), plan.copies())  # an old result had stood against it
            here = _environment(plan, at_once)
            return _train(plan, directory, hooks, here, replicated, force_resume=force_resume)
    except Busy:
        return RunOutcome("busy", "another process works on it", "running")


def _environment(plan: RunPlan, at_once: int) -> dict[str, str]:
    """Versions, hardware, and what makes seconds comparable without changing a number."""
    return {
        **environment(torch.device(plan.device)),
        "cuda_graph": "yes" if plan.cuda_graph else "no",
        "runs_at_once": str(at_once),
    }


def _train(
    plan: RunPlan,
    directory: RunDirectory,
    hooks: Hooks,
    here: dict[str, str],
    replicated: Replicated,
    *,
    force_resume: bool,
) -> RunOutcome:
    started, since = now(), time.perf_counter()
    directory.log(
        f"started: {plan.label} seed {plan.seed}, torch {here['torch']}, {here['device_name']}"
    )
    training: Training | None = None
    try:
        with replicated(plan) as replicas:
            training = prepared(plan, directory, hooks, here, replicas)
            if plan.initial is not None:
                but = f", but for {', '.join(training.state.drawn)}" if training.state.drawn else ""
                directory.log(f"initial weights: those of {plan.initial.path}{but}")
            if directory.checkpoint.exists():
                try:
                    training.state.restore(directory.checkpoint, force=force_resume)
                except RecordError as error:
                    directory.log(str(error))
                    return RunOutcome("unreadable", str(error), "interrupted")
                directory.log(f"continued at step {training.state.step} of {training.steps}")
            directory.write_environment(training.state.environment)
            outcome = training.run()
        _keep(directory, training, outcome)
    except Interrupted:
        directory.log("interrupted")
        raise
    except (RecordError, DataError):
        raise
    except Exception as error:  # whatever a model or method of the user's does wrong
        directory.log(traceback.format_exc())
        where = raised_in(error, (plugin.path for plugin in plan.plugins))
        # A path in it may be no UTF-8, and a record is.
        reason = f"{type(error).__name__}: {error}{where}"
        reason = reason.encode(errors="backslashreplace").decode()
        result = _result(plan, "failed", reason, training, here)
        _record(directory, result, started, since)
        return RunOutcome("failed", reason, "failed")
    result = _result(plan, outcome.status, outcome.reason, training, here)
    result["selected_epoch"] = training.state.selected.get("epoch")
    _record(directory, result, started, since)
    directory.tidy()
    return RunOutcome(outcome.status, outcome.reason or "", outcome.status)


def prepared(
    plan: RunPlan,
    directory: RunDirectory,
    hooks: Hooks,
    here: dict[str, str],
    replicas: Replicas,
) -> Training:
    """A training that stands at its beginning, in a process that is set up for it."""
    torch.set_num_threads(plan.recipe.threads)
    enable_cudnn_benchmark(torch.device(plan.device))
    return Training(plan, loaded(plan), directory, hooks, here, replicas)


def follow(plan: RunPlan, hooks: Hooks, replicas: Replicas) -> None:
    """Train as one of the replicas that do not lead, from the checkpoint if there is one."""
    directory = RunDirectory(plan.folder)
    here = environment(torch.device(plan.device))
    training = prepared(plan, directory, hooks, here, replicas)
    if directory.checkpoint.exists():
        training.state.restore(directory.checkpoint, force=True)  # or the first would have refused
    training.run()


def _keep(directory: RunDirectory, training: Training, outcome: Outcome) -> None:
    """Final predictions, and the weights; a diverged run has neither."""
    directory.write_metrics(training.state.rows)
    if outcome.final is None:
        return
    selected = training.state.selected
    arrays: dict[str, np.ndarray] = {
        "label": training.feed.test.labels.cpu().numpy().astype(np.int64),
        "prediction": outcome.final.predictions.numpy(),
        "rank": outcome.final.ranks.numpy(),
        "loss": outcome.final.losses.numpy(),
    }
    if selected:
        for name, key in (("prediction", "predictions"), ("rank", "ranks"), ("loss", "losses")):
            arrays[f"selected_{name}"] = selected[key].numpy()
    buffer = io.BytesIO()
    np.savez_compressed(buffer, **arrays)  # type: ignore[arg-type]
    write_atomically(directory.predictions, buffer.getbuffer())
    checkpoint.save(
        directory.weights,
        {"format": "fsam-weights/1", "weights": training.state.weights_to_keep()},
    )


def _result(
    plan: RunPlan,
    status: str,
    reason: str | None,
    training: Training | None,
    here: dict[str, str],
) -> dict[str, Any]:
    rows = training.state.rows if training else []
    evaluated = [row for row in rows if row["test_accuracy"] is not None]
    validated = [row for row in evaluated if row["validation_accuracy"] is not None]
    # max() gives the first of equals, as State.consider does.
    selected = max(validated, key=lambda row: row["validation_accuracy"], default=None)
    best_test = max(evaluated, key=lambda row: row["test_accuracy"], default=None)
    return {
        **plan.record(),
        "status": status,
        "reason": reason,
        "select": plan.recipe.train.select,
        "last": _shown(evaluated[-1] if evaluated else None),
        "selected": _shown(selected),
        "best_test": _shown(best_test),
        "before": training.state.before if training else None,
        # Of all that was computed, the unfinished epoch of a run that went wrong included.
        "sample_gradients": training.state.sample_gradients if training else 0,
        "train_seconds": training.clock.seconds["train"] if training else 0.0,
        "evaluation_seconds": training.clock.seconds["evaluation"] if training else 0.0,
        "environment": training.state.environment if training else here,
    }


def _shown(row: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """The headline numbers of an epoch."""
    return None if row is None else {key: row[key] for key in HEADLINE}


def _record(directory: RunDirectory, result: dict[str, Any], started: str, since: float) -> None:
    directory.log(": ".join(filter(None, [result["status"], result["reason"]])))
    directory.write_result(
        {
            **result,
            "wall_seconds": time.perf_counter() - since,  # of this attempt
            "started": started,
            "finished": now(),
        }
    )


def loaded(plan: RunPlan) -> ImageSet:
    """The data set of a plan; see `loaded_data`."""
    return loaded_data(plan.data, plan.data_root, plan.fingerprint.digest)


def forget_data() -> None:
    """Let go of what is loaded: a process that leaves the training to others needs none."""
    loaded_data.cache_clear()


@lru_cache(maxsize=2)
def loaded_data(data: DataSet, root: Path | None, digest: str) -> ImageSet:
    """A data set, read and verified once: a process trains, or measures, many runs on it.

    Raises:
        DataError: missing, truncated or tampered content, or another than the digest's.
    """
    images = data.load(root)
    if data.fingerprint(root).digest != digest:
        raise DataError(
            f"the data below {root} changed while the command ran; runs were planned with other "
            "content. Give the command again: other data make runs of their own"
        )
    return images
