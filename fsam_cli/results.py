"""stdout is for results: what a user's own code prints goes to stderr, where it spoils no CSV."""

from __future__ import annotations

import inspect
import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TextIO, TypeVar

import typer
from typer.core import TyperCommand

_F = TypeVar("_F", bound=Callable[..., Any])
_Request = TypeVar("_Request")
_kept: TextIO | None = None


@contextmanager
def stdout_for_results() -> Iterator[None]:
    """Inside, `print` is heard on stderr, and stdout is reached by `results` alone."""
    global _kept
    _kept, sys.stdout = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout, _kept = _kept, None


def results() -> TextIO:
    """The stdout of the process."""
    return sys.stdout if _kept is None else _kept


def forget_results() -> None:
    """Nothing can be written there any more, nor is it tried when the process ends."""
    global _kept
    nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (until the end)
    if _kept is None:
        sys.stdout = nowhere
    else:
        _kept = nowhere


class _Command(TyperCommand):
    def invoke(self, ctx: Any) -> Any:
        with stdout_for_results():
            return super().invoke(ctx)


class Commands(typer.Typer):
    """A group of commands whose stdout is for results; help and version are printed before."""

    def command(self, *names: Any, **settings: Any) -> Callable[[_F], _F]:
        return super().command(*names, cls=_Command, **settings)

    def taking(
        self, request: type[_Request]
    ) -> Callable[[Callable[[_Request], int]], Callable[[_Request], int]]:
        """A command whose options are the fields of `request`, a dataclass; the function below is
        handed one with what was asked, carries it out, and returns the exit code."""

        def registered(carry_out: Callable[[_Request], int]) -> Callable[[_Request], int]:
            def command(**options: Any) -> None:
                raise typer.Exit(carry_out(request(**options)))

            # Typer makes an option of each parameter that it sees.
            command.__signature__ = inspect.signature(request, eval_str=True)  # type: ignore[attr-defined]
            self.command(carry_out.__name__, help=carry_out.__doc__)(command)
            return carry_out

        return registered
