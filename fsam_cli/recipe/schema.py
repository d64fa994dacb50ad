"""What a recipe may say: frozen, strict objects; unknown keys are refused.

A recipe is parsed once into these; past this point nobody asks a dictionary for a key with a
default. This module imports no torch, and knows no method, model or data set by name: their own
settings travel as a plain mapping (`settings`) and are validated by the part that is named.
"""

from __future__ import annotations

import math
import re
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, get_args, get_origin

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    PositiveFloat,
    model_validator,
)

from fsam_cli.errors import UsageError
from fsam_cli.names import RULE, may_name

# Beyond these a number is a slip of the pen, and would only hang or crash what loops over it.
MOST_EPOCHS = 100_000
MOST_SEEDS = 10_000
MOST_THREADS = 512
MOST_REPLICAS = 64
MOST_PIXELS = 4096  # a side of an image

Normalise = Literal["data", "imagenet", "half"]


class Settings(BaseModel):
    """Base of everything a recipe is parsed into: frozen, strict, unknown keys refused."""

    model_config = ConfigDict(frozen=True, strict=True, extra="forbid", allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _lists_for_tuples(cls, value: Any) -> Any:
        """YAML has lists only, and a frozen object should hold tuples."""
        if not isinstance(value, dict):
            return value
        return {
            key: tuple(entry) if isinstance(entry, list) and _takes_tuple(cls, key) else entry
            for key, entry in value.items()
        }


def _takes_tuple(kind: type[Settings], key: Any) -> bool:
    field = kind.model_fields.get(key)
    wanted = (field.annotation, *get_args(field.annotation)) if field else ()
    return any(each is tuple or get_origin(each) is tuple for each in wanted)


class NamedPart(Settings):
    """A part chosen by name, with that part's own settings still unparsed beside it."""

    name: str
    settings: dict[str, Any] = Field(default_factory=dict)

    # Keys of the recipe section that belong to the section and not to the part.
    section_keys: ClassVar[frozenset[str]] = frozenset()

    @model_validator(mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        """`resnet20` and `{name: resnet20, norm: group}` are both written by people."""
        if isinstance(value, str):
            return {"name": value}
        if not isinstance(value, dict) or isinstance(value.get("settings"), dict):
            return value
        own = {"name", *cls.section_keys}
        section = {key: entry for key, entry in value.items() if key in own}
        rest = {key: entry for key, entry in value.items() if key not in own}
        return {**section, "settings": rest}


class LabelNoise(Settings):
    """Symmetric label noise on the training labels (paper, Section 5.5); a number is its rate.

    Exactly `round(n * rate)` labels are drawn. `different` gives each another class, uniformly;
    `uniform` draws from all classes, so that about `1/classes` of them stay what they were.
    """

    rate: float = Field(ge=0, le=1)
    flip: Literal["different", "uniform"] = "different"

    @model_validator(mode="before")
    @classmethod
    def _rate_alone(cls, value: Any) -> Any:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        return {"rate": value} if is_number else value


def _none_of_rate_0(noise: LabelNoise | None) -> LabelNoise | None:
    """No label drawn is no noise, however it would be drawn: one setting, one identity."""
    return noise if noise is not None and noise.rate else None


class Data(NamedPart):
    """The data set by name, how a network sees it, its label noise and validation part."""

    section_keys = frozenset(
        {"root", "resize", "normalise", "augment", "label_noise", "validation"}
    )

    root: str | None = None  # where the files lie; relative to the recipe's folder
    # Pixels a side that every image is brought to (bicubic, antialiased) before anything else.
    resize: int | None = Field(None, gt=0, le=MOST_PIXELS)
    # By whose mean and standard deviation: of the training set, or those that a pre-trained
    # network was trained with (`half`: 0.5 and 0.5).
    normalise: Normalise = "data"
    augment: tuple[NamedPart, ...] = ()
    label_noise: Annotated[LabelNoise | None, AfterValidator(_none_of_rate_0)] = None
    validation: float = Field(0.1, ge=0, lt=1)  # share of the training set, cut after the noise


class ModelSection(NamedPart):
    """The network by name, and the weights it starts from."""

    section_keys = frozenset({"init_from"})

    # A file of weights; beside the recipe, or in the data folder. Without one they are drawn.
    init_from: str | None = None


class Optimizer(NamedPart):
    """The base optimiser, by its torch name in any case; its settings are torch's own."""

    name: str = "sgd"


class Train(Settings):
    """The training protocol, equal for every method of the recipe."""

    epochs: int | None = Field(None, gt=0, le=MOST_EPOCHS)
    # Forward-backward passes per training image: each method trains for the whole number of
    # epochs nearest to what this buys it (SGD gets twice SAM's).
    gradient_evaluations: float | None = Field(None, gt=0, le=MOST_EPOCHS)
    batch_size: int = Field(128, gt=0)
    micro_batch_size: int | None = Field(None, gt=0)  # accumulate over micro-batches of this size
    optimizer: Optimizer = Field(default_factory=Optimizer)
    lr: float = Field(0.1, gt=0)  # of each method that has none of its own
    schedule: Literal["cosine", "constant"] = "cosine"  # stepped per iteration, to 0
    warmup_epochs: float = Field(0.0, ge=0)  # linear, from lr / steps
    label_smoothing: float = Field(0.0, ge=0, lt=1)
    clip_norm: float | None = Field(None, gt=0)  # of the gradient that the update uses
    ema: float | None = Field(None, gt=0, lt=1)  # decay per step of averaged evaluation weights
    select: Literal["last", "validation"] = "last"  # whose weights are kept and reported first
    evaluate_every: int = Field(1, gt=0)  # epochs; the last epoch is always evaluated
    diagnostics: Literal["off", "basic", "full"] = "basic"

    @model_validator(mode="after")
    def _one_budget(self) -> Train:
        if (self.epochs is None) == (self.gradient_evaluations is None):
            raise ValueError(
                "exactly one of epochs and gradient_evaluations must be given (null takes one back)"
            )
        return self

    @property
    def budget(self) -> float:
        """In epochs or gradient evaluations, whichever is given; a method's epochs come of it."""
        return self.epochs or self.gradient_evaluations or 0.0


class Method(NamedPart):
    """One column of the table: a minimiser, its settings, its share of the epochs, and perhaps a
    learning rate of its own."""

    section_keys = frozenset({"epochs_factor", "lr"})

    epochs_factor: float = Field(1.0, gt=0, le=1000)  # 2 gives SGD the gradient evaluations of SAM
    lr: float | None = Field(None, gt=0)  # instead of train.lr


def named_by_label(label: Any, entry: Any) -> Any:
    """`sam: {rho: 0.1}` is short for `sam: {method: sam, rho: 0.1}`, and `sam: null` for
    `sam: {method: sam}`."""
    given = {} if entry is None else entry
    if not isinstance(given, dict) or "name" in given:
        return given
    rest = {key: setting for key, setting in given.items() if key != "method"}
    return {"name": given.get("method", label), **rest}


def _seeds(value: Any) -> Any:
    """`3`, `[0, 1, 2]` and `0:3` (0, 1 and 2) all name seeds."""
    if isinstance(value, int) and not isinstance(value, bool):
        return (value,)
    if isinstance(value, str):
        if re.fullmatch(r"\d+(\s*,\s*\d+)*,?", value.strip()):
            listed = ",".join(re.findall(r"\d+", value))
            raise ValueError(f"{value!r} is not a list; write [{listed}]")
        match = re.fullmatch(r"(\d+):(\d+)", value.strip())
        if not match or int(match[1]) >= int(match[2]):
            raise ValueError(f"{value!r} is not a range; write 0:5 for the seeds 0 to 4")
        if int(match[2]) - int(match[1]) > MOST_SEEDS:
            raise ValueError(f"{value!r} are more than {MOST_SEEDS:,} seeds")
        return tuple(range(int(match[1]), int(match[2])))
    return value


def _paths(value: Any) -> Any:
    """`mine.py` and `[mine.py, ours.py]` both name files."""
    return (value,) if isinstance(value, str) else value


_of_a_list = BeforeValidator(lambda value: tuple(value) if isinstance(value, list) else value)


class Sweep(Settings):
    """A grid of settings, every point of which is trained with every seed; and where `--tune`
    searches."""

    grid: dict[str, Annotated[tuple[Any, ...], _of_a_list]] = {}  # by dotted key of the recipe
    # Lowest and highest value by key, beside or instead of what the methods declare.
    space: dict[str, Annotated[tuple[PositiveFloat, PositiveFloat], _of_a_list]] = {}
    # What the best point is chosen by; `test` only to redo a paper that did.
    select: Literal["validation", "test"] = "validation"

    @model_validator(mode="after")
    def _something_in_order(self) -> Sweep:
        if not self.grid and not self.space:
            raise ValueError("give a grid, or a space for --tune")
        for key, (low, high) in self.space.items():
            if not low < high < math.inf:
                raise ValueError(f"the space of {key} goes from low to high: [{high:g}, {low:g}]")
        return self


class Recipe(Settings):
    """A whole experiment: every method of `methods` is trained with every seed of `seeds`."""

    name: str  # of the folder of its runs; by default the file's
    description: str = ""
    # Files with parts of the user's own; relative to the recipe's folder, `~` allowed.
    plugins: Annotated[tuple[str, ...], BeforeValidator(_paths)] = ()
    data: Data
    model: ModelSection
    train: Train
    methods: dict[str, Method] = Field(min_length=1)
    seeds: Annotated[
        tuple[Annotated[int, Field(ge=0)], ...], BeforeValidator(_seeds), Field(min_length=1)
    ] = (0, 1, 2, 3, 4)
    device: Literal["auto", "cpu", "cuda"] = "auto"
    precision: Literal["fp32", "bf16", "auto"] = "fp32"
    # What torch.compile makes one loop of: the minimiser's passes over the weights, or these and
    # the network. Without a compiler on the machine, nothing; that is said, and recorded.
    compile: Literal["none", "minimiser", "all"] = "none"
    # On a CUDA device, whole steps as CUDA graphs: fewer launches, the same numbers to rounding.
    cuda_graph: bool = False
    channels_last: bool = True
    threads: int = Field(1, gt=0, le=MOST_THREADS)  # CPU threads of each run: part of its identity
    # Processes that train each run together, each on its part of every batch: on GPUs one on each,
    # on CPUs each with `threads`.
    replicas: int = Field(1, gt=0, le=MOST_REPLICAS)
    sweep: Sweep | None = None  # for `fsam sweep`

    @model_validator(mode="before")
    @classmethod
    def _methods_named_by_label(cls, value: Any) -> Any:
        if not isinstance(value, dict) or not isinstance(value.get("methods"), dict):
            return value
        methods = {label: named_by_label(label, entry) for label, entry in value["methods"].items()}
        return {**value, "methods": methods}

    @model_validator(mode="after")
    def _names_are_plain(self) -> Recipe:
        for key, label in (("name", self.name), *(("methods", label) for label in self.methods)):
            if not may_name(label):
                raise ValueError(f"{key}: {label!r} names a folder; {RULE}")
        if len(set(self.seeds)) != len(self.seeds):
            raise ValueError("seeds are repeated; each may be named once")
        return self


def data_root(data: Data, recipe_folder: Path, override: Path | None) -> Path | None:
    """Where the data lie: the command line wins, then the recipe (relative to its folder)."""
    if override is not None:
        return override
    if data.root is None:
        return None
    return recipe_folder / expanded(Path(data.root))


def expanded(path: Path) -> Path:
    """The path with `~` and `~user` replaced.

    Raises:
        UsageError: no such user, or no home.
    """
    try:
        return path.expanduser()
    except RuntimeError:
        raise UsageError(f"{path}: no such home folder; write the whole path") from None
