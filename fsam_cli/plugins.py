"""Parts of the user's own, from files outside the package.

A plugin is one `.py` file that says what it provides as a file of the rooms does: a module-level
`PROVIDES = {"name": Class}`. A class tells its room by its base (`Minimiser`, `Model`, `DataSet`
or `Augmentation`, all in `fsam_cli.contracts`), so one file may provide parts of several rooms.

Code is only ever loaded from a path that the user named, in the recipe or on the command line;
never from a run directory because it lies there. A plugin is known by the SHA-256 of its content:
it is part of the identity of the runs that use it, and it names the module under which the file is
imported, so that another process finds the same classes under the same name.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pickle
import sys
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from fsam_cli.errors import DataError, FsamError, Problem, UsageError
from fsam_cli.names import PLAIN_NAME
from fsam_cli.parts import ROOMS, PartError, catalogue
from fsam_cli.recipe.schema import Data, Method, ModelSection, NamedPart, Settings, expanded

BASES = MappingProxyType(
    {
        "minimisers": "Minimiser",
        "models": "Model",
        "datasets": "DataSet",
        "augment": "Augmentation",
    }
)
# What stands beside a part's own settings: the keys of its section of the recipe, and in a record.
_TAKEN: Mapping[str, frozenset[str]] = MappingProxyType(
    {
        "minimisers": frozenset({*Method.model_fields, "method", "plugin"}),
        "models": frozenset({*ModelSection.model_fields, "plugin"}),
        "datasets": frozenset({*Data.model_fields, "digest", "plugin"}),
        "augment": frozenset({*NamedPart.model_fields, "plugin"}),
    }
)
_EXAMPLE = 'end it with PROVIDES = {"name": Class}'


@dataclass(frozen=True)
class PluginFile:
    """A plugin as it was read: its content, and the classes it provides."""

    path: Path  # absolute
    sha256: str  # of the content
    content: bytes = field(repr=False, compare=False)
    rooms: Mapping[str, Mapping[str, type[Settings]]] = field(repr=False, compare=False)

    def __reduce__(self) -> tuple[Any, ...]:
        """In another process the file is loaded again, and must be what it was."""
        return _unchanged, (self.path, self.sha256)


def load_plugins(
    named: Iterable[tuple[str, Path]],
    known: Sequence[PluginFile] = (),
    *,
    versions: bool = False,
) -> tuple[tuple[PluginFile, ...], list[Problem]]:
    """Load every file, once; give what could be loaded, and everything that is wrong.

    Args:
        named: key for the messages (`plugins.0`, `--plugin`) and path.
        known: plugins read earlier by the same command, which are not read again: a file that is
            edited meanwhile must not change what the command does.
        versions: several files may provide one part.
    """
    earlier = {plugin.path: plugin for plugin in known}
    found: dict[str, PluginFile] = {}  # by content: a file named twice is one plugin
    problems: list[Problem] = []
    for key, path in named:
        try:
            plugin = earlier.get(_absolute(path)) or read_plugin(path, key)
        except PartError as error:
            problems += error.problems
            continue
        clashes = [] if versions else _clashes(plugin, found.values(), key)
        problems += clashes
        if not clashes:
            found.setdefault(plugin.sha256, plugin)
    return tuple(found.values()), problems


def plugins_of_command(paths: Sequence[Path], *, versions: bool = False) -> tuple[PluginFile, ...]:
    """The files of `--plugin` for a command without a recipe.

    Args:
        paths: as the user named them.
        versions: two of one part may stand side by side, as recorded runs may need them.

    Raises:
        UsageError: a file that is no plugin, or two that provide one part; all that is wrong.
    """
    found, problems = load_plugins((("--plugin", path) for path in paths), versions=versions)
    if problems:
        raise UsageError("\n".join(map(str, problems)))
    return found


def provided(plugins: Iterable[PluginFile], room: str) -> dict[str, type[Settings]]:
    """The plugins' parts of a room, by name."""
    return {name: kind for plugin in plugins for name, kind in plugin.rooms.get(room, {}).items()}


def origin(plugins: Iterable[PluginFile], room: str, name: str) -> PluginFile | None:
    """The plugin that provides a part, None for a built-in one."""
    return next((plugin for plugin in plugins if name in plugin.rooms.get(room, {})), None)


