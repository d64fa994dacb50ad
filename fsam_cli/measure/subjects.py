"""Which trained networks there are to measure: recorded runs, and plain weight files.

Whatever cannot be measured stays in the list with its reason, so that no table forgets it.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from fsam_cli import parts
from fsam_cli.datasets._contract import DataSet
from fsam_cli.errors import RecordError, in_a_line
from fsam_cli.models._contract import Model
from fsam_cli.plugins import PluginFile, origin
from fsam_cli.recipe.load import load_experiment
from fsam_cli.recipe.plan import plan
from fsam_cli.recipe.schema import LabelNoise, NamedPart, Normalise, Settings
from fsam_cli.records.frame import as_rows
from fsam_cli.records.side_table import subject_of
from fsam_cli.records.store import RunDirectory
from fsam_cli.records.summary import UNMEASURABLE, rows_of

MEASURABLE = "measurable"


class Unmeasurable(RecordError):
    """These weights cannot be measured; others can."""


class PluginWanted(Unmeasurable):
    """They can as soon as the user names a file, and so can all others of it."""


@dataclass(frozen=True)
class Subject:
    """A trained network: its weights on disk, and all that decides what it answers."""

    weights: Path
    tables: str  # where what is measured of them is kept: a path, to which the name is added
    seed: int  # of its training, and of the random directions
    data: DataSet
    digest: str  # of the data it was trained on
    data_root: Path | None
    label_noise: LabelNoise | None
    validation: float  # share of the training set that was not trained on
    resize: int | None
    normalise: Normalise
    model: Model
    precision: Literal["fp32", "bf16"]
    channels_last: bool
    threads: int
    identity: str  # of weights, data, model and precision: `records.side_table.subject_of`

    def beside(self, name: str) -> Path:
        """Where its table of that name lies."""
        return Path(self.tables + name)


@dataclass(frozen=True)
class Candidate:
    """A run or a weight file, and its subject if it can be measured."""

    recipe: str
    label: str
    settings: str  # in which it differs from other configurations of the recipe, if there are any
    seed: int | None  # None, too, for a weight file
    run: str  # path, as the user knows it
    status: str  # MEASURABLE, or why not
    reason: str = ""
    subject: Subject | None = None
    directory: RunDirectory | None = None  # whose lock is held meanwhile
    told_once: bool = False  # one line is enough for all that have this reason

    def without(self, status: str, reason: str) -> Candidate:
        """The same, left out."""
        return replace(self, status=status, reason=reason, subject=None)


def recorded(
    runs: pd.DataFrame, data_dir: Path | None, plugins: Sequence[PluginFile] = ()
) -> Iterator[Candidate]:
    """Every run of a frame that tables count, in their order: one record of each, and without a
    tuning's trials.

    Args:
        runs: from `records.frame.load_runs`.
        data_dir: where the data lie, if not where they lay at the training.
        plugins: files named by the user, for networks and data sets that come from one.
    """
    copies: dict[str, Path] = {}  # of plugins, by hash, one of each: one will do for all runs of it
    cells = ((row.name, cell) for row in rows_of(runs) for cell in row.cells.values())
    for protocol, cell in cells:
        for run in as_rows(cell.runs):
            entry = Candidate(
                recipe=cell.recipe,
                label=cell.label,
                settings=", ".join(filter(None, (protocol, cell.apart))),
                seed=None if pd.isna(run["seed"]) else int(run["seed"]),
                run=run["path"],
                status=run["status"],
                reason=run["reason"] or "",
            )
            done = entry.status == "done"
            yield _ready(entry, Path(entry.run), data_dir, plugins, copies) if done else entry


def _ready(
    entry: Candidate,
    path: Path,
    data_dir: Path | None,
    plugins: Sequence[PluginFile],
    copies: dict[str, Path],
) -> Candidate:
    """A finished run with its subject, or left out; `copies` grows by the record's own."""
    directory = RunDirectory(path)
    try:
        record = directory.read_result()
        copies |= _copies(directory, record) | copies  # the first of each stays
        root = data_dir or (record["data_root"] and Path(record["data_root"]))
        found = _subject(
            directory.weights,
            tables=f"{path}/",
            seed=record["run"]["seed"],
            config=record["config"],
            data_root=root or None,
            sources=Sources(plugins, copies),
        )
    except PluginWanted as error:
        return replace(entry.without(UNMEASURABLE, str(error)), told_once=True)
    except RecordError as error:
        return entry.without(UNMEASURABLE, str(error))
    except (KeyError, TypeError, AttributeError, ValueError) as error:
        what = in_a_line(f"its record lacks something, or has what is not known here: {error}")
        return entry.without(UNMEASURABLE, what)
    return replace(entry, status=MEASURABLE, reason="", subject=found, directory=directory)


