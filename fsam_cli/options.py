"""What each command can be asked for: the fields of a request are its options and arguments, in the
order of its help. Those of several commands are named once, above."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import typer


def at_home(value: Any) -> Any:
    """`~` where a shell leaves it alone, as in `--out=~/runs` and in FSAM_DATA."""
    if isinstance(value, list):
        return [at_home(each) for each in value]
    return Path(os.path.expanduser(value)) if isinstance(value, Path) else value  # noqa: PTH111


def labels(value: list[str]) -> list[str]:
    """`--only a,b --only c` as three."""
    return [label.strip() for each in value for label in each.split(",")]


# An option that may be repeated; an argument has no such default where click is older than 8.3.
SEVERAL: dict[str, Any] = {"default_factory": list, "show_default": False}
ROOTS = [Path("runs")]  # where none are given

RecipeOption = Annotated[
    str,
    typer.Option(
        "--recipe", "-r", help="A file, or the name of a shipped recipe: fsam recipes ls."
    ),
]
Overrides = Annotated[
    list[str] | None,
    typer.Argument(metavar="KEY=VALUE", help="Override recipe keys: train.epochs=5 seeds=0:5."),
]
Plugins = Annotated[
    list[Path],  # relative to the working directory
    typer.Option(
        "--plugin",
        metavar="FILE.py",
        callback=at_home,
        help="Your own method, model, data or augmentation; repeatable.",
        **SEVERAL,
    ),
]
Out = Annotated[Path, typer.Option(callback=at_home, help="The folder of all runs.")]
Roots = Annotated[
    list[Path] | None,
    typer.Argument(metavar="ROOTS", callback=at_home, help="Default: runs/", show_default=False),
]
Jobs = Annotated[
    int | None,
    typer.Option(
        "--jobs", "-j", min=1, help="Runs at once. Default: cores / threads, or one on each GPU."
    ),
]
Shard = Annotated[
    str, typer.Option(metavar="I/N", help="Take the I-th of N parts of the runs (1-based).")
]
Only = Annotated[
    list[str],
    typer.Option(
        metavar="A,B",
        callback=labels,
        help="Method labels; repeatable.",
        **SEVERAL,
    ),
]
Device = Annotated[Literal["auto", "cpu", "cuda"], typer.Option(help="Where to compute.")]
RecipeDevice = Annotated[
    Literal["auto", "cpu", "cuda"] | None, typer.Option(help="Overrides the recipe's.")
]
DataDir = Annotated[
    Path | None,
    typer.Option(envvar="FSAM_DATA", callback=at_home, help="Where data sets lie."),
]
DryRun = Annotated[
    bool, typer.Option("--dry-run", help="Show the runs and their cost; train none.")
]
Rerun = Annotated[
    Literal["failed", "all", "none"], typer.Option(help="Which finished runs to train again.")
]
FailFast = Annotated[bool, typer.Option("--fail-fast", help="Stop at the first bad run.")]
ForceResume = Annotated[
    bool,
    typer.Option("--force-resume", help="Resume although torch or the device changed (not exact)."),
]
CheckpointEvery = Annotated[
    float, typer.Option(metavar="SECONDS", min=0, help="Seconds between checkpoints.")
]
Format = Annotated[
    Literal["table", "markdown", "csv", "json"],
    typer.Option("--format", "-f", help="How results are printed."),
]
ReportFormat = Annotated[
    Literal["table", "markdown", "latex", "csv", "json"],
    typer.Option("--format", "-f", help="How results are printed."),
]
Versus = Annotated[
    str | None,
    typer.Option(
        metavar="LABEL",
        help="Also each method's difference from LABEL, paired by seed where possible.",
    ),
]
Figures = Annotated[
    Path | None, typer.Option(callback=at_home, help="Draw pictures into this folder.")
]
Quiet = Annotated[bool, typer.Option("--quiet", "-q", help="Print no progress.")]


@dataclass(frozen=True, kw_only=True)
class TrainRequest:
    """`fsam train`."""

    recipe: RecipeOption
    overrides: Overrides = None
    plugins: Plugins
    out: Out = Path("runs")
    jobs: Jobs = None
    shard: Shard = "1/1"
    only: Only
    device: RecipeDevice = None
    data_dir: DataDir = None
    download: Annotated[bool, typer.Option("--download", help="Fetch the data set first.")] = False
    dry_run: DryRun = False
    rerun: Rerun = "failed"
    fail_fast: FailFast = False
    force_resume: ForceResume = False
    checkpoint_every: CheckpointEvery = 30.0
    format: Format = "table"
    versus: Versus = None
    quiet: Quiet = False


@dataclass(frozen=True, kw_only=True)
class SweepRequest:
    """`fsam sweep`: of a grid, or with `tune` of every method's own space."""

    recipe: RecipeOption
    overrides: Overrides = None
    grid: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=V1,V2,...",
            help="A setting and its values, gamma=0.05,0.1 or train.lr=0.1,0.2; repeatable. "
            "Replaces the grid of the recipe.",
            **SEVERAL,
        ),
    ]
    select: Annotated[
        Literal["validation", "test"] | None,
        typer.Option(help="What points are compared by. Default: validation."),
    ] = None
    tune: Annotated[
        bool, typer.Option("--tune", help="Search every method's own space with equal budgets.")
    ] = False
    trials: Annotated[
        int | None, typer.Option(min=1, help="With --tune: trials per method. Default: 12.")
    ] = None
    tuning_seeds: Annotated[
        int | None, typer.Option(min=1, help="With --tune: seeds per trial. Default: 1.")
    ] = None
    space: Annotated[
        list[str],
        typer.Option(
            metavar="KEY=LOW:HIGH",
            help="With --tune: search this setting too, or in this range: train.lr=0.02:0.5 (all "
            "methods) or rho=0.05:1; repeatable.",
            **SEVERAL,
        ),
    ]
    write_recipe: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE.yaml",
            callback=at_home,
            help="With --tune: write the winners as a recipe; never overwrites.",
        ),
    ] = None
    figures: Figures = None
    plugins: Plugins
    out: Out = Path("runs")
    jobs: Jobs = None
    shard: Shard = "1/1"
    only: Only
    device: RecipeDevice = None
    data_dir: DataDir = None
    dry_run: DryRun = False
    rerun: Rerun = "failed"
    fail_fast: FailFast = False
    force_resume: ForceResume = False
    checkpoint_every: CheckpointEvery = 30.0
    format: Format = "table"
    quiet: Quiet = False


