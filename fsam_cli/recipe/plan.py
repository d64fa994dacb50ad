"""From an experiment to its runs: method x seed, each with an identity and a folder.

A run's identity is what changes its numbers and nothing else: the recipe reduced to this method,
the content of the data, the resolved precision, the threads, and `NUMERICS`. (`diagnostics`,
`evaluate_every` and `select` are in it because they say what is recorded: a run without the rows
and columns that are asked for is not the run that was asked for.) A part of the user's own adds the
hash of its file. Runs equal in everything but the seed share the identity's hash and form one cell
of a table.
"""

from __future__ import annotations

import hashlib
import json
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache, cached_property, partial
from pathlib import Path
from typing import Any, Literal

from fsam_cli.augment._contract import Augmentation
from fsam_cli.datasets._contract import DataSet, Fingerprint
from fsam_cli.errors import UsageError, did_you_mean, in_a_line
from fsam_cli.minimisers._contract import Minimiser
from fsam_cli.models._contract import Model
from fsam_cli.plugins import PluginFile, blaming, origin
from fsam_cli.recipe.initial import InitialWeights, initial_weights
from fsam_cli.recipe.load import Experiment
from fsam_cli.recipe.optimizers import settings_apart
from fsam_cli.recipe.schema import NamedPart, Recipe, Settings, data_root
from fsam_cli.records.checks import SCHEMA

Compile = Literal["none", "minimiser", "all"]

# Raised whenever a change of fsam's own code changes the numbers of a run (see CHANGELOG).
NUMERICS = 4


