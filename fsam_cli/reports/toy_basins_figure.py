"""The basins of attraction of the toy problem, which the Fisher SAM paper does not show.

A pure function of plain numbers.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fsam_cli.reports._style import new_figure, style_of
from fsam_cli.reports._toy_plane import SHORT_NAMES, Landscape, caption, marks, with_radius

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Where a start ends, told apart by lightness; no method's colour.
_ENDS = {
    "flat": ("#E8E8E8", "the flat minimum"),
    "sharp": ("#444444", "the sharp minimum"),
    "saddle": ("#CC79A7", "the saddle between them"),
    "elsewhere": ("#FFFFFF", "elsewhere"),
}


def basins(ends: pd.DataFrame, fractions: pd.DataFrame, landscape: Landscape) -> Figure:
    """Where every method ends from every start: a map per method and radius, and a summary.

    Args:
        ends: columns method, radius, start_mu, start_sigma, ends_at.
        fractions: columns method, radius, probe (median first length), flat_fraction.
    """
    from matplotlib.patches import Patch

    layout = _layout(fractions)
    figure = new_figure(9.4, 2.15 * len(layout) + 0.5)
    grid = figure.add_gridspec(len(layout), 4)
    first: Axes | None = None
    for i, row in enumerate(layout):
        for j, position in enumerate(row):
            if position is None:
                continue
            axes = figure.add_subplot(grid[i, j], sharex=first, sharey=first)
            first = first or axes
            line = fractions.iloc[position]
            chosen = ends[(ends["method"] == line["method"]) & (ends["radius"] == line["radius"])]
            _basin(axes, chosen, landscape, line)
            lowest = i + 1 == len(layout) or layout[i + 1][j] is None
            axes.set_ylabel("start σ" if j == 0 else "", fontsize=8)
            axes.set_xlabel("start μ" if lowest else "", fontsize=8)
            axes.tick_params(labelsize=7, labelbottom=lowest, labelleft=j == 0)
    free = [i for i, row in enumerate(layout) if row[3] is None]
    if free:
        _summary(figure.add_subplot(grid[free[0] : free[-1] + 1, 3]), fractions)
    figure.legend(
        handles=[
            Patch(facecolor=color, edgecolor="#777777", linewidth=0.5, label=f"ends at {what}")
            for name, (color, what) in _ENDS.items()
            if name in set(ends["ends_at"])
        ],
        loc="outside upper center",
        ncols=4,
        fontsize=8,
        title="Basins of attraction: from which starts is the flat minimum reached?",
        title_fontsize=11,
        frameon=False,
    )
    counted = int(len(ends) / max(1, len(fractions)))
    caption(
        figure,
        f"n = {counted:,} starts per panel, each drawn where it starts, by where it ends; in each"
        " title the fraction that reaches the flat minimum. Toy loss of Sec. 3.1 (energy:"
        f" {landscape.energy}), exact Fisher information, momentum 0.9, learning rate 30 with a"
        " linear decay, 1500 steps. Matched SAM climbs along SAM's direction as far as FSAM would."
        " Radii of different methods are not the same distance: the summary plots the fractions"
        " against the Euclidean length of the first probe, the median over all starts.",
        width=160,
    )
    return figure


def _layout(fractions: pd.DataFrame) -> list[list[int | None]]:
    """Rows of four: one per sharpness-aware method; SGD takes the first free end of a row."""
    rows: list[list[int | None]] = []
    positions: dict[str, list[int]] = {}
    for position, method in enumerate(fractions["method"]):
        positions.setdefault(method, []).append(position)
    plain = positions.pop("sgd", [])
    for mine in positions.values():
        for start in range(0, len(mine), 4):
            row: list[int | None] = list(mine[start : start + 4])
            rows.append(row + [None] * (4 - len(row)))
    for position in plain:
        free = next((row for row in rows if row[3] is None), None)
        if free is None:
            rows.append([position, None, None, None])
        else:
            free[3] = position
    return rows


def _basin(axes: Axes, chosen: pd.DataFrame, landscape: Landscape, line: pd.Series[Any]) -> None:
    from matplotlib.colors import ListedColormap

    table = chosen.pivot(index="start_sigma", columns="start_mu", values="ends_at")
    codes = np.vectorize(list(_ENDS).index)(table.to_numpy().astype(str))
    mu, sigma = table.columns.to_numpy(dtype=float), table.index.to_numpy(dtype=float)
    axes.pcolormesh(
        mu,
        sigma,
        codes,
        cmap=ListedColormap([color for color, _ in _ENDS.values()]),
        vmin=-0.5,
        vmax=len(_ENDS) - 0.5,
        shading="nearest",
        rasterized=True,
    )
    marks(axes, landscape.points, size=0.55)
    name = with_radius(line["method"], line["radius"], SHORT_NAMES)
    axes.set_title(f"{name}: {line['flat_fraction']:.3f}", fontsize=8.5, pad=3)
    axes.set_xlim(mu.min() - 1, mu.max() + 1)
    axes.set_ylim(sigma.min() - 1, sigma.max() + 1)


def _summary(axes: Axes, fractions: pd.DataFrame) -> None:
    """Fraction against the median length of the first probe; SGD as a level."""
    for method, group in fractions.groupby("method", sort=False):
        name = str(method)
        style = style_of(name)
        if name == "sgd":
            axes.axhline(
                float(group["flat_fraction"].iloc[0]), color=style.color, linewidth=0.9, label="SGD"
            )
            continue
        axes.plot(
            group["probe"],
            group["flat_fraction"],
            **style._asdict(),
            markersize=4.5,
            linewidth=1.3,
            label=SHORT_NAMES.get(name, name),
        )
    axes.set_xscale("log")
    ticks = [0.5, 1, 2, 5, 10, 20]
    axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
    axes.minorticks_off()
    axes.set_xlim(0.4, 22)
    axes.set_xlabel("median length of the first probe", fontsize=8)
    axes.set_title("fraction reaching flat", fontsize=8.5, pad=3)
    axes.yaxis.tick_right()
    axes.tick_params(labelsize=7)
    axes.spines[["top", "left"]].set_visible(False)
    axes.legend(fontsize=7.5, frameon=False, loc="upper left")
