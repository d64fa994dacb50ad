"""The picture of `fsam bench`: a panel for each section, a line for everything that was timed.

Points are medians and whiskers quartiles, each with its number beside it; a filled point is
compiled, from a CUDA graph or somebody else's, an open one eager. A grey stroke is what several
runs at once would come to if they did not disturb each other.
"""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from fsam_cli.reports._style import Style, new_figure, style_of
from fsam_cli.reports.bench_table import Document, has_graphs, machine, runs_and_threads

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

WIDTH = 7.6  # inches
A_ROW = 105  # characters of the heading that fit the width
A_LINE = 0.24  # inches of height
A_PANEL = 0.95  # inches of height for its title and axis
HEADING = Style("#000000", "-", "")
APART = Style("#777777", "-", "o")  # of no method


@dataclass(frozen=True)
class PanelLine:
    """A line of a panel."""

    name: str
    spread: Mapping[str, Any] | None  # None: a heading
    style: Style = HEADING
    filled: bool = True
    ideal: float | None = None  # of this line alone


@dataclass(frozen=True)
class Panel:
    """What one section comes to."""

    title: str
    axis: str
    digits: int
    limit: float | None = 1.0  # where the line of reference stands
    points: tuple[PanelLine, ...] = ()


_FLOOR = "times the memory floor (1 = the hardware's limit)"
_PANELS = {  # by section and number of its lines
    ("minimiser", "multiple"): Panel("minimiser alone: climb, way back, SGD's step", _FLOOR, 2),
    ("step", "over_sgd"): Panel(
        "whole step, forward and backward passes included", "times SGD's step", 3
    ),
    ("step", "over_eager"): Panel(
        "whole step from a CUDA graph", "times the same method's eager step", 3
    ),
    ("peers", "multiple"): Panel("SAM side by side, on the same gradients", _FLOOR, 2),
    ("augmentation", "images_per_second"): Panel(
        "augmentation: crop, flip, AutoAugment, Cutout", "images per second", 0, limit=None
    ),
    ("runs", "over_one"): Panel(
        "runs at once: images per second of all together",
        "times one run with one thread (grey stroke: runs x threads)",
        2,
        limit=None,
    ),
}


def figure(document: Document) -> Figure:
    """All sections that were measured.

    Raises:
        UsageError: matplotlib is not installed.
    """
    found = panels(document)
    heights = [A_PANEL + A_LINE * len(panel.points) for panel in found]
    drawn = new_figure(WIDTH, sum(heights) + 0.5)
    grid = drawn.subplots(len(found), 1, height_ratios=heights, squeeze=False)
    for axes, panel in zip(grid[:, 0], found, strict=True):
        _draw(axes, panel)
    where = textwrap.fill(machine(document), A_ROW, break_on_hyphens=False)
    drawn.suptitle(where, fontsize=8, x=0.01, ha="left", color="#444444", parse_math=False)
    return drawn


def panels(document: Document) -> list[Panel]:
    """A panel for each section that has lines."""
    methods = {label: entry["name"] for label, entry in document["settings"]["methods"].items()}
    found = []
    for (section, quantity), panel in _PANELS.items():
        races = document.get(section, ())
        runs = section == "runs"
        points = _run_points(races, methods) if runs else _points(races, methods, quantity)
        if points:
            found.append(replace(panel, points=points))
    return found


def _points(
    races: Sequence[Mapping[str, Any]], methods: Mapping[str, str], quantity: str
) -> tuple[PanelLine, ...]:
    """A heading for each race and a point for each of its lines that has the quantity."""
    points: list[PanelLine] = []
    for race in races:
        lines = [line for line in race["lines"] if line.get(quantity) is not None]
        if lines:
            points += [PanelLine(heading, None) for heading in _heading(race)]
            points += [_point(line, methods, quantity, launched=has_graphs(race)) for line in lines]
    return tuple(points)


def _run_points(
    races: Sequence[Mapping[str, Any]], methods: Mapping[str, str]
) -> tuple[PanelLine, ...]:
    points: list[PanelLine] = []
    for race in races:
        label, style = race["method"], style_of(methods.get(race["method"], race["method"]))
        if race["lines"]:
            points.append(PanelLine(f"{race['model']}, {label}, batch {race['batch_size']}", None))
        points += [
            PanelLine(
                runs_and_threads(line),
                line["over_one"],
                style,
                ideal=line["at_once"] * line["threads"],
            )
            for line in race["lines"]
        ]
    return tuple(points)


def _heading(race: Mapping[str, Any]) -> list[str]:
    """What the lines of a race have in common; augmentation has one race."""
    if "model" not in race:
        return []
    batch = f"batch {race['batch_size']}" if "batch_size" in race else None
    return [", ".join(filter(None, (race["model"], race.get("precision"), batch)))]


def _point(
    line: Mapping[str, Any], methods: Mapping[str, str], quantity: str, *, launched: bool
) -> PanelLine:
    """A line; `launched`: the same method stands beside it, launched otherwise."""
    label, how = line["label"], line["launched"] if launched else line.get("implementation")
    of_fsam = {"fsam eager": "sam", "fsam compiled": "sam"}  # the peers' reference is fsam's SAM
    style = style_of(methods.get(label, of_fsam.get(label, label)))
    if "implementation" in line and how is None:
        style = APART
    eager = how == "eager" or label == "fsam eager"
    name = label if how is None else f"{label}, {how}"
    return PanelLine(name, line[quantity], style, filled=not eager)


def _draw(axes: Axes, panel: Panel) -> None:
    axes.set_title(panel.title, fontsize=9, loc="left")
    axes.set_xlabel(panel.axis, fontsize=8)
    highest = [point.spread["high"] for point in panel.points if point.spread]
    ideals = [point.ideal for point in panel.points if point.ideal is not None]
    furthest = max(*highest, *ideals, panel.limit or 0.0)
    for place, point in enumerate(panel.points):
        if point.ideal is not None:
            axes.plot(point.ideal, place, "|", color="#777777", markersize=11, zorder=1)
        if point.spread is not None:
            _mark(axes, place, point, point.spread, panel.digits)
    if panel.limit is not None:
        axes.axvline(panel.limit, color="#777777", linewidth=0.8, zorder=1)
    axes.set_xlim(0, furthest * 1.12)
    axes.set_ylim(len(panel.points) - 0.4, -0.6)
    axes.set_yticks(range(len(panel.points)), [point.name for point in panel.points], fontsize=8)
    for point, name in zip(panel.points, axes.get_yticklabels(), strict=True):
        name.set_parse_math(False)  # somebody else's name may hold a $
        if point.spread is None:
            name.set_fontweight("bold")
    axes.tick_params(axis="y", length=0)
    axes.tick_params(axis="x", labelsize=8)
    axes.grid(True, axis="x", color="#dddddd", linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)


def _mark(axes: Axes, place: int, point: PanelLine, spread: Mapping[str, Any], digits: int) -> None:
    """Median, quartiles and the number."""
    median, low, high = (spread[key] for key in ("median", "low", "high"))
    color = point.style.color
    axes.hlines(place, low, high, color=color, linewidth=1.4, zorder=2)
    axes.plot(
        median,
        place,
        marker=point.style.marker,
        markersize=5.5,
        markerfacecolor=color if point.filled else "white",
        markeredgecolor=color,
        zorder=3,
    )
    axes.annotate(
        f"{median:,.{digits}f}",
        (high, place),
        xytext=(6, 0),
        textcoords="offset points",
        va="center",
        fontsize=7,
    )
