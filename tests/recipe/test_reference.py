"""docs/recipe.md explains every key that a recipe can have, and no other."""

from __future__ import annotations

import re
from pathlib import Path

from fsam_cli.minimisers._contract import Minimiser
from fsam_cli.parts import catalogue
from fsam_cli.recipe.schema import Data, Method, ModelSection, Recipe, Sweep, Train

PAGE = (Path(__file__).resolve().parents[2] / "docs/recipe.md").read_text()
SECTIONS = {"data": Data, "model": ModelSection, "train": Train, "sweep": Sweep}


def keys():
    """As they stand in a recipe."""
    yield from set(Recipe.model_fields) - {*SECTIONS, "methods"} | {"extends"}
    for section, schema in SECTIONS.items():
        yield from (f"{section}.{name}" for name in set(schema.model_fields) - {"settings"})
    own = (
        (set(Method.model_fields) - {"settings", "name"}) | set(Minimiser.model_fields) | {"method"}
    )
    yield from (f"methods.LABEL.{name}" for name in own)
    for part in catalogue("datasets").values():
        yield from (f"data.{name}" for name in part.model_fields)


def test_every_key_is_explained_and_every_key_explained_is_one():
    told = {
        key
        for line in PAGE.splitlines()
        if line.startswith("| `")
        for key in re.findall(r"`([a-zA-Z_.]+)`", line.split("|")[1])
    } | set(re.findall(r"`(train\.gradient_evaluations)`", PAGE))
    assert told == set(keys())


def test_every_part_and_setting_is_named():
    for room in ("datasets", "augment"):
        for name, part in catalogue(room).items():
            assert f"`{name}`" in PAGE, name
            assert all(f"`{field}`" in PAGE or f".{field}`" in PAGE for field in part.model_fields)
    for part in catalogue("models").values():
        assert all(f"`{field}`" in PAGE for field in part.model_fields)