def weight_files(
    files: Sequence[Path],
    recipe: str,
    *,
    device: Literal["auto", "cpu", "cuda"],
    data_dir: Path | None,
    plugins: Sequence[Path] = (),
) -> Iterator[Candidate]:
    """Plain weight files, with the data and model of a recipe; the label is the file's stem, or its
    path where several have that stem: nobody knows whether they are seeds of one method.

    Raises:
        UsageError: the recipe, its data or the device.
    """
    experiment = load_experiment(recipe, plugins=plugins)
    # Their weights are there; those that a training would start from need not be.
    drawn = experiment.recipe.model.model_copy(update={"init_from": None})
    recipe_of = experiment.recipe.model_copy(update={"model": drawn})
    experiment = replace(experiment, recipe=recipe_of)
    # Any of its plans says how the network is evaluated; which method trained it does not matter.
    planned = plan(experiment, out=Path(), device=device, data_dir=data_dir)[0]
    paths = dict.fromkeys(files)
    stems = Counter(path.stem for path in paths)
    for path in paths:
        label = path.stem if stems[path.stem] == 1 else str(path)
        entry = Candidate(
            recipe=experiment.recipe.name,
            label=label,
            settings="",
            seed=None,
            run=str(path),
            status=MEASURABLE,
        )
        try:
            found = _subject(
                path,
                tables=f"{path.with_suffix('')}.",
                seed=0,
                config=planned.config,
                data_root=planned.data_root,
                sources=Sources(planned.plugins, {}),
            )
        except RecordError as error:
            yield entry.without(UNMEASURABLE, str(error))
        else:
            yield replace(entry, subject=found)


@dataclass(frozen=True)
class Sources:
    """Where parts that are not built in may come from."""

    plugins: Sequence[PluginFile]  # named by the user
    copies: Mapping[str, Path]  # in records, by hash: to be named, never loaded unasked

    def parts(self, room: str, section: Mapping[str, Any]) -> Mapping[str, type[Settings]]:
        """The room's parts in the very plugin that a section of the record names.

        Raises:
            PluginWanted: the user named no such file, or another version of it.
        """
        recorded = section.get("plugin")
        if recorded is None:
            return parts.NONE
        for plugin in self.plugins:
            if plugin.sha256 == recorded:
                return plugin.rooms.get(room, parts.NONE)
        what = f"its {parts.ROOMS[room]} '{section['name']}' comes from a plugin"
        copy = self.copies.get(recorded)
        remedy = f"--plugin {copy}" if copy else f"--plugin with the file of sha256 {recorded}"
        other = origin(self.plugins, room, section["name"])
        if other is not None:
            raise PluginWanted(
                f"{what} of which {other.path} is another version (sha256 {other.sha256[:12]}, "
                f"trained with {recorded[:12]}); give {remedy}"
            )
        raise PluginWanted(f"{what}, and code is loaded only from files you name; give {remedy}")


def _copies(directory: RunDirectory, record: Mapping[str, Any]) -> dict[str, Path]:
    """The record's own copies of plugins, by their hashes."""
    named = {each["sha256"]: directory.plugins / each["file"] for each in record.get("plugins", ())}
    return {sha256: path for sha256, path in named.items() if path.is_file()}


def _subject(
    weights: Path,
    *,
    tables: str,
    seed: int,
    config: Mapping[str, Any],
    data_root: Path | None,
    sources: Sources,
) -> Subject:
    """From what a run records to what can be measured.

    Raises:
        Unmeasurable: no weights there, or a data set or model that is not known (any more), or
            comes from a plugin that was not named.
    """
    try:
        content = weights.read_bytes()
    except OSError as error:
        remedy = "if they are a run's, remove its folder and train it again"
        if isinstance(error, PermissionError):
            remedy = "check its permissions"
        raise Unmeasurable(f"cannot read {weights}: {error.strerror or error}; {remedy}") from None
    decisive = {key: config[key] for key in ("data", "model", "precision")}
    try:
        return Subject(
            weights=weights,
            tables=tables,
            seed=seed,
            data=_built("datasets", config["data"], "data", sources),
            digest=config["data"]["digest"],
            data_root=data_root,
            label_noise=config["label_noise"] and LabelNoise(**config["label_noise"]),
            validation=config["validation"],
            resize=config["data"].get("resize"),
            normalise=config["data"].get("normalise", "data"),
            model=_built("models", config["model"], "model", sources),
            precision=config["precision"],
            channels_last=config["channels_last"],
            threads=config["threads"],
            identity=subject_of(content, decisive),
        )
    except parts.PartError as error:
        raise Unmeasurable(f"its configuration is not known here: {error}") from None


# What a record has in a part's section that is not the part's own.
_BESIDE = {
    "datasets": {"name", "plugin", "digest", "resize", "normalise"},
    "models": {"name", "plugin", "init_from"},
}


def _built(room: str, section: Mapping[str, Any], key: str, sources: Sources) -> Any:
    """A part from the section that recorded it."""
    settings = {key: value for key, value in section.items() if key not in _BESIDE[room]}
    named = NamedPart(name=section["name"], settings=settings)
    return parts.build(room, named, key, sources.parts(room, section))
