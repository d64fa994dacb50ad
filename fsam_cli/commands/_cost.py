"""What a plan will cost: sample-gradients, arithmetic, and time where an earlier run tells."""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from statistics import median
from types import MappingProxyType
from typing import Any

import torch
from torch.nn.modules.batchnorm import _BatchNorm

from fsam_cli.commands._print import duration, print_rows, say
from fsam_cli.engine.batches import batch_bounds
from fsam_cli.engine.run import Rerun, is_to_do
from fsam_cli.errors import DataError, RecordError, counted
from fsam_cli.models._contract import multiply_adds, on_meta
from fsam_cli.plugins import blaming, origin
from fsam_cli.recipe.plan import RunPlan, has_bf16_gpu
from fsam_cli.records.store import RunDirectory

NO_SETTINGS: Mapping[str, Mapping[str, Any]] = MappingProxyType({})
FOR_PROGRAMS = "PFLOP", 1e15  # one unit, whatever the size
UNITS = (("EFLOP", 1e18), FOR_PROGRAMS, ("TFLOP", 1e12), ("GFLOP", 1e9))
FLOP_PER_MULTIPLY_ADD = 6  # a multiply and an add, forward once and backward twice
# A trailing batch below either is worth a word where batch normalisation takes statistics of it.
FEW_IMAGES = 8
FEW_OF_A_BATCH = 1 / 16


def dry_run_table(
    plans: Sequence[RunPlan],
    *,
    rerun: Rerun,
    format: str,
    settings: Mapping[str, Mapping[str, Any]] = NO_SETTINGS,
) -> None:
    """The run matrix, done or to do, with the estimated cost.

    Args:
        rerun: which of those that are over are to do.
        settings: what tells the points of a sweep apart, by run directory.
    """
    statuses = [RunDirectory(plan.folder).status() for plan in plans]
    todo = [is_to_do(status, rerun) for status, _ in statuses]
    seconds, flop = _seconds(plans), _flop(plans)
    keys = dict.fromkeys(key for point in settings.values() for key in point)
    unit, arithmetic = _arithmetic(flop, format)
    own = {key for plan in plans for key in plan.tuned}
    rows = [
        {
            "method": plan.label,
            **({"lr": plan.lr} if "train.lr" in own else {}),
            **{key: settings.get(str(plan.folder), {}).get(key) for key in keys},
            "seed": plan.seed,
            "epochs": plan.epochs,
            "status": status,
            "turn": "to do" if due else "refused" if status == "unreadable" else "skipped",
            "sample-gradients": plan.sample_gradients,
            unit: run_arithmetic,
            "seconds": None if run_seconds is None else round(run_seconds, 1),
            **({} if format == "table" else {"folder": str(plan.folder)}),  # too wide for people
        }
        for plan, (status, _), due, run_arithmetic, run_seconds in zip(
            plans, statuses, todo, arithmetic, seconds, strict=True
        )
    ]
    print_rows(rows, format=format, total=_total(plans, todo, seconds, flop))
    _say_beforehand(plans)


@dataclass(frozen=True)
class Estimate:
    """Runs of which some are planned; the others cost as these do on average."""

    what: Mapping[str, Any]  # what they are, by column
    plans: Sequence[RunPlan]
    runs: int  # of both kinds


def estimates_table(
    estimates: Sequence[Estimate], *, rerun: Rerun, format: str, title: str
) -> None:
    """A line for each, and what all cost together. Only planned runs are known to be done.

    Args:
        rerun: which of those that are over are to do.
        title: above the table.
    """
    every = [plan for each in estimates for plan in each.plans]
    run_flop, run_seconds = iter(_flop(every)), iter(_seconds(every))
    gradients, flop, seconds, done = [], [], [], []
    for each in estimates:
        of_one = each.runs / len(each.plans)
        gradients.append(round(of_one * sum(plan.sample_gradients for plan in each.plans)))
        flop.append(of_one * sum(islice(run_flop, len(each.plans))))
        known = [one for one in islice(run_seconds, len(each.plans)) if one is not None]
        seconds.append(of_one * sum(known) if len(known) == len(each.plans) else None)
        statuses = {plan.folder: RunDirectory(plan.folder).status()[0] for plan in each.plans}
        done.append(sum(not is_to_do(status, rerun) for status in statuses.values()))
    unit, arithmetic = _arithmetic(flop, format)
    rows = [
        {
            **each.what,
            "runs": each.runs,
            "done": over,
            "sample-gradients": number,
            unit: amount,
            "seconds": None if time is None else round(time, 1),
        }
        for each, over, number, amount, time in zip(
            estimates, done, gradients, arithmetic, seconds, strict=True
        )
    ]
    runs = sum(each.runs for each in estimates)
    told = f"{sum(done)} of the {len(every)} known beforehand done"
    cost = _spent(sum(gradients), sum(flop), seconds)
    total = f"{counted(runs, 'run')}, {told}; all together: {cost}"
    print_rows(rows, format=format, title=title, total=total)
    _say_beforehand(every)


