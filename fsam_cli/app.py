"""The command line: commands and their help. What carries them out is imported when it is needed,
so that `fsam --help` answers at once."""

from __future__ import annotations

import errno
import io
import sys
from typing import Annotated, Any, NoReturn

import typer
from typer.core import TyperGroup

from fsam_cli.errors import FsamError, Interrupted, UsageError
from fsam_cli.options import (
    BenchRequest,
    CleanRequest,
    CopyRequest,
    ModelsRequest,
    PerturbRequest,
    RecipeRequest,
    RecipesRequest,
    ReportRequest,
    RunRequest,
    RunsRequest,
    SharpnessRequest,
    SweepRequest,
    ToyRequest,
    TrainRequest,
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


app.add(
    "train.train",
    TrainRequest,
    "Train every method with every seed of a recipe; run it again to resume.",
)
app.add(
    "sweep.sweep",
    SweepRequest,
    "Sensitivity: train a grid of settings, or tune every method with an equal budget.",
)
app.add(
    "perturb.perturb",
    PerturbRequest,
    "Test accuracy when the weights are moved by alpha; run it again to resume.",
)
app.add(
    "sharpness.sharpness",
    SharpnessRequest,
    "How sharp the training loss is where each run ended; run it again to resume.",
)
app.add("report.report", ReportRequest, "Tables of mean±std from recorded runs, without torch.")
app.add(
    "toy.toy",
    ToyRequest,
    "The toy problem of the Fisher SAM paper: minima, trajectories, basins of attraction.",
)
app.add(
    "models.models", ModelsRequest, "Every network with its trainable parameters and multiply-adds."
)
app.add(
    "bench.bench",
    BenchRequest,
    "What a step costs, against the hardware's limit and other implementations of SAM.",
)
recipes_app.add("recipes.ls", RecipesRequest, "The recipes that come with fsam.")
recipes_app.add(
    "recipes.show",
    RecipeRequest,
    "The resolved recipe, every default filled in, below the comment that heads its file.",
)
recipes_app.add("recipes.cp", CopyRequest, "Copy a recipe to edit it; never overwrites.")
recipes_app.add("recipes.validate", RecipeRequest, "Report everything that is wrong with a recipe.")
runs_app.add("runs.ls", RunsRequest, "Status, result, size and age of every run.")
runs_app.add("runs.show", RunRequest, "One run: configuration, result, and the end of its log.")
runs_app.add(
    "runs.clean", CleanRequest, "Remove run directories by status; a run at work is left alone."
)


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
    except OSError as error:
        if error.errno in (errno.ENAMETOOLONG, errno.ELOOP, errno.EACCES) and error.filename:
            # A path that somebody gave, met where a command only asked whether it is there.
            sys.stderr.write(f"error: {error.filename}: {error.strerror}; give another path\n")
            sys.exit(UsageError.exit_code)
        # Help and version; commands tell it of what they print themselves.
        if error.errno not in (errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EBADF):
            raise
        forget_results()
        sys.stderr.write(f"error: cannot write the output: {error.strerror}\n")
        sys.exit(1)
    sys.exit(0)
