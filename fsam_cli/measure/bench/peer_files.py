"""Finding peers: the files of `peer_adapters/`, and those the user names with `--peer`.

A peer's file is code, and it is run only when it is fsam's own or was named.
"""

from __future__ import annotations

import importlib
import pkgutil
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from fsam_cli.errors import UsageError
from fsam_cli.measure.bench.peer_adapters._contract import Builder, Setting

EXAMPLE = 'a peer file ends with PROVIDES = {"a name": builder}'
TRIAL = Setting(rho=0.05, lr=0.1, momentum=0.9, weight_decay=5e-4)


@dataclass(frozen=True)
class NamedPeer:
    """An implementation that can be built."""

    name: str
    build: Builder
    version: str | None  # of its distribution


def found_peers(files: Sequence[Path]) -> tuple[tuple[NamedPeer, ...], tuple[str, ...]]:
    """Every peer there is, those of the user's files too, and a line for each file of fsam's whose
    package is not installed.

    Raises:
        UsageError: a file of the user's that provides no peer, or a name that two files provide.
    """
    found: dict[str, NamedPeer] = {}
    skipped = []
    for module in _built_in():
        distribution = getattr(module, "DISTRIBUTION", None)
        if distribution is not None and _version(distribution) is None:
            skipped.append(f"{distribution} is not installed; pip install 'fsam-cli[bench]' has it")
            continue
        _add(found, module, module.__name__)
    for path in files:
        module = _loaded(path)
        _add(found, module, f"--peer {path}")
        for name in module.PROVIDES:
            _try(found[name], path)
    return tuple(found.values()), tuple(skipped)


def _built_in() -> list[ModuleType]:
    """The files of peer_adapters/, by file name."""
    package = importlib.import_module("fsam_cli.measure.bench.peer_adapters")
    names = sorted(module.name for module in pkgutil.iter_modules(package.__path__))
    return [
        importlib.import_module(f"{package.__name__}.{name}")
        for name in names
        if not name.startswith("_")
    ]


def _version(distribution: str) -> str | None:
    try:
        return version(distribution)
    except PackageNotFoundError:
        return None


def _loaded(path: Path) -> ModuleType:
    """A file of the user's own, run as a module.

    Raises:
        UsageError: no such file, an error of its code, or no `PROVIDES` of builders.
    """
    where = path.expanduser()
    if where.suffix != ".py" or not where.is_file():
        raise UsageError(
            f"--peer {path}: no such Python file; name an adapter (see docs/performance.md)"
        )
    module = ModuleType(f"fsam_peer_{where.stem}")
    module.__file__ = str(where)
    try:
        exec(compile(where.read_bytes(), str(where), "exec", dont_inherit=True), module.__dict__)
    except (Exception, SystemExit) as error:
        raise UsageError(f"--peer {path}: {_told(error, where)}; fix the file") from None
    provides = getattr(module, "PROVIDES", None)
    if not isinstance(provides, dict) or not provides:
        raise UsageError(f"--peer {path}: it has no PROVIDES; {EXAMPLE}")
    for name, builder in provides.items():
        if not isinstance(name, str) or not callable(builder):
            raise UsageError(f"--peer {path}: {name!r} is not a name with a builder; {EXAMPLE}")
    return module


def _add(found: dict[str, NamedPeer], module: ModuleType, source: str) -> None:
    distribution = getattr(module, "DISTRIBUTION", None)
    for name, builder in module.PROVIDES.items():
        if name in found or name.startswith("fsam "):  # fsam's own lines are called so
            raise UsageError(f"{source}: the name '{name}' is taken; choose another one")
        found[name] = NamedPeer(name, builder, _version(distribution) if distribution else None)


def _try(peer: NamedPeer, path: Path) -> None:
    """Build it on a parameter of two numbers, before anything is measured.

    Raises:
        UsageError: it cannot be built, or what is built lacks a verb.
    """
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    try:
        built = peer.build([parameter], TRIAL)
    except Exception as error:
        told = _told(error, path.expanduser())
        raise UsageError(f"--peer {path}: '{peer.name}' cannot be built: {told}") from None
    for verb in ("first_step", "second_step"):
        if not callable(getattr(built, verb, None)):
            raise UsageError(
                f"--peer {path}: what '{peer.name}' builds has no {verb}(); it needs first_step() "
                "(to w + eps) and second_step() (back, and SGD's step)"
            )


def _told(error: BaseException, path: Path) -> str:
    """`line 3: NameError: ...`: the user's line, not ours."""
    frames = traceback.extract_tb(error.__traceback__)
    own = [frame.lineno for frame in frames if frame.filename == str(path)]
    number = error.lineno if isinstance(error, SyntaxError) else own[-1] if own else None
    said = f"{type(error).__name__}: {error}"
    return said if number is None else f"line {number}: {said}"
