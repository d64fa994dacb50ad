"""The contract of a peer: another implementation of SAM, ready to step beside fsam's.

A file of this folder, or one named with `--peer`, provides builders by name. Most public SAM code
has the two verbs already, so an adapter is a few lines:

    import torch

    def build(parameters, setting):
        from sam import SAM

        base = {"lr": setting.lr, "momentum": setting.momentum}
        base["weight_decay"] = setting.weight_decay
        return SAM(parameters, torch.optim.SGD, rho=setting.rho, **base)

    PROVIDES = {"their name": build}

Import what may be missing inside the builder. `DISTRIBUTION = "name-on-the-index"`, if the file has
one, is looked up for the version, and a built-in peer whose distribution is not installed is left
out.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from torch import nn


@dataclass(frozen=True)
class Setting:
    """What every implementation is set to."""

    rho: float  # radius
    lr: float
    momentum: float
    weight_decay: float


class Peer(Protocol):
    """SAM around SGD with momentum; gradients are in the parameters' `grad` when it is called."""

    def first_step(self) -> Any:
        """From w to w + eps."""

    def second_step(self) -> Any:
        """Back to w, and SGD's step from there."""


Builder = Callable[[list[nn.Parameter], Setting], Peer]