def _say_beforehand(plans: Sequence[RunPlan]) -> None:
    """What will be refused, and what is worth a warning."""
    for plan in plans:
        status, reason = RunDirectory(plan.folder).status()
        if status == "unreadable":
            say(f"refused: {reason}")
    warnings = (
        warn(plan)
        for warn in (no_data, doubtful_data, tiny_last_batch, slow_precision)
        for plan in _unlike(plans)
    )
    for warning in dict.fromkeys(filter(None, [*warnings, unequal_budgets(plans)])):
        say(warning)


def _unlike(plans: Sequence[RunPlan]) -> Iterable[RunPlan]:
    """One run of all that have the same images, batches, network and precision."""
    found: dict[tuple[object, ...], RunPlan] = {}
    for plan in plans:
        batches = plan.fingerprint.digest, plan.training_images, plan.recipe.train.batch_size
        found.setdefault((*batches, _network(plan), plan.precision), plan)
    return found.values()


def _network(plan: RunPlan) -> str:
    """What tells it from other networks."""
    classes = plan.fingerprint.classes
    return json.dumps([plan.config["model"], plan.input_shape, classes], sort_keys=True)


def no_data(plan: RunPlan) -> str:
    """One line if there is nothing to train on; else nothing. Only training reads and verifies."""
    try:
        with blaming(origin(plan.plugins, "datasets", plan.recipe.data.name)):
            plan.data.check_available(plan.data_root)
    except DataError as error:
        return f"warning: {error}"
    return ""


def doubtful_data(plan: RunPlan) -> str:
    """One line on data that are there and probably wrong; else nothing."""
    with blaming(origin(plan.plugins, "datasets", plan.recipe.data.name)):
        return plan.data.doubts(plan.data_root)


def unequal_budgets(plans: Sequence[RunPlan]) -> str:
    """One line if methods of one `train.gradient_evaluations` do not spend the same; else nothing.

    Of several budgets, as a grid can have, the first such one is named.
    """
    spent: dict[float, dict[str, set[int]]] = {}
    for plan in plans:
        train = plan.recipe.train
        if train.gradient_evaluations is not None:
            methods = spent.setdefault(train.gradient_evaluations, {})
            passes = plan.sample_gradients // plan.training_images
            methods.setdefault(plan.label, set()).add(passes)
    for budget, methods in spent.items():
        if len(methods) > 1 and len(set().union(*methods.values())) > 1:
            told = [
                f"{label} {' or '.join(map(str, sorted(own)))}" for label, own in methods.items()
            ]
            return (
                f"warning: train.gradient_evaluations: {budget:g} is not spent alike: "
                f"{', '.join(told)} passes per image; epochs are whole, and epochs_factor "
                "multiplies them: choose a number that all methods can spend exactly"
            )
    return ""


def slow_precision(plan: RunPlan) -> str:
    """One line if the device only emulates the plan's precision; else nothing."""
    on_gpu = plan.device == "cuda"
    if plan.precision != "bf16" or (has_bf16_gpu(plan.device) if on_gpu else _computes_bf16()):
        return ""
    return (
        f"warning: this {'GPU' if on_gpu else 'processor'} only emulates bf16, which is many times "
        "slower than fp32; write precision: fp32, or auto"
    )


def _computes_bf16() -> bool:
    there: bool = torch.backends.mkldnn.is_available()  # type: ignore[no-untyped-call]
    return there and bool(torch.ops.mkldnn._is_mkldnn_bf16_supported())


