"""From pydantic's findings to sentences: file, key, what is wrong, what instead."""

from __future__ import annotations

import types
import typing
from collections.abc import Iterable, Mapping
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from fsam_cli.errors import Problem, did_you_mean
from fsam_cli.recipe.schema import NamedPart, Settings

S = TypeVar("S", bound=Settings)

UNKNOWN_KEY = "unknown key"

# Where pydantic names types of Python, what stands in a recipe instead.
_WRITTEN: Mapping[str, str] = types.MappingProxyType(
    {
        "tuple_type": "write a list, [a, b]",
        "dict_type": "write keys and values, {key: value}",
        "model_type": "write keys and values, {key: value}",
    }
)


def problems_of(
    schema: type[S], value: Mapping[str, Any], key: str = "", also: Iterable[str] = ()
) -> tuple[S | None, list[Problem]]:
    """Parse `value`; on failure give None and every problem found, in the order of the file.

    Args:
        schema: what the value should be.
        value: the mapping as read.
        key: dotted path of the value inside the recipe, put before every key named.
        also: further keys that may stand beside these, offered when a key is misspelt.
    """
    try:
        return schema.model_validate(dict(value)), []
    except ValidationError as error:
        return None, [_problem(schema, entry, key, also) for entry in error.errors()]


def _problem(schema: type[BaseModel], error: Any, key: str, also: Iterable[str]) -> Problem:
    place = [*([key] if key else []), *(part for part in error["loc"] if part != "settings")]
    if place[:1] == ["methods"] and place[2:] == ["name"]:
        place[2] = "method"  # as a recipe writes it
    path = ".".join(map(str, place))
    kind, context = error["type"], error.get("ctx", {})
    if place and place[-1] == "[key]":
        path = ".".join(map(str, place[:-2]))
        return Problem(path, f"the key {error['input']!r} is not text", "write it in quotes")
    if kind == "extra_forbidden":
        *place, name = error["loc"]
        known = _keys_at(schema, tuple(place))
        deeper = [f"{each}.{name}" for each in known if name in _keys_at(schema, (*place, each))]
        if deeper:
            return Problem(path, UNKNOWN_KEY, f"did you mean '{deeper[0]}'?")
        beside = also if not place else ()  # they stand beside the first keys, not below them
        return Problem(path, UNKNOWN_KEY, did_you_mean(str(name), {*known, *beside}))
    if kind == "missing":
        return Problem(path, "missing", "it has no default and must be given")
    given = _as_written(error["input"])
    if kind == "literal_error":
        return Problem(path, f"{given} is not possible", f"use {context['expected']}")
    if kind == "value_error":
        return Problem(path, str(context["error"]))
    if kind in _WRITTEN:
        return Problem(path, f"{given} is refused", _WRITTEN[kind])
    message = error["msg"][0].lower() + error["msg"][1:]
    return Problem(path, f"{given} is refused", message)


def _keys_at(schema: Any, place: tuple[int | str, ...]) -> list[str]:
    """The keys known at a place of the schema, found by walking its annotations."""
    here: Any = schema
    for step in place:
        here = _unwrap(here)
        if isinstance(here, type) and issubclass(here, BaseModel) and step in here.model_fields:
            here = here.model_fields[str(step)].annotation
        else:
            arguments = [a for a in typing.get_args(here) if a is not Ellipsis]
            here = arguments[-1] if arguments else here
    here = _unwrap(here)
    if not (isinstance(here, type) and issubclass(here, BaseModel)):
        return []
    hidden = {"settings"} if issubclass(here, NamedPart) else set()
    return [name for name in here.model_fields if name not in hidden]


def _as_written(value: Any) -> str:
    """As a recipe has it, and not Python."""
    words = {None: "null", True: "true", False: "false"}
    return words[value] if value is None or isinstance(value, bool) else repr(value)


def keys_of(schema: type[Settings], place: tuple[str, ...] = ()) -> list[str]:
    """All dotted keys of a schema, those nearest to its top first."""
    here = [(*place, key) for key in _keys_at(schema, place)]
    below = [deeper for key in here for deeper in keys_of(schema, key)]
    return sorted([*map(".".join, here), *below], key=lambda key: key.count("."))


def _unwrap(annotation: Any) -> Any:
    """`X | None` and `Annotated[X, ...]` are X."""
    origin = typing.get_origin(annotation)
    if origin is typing.Annotated:
        return _unwrap(typing.get_args(annotation)[0])
    if origin in (typing.Union, types.UnionType):
        models = [a for a in typing.get_args(annotation) if a is not type(None)]
        return _unwrap(models[0]) if models else annotation
    return annotation