@contextmanager
def blaming(plugin: PluginFile | None) -> Iterator[None]:
    """Report an error from inside a plugin's code as a DataError that names the plugin's line; let
    those of built-in parts pass.

    Raises:
        DataError: what the plugin's code met.
    """
    try:
        yield
    except FsamError:
        raise
    except Exception as error:
        if plugin is None:
            raise
        raise DataError(f"{_told(error, plugin.path, plugin.content)}; fix the file") from None


def raised_in(error: BaseException, files: Iterable[Path]) -> str:
    """` (mine.py, line 12, in direction)`: where an error left one of these files; else nothing.

    Args:
        error: or what it was raised from, if that tells.
        files: absolute paths.
    """
    names = {str(file): file.name for file in files}
    at: BaseException | None = error
    while at is not None:
        for frame, line in reversed(list(traceback.walk_tb(at.__traceback__))):
            code = frame.f_code
            if code.co_filename in names:
                return f" ({names[code.co_filename]}, line {line}, in {code.co_name})"
        at = at.__cause__ or at.__context__
    return ""


def read_plugin(path: Path, key: str) -> PluginFile:
    """Read, hash and import one file, and sort what it provides into rooms.

    Args:
        path: as the user named it; `~` allowed.
        key: where it was named, for the messages.

    Raises:
        PartError: no such file, an error of its code, or a `PROVIDES` that cannot be used.
    """
    return _plugin(path, _content(path, key), key)


def _plugin(path: Path, content: bytes, key: str) -> PluginFile:
    sha256 = hashlib.sha256(content).hexdigest()
    module = _imported(_absolute(path), content, sha256, key)
    rooms = _rooms(module, path, key)
    return PluginFile(path=_absolute(path), sha256=sha256, content=content, rooms=rooms)


@cache
def _unchanged(path: Path, sha256: str) -> PluginFile:
    """What a plugin sent to another process becomes there; loaded with the first plan that uses it,
    so that later edits of the file do not reach a process at work.

    Raises:
        UsageError: the file is not there any more, or not what it was.
    """
    again = "this run was not started. Give the command again"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UsageError(f"cannot read {path} any more: {error.strerror}; {again}") from None
    now = hashlib.sha256(content).hexdigest()
    if now != sha256:
        raise UsageError(
            f"{path} was changed while the command ran (sha256 {sha256[:12]}, now {now[:12]}); "
            f"{again}: changed code makes runs of its own"
        )
    try:
        return _plugin(path, content, "plugin")
    except PartError as error:
        raise UsageError(str(error)) from None


def _absolute(path: Path) -> Path:
    return expanded(path).absolute()  # links stay: the name is the user's


def _content(path: Path, key: str) -> bytes:
    where = expanded(path)
    start = "the working directory" if key == "--plugin" else "the recipe's folder"
    try:
        if where.is_dir():
            raise PartError([Problem(key, f"{path} is a folder", "name one .py file in it")])
        if not where.exists():
            raise PartError([Problem(key, f"no file {path}", f"paths start at {start}")])
        if where.suffix != ".py":
            what = f"{path} is not a Python file"
            raise PartError([Problem(key, what, "name a file that ends with .py")])
        return where.read_bytes()
    except OSError as error:
        what = f"cannot read {path}: {error.strerror or error}"
        raise PartError([Problem(key, what, "make it readable")]) from None


