"""From a recipe file and the command line's overrides to a validated experiment.

Everything that is wrong is collected and reported together, each with its key and remedy.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from fsam_cli import parts
from fsam_cli.errors import Problem, RecipeError, UsageError, did_you_mean
from fsam_cli.names import LONGEST_NAME
from fsam_cli.plugins import PluginFile, load_plugins, origin, provided
from fsam_cli.recipe import yaml12
from fsam_cli.recipe.layers import apply_override, is_file, laid_over
from fsam_cli.recipe.optimizers import keeps_momentum, optimizer_problems
from fsam_cli.recipe.problems import UNKNOWN_KEY, problems_of
from fsam_cli.recipe.schema import (
    Data,
    Method,
    ModelSection,
    NamedPart,
    Optimizer,
    Recipe,
    expanded,
    named_by_label,
)

if TYPE_CHECKING:
    from fsam_cli.augment._contract import Augmentation
    from fsam_cli.datasets._contract import DataSet
    from fsam_cli.minimisers._contract import Minimiser
    from fsam_cli.models._contract import Model

N = TypeVar("N", bound=NamedPart)

_ENDINGS = (".yaml", ".yml")
_MOST_HINTS = 3
_IN_FILES = ("extends",)  # known to a file, and read before what it extends is laid below it


@dataclass(frozen=True)
class Experiment:
    """A recipe with all its parts found and validated."""

    recipe: Recipe
    source: str  # the file, as messages name it
    folder: Path  # of the recipe file; relative data roots start here
    data: DataSet
    augment: tuple[Augmentation, ...]
    model: Model
    methods: dict[str, Minimiser]  # by label
    plugins: tuple[PluginFile, ...] = ()  # all that were named, used or not
    added: tuple[str, ...] = ()  # labels that the overrides put beside the recipe's own

    def parts_of(self, label: str) -> list[tuple[str, str]]:
        """(room, name) of every part that the runs of a method use."""
        recipe = self.recipe
        return [
            ("datasets", recipe.data.name),
            *(("augment", named.name) for named in recipe.data.augment),
            ("models", recipe.model.name),
            ("minimisers", recipe.methods[label].name),
        ]

    def plugins_of(self, label: str) -> tuple[PluginFile, ...]:
        """Those that provide any of these parts."""
        used = {origin(self.plugins, *part) for part in self.parts_of(label)}
        return tuple(plugin for plugin in self.plugins if plugin in used)


def shipped_recipes() -> dict[str, Path]:
    """The recipes that come with fsam, by name: inside the wheel, or the checkout's `recipes/`."""
    package = Path(__file__).resolve().parent.parent
    for folder in (package / "shipped_recipes", package.parent / "recipes"):
        if folder.is_dir():
            return {path.stem: path for path in sorted(folder.glob("*.yaml"))}
    return {}


def find_recipe(name: str) -> Path:
    """A path as given, or a shipped recipe by name, with or without `.yaml`.

    Raises:
        UsageError: neither a file nor a shipped recipe.
    """
    path = expanded(Path(name))
    try:
        if path.is_file():
            return path
    except (OSError, ValueError) as error:  # a name that no file can have
        short = name if len(name) <= 80 else f"{name[:80]}…"
        raise UsageError(
            f"no recipe '{short}': {error.args[-1]}; `fsam recipes ls` lists the shipped ones"
        ) from None
    shipped = shipped_recipes()
    stem = _stem(name)
    if stem in shipped:
        return shipped[stem]
    if path.is_dir():
        raise UsageError(f"'{name}' is a folder; name a recipe, a file, in it")
    if path.exists():
        raise UsageError(f"'{name}' is not a regular file; write the recipe to one, and name that")
    beside = [path.with_name(f"{_stem(path.name)}{end}") for end in _ENDINGS]
    near = next(filter(is_file, beside), None)
    remedy = f"did you mean '{near}'?" if near else did_you_mean(stem, _whole(shipped))
    raise UsageError(f"no recipe '{name}': no such file; {remedy}")


