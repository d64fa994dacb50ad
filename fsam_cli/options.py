"""The options of the command line: their types and one-line help, shared by its commands."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Annotated, Any, Literal

import typer


def at_home(value: Any) -> Any:
    """`~` where a shell leaves it alone, as in `--out=~/runs` and in FSAM_DATA."""
    if isinstance(value, list):
        return [at_home(each) for each in value]
    return Path(os.path.expanduser(value)) if isinstance(value, Path) else value  # noqa: PTH111


Format = Literal["table", "markdown", "csv", "json"]
Device = Literal["auto", "cpu", "cuda"]
Selection = Literal["validation", "test"]
Energy = Literal["paper", "kl"]
Direction = Literal["gradient", "gaussian"]
Split = Literal["train", "test"]
Relative = Literal["none", "filter"]
Rerun = Literal["failed", "all", "none"]
RecipeOption = Annotated[
    str, typer.Option("--recipe", "-r", help="A file, or the name of a shipped recipe.")
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="[KEY=VALUE]...", help="Override recipe keys: train.epochs=5 seeds=0:5."
    ),
]
Out = Annotated[Path, typer.Option("--out", callback=at_home, help="The folder of all runs.")]
Roots = Annotated[
    list[Path] | None,
    typer.Argument(
        metavar="[ROOTS]...", callback=at_home, help="Default: runs/", show_default=False
    ),
]
FormatOption = Annotated[Format, typer.Option("--format", "-f", help="How results are printed.")]

Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", "-j", min=1, help="Runs at once. Default: cores / threads, or one on each GPU."
    ),
]
Shard = Annotated[
    str, typer.Option(metavar="I/N", help="Take every N-th run, from the I-th (1-based).")
]
Only = Annotated[list[str] | None, typer.Option(metavar="A,B", help="Method labels; repeatable.")]
DeviceOption = Annotated[Device | None, typer.Option(help="Overrides the recipe's.")]
DataDir = Annotated[
    Path | None,
    typer.Option(envvar="FSAM_DATA", callback=at_home, help="Where data sets lie."),
]
Download = Annotated[bool, typer.Option("--download", help="Fetch the data set first.")]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the runs and their cost; train none.")
]
RerunOption = Annotated[Rerun, typer.Option(help="Which finished runs to train again.")]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="Stop at the first bad run.")]
ForceResume = Annotated[
    bool,
    typer.Option("--force-resume", help="Resume although torch or the device changed (not exact)."),
]
CheckpointEvery = Annotated[
    float, typer.Option(metavar="SECONDS", min=0, help="Seconds between checkpoints.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress.")]
Plugins = Annotated[
    list[Path] | None,
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        help="Your own method, model, data or augmentation; repeatable.",
    ),
]
Versus = Annotated[
    str | None,
    typer.Option(
        metavar="LABEL",
        help="Also each method's difference from LABEL, paired by seed where possible.",
    ),
]
Gates = Annotated[
    list[str] | None,
    typer.Option(
        "--gate",
        metavar="CLAIM",
        help="Exit with code 3 unless it holds: complete, 'sam >= 90' (mean, %), 'sam > sgd', "
        "'fsam > sam - 0.5' (95 % interval, points); repeatable.",
    ),
]
Figures = Annotated[
    Path | None, typer.Option(callback=at_home, help="Draw pictures into this folder.")
]

Alpha = Annotated[
    str,
    typer.Option(
        metavar="LOW:HIGH", help="11 even strengths, both ends; or LOW:HIGH:STEP; or a,b,c."
    ),
]
DirectionOption = Annotated[
    Direction, typer.Option(help="Along the loss gradient, or along random noise.")
]
Draws = Annotated[int | None, typer.Option(min=1, help="Random directions per run. Default: 5.")]
GradientSplit = Annotated[
    Split | None, typer.Option(help="Split whose loss gradient is followed. Default: train.")
]
RelativeOption = Annotated[
    Relative, typer.Option(help="filter: alpha is relative to the norm of each filter.")
]
Recalibrate = Annotated[
    bool,
    typer.Option("--recalibrate-batchnorm", help="Re-estimate batch statistics at each strength."),
]
WeightsRecipe = Annotated[
    str | None,
    typer.Option("--recipe", "-r", help="Recipe with the data and model of weight files."),
]

GridOption = Annotated[
    list[str] | None,
    typer.Option(
        metavar="KEY=V1,V2,...",
        help="A setting and its values, gamma=0.05,0.1 or train.lr=0.1,0.2; repeatable. "
        "Replaces the grid of the recipe.",
    ),
]
SelectOption = Annotated[
    Selection | None, typer.Option(help="What points are compared by. Default: validation.")
]
Tune = Annotated[
    bool, typer.Option("--tune", help="Search every method's own space with equal budgets.")
]
SpaceOption = Annotated[
    list[str] | None,
    typer.Option(
        "--space",
        metavar="KEY=LOW:HIGH",
        help="With --tune: search this setting too, or in this range: train.lr=0.02:0.5 (all "
        "methods) or rho=0.05:1; repeatable.",
    ),
]
Trials = Annotated[
    int | None, typer.Option(min=1, help="With --tune: trials per method. Default: 12.")
]
TuningSeeds = Annotated[
    int | None, typer.Option(min=1, help="With --tune: seeds per trial. Default: 1.")
]
Sections = Annotated[
    str | None,
    typer.Option(
        metavar="A,B", help="Sections: minimiser, step, augmentation, peers, runs. Default: all"
    ),
]
AtOnce = Annotated[
    str | None,
    typer.Option(metavar="1,2,4", help="Numbers of runs at once. Default: powers of two."),
]
EnergyOption = Annotated[
    Energy, typer.Option(help="paper gives the published minima; kl is the printed formula.")
]
Basins = Annotated[bool, typer.Option(help="Map which starts reach the flat minimum (seconds).")]