@dataclass(frozen=True, kw_only=True)
class PerturbRequest:
    """`fsam perturb`."""

    runs: Annotated[
        list[Path] | None,
        typer.Argument(
            metavar="RUNS",
            callback=at_home,
            help="Folders of runs, or weight files. Default: runs/",
            show_default=False,
        ),
    ] = None
    only: Only
    alpha: Annotated[
        str,
        typer.Option(
            metavar="LOW:HIGH", help="11 even strengths, both ends; or LOW:HIGH:STEP; or a,b,c."
        ),
    ] = "0.1:5.0"
    direction: Annotated[
        Literal["gradient", "gaussian"],
        typer.Option(help="Along the loss gradient, or along random noise."),
    ] = "gradient"
    draws: Annotated[
        int | None, typer.Option(min=1, help="Random directions per run. Default: 5.")
    ] = None
    gradient_split: Annotated[
        Literal["train", "test"] | None,
        typer.Option(help="Split whose loss gradient is followed. Default: train."),
    ] = None
    relative: Annotated[
        Literal["none", "filter"],
        typer.Option(help="filter: alpha is relative to the norm of each filter."),
    ] = "none"
    recalibrated: Annotated[
        bool,
        typer.Option(
            "--recalibrate-batchnorm", help="Re-estimate batch statistics at each strength."
        ),
    ] = False
    recipe: Annotated[
        str | None,
        typer.Option("--recipe", "-r", help="Recipe with the data and model of weight files."),
    ] = None
    plugins: Plugins
    device: Device = "auto"
    data_dir: DataDir = None
    figures: Figures = None
    versus: Versus = None
    format: ReportFormat = "table"
    quiet: Quiet = False


@dataclass(frozen=True, kw_only=True)
class SharpnessRequest:
    """`fsam sharpness`."""

    roots: Roots = None
    only: Only
    images: Annotated[
        str,
        typer.Option(metavar="N", help="Training images that the loss is a mean over; or 'all'."),
    ] = "1000"
    hessian: Annotated[
        bool, typer.Option(help="The largest eigenvalue and the trace of the loss's Hessian.")
    ] = True
    draws: Annotated[int, typer.Option(min=1, help="Random sign vectors for the trace.")] = 10
    within: Annotated[
        list[str],
        typer.Option(
            metavar="METHOD[:KEY=VALUE,...]",
            help="In whose neighbourhood the rise of the loss is measured, e.g. sam:rho=0.1; "
            "repeatable. Default: sam, asam and fsam, as the methods' defaults are.",
            **SEVERAL,
        ),
    ]
    m: Annotated[
        int, typer.Option(min=1, help="Images of a micro-batch, each of which climbs alone.")
    ] = 128
    plugins: Plugins
    device: Device = "auto"
    data_dir: DataDir = None
    figures: Figures = None
    versus: Versus = None
    format: ReportFormat = "table"
    quiet: Quiet = False


