"""Parts of the user's own, from files outside the package.

A plugin is one `.py` file that says what it provides as a file of the rooms does: a module-level
`PROVIDES = {"name": Class}`. A class tells its room by its base (`Minimiser`, `Model`, `DataSet`
or `Augmentation`, all in `fsam_cli.contracts`), so one file may provide parts of several rooms.

A plugin is known by the SHA-256 of its content, which is part of the identity of the runs that use
it.
"""

from __future__ import annotations

import hashlib
import importlib
import inspect
import pickle
import traceback
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from types import MappingProxyType, ModuleType
from typing import Any

from fsam_cli.errors import DataError, FsamError, Problem, UsageError
from fsam_cli.names import RULE, may_name
from fsam_cli.parts import ROOMS, PartError, catalogue
from fsam_cli.recipe.schema import Data, Method, ModelSection, NamedPart, Settings
from fsam_cli.user_code import absolute, content_of, imported, kind_of, provides_of, told

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
            plugin = earlier.get(absolute(path)) or read_plugin(path, key)
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
        raise DataError(f"{told(error, plugin.path, plugin.content)}; fix the file") from None


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
    return _plugin(path, content_of(path, key), key)


def _plugin(path: Path, content: bytes, key: str) -> PluginFile:
    sha256 = hashlib.sha256(content).hexdigest()
    rooms = _rooms(imported(path, content, key), path, key)
    return PluginFile(path=absolute(path), sha256=sha256, content=content, rooms=rooms)


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


def _rooms(module: ModuleType, path: Path, key: str) -> Mapping[str, Mapping[str, type[Settings]]]:
    """The classes of `PROVIDES` by room and name.

    Raises:
        PartError: everything that is wrong with `PROVIDES`.
    """
    rooms: dict[str, dict[str, type[Settings]]] = {}
    problems: list[Problem] = []
    for name, kind in provides_of(module, path, key, _EXAMPLE).items():
        try:
            rooms.setdefault(_room_of(name, kind, path, key), {})[name] = kind
        except PartError as error:
            problems += error.problems
    if problems:
        raise PartError(*problems)
    return MappingProxyType({room: MappingProxyType(parts) for room, parts in rooms.items()})


def _room_of(name: Any, kind: Any, path: Path, key: str) -> str:
    """The room a class belongs to.

    Raises:
        PartError: an entry of `PROVIDES` that cannot be a part.
    """

    def unfit(what: str, instead: str) -> PartError:
        return PartError(Problem(key, f"{path}: {what}", instead))

    if not isinstance(name, str) or not may_name(name):
        raise unfit(f"{name!r} is not a name for a part", RULE)
    room = next((room for room in BASES if _is_of(room, kind)), None)
    if room is None:
        raise unfit(
            f"'{name}' is {kind_of(kind)}, which is not a part",
            f"derive a class from {', '.join(BASES.values())} of fsam_cli.contracts",
        )
    which = f"'{name}' ({kind.__name__})"
    if inspect.isabstract(kind):
        missing = ", ".join(sorted(kind.__abstractmethods__))
        raise unfit(f"{which} lacks {missing}", "define it in the class")
    if taken := sorted(_TAKEN[room] & kind.model_fields.keys()):
        raise unfit(
            f"{which} has the setting '{taken[0]}', a key that recipes and records use themselves",
            "rename it",
        )
    hidden = [key for key in kind.model_fields if isinstance(getattr(kind, key, None), property)]
    if hidden:  # whatever the recipe says, the contract's own answer would be taken
        raise unfit(
            f"{which} has the setting '{hidden[0]}', which a property of that name hides",
            "rename the setting, and return it from the property",
        )
    if room == "augment" and kind.stage not in ("pixels", "normalised"):
        raise unfit(f"'{name}' has the stage {kind.stage!r}", "use 'pixels' or 'normalised'")
    private = ", ".join(sorted(kind.__private_attributes__))
    if room == "minimisers" and private:
        raise unfit(
            f"{which} keeps {private} between its steps, where no seed begins it and no "
            "checkpoint brings it back",
            "a method has no state but its memory: set remembers = True, and let `remember` fill "
            "at.m",
        )
    if not _can_be_sent(kind):
        raise unfit(
            f"'{name}' ({kind.__qualname__}) cannot be found again by another process",
            "define the class at the top level of the file, under the name it has",
        )
    if name in catalogue(room):
        home = f"{catalogue(room)[name].__module__.replace('.', '/')}.py"
        raise unfit(f"there is a {ROOMS[room]} '{name}' already, of {home}", "choose another name")
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
