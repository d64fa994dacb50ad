"""Finding peers: the files of `peer_adapters/`, and those the user names with `--peer`.

A peer's file is code, and it is run only when it is fsam's own or was named.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from fsam_cli.errors import Problem, UsageError
from fsam_cli.measure.bench.peer_adapters._contract import Builder, Setting
from fsam_cli.parts import PartError
from fsam_cli.user_code import absolute, content_of, imported, provides_of, told

OPTION = "--peer"
EXAMPLE = 'end it with PROVIDES = {"a name": builder}'
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
        try:
            content = content_of(path, OPTION)
            module = _loaded(path, content)
        except PartError as error:
            raise UsageError(str(error)) from None
        _add(found, module, f"{OPTION}: {path}")
        for name in module.PROVIDES:
            _try(found[name], path, content)
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


def _loaded(path: Path, content: bytes) -> ModuleType:
    """A file of the user's own, run as a module.

    Raises:
        PartError: an error of its code, or no `PROVIDES` of builders.
    """
    module = imported(path, content, OPTION)
    for name, builder in provides_of(module, path, OPTION, EXAMPLE).items():
        if not isinstance(name, str) or not callable(builder):
            what = f"{path}: {name!r} is not a name with a builder"
            raise PartError(Problem(OPTION, what, EXAMPLE))
    return module


def _add(found: dict[str, NamedPeer], module: ModuleType, source: str) -> None:
    distribution = getattr(module, "DISTRIBUTION", None)
    for name, builder in module.PROVIDES.items():
        if name in found or name.startswith("fsam "):  # fsam's own lines are called so
            raise UsageError(f"{source}: the name '{name}' is taken; choose another one")
        found[name] = NamedPeer(name, builder, _version(distribution) if distribution else None)


def _try(peer: NamedPeer, path: Path, content: bytes) -> None:
    """Build it on a parameter of two numbers, before anything is measured.

    Raises:
        UsageError: it cannot be built, or what is built lacks a verb.
    """
    parameter = nn.Parameter(torch.ones(2))
    parameter.grad = torch.ones(2)
    try:
        built = peer.build([parameter], TRIAL)
    except Exception as error:
        what = told(error, absolute(path), content)
        raise UsageError(f"{OPTION}: '{peer.name}' cannot be built: {what}; fix the file") from None
    for verb in ("first_step", "second_step"):
        if not callable(getattr(built, verb, None)):
            raise UsageError(
                f"{OPTION}: {path}: what '{peer.name}' builds has no {verb}(); it needs "
                "first_step() (to w + eps) and second_step() (back, and SGD's step)"
            )
