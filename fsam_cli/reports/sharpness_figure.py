"""Sharpness beside test accuracy, as a picture: is what is flat also what generalises?"""

from __future__ import annotations

import math
from collections.abc import Sequence
from textwrap import fill
from typing import TYPE_CHECKING

from fsam_cli.records.summary import Metric, Row, result_metric
from fsam_cli.reports._style import (
    dress,
    file_name,
    new_figure,
    not_drawn,
    plain_ticks,
    styles_of,
    title_and_caption,
)
from fsam_cli.reports.differences import Entry
from fsam_cli.reports.figures import methods_of
from fsam_cli.reports.sharpness import rank_correlation

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

ACROSS = 3  # panels
WIDTH, NAMES, HEIGHT = 3.2, 1.8, 3.0  # inches of a panel, of the legend's column, of a panel
NAME = 38  # characters below a panel


def figure(row: Row, metrics: Sequence[Metric]) -> Figure:
    """A panel for each measure, a point for each run: the measure, and the test accuracy.

    Cells without a mean are named in the caption instead.

    Args:
        row: of a table.
        metrics: the measures that any cell of it has.

    Raises:
        UsageError: matplotlib is not installed.
    """
    across = min(ACROSS, len(metrics))
    down = math.ceil(len(metrics) / across)
    drawn = new_figure(WIDTH * across + NAMES, HEIGHT * down)
    styles = styles_of(methods_of(row))
    for place, metric in enumerate(metrics):
        axes = drawn.add_subplot(down, across, place + 1)
        for name, style in styles.items():
            cell = row.cells[name]
            sharp, accurate = cell.sample(metric), cell.sample(result_metric(cell))
            if sharp is not None and accurate is not None:
                axes.scatter(
                    list(sharp.by_seed.values()),
                    [100 * accurate.by_seed[seed] for seed in sharp.by_seed],
                    color=style.color,
                    marker=style.marker,
                    s=22,
                    linewidths=0,
                    alpha=0.85,
                    label=None if place else f"{name} (n={sharp.n})",
                )
        axes.xaxis.label.set_fontsize(8)
        dress(axes, fill(metric.name, NAME), "test accuracy (%)" if place % across == 0 else "")
        _scaled(axes)
        tau = rank_correlation(row, metric)
        if tau.value is not None:
            axes.set_title(f"τ = {tau.value:+.2f} over {tau.n} means", fontsize=8, loc="right")
    absent = {
        name: Entry(None, cell.status).why_empty
        for name, cell in row.cells.items()
        if all(cell.sample(metric) is None for metric in metrics)
    }
    caption = "a point per run; τ: Kendall's rank correlation of the methods' means"
    title = f"{row.title}: sharpness and test accuracy"
    title_and_caption(drawn, title, caption + not_drawn(absent))
    return drawn


def figure_name(row: Row) -> str:
    """Of its file."""
    return file_name(f"sharpness-{'-'.join(filter(None, (row.recipe, row.name)))}")


def _scaled(axes: Axes) -> None:
    """Logarithmic where the numbers are of several sizes, and all above 0."""
    low, high = axes.dataLim.intervalx
    if low > 0 and high / low > 5:
        axes.set_xscale("log")
        plain_ticks(axes.xaxis)