def read_mapping(path: Path, above: tuple[Path, ...] = ()) -> dict[str, Any]:
    """The file as a mapping, with what it `extends`, and what that extends, laid below it.

    Args:
        path: the file.
        above: those that extend it.

    Raises:
        RecipeError: unreadable, no YAML, no mapping, or recipes that extend each other in a ring.
    """
    mapping = _read_one(path)
    base_name = mapping.pop("extends", None)
    if base_name is None:
        return mapping
    base_path = _base(path, base_name)
    seen = (*above, path)
    if any(base_path.samefile(each) for each in seen):
        what = f"{base_path} extends itself by way of {path}"
        raise RecipeError(str(path), [Problem("extends", what, "name another recipe")])
    merged: dict[str, Any] = laid_over(read_mapping(base_path, seen), mapping)
    return merged


def _base(path: Path, name: Any) -> Path:
    """What a recipe extends: a file of its own folder, or a shipped recipe by name."""
    if not isinstance(name, str) or not name:
        remedy = "name one recipe"
        raise RecipeError(str(path), [Problem("extends", f"{name!r} is not a name", remedy)])
    beside, shipped = path.parent / name, shipped_recipes()
    if beside.parent != path.parent:
        remedy = "name a file of the recipe's own folder, or a shipped recipe"
        raise RecipeError(str(path), [Problem("extends", f"'{name}' is not a plain name", remedy)])
    if is_file(beside):
        return beside
    stem = _stem(name)
    if stem in shipped:
        return shipped[stem]
    what = f"no file {beside}, and no shipped recipe '{name}'"
    raise RecipeError(str(path), [Problem("extends", what, did_you_mean(stem, _whole(shipped)))])


def _stem(name: str) -> str:
    """A shipped recipe's name, given with or without its ending."""
    return name.removesuffix(_ENDINGS[0]).removesuffix(_ENDINGS[1])


def _whole(shipped: Iterable[str]) -> list[str]:
    """Without those that are only there to be extended."""
    return [name for name in shipped if not name.startswith("_")]


def companions(path: Path) -> list[Path]:
    """Files of its own folder that a recipe cannot do without: what it extends, and its plugins.

    Plugins with an absolute path are none of them: they are found from anywhere.

    Returns:
        Paths relative to the recipe's folder.

    Raises:
        RecipeError: the recipe is unreadable.
    """
    bases, at = [], path
    while (name := _read_one(at).get("extends")) is not None:
        at = _base(at, name)
        if at.parent != path.parent or at.name in bases:  # a shipped one is found from anywhere
            break
        bases.append(at.name)
    named = _plugins_named_in(read_mapping(path), path.parent)
    plugins = [file.relative_to(path.parent) for _, file in named if _is_inside(file, path.parent)]
    return [*map(Path, bases), *plugins]


def _is_inside(file: Path, folder: Path) -> bool:
    return file.is_relative_to(folder) and ".." not in file.relative_to(folder).parts


def load_experiment(
    name: str,
    overrides: Sequence[str] = (),
    plugins: Sequence[Path] = (),
    *,
    known: Sequence[PluginFile] = (),
) -> Experiment:
    """Read, override and validate.

    Args:
        name: a path or the name of a shipped recipe.
        overrides: `key=value`, typed as YAML would.
        plugins: files of `--plugin`, relative to the working directory, beside the recipe's own.
        known: plugins that this command has read already; they are not read again.

    Raises:
        UsageError: no such recipe, or an override that is not `key=value` or extends a recipe.
        RecipeError: everything wrong with its content.
    """
    path = find_recipe(name)
    mapping = read_mapping(path)
    added: list[str] = []
    for override in overrides:
        before = _labels(mapping)
        apply_override(mapping, override, path.parent)
        if override.startswith("methods."):  # else all methods were given
            added += [label for label in _labels(mapping) if label not in before]
    added = [label for label in added if label in _labels(mapping)]  # null takes one away again
    unnamed = [] if "name" in mapping or _plain(path.stem) else [_no_name_in(path)]
    mapping.setdefault("name", _plain(path.stem) or "unnamed")
    named = [*_plugins_named_in(mapping, path.parent), *(("--plugin", file) for file in plugins)]
    found, problems = load_plugins(named, known)
    experiment = None
    if problems:
        # The parts are not looked at: those of a plugin that is not there are not misspelt.
        problems += problems_of(Recipe, mapping, also=_IN_FILES)[1]
    else:
        experiment, wrong = _validated(mapping, path, found)
        problems = [
            _below_its_method(problem, overrides, mapping, found)
            or _with_way_out(problem, overrides, _labels(mapping))
            for problem in wrong
        ]
    if experiment is None or unnamed:
        raise RecipeError(str(path), [*unnamed, *problems])
    return replace(experiment, added=tuple(added))


