"""Pictures of recorded runs, each a pure function of frames.

One set for every row of the result table: curves over epochs and over sample-gradients, and the
accuracy against the radius. A cell that is not complete, or of which a run has no readable
metrics.csv, is not drawn, and its name and what is wrong stand in the caption.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import pandas as pd

from fsam_cli.records.curves import load_curves
from fsam_cli.records.summary import LAST, SELECTED, Cell, Row, tuned_values
from fsam_cli.reports._style import (
    OVER_SEEDS,
    Style,
    dress,
    file_name,
    line_and_band,
    new_figure,
    not_drawn,
    shortened,
    styles_of,
    title_and_caption,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 7.2, 4.2  # inches: a column of a page, or half a slide
LEGEND = 24  # characters of a line in it
MOST_CONFIGURATIONS = 12  # of one method in a picture
_MOST_TICKS = 8
_ASIDE = 1.04  # of a radius: where its validation-selected accuracy stands
_LEAST_SPAN = 4.0  # highest over lowest radius on the axis
_LOWEST, _HIGHEST = 1e-100, 1e100  # of what is drawn: beyond, an axis overflows
_ACCURACY = "test accuracy (%)"
_CURVES = (  # name of the picture, column and its factor, column of the horizontal axis
    ("accuracy", "test_accuracy", _ACCURACY, 100, "epoch"),
    ("train-loss", "train_loss", "training loss (nats)", 1, "epoch"),
    ("test-loss", "test_loss", "test loss (nats)", 1, "epoch"),
    ("noise-fit", "corrupted_fit", "corrupted labels fitted (%)", 100, "epoch"),
    ("cost", "test_accuracy", _ACCURACY, 100, "sample_gradients"),
)
_OVER = {"epoch": "epoch", "sample_gradients": "sample-gradients spent"}


@dataclass(frozen=True)
class Picture:
    """A figure and the name of its file."""

    name: str
    figure: Figure


def pictures(
    rows: list[Row], *, warn: Callable[[str], object] = lambda _line: None
) -> Iterator[Picture]:
    """Every picture of a table's rows that can be drawn, in the order a reader wants them.

    Args:
        rows: of the table.
        warn: gets a line for each row without a complete cell, for each cell of which there are
            no curves to draw, and for a method of more configurations than a picture can hold.
    """
    for row in (_without_grids(row, warn) for row in rows):
        complete = [
            cell.runs.assign(label=name)
            for name, cell in row.cells.items()
            if cell.status == "done"
        ]
        if not complete:
            if row.cells:
                warn(f"{row.title}: no picture, as no method is complete")
            continue
        yield from _curves_of(row, pd.concat(complete), warn)
        if any(_radius_key(cell) for cell in row.cells.values() if cell.config):
            yield _against_radius_of(row)


def _without_grids(row: Row, warn: Callable[[str], object]) -> Row:
    """The row without the methods of more configurations than a picture can hold."""
    of_label = Counter(cell.label for cell in row.cells.values())
    for label, number in of_label.items():
        if number > MOST_CONFIGURATIONS:
            warn(
                f"{row.title}: no pictures of the {number} configurations of {label}; `fsam sweep "
                "--figures` draws a grid"
            )
    cells = {
        name: cell
        for name, cell in row.cells.items()
        if of_label[cell.label] <= MOST_CONFIGURATIONS
    }
    return replace(row, cells=cells)


def _curves_of(row: Row, runs: pd.DataFrame, warn: Callable[[str], object]) -> Iterator[Picture]:
    curves, unreadable = load_curves(runs)
    for label, why in unreadable.items():
        warn(f"{row.title}: no curves of {label}: {why}")
    caption = OVER_SEEDS + _own(row) + _not_drawn(row, unreadable)
    for name, column, ylabel, scale, x in _CURVES:
        if curves[column].notna().any():
            figure = over(curves, styles_of(methods_of(row)), x, column, scale=scale)
            yield _finished(figure, row, name, _OVER[x], ylabel, caption)


def _against_radius_of(row: Row) -> Picture:
    odd = {
        label: f"its radius {str(cell.config['method'][key])[:20]!r} cannot stand on the axis"
        for label, cell in row.cells.items()
        if cell.status == "done" and (key := _radius_key(cell)) and radius_of(cell) is None
    }
    what = (
        "filled, thick: last epoch; hollow, thin: validation-selected; bars, bands: ± std; equal "
        "radii side by side"
    )
    figure = against_radius(row, styles_of(methods_of(row)))
    return _finished(
        figure, row, "radius", "radius (ρ or γ)", _ACCURACY, what + _own(row) + _not_drawn(row, odd)
    )


def methods_of(row: Row) -> dict[str, str]:
    """The method by name of the cell."""
    return {
        name: str(cell.config.get("method", {}).get("name", cell.label))
        for name, cell in row.cells.items()
    }


def over(curves: pd.DataFrame, styles: dict[str, Style], x: str, y: str, *, scale: float) -> Figure:
    """Mean over seeds with the band from the lowest to the highest seed.

    Args:
        curves: from `load_curves`.
        styles: by name of the cell; those without curves are left out.
        x: column of the horizontal axis, equal for the seeds of a cell at each epoch.
        y: column of the vertical axis.
        scale: 100 turns fractions into percent.
    """
    figure = new_figure(WIDTH, HEIGHT)
    axes = figure.add_subplot()
    for label, style in styles.items():
        mine = curves[curves["label"] == label]
        by_epoch = mine.groupby("epoch")
        at = by_epoch[x].mean()[by_epoch[y].count() > 0]  # others were not evaluated
        if at.empty:
            continue
        # A gap where any seed is not finite: a mean over the rest would be one over survivors.
        values = mine[y].where(mine[y].abs() <= _HIGHEST).groupby(mine["epoch"])
        whole = (values.count() == values.size())[at.index]
        mean, low, high = (
            (scale * values.agg(how))[at.index].where(whole) for how in ("mean", "min", "max")
        )
        name = f"{_in_a_legend(label)} (n={mine['seed'].nunique()})"
        every = max(1, len(at) // 8)
        line_and_band(axes, at, mean, low, high, style, label=name, markevery=every)
    if x == "epoch":
        from matplotlib.ticker import MaxNLocator

        # There is no half an epoch.
        axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
    return figure


def against_radius(row: Row, styles: dict[str, Style]) -> Figure:
    """Last-epoch accuracy (filled) and validation-selected (hollow) over the radius.

    Methods without a radius are horizontal lines, thick (with a band, the spread) and thin; those
    whose radius is no number are left out. Methods of one radius stand side by side around it.
    """
    figure = new_figure(WIDTH, HEIGHT)
    axes = figure.add_subplot()
    drawn = {label: last for label, cell in row.cells.items() if (last := cell.sample(LAST))}
    radii = {label: radius for label in drawn if (radius := radius_of(row.cells[label]))}
    places = _side_by_side(radii)
    for label, last in drawn.items():
        cell, style = row.cells[label], styles[label]
        name, selected = f"{_in_a_legend(label)} (n={last.n})", cell.sample(SELECTED)
        if label in places:
            bars: dict[str, Any] = {"color": style.color, "marker": style.marker, "capsize": 3}
            place = places[label]
            axes.errorbar([place], [100 * last.mean], [100 * last.std], label=name, **bars)
            if selected is not None:
                bars |= {"markerfacecolor": "white", "elinewidth": 0.8}
                axes.errorbar([place * _ASIDE], [100 * selected.mean], [100 * selected.std], **bars)
        elif _radius_key(cell) is None:
            line: dict[str, Any] = {"color": style.color, "linestyle": style.linestyle}
            axes.axhline(100 * last.mean, label=name, linewidth=1.8, **line)
            if last.n > 1:
                low, high = 100 * (last.mean - last.std), 100 * (last.mean + last.std)
                axes.axhspan(low, high, color=style.color, alpha=0.12, linewidth=0)
            if selected is not None:
                axes.axhline(100 * selected.mean, linewidth=0.7, **line)
    axes.set_xscale("log")
    ticks = sorted(set(radii.values()))
    if 0 < len(ticks) <= _MOST_TICKS:
        axes.set_xticks(ticks, [f"{tick:g}" for tick in ticks])
        axes.minorticks_off()
    if places:
        axes.set_xlim(*_around(min(places.values()), _ASIDE * max(places.values())))
    return figure


def _in_a_legend(name: str) -> str:
    """A short name, or its label above its settings."""
    label, opening, settings = name.partition(" [")
    if len(name) <= LEGEND or not settings:
        return shortened(name, LEGEND)
    return f"{shortened(label, LEGEND)}\n{shortened(opening.strip() + settings, LEGEND)}"


def _around(low: float, high: float) -> tuple[float, float]:
    """The ends of a logarithmic axis, never so near that what stands aside seems far away."""
    span = math.log(high / low)
    margin = math.exp(max(0.15 * span, (math.log(_LEAST_SPAN) - span) / 2))
    return low / margin, high * margin


def _side_by_side(radii: Mapping[str, float]) -> dict[str, float]:
    """Where to draw each cell, so that those of one radius do not hide each other."""
    places = {}
    for label, radius in radii.items():
        equal = [other for other, theirs in radii.items() if theirs == radius]
        places[label] = radius * 1.15 ** (equal.index(label) - (len(equal) - 1) / 2)
    return places


def radius_of(cell: Cell) -> float | None:
    """The radius of a cell's method, if it has one that stands on a logarithmic axis."""
    key = _radius_key(cell)
    value = cell.config["method"][key] if key else None
    if not isinstance(value, int | float) or isinstance(value, bool):
        return None
    return float(value) if _LOWEST <= value <= _HIGHEST else None


def _radius_key(cell: Cell) -> str | None:
    return next((key for key in ("rho", "gamma") if key in cell.config["method"]), None)


def _finished(
    figure: Figure, row: Row, picture: str, xlabel: str, ylabel: str, caption: str
) -> Picture:
    dress(figure.axes[0], xlabel, ylabel)
    title_and_caption(figure, row.title, caption)
    name = file_name("-".join(filter(None, [row.recipe, row.name])), f"-{picture}")
    return Picture(name, figure)


def _own(row: Row) -> str:
    """That methods have a learning rate of their own, which is seen nowhere else."""
    return "".join(f"; {key}: each method's own" for key in tuned_values(row))


def _not_drawn(row: Row, others: Mapping[str, str]) -> str:
    """What is not drawn, and why: incomplete cells, and others by name."""
    incomplete = {label: cell.status for label, cell in row.cells.items() if cell.status != "done"}
    return not_drawn({**incomplete, **others})
