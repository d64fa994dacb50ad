"""What lies over what: a recipe over the one it extends, and overrides over both.

Mappings merge key by key, and anything else replaces what lies below. Two things are not as plain:

- A bare value that is short for a section (`data: digits` for `data: {name: digits}`) changes that
  key alone: what the former part had of its own goes, and the keys of the section stay. Otherwise
  `data=digits` would take the label noise away without a word.
- `null` takes a method away that is there. A method that is not it adds, with default settings.

A relative path of a file starts at the file's folder; one of an override at the working directory,
as every path of a command line does.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, NamedTuple

from fsam_cli.errors import UsageError
from fsam_cli.recipe import yaml12
from fsam_cli.recipe.schema import Data, LabelNoise, Method, ModelSection, Optimizer

Place = tuple[Any, ...]  # the keys that lead to a section


class _Short(NamedTuple):
    """What a bare value in the place of a section is short for."""

    key: str
    kinds: tuple[type, ...]  # of the value
    stay: frozenset[str]  # the section's keys that are not of the part that the value names


_SHORT: Mapping[Place, _Short] = MappingProxyType(
    {
        ("data",): _Short("name", (str,), Data.section_keys),
        ("data", "label_noise"): _Short("rate", (int, float), frozenset(LabelNoise.model_fields)),
        ("model",): _Short("name", (str,), ModelSection.section_keys),
        ("train", "optimizer"): _Short("name", (str,), Optimizer.section_keys),
    }
)
_PATHS: frozenset[Place] = frozenset({("plugins",), ("data", "root"), ("model", "init_from")})
_METHOD = _Short("method", (str,), Method.section_keys)


def laid_over(base: Any, top: Any, place: Place = ()) -> Any:
    """A recipe, or a part of one, over what it extends.

    Args:
        base: what lies below.
        top: what is laid over it.
        place: where in the recipe both stand.
    """
    base = _written_out(base, place)
    if not isinstance(base, dict):
        return top
    if not isinstance(top, dict):
        return _named_anew(base, top, place)
    merged = dict(base)
    for key, value in top.items():
        if value is None and key in base and place == ("methods",):
            del merged[key]
        else:
            merged[key] = laid_over(base[key], value, (*place, key)) if key in base else value
    return merged


def apply_override(mapping: dict[str, Any], override: str, folder: Path) -> None:
    """Set one `dotted.key=value`; at each level the longest existing key wins, as labels may
    hold dots. A mapping replaces what lies below.

    Args:
        mapping: of the recipe.
        override: of the command line.
        folder: where the recipe's own relative paths start.

    Raises:
        UsageError: it is not `key=value`, or its value no YAML; or it would extend another recipe.
    """
    key, equals, text = override.partition("=")
    if not equals or not key:
        methods = mapping.get("methods")
        if isinstance(methods, dict) and override in methods:
            named = "with commas several are named, --only A,B"
            raise UsageError(f"'{override}' is a method and no override; {named}")
        raise UsageError(f"'{override}' is not an override; write key=value, e.g. train.epochs=5")
    if key.partition(".")[0] == "extends":
        raise UsageError("override extends: only a file extends a recipe; write it in there")
    try:
        value = yaml12.parse(text)
    except ValueError as error:
        raise UsageError(f"override {key}: {error}") from None
    place: Place = ()
    here, rest = mapping, key
    while True:
        step = _first_key(here, rest)
        rest, place = rest[len(step) + 1 :], (*place, step)
        below = here.get(step)
        if not rest:
            break
        below = _written_out(below, place)  # `model: resnet20`, and now a setting beside the name
        # A copy: aliases make one mapping of several places, and one of them is meant.
        here[step] = dict(below) if isinstance(below, dict) else {}
        here = here[step]
    if folder.absolute() != Path.cwd():  # else every path is right as it is
        value = _from_here(value, place)
    if value is None and step in here and place[:-1] == ("methods",):
        del here[step]
    else:
        here[step] = value if isinstance(value, dict) else laid_over(below, value, place)


def _from_here(value: Any, place: Place) -> Any:
    """A value with its relative paths written out from the working directory on."""
    if isinstance(value, dict):
        return {key: _from_here(entry, (*place, key)) for key, entry in value.items()}
    if place not in _PATHS:
        return value
    if isinstance(value, list):
        return [_from_here(entry, place) for entry in value]
    if not isinstance(value, str) or value.startswith("~"):
        return value
    path = Path(value).absolute()
    # Weights that are not here may lie beside the recipe or in the data folder.
    return value if place == ("model", "init_from") and not is_file(path) else str(path)


def is_file(path: Path) -> bool:
    try:
        return path.is_file()
    except (OSError, ValueError):  # a name that no file can have
        return False


def _short(place: Place) -> _Short | None:
    return _METHOD if len(place) == 2 and place[0] == "methods" else _SHORT.get(place)


def _written_out(value: Any, place: Place) -> Any:
    """A bare value as the section that it is short for."""
    short = _short(place)
    return {short.key: value} if short and isinstance(value, short.kinds) else value


def _named_anew(section: dict[str, Any], value: Any, place: Place) -> Any:
    """A section with a bare value laid over it."""
    short = _short(place)
    if short is None or not isinstance(value, short.kinds):
        return value
    kept = {key: entry for key, entry in section.items() if key in short.stay}
    return {**kept, short.key: value}


def _first_key(mapping: Mapping[str, Any], key: str) -> str:
    pieces = key.split(".")
    for end in range(len(pieces), 0, -1):
        candidate = ".".join(pieces[:end])
        if candidate in mapping:
            return candidate
    return pieces[0]
