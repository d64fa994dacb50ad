"""YAML as its 1.2 core schema reads it, without PyYAML's 1.1 traps.

`1e-3` is a number, `no`, `off` and `0:5` are strings, and a repeated key is an error, as is
nesting without end. Only plain data can come out: this is a `SafeLoader`. What `dump` writes is
read as it was, here and by readers of YAML 1.1: text that either takes for more is quoted.
"""

from __future__ import annotations

import re
from collections.abc import Hashable
from typing import Any

import yaml

MOST_LEVELS = 50  # of nesting; the loader recurses, and Python's stack ends
MOST_VALUES = 100_000  # with every alias written out; a few lines of them can stand for gigabytes


class _Loader(yaml.SafeLoader):
    yaml_implicit_resolvers: dict[str, Any] = {}  # noqa: RUF012 (the base class's own form)
    _level = 0  # of the node at work

    def compose_node(self, parent: yaml.Node | None, index: Any) -> yaml.Node | None:
        self._level += 1
        if self._level > MOST_LEVELS:
            place = parent.start_mark if parent else None
            raise yaml.composer.ComposerError(
                None, None, f"nested over {MOST_LEVELS} levels deep, as no recipe is", place
            )
        node = super().compose_node(parent, index)
        self._level -= 1
        return node

    def construct_object(self, node: yaml.Node, deep: bool = False) -> Any:
        try:
            return super().construct_object(node, deep)
        # What Python and PyYAML say to `!!bool x`, and to a number of 5,000 digits.
        except (ValueError, KeyError, AttributeError):
            kind = node.tag.rpartition(":")[2]
            raise yaml.constructor.ConstructorError(
                None, None, f"this cannot be read as {kind}", node.start_mark
            ) from None

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen: set[Any] = set()
        for key_node, _ in node.value:
            key = self.construct_object(key_node, deep=True)
            if not isinstance(key, str | int | float | bool):
                raise yaml.constructor.ConstructorError(
                    None, None, "a key must be plain text", key_node.start_mark
                )
            if key in seen:
                raise yaml.constructor.ConstructorError(
                    None, None, f"the key {key!r} stands here twice", key_node.start_mark
                )
            seen.add(key)
        return super().construct_mapping(node, deep=deep)


class _Dumper(yaml.SafeDumper):
    """PyYAML's, which knows what 1.1 reads; what 1.2 reads is added below."""


def _float(loader: _Loader, node: yaml.ScalarNode) -> float:
    return float(loader.construct_scalar(node))


def _int(loader: _Loader, node: yaml.ScalarNode) -> int:
    return int(loader.construct_scalar(node), 0)


_INT = re.compile(r"[-+]?(0|[1-9][0-9]*)|0x[0-9a-fA-F]+|0o[0-7]+")
_FLOAT = re.compile(r"[-+]?(\.[0-9]+|[0-9]+\.[0-9]*)([eE][-+]?[0-9]+)?|[-+]?[0-9]+[eE][-+]?[0-9]+")
for _tag, _pattern, _first in (
    ("bool", re.compile(r"true|True|TRUE|false|False|FALSE"), "tTfF"),
    ("null", re.compile(r"~|null|Null|NULL|"), ["~", "n", "N", ""]),
    ("int", _INT, "-+0123456789"),
    ("float", _FLOAT, "-+.0123456789"),
):
    for _kind in (_Loader, _Dumper):
        _kind.add_implicit_resolver(
            f"tag:yaml.org,2002:{_tag}", re.compile(f"^(?:{_pattern.pattern})$"), list(_first)
        )
_Loader.add_constructor("tag:yaml.org,2002:float", _float)
_Loader.add_constructor("tag:yaml.org,2002:int", _int)


def _values(node: yaml.Node, known: dict[int, int]) -> int:
    """How many values a node stands for, every alias written out."""
    if isinstance(node, yaml.ScalarNode):
        return 1
    if id(node) not in known:
        known[id(node)] = MOST_VALUES + 1  # of an alias inside what it stands for
        parts = (
            [part for pair in node.value for part in pair]
            if isinstance(node, yaml.MappingNode)
            else node.value
        )
        known[id(node)] = 1 + sum(_values(part, known) for part in parts)
    if known[id(node)] > MOST_VALUES:
        raise yaml.constructor.ConstructorError(
            None, None, "aliases stand for themselves or for endless text", node.start_mark
        )
    return known[id(node)]


def parse(text: str) -> Any:
    """The value of one YAML document.

    Raises:
        ValueError: it is no YAML, a key is repeated, or it is nested without end; the message has
            line and column.
    """
    try:
        loader = _Loader(text)
        try:
            node = loader.get_single_node()
            if node is None:
                return None
            _values(node, {})
            return loader.construct_document(node)
        finally:
            loader.dispose()
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        place = f"line {mark.line + 1}, column {mark.column + 1}: " if mark else ""
        raise ValueError(f"{place}{error.problem or error.context or 'not YAML'}") from None
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def dump(value: Any) -> str:
    """Plain data as a YAML document that `parse` reads as the same, keys in their order."""
    text: str = yaml.dump(value, Dumper=_Dumper, sort_keys=False, allow_unicode=True)
    return text
