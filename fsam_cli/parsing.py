"""Commands as Typer parses them: options from a dataclass, and refusals in the words of a recipe's.

What Typer refuses is worded by click or by pydantic, whichever this Typer is built on. Their
exceptions are known by what they carry: Typer has no public name for most of them.
"""

from __future__ import annotations

import difflib
import inspect
from collections.abc import Sequence
from importlib import import_module
from typing import Any

import typer
from typer.core import TyperCommand

from fsam_cli.hold import signals_held_back
from fsam_cli.results import stdout_for_results

# Where a recipe has the settings of its parts.
_SECTIONS = {"minimisers": "methods.LABEL", "models": "model", "datasets": "data"}


class Commands(typer.Typer):
    """A group of commands whose stdout is for results; help and version are printed before."""

    def add(self, function: str, request: type[Any], help: str) -> None:
        """A command whose options are the fields of `request`, a dataclass.

        Args:
            function: of a file of `commands/`, `recipes.show`, and called as the command is. It is
                imported when it is needed; it is handed one of `request`, and returns the exit
                code, or nothing where all is well.
            request: the options; see `options`.
            help: one sentence.
        """
        file, name = function.split(".")

        def command(**options: Any) -> None:
            with signals_held_back():  # torch does not survive a Ctrl-C in its import
                carry_out = getattr(import_module(f"fsam_cli.commands.{file}"), name)
            raise typer.Exit(carry_out(request(**options)) or 0)

        # Typer makes an option of each parameter that it sees.
        command.__signature__ = inspect.signature(request, eval_str=True)  # type: ignore[attr-defined]
        self.command(name, cls=_Command, help=help)(command)


class _Command(TyperCommand):
    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        given = list(args)  # click takes them out of its own
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as error:
            error.message = _plain(error) or _missing(error, given)
            raise
        except Exception as error:
            takes_keys = any(parameter.name == "overrides" for parameter in self.params)
            if takes_keys and hasattr(error, "possibilities"):  # an unknown option
                _name_key(error, given)
            raise

    def invoke(self, ctx: Any) -> Any:
        with stdout_for_results():
            return super().invoke(ctx)


def _missing(error: Any, given: Sequence[str]) -> str:
    """What to write for a missing option, if that is plain: `fsam train quickstart` names a
    recipe."""
    meant = error.param is not None and error.param.name == "recipe" and given
    if not meant or given[0].startswith("-") or "=" in given[0]:
        return ""
    return f"Write --recipe {given[0]}."


def _plain(error: typer.BadParameter) -> str:
    """What is refused and why, without the words in which pydantic says so to programmers."""
    found = getattr(error.__cause__, "errors", None)
    if found is None:  # click's own
        return error.message
    first = found()[0]
    if first["type"] == "value_error":
        return str(first["ctx"]["error"])
    return f"{first['input']!r} is refused; {first['msg'][0].lower()}{first['msg'][1:]}"


def _name_key(error: Any, given: Sequence[str]) -> None:
    """Add to a refusal how a recipe says what the option seems to ask: `--epochs 3` is
    `train.epochs=3`; nothing where no recipe has such a key."""
    option = error.option_name
    with signals_held_back():  # the parts import torch
        key = _key(option.lstrip("-"))
    if key:
        example = f"{key}={_value(option, given)}"
        error.message = (
            f"No such option: {option}; keys of the recipe are given as KEY=VALUE: {example}"
        )
        error.possibilities = [each for each in error.possibilities or () if option in each]


def _value(option: str, given: Sequence[str]) -> str:
    """What was given for an option, `--epochs 3` or `--epochs=3`."""
    for argument, following in zip(given, (*given[1:], "-"), strict=True):
        name, equals, attached = argument.partition("=")
        another = following.startswith("-") and not following[1:2].isdigit()
        if name == option and (equals or not another):
            return attached if equals else following
    return "VALUE"


def _key(option: str) -> str:
    """The dotted key of a recipe that is, or ends with, the name of an option or nearly so; else
    nothing."""
    from fsam_cli.recipe.problems import keys_of
    from fsam_cli.recipe.schema import Recipe

    known = keys_of(Recipe)
    by_end = {key.rpartition(".")[2]: key for key in reversed(known)}  # the first of equals
    name = option.replace("-", "_")
    if name in known or name in by_end:
        return by_end.get(name, name)
    if "." in option:  # of a part, or a method by its label, which may have dashes
        return option if option.partition(".")[0] in known else ""
    from fsam_cli.parts import catalogue
    from fsam_cli.recipe.optimizers import is_setting

    for room, section in _SECTIONS.items():
        if any(name in part.model_fields for part in catalogue(room).values()):
            return f"{section}.{name}"
    if is_setting(name):
        return f"train.optimizer.{name}"
    near = difflib.get_close_matches(name, by_end, n=1, cutoff=0.85)  # `--seed` is `seeds`
    return by_end[near[0]] if near else ""