def _with_way_out(problem: Problem, overrides: Sequence[str], labels: Sequence[str]) -> Problem:
    """Add a hint where an override names another part and the settings of the recipe's remain, or
    leaves out that a label is one of a method."""
    if problem.what != UNKNOWN_KEY:
        return problem
    for key in (override.partition("=")[0] for override in overrides):
        if key.partition(".")[0] == problem.key and key.startswith(tuple(f"{x}." for x in labels)):
            return replace(problem, instead=f"did you mean 'methods.{key}'?")
    section = problem.key.rpartition(".")[0]
    if section not in ("data", "model", "train.optimizer"):
        return problem
    for override in overrides:
        name = override.removeprefix(f"{section}.name=")
        if name != override:
            instead = f"{problem.instead}; {section}={name} also drops the settings of the former"
            return replace(problem, instead=instead)
    return problem


def _below_its_method(
    problem: Problem,
    overrides: Sequence[str],
    mapping: Mapping[str, Any],
    plugins: Sequence[PluginFile],
) -> Problem | None:
    """A hint where an override is a bare setting of methods, `rho=0.2`; else None."""
    override = next((each for each in overrides if each.partition("=")[0] == problem.key), None)
    if override is None or problem.what != UNKNOWN_KEY:
        return None
    kinds = {**parts.catalogue("minimisers"), **provided(plugins, "minimisers")}
    having = [
        f"'methods.{label}.{override}'"
        for label, entry in _mapping_at(mapping, "methods").items()
        if (named := _readable(Method, named_by_label(label, entry))) is not None
        and named.name in kinds
        and problem.key in kinds[named.name].model_fields
    ]
    if not having:
        return None
    others = f" or {len(having) - _MOST_HINTS} more" if len(having) > _MOST_HINTS else ""
    return replace(problem, instead=f"did you mean {' or '.join(having[:_MOST_HINTS])}{others}?")


def _labels(mapping: Mapping[str, Any]) -> list[str]:
    methods = mapping.get("methods")
    return list(methods) if isinstance(methods, Mapping) else []


def _plain(stem: str) -> str:
    """The name of a file as the name of a folder of runs: `my recipe` becomes `my-recipe`, and `ü`
    nothing; a long one is cut."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("-._")[:LONGEST_NAME]


def _no_name_in(path: Path) -> Problem:
    what = f"the file's name, '{path.name}', has no letter of a to z and no digit to name runs by"
    return Problem("name", what, "give the recipe one, name: my-recipe")


def _plugins_named_in(mapping: Mapping[str, Any], folder: Path) -> list[tuple[str, Path]]:
    """Key and path of each; what is not text is the schema's business."""
    named = mapping.get("plugins", ())
    paths = [named] if isinstance(named, str) else named if isinstance(named, list) else []
    return [
        (f"plugins.{position}", folder / expanded(Path(path)))
        for position, path in enumerate(paths)
        if isinstance(path, str)
    ]


def _validated(
    mapping: dict[str, Any], path: Path, plugins: tuple[PluginFile, ...]
) -> tuple[Experiment | None, list[Problem]]:
    """The experiment, or None and every problem found."""
    recipe, problems = problems_of(Recipe, mapping, also=_IN_FILES)
    built, of_parts = _built(mapping, plugins)
    if recipe is None or of_parts:
        return None, [*problems, *of_parts]
    positions = range(len(recipe.data.augment))
    experiment = Experiment(
        recipe=recipe,
        source=str(path),
        folder=path.parent,
        data=built["data"],
        augment=tuple(built[f"data.augment.{position}"] for position in positions),
        model=built["model"],
        methods={label: built[f"methods.{label}"] for label in recipe.methods},
        plugins=plugins,
    )
    conflicts = _conflicts(experiment)
    return None if conflicts else experiment, conflicts


