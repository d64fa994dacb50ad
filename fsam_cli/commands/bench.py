"""`fsam bench`: measure, print, write, draw."""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Any

import torch

from fsam_cli import parts
from fsam_cli.commands._print import (
    out,
    print_json,
    print_notes,
    print_rows,
    print_tables,
    say,
    say_written,
)
from fsam_cli.commands.train import name_unused
from fsam_cli.errors import Interrupted, UsageError, did_you_mean
from fsam_cli.measure.bench.network import CLASSES, BenchMethod, BenchProtocol
from fsam_cli.measure.bench.peer_files import found_peers
from fsam_cli.measure.bench.sections import SECTIONS, BenchPlan, measured
from fsam_cli.measure.bench.step import PRECISIONS
from fsam_cli.options import BenchRequest
from fsam_cli.plugins import PluginFile, plugins_of_command, provided
from fsam_cli.recipe.load import load_experiment
from fsam_cli.recipe.plan import resolve_device
from fsam_cli.recipe.schema import NamedPart
from fsam_cli.records.plain import document_text
from fsam_cli.records.store import make_folder, write_atomically
from fsam_cli.reports import bench_figure, bench_table
from fsam_cli.reports._style import require_matplotlib, save
from fsam_cli.signals import interrupt, stop_requests

MODELS = "resnet20,wrn28_10"
METHODS = "sgd,sam,asam,fsam"
MOST_AT_ONCE = 256  # processes; more are a slip of the pen
STEP_METHODS = ("sgd", "sam", "fsam")  # of METHODS: a whole step of ASAM costs what SAM's does


def bench(request: BenchRequest) -> int:
    """Measure, then print, write and draw what was found.

    Returns:
        0, or 1 where a race failed.

    Raises:
        Interrupted: Ctrl-C or SIGTERM; the races that were over are printed, written and drawn.
        UsageError: an unknown name, a peer file that is none, no such device.
        RecordError: the folder cannot be written.
    """
    plan, skipped = plan_of(request)
    if request.figures is not None:
        require_matplotlib()
    if request.out is not None:
        make_folder(request.out)  # before minutes are spent on what would be written there
    with stop_requests(interrupt):
        document = measured(plan, _silence if request.quiet else _announce)
    if document["interrupted"] and not any(document[section] for section in plan.sections):
        raise Interrupted("interrupted before a race was over; nothing was written")
    document["left_out"] += skipped
    try:
        if request.out is not None:  # before `| head` has seen enough
            _write(document, request.out)
    finally:
        _print(document, request.format)
    if request.figures is not None and bench_figure.panels(document):
        say_written(save(bench_figure.figure(document), request.figures, "bench"))
    if request.format in ("csv", "json"):  # the others print it among their notes
        for line in document["failed"]:
            say(f"failed: {line}")
    if document["interrupted"]:
        raise Interrupted("interrupted; only the races before that were measured")
    return 1 if document["failed"] else 0


def plan_of(request: BenchRequest) -> tuple[BenchPlan, list[str]]:
    """The request with every name looked up, and a line for each peer that is not installed.

    Raises:
        UsageError: an unknown name, options that do not go together, no such device.
    """
    sections = _chosen("--only", request.only, SECTIONS) or SECTIONS
    _refuse_idle_options(request, sections)
    precisions = _chosen("--variants", request.variants, PRECISIONS)
    peers, skipped = found_peers(request.peers) if "peers" in sections else ((), ())
    if sections == ("peers",) and not peers:
        raise UsageError(f"nothing to compare with: {'; '.join(skipped)}; or name a --peer FILE.py")
    at_once = _counts("--at-once", request.at_once) if request.at_once is not None else None
    protocol, batch_size = _protocol(request)
    used = {("models", name) for name in protocol.models}
    used |= {("minimisers", method.name) for method in protocol.methods}
    name_unused(protocol.plugins, used, quiet=request.quiet)
    chosen = protocol.methods
    if request.recipe is None and request.methods is None:
        chosen = tuple(method for method in chosen if method.name in STEP_METHODS)
    plan = BenchPlan(
        protocol=protocol,
        step_methods=chosen,
        sections=sections,
        precisions=precisions,
        batch_size=request.batch_size or batch_size,
        seconds=request.seconds,
        rounds=request.repeats,
        device=torch.device(resolve_device(request.device)),
        threads=request.threads,
        peers=peers,
        at_once=at_once,
    )
    return plan, [f"other implementations, {line}" for line in skipped]


