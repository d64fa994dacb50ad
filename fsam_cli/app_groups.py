"""The groups `fsam recipes` and `fsam runs` of the command line.

As in `app`, what carries a command out is imported when it is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fsam_cli.hold import signals_held_back
from fsam_cli.options import FormatOption, Overrides, Plugins, Roots
from fsam_cli.results import Commands

recipes_app = Commands(no_args_is_help=True, help="List, show, copy and check recipes.")
runs_app = Commands(no_args_is_help=True, help="List, show and clean recorded runs.")


@recipes_app.command("ls")
def recipes_ls(format: FormatOption = "table") -> None:
    """The recipes that come with fsam."""
    with signals_held_back():
        from fsam_cli.commands import recipes

    recipes.ls(format=format)


@recipes_app.command("show")
def recipes_show(
    recipe: Annotated[str, typer.Argument(help="A file or a shipped name.")],
    overrides: Overrides = None,
    plugin: Plugins = None,
) -> None:
    """The resolved recipe, every default filled in."""
    with signals_held_back():
        from fsam_cli.commands import recipes

    recipes.show(recipe, overrides or [], plugin or [])


@recipes_app.command("cp")
def recipes_cp(
    recipe: Annotated[str, typer.Argument(help="A shipped name or a file.")],
    target: Annotated[str, typer.Argument(help="A new file, or a folder.")] = ".",
) -> None:
    """Copy a recipe to edit it; never overwrites."""
    with signals_held_back():
        from fsam_cli.commands import recipes

    recipes.cp(recipe, target)


@recipes_app.command("validate")
def recipes_validate(
    recipe: Annotated[str, typer.Argument(help="A file or a shipped name.")],
    overrides: Overrides = None,
    plugin: Plugins = None,
) -> None:
    """Report everything that is wrong with a recipe."""
    with signals_held_back():
        from fsam_cli.commands import recipes

    recipes.validate(recipe, overrides or [], plugin or [])


@runs_app.command("ls")
def runs_ls(roots: Roots = None, format: FormatOption = "table") -> None:
    """Status, result, size and age of every run."""
    with signals_held_back():
        from fsam_cli.commands import runs

    runs.ls(roots or [Path("runs")], format=format)


@runs_app.command("show")
def runs_show(run: Annotated[Path, typer.Argument(help="A run directory.")]) -> None:
    """One run: configuration, result, and the end of its log."""
    with signals_held_back():
        from fsam_cli.commands import runs

    runs.show(run)


@runs_app.command("clean")
def runs_clean(
    roots: Roots = None,
    status: Annotated[
        str,
        typer.Option(
            help="Comma-separated: planned, interrupted, failed, diverged, done, unreadable."
        ),
    ] = "planned,failed",
    yes: Annotated[bool, typer.Option("--yes", help="Remove; without it, only say what.")] = False,
) -> None:
    """Remove run directories by status; a run at work is left alone."""
    with signals_held_back():
        from fsam_cli.commands import runs

    runs.clean(roots or [Path("runs")], status=status, yes=yes)