@dataclass(frozen=True, kw_only=True)
class ReportRequest:
    """`fsam report`."""

    roots: Roots = None
    only: Only
    format: ReportFormat = "table"
    out: Annotated[
        Path | None,
        typer.Option(
            callback=at_home,
            help="Write report.md, .tex, .csv, .json, runs.csv, differences.csv, gates.csv here.",
        ),
    ] = None
    figures: Figures = None
    best_test: Annotated[
        bool, typer.Option(help="Also the best test epoch, which selects on the test set.")
    ] = False
    versus: Versus = None
    published: Annotated[
        bool, typer.Option("--published", help="The paper's numbers, and where a run departs.")
    ] = False
    gates: Annotated[
        list[str],
        typer.Option(
            "--gate",
            metavar="CLAIM",
            help="Exit with code 3 unless it holds: complete, 'sam >= 90' (mean, %), 'sam > sgd', "
            "'fsam > sam - 0.5' (95 % interval, points); repeatable.",
            **SEVERAL,
        ),
    ]


@dataclass(frozen=True, kw_only=True)
class ToyRequest:
    """`fsam toy`."""

    energy: Annotated[
        Literal["paper", "kl"],
        typer.Option(help="paper gives the published minima; kl is the printed formula."),
    ] = "paper"
    basins: Annotated[
        bool, typer.Option(help="Map which starts reach the flat minimum (seconds).")
    ] = True
    figures: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", callback=at_home, help="Draw Figures 1 to 3 and the basins here."
        ),
    ] = None
    format: Format = "table"


@dataclass(frozen=True, kw_only=True)
class ModelsRequest:
    """`fsam models`."""

    classes: Annotated[int, typer.Option(min=2, help="Number of classes.")] = 10
    image_size: Annotated[int, typer.Option(min=1, help="Height and width in pixels.")] = 32
    channels: Annotated[int, typer.Option(min=1, help="Number of image channels.")] = 3
    plugins: Plugins
    format: Format = "table"


@dataclass(frozen=True, kw_only=True)
class BenchRequest:
    """`fsam bench`."""

    models: Annotated[
        str | None, typer.Option(metavar="A,B", help="Networks. Default: resnet20,wrn28_10")
    ] = None
    methods: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="Methods. Default: sgd,sam,asam,fsam (whole steps: without asam)."
        ),
    ] = None
    recipe: Annotated[
        str | None, typer.Option("--recipe", "-r", help="Takes model, methods, batch size from it.")
    ] = None
    only: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="Sections: minimiser, step, augmentation, peers, runs. Default: all"
        ),
    ] = None
    variants: Annotated[
        str | None,
        typer.Option(
            metavar="A,B", help="Whole steps in fp32, fp32-channels-last, bf16-channels-last."
        ),
    ] = None
    batch_size: Annotated[
        int | None,
        typer.Option(min=2, help="Images. Default: 128, on a CPU fewer if time is short."),
    ] = None
    threads: Annotated[
        int | None, typer.Option(min=1, max=512, help="CPU threads. Default: torch's.")
    ] = None
    device: Device = "auto"
    seconds: Annotated[
        float, typer.Option(min=0, help="Seconds of measuring for each network and section.")
    ] = 12.0
    repeats: Annotated[int | None, typer.Option(min=3, help="Rounds, instead of --seconds.")] = None
    at_once: Annotated[
        str | None,
        typer.Option(metavar="1,2,4", help="Numbers of runs at once. Default: powers of two."),
    ] = None
    peers: Annotated[
        list[Path],
        typer.Option(
            "--peer",
            metavar="FILE.py",
            callback=at_home,
            help="Another implementation of SAM; repeatable.",
            **SEVERAL,
        ),
    ]
    plugins: Plugins
    out: Annotated[
        Path | None, typer.Option(callback=at_home, help="Write bench.json and bench.md here.")
    ] = None
    figures: Figures = None
    format: Format = "table"
    quiet: Quiet = False


@dataclass(frozen=True, kw_only=True)
class RecipesRequest:
    """`fsam recipes ls`."""

    format: Format = "table"


@dataclass(frozen=True, kw_only=True)
class RecipeRequest:
    """`fsam recipes show` and `fsam recipes validate`."""

    recipe: Annotated[str, typer.Argument(help="A file or a shipped name.")]
    plugins: Plugins
    overrides: Overrides = None


@dataclass(frozen=True, kw_only=True)
class CopyRequest:
    """`fsam recipes cp`."""

    recipe: Annotated[str, typer.Argument(help="A shipped name or a file.")]
    target: Annotated[str, typer.Argument(help="A new file, or a folder.")] = "."


@dataclass(frozen=True, kw_only=True)
class RunsRequest:
    """`fsam runs ls`."""

    roots: Roots = None
    format: Format = "table"


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """`fsam runs show`."""

    run: Annotated[Path, typer.Argument(callback=at_home, help="A run directory.")]


@dataclass(frozen=True, kw_only=True)
class CleanRequest:
    """`fsam runs clean`."""

    roots: Roots = None
    status: Annotated[
        str,
        typer.Option(
            help="Comma-separated: planned, interrupted, failed, diverged, done, unreadable."
        ),
    ] = "planned,failed"
    yes: Annotated[bool, typer.Option("--yes", help="Remove; without it, only say what.")] = False
