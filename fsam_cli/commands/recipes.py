"""`fsam recipes`: list, show, copy, validate."""

from __future__ import annotations

from itertools import takewhile
from pathlib import Path
from typing import Any

from fsam_cli.commands._print import out, print_rows
from fsam_cli.errors import RecipeError, UsageError, counted
from fsam_cli.options import CopyRequest, RecipeRequest, RecipesRequest
from fsam_cli.recipe import yaml12
from fsam_cli.recipe.load import (
    Experiment,
    companions,
    find_recipe,
    load_experiment,
    read_mapping,
    shipped_recipes,
)
from fsam_cli.recipe.schema import data_root, expanded


def ls(request: RecipesRequest) -> None:
    """Name, description and where to find it, of every shipped recipe."""
    rows = []
    for name, path in shipped_recipes().items():
        try:
            mapping = read_mapping(path)
        except RecipeError as error:
            mapping = {"description": f"unreadable: {error}"}
        if mapping.get("description"):  # shared parts that others extend have none
            rows.append({"recipe": name, "description": mapping["description"]})
    print_rows(rows, format=request.format)


def show(request: RecipeRequest) -> None:
    """The resolved recipe as YAML, every default filled in, below the file's own first comment,
    which says what of it is a guess."""
    experiment = _loaded(request)
    lines = Path(experiment.source).read_text(encoding="utf-8").splitlines(keepends=True)
    header = "".join(takewhile(lambda line: line.startswith("#"), lines))
    out(header + yaml12.dump(resolved(experiment)))


def cp(request: CopyRequest) -> None:
    """Copy a recipe for editing, with what it extends and its plugins unless they are there.

    Raises:
        UsageError: the target exists, names a folder that does not, or cannot be written; or a
            file that the recipe needs cannot be read.
        RecipeError: the recipe is unreadable.
    """
    source, target = find_recipe(request.recipe), request.target
    goal = expanded(Path(target))
    if goal.is_dir():
        goal = goal / source.name
    elif target.endswith("/"):
        raise UsageError(f"no folder {target}; create it, or give a file name for the copy")
    beside = [(source.parent / file, goal.parent / file) for file in companions(source)]
    pairs = [(source, goal), *(pair for pair in beside if not pair[1].exists())]
    # All are read before one is written: a part that is missing leaves no half of a recipe.
    for copy, content in [(copy, _content(origin)) for origin, copy in pairs]:
        try:
            if copy is not goal:
                copy.parent.mkdir(parents=True, exist_ok=True)
            with copy.open("xb") as file:
                file.write(content)
        except FileExistsError:
            raise UsageError(f"{copy} exists; nothing is overwritten, name another file") from None
        except OSError as error:
            raise UsageError(f"cannot write {copy}: {error.strerror}") from None
        out(str(copy))


def _content(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path}: {error.strerror}; nothing was copied") from None


def validate(request: RecipeRequest) -> None:
    """Say that a recipe is well, or everything that is wrong with it (exit code 2)."""
    experiment = _loaded(request)
    recipe = experiment.recipe
    methods, seeds = len(recipe.methods), len(recipe.seeds)
    what = counted(methods, "method"), counted(seeds, "seed"), counted(methods * seeds, "run")
    only = f" ({recipe.seeds[0]})" if seeds == 1 else ""  # `seeds: 3` may have meant three
    out(f"{experiment.source}: valid; {what[0]} x {what[1]}{only} = {what[2]}")


def _loaded(request: RecipeRequest) -> Experiment:
    return load_experiment(request.recipe, request.overrides or (), request.plugins)


def resolved(experiment: Experiment) -> dict[str, Any]:
    """What the recipe says with every default written out, in the recipe's own form."""
    recipe = experiment.recipe
    data = recipe.data.model_dump(mode="json", exclude={"settings", "augment"})
    root = data_root(recipe.data, experiment.folder, None)
    train = recipe.train.model_dump(mode="json", exclude={"optimizer"})
    optimizer = recipe.train.optimizer
    start = recipe.model.init_from
    # Absolute paths, since what is shown may be saved into another folder.
    if start is not None and (beside := experiment.folder / expanded(Path(start))).is_file():
        start = str(beside.absolute())
    plugins = [str(plugin.path) for plugin in experiment.plugins]
    return {
        **recipe.model_dump(mode="json", include={"name", "description"}),
        **({"plugins": plugins} if plugins else {}),
        "data": {
            **data,
            "root": None if root is None else str(root.absolute()),
            **experiment.data.model_dump(mode="json"),
            "augment": [
                {"name": named.name, **part.model_dump(mode="json")}
                for named, part in zip(recipe.data.augment, experiment.augment, strict=True)
            ],
        },
        "model": {
            "name": recipe.model.name,
            **({} if start is None else {"init_from": start}),
            **experiment.model.model_dump(mode="json"),
        },
        "train": {
            **{key: value for key, value in train.items() if not _is_unused_budget(key, value)},
            "optimizer": {"name": optimizer.name, **optimizer.settings},
        },
        "methods": {
            label: {
                "method": recipe.methods[label].name,
                **recipe.methods[label].model_dump(
                    mode="json", include={"epochs_factor", "lr"}, exclude_none=True
                ),
                **method.model_dump(mode="json"),
            }
            for label, method in experiment.methods.items()
        },
        **recipe.model_dump(
            mode="json",
            include={
                "seeds",
                "device",
                "precision",
                "compile",
                "cuda_graph",
                "channels_last",
                "threads",
                "replicas",
                *(("sweep",) if recipe.sweep else ()),
            },
        ),
    }


def _is_unused_budget(key: str, value: object) -> bool:
    return key in ("epochs", "gradient_evaluations") and value is None