def _imported(path: Path, content: bytes, sha256: str, key: str) -> ModuleType:
    """The file as a module named by its content.

    What was hashed is what is compiled, and no `__pycache__` is left beside the user's file.
    """
    name = f"fsam_plugin_{sha256[:16]}"
    if name in sys.modules:
        return sys.modules[name]
    module = ModuleType(name)
    module.__file__ = str(path)
    sys.modules[name] = module  # before it runs: its classes look their annotations up there
    try:
        exec(compile(content, str(path), "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        del sys.modules[name]
        remedy = "fix the file"
        if isinstance(error, ModuleNotFoundError):
            remedy = "a plugin is one file: it may import what is installed, not files beside it"
        raise PartError([Problem(key, _told(error, path, content), remedy)]) from None
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _told(error: BaseException, path: Path, content: bytes) -> str:
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
    lines = content.decode(errors="replace").splitlines()
    if number is None or not 0 < number <= len(lines):
        return f"{path}: {said}"
    return f"{path}, line {number} ({lines[number - 1].strip()}): {said}"


def _rooms(module: ModuleType, path: Path, key: str) -> Mapping[str, Mapping[str, type[Settings]]]:
    """The classes of `PROVIDES` by room and name.

    Raises:
        PartError: everything that is wrong with `PROVIDES`.
    """
    provides = getattr(module, "PROVIDES", None)
    if provides is None:
        raise PartError([Problem(key, f"{path} has no PROVIDES", _EXAMPLE)])
    if not isinstance(provides, dict) or not provides:
        what = "is empty" if provides == {} else f"is not a dictionary but {_kind(provides)}"
        raise PartError([Problem(key, f"PROVIDES of {path} {what}", _EXAMPLE)])
    rooms: dict[str, dict[str, type[Settings]]] = {}
    problems: list[Problem] = []
    for name, kind in provides.items():
        try:
            room = _room_of(name, kind)
        except ValueError as error:
            what, _, remedy = str(error).partition("; ")
            problems.append(Problem(key, f"{path}: {what}", remedy))
        else:
            rooms.setdefault(room, {})[name] = kind
    if problems:
        raise PartError(problems)
    return MappingProxyType({room: MappingProxyType(parts) for room, parts in rooms.items()})


def _room_of(name: Any, kind: Any) -> str:
    """The room a class belongs to.

    Raises:
        ValueError: `what; what instead` for an entry of `PROVIDES` that cannot be a part.
    """
    if not isinstance(name, str) or not PLAIN_NAME.fullmatch(name):
        raise ValueError(
            f"{name!r} is not a name for a part; use letters, digits, '.', '_' and '-', "
            "starting with a letter or digit"
        )
    room = next((room for room in BASES if _is_of(room, kind)), None)
    if room is None:
        raise ValueError(
            f"'{name}' is {_kind(kind)}, which is not a part; derive a class from "
            f"{', '.join(BASES.values())} of fsam_cli.contracts"
        )
    if inspect.isabstract(kind):
        missing = ", ".join(sorted(kind.__abstractmethods__))
        raise ValueError(f"'{name}' ({kind.__name__}) lacks {missing}; define it in the class")
    taken = sorted(_TAKEN[room] & kind.model_fields.keys())
    if taken:
        raise ValueError(
            f"'{name}' ({kind.__name__}) has the setting '{taken[0]}', a key that recipes and "
            "records use themselves; rename it"
        )
    if room == "augment" and kind.stage not in ("pixels", "normalised"):
        raise ValueError(f"'{name}' has the stage {kind.stage!r}; use 'pixels' or 'normalised'")
    private = ", ".join(sorted(kind.__private_attributes__))
    if room == "minimisers" and private:
        raise ValueError(
            f"'{name}' ({kind.__name__}) keeps {private} between its steps, where no seed begins "
            "it and no checkpoint brings it back; a method has no state but its memory: set "
            "remembers = True, and let `remember` fill at.m"
        )
    if not _can_be_sent(kind):
        raise ValueError(
            f"'{name}' ({kind.__qualname__}) cannot be found again by another process; define "
            "the class at the top level of the file, under the name it has"
        )
    if name in catalogue(room):
        home = f"{catalogue(room)[name].__module__.replace('.', '/')}.py"
        raise ValueError(
            f"there is a {ROOMS[room]} '{name}' already, of {home}; choose another name"
        )
    return room


def _clashes(plugin: PluginFile, others: Iterable[PluginFile], key: str) -> list[Problem]:
    """Names that plugins named together must not share, each with the two files."""
    problems = []
    for other in others:
        if other.sha256 == plugin.sha256:  # the same one, named again
            continue
        if other.path.name == plugin.path.name:  # their copies lie side by side in the record
            what = f"{other.path} and {plugin.path} have the same file name"
            problems.append(Problem(key, what, "rename one of them"))
        for room, parts in plugin.rooms.items():
            problems += [
                Problem(
                    key,
                    f"{other.path} and {plugin.path} both provide the {ROOMS[room]} '{name}'",
                    "rename it in one of them",
                )
                for name in parts
                if name in other.rooms.get(room, {})
            ]
    return problems


def _is_of(room: str, kind: Any) -> bool:
    contract = importlib.import_module(f"fsam_cli.{room}._contract")
    return isinstance(kind, type) and issubclass(kind, getattr(contract, BASES[room]))


def _can_be_sent(kind: type) -> bool:
    try:
        return pickle.loads(pickle.dumps(kind)) is kind
    except (pickle.PicklingError, AttributeError, ImportError):
        return False


def _kind(value: Any) -> str:
    if isinstance(value, type):
        return f"the class {value.__name__}"
    return f"a value of type {type(value).__name__}"
