"""What a plan will cost: sample-gradients, arithmetic, and time where an earlier run tells."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from statistics import median

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from fsam_cli.commands._print import print_rows, say
from fsam_cli.engine.batches import batch_bounds
from fsam_cli.engine.run import Rerun, is_to_do
from fsam_cli.errors import RecordError
from fsam_cli.models._contract import multiply_adds
from fsam_cli.recipe.plan import RunPlan
from fsam_cli.records.store import RunDirectory

FLOP_PER_MULTIPLY_ADD = 6  # a multiply and an add, forward once and backward twice
# A trailing batch below either is worth a word where batch normalisation takes statistics of it.
FEW_IMAGES = 8
FEW_OF_A_BATCH = 1 / 16


def dry_run_table(plans: Sequence[RunPlan], *, rerun: Rerun, format: str) -> None:
    """The run matrix, done or to do, with the estimated cost."""
    statuses = [RunDirectory(plan.folder).status() for plan in plans]
    todo = [is_to_do(status, rerun) for status, _ in statuses]
    speeds = _seconds_per_sample_gradient(plans)
    flop = _flop_per_sample_gradient(plans[0]) if plans else 0
    points = len({plan.cell for plan in plans}) > len({plan.label for plan in plans})
    rows = [
        {
            "method": plan.label,
            **({"cell": plan.cell} if points else {}),  # of a sweep
            "seed": plan.seed,
            "epochs": plan.epochs,
            "status": status,
            "turn": "to do" if due else "skipped",
            "sample-gradients": plan.sample_gradients,
            "PFLOP": float(f"{plan.sample_gradients * flop / 1e15:.3g}"),
            "seconds": _seconds(plan, speeds),
            **({} if format == "table" else {"folder": str(plan.folder)}),  # too wide for people
        }
        for plan, (status, _), due in zip(plans, statuses, todo, strict=True)
    ]
    print_rows(rows, format=format, total=_total(plans, todo, speeds, flop))
    # Every run of a plan has the same images, batches, model and precision.
    for warning in (tiny_last_batch(plans[0]), slow_precision(plans[0])) if plans else ():
        if warning:
            say(warning)


def slow_precision(plan: RunPlan) -> str:
    """One line if the processor only emulates the plan's precision; else nothing."""
    if plan.device != "cpu" or plan.precision != "bf16" or _computes_bf16():
        return ""
    return (
        "warning: this processor only emulates bf16, which is many times slower than fp32; "
        "write precision: fp32, or auto"
    )


def _computes_bf16() -> bool:
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return there and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def tiny_last_batch(plan: RunPlan) -> str:
    """One line if batch normalisation would take statistics of very few images; else nothing."""
    size = plan.train.batch_size
    bounds = batch_bounds(plan.training_images, size)
    last = bounds[-1][1] - bounds[-1][0]
    if len(bounds) == 1 or last >= size or last >= max(FEW_IMAGES, FEW_OF_A_BATCH * size):
        return ""
    if not any(isinstance(module, _BatchNorm) for module in _on_meta(plan).modules()):
        return ""
    return (
        f"warning: the last batch of every epoch has {last} of {size} images, few for the "
        "statistics of batch normalisation; change data.validation or train.batch_size"
    )


def _total(
    plans: Sequence[RunPlan], todo: Sequence[bool], speeds: dict[str, float], flop: float
) -> str:
    due = [plan for plan, is_due in zip(plans, todo, strict=True) if is_due]
    gradients = sum(plan.sample_gradients for plan in due)
    text = (
        f"{len(due)} of {len(plans)} runs to do: {gradients:,} sample-gradients, "
        f"{gradients * flop / 1e15:.3g} PFLOP"
    )
    if not due:
        return f"0 of {len(plans)} runs to do"
    seconds = [_seconds(plan, speeds) for plan in due]
    known = [second for second in seconds if second is not None]
    if len(known) == len(due):
        return f"{text}, about {sum(known):,.0f} s one after the other (by earlier runs)"
    return f"{text}; no earlier run tells the time"


def _seconds(plan: RunPlan, speeds: dict[str, float]) -> float | None:
    speed = speeds.get(plan.label) or (median(speeds.values()) if speeds else None)
    return None if speed is None else round(plan.sample_gradients * speed, 1)


def _seconds_per_sample_gradient(plans: Sequence[RunPlan]) -> dict[str, float]:
    """By label, from finished runs of the same cell on record."""
    measured: dict[str, list[float]] = {}
    for plan in plans:
        speeds = map(_speed_of, plan.folder.parent.glob(f"seed*-{plan.cell}"))
        measured[plan.label] = [speed for speed in speeds if speed is not None]
    return {label: median(values) for label, values in measured.items() if values}


def _speed_of(folder: Path) -> float | None:
    """Seconds per sample-gradient of a finished run; None where its record does not tell."""
    try:
        result = RunDirectory(folder).read_result()
        speed = result["train_seconds"] / result["sample_gradients"]
    except (RecordError, KeyError, TypeError, ArithmeticError):
        return None
    return speed if result["status"] == "done" and 0 < speed < math.inf else None


def _flop_per_sample_gradient(plan: RunPlan) -> float:
    model = _on_meta(plan)
    with torch.device("meta"):
        images = torch.empty(1, *plan.fingerprint.shape)
    return FLOP_PER_MULTIPLY_ADD * multiply_adds(model, images)


def _on_meta(plan: RunPlan) -> torch.nn.Module:
    """The model without memory for its weights."""
    channels, height, _ = plan.fingerprint.shape
    with torch.device("meta"):
        return plan.model.build(
            channels=channels, classes=plan.fingerprint.classes, image_size=height
        )
