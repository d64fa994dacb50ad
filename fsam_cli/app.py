"""The command line: commands and their help. What carries them out is imported when it is needed,
so that `fsam --help` answers at once."""

from __future__ import annotations

import errno
import io
import sys
from pathlib import Path
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from fsam_cli.app_groups import recipes_app, runs_app
from fsam_cli.errors import FsamError, Interrupted
from fsam_cli.hold import signals_held_back
from fsam_cli.options import (
    Alpha,
    AtOnce,
    Basins,
    CheckpointEvery,
    DataDir,
    Device,
    DeviceOption,
    DirectionOption,
    Download,
    Draws,
    DryRun,
    EnergyOption,
    FailFast,
    Figures,
    ForceResume,
    Format,
    FormatOption,
    Gates,
    GradientSplit,
    GridOption,
    Jobs,
    Only,
    Out,
    Overrides,
    Plugins,
    Quiet,
    Recalibrate,
    RecipeOption,
    RelativeOption,
    Rerun,
    RerunOption,
    Roots,
    Sections,
    SelectOption,
    Shard,
    SpaceOption,
    Trials,
    Tune,
    TuningSeeds,
    Versus,
    WeightsRecipe,
    at_home,
)
from fsam_cli.results import Commands, forget_results


class _Group(TyperGroup):
    """Ctrl-C outside a training ends like one inside it."""

    def invoke(self, ctx: Any) -> Any:
        try:
            return super().invoke(ctx)
        except KeyboardInterrupt:
            raise Interrupted("interrupted") from None


app = Commands(
    cls=_Group,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help=(
        "Benchmark sharpness-aware minimisers (SGD, SAM, ASAM, Fisher SAM): paired seeds, "
        "exact resume, honest statistics.\n\n"
        "Exit codes: 0 success; 1 a run failed, diverged or could not be measured, or a file "
        "cannot be read or written; 2 usage, recipe or data error; 3 a gate does not hold; 130 "
        "interrupted, resumable. `fsam report` without --gate ends with 0 even where runs failed."
    ),
)
app.add_typer(recipes_app, name="recipes")
app.add_typer(runs_app, name="runs")


def _version(asked: bool) -> None:
    if asked:
        import fsam_cli

        typer.echo(f"fsam {fsam_cli.__version__}")
        raise typer.Exit()


@app.callback()
def _main(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version.")
    ] = False,
) -> None:
    pass


def _train_request(
    recipe: str,
    overrides: list[str] | None,
    *,
    device: Device | None,
    rerun: Rerun,
    only: list[str] | None,
    plugin: list[Path] | None,
    format: Format,
    **rest: Any,
) -> Any:
    """The options that `train` and `sweep` share, as commands.train takes them."""
    with signals_held_back():
        from fsam_cli.commands.train import TrainRequest

    return TrainRequest(
        recipe=recipe,
        overrides=tuple(overrides or ()),
        only=tuple(label.strip() for each in only or () for label in each.split(",")),
        plugins=tuple(plugin or ()),
        device=device,
        rerun=rerun,
        format=format,
        **rest,
    )


@app.command()
def train(
    recipe: RecipeOption,
    overrides: Overrides = None,
    plugin: Plugins = None,
    out: Out = Path("runs"),
    jobs: Jobs = None,
    shard: Shard = "1/1",
    only: Only = None,
    device: DeviceOption = None,
    data_dir: DataDir = None,
    download: Download = False,
    dry_run: DryRun = False,
    rerun: RerunOption = "failed",
    fail_fast: FailFast = False,
    force_resume: ForceResume = False,
    checkpoint_every: CheckpointEvery = 30.0,
    format: FormatOption = "table",
    versus: Versus = None,
    quiet: Quiet = False,
) -> None:
    """Train every method with every seed of a recipe; run it again to resume."""
    with signals_held_back():
        from fsam_cli.commands.train import train

    request = _train_request(
        recipe,
        overrides,
        out=out,
        jobs=jobs,
        shard=shard,
        only=only,
        plugin=plugin,
        device=device,
        data_dir=data_dir,
        download=download,
        rerun=rerun,
        fail_fast=fail_fast,
        force_resume=force_resume,
        checkpoint_seconds=checkpoint_every,
        format=format,
        versus=versus,
        quiet=quiet,
    )
    raise typer.Exit(train(request, dry_run=dry_run))


