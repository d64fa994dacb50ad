"""Pictures of the toy problem: Figures 1 to 3 of the Fisher SAM paper (Sec. 3.1), and the basins.

Pure functions of plain numbers. Everything is drawn at its true size: where the neighbourhood is
too small to be seen, an inset magnifies it, rather than the neighbourhood being blown up as in
the paper's figures.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from fsam_cli.reports._style import new_figure, style_of

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
_INK = "#000000"
_MAGNIFY_BELOW = 3.0  # a neighbourhood that reaches less far than this gets an inset


class Landscape(NamedTuple):
    """The loss on a grid and its named points.

    `points` has the columns name ("flat", "sharp", "saddle"), mu, sigma, loss, hessian_trace.
    """

    mu: np.ndarray
    sigma: np.ndarray
    loss: np.ndarray  # (sigma, mu)
    points: pd.DataFrame
    energy: str


def contours(landscape: Landscape, line: pd.DataFrame) -> Figure:
    """Figure 1: the contours of the loss with both minima, and the loss along a line through them.

    Args:
        line: columns distance (from the sharp minimum) and loss.
    """
    figure = new_figure(8.0, 3.55)
    left, right = figure.subplots(1, 2, width_ratios=[1.45, 1])
    _ground(left, landscape, labelled=True)
    _marks(left, landscape.points, size=1.0)
    offsets = {"flat": (0, 13), "sharp": (0, -26), "saddle": (7, 8)}
    for row in landscape.points.to_dict("records"):
        name = str(row["name"])
        text = f"{name}\n({row['mu']:.2f}, {row['sigma']:.2f})".replace("-", "\N{MINUS SIGN}")
        left.annotate(
            text if name != "saddle" else "saddle",
            (row["mu"], row["sigma"]),
            offsets[name],
            textcoords="offset points",
            ha="center" if name != "saddle" else "left",
            fontsize=8,
            bbox={"boxstyle": "round,pad=0.15", "fc": "white", "ec": "none", "alpha": 0.75},
        )
    _plane_labels(left)

    right.plot(line["distance"], line["loss"], color=_INK, linewidth=1.4)
    at = {str(row["name"]): row for row in landscape.points.to_dict("records")}
    apart = float(
        np.hypot(at["flat"]["mu"] - at["sharp"]["mu"], at["flat"]["sigma"] - at["sharp"]["sigma"])
    )
    for name, where in (("sharp", 0.0), ("flat", apart)):
        loss, trace = float(at[name]["loss"]), float(at[name]["hessian_trace"])
        right.plot([where], [loss], color=_INK, linestyle="none", zorder=5, **MARKS[name])
        right.annotate(
            f"{name}\nloss {loss:.3f}\ntr H {trace:.4f}",
            (where, loss),
            (0, -12),
            textcoords="offset points",
            ha="center",
            va="top",
            fontsize=8,
        )
    low, high = float(line["loss"].min()), float(line["loss"].max())
    right.set_ylim(low - 0.3 * (high - low), high)
    right.set_xlabel("distance from the sharp minimum")
    right.set_ylabel("loss l (nats)")
    _plain(right)
    tall = (landscape.sigma[-1] - landscape.sigma[0]) / (landscape.mu[-1] - landscape.mu[0])
    right.set_box_aspect(1.45 * float(tall))  # as tall as the left one
    _caption(
        figure,
        f"Toy loss of Sec. 3.1 (energy: {landscape.energy}). Left: contours over (μ, σ); right: the"
        " loss along the straight line through both minima. tr H: trace of the Hessian. The sharp"
        " minimum is the lower one; the flat one is the one wanted.",
        width=138,
    )
    return figure


def paths(landscape: Landscape, steps: pd.DataFrame, title: str) -> Figure:
    """Figures 2 and 3: one panel per trajectory, with neighbourhoods and probes on the way.

    Args:
        steps: as `fsam_cli.measure.toy.trajectories` gives it, of the cases to be drawn.
        title: of the figure.
    """
    cases = [case for _, case in steps.groupby("case", sort=True)]
    figure = new_figure(4.1 * len(cases), 4.05)
    panels = figure.subplots(1, len(cases), sharex=True, sharey=True, squeeze=False)[0]
    for axes, path in zip(panels, cases, strict=True):
        _ground(axes, landscape, labelled=False)
        _path(axes, path)
        _marks(axes, landscape.points, size=0.85)
        _plane_labels(axes, ylabel=axes is panels[0])
        _panel_title(axes, path, landscape)
        if float(path[["half_mu", "half_sigma"]].iloc[0].min()) < _MAGNIFY_BELOW:
            _inset(axes, path, landscape)
    _legend(figure, title)
    _caption(
        figure,
        f"Toy loss of Sec. 3.1 (energy: {landscape.energy}), start ({steps['mu'].iloc[0]:g},"
        f" {steps['sigma'].iloc[0]:g}). Neighbourhoods and probes θ → θ + ε at the steps written"
        " beside them, all at true size, the insets magnified. Momentum 0.9, learning rate"
        f" 30 with a cosine decay, {int(steps['step'].max())} steps.",
        width=int(70 * len(cases)),
    )
    return figure


def basins(ends: pd.DataFrame, fractions: pd.DataFrame, landscape: Landscape) -> Figure:
    """Where every method ends from every start: a map per method and radius, and a summary.

    Args:
        ends: columns method, radius, start_mu, start_sigma, ends_at.
        fractions: columns method, radius, probe (median first length), flat_fraction.
    """
    from matplotlib.patches import Patch

    layout = _basin_layout(fractions)
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
            lowest = i + 1 == len(layout)
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
    _caption(
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


def _basin_layout(fractions: pd.DataFrame) -> list[list[int | None]]:
    """Rows of four: one per sharpness-aware method; SGD takes the first free end of a row."""
    rows: list[list[int | None]] = []
    methods = [str(name) for name in fractions["method"].unique()]
    numbered = list(enumerate(str(name) for name in fractions["method"]))
    for method in methods:
        if method == "sgd":
            continue
        mine = [position for position, name in numbered if name == method]
        for start in range(0, len(mine), 4):
            row: list[int | None] = list(mine[start : start + 4])
            rows.append(row + [None] * (4 - len(row)))
    for position, name in numbered:
        if name == "sgd":
            free = next((row for row in rows if row[3] is None), None)
            if free is None:
                rows.append([position, None, None, None])
            else:
                free[3] = position
    return rows


# Where a start ends, told apart by lightness; no method's colour.
_ENDS = {
    "flat": ("#E8E8E8", "the flat minimum"),
    "sharp": ("#444444", "the sharp minimum"),
    "saddle": ("#CC79A7", "the saddle between them"),
    "elsewhere": ("#FFFFFF", "elsewhere"),
}


def _basin(axes: Axes, chosen: pd.DataFrame, landscape: Landscape, line: pd.Series[Any]) -> None:
    table = chosen.pivot(index="start_sigma", columns="start_mu", values="ends_at")
    codes = np.vectorize(list(_ENDS).index)(table.to_numpy().astype(str))
    from matplotlib.colors import ListedColormap

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
    _marks(axes, landscape.points, size=0.55)
    method = str(line["method"])
    axes.set_title(
        f"{_with_radius(method, float(line['radius']), SHORT_NAMES)}: {line['flat_fraction']:.3f}",
        fontsize=8.5,
        pad=3,
    )
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
            color=style.color,
            linestyle=style.linestyle,
            marker=style.marker,
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


def _path(axes: Axes, path: pd.DataFrame) -> None:
    method = str(path["method"].iloc[0])
    style = style_of(method)
    _white_under(axes.plot(path["mu"], path["sigma"], color=style.color, linewidth=1.7, zorder=4))
    _arrowhead(axes, path, style.color)
    for position in _places(path):
        row = path.iloc[position]
        _neighbourhood(axes, row, style.color)
        _probe(axes, row)
        if position:
            axes.annotate(
                f"{int(row['step'])}",
                (row["mu"], row["sigma"]),
                (0, 5),
                textcoords="offset points",
                fontsize=7,
                ha="center",
                zorder=8,
                bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.7},
            )
            axes.plot(
                [row["mu"]],
                [row["sigma"]],
                marker=style.marker,
                color=style.color,
                markeredgecolor="white",
                markersize=5,
                zorder=6,
            )
    axes.plot(
        [path["mu"].iloc[0]],
        [path["sigma"].iloc[0]],
        marker="D",
        markersize=6.5,
        markerfacecolor="white",
        markeredgecolor=_INK,
        linestyle="none",
        zorder=7,
    )


def _places(path: pd.DataFrame) -> list[int]:
    """The start, and where .6 and .25 of the distance to the end are first left."""
    mu, sigma = path["mu"].to_numpy(), path["sigma"].to_numpy()
    away = np.hypot(mu - mu[-1], sigma - sigma[-1])
    places = [int(np.argmax(away <= share * away[0])) for share in (1.0, 0.6, 0.25)]
    return sorted(set(places))


def _neighbourhood(axes: Axes, row: pd.Series[Any], color: str) -> None:
    from matplotlib.patches import Ellipse

    axes.add_patch(
        Ellipse(
            (float(row["mu"]), float(row["sigma"])),
            2 * float(row["half_mu"]),
            2 * float(row["half_sigma"]),
            facecolor=color,
            alpha=0.13,
            zorder=2,
        )
    )
    axes.add_patch(
        Ellipse(
            (float(row["mu"]), float(row["sigma"])),
            2 * float(row["half_mu"]),
            2 * float(row["half_sigma"]),
            fill=False,
            edgecolor=color,
            linewidth=1.0,
            linestyle=(0, (4, 2)),
            zorder=3,
        )
    )


def _probe(axes: Axes, row: pd.Series[Any]) -> None:
    axes.annotate(
        "",
        (float(row["probe_mu"]), float(row["probe_sigma"])),
        (float(row["mu"]), float(row["sigma"])),
        arrowprops={
            "arrowstyle": "-|>,head_width=0.18,head_length=0.35",
            "color": _INK,
            "linewidth": 1.0,
            "shrinkA": 0,
            "shrinkB": 0,
        },
        zorder=6,
    )


def _arrowhead(axes: Axes, path: pd.DataFrame, color: str) -> None:
    """Which way the path goes: one head between the start and the first place after it."""
    mu, sigma = path["mu"].to_numpy(), path["sigma"].to_numpy()
    away = np.hypot(mu - mu[-1], sigma - sigma[-1])
    at = max(1, int(np.argmax(away <= 0.8 * away[0])))
    axes.annotate(
        "",
        (mu[at], sigma[at]),
        (mu[at - 1], sigma[at - 1]),
        arrowprops={
            "arrowstyle": "-|>,head_width=0.32,head_length=0.6",
            "color": color,
            "linewidth": 1.7,
            "shrinkA": 0,
            "shrinkB": 0,
        },
        zorder=5,
    )


def _inset(axes: Axes, path: pd.DataFrame, landscape: Landscape) -> None:
    """The start, magnified."""
    first = path.iloc[0]
    reach = 1.5 * float(max(first["half_mu"], first["half_sigma"]))
    inset = axes.inset_axes((0.71, 0.025, 0.28, 0.36))
    mu, sigma = float(first["mu"]), float(first["sigma"])
    inset.set_xlim(mu - reach, mu + reach)
    inset.set_ylim(sigma - reach, sigma + reach)
    inset.set_aspect("equal")
    inset.contour(
        landscape.mu, landscape.sigma, landscape.loss, levels=60, colors="#999999", linewidths=0.5
    )
    style = style_of(str(first["method"]))
    _neighbourhood(inset, first, style.color)
    _white_under(inset.plot(path["mu"], path["sigma"], color=style.color, linewidth=1.7, zorder=4))
    _probe(inset, first)
    inset.plot(
        [mu],
        [sigma],
        marker="D",
        markersize=6,
        markerfacecolor="white",
        markeredgecolor=_INK,
        zorder=7,
    )
    inset.set_xticks([])
    inset.set_yticks([])
    width = axes.get_xlim()[1] - axes.get_xlim()[0]
    inset.text(
        0.04,
        0.96,
        f"start, {0.28 * width / (2 * reach):.0f}×",
        transform=inset.transAxes,
        fontsize=7,
        va="top",
        bbox={"boxstyle": "round,pad=0.1", "fc": "white", "ec": "none", "alpha": 0.8},
        zorder=9,
    )


def _panel_title(axes: Axes, path: pd.DataFrame, landscape: Landscape) -> None:
    last = path.iloc[-1]
    points = landscape.points
    distance = np.hypot(points["mu"] - last["mu"], points["sigma"] - last["sigma"])
    end = str(points["name"].iloc[int(np.argmin(distance.to_numpy()))])
    if end != "saddle":
        end += " minimum"
    method = str(last["method"])
    axes.set_title(
        f"{_with_radius(method, float(last['radius']), NAMES)}: ends at the {end}",
        fontsize=9,
    )


def _with_radius(method: str, radius: float, names: Mapping[str, str]) -> str:
    name = names.get(method, method)
    symbol = RADII.get(method)
    return f"{name}, {symbol} = {radius:g}" if symbol else name


def _ground(axes: Axes, landscape: Landscape, *, labelled: bool) -> None:
    """The contours, in greys that leave room for what is drawn on them."""
    lowest = float(landscape.loss.min())
    levels = lowest + np.array([0.003, 0.01, 0.02, 0.035, 0.055, 0.08, 0.12, 0.18, 0.27, 0.4, 0.6])
    levels = np.append(levels, lowest + np.array([0.9, 1.3]))
    shades = [str(round(shade, 3)) for shade in np.linspace(0.80, 0.985, len(levels) + 1)]
    axes.contourf(
        landscape.mu,
        landscape.sigma,
        landscape.loss,
        levels=[lowest - 1, *levels, float(max(landscape.loss.max(), levels[-1])) + 1],
        colors=shades,
        zorder=0,
    )
    lines = axes.contour(
        landscape.mu,
        landscape.sigma,
        landscape.loss,
        levels=levels,
        colors="#777777",
        linewidths=0.5,
        zorder=1,
    )
    if labelled:
        axes.clabel(lines, levels=levels[4::2], fontsize=6.5, fmt="%.2f")
    axes.set_xlim(landscape.mu[0], landscape.mu[-1])
    axes.set_ylim(landscape.sigma[0], landscape.sigma[-1])
    axes.set_aspect("equal")


def _marks(axes: Axes, points: pd.DataFrame, *, size: float) -> None:
    for row in points.to_dict("records"):
        mark = dict(MARKS[str(row["name"])])
        mark["markersize"] = size * mark["markersize"]
        axes.plot(
            [row["mu"]],
            [row["sigma"]],
            color=_INK,
            markeredgewidth=0.9,
            linestyle="none",
            zorder=7,
            **mark,
        )


def _legend(figure: Figure, title: str) -> None:
    from matplotlib.lines import Line2D

    def mark(marker: str, label: str, size: float, face: str = "white") -> Line2D:
        return Line2D(
            [],
            [],
            color=_INK,
            marker=marker,
            markersize=size,
            markerfacecolor=face,
            markeredgewidth=0.9,
            linestyle="none",
            label=label,
        )

    figure.legend(
        handles=[
            mark("D", "start", 6),
            mark("*", "flat minimum", 12),
            mark("o", "sharp minimum", 7),
            mark("X", "saddle", 6),
            Line2D([], [], color="#666666", linestyle=(0, (4, 2)), label="neighbourhood"),
            mark(r"$\rightarrow$", "probe θ → θ + ε", 12, face=_INK),
            Line2D([], [], color="#666666", linewidth=1.7, label="path"),
        ],
        loc="outside upper center",
        ncols=7,
        fontsize=7.5,
        title=title,
        title_fontsize=11,
        frameon=False,
        columnspacing=1.2,
        handletextpad=0.5,
    )


def _white_under(lines: Any) -> None:
    from matplotlib import patheffects

    for line in lines:
        line.set_path_effects(
            [patheffects.Stroke(linewidth=3.2, foreground="white"), patheffects.Normal()]
        )


def _plane_labels(axes: Axes, *, ylabel: bool = True) -> None:
    axes.set_xlabel("mean μ")
    if ylabel:
        axes.set_ylabel("standard deviation σ")


def _plain(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)


def _caption(figure: Figure, text: str, *, width: int) -> None:
    figure.supxlabel(textwrap.fill(text, width), fontsize=7.5, color="#333333", x=0.01, ha="left")
