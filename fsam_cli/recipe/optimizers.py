"""The base optimisers of torch, by name: which may run on one flat tensor, which must see shapes.

An elementwise optimiser gives the same result on one flat tensor as on the parameters one by one,
and runs there in one fused kernel. One that looks at shapes gets the parameters. Three cannot take
a step here at all and are refused by name.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterable
from math import isfinite
from sys import float_info
from typing import TYPE_CHECKING, Any

from fsam_cli.errors import Problem, did_you_mean
from fsam_cli.recipe.problems import UNKNOWN_KEY
from fsam_cli.recipe.schema import Optimizer

if TYPE_CHECKING:
    import torch

ELEMENTWISE = {
    name.lower(): name
    for name in (
        "SGD",
        "Adam",
        "AdamW",
        "NAdam",
        "RAdam",
        "Adamax",
        "RMSprop",
        "Adagrad",
        "Adadelta",
        "Rprop",
        "ASGD",
    )
}
SHAPED = {"adafactor": "Adafactor"}
_KNOWN = {**ELEMENTWISE, **SHAPED}
# Of torch's arguments, those that are fsam's business: the others change numbers, and are settings.
_OURS = {"params", "lr", "fused", "foreach", "capturable", "differentiable", "maximize"}
REFUSED = {
    "lbfgs": "it evaluates the loss several times a step",
    "sparseadam": "it needs sparse gradients",
    "muon": "it takes matrices only, and these networks have filters and biases",
}


def optimizer_problems(optimizer: Optimizer, key: str) -> list[Problem]:
    """What torch would refuse at any learning rate, found on a throw-away parameter."""
    import torch

    name = optimizer.name.lower()
    if name in REFUSED:
        why = f"{optimizer.name} cannot be the base optimiser: {REFUSED[name]}"
        return [Problem(key, why, f"use one of {', '.join(sorted(_KNOWN))}")]
    if name not in _KNOWN:
        return [Problem(key, f"unknown optimiser '{optimizer.name}'", did_you_mean(name, _KNOWN))]
    accepted = _accepted(optimizer)
    problems = [
        Problem(f"{key}.{setting}", UNKNOWN_KEY, _instead_of(setting, accepted))
        for setting in optimizer.settings
        if setting not in accepted
    ]
    problems += _unfit_settings(_kind(optimizer), optimizer, key)
    if problems or is_common_sgd(optimizer):
        return problems
    try:
        construct(optimizer, [torch.nn.Parameter(torch.zeros(2, 2))], lr=0.1, fused=False)
    except (TypeError, ValueError, RuntimeError) as error:
        return [Problem(key, f"torch refuses it: {error}")]
    return []


def _instead_of(setting: str, accepted: Iterable[str]) -> str:
    if setting == "lr":  # in torch it is the optimiser's
        return "the learning rate is train.lr, or methods.LABEL.lr for one method"
    return did_you_mean(setting, accepted)


def _accepted(optimizer: Optimizer) -> list[str]:
    parameters = inspect.signature(_kind(optimizer)).parameters
    return [setting for setting in parameters if setting not in _OURS]


def is_setting(name: str) -> bool:
    """Whether some base optimiser has a setting of this name."""
    return any(name in _accepted(Optimizer(name=each)) for each in _KNOWN)


def is_common_sgd(optimizer: Optimizer) -> bool:
    """Momentum SGD with sound settings, as nearly every recipe has it: the engine steps it by
    itself, so it need not be tried out, which would import torch's compiler and take a second."""
    settings = optimizer.settings
    momentum, decay = settings.get("momentum", 0), settings.get("weight_decay", 0)
    # Written or left out these are the same, and must be the same to the last bit.
    unused = {"dampening": 0, "nesterov": False}
    return (
        optimizer.name.lower() == "sgd"
        and set(settings) <= {"momentum", "weight_decay", *unused}
        and all(settings.get(key, default) == default for key, default in unused.items())
        and _is_number(momentum)
        and _is_number(decay)
        and 0 <= momentum < 1
        and decay >= 0
    )


def _unfit_settings(kind: Callable[..., Any], optimizer: Optimizer, key: str) -> list[Problem]:
    """Settings of another kind than torch's own defaults, which torch would find out in mid-run."""
    defaults = inspect.signature(kind).parameters
    problems = []
    for name, value in optimizer.settings.items():
        default = defaults[name].default if name in defaults else None
        instead = ""
        if isinstance(default, bool):
            instead = "" if isinstance(value, bool) else "write true or false"
        elif isinstance(default, int | float):
            if not _is_number(value):
                instead = f"write a finite number; torch's own is {default}"
            elif name == "momentum" and not 0 <= value < 1:
                instead = "write a number from 0 to below 1"
            elif name == "eps" and value <= 0:  # 0 / 0 where there is no gradient yet
                instead = "write a number above 0"
        elif isinstance(default, tuple) and not (
            isinstance(value, list)
            and len(value) == len(default)
            and all(each is None or _is_number(each) for each in value)
        ):
            instead = f"write {len(default)} finite numbers; torch's own are {list(default)}"
        if instead:
            problems.append(Problem(f"{key}.{name}", f"{value!r} is refused", instead))
    return problems


def _is_number(value: Any) -> bool:
    if type(value) is int:  # without end in Python, and no number of torch's beyond a float
        return abs(value) <= float_info.max
    return type(value) is float and isfinite(value)


def keeps_momentum(optimizer: Optimizer) -> bool:
    """Whether it keeps one flat running mean of gradients, for methods that climb along it."""
    name = optimizer.name.lower()
    if name == "sgd":
        return bool(optimizer.settings.get("momentum", 0))
    return name in ("adam", "adamw", "nadam", "radam", "adamax")


def can_fuse(optimizer: Optimizer, device: torch.device) -> bool:
    """Whether torch has one fused kernel for it, which can also skip a step on the device."""
    name = optimizer.name.lower()
    if name == "adagrad":  # on a GPU only from torch 2.12 on
        return device.type == "cpu"
    return name in ("sgd", "adam", "adamw")


def construct(
    optimizer: Optimizer, parameters: Iterable[torch.Tensor], *, lr: float, fused: bool
) -> torch.optim.Optimizer:
    """The torch optimiser with the recipe's settings; lists become the tuples torch wants."""
    settings: dict[str, Any] = {
        key: tuple(_as_floats(value)) if isinstance(value, list) else value
        for key, value in optimizer.settings.items()
    }
    if fused:
        settings["fused"] = True
    return _kind(optimizer)(list(parameters), lr=lr, **settings)


def settings_apart(optimizer: Optimizer) -> dict[str, Any]:
    """The settings that are not torch's defaults, each in one form: 0 and 0.0 are one setting, and
    so are a default that is written and one that is left out."""
    defaults = inspect.signature(_kind(optimizer)).parameters
    settings = {key: _as_floats(value) for key, value in optimizer.settings.items()}
    return {
        key: value
        for key, value in settings.items()
        if (tuple(value) if isinstance(value, list) else value) != defaults[key].default
    }


def _kind(optimizer: Optimizer) -> Callable[..., torch.optim.Optimizer]:
    """Its class in torch."""
    import torch

    kind: Callable[..., torch.optim.Optimizer] = getattr(
        torch.optim, _KNOWN[optimizer.name.lower()]
    )
    return kind


def _as_floats(value: Any) -> Any:
    """Whole numbers as torch wants them in a list beside others."""
    if isinstance(value, list):
        return [_as_floats(each) for each in value]
    return float(value) if type(value) is int else value
