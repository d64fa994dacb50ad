"""How accuracy falls when weights are moved, as a picture (paper, Fig. 4)."""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING

import pandas as pd

from fsam_cli.records.perturbation import PerturbationSetting
from fsam_cli.records.summary import Row
from fsam_cli.reports._style import (
    OVER_SEEDS,
    Style,
    dress,
    file_name,
    line_and_band,
    new_figure,
    not_drawn,
    plain_ticks,
    shortened,
    styles_of,
    title_and_caption,
)
from fsam_cli.reports.figures import methods_of
from fsam_cli.reports.robustness import curves_in, curves_of, described

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 9.6, 4.2  # inches: two panels and the names
LEGEND = 34  # characters of a name in it


def figure(row: Row, points: pd.DataFrame, setting: PerturbationSetting) -> Figure:
    """Accuracy and loss against alpha: a line per method, a band from the lowest to the highest
    seed.

    A method of which a planned seed is not measured is named in the caption instead.

    Args:
        row: of the table.
        points: as `reports.robustness` has them.

    Raises:
        UsageError: matplotlib is not installed.
    """
    drawn = new_figure(WIDTH, HEIGHT)
    left, right = drawn.subplots(1, 2)
    curves = curves_of(points)
    legend = _in_a_legend(row)
    for name, style in styles_of(methods_of(row)).items():
        cell = row.cells[name]
        runs = curves_in(cell, curves)
        if runs is not None:
            label = f"{legend[name]} (n={len(cell.runs)})"
            _line(left, runs, style, column="test_accuracy", scale=100, label=label)
            _line(right, runs, style, column="test_loss", scale=1, label=None)
    strength = "of each filter's norm" if setting.relative == "filter" else "norm of the step"
    dress(left, f"strength α ({strength})", "test accuracy (%)")
    dress(right, f"strength α ({strength})", "test loss (nats)")
    paths = {path for cell in row.cells.values() for path in cell.runs["path"]}
    chance = 100 / points.loc[points["path"].isin(paths), "classes"].max()
    left.axhline(chance, color="#777777", linewidth=0.8, zorder=1)
    left.annotate(
        "chance",
        (1, chance),
        (2, 0),
        xycoords=("axes fraction", "data"),
        textcoords="offset points",
        va="center",
        fontsize=7,
        color="#777777",
    )
    left.set_ylim(0, 100)
    right.set_yscale("log")
    plain_ticks(right.yaxis)
    for axes in (left, right):
        axes.set_xlim(left=0)
    absent = not_drawn({name: c.status for name, c in row.cells.items() if c.status != "done"})
    title_and_caption(drawn, f"{row.title}: {described(setting)}", OVER_SEEDS + absent)
    return drawn


def figure_name(row: Row, setting: PerturbationSetting) -> str:
    """A file name that tells the settings apart."""
    parts: list[str] = [setting.direction]
    if setting.direction == "gradient":
        parts.append(setting.gradient_split)
    if setting.relative != "none":
        parts.append(setting.relative)
    if setting.recalibrated:
        parts.append("recalibrated")
    whose = "-".join(filter(None, (row.recipe, row.name)))
    return file_name(f"robustness-{whose}", "-" + "-".join(parts))


def _in_a_legend(row: Row) -> dict[str, str]:
    """The names of its cells, short; with the hash where two would be the same."""
    short = {name: shortened(name, LEGEND) for name in row.cells}
    alike = Counter(short.values())
    return {
        name: f"{shortened(cell.label, LEGEND - 11)} [{cell.hash}]"
        if alike[short[name]] > 1 and cell.hash
        else short[name]
        for name, cell in row.cells.items()
    }


def _line(
    axes: Axes, runs: pd.DataFrame, style: Style, *, column: str, scale: float, label: str | None
) -> None:
    by_alpha = runs.groupby("alpha")[column]
    mean, low, high = (scale * by_alpha.agg(how) for how in ("mean", "min", "max"))
    line_and_band(axes, mean.index, mean, low, high, style, label=label)
