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

from fsam_cli.errors import FsamError, Interrupted, UsageError
from fsam_cli.hold import signals_held_back
from fsam_cli.options import (
    ROOTS,
    BenchRequest,
    Format,
    ModelsRequest,
    Overrides,
    PerturbRequest,
    Plugins,
    ReportRequest,
    Roots,
    SharpnessRequest,
    SweepRequest,
    ToyRequest,
    TrainRequest,
    at_home,
)
from fsam_cli.parsing import Commands
from fsam_cli.results import forget_results


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
recipes_app = Commands(no_args_is_help=True, help="List, show, copy and check recipes.")
runs_app = Commands(no_args_is_help=True, help="List, show and clean recorded runs.")
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


@app.taking(TrainRequest)
def train(request: TrainRequest) -> int:
    """Train every method with every seed of a recipe; run it again to resume."""
    with signals_held_back():
        from fsam_cli.commands.train import train

    return train(request)


@app.taking(SweepRequest)
def sweep(request: SweepRequest) -> int:
    """Sensitivity: train a grid of settings, or tune every method with an equal budget."""
    if request.tune:
        if request.grid or request.select or request.figures:
            raise UsageError("--tune searches by itself: it takes no --grid, --select or --figures")
        with signals_held_back():
            from fsam_cli.commands.tune import tune

        return tune(request)
    if request.trials or request.tuning_seeds or request.space or request.write_recipe:
        raise UsageError(
            "--trials, --tuning-seeds, --space and --write-recipe are for --tune; a grid has its "
            "own points"
        )
    with signals_held_back():
        from fsam_cli.commands.sweep import sweep

    return sweep(request)


@app.taking(PerturbRequest)
def perturb(request: PerturbRequest) -> int:
    """Test accuracy when the weights are moved by alpha; run it again to resume."""
    with signals_held_back():
        from fsam_cli.commands.perturb import perturb

    return perturb(request)


@app.taking(SharpnessRequest)
def sharpness(request: SharpnessRequest) -> int:
    """How sharp the training loss is where each run ended; run it again to resume."""
    with signals_held_back():
        from fsam_cli.commands.sharpness import sharpness

    return sharpness(request)


@app.taking(ReportRequest)
def report(request: ReportRequest) -> int:
    """Tables of mean±std from recorded runs, without torch."""
    with signals_held_back():
        from fsam_cli.commands.report import report

    return report(request)


@app.taking(ToyRequest)
def toy(request: ToyRequest) -> int:
    """The toy problem of the Fisher SAM paper: minima, trajectories, basins of attraction."""
    with signals_held_back():
        from fsam_cli.commands.toy import toy

    return toy(request)


@app.taking(ModelsRequest)
def models(request: ModelsRequest) -> int:
    """Every network with its trainable parameters and multiply-adds."""
    with signals_held_back():
        from fsam_cli.commands.models import models

    return models(request)


@app.taking(BenchRequest)
def bench(request: BenchRequest) -> int:
    """What a step costs, against the hardware's limit and other implementations of SAM."""
    with signals_held_back():
        from fsam_cli.commands.bench import bench

    return bench(request)


@recipes_app.command("ls")
def recipes_ls(format: Format = "table") -> None:
    """The recipes that come with fsam."""
    with signals_held_back():
        from fsam_cli.commands import recipes

    recipes.ls(format=format)


@recipes_app.command("show")
def recipes_show(
    recipe: Annotated[str, typer.Argument(help="A file or a shipped name.")],
    plugins: Plugins,
    overrides: Overrides = None,
) -> None:
    """The resolved recipe, every default filled in, below the comment that heads its file."""
    with signals_held_back():
        from fsam_cli.commands import recipes

    recipes.show(recipe, overrides or [], plugins)


@recipes_app.command("cp")
def recipes_cp(
    recipe: Annotated[str, typer.Argument(help="A shipped name or a file.")],
    target: Annotated[str, typer.Argument(help="A new file, or a folder.")] = ".",
) -> None:
    """Copy a recipe to edit it; never overwrites."""
    with signals_held_back():
        from fsam_cli.commands import recipes

    recipes.cp(recipe, target)


@recipes_app.command("validate")
def recipes_validate(
    recipe: Annotated[str, typer.Argument(help="A file or a shipped name.")],
    plugins: Plugins,
    overrides: Overrides = None,
) -> None:
    """Report everything that is wrong with a recipe."""
    with signals_held_back():
        from fsam_cli.commands import recipes

    recipes.validate(recipe, overrides or [], plugins)


@runs_app.command("ls")
def runs_ls(roots: Roots = None, format: Format = "table") -> None:
    """Status, result, size and age of every run."""
    with signals_held_back():
        from fsam_cli.commands import runs

    runs.ls(roots or ROOTS, format=format)


@runs_app.command("show")
def runs_show(
    run: Annotated[Path, typer.Argument(callback=at_home, help="A run directory.")],
) -> None:
    """One run: configuration, result, and the end of its log."""
    with signals_held_back():
        from fsam_cli.commands import runs

    runs.show(run)


@runs_app.command("clean")
def runs_clean(
    roots: Roots = None,
    status: Annotated[
        str,
        typer.Option(
            help="Comma-separated: planned, interrupted, failed, diverged, done, unreadable."
        ),
    ] = "planned,failed",
    yes: Annotated[bool, typer.Option("--yes", help="Remove; without it, only say what.")] = False,
) -> None:
    """Remove run directories by status; a run at work is left alone."""
    with signals_held_back():
        from fsam_cli.commands import runs

    runs.clean(roots or ROOTS, status=status, yes=yes)


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
