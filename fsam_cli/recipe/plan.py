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
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Literal

from fsam_cli.augment._contract import Augmentation
from fsam_cli.datasets._contract import DataSet, Fingerprint
from fsam_cli.errors import UsageError, in_a_line
from fsam_cli.minimisers._contract import Minimiser
from fsam_cli.models._contract import Model
from fsam_cli.plugins import PluginFile, blaming, origin
from fsam_cli.recipe.initial import InitialWeights, initial_weights
from fsam_cli.recipe.load import Experiment
from fsam_cli.recipe.optimizers import settings_apart
from fsam_cli.recipe.schema import LabelNoise, Normalise, Train, data_root
from fsam_cli.records.checks import SCHEMA

Compile = Literal["none", "minimiser", "all"]

# Raised whenever a change of fsam's own code changes the numbers of a run (see CHANGELOG).
NUMERICS = 4


@dataclass(frozen=True)
class RunPlan:
    """Everything one training needs; it can be sent to another process."""

    # Those whose parts this run uses. They stand first, so that the other process loads them
    # before it comes to the objects of their classes.
    plugins: tuple[PluginFile, ...]
    recipe: str
    label: str
    seed: int
    cell: str  # hash of the identity
    folder: Path  # the run directory
    planned_labels: tuple[str, ...]
    planned_seeds: tuple[int, ...]
    planned_epochs: float  # the recipe's budget, of which a method's own epochs are made
    trial: bool  # of a tuning: its seed has chosen the settings
    tuned: tuple[str, ...]  # keys of the protocol that a tuning searches for some method

    data: DataSet
    data_root: Path | None
    fingerprint: Fingerprint
    resize: int | None  # pixels a side
    normalise: Normalise
    augment: tuple[Augmentation, ...]
    augment_names: tuple[str, ...]
    label_noise: LabelNoise | None
    validation: float
    model: Model
    initial: InitialWeights | None  # None: drawn
    train: Train
    epochs: int  # of this method, whichever way the recipe gives the budget
    method: Minimiser
    method_name: str
    precision: Literal["fp32", "bf16"]
    compile: Compile  # as resolved: `none` where it cannot be
    uncompiled: str | None  # why what the recipe wants compiled is not
    cuda_graph: bool
    channels_last: bool
    threads: int
    device: Literal["cpu", "cuda"]
    config: dict[str, Any]  # the identity, as recorded

    @property
    def input_shape(self) -> tuple[int, int, int]:
        """Channels, height and width of what the network sees."""
        channels, height, width = self.fingerprint.shape
        return channels, self.resize or height, self.resize or width

    @property
    def training_images(self) -> int:
        """Images trained on: the training set without the validation part."""
        size = self.fingerprint.train_size
        return size - round(size * self.validation)

    @property
    def sample_gradients(self) -> int:
        """Forward-backward passes of one image that the whole run costs."""
        per_image = self.method.passes(self.epochs, self.fingerprint.classes)
        return self.training_images * per_image

    def record(self) -> dict[str, Any]:
        """What config.yaml holds."""
        return {
            "schema": SCHEMA,
            "run": {
                "recipe": self.recipe,
                "label": self.label,
                "seed": self.seed,
                "cell": self.cell,
            },
            "planned": {
                "labels": list(self.planned_labels),
                "seeds": list(self.planned_seeds),
                "epochs": self.planned_epochs,
                **({"trial": True} if self.trial else {}),
                **({"tuned": list(self.tuned)} if self.tuned else {}),
            },
            "data_verified": self.fingerprint.verified,
            "data_root": None if self.data_root is None else str(self.data_root.resolve()),
            **({} if self.initial is None else {"init_from": str(self.initial.path.resolve())}),
            **self._plugins_on_record(),
            "config": self.config,
        }

    def copies(self) -> dict[str, bytes]:
        """The plugin files, by name, that are kept beside config.yaml."""
        return {plugin.path.name: plugin.content for plugin in self.plugins}

    def _plugins_on_record(self) -> dict[str, Any]:
        if not self.plugins:
            return {}
        files = [{"file": each.path.name, "sha256": each.sha256} for each in self.plugins]
        return {"plugins": files}


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
        UsageError: an unknown label, a device that is not there, a validation part that leaves
            nothing to train on or to validate with, or a method that needs one gradient per image
            of a network that has none.
    """
    recipe = experiment.recipe
    unknown = [label for label in only if label not in recipe.methods]
    if unknown:
        there = ", ".join(recipe.methods)
        raise UsageError(f"--only: no method '{unknown[0]}' in {experiment.source}; it has {there}")
    chosen_device = resolve_device(device or recipe.device)
    root = data_root(recipe.data, experiment.folder, data_dir)
    with blaming(origin(experiment.plugins, "datasets", recipe.data.name)):
        fingerprint = experiment.data.fingerprint(root)
    _refuse_empty_parts(experiment, fingerprint.train_size)
    _refuse_other_channels(experiment, fingerprint.shape[0])
    experiment.model.check()
    initial = (
        None
        if recipe.model.init_from is None
        else initial_weights(recipe.model.init_from, experiment.folder, root)
    )
    labels = tuple(dict.fromkeys(only)) or tuple(recipe.methods)
    _refuse_mixed_images(experiment, labels, fingerprint)
    return [
        _run_plan(
            experiment,
            label,
            seed,
            out=out,
            labels=labels,
            root=root,
            fingerprint=fingerprint,
            initial=initial,
            device=chosen_device,
            trial=trial,
        )
        for seed in recipe.seeds
        for label in labels
    ]


def _refuse_empty_parts(experiment: Experiment, size: int) -> None:
    share = experiment.recipe.data.validation
    held = round(size * share)
    if (share and not held) or size - held < 2:
        raise UsageError(
            f"{experiment.source}: data.validation: {share} of {size:,} images are {held:,} to "
            f"validate with and {size - held:,} to train on; write another share, or 0 for none"
        )


def _refuse_other_channels(experiment: Experiment, channels: int) -> None:
    if experiment.recipe.data.normalise == "imagenet" and channels != 3:
        raise UsageError(
            f"{experiment.source}: data.normalise: imagenet has numbers for 3 channels, and these "
            f"images have {channels}; use data or half"
        )


def _refuse_mixed_images(
    experiment: Experiment, labels: Sequence[str], fingerprint: Fingerprint
) -> None:
    """Methods with one gradient per image, over a network of which only the network itself tells
    that it takes statistics of batches: its settings have no `norm`."""
    sources = {label: experiment.methods[label].fisher_source for label in labels}
    asking = next((label for label, source in sources.items() if source is not None), None)
    if asking is None:
        return
    import torch
    from torch.nn.modules.batchnorm import _BatchNorm

    channels, height, _ = fingerprint.shape
    size = experiment.recipe.data.resize or height
    try:
        with torch.device("meta"):  # no memory for its weights
            network = experiment.model.build(
                channels=channels, classes=fingerprint.classes, image_size=size
            )
            network.train()  # in which some keep a part of theirs in another mode
    except Exception:  # not every network can be built like that; then the training tells
        return
    for name, module in network.named_modules():
        if isinstance(module, _BatchNorm) and module.training:
            raise UsageError(
                f"{experiment.source}: methods.{asking}: the Fisher information "
                f"'{sources[asking]}' needs one gradient per image, and '{name}' "
                f"({type(module).__name__}) of the model {experiment.recipe.model.name} mixes the "
                "images of a batch; use a model without batch normalisation, or fsam with "
                "fisher: gradient_magnitude"
            )


def _refuse_idle_epochs(experiment: Experiment, label: str, epochs: int) -> None:
    """Epochs in which a method does not do what it is there for."""
    recipe, method = experiment.recipe, experiment.methods[label]
    if method.climbs and not any(method.climbs_in(epoch, epochs) for epoch in range(epochs)):
        raise UsageError(
            f"methods.{label}: it never climbs in its {epochs} epochs, which is plain SGD; let it "
            "start earlier, or train longer"
        )
    if recipe.train.warmup_epochs >= epochs:
        raise UsageError(
            f"{experiment.source}: train.warmup_epochs: {recipe.train.warmup_epochs:g} of the "
            f"{epochs} epochs that methods.{label} trains leave none to train at "
            f"lr {recipe.train.lr:g}; warm up for fewer, or train longer"
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


def _run_plan(
    experiment: Experiment,
    label: str,
    seed: int,
    *,
    out: Path,
    labels: tuple[str, ...],
    root: Path | None,
    fingerprint: Fingerprint,
    initial: InitialWeights | None,
    device: Literal["cpu", "cuda"],
    trial: bool,
) -> RunPlan:
    recipe, method = experiment.recipe, experiment.methods[label]
    factor = recipe.methods[label].epochs_factor
    epochs = _epochs(recipe.train, method, fingerprint.classes, factor)
    _refuse_idle_epochs(experiment, label, epochs)
    precision: Literal["fp32", "bf16"] = (
        recipe.precision if recipe.precision != "auto" else "bf16" if device == "cuda" else "fp32"
    )
    uncompiled = why_not_compiled(recipe.compile, device)
    compile: Compile = "none" if uncompiled else recipe.compile
    config = _identity(
        experiment,
        label,
        epochs=epochs,
        fingerprint=fingerprint,
        initial=initial,
        precision=precision,
        compile=compile,
    )
    cell = identity_hash(config)
    used = {origin(experiment.plugins, *part) for part in experiment.parts_of(label)}
    return RunPlan(
        plugins=tuple(plugin for plugin in experiment.plugins if plugin in used),
        recipe=recipe.name,
        label=label,
        seed=seed,
        cell=cell,
        folder=out / recipe.name / label / f"seed{seed}-{cell}",
        planned_labels=labels,
        planned_seeds=recipe.seeds,
        # The schema demands exactly one of the two.
        planned_epochs=recipe.train.epochs or recipe.train.gradient_evaluations or 0.0,
        trial=trial,
        tuned=(),
        data=experiment.data,
        data_root=root,
        fingerprint=fingerprint,
        resize=recipe.data.resize,
        normalise=recipe.data.normalise,
        augment=experiment.augment,
        augment_names=tuple(named.name for named in recipe.data.augment),
        label_noise=recipe.data.label_noise,
        validation=recipe.data.validation,
        model=experiment.model,
        initial=initial,
        train=recipe.train,
        epochs=epochs,
        method=method,
        method_name=recipe.methods[label].name,
        precision=precision,
        compile=compile,
        uncompiled=uncompiled,
        cuda_graph=recipe.cuda_graph and device == "cuda",
        channels_last=recipe.channels_last,
        threads=recipe.threads,
        device=device,
        config=config,
    )


def _identity(
    experiment: Experiment,
    label: str,
    *,
    epochs: int,
    fingerprint: Fingerprint,
    initial: InitialWeights | None,
    precision: str,
    compile: Compile,
) -> dict[str, Any]:
    """All that changes the numbers of a method's runs, and nothing else; not the seed."""
    recipe, method = experiment.recipe, experiment.methods[label]
    return {
        "data": {
            "name": recipe.data.name,
            **experiment.data.model_dump(mode="json"),
            **_origin(experiment, "datasets", recipe.data.name),
            "digest": fingerprint.digest,
            # What most recipes leave as it is names no run, and runs on record keep their names.
            **recipe.data.model_dump(include={"resize", "normalise"}, exclude_defaults=True),
        },
        "augment": [
            {
                "name": named.name,
                **part.model_dump(mode="json"),
                **_origin(experiment, "augment", named.name),
            }
            for named, part in zip(recipe.data.augment, experiment.augment, strict=True)
        ],
        "label_noise": recipe.data.label_noise and recipe.data.label_noise.model_dump(mode="json"),
        "validation": recipe.data.validation,
        "model": {
            "name": recipe.model.name,
            **experiment.model.model_dump(mode="json"),
            **_origin(experiment, "models", recipe.model.name),
            **({} if initial is None else {"init_from": initial.digest}),
        },
        "train": _train_identity(recipe.train, epochs),
        # An option that every method has and this one leaves out is not part of what it is.
        "method": {
            "name": recipe.methods[label].name,
            **method.model_dump(mode="json", exclude_none=True),
            **_origin(experiment, "minimisers", recipe.methods[label].name),
        },
        "precision": precision,
        **({} if compile == "none" else {"compile": compile}),
        "channels_last": recipe.channels_last,
        "threads": recipe.threads,
        "numerics": NUMERICS,
    }