@app.command()
def sweep(
    recipe: RecipeOption,
    overrides: Overrides = None,
    grid: GridOption = None,
    select: SelectOption = None,
    tune: Tune = False,
    trials: Trials = None,
    tuning_seeds: TuningSeeds = None,
    space: SpaceOption = None,
    figures: Figures = None,
    plugin: Plugins = None,
    out: Out = Path("runs"),
    jobs: Jobs = None,
    shard: Shard = "1/1",
    only: Only = None,
    device: DeviceOption = None,
    data_dir: DataDir = None,
    dry_run: DryRun = False,
    rerun: RerunOption = "failed",
    fail_fast: FailFast = False,
    force_resume: ForceResume = False,
    checkpoint_every: CheckpointEvery = 30.0,
    format: FormatOption = "table",
    quiet: Quiet = False,
) -> None:
    """Sensitivity: train a grid of settings, or tune every method with an equal budget."""
    from fsam_cli.errors import UsageError

    request = _train_request(
        recipe,
        overrides,
        out=out,
        jobs=jobs,
        shard=shard,
        only=only,
        plugin=plugin,
        device=device,
        data_dir=data_dir,
        download=False,
        rerun=rerun,
        fail_fast=fail_fast,
        force_resume=force_resume,
        checkpoint_seconds=checkpoint_every,
        format=format,
        quiet=quiet,
    )
    if tune and (grid or select or dry_run or figures):
        raise UsageError(
            "--tune searches by itself: it takes no --grid, --select, --figures or --dry-run"
        )
    if tune:
        with signals_held_back():
            from fsam_cli.commands.tune import tune as run_tuning

        code = run_tuning(
            request, trials=trials or 12, tuning_seeds=tuning_seeds or 1, space=space or []
        )
        raise typer.Exit(code)
    if trials or tuning_seeds or space:
        raise UsageError(
            "--trials, --tuning-seeds and --space are for --tune; a grid has its own points"
        )
    with signals_held_back():
        from fsam_cli.commands.sweep import sweep as run_sweep

    code = run_sweep(
        request,
        grid=grid or [],
        select=select,
        figures=figures,
        dry_run=dry_run,
    )
    raise typer.Exit(code)


@app.command()
def perturb(
    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="[RUNS]...",
            callback=at_home,
            help="Folders of runs, or weight files. Default: runs/",
        ),
    ] = None,
    alpha: Alpha = "0.1:5.0",
    direction: DirectionOption = "gradient",
    draws: Draws = None,
    gradient_split: GradientSplit = None,
    relative: RelativeOption = "none",
    recalibrate_batchnorm: Recalibrate = False,
    recipe: WeightsRecipe = None,
    plugin: Plugins = None,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = "auto",
    data_dir: DataDir = None,
    figures: Figures = None,
    versus: Versus = None,
    format: FormatOption = "table",
    quiet: Quiet = False,
) -> None:
    """Test accuracy when the weights are moved by alpha; run it again to resume."""
    with signals_held_back():
        from fsam_cli.commands.perturb import perturb, request_of

    request = request_of(
        runs or [Path("runs")],
        alpha=alpha,
        direction=direction,
        draws=draws,
        gradient_split=gradient_split,
        relative=relative,
        recalibrated=recalibrate_batchnorm,
        recipe=recipe,
        plugins=tuple(plugin or ()),
        device=device,
        data_dir=data_dir,
        figures=figures,
        versus=versus,
        format=format,
        quiet=quiet,
    )
    raise typer.Exit(perturb(request))


@app.command()
def report(
    roots: Roots = None,
    format: FormatOption = "table",
    out: Annotated[
        Path | None,
        typer.Option(
            callback=at_home,
            help="Write report.md, .csv and .json, runs.csv, differences.csv, gates.csv here.",
        ),
    ] = None,
    figures: Figures = None,
    best_test: Annotated[
        bool, typer.Option(help="Also the best test epoch, which selects on the test set.")
    ] = False,
    versus: Versus = None,
    published: Annotated[
        bool, typer.Option("--published", help="The paper's numbers, and where a run departs.")
    ] = False,
    gate: Gates = None,
) -> None:
    """Tables of mean±std from recorded runs, without torch."""
    with signals_held_back():
        from fsam_cli.commands.report import report

    code = report(
        roots or [Path("runs")],
        format=format,
        out=out,
        figures=figures,
        best_test=best_test,
        versus=versus,
        published=published,
        gates=gate or [],
    )
    raise typer.Exit(code)


