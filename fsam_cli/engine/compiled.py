"""Compiling the passes over flat memory: one definition per method, one loop per pass.

Eager torch runs `g / (1 + eta * g * g)` as four passes with temporaries; compiled it is one loop
over the flat vector, on the CPU (C++) and on a GPU (Triton) alike. Sizes never change in a run, so
nothing is compiled twice; learning rate and radius are tensors for the same reason.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch

C = TypeVar("C", bound=Callable[..., Any])


def as_one_loop(function: C) -> C:
    """The function, compiled for the sizes it is first called with."""
    compiled: Any = torch.compile(function, fullgraph=True, dynamic=False)
    return compiled  # type: ignore[no-any-return]


@cache
def as_one_loop_for_all(function: C) -> C:
    """The same for a function of the module, shared by all runs of a process."""
    return as_one_loop(function)
