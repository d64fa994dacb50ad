"""`fsam bench`: what the sharpness-aware part of a step costs, measured in one go on one machine.

Five sections, each in its own file: the minimiser alone against the hardware's limit, the whole
step, the augmentation beside torchvision's, SAM beside other implementations, several runs at once.
What comes out is one document of plain numbers (docs/performance.md), from which tables and the
picture are made.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from functools import partial
from typing import Any

import torch

from fsam_cli.engine.compiled import reset_compiler
from fsam_cli.engine.environment import cores, environment
from fsam_cli.engine.graph import CudaRecorder
from fsam_cli.errors import briefly
from fsam_cli.measure.bench.augmentation import augmentation
from fsam_cli.measure.bench.minimiser import minimiser_alone, why_not_alone
from fsam_cli.measure.bench.network import (
    CHANNELS,
    SIZE,
    BenchMethod,
    BenchProtocol,
    Implementation,
)
from fsam_cli.measure.bench.peer_files import NamedPeer
from fsam_cli.measure.bench.peers import side_by_side
from fsam_cli.measure.bench.race import Clock, Timing, clock_of, threads
from fsam_cli.measure.bench.runs import runs_at_once, settings_for, too_large
from fsam_cli.measure.bench.step import precisions_for, whole_step
from fsam_cli.models._contract import Model, multiply_adds, on_meta
from fsam_cli.recipe.plan import Compile, why_not_compiled

SCHEMA = "fsam-bench/1"
SECTIONS = ("minimiser", "step", "augmentation", "peers", "runs")
AUGMENTED = 4096  # images of an epoch of the augmentation's race


@dataclass(frozen=True)
class BenchPlan:
    """What is to be measured."""

    protocol: BenchProtocol
    step_methods: tuple[BenchMethod, ...]  # of the whole step, which is slow
    sections: tuple[str, ...]  # of `SECTIONS`
    precisions: tuple[str, ...] | None  # of the whole step; None: as the network's size allows
    batch_size: int | None  # images; None: the paper's, or fewer where the budget is too short
    seconds: float  # of measuring, for each network in each section
    rounds: int | None  # exactly so many in every race, whatever they take
    device: torch.device
    threads: int | None  # of the CPU; None: torch's own choice
    peers: tuple[NamedPeer, ...] = ()
    images: int = AUGMENTED  # of an epoch of augmentation
    workers: int | None = None  # of torchvision's loader; None: as many as there are threads
    at_once: tuple[int, ...] | None = None  # runs; None: as the device suggests


def measured(
    plan: BenchPlan, on_race: Callable[[str], None], clock: Clock | None = None
) -> dict[str, Any]:
    """Run every section.

    Args:
        plan: what is to be measured.
        on_race: told what is measured next.
        clock: by default a real one.

    Returns:
        The document, ready for JSON. A race that fails is named in it and costs no other one; one
        that is interrupted by Ctrl-C is named as well, and ends the measuring.
    """
    with threads(plan.threads) as count:
        missing = why_not_compiled("minimiser", plan.device.type)
        how: tuple[Implementation, ...] = ("eager",) if missing else ("eager", "compiled")
        found: dict[str, list[Any]] = {section: [] for section in plan.sections}
        failed, interrupted = [], None
        timing = Timing(plan.device, clock or clock_of(plan.device), plan.seconds, plan.rounds)
        for section, title, run in _races(plan, how, timing):
            try:
                on_race(title)
                if _compiles(section, plan, how):  # what earlier races compiled counts, too
                    reset_compiler()
                found[section].append(run())
            except KeyboardInterrupt:
                interrupted = title
                break
            except Exception as error:  # the device's memory, or somebody else's code
                failed.append(f"{title}: {briefly(error)}")
        return {
            "schema": SCHEMA,
            "environment": {
                **environment(plan.device),
                "cores": cores(),
                "threads": count,
                "date": datetime.now(UTC).isoformat(timespec="seconds"),
            },
            "settings": _settings(plan),
            **{section: [_plain(result) for result in found[section]] for section in found},
            "left_out": _left_out(plan, missing),
            "failed": failed,
            "interrupted": interrupted,
        }


Race = tuple[str, str, Callable[[], Any]]  # section, title, what to run


def _races(plan: BenchPlan, how: tuple[Implementation, ...], timing: Timing) -> Iterator[Race]:
    """All races in order."""
    protocol = plan.protocol
    run: Callable[[], Any]
    for section in plan.sections:
        match section:
            case "minimiser":
                for name in protocol.models:
                    run = partial(
                        minimiser_alone, name, protocol, implementations=how, timing=timing
                    )
                    yield section, f"minimiser alone, {name}", run
            case "step":
                yield from _steps(plan, _compile(plan, how), timing)
            case "augmentation":
                workers = torch.get_num_threads() if plan.workers is None else plan.workers
                yield section, "augmentation", partial(augmentation, plan.images, workers, timing)
            case "peers" if plan.peers:
                beside = partial(side_by_side, implementations=how, timing=timing)
                for name in protocol.models:
                    run = partial(beside, name, protocol, plan.peers)
                    yield section, f"other implementations, {name}", run
            case "runs":
                settings = settings_for(plan.device, cores(), plan.at_once)
                for name in protocol.models:
                    if _too_large_for_runs(plan, name) is None:
                        run = partial(
                            runs_at_once,
                            name,
                            protocol,
                            settings=settings,
                            batch_size=plan.batch_size,
                            compile=_compile(plan, how),
                            timing=timing,
                        )
                        yield section, f"runs at once, {name}", run


def _steps(plan: BenchPlan, compile: Compile, timing: Timing) -> Iterator[Race]:
    """Of whole steps; the precisions of one network share its seconds."""
    protocol = replace(plan.protocol, methods=plan.step_methods)
    for name, model in protocol.models.items():
        usual = precisions_for(_multiply_adds(model, protocol.classes), plan.device)
        precisions = plan.precisions or usual
        for precision in precisions:
            run = partial(
                whole_step,
                name,
                precision,
                protocol,
                batch_size=plan.batch_size,
                compile=compile,
                timing=replace(timing, seconds=timing.seconds / len(precisions)),
                recorder=CudaRecorder() if plan.device.type == "cuda" else None,
            )
            yield "step", f"whole step, {name}, {precision}", run


def _too_large_for_runs(plan: BenchPlan, name: str) -> str | None:
    count = _multiply_adds(plan.protocol.models[name], plan.protocol.classes)
    asked = plan.sections == ("runs",) or plan.at_once is not None
    return too_large(count, plan.device, asked=asked)


def _compiles(section: str, plan: BenchPlan, how: tuple[Implementation, ...]) -> bool:
    if section == "step":
        return _compile(plan, how) != "none"
    return section in ("minimiser", "peers") and "compiled" in how


def _compile(plan: BenchPlan, how: tuple[Implementation, ...]) -> Compile:
    return plan.protocol.compile if "compiled" in how else "none"


def _multiply_adds(model: Model, classes: int) -> int:
    """Of an image; 0 where the network cannot be counted, which its races say better."""
    try:
        network = on_meta(model, channels=CHANNELS, classes=classes, image_size=SIZE)
        return multiply_adds(network, (CHANNELS, SIZE, SIZE))
    except Exception:
        return 0


def _settings(plan: BenchPlan) -> dict[str, Any]:
    optimizer = plan.protocol.optimizer
    return {
        "models": {
            name: model.model_dump(mode="json") for name, model in plan.protocol.models.items()
        },
        "methods": {
            method.label: {
                "name": method.name,
                **method.settings.model_dump(mode="json", exclude_none=True),
            }
            for method in plan.protocol.methods
        },
        "optimizer": {"name": optimizer.name, **optimizer.settings},
        "images": [CHANNELS, SIZE, SIZE],
        "classes": plan.protocol.classes,
        "compile": plan.protocol.compile,
        "batch_size": plan.batch_size,
        "seconds": plan.seconds,
        "repeats": plan.rounds,
        "peers": {peer.name: peer.version for peer in plan.peers},
    }


def _left_out(plan: BenchPlan, missing: str | None) -> list[str]:
    lines = [f"compiled: {missing}"] if missing else []
    if "minimiser" in plan.sections:
        reasons = [why_not_alone(method) for method in plan.protocol.methods]
        lines += [f"minimiser alone, {reason}" for reason in reasons if reason]
    if "step" in plan.sections:
        periods = [(each.label, each.settings.period) for each in plan.step_methods]
        lines += [
            f"whole step, {label}: the {period - 1} steps of {period} that do not climb"
            for label, period in periods
            if period > 1
        ]
    if "runs" in plan.sections:
        large = {name: _too_large_for_runs(plan, name) for name in plan.protocol.models}
        lines += [f"runs at once, {name}: {reason}" for name, reason in large.items() if reason]
    return lines


def _plain(result: Any) -> dict[str, Any]:
    """A section's dataclass as plain numbers, what it computes from them included."""
    plain = asdict(result)
    if "floor" in plain:
        plain["floor"]["in_cache"] = result.floor.in_cache
    for line, entry in zip(result.lines, plain["lines"], strict=True):
        if hasattr(line, "agrees"):
            entry["agrees"] = line.agrees
    return plain