@app.command()
def toy(
    energy: EnergyOption = "paper",
    basins: Basins = True,
    figures: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Draw Figures 1 to 3 and the basins here.")
    ] = None,
    format: FormatOption = "table",
) -> None:
    """The toy problem of the Fisher SAM paper: minima, trajectories, basins of attraction."""
    with signals_held_back():
        from fsam_cli.commands.toy import toy

    code = toy(energy=energy, format=format, figures=figures, basins=basins)
    raise typer.Exit(code)


@app.command()
def models(
    classes: Annotated[int, typer.Option(min=2, help="Number of classes.")] = 10,
    image_size: Annotated[int, typer.Option(min=1, help="Height and width in pixels.")] = 32,
    channels: Annotated[int, typer.Option(min=1, help="Number of image channels.")] = 3,
    plugin: Plugins = None,
    format: FormatOption = "table",
) -> None:
    """Every network with its trainable parameters and multiply-adds."""
    with signals_held_back():
        from fsam_cli.commands.models import models

    models(
        classes=classes,
        image_size=image_size,
        channels=channels,
        format=format,
        plugins=plugin or [],
    )


@app.command()
def bench(
    models: Annotated[
        str | None, typer.Option(metavar="A,B", help="Networks. Default: resnet20,wrn28_10")
    ] = None,
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="Methods. Default: sgd,sam,asam,fsam (whole steps: without asam)."
        ),
    ] = None,
    recipe: Annotated[
        str | None, typer.Option("--recipe", "-r", help="Takes model, methods, batch size from it.")
    ] = None,
    only: Sections = None,
    variants: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="Whole steps in fp32, fp32-channels-last, bf16-channels-last."
        ),
    ] = None,
    batch_size: Annotated[
        int | None,
        typer.Option(min=2, help="Images. Default: 128, on a CPU fewer if time is short."),
    ] = None,
    threads: Annotated[
        int | None, typer.Option(min=1, max=512, help="CPU threads. Default: torch's.")
    ] = None,
    device: Annotated[Device, typer.Option(help="Where to compute.")] = "auto",
    seconds: Annotated[
        float, typer.Option(min=0, help="Seconds of measuring for each network and section.")
    ] = 12.0,
    repeats: Annotated[
        int | None, typer.Option(min=3, help="Rounds, instead of --seconds.")
    ] = None,
    at_once: AtOnce = None,
    peer: Annotated[
        list[Path] | None,
        typer.Option(metavar="FILE.py", help="Another implementation of SAM; repeatable."),
    ] = None,
    plugin: Plugins = None,
    out: Annotated[
        Path | None, typer.Option(callback=at_home, help="Write bench.json and bench.md here.")
    ] = None,
    figures: Figures = None,
    format: FormatOption = "table",
    quiet: Quiet = False,
) -> None:
    """What a step costs, against the hardware's limit and other implementations of SAM."""
    with signals_held_back():
        from fsam_cli.commands.bench import BenchRequest, bench

    request = BenchRequest(
        models=models,
        methods=methods,
        recipe=recipe,
        only=only,
        variants=variants,
        batch_size=batch_size,
        seconds=seconds,
        repeats=repeats,
        threads=threads,
        device=device,
        at_once=at_once,
        peers=tuple(peer or ()),
        plugins=tuple(plugin or ()),
        out=out,
        figures=figures,
        format=format,
        quiet=quiet,
    )
    raise typer.Exit(bench(request))


def main() -> NoReturn:
    """Entry point of `fsam`."""
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="replace")  # an ASCII terminal shows ? for ±
    try:
        app(prog_name="fsam")
    except FsamError as error:
        sys.stderr.write(f"error: {error}\n")
        sys.exit(error.exit_code)
    except OSError as error:  # of help and version; commands tell it of what they print themselves
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF):
            raise
        forget_results()
        sys.stderr.write(f"error: cannot write the output: {error.strerror}\n")
        sys.exit(1)
    sys.exit(0)
