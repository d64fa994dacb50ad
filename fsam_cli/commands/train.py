"""`fsam train`: plan, show or carry out, then the table."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from fsam_cli.commands._cost import doubtful_data, dry_run_table, slow_precision
from fsam_cli.commands._print import say
from fsam_cli.commands._progress import monitor_for
from fsam_cli.engine.initial_weights import load_initial
from fsam_cli.engine.run import RunOutcome, is_to_do, loaded
from fsam_cli.engine.state import build_model
from fsam_cli.errors import Interrupted, UsageError, counted, did_you_mean
from fsam_cli.launch.local import Options, default_jobs, launch
from fsam_cli.options import SweepRequest, TrainRequest
from fsam_cli.parts import ROOMS
from fsam_cli.plugins import PluginFile, blaming, origin
from fsam_cli.recipe.load import Experiment, load_experiment
from fsam_cli.recipe.plan import RunPlan, identity_hash, plan, why_not_compiled
from fsam_cli.recipe.schema import data_root
from fsam_cli.records.store import RunDirectory

if TYPE_CHECKING:
    from fsam_cli.records.frame import Planned

Request = TrainRequest | SweepRequest  # for runs of a recipe


def experiment_of(
    request: Request, overrides: Sequence[str] = (), *, known: Sequence[PluginFile] = ()
) -> Experiment:
    """The recipe with the overrides of the command line, then these; see `load_experiment`."""
    return load_experiment(
        request.recipe, [*(request.overrides or ()), *overrides], request.plugins, known=known
    )


def plans_of(
    request: Request, experiment: Experiment, *, only: list[str] | None = None, trial: bool = False
) -> list[RunPlan]:
    """Its runs, where and on what the command line said; see `plan`."""
    return plan(
        experiment,
        out=request.out,
        device=request.device,
        data_dir=request.data_dir,
        only=tuple(request.only if only is None else only),
        trial=trial,
    )


def train(request: TrainRequest) -> int:
    """Carry out a recipe.

    Returns:
        0, or 1 if any of its runs failed, diverged or could not be read.

    Raises:
        UsageError: recipe, data, device or options.
        Interrupted: Ctrl-C or SIGTERM; run the same command again to resume.
    """
    experiment = experiment_of(request)
    name_oversights(experiment, request)
    if request.download:
        root = data_root(experiment.recipe.data, experiment.folder, request.data_dir)
        experiment.data.download(root)
    plans = plans_of(request, experiment)
    mine = sharded(plans, request.shard)
    if request.versus is not None and request.versus not in plans[0].planned_labels:
        there = did_you_mean(request.versus, plans[0].planned_labels)
        raise UsageError(f"--versus: no method '{request.versus}' is trained; {there}")
    if request.dry_run:
        dry_run_table(mine, rerun=request.rerun, format=request.format)
        return 0
    code = run_plans(request, plans, mine)
    # Imported here, not to take time from the first run, whose seconds are recorded.
    from fsam_cli.commands.report import print_runs
    from fsam_cli.records.frame import load_planned

    runs = load_planned(wanted(plans))
    print_runs(runs, format=request.format, versus=request.versus)
    return code


def wanted(plans: Iterable[RunPlan]) -> dict[Path, Planned]:
    """What a command wanted its runs for, by run directory."""
    from fsam_cli.records.frame import Planned

    return {
        each.folder: Planned(each.recipe.seeds, each.recipe.train.budget, each.tuned)
        for each in plans
    }


def name_oversights(experiment: Experiment, request: Request) -> None:
    """Say which labels are only on the command line, where `methods.sam.rho` may have been a slip
    for `sam-0.1`; which methods a `train.lr` of the command line does not reach; and of which
    plugin no part is used: `--plugin` alone adds no column."""
    methods, quiet = experiment.recipe.methods, request.quiet
    own = [label for label, method in methods.items() if method.lr is not None]
    if own and not quiet and any(each.startswith("train.lr=") for each in request.overrides or ()):
        say(f"train.lr does not concern {', '.join(own)}: methods.LABEL.lr is a method's own")
    for label in () if quiet else experiment.added:
        alike = [
            other
            for other, method in methods.items()
            if method.name == methods[label].name and other not in experiment.added
        ]
        if alike:
            say(f"methods.{label} is not in the recipe; it was added next to {', '.join(alike)}")
    used = {part for label in experiment.recipe.methods for part in experiment.parts_of(label)}
    name_unused(experiment.plugins, used, quiet=quiet)


def name_unused(plugins: Iterable[PluginFile], used: set[tuple[str, str]], *, quiet: bool) -> None:
    """The same for any command; `used` are rooms and names of parts."""
    for plugin in plugins:
        there = {(room, name) for room, parts in plugin.rooms.items() for name in parts}
        if not quiet and not there & used:
            names = ", ".join(f"{ROOMS[room]} '{name}'" for room, name in sorted(there))
            say(f"{plugin.path}: no part of it is used; it provides the {names}")


def sharded(plans: Sequence[RunPlan], shard: str) -> list[RunPlan]:
    """The i-th of n parts of nearly equal size, in the order of the plans.

    The runs of a seed stay together as far as that goes: what is compared in pairs is then trained
    on one machine.

    Raises:
        UsageError: no `i/n` with 1 <= i <= n.
    """
    match = re.fullmatch(r"(\d+)/(\d+)", shard)
    if not match or not 1 <= int(match[1]) <= int(match[2]):
        raise UsageError(f"--shard {shard}: write i/n with 1 <= i <= n, 1/4 for the first quarter")
    by_seed = sorted(plans, key=lambda plan: plan.seed)
    number, parts = int(match[1]), int(match[2])
    part = by_seed[len(plans) * (number - 1) // parts : len(plans) * number // parts]
    folders = {each.folder for each in part}
    return [each for each in plans if each.folder in folders]


def run_plans(request: Request, plans: Sequence[RunPlan], mine: Sequence[RunPlan]) -> int:
    """Put all plans on record and train those of this shard; nothing is written before the data,
    and the weights to start from, are read and verified.

    Returns:
        0, or 1 if any run failed, diverged or could not be read.

    Raises:
        DataError: the data set is missing, truncated or tampered with, or the weights to start
            from are not of the network.
        Interrupted: Ctrl-C or SIGTERM; run the same command again to resume.
    """
    if any(is_to_do(RunDirectory(each.folder).status()[0], request.rerun) for each in mine):
        with blaming(origin(mine[0].plugins, "datasets", mine[0].recipe.data.name)):
            loaded(mine[0])
        # A grid may be one over networks, or over what they start from.
        for each in {identity_hash(one.config["model"]): one for one in mine}.values():
            if each.initial is not None:
                load_initial(build_model(each, loaded(each)), each.initial)
    for reason in {why_not_compiled(each.recipe.compile, each.device) for each in mine} - {None}:
        say(f"compile: {reason}; nothing is compiled, and that is recorded")
    if not request.quiet:
        warnings = [*map(slow_precision, mine), *map(doubtful_data, mine[:1])]
        for warning in dict.fromkeys(filter(None, warnings)):
            say(warning)
    for each in plans:
        RunDirectory(each.folder).plan(each.record(), each.copies())
    options = Options(
        jobs=request.jobs or default_jobs(mine),
        rerun=request.rerun,
        fail_fast=request.fail_fast,
        force_resume=request.force_resume,
        checkpoint_seconds=request.checkpoint_every,
    )
    try:
        with monitor_for(mine, quiet=request.quiet) as monitor:
            ended = launch(mine, options, monitor)
    except Interrupted:
        without = " without --rerun all" if request.rerun == "all" else ""
        again = f"interrupted; run the same command again{without} to resume"
        raise Interrupted(again) from None
    return _exit_code(ended, unstarted=len(mine) - len(ended))


def _exit_code(ended: Sequence[tuple[RunPlan, RunOutcome]], *, unstarted: int) -> int:
    """1 if anything asked for is not done, whether it went wrong now or earlier."""
    bad = 0
    for each, outcome in ended:
        if outcome.ended == "busy":
            say(f"{each.folder}: {outcome.reason}; left alone")
        elif outcome.ended != "done" and outcome.status != "done":
            say(f"{each.folder}: {outcome.status or outcome.ended}: {outcome.reason}")
            bad += 1
    if unstarted:
        say(f"not started (--fail-fast): {counted(unstarted, 'run')}")
    return 1 if bad or unstarted else 0
