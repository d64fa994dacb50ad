"""Finding a method, model, data set or augmentation by name.

Each of the four folders below is a room of interchangeable parts. A file in it that does not
start with an underscore provides parts by a module-level `PROVIDES = {"name": Class}`; nothing
else has to be edited to add one. A class is a frozen settings object (`recipe.schema.Settings`)
with one verb, given by the folder's `_contract.py`. Files from outside the package provide parts
in the same way (`fsam_cli.plugins`).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from types import MappingProxyType
from typing import Any

from fsam_cli.errors import Problem, did_you_mean, in_a_line
from fsam_cli.recipe.problems import problems_of
from fsam_cli.recipe.schema import NamedPart, Settings

NONE: Mapping[str, type[Settings]] = MappingProxyType({})

ROOMS = MappingProxyType(
    {
        "minimisers": "method",
        "models": "model",
        "datasets": "data set",
        "augment": "augmentation",
    }
)


class PartError(Exception):
    """A name no file provides, or settings its part refuses; carries the problems."""

    def __init__(self, *problems: Problem) -> None:
        super().__init__("; ".join(map(str, problems)))
        self.problems = problems


@cache
def catalogue(room: str) -> Mapping[str, type[Settings]]:
    """Every part of a room, by name.

    Args:
        room: a key of `ROOMS`.
    """
    package = importlib.import_module(f"fsam_cli.{room}")
    found: dict[str, type[Settings]] = {}
    for module in sorted(pkgutil.iter_modules(package.__path__), key=lambda entry: entry.name):
        if module.name.startswith("_"):
            continue
        provided = importlib.import_module(f"{package.__name__}.{module.name}").PROVIDES
        for name, part in provided.items():
            if name in found:
                raise RuntimeError(f"two files of {room}/ provide {name!r}")
            found[name] = part
    return MappingProxyType(found)


def build(room: str, named: NamedPart, key: str, also: Mapping[str, type[Settings]] = NONE) -> Any:
    """The part that a section of the recipe names, with its own settings validated.

    Args:
        room: a key of `ROOMS`.
        named: the section, with the part's own settings unparsed.
        key: where the section stands in the recipe, for the messages.
        also: parts of the room beside the built-in ones, by name.

    Raises:
        PartError: an unknown name, an unknown key or a refused value; a method from a plugin that
            breaks its contract.
    """
    parts = {**catalogue(room), **also}
    if named.name not in parts:
        what = unknown(room, named.name)
        raise PartError(Problem(key, what, did_you_mean(named.name, parts)))
    try:
        part, problems = problems_of(parts[named.name], named.settings, key, named.section_keys)
        if part is not None:
            part.model_dump(mode="json")  # as a run's identity and record will have it
    except Exception as error:  # of a user's own check, which is no ValueError, or serialiser
        if named.name not in also:
            raise
        what = f"the {ROOMS[room]} '{named.name}' cannot check or write down these settings"
        told = in_a_line(f"{type(error).__name__}: {error}")
        raise PartError(Problem(key, f"{what} ({told})", "fix its class")) from None
    if part is None:
        raise PartError(*problems)
    if room == "datasets" and not _is_hashable(part):  # it is loaded once, known by its settings
        what = f"the {ROOMS[room]} '{named.name}' has a setting that is a list or a dictionary"
        raise PartError(Problem(key, what, "declare it as a tuple; recipes write it as a list"))
    if room == "minimisers" and named.name in also:  # fsam's own are tried by the tests
        check = importlib.import_module("fsam_cli.minimisers._check")  # it needs torch
        if (problem := check.broken_contract(part, key)) is not None:
            raise PartError(problem)
    return part


def unknown(room: str, name: str) -> str:
    """What is said of a name that no file provides."""
    return f"unknown {ROOMS[room]} '{name}'"


def _is_hashable(part: Settings) -> bool:
    try:
        hash(part)
    except TypeError:
        return False
    return True
