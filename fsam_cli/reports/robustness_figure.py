"""How accuracy falls when weights are moved, as a picture (paper, Fig. 4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

import pandas as pd

from fsam_cli.records.perturbation import PerturbationSetting
from fsam_cli.reports._style import (
    OVER_SEEDS,
    Style,
    dress,
    file_name,
    line_and_band,
    new_figure,
    plain_ticks,
    shortened,
    styles_of,
    title_and_caption,
)
from fsam_cli.reports.robustness import Cell, cells_of, described

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 9.6, 4.2  # inches: two panels and the names
LEGEND = 34  # characters of a name in it


def figure(frame: pd.DataFrame, recipe: str, setting: PerturbationSetting) -> Figure:
    """Accuracy and loss against alpha: a line per method, a band from the lowest to the highest
    seed.

    A method of which a planned seed is not measured is named in the caption instead.

    Raises:
        UsageError: matplotlib is not installed.
    """
    cells = [cell for cell in cells_of(frame) if cell.recipe == recipe]
    drawn = new_figure(WIDTH, HEIGHT)
    left, right = drawn.subplots(1, 2)
    styles = styles_of({cell: cell.common("method") for cell in cells})
    legend = _in_a_legend(cells)
    for cell in cells:
        if not cell.left_out:
            runs, style = pd.concat(cell.curves().values()), styles[cell]
            label = f"{legend[cell]} (n={cell.n})"
            _line(left, runs, style, column="test_accuracy", scale=100, label=label)
            _line(right, runs, style, column="test_loss", scale=1, label=None)
    strength = "of each filter's norm" if setting.relative == "filter" else "norm of the step"
    dress(left, f"strength α ({strength})", "test accuracy (%)")
    dress(right, f"strength α ({strength})", "test loss (nats)")
    chance = 100 / frame.loc[frame["recipe"] == recipe, "classes"].max()
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
    absent = [f"{cell.name}, {cell.count} runs measured" for cell in cells if cell.left_out]
    without = f"; not drawn: {'; '.join(absent)}" if absent else ""
    title_and_caption(drawn, f"{recipe}: {described(setting)}", OVER_SEEDS + without)
    return drawn


def figure_name(recipe: str, setting: PerturbationSetting) -> str:
    """A file name that tells the settings apart."""
    parts: list[str] = [setting.direction]
    if setting.direction == "gradient":
        parts.append(setting.gradient_split)
    if setting.relative != "none":
        parts.append(setting.relative)
    if setting.recalibrated:
        parts.append("recalibrated")
    return file_name(f"robustness-{recipe}", "-" + "-".join(parts))


def _in_a_legend(cells: Sequence[Cell]) -> dict[Cell, str]:
    """The names, short; with the hash where two would be the same."""
    short = {cell: shortened(cell.name, LEGEND) for cell in cells}
    alike = Counter(short.values())
    return {
        cell: f"{shortened(cell.label, LEGEND - 11)} [{cell.hash}]"
        if alike[name] > 1 and cell.hash
        else name
        for cell, name in short.items()
    }


def _line(
    axes: Axes, runs: pd.DataFrame, style: Style, *, column: str, scale: float, label: str | None
) -> None:
    by_alpha = runs.groupby("alpha")[column]
    mean, low, high = (scale * by_alpha.agg(how) for how in ("mean", "min", "max"))
    line_and_band(axes, mean.index, mean, low, high, style, label=label)