def tiny_last_batch(plan: RunPlan) -> str:
    """One line if batch normalisation would take statistics of very few images; else nothing."""
    size = plan.recipe.train.batch_size
    bounds = batch_bounds(plan.training_images, size, replicas=plan.recipe.replicas)
    last = bounds[-1][1] - bounds[-1][0]
    if len(bounds) == 1 or last >= size or last >= max(FEW_IMAGES, FEW_OF_A_BATCH * size):
        return ""
    if not any(isinstance(module, _BatchNorm) for module in _built(plan).modules()):
        return ""
    return (
        f"warning: the last batch of every epoch has {last} of {size} images, few for the "
        "statistics of batch normalisation; change data.validation or train.batch_size"
    )


def _total(
    plans: Sequence[RunPlan],
    todo: Sequence[bool],
    seconds: Sequence[float | None],
    flop: Sequence[float],
) -> str:
    due = [number for number, is_due in enumerate(todo) if is_due]
    if not due:
        return f"0 of {counted(len(plans), 'run')} to do"
    cost = _spent(
        sum(plans[number].sample_gradients for number in due),
        sum(flop[number] for number in due),
        [seconds[number] for number in due],
    )
    return f"{len(due)} of {counted(len(plans), 'run')} to do: {cost}"


def _spent(gradients: int, flop: float, seconds: Sequence[float | None]) -> str:
    """The cost of several runs, whose time may not be known of each."""
    unit, size = _unit(flop)
    text = f"{gradients:,} sample-gradients, {_rounded(flop / size):,g} {unit}"
    known = [each for each in seconds if each is not None]
    if len(known) == len(seconds):
        return f"{text}, about {duration(sum(known))} one after the other (by earlier runs)"
    return f"{text}; {'of some ' if known else ''}no earlier run tells the time"


def _arithmetic(flop: Sequence[float], format: str) -> tuple[str, list[float | str]]:
    """A heading, and the numbers below it: for people in the unit that suits the largest."""
    if format in ("csv", "json"):
        unit, size = FOR_PROGRAMS
        return unit, [_rounded(each / size) for each in flop]
    unit, size = _unit(max(flop, default=0))
    return unit, [f"{_rounded(each / size):,g}" for each in flop]


def _unit(flop: float) -> tuple[str, float]:
    return next((each for each in UNITS if flop >= each[1]), UNITS[-1])


def _rounded(number: float) -> float:
    """To three significant digits."""
    return float(f"{number:.3g}")


def _seconds(plans: Sequence[RunPlan]) -> list[float | None]:
    """Of each run, as finished runs of its cell tell, else those of other cells with its network;
    None where there are none."""
    cells = {(plan.folder.parent, plan.cell): plan for plan in plans}
    found = {cell: _speeds(*cell) for cell in cells}
    alike: dict[str, list[float]] = {}
    for cell, plan in cells.items():
        alike.setdefault(_network(plan), []).extend(found[cell])
    speeds = [found[plan.folder.parent, plan.cell] or alike[_network(plan)] for plan in plans]
    return [
        plan.sample_gradients * median(speed) if speed else None
        for plan, speed in zip(plans, speeds, strict=True)
    ]


def _speeds(parent: Path, cell: str) -> list[float]:
    """Seconds per sample-gradient of the finished runs of a cell."""
    found = map(_speed_of, parent.glob(f"seed*-{cell}"))
    return [speed for speed in found if speed is not None]


def _speed_of(folder: Path) -> float | None:
    """Seconds per sample-gradient of a finished run; None where its record does not tell."""
    try:
        result = RunDirectory(folder).read_result()
        speed = result["train_seconds"] / result["sample_gradients"]
    except (RecordError, KeyError, TypeError, ArithmeticError):
        return None
    return speed if result["status"] == "done" and 0 < speed < math.inf else None


def _flop(plans: Sequence[RunPlan]) -> list[float]:
    """Floating-point operations of each run; every network is counted once."""
    of_an_image: dict[str, int] = {}
    for plan in plans:
        if _network(plan) not in of_an_image:
            classes = plan.fingerprint.classes
            of_an_image[_network(plan)] = multiply_adds(_built(plan), plan.input_shape, classes)
    return [
        FLOP_PER_MULTIPLY_ADD * of_an_image[_network(plan)] * plan.sample_gradients
        for plan in plans
    ]


def _built(plan: RunPlan) -> torch.nn.Module:
    channels, height, _ = plan.input_shape
    classes = plan.fingerprint.classes
    return on_meta(plan.model, channels=channels, classes=classes, image_size=height)