def _refuse_idle_options(request: BenchRequest, sections: Sequence[str]) -> None:
    """Raise UsageError for an option that no section asked for looks at."""
    for option, given, of in (
        ("--models", request.models, ("minimiser", "step", "peers", "runs")),
        ("--recipe", request.recipe, ("minimiser", "step", "peers", "runs")),
        ("--methods", request.methods, ("minimiser", "step", "runs")),
        ("--variants", request.variants, ("step",)),
        ("--batch-size", request.batch_size, ("step", "runs")),
        ("--peer", request.peers, ("peers",)),
        ("--at-once", request.at_once, ("runs",)),
    ):
        if given and not set(of) & set(sections):
            *others, last = (f"'{section}'" for section in of)
            which = f"sections {', '.join(others)} and {last}" if others else f"section {last}"
            raise UsageError(f"{option} is for the {which}, which --only leaves out")


def _protocol(request: BenchRequest) -> tuple[BenchProtocol, int | None]:
    """Networks, methods and base optimiser, and the recipe's batch size."""
    if request.recipe is not None:
        return _of_recipe(request, request.recipe)
    models = _named("--models", MODELS if request.models is None else request.models)
    methods = _named("--methods", METHODS if request.methods is None else request.methods)
    plugins = plugins_of_command(request.plugins)
    protocol = BenchProtocol(
        {name: _part("models", name, "--models", plugins) for name in models},
        tuple(
            BenchMethod(name, name, _part("minimisers", name, "--methods", plugins))
            for name in methods
        ),
        plugins=plugins,
    )
    return protocol, None


def _of_recipe(request: BenchRequest, name: str) -> tuple[BenchProtocol, int]:
    """Raises UsageError where the command line names them, too."""
    if request.models or request.methods:
        given = "--models" if request.models else "--methods"
        raise UsageError(f"{given} and --recipe both name what is measured; leave one of them out")
    experiment = load_experiment(name, (), request.plugins)
    recipe = experiment.recipe
    protocol = BenchProtocol(
        {recipe.model.name: experiment.model},
        tuple(
            BenchMethod(label, recipe.methods[label].name, settings)
            for label, settings in experiment.methods.items()
        ),
        optimizer=recipe.train.optimizer,
        label_smoothing=recipe.train.label_smoothing,
        classes=getattr(experiment.data, "classes", CLASSES),
        compile=recipe.compile,
        plugins=experiment.plugins,
    )
    return protocol, recipe.train.batch_size


def _named(option: str, text: str) -> list[str]:
    """Names separated by commas, each once.

    Raises:
        UsageError: none.
    """
    names = [name.strip() for name in text.split(",") if name.strip()]
    if not names:
        raise UsageError(f"{option} '{text}': name at least one, separated by commas")
    return list(dict.fromkeys(names))


def _chosen(option: str, text: str | None, known: Collection[str]) -> tuple[str, ...] | None:
    """The named ones, in the order of the known; None where the option is not given.

    Raises:
        UsageError: one that is not known, or none.
    """
    if text is None:
        return None
    names = _named(option, text)
    for name in names:
        if name not in known:
            raise UsageError(f"{option}: unknown '{name}'; {did_you_mean(name, known)}")
    return tuple(name for name in known if name in names)


def _counts(option: str, text: str) -> tuple[int, ...]:
    """Positive integers up to `MOST_AT_ONCE`, separated by commas.

    Raises:
        UsageError: something else, or one of them twice.
    """
    words = [word.strip() for word in text.split(",")]
    counts = [int(word) for word in words if re.fullmatch("0*[0-9]{1,3}", word)]
    if len(set(counts)) < len(words) or not all(0 < count <= MOST_AT_ONCE for count in counts):
        raise UsageError(
            f"{option} '{text}': write positive integers up to {MOST_AT_ONCE}, each once, such as "
            "1,2,4"
        )
    return tuple(counts)


def _part(room: str, name: str, option: str, plugins: Sequence[PluginFile]) -> Any:
    """A part with its default settings.

    Raises:
        UsageError: unknown, or it has no defaults.
    """
    try:
        return parts.build(room, NamedPart(name=name), option, provided(plugins, room))
    except parts.PartError as error:
        missing = [each.key.removeprefix(f"{option}.") for each in error.problems]
        if missing == [option]:
            raise UsageError(str(error)) from None
        raise UsageError(
            f"{option}: '{name}' has no default for {', '.join(missing)}; set it in a recipe and "
            "give --recipe"
        ) from None


def _write(document: dict[str, Any], folder: Path) -> None:
    write_atomically(folder / "bench.json", document_text(document).encode())
    write_atomically(folder / "bench.md", bench_table.markdown(document).encode())


def _print(document: dict[str, Any], format: str) -> None:
    if format == "json":
        print_json(document)
    elif format == "markdown":
        out(bench_table.markdown(document))
    elif format == "csv":
        print_rows(bench_table.long_rows(document), format=format)
    else:
        print_tables(bench_table.tables(document))
        print_notes(bench_table.notes(document))


def _announce(title: str) -> None:
    say(f"measuring: {title}")


def _silence(_: str) -> None: ...
