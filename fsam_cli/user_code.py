"""Python files of the user's own, plugins and peers: run as modules; errors name the line.

Such a file is only ever loaded from a path that the user named, in the recipe or on the command
line; never from a run directory because it lies there.
"""

from __future__ import annotations

import hashlib
import re
import sys
import traceback
from pathlib import Path
from types import ModuleType
from typing import Any

from fsam_cli.errors import Problem
from fsam_cli.parts import PartError
from fsam_cli.recipe.schema import expanded


def absolute(path: Path) -> Path:
    """Where a file lies that the user named; `~` allowed. Links stay: the name is the user's."""
    return expanded(path).absolute()


def content_of(path: Path, key: str) -> bytes:
    """Read a file of code.

    Args:
        path: as the user named it.
        key: where it was named, for the messages: an option, or a key of the recipe.

    Raises:
        PartError: no such file, or none of Python's.
    """
    where = expanded(path)
    start = "the working directory" if key.startswith("--") else "the recipe's folder"
    try:
        if where.is_dir():
            raise PartError(Problem(key, f"{path} is a folder", "name one .py file in it"))
        if not where.exists():
            raise PartError(Problem(key, f"no file {path}", f"paths start at {start}"))
        if where.suffix != ".py":
            what = f"{path} is not a Python file"
            raise PartError(Problem(key, what, "name a file that ends with .py"))
        return where.read_bytes()
    except OSError as error:
        what = f"cannot read {path}: {error.strerror or error}"
        raise PartError(Problem(key, what, "make it readable")) from None


def imported(path: Path, content: bytes, key: str) -> ModuleType:
    """The file as a module named by its content, so that another process finds the same classes
    under the same name.

    What was hashed is what is compiled, and no `__pycache__` is left beside the user's file.

    Raises:
        PartError: an error of its code.
    """
    name = f"fsam_plugin_{hashlib.sha256(content).hexdigest()[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    where = absolute(path)
    module = ModuleType(name)
    module.__file__ = str(where)
    sys.modules[name] = module  # before it runs: its classes look their annotations up there
    try:
        exec(compile(content, str(where), "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        remedy = "fix the file"
        if isinstance(error, ModuleNotFoundError):
            remedy = "it is one file: it may import what is installed, not files beside it"
        raise PartError(Problem(key, told(error, where, content), remedy)) from None
    except BaseException:
        del sys.modules[name]
        raise
    return module


def provides_of(module: ModuleType, path: Path, key: str, example: str) -> dict[Any, Any]:
    """What the file provides.

    Args:
        example: what to write where nothing is provided.

    Raises:
        PartError: it provides nothing.
    """
    provides = getattr(module, "PROVIDES", None)
    if provides is None:
        raise PartError(Problem(key, f"{path} has no PROVIDES", example))
    if not isinstance(provides, dict) or not provides:
        what = "is empty" if provides == {} else f"is not a dictionary but {kind_of(provides)}"
        raise PartError(Problem(key, f"PROVIDES of {path} {what}", example))
    return provides


def told(error: BaseException, path: Path, content: bytes) -> str:
    """`mine.py, line 3 (rho = undefined): NameError: ...`: the user's line, not ours."""
    number = None
    if isinstance(error, SyntaxError) and error.filename == str(path):
        number = error.lineno
    else:
        frames = traceback.extract_tb(error.__traceback__)
        own = [frame.lineno for frame in frames if frame.filename == str(path)]
        number = own[-1] if own else None
    what = error.msg if isinstance(error, SyntaxError) else str(error)
    said = f"{type(error).__name__}: {what.splitlines()[0] if what else 'no message'}"
    lines = re.split(r"\r\n|\r|\n", content.decode(errors="replace"))  # as Python counts them
    if number is None or not 0 < number <= len(lines):
        return f"{path}: {said}"
    return f"{path}, line {number} ({lines[number - 1].strip()}): {said}"


def kind_of(value: Any) -> str:
    """`the class Mine`, `a value of type int`."""
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"a value of type {type(value).__name__}"
