"""How accuracy falls when weights are moved, as a picture (paper, Fig. 4)."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import pandas as pd

from fsam_cli.records.perturbation import PerturbationSetting
from fsam_cli.reports._style import (
    OVER_SEEDS,
    Style,
    dress,
    file_name,
    line_and_band,
    new_figure,
    shortened,
    styles_of,
    title_and_caption,
)
from fsam_cli.reports.robustness import (
    cells_of,
    count_text,
    curves,
    described,
    names_of,
    of_cell,
    rows_of_cell,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH, HEIGHT = 9.6, 4.2  # inches: two panels and the names
LEGEND = 34  # characters of a name in it


def figure(frame: pd.DataFrame, recipe: str, setting: PerturbationSetting) -> Figure:
    """Accuracy and loss against alpha: a line per method, a band from the lowest to the highest
    seed.

    Args:
        frame: as `reports.robustness` describes it.
        recipe: whose methods are drawn; one of which a planned seed is not measured is not.
        setting: the way of perturbing, for the title.

    Raises:
        UsageError: matplotlib is not installed.
    """
    mine = frame[frame["recipe"] == recipe]
    drawn = new_figure(WIDTH, HEIGHT)
    left, right = drawn.subplots(1, 2)
    per_run = curves(mine)
    styles = styles_of({key: of_cell(mine, key, "method") for key in cells_of(mine)})
    names, absent = names_of(frame, recipe), []
    legend = _in_a_legend(names)
    for key, count in cells_of(mine).items():
        if count.left_out:
            absent.append(f"{names[key]}, {count_text(count.n, count.left_out)} runs measured")
            continue
        points = per_run[rows_of_cell(per_run, key)]
        label = f"{legend[key]} (n={count.n})"
        _line(left, points, styles[key], column="test_accuracy", scale=100, label=label)
        _line(right, points, styles[key], column="test_loss", scale=1, label=None)
    strength = "of each filter's norm" if setting.relative == "filter" else "norm of the step"
    dress(left, f"strength α ({strength})", "test accuracy (%)")
    dress(right, f"strength α ({strength})", "test loss (nats)")
    chance = 100 / mine["classes"].max()
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
    _logarithmic(right)
    for axes in (left, right):
        axes.set_xlim(left=0)
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


def _in_a_legend(names: Mapping[tuple[Any, ...], str]) -> dict[tuple[Any, ...], str]:
    """The names, short; with the hash where two would be the same."""
    short = {key: shortened(name, LEGEND) for key, name in names.items()}
    alike = Counter(short.values())
    return {
        key: f"{shortened(key[1], LEGEND - 11)} [{key[2]}]" if alike[name] > 1 and key[2] else name
        for key, name in short.items()
    }


def _line(
    axes: Axes, runs: pd.DataFrame, style: Style, *, column: str, scale: float, label: str | None
) -> None:
    by_alpha = runs.groupby("alpha")[column]
    mean, low, high = (scale * by_alpha.agg(how) for how in ("mean", "min", "max"))
    line_and_band(axes, mean.index, mean, low, high, style, label=label)


def _logarithmic(axes: Axes) -> None:
    """A logarithmic scale whose ticks are plain numbers, 1, 2 and 5 of each decade."""
    from matplotlib.ticker import LogLocator, NullFormatter

    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
    axes.yaxis.set_major_formatter("{x:g}")
    axes.yaxis.set_minor_formatter(NullFormatter())