@dataclass(frozen=True)
class RunPlan:
    """Everything one training needs; it can be sent to another process.

    What the recipe says is read from `recipe`. The fields beside it are what came of it here: parts
    that were built, files that were found, choices that were left to the machine. What follows from
    these is worked out when it is first asked for.
    """

    # Those whose parts this run uses. They stand first, so that the other process loads them
    # before it comes to the objects of their classes.
    plugins: tuple[PluginFile, ...]
    recipe: Recipe  # with all its methods; this run is of one
    label: str  # of that method
    seed: int
    out: Path  # the folder of all runs

    data: DataSet
    data_root: Path | None
    fingerprint: Fingerprint
    augment: tuple[Augmentation, ...]
    model: Model
    initial: InitialWeights | None  # None: drawn
    method: Minimiser
    device: Literal["cpu", "cuda"]
    precision: Literal["fp32", "bf16"]
    compile: Compile  # `none` where it cannot be
    cuda_graph: bool

    # What it was planned for, which is no part of what it is.
    planned_labels: tuple[str, ...]  # of all methods that were planned together
    trial: bool  # of a tuning: its seed has chosen the settings
    # Keys of the protocol that methods have for themselves: the recipe says so, or a tuning
    # searches them for some method.
    tuned: tuple[str, ...] = ()

    @property
    def lr(self) -> float:
        """The highest learning rate: this method's own, or the protocol's."""
        own = self.recipe.methods[self.label].lr
        return self.recipe.train.lr if own is None else own

    @cached_property
    def epochs(self) -> int:
        """Whole epochs of this method; with a budget in gradient evaluations, those whose passes
        per image come nearest to it."""
        train, classes = self.recipe.train, self.fingerprint.classes
        budget = train.budget * self.recipe.methods[self.label].epochs_factor
        if train.epochs is not None:
            return max(1, round(budget))
        candidates = range(1, max(2, round(budget) + 1))  # every epoch costs at least one pass
        passes = partial(self.method.passes, classes=classes)
        above = bisect_left(candidates, budget, key=passes)  # more epochs, more passes
        nearest = candidates[max(0, above - 1) : above + 1]
        return min(nearest, key=lambda epochs: abs(passes(epochs) - budget))

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what the network sees."""
        channels, height, width = self.fingerprint.shape
        size = self.recipe.data.resize
        return channels, size or height, size or width

    @property
    def training_images(self) -> int:
        """Images trained on: the training set without the validation part."""
        return self.fingerprint.train_size - self.validation_images

    @property
    def validation_images(self) -> int:
        """Images of the training set that are held out."""
        return round(self.fingerprint.train_size * self.recipe.data.validation)

    @property
    def sample_gradients(self) -> int:
        """Forward-backward passes of one image that the whole run costs; where only some steps
        climb, but for what their batches are larger or smaller than others."""
        per_image = self.method.passes(self.epochs, self.fingerprint.classes)
        return round(self.training_images * per_image)

    @cached_property
    def folder(self) -> Path:
        """The run directory."""
        return self.out / self.recipe.name / self.label / f"seed{self.seed}-{self.cell}"

    @cached_property
    def cell(self) -> str:
        """The identity's hash."""
        return identity_hash(self.config)

    @cached_property
    def config(self) -> dict[str, Any]:
        """The identity, as recorded: all that changes the numbers of a method's runs, and nothing
        else; not the seed."""
        recipe, train, noise = self.recipe, self.recipe.train, self.recipe.data.label_noise
        return {
            "data": {
                **self._part("datasets", recipe.data, self.data),
                "digest": self.fingerprint.digest,
                # What most recipes leave as it is names no run: runs on record keep their names.
                **recipe.data.model_dump(include={"resize", "normalise"}, exclude_defaults=True),
            },
            "augment": [
                self._part("augment", named, part)
                for named, part in zip(recipe.data.augment, self.augment, strict=True)
            ],
            "label_noise": noise and noise.model_dump(mode="json"),
            "validation": recipe.data.validation,
            "model": {
                **self._part("models", recipe.model, self.model),
                **({} if self.initial is None else {"init_from": self.initial.digest}),
            },
            "train": {
                **train.model_dump(mode="json", exclude={"gradient_evaluations", "optimizer"}),
                "epochs": self.epochs,
                "lr": self.lr,
                "optimizer": {
                    "name": train.optimizer.name.lower(),
                    **settings_apart(train.optimizer),
                },
            },
            # An option that every method has and this one leaves out is not part of what it is.
            "method": self._part(
                "minimisers", recipe.methods[self.label], self.method, exclude_none=True
            ),
            "precision": self.precision,
            **({} if self.compile == "none" else {"compile": self.compile}),
            "channels_last": recipe.channels_last,
            "threads": recipe.threads,
            **recipe.model_dump(include={"replicas"}, exclude_defaults=True),
            "numerics": NUMERICS,
        }

    def _part(
        self, room: str, named: NamedPart, part: Settings, *, exclude_none: bool = False
    ) -> dict[str, Any]:
        """Name and settings, and the hash of the plugin that provides it, if one does."""
        plugin = origin(self.plugins, room, named.name)
        return {
            "name": named.name,
            **part.model_dump(mode="json", exclude_none=exclude_none),
            **({} if plugin is None else {"plugin": plugin.sha256}),
        }

    def record(self) -> dict[str, Any]:
        """What config.yaml holds."""
        plugins = [{"file": each.path.name, "sha256": each.sha256} for each in self.plugins]
        return {
            "schema": SCHEMA,
            "run": {
                "recipe": self.recipe.name,
                "label": self.label,
                "seed": self.seed,
                "cell": self.cell,
            },
            "planned": {
                "labels": list(self.planned_labels),
                "seeds": list(self.recipe.seeds),
                "epochs": self.recipe.train.budget,
                **({"trial": True} if self.trial else {}),
                **({"tuned": list(self.tuned)} if self.tuned else {}),
            },
            "data_verified": self.fingerprint.verified,
            "data_root": None if self.data_root is None else str(self.data_root.resolve()),
            **({} if self.initial is None else {"init_from": str(self.initial.path.resolve())}),
            **({"plugins": plugins} if plugins else {}),
            "config": self.config,
        }

    def copies(self) -> dict[str, bytes]:
        """The plugin files, by name, that are kept beside config.yaml."""
        return {plugin.path.name: plugin.content for plugin in self.plugins}