def _built(
    mapping: Mapping[str, Any], plugins: tuple[PluginFile, ...]
) -> tuple[dict[str, Any], list[Problem]]:
    """The parts by their keys, of all sections that can be read, and what is wrong with them: where
    the recipe as a whole cannot be read, all mistakes are still told at once."""
    data, methods, train = (_mapping_at(mapping, key) for key in ("data", "methods", "train"))
    augment = data.get("augment")
    sections: list[tuple[str, str, type[NamedPart], Any]] = [
        ("datasets", "data", Data, mapping.get("data")),
        *(
            ("augment", f"data.augment.{position}", NamedPart, entry)
            for position, entry in enumerate(augment if isinstance(augment, list) else ())
        ),
        ("models", "model", ModelSection, mapping.get("model")),
        *(
            ("minimisers", f"methods.{label}", Method, named_by_label(label, entry))
            for label, entry in methods.items()
        ),
    ]
    built: dict[str, Any] = {}
    problems: list[Problem] = []
    for room, key, kind, section in sections:
        named = _readable(kind, section)
        if named is None:
            continue
        try:
            built[key] = parts.build(room, named, key, provided(plugins, room))
        except parts.PartError as error:
            problems += [_or_timms(problem, named.name) for problem in error.problems]
    optimizer = _readable(Optimizer, train.get("optimizer"))
    if optimizer is not None:
        problems += optimizer_problems(optimizer, "train.optimizer")
    return built, problems


def _or_timms(problem: Problem, name: str) -> Problem:
    """A model that is not fsam's may be one of the many that timm has."""
    if problem.what != parts.unknown("models", name):
        return problem
    from fsam_cli.models.timm_networks import as_timms

    remedies = filter(None, [as_timms(name), problem.instead])
    return replace(problem, instead="; ".join(remedies))


def _mapping_at(mapping: Mapping[str, Any], key: str) -> dict[str, Any]:
    value = mapping.get(key)
    return value if isinstance(value, dict) else {}


def _readable(kind: type[N], section: Any) -> N | None:
    """The part that a section names, without the section's own keys, which have been looked at."""
    given = {"name": section} if isinstance(section, str) else section
    if not isinstance(given, dict):
        return None
    own = {key: value for key, value in given.items() if key not in kind.section_keys}
    return problems_of(kind, own)[0]


def _conflicts(experiment: Experiment) -> list[Problem]:
    """Settings that are fine alone and wrong together."""
    problems = []
    batch_norm = getattr(experiment.model, "norm", None) == "batch"
    for label, method in experiment.methods.items():
        if method.fisher_source is not None and batch_norm:
            problems.append(
                Problem(
                    f"methods.{label}.fisher",
                    f"'{method.fisher_source}' needs one gradient per image, and batch "
                    "normalisation mixes the images of a batch",
                    "set model.norm: group, or fisher: gradient_magnitude",
                )
            )
        if method.climbs_along == "momentum" and not keeps_momentum(
            experiment.recipe.train.optimizer
        ):
            problems.append(
                Problem(
                    f"methods.{label}",
                    "it climbs along the base optimiser's momentum, and "
                    f"'{experiment.recipe.train.optimizer.name}' keeps none here",
                    "use sgd with momentum 0.9, or adam, adamw, nadam, radam, adamax",
                )
            )
    problems += _out_of_order(experiment)
    train = experiment.recipe.train
    if train.select == "validation" and experiment.recipe.data.validation == 0:
        what = "'validation' needs a validation part"
        problems.append(Problem("train.select", what, "set data.validation, 0.1 for instance"))
    return problems


def _out_of_order(experiment: Experiment) -> list[Problem]:
    """What the pipeline refuses of the augmentations, found on one that no image passes."""
    if not experiment.augment:
        return []
    from fsam_cli.augment._pipeline import Pipeline

    names = (named.name for named in experiment.recipe.data.augment)
    try:
        Pipeline(list(zip(names, experiment.augment, strict=True)), mean=(0.0,), std=(1.0,))
    except ValueError as error:
        what, _, instead = str(error).partition("; ")
        return [Problem("data.augment", what, instead)]
    return []


def _read_one(path: Path) -> dict[str, Any]:
    try:
        value = yaml12.parse(path.read_text(encoding="utf-8"))
    except UnicodeDecodeError:
        what = "the file is not UTF-8 text"
        raise RecipeError(str(path), [Problem("", what, "save it as UTF-8")]) from None
    except (ValueError, OSError) as error:
        raise RecipeError(str(path), [Problem("", str(error))]) from None
    if not isinstance(value, dict):
        what = "a recipe is a mapping of keys to values"
        raise RecipeError(str(path), [Problem("", what, "see `fsam recipes show quickstart`")])
    return value
