"""Pictures of recorded runs, each a pure function of frames.

One set for every row of the result table: curves over epochs and over sample-gradients, and the
accuracy against the radius. A cell that is not complete is not drawn, and its name and status stand
in the caption.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import pandas as pd

from fsam_cli.records.curves import load_curves
from fsam_cli.records.summary import LAST, SELECTED, Row
from fsam_cli.reports._style import Style, new_figure, style_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 7.2, 4.2  # inches: a column of a page, or half a slide


@dataclass(frozen=True)
class Picture:
    """A figure and the name of its file."""

    name: str
    figure: Figure


def pictures(rows: list[Row]) -> Iterator[Picture]:
    """Every picture of a table's rows, in the order a reader wants them."""
    for row in rows:
        stem = "-".join(filter(None, [row.recipe, _file_name(row.name)]))
        styles = styles_of(row)
        complete = {label: cell for label, cell in row.cells.items() if cell.status == "done"}
        if not complete:
            continue
        curves = load_curves(pd.concat([cell.runs for cell in complete.values()]))
        caption = _caption(row)
        for name, column, ylabel, scale in (
            ("accuracy", "test_accuracy", "test accuracy (%)", 100),
            ("train-loss", "train_loss", "training loss (nats)", 1),
            ("test-loss", "test_loss", "test loss (nats)", 1),
            ("noise-fit", "corrupted_fit", "corrupted labels fitted (%)", 100),
        ):
            if column in curves and curves[column].notna().any():
                figure = over(curves, styles, "epoch", column, scale=scale)
                _finish(figure, row, ylabel, "epoch", caption)
                yield Picture(f"{stem}-{name}", figure)
        figure = over(curves, styles, "sample_gradients", "test_accuracy", scale=100)
        _finish(figure, row, "test accuracy (%)", "sample-gradients spent", caption)
        yield Picture(f"{stem}-cost", figure)
        figure = against_radius(row, styles)
        _finish(figure, row, "test accuracy (%)", "radius (ρ or γ)", caption)
        yield Picture(f"{stem}-radius", figure)


def styles_of(row: Row) -> dict[str, Style]:
    """A style per label: the method's colour, and a line and marker of its own."""
    seen: dict[str, int] = {}
    styles = {}
    for label, cell in row.cells.items():
        method = cell.config.get("method", {}).get("name", label)
        styles[label] = style_of(method, seen.get(method, 0))
        seen[method] = seen.get(method, 0) + 1
    return styles


def over(curves: pd.DataFrame, styles: dict[str, Style], x: str, y: str, *, scale: float) -> Figure:
    """Mean over seeds with the band from the lowest to the highest seed.

    Args:
        curves: from `load_curves`.
        styles: by label; labels without curves are left out.
        x: column of the horizontal axis, equal for the seeds of a label at each epoch.
        y: column of the vertical axis.
        scale: 100 turns fractions into percent.
    """
    figure = new_figure(WIDTH, HEIGHT)
    axes = figure.add_subplot()
    for label, style in styles.items():
        mine = curves[(curves["label"] == label) & curves[y].notna()]
        if mine.empty:
            continue
        by_epoch = mine.groupby("epoch")
        at = by_epoch[x].mean()
        mean, low, high = (scale * by_epoch[y].agg(how) for how in ("mean", "min", "max"))
        seeds = mine["seed"].nunique()
        axes.fill_between(at, low, high, color=style.color, alpha=0.12, linewidth=0)
        axes.plot(
            at,
            mean,
            color=style.color,
            linestyle=style.linestyle,
            marker=style.marker,
            markersize=4.5,
            markevery=max(1, len(at) // 8),
            linewidth=1.6,
            label=f"{label} (n={seeds})",
        )
    return figure


def against_radius(row: Row, styles: dict[str, Style]) -> Figure:
    """Last-epoch accuracy (filled) and validation-selected (hollow) over the radius.

    Methods without a radius are horizontal lines.
    """
    figure = new_figure(WIDTH, HEIGHT)
    axes = figure.add_subplot()
    for label, cell in row.cells.items():
        last, style = cell.sample(LAST), styles[label]
        if last is None:
            continue
        name, method = f"{label} (n={last.n})", cell.config["method"]
        radius = method.get("rho", method.get("gamma"))
        if radius is None:
            axes.axhline(100 * last.mean, color=style.color, linestyle=style.linestyle, label=name)
            continue
        common: dict[str, Any] = {"color": style.color, "marker": style.marker, "capsize": 3}
        axes.errorbar([radius], [100 * last.mean], [100 * last.std], label=name, **common)
        selected = cell.sample(SELECTED)
        if selected is not None:
            shown = {**common, "markerfacecolor": "white", "elinewidth": 0.8}
            axes.errorbar([radius * 1.04], [100 * selected.mean], [100 * selected.std], **shown)
    axes.set_xscale("log")
    axes.margins(x=0.15)
    return figure


def _finish(figure: Figure, row: Row, ylabel: str, xlabel: str, caption: str) -> None:
    axes = figure.axes[0]
    axes.set_title(f"{row.recipe} {row.name}".strip(), fontsize=10, loc="left")
    axes.set_ylabel(ylabel)
    axes.set_xlabel(xlabel)
    axes.grid(True, color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.legend(loc="outside right upper", fontsize=8, frameon=False, handlelength=3.2)
    radius = xlabel.startswith("radius")
    what = (
        "filled: last epoch, hollow: validation-selected, bars: ± standard deviation"
        if radius
        else "line: mean over seeds, band: lowest to highest seed"
    )
    figure.supxlabel("; ".join(filter(None, [what, caption])), fontsize=7, color="#444444")


def _caption(row: Row) -> str:
    """What is not drawn, and why."""
    missing = [
        f"{label}: {cell.status}" for label, cell in row.cells.items() if cell.status != "done"
    ]
    return "not drawn: " + "; ".join(missing) if missing else ""


def _file_name(text: str) -> str:
    return "".join(c if c.isalnum() or c in "._=-" else "_" for c in text)