def _origin(experiment: Experiment, room: str, name: str) -> dict[str, str]:
    """The hash of the plugin that provides a part; nothing for a built-in one."""
    plugin = origin(experiment.plugins, room, name)
    return {} if plugin is None else {"plugin": plugin.sha256}


def identity_hash(config: dict[str, Any]) -> str:
    """Eight hexadecimal digits of the SHA-256 of the canonical JSON."""
    text = json.dumps(config, sort_keys=True, separators=(",", ":"), ensure_ascii=True)
    return hashlib.sha256(text.encode()).hexdigest()[:8]


def _epochs(train: Train, method: Minimiser, classes: int, factor: float) -> int:
    """Whole epochs of a method; with a budget, those whose passes per image come nearest to it."""
    if train.epochs is not None:
        return max(1, round(train.epochs * factor))
    # The schema demands exactly one of the two. Every epoch costs at least one pass.
    budget = (train.gradient_evaluations or 0.0) * factor
    candidates = range(1, max(2, round(budget) + 1))
    return min(candidates, key=lambda epochs: abs(method.passes(epochs, classes) - budget))


def _train_identity(train: Train, epochs: int) -> dict[str, Any]:
    dumped = train.model_dump(mode="json", exclude={"gradient_evaluations", "optimizer"})
    optimizer = {"name": train.optimizer.name.lower(), **settings_apart(train.optimizer)}
    return {**dumped, "epochs": epochs, "optimizer": optimizer}
