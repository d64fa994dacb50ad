"""Where to look next: the same small budget of trials for every method.

Two rounds, both evenly spread (scrambled Sobol points on logarithmic axes). The first covers the
method's declared space; the second covers a box of half its width around the best of the first.
Where that best lies near an edge, the box reaches past it: a space that was declared too small is
extended within the same budget. A space that the user gave is not left.

Trials are paired as seeds are: the k-th of each method lies at the same share of its axes, the
radius first. So where points happen to fall is no method's luck, and depends neither on its name
nor on what it is compared with.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Container, Iterable, Mapping, Sequence

import numpy as np
from scipy.stats import qmc

from fsam_cli.minimisers._contract import LogRange

Point = dict[str, float]
_AXES = 32  # a scrambled Sobol point of more axes begins otherwise; no method searches as many


def first_round(trials: int) -> int:
    """How many of a method's trials the first round takes: two thirds."""
    return max(1, math.ceil(2 * trials / 3))


def spread(
    space: Mapping[str, LogRange], count: int, seed: int, *, later: bool = False
) -> list[Point]:
    """`count` points, evenly spread over the space; rounded to three significant digits.

    The shares of an axis depend on its place in the space, the seed and the round alone. A method
    without a space has one point, however many trials it is given.

    Args:
        space: the range of each setting.
        count: of points; fewer of them are the first of more.
        seed: of the scrambling.
        later: the second round, which has other shares than the first.
    """
    if not space:
        return [{}]
    with warnings.catch_warnings():
        # Balance wants a power of two; a budget of trials is what it is.
        warnings.simplefilter("ignore", UserWarning)
        sobol = qmc.Sobol(max(_AXES, len(space)), seed=np.random.default_rng([seed, later]))
        unit = sobol.random(count)[:, : len(space)]
    return [point_at(space, shares) for shares in unit]


def point_at(space: Mapping[str, LogRange], shares: Iterable[float]) -> Point:
    """At these shares of each logarithmic axis, to three significant digits, never outside."""
    point = {}
    for (key, (low, high)), share in zip(space.items(), shares, strict=True):
        rounded = float(f"{low * (high / low) ** share:.3g}")
        point[key] = min(max(rounded, low), high)
    return point


def around(
    space: Mapping[str, LogRange], best: Point, within: Container[str] = ()
) -> dict[str, LogRange]:
    """The box of the second round: half as wide on each axis, the best in its middle.

    Args:
        space: of the first round.
        best: its best point.
        within: settings whose space is not left.
    """
    box = {}
    for key, (low, high) in space.items():
        reach = (high / low) ** 0.25
        lower, higher = best[key] / reach, best[key] * reach
        if key in within:
            lower, higher = max(lower, low), min(higher, high)
        box[key] = LogRange(lower, higher)
    return box


def extended(space: Mapping[str, LogRange], box: Mapping[str, LogRange]) -> list[str]:
    """The settings whose second round reaches outside the declared space, with the new bound."""
    found = []
    for key, (low, high) in space.items():
        if box[key].low < low:
            found.append(f"{key} down to {box[key].low:.3g}")
        elif box[key].high > high:  # a box is narrower than its space, and leaves it at one end
            found.append(f"{key} up to {box[key].high:.3g}")
    return found


def best_of(points: Sequence[Point], scores: Sequence[float | None]) -> Point | None:
    """The point with the highest score; the first of equals; None if nothing has one."""
    scored = [(score, -position) for position, score in enumerate(scores) if score is not None]
    return points[-max(scored)[1]] if scored else None
