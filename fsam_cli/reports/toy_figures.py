"""Pictures of the toy problem: Figures 1 to 3 of the Fisher SAM paper (Sec. 3.1).

Pure functions of plain numbers. Everything is drawn at its true size: where the neighbourhood is
too small to be seen, an inset magnifies it, rather than the neighbourhood being blown up as in
the paper's figures.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import pandas as pd

from fsam_cli.records.frame import as_rows
from fsam_cli.reports._style import new_figure, style_of
from fsam_cli.reports._toy_plane import (
    INK,
    MARKS,
    NAMES,
    Landscape,
    caption,
    ground,
    marks,
    plane_labels,
    with_radius,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

_MAGNIFY_BELOW = 3.0  # a neighbourhood that reaches less far than this gets an inset


def contours(landscape: Landscape, line: pd.DataFrame) -> Figure:
    """Figure 1: the contours of the loss with both minima, and the loss along a line through them.

    Args:
        line: columns distance (from the sharp minimum) and loss.
    """
    figure = new_figure(8.0, 3.55)
    left, right = figure.subplots(1, 2, width_ratios=[1.45, 1])
    ground(left, landscape, labelled=True)
    marks(left, landscape.points, size=1.0)
    offsets = {"flat": (0, 13), "sharp": (0, -26), "saddle": (7, 8)}
    points = {str(row["name"]): row for row in as_rows(landscape.points)}
    for name, row in points.items():
        text = f"{name}\n({row['mu']:.2f}, {row['sigma']:.2f})".replace("-", "\N{MINUS SIGN}")
        left.annotate(
            text if name != "saddle" else "saddle",
            (row["mu"], row["sigma"]),
            offsets[name],
            textcoords="offset points",
            ha="center" if name != "saddle" else "left",
            fontsize=8,
            bbox=_box(0.15, alpha=0.75),
        )
    plane_labels(left)

    right.plot(line["distance"], line["loss"], color=INK, linewidth=1.4)
    flat, sharp = points["flat"], points["sharp"]
    apart = float(np.hypot(flat["mu"] - sharp["mu"], flat["sigma"] - sharp["sigma"]))
    for name, where in (("sharp", 0.0), ("flat", apart)):
        loss, trace = points[name]["loss"], points[name]["hessian_trace"]
        right.plot([where], [loss], color=INK, linestyle="none", zorder=5, **MARKS[name])
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
    right.spines[["top", "right"]].set_visible(False)
    tall = (landscape.sigma[-1] - landscape.sigma[0]) / (landscape.mu[-1] - landscape.mu[0])
    right.set_box_aspect(1.45 * float(tall))  # as tall as the left one
    caption(
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
        ground(axes, landscape, labelled=False)
        _path(axes, path)
        marks(axes, landscape.points, size=0.85)
        plane_labels(axes, ylabel=axes is panels[0])
        _panel_title(axes, path, landscape)
        if float(path[["half_mu", "half_sigma"]].iloc[0].min()) < _MAGNIFY_BELOW:
            _inset(axes, path, landscape)
    _legend(figure, title)
    caption(
        figure,
        f"Toy loss of Sec. 3.1 (energy: {landscape.energy}), start ({steps['mu'].iloc[0]:g},"
        f" {steps['sigma'].iloc[0]:g}). Neighbourhoods and probes θ → θ + ε at the steps written"
        " beside them, all at true size, the insets magnified. Momentum 0.9, learning rate"
        f" 30 with a cosine decay, {int(steps['step'].max())} steps.",
        width=int(70 * len(cases)),
    )
    return figure


def _path(axes: Axes, path: pd.DataFrame) -> None:
    style = style_of(path["method"].iloc[0])
    _track(axes, path, style.color)
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
                bbox=_box(0.1, alpha=0.7),
            )
            look: dict[str, Any] = {"marker": style.marker, "color": style.color}
            axes.plot(
                [row["mu"]], [row["sigma"]], markersize=5, markeredgecolor="white", zorder=6, **look
            )
    _start(axes, path.iloc[0], size=6.5)


def _start(axes: Axes, row: pd.Series[Any], *, size: float) -> None:
    face: dict[str, Any] = {"markerfacecolor": "white", "markeredgecolor": INK}
    axes.plot([row["mu"]], [row["sigma"]], "D", markersize=size, zorder=7, **face)


def _box(pad: float, *, alpha: float) -> dict[str, Any]:
    """White behind a text."""
    return {"boxstyle": f"round,pad={pad}", "fc": "white", "ec": "none", "alpha": alpha}


def _places(path: pd.DataFrame) -> list[int]:
    """The start, and where .6 and .25 of the distance to the end are first left."""
    return sorted({_first_within(path, share) for share in (1.0, 0.6, 0.25)})


def _first_within(path: pd.DataFrame, share: float) -> int:
    """The first step no farther from the end than a share of the distance at the start."""
    end = path.iloc[-1]
    away = np.hypot(path["mu"] - end["mu"], path["sigma"] - end["sigma"]).to_numpy()
    return int(np.argmax(away <= share * away[0]))


def _neighbourhood(axes: Axes, row: pd.Series[Any], color: str) -> None:
    from matplotlib.patches import Ellipse

    area: dict[str, Any] = {"facecolor": color, "alpha": 0.13, "zorder": 2}
    border: dict[str, Any] = {"fill": False, "edgecolor": color, "linewidth": 1.0, "zorder": 3}
    center, width, height = (row["mu"], row["sigma"]), 2 * row["half_mu"], 2 * row["half_sigma"]
    for look in (area, {**border, "linestyle": (0, (4, 2))}):
        axes.add_patch(Ellipse(center, width, height, **look))


def _probe(axes: Axes, row: pd.Series[Any]) -> None:
    start, end = (row["mu"], row["sigma"]), (row["probe_mu"], row["probe_sigma"])
    _arrow(axes, start, end, "head_width=0.18,head_length=0.35", INK, width=1.0, zorder=6)


def _arrowhead(axes: Axes, path: pd.DataFrame, color: str) -> None:
    """Which way the path goes: one head between the start and the first place after it."""
    at = max(1, _first_within(path, 0.8))
    start, end = (path[["mu", "sigma"]].iloc[place] for place in (at - 1, at))
    _arrow(axes, start, end, "head_width=0.32,head_length=0.6", color, width=1.7, zorder=5)


def _arrow(
    axes: Axes, start: Any, end: Any, head: str, color: str, *, width: float, zorder: int
) -> None:
    look = {"arrowstyle": f"-|>,{head}", "color": color, "linewidth": width}
    axes.annotate("", end, start, arrowprops={**look, "shrinkA": 0, "shrinkB": 0}, zorder=zorder)


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
    color = style_of(first["method"]).color
    _neighbourhood(inset, first, color)
    _track(inset, path, color)
    _probe(inset, first)
    _start(inset, first, size=6)
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
        bbox=_box(0.1, alpha=0.8),
        zorder=9,
    )


def _panel_title(axes: Axes, path: pd.DataFrame, landscape: Landscape) -> None:
    last = path.iloc[-1]
    points = landscape.points
    distance = np.hypot(points["mu"] - last["mu"], points["sigma"] - last["sigma"])
    end = str(points["name"].iloc[int(np.argmin(distance.to_numpy()))])
    if end != "saddle":
        end += " minimum"
    name = with_radius(last["method"], last["radius"], NAMES)
    axes.set_title(f"{name}: ends at the {end}", fontsize=9)


def _legend(figure: Figure, title: str) -> None:
    from matplotlib.lines import Line2D

    def mark(marker: str, label: str, size: float, face: str = "white") -> Line2D:
        return Line2D(
            [],
            [],
            color=INK,
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
            mark(r"$\rightarrow$", "probe θ → θ + ε", 12, face=INK),
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


def _track(axes: Axes, path: pd.DataFrame, color: str) -> None:
    """All steps as one line, with white along it."""
    from matplotlib.patheffects import Normal, Stroke

    [line] = axes.plot(path["mu"], path["sigma"], color=color, linewidth=1.7, zorder=4)
    line.set_path_effects([Stroke(linewidth=3.2, foreground="white"), Normal()])
