"""Compiling the passes over flat memory: one definition per method, one loop per pass.

Eager torch runs `g / (1 + eta * g * g)` as passes with temporaries; compiled it is one loop over
the flat vector, on the CPU (C++) and on a GPU (Triton) alike. Sizes and settings never change in a
run, and the learning rate is a tensor, so nothing is compiled twice in it. The next run begins with
an empty memory of compiled code: torch gives up after a number of variants of one function, and a
run's bits must not depend on which runs came before it in the process.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import Any, TypeVar

import torch

C = TypeVar("C", bound=Callable[..., Any])


def as_one_loop(function: C) -> C:
    """The function, compiled for the sizes it is first called with."""
    # The compiler's import warns of a toolkit without a GPU; a run says where it computes.
    logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)
    compiled: Any = torch.compile(function, fullgraph=True, dynamic=False)
    return compiled  # type: ignore[no-any-return]


@cache
def as_one_loop_for_all(function: C) -> C:
    """The same for a function of the module, shared by all runs of a process."""
    return as_one_loop(function)


def reset_compiler() -> None:
    """Forget what was compiled for earlier runs, and allow as many variants as any run needs."""
    import torch._dynamo.config as settings

    as_one_loop_for_all.cache_clear()
    torch.compiler.reset()
    settings.recompile_limit = 64
    settings.accumulated_recompile_limit = 1024
