"""The plane of the toy problem, as every picture of it is drawn: ground, named points, names."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from fsam_cli.records.frame import as_rows

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

NAMES = {
    "sgd": "SGD",
    "sam": "SAM",
    "asam": "ASAM",
    "fsam": "FSAM, exact Fisher",
    "sam_matched": "SAM, FSAM's length",
}
SHORT_NAMES = {**NAMES, "fsam": "FSAM", "sam_matched": "matched SAM"}
RADII = {"sam": "ρ", "asam": "ρ", "fsam": "γ", "sam_matched": "γ"}

# A named point of the plane: shape and face, told apart in grey as well.
MARKS: dict[str, dict[str, Any]] = {
    "flat": {"marker": "*", "markersize": 15, "markerfacecolor": "white"},
    "sharp": {"marker": "o", "markersize": 8, "markerfacecolor": "white"},
    "saddle": {"marker": "X", "markersize": 7, "markerfacecolor": "white"},
}
INK = "#000000"


class Landscape(NamedTuple):
    """The loss on a grid and its named points.

    `points` has the columns name ("flat", "sharp", "saddle"), mu, sigma, loss, hessian_trace.
    """

    mu: np.ndarray
    sigma: np.ndarray
    loss: np.ndarray  # (sigma, mu)
    points: pd.DataFrame
    energy: str


def with_radius(method: str, radius: float, names: Mapping[str, str]) -> str:
    """A method with its radius, "SAM, ρ = 0.5"; `names` is `NAMES` or `SHORT_NAMES`."""
    name = names.get(method, method)
    symbol = RADII.get(method)
    return f"{name}, {symbol} = {radius:g}" if symbol else name


def ground(axes: Axes, landscape: Landscape, *, labelled: bool) -> None:
    """The contours, in greys that leave room for what is drawn on them."""
    lowest = float(landscape.loss.min())
    levels = lowest + np.array([0.003, 0.01, 0.02, 0.035, 0.055, 0.08, 0.12, 0.18, 0.27, 0.4, 0.6])
    levels = np.append(levels, lowest + np.array([0.9, 1.3]))
    shades = [str(round(shade, 3)) for shade in np.linspace(0.80, 0.985, len(levels) + 1)]
    grid = landscape.mu, landscape.sigma, landscape.loss
    ends = lowest - 1, float(max(landscape.loss.max(), levels[-1])) + 1
    axes.contourf(*grid, levels=[ends[0], *levels, ends[1]], colors=shades, zorder=0)
    lines = axes.contour(*grid, levels=levels, colors="#777777", linewidths=0.5, zorder=1)
    if labelled:
        axes.clabel(lines, levels=levels[4::2], fontsize=6.5, fmt="%.2f")
    axes.set_xlim(landscape.mu[0], landscape.mu[-1])
    axes.set_ylim(landscape.sigma[0], landscape.sigma[-1])
    axes.set_aspect("equal")


def marks(axes: Axes, points: pd.DataFrame, *, size: float) -> None:
    """The named points, `size` times as large as `MARKS` says."""
    for row in as_rows(points):
        mark = MARKS[str(row["name"])]
        look = {**mark, "markersize": size * mark["markersize"], "markeredgewidth": 0.9}
        axes.plot([row["mu"]], [row["sigma"]], color=INK, linestyle="none", zorder=7, **look)


def plane_labels(axes: Axes, *, ylabel: bool = True) -> None:
    """What the axes are; without `ylabel`, a panel beside another."""
    axes.set_xlabel("mean μ")
    if ylabel:
        axes.set_ylabel("standard deviation σ")


def caption(figure: Figure, text: str, *, width: int) -> None:
    """The lines below a picture, `width` characters long."""
    figure.supxlabel(textwrap.fill(text, width), fontsize=7.5, color="#333333", x=0.01, ha="left")