def identity_hash(config: dict[str, Any]) -> str:
    """Eight hexadecimal digits of the SHA-256 of the canonical JSON."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def plan(
    experiment: Experiment,
    *,
    out: Path,
    device: Literal["auto", "cpu", "cuda"] | None = None,
    data_dir: Path | None = None,
    only: tuple[str, ...] = (),
    trial: bool = False,
) -> list[RunPlan]:
    """The runs of an experiment, seed by seed, so that an unfinished table is a paired one.

    Args:
        experiment: from `load_experiment`.
        out: the folder of all runs.
        device: overrides the recipe's.
        data_dir: overrides the recipe's data root.
        only: labels to plan; all when empty.
        trial: they are to choose settings, and are no part of a result.

    Raises:
        DataError: the data set cannot be identified.
        UsageError: an unknown label, a device or weights that are not there, replicas that there
            is no room for, a validation part that leaves nothing to train on or to validate with,
            numbers to normalise by for other channels, epochs in which a method never climbs or
            only warms up, or a method that needs one gradient per image of a network that has none.
    """
    recipe = experiment.recipe
    unknown = [label for label in only if label not in recipe.methods]
    if unknown:
        there = did_you_mean(unknown[0], recipe.methods)
        raise UsageError(f"--only: no method '{unknown[0]}' in {experiment.source}; {there}")
    chosen_device = resolve_device(device or recipe.device)
    root = data_root(recipe.data, experiment.folder, data_dir)
    with blaming(origin(experiment.plugins, "datasets", recipe.data.name)):
        fingerprint = experiment.data.fingerprint(root)
    _refuse_empty_parts(experiment, fingerprint.train_size)
    _refuse_other_channels(experiment, fingerprint.shape[0])
    with blaming(origin(experiment.plugins, "models", recipe.model.name)):
        experiment.model.check()
    file = recipe.model.init_from
    initial = None if file is None else initial_weights(file, experiment.folder, root)
    labels = tuple(dict.fromkeys(only)) or tuple(recipe.methods)
    automatic: Literal["fp32", "bf16"] = "bf16" if has_bf16_gpu(chosen_device) else "fp32"
    runs = [
        RunPlan(
            plugins=experiment.plugins_of(label),
            recipe=recipe,
            label=label,
            seed=seed,
            out=out,
            data=experiment.data,
            data_root=root,
            fingerprint=fingerprint,
            augment=experiment.augment,
            model=experiment.model,
            initial=initial,
            method=experiment.methods[label],
            device=chosen_device,
            precision=automatic if recipe.precision == "auto" else recipe.precision,
            compile="none" if why_not_compiled(recipe.compile, chosen_device) else recipe.compile,
            cuda_graph=recipe.cuda_graph and chosen_device == "cuda" and recipe.replicas == 1,
            planned_labels=labels,
            trial=trial,
            tuned=own_of_methods(recipe),
        )
        for seed in recipe.seeds
        for label in labels
    ]
    _refuse_replicas(experiment, chosen_device, runs[0].training_images)
    _refuse_mixed_images(runs, experiment.source)
    _refuse_mixed_labels(runs, experiment.source)
    for run in runs:
        with blaming(origin(run.plugins, "minimisers", recipe.methods[run.label].name)):
            _refuse_idle_epochs(run, experiment.source)
    return runs


def own_of_methods(recipe: Recipe) -> tuple[str, ...]:
    """Keys of the protocol that some method of the recipe, planned or not, has for itself."""
    return ("train.lr",) if any(each.lr is not None for each in recipe.methods.values()) else ()


def _refuse_empty_parts(experiment: Experiment, size: int) -> None:
    share = experiment.recipe.data.validation
    held = round(size * share)
    if (share and not held) or size - held < 2:
        raise UsageError(
            f"{experiment.source}: data.validation: {share} of {size:,} images are {held:,} to "
            f"validate with and {size - held:,} to train on; write another share, or 0 for none"
        )


def _refuse_replicas(experiment: Experiment, device: Literal["cpu", "cuda"], images: int) -> None:
    """Raise UsageError for replicas that this machine or their batches have no room for."""
    import torch

    recipe = experiment.recipe
    source = f"{experiment.source}: replicas: {recipe.replicas}"
    if recipe.replicas == 1:
        return
    if not (torch.distributed.is_available() and torch.distributed.is_gloo_available()):
        raise UsageError(f"{source}: this torch has no gloo to connect them; write replicas: 1")
    if device == "cuda" and recipe.replicas > torch.cuda.device_count():
        raise UsageError(
            f"{source}: each has a GPU of its own, and this machine has "
            f"{torch.cuda.device_count()}; write a number up to that"
        )
    batch = min(recipe.train.batch_size, images)
    if batch < 2 * recipe.replicas:
        raise UsageError(
            f"{source}: a batch of {batch} has less than two images for each; write fewer "
            "replicas, or a larger train.batch_size"
        )
    for label, method in experiment.methods.items():
        if method.remembers and method.m_sharpness is not None:
            raise UsageError(
                f"{source}: methods.{label} remembers the gradients of single hills (m_sharpness), "
                "which every replica has others of; write replicas: 1, or leave m_sharpness out"
            )


def _refuse_other_channels(experiment: Experiment, channels: int) -> None:
    if experiment.recipe.data.normalise == "imagenet" and channels != 3:
        raise UsageError(
            f"{experiment.source}: data.normalise: imagenet has numbers for 3 channels, and these "
            f"images have {channels}; use data or half"
        )


def _refuse_mixed_images(runs: Sequence[RunPlan], source: str) -> None:
    """Methods with one gradient per image, over a network of which only the network itself tells
    that it takes statistics of batches: its settings have no `norm`."""
    run = next((run for run in runs if run.method.fisher_source is not None), None)
    if run is None:
        return
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    channels, size, _ = run.input_shape
    try:
        with torch.device("meta"):  # no memory for its weights
            network = run.model.build(
                channels=channels, classes=run.fingerprint.classes, image_size=size
            )
            network.train()  # in which some keep a part of theirs in another mode
    except Exception:  # not every network can be built like that; then the training tells
        return
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            raise UsageError(
                f"{source}: methods.{run.label}: the Fisher information "
                f"'{run.method.fisher_source}' needs one gradient per image, and '{name}' "
                f"({type(module).__name__}) of the model {run.recipe.model.name} mixes the images "
                "of a batch; use a model without batch normalisation, or fsam with fisher: "
                "gradient_magnitude"
            )


def _refuse_mixed_labels(runs: Sequence[RunPlan], source: str) -> None:
    """The empirical Fisher information is of given labels, and a blended image has two."""
    for run in runs:
        mixing = [
            named.name
            for named, part in zip(run.recipe.data.augment, run.augment, strict=True)
            if part.stage == "mixed"
        ]
        if mixing and run.method.fisher_source == "empirical":
            raise UsageError(
                f"{source}: methods.{run.label}: the Fisher information 'empirical' is of the "
                f"labels, and data.augment: {mixing[0]} gives an image two of them; use fisher: "
                f"model or gradient_magnitude, or leave {mixing[0]} out"
            )


def _refuse_idle_epochs(run: RunPlan, source: str) -> None:
    """Epochs in which a method does not do what it is there for."""
    train, method, epochs = run.recipe.train, run.method, run.epochs
    if method.climbs and not any(method.climbs_in(epoch, epochs) for epoch in range(epochs)):
        raise UsageError(
            f"methods.{run.label}: it never climbs in its {epochs} epochs, which is plain SGD; let "
            "it start earlier, or train longer"
        )
    if train.warmup_epochs >= epochs:
        raise UsageError(
            f"{source}: train.warmup_epochs: {train.warmup_epochs:g} of the {epochs} epochs that "
            f"methods.{run.label} trains leave none to train at lr {run.lr:g}; warm up for "
            "fewer, or train longer"
        )


def resolve_device(device: Literal["auto", "cpu", "cuda"]) -> Literal["cpu", "cuda"]:
    """`auto` is CUDA where there is one.

    Raises:
        UsageError: CUDA was asked for and is not there.
    """
    import torch

    there = torch.cuda.is_available()
    if device == "cuda" and not there:
        raise UsageError("device cuda: this machine has no CUDA device; use --device cpu or auto")
    return "cuda" if device == "cuda" or (device == "auto" and there) else "cpu"


def has_bf16_gpu(device: Literal["cpu", "cuda"]) -> bool:
    """Whether it is a GPU that computes in bf16 itself. Older ones emulate it, which is slow."""
    import torch

    return device == "cuda" and torch.cuda.is_bf16_supported(including_emulation=False)


@cache
def why_not_compiled(asked: Compile, device: str) -> str | None:
    """Why what a recipe wants compiled cannot be, here; None where it can, or nothing is asked.

    Args:
        asked: the recipe's `compile`.
        device: cpu or cuda.
    """
    if asked == "none":
        return None
    if device == "cuda":
        from torch.utils._triton import has_triton, triton_backend

        if not has_triton():
            return "Triton is not installed, or knows no such GPU"
        try:
            triton_backend()  # compiles a file of C, which needs a compiler and Python's headers
        except Exception as error:  # of the compiler, of the loader
            return f"Triton does not work here ({in_a_line(error)[:200]})"
        return None
    from torch._inductor.cpp_builder import get_cpp_compiler
    from torch._inductor.exc import InvalidCxxCompiler

    try:
        get_cpp_compiler()
    except InvalidCxxCompiler:
        return "there is no C++ compiler (install g++, or name one in CXX)"
    return None
