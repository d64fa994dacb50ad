"""A grid of settings as a frame: its best point, its neighbours, its edges, its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import product
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import pandas as pd

from fsam_cli.records.frame import as_rows
from fsam_cli.records.statistics import Sample, compare
from fsam_cli.records.summary import sample_of
from fsam_cli.reports._style import new_figure, title_and_caption
from fsam_cli.reports.differences import NO_SPREAD, Entry, why_untested

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Grid = Mapping[str, Sequence[Any]]  # values by dotted key, in the order given

SWEEP_SCHEMA = "fsam-sweep/1"
NUMBERS = ("mean", "std", "test_mean", "test_std", "n", "status")  # of a point


@dataclass(frozen=True)
class Selection:
    """What the points of a sweep are compared by."""

    part: Literal["validation", "test"]
    epoch: Literal["last", "selected"]  # of which all its numbers are

    @property
    def metric(self) -> str:
        """The selecting column of the frame of runs."""
        return f"{self.epoch}_{self.part}_accuracy"

    @property
    def test_metric(self) -> str:
        """The column that is shown beside it, of the same epoch."""
        return f"{self.epoch}_test_accuracy"


@dataclass(frozen=True)
class Swept:
    """One method's points of a sweep."""

    grid: Grid  # without the settings of other methods
    frame: pd.DataFrame  # from `grid_frame`


@dataclass(frozen=True)
class Neighbour:
    """A point one step along one axis from the best."""

    point: dict[str, Any]
    difference: float  # fraction: its score minus the best's
    low: float | None  # 95 % interval of the difference, paired by seed; None: no spread to tell
    high: float | None
    status: str  # `done`, or why there is no interval


@dataclass(frozen=True)
class Best:
    """The chosen point of a grid and how far it can be trusted."""

    point: dict[str, Any]
    mean: float  # over seeds, of the selecting metric; a fraction
    neighbours: list[Neighbour]
    on_edge: list[str]  # keys whose best value is the lowest or highest of several numbers


def points_of(grid: Grid) -> list[dict[str, Any]]:
    """Every combination, the last key varying fastest."""
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def grid_frame(
    grid: Grid, runs: pd.DataFrame, folders: Sequence[Sequence[str]], by: Selection
) -> pd.DataFrame:
    """A row per grid point: its keys, `mean`, `std`, `n` of the metric, test figures, `status`, and
    the `sample` of the metric by seed.

    A point has numbers only if all its runs are done and have the metric; else its status says what
    is in the way.

    Args:
        grid: the sweep's.
        runs: from `load_runs`, of one label.
        folders: for each point of `points_of(grid)`, its run directories.
        by: what points are compared by.
    """
    by_path = runs.set_index("path")
    rows = []
    for point, paths in zip(points_of(grid), folders, strict=True):
        group = by_path.loc[list(paths)]
        status = _status(group, by.metric)
        sample, test = (
            sample_of(group, column) if status == "done" else None
            for column in (by.metric, by.test_metric)
        )
        beside = {f"test_{key}": Entry(test, status).columns[key] for key in ("mean", "std")}
        rows.append({**point, **Entry(sample, status).columns, **beside, "sample": sample})
    frame = pd.DataFrame(rows)
    # As given: pandas would make numbers of 1 and null, which are then not found in the grid.
    values = {key: [row[key] for row in rows] for key in grid}
    return frame.assign(**{key: pd.Series(column, dtype=object) for key, column in values.items()})


def _status(runs: pd.DataFrame, metric: str) -> str:
    """`done`, or what keeps a point from having a mean."""
    unfinished = sorted(set(runs["status"]) - {"done"})
    if unfinished:
        return ", ".join(unfinished)
    lacking = int(runs[metric].isna().sum())
    return f"{lacking} of {len(runs)} without {metric}" if lacking else "done"


def best_of(grid: Grid, frame: pd.DataFrame) -> Best | None:
    """The point with the highest mean; None if no point is complete."""
    complete = frame[frame["mean"].notna()]
    if complete.empty:
        return None
    row = max(as_rows(complete), key=lambda entry: float(entry["mean"]))  # the first of equals
    point, best = {key: row[key] for key in grid}, row["sample"]
    neighbours = []
    for key, values in grid.items():
        for value in _beside(values, point[key]):
            near = {**point, key: value}
            sample = _sample_at(frame, near)
            if sample is not None:
                neighbours.append(_neighbour(near, sample, best))
    edge = [key for key, values in grid.items() if _on_edge(values, point[key])]
    return Best(point, best.mean, neighbours, edge)


def _neighbour(point: dict[str, Any], sample: Sample, best: Sample) -> Neighbour:
    apart, comparison = sample.mean - best.mean, compare(sample, best)
    if comparison is None:
        return Neighbour(point, apart, None, None, why_untested(sample, best))
    low, high = comparison.low, comparison.high
    return Neighbour(point, apart, low, high, NO_SPREAD if low is None else "done")


def _numbers(values: Sequence[Any]) -> list[Any]:
    """Those of an axis that have an order, ascending."""
    return sorted(
        value for value in values if isinstance(value, int | float) and not isinstance(value, bool)
    )


def _in_order(values: Sequence[Any]) -> list[Any]:
    """An axis as it is drawn: its numbers ascending, then the rest as given."""
    numbers = _numbers(values)
    return [*numbers, *(value for value in values if value not in numbers)]


def _beside(values: Sequence[Any], value: Any) -> list[Any]:
    """One step away: the next lower and higher number, and whatever has no order."""
    numbers = _numbers(values)
    if value not in numbers:
        return [other for other in values if other != value]
    at = numbers.index(value)
    rest = _in_order(values)[len(numbers) :]
    return [*numbers[max(0, at - 1) : at], *numbers[at + 1 : at + 2], *rest]


def _on_edge(values: Sequence[Any], value: Any) -> bool:
    numbers = _numbers(values)
    return len(numbers) > 1 and value in (numbers[0], numbers[-1])


@dataclass(frozen=True)
class Result:
    """A whole sweep."""

    recipe: str
    by: Selection
    grid: Grid
    methods: Mapping[str, Swept]  # by label, those that the grid touches
    references: Mapping[str, Swept]  # the others, trained once, each a point without a setting


def document(result: Result) -> dict[str, Any]:
    """What `--format json` prints (docs/report-schema.md), of the whole grid and every label."""
    by, methods = result.by, result.methods
    points = [
        {
            "method": label,
            "point": {key: row[key] for key in swept.grid},
            **{name: row[name] for name in NUMBERS},
        }
        for label, swept in methods.items()
        for row in as_rows(swept.frame)
    ]
    return {
        "schema": SWEEP_SCHEMA,
        "recipe": result.recipe,
        "select": by.part,
        "metric": by.metric,
        "test_metric": by.test_metric,
        "grid": {key: list(values) for key, values in result.grid.items()},
        "points": points,
        "best": {
            label: asdict(best) if (best := best_of(swept.grid, swept.frame)) else None
            for label, swept in methods.items()
        },
        "references": [
            {"method": label, **{name: row[name] for name in NUMBERS}}
            for label, reference in result.references.items()
            for row in as_rows(reference.frame)
        ],
    }


def long_rows(result: Result) -> list[dict[str, Any]]:
    """What `--format csv` prints: all points in one table, then the methods that the grid does not
    touch; settings of other methods are empty."""
    return [
        {
            "method": label,
            **{key: row.get(key) for key in result.grid},
            **{name: row[name] for name in NUMBERS},
        }
        for label, swept in {**result.methods, **result.references}.items()
        for row in as_rows(swept.frame)
    ]


def picture_name(recipe: str, label: str, grid: Grid | None) -> str:
    """What a heat map is called, by what tells the sweep from others of the recipe; by no grid for
    the recipe's own. `_style.save` makes a short and plain file name of it."""
    own = f"methods.{label}."
    swept = [
        f"{key.removeprefix(own)}={','.join(map(str, values))}"
        for key, values in (grid or {}).items()
    ]
    return "-".join(["sweep", recipe, label, *swept])


def heat_map(grid: Grid, frame: pd.DataFrame, *, title: str, by: Selection) -> Figure:
    """Figure 5 of the paper: accuracy over two settings on one scale.

    Points without a mean are crossed out; the best is framed. One setting makes a single row.
    Colours do not reach down to a point that lies far below the others: these would be all one.
    """
    keys = list(grid)
    down, across = (keys[0], keys[1]) if len(keys) > 1 else ("", keys[0])
    rows = _in_order(grid[down]) if down else [None]
    columns = _in_order(grid[across])

    def place(point: Mapping[str, Any]) -> tuple[int, int]:
        return rows.index(point[down]) if down else 0, columns.index(point[across])

    values = np.full((len(rows), len(columns)), np.nan)
    for entry in as_rows(frame[frame["mean"].notna()]):
        values[place(entry)] = 100 * float(entry["mean"])
    figure = new_figure(1.6 + 0.95 * len(columns), 2.1 + 0.6 * len(rows))
    axes = figure.add_subplot()
    lowest = _lowest_colour(values)
    image = axes.imshow(np.ma.masked_invalid(values), cmap="cividis", aspect="auto", vmin=lowest)
    axes.set_xticks(range(len(columns)), [str(value) for value in columns])
    axes.set_yticks(range(len(rows)), [str(value) for value in rows] if down else [""])
    axes.set_xlabel(across)
    axes.set_ylabel(down)
    _write_values(axes, values, lowest)
    best = best_of(grid, frame)
    if best is not None:
        below = "neither" if lowest is None else "min"
        figure.colorbar(image, ax=axes, label=f"{by.part} accuracy (%)", extend=below)
        _frame_square(axes, *place(best.point))
    title_and_caption(figure, title, _caption(frame, by))
    return figure


def _caption(frame: pd.DataFrame, by: Selection) -> str:
    """Over how many seeds of which epoch, and why squares are crossed out."""
    crossed = frame["mean"].isna()
    seeds = sorted({int(n) for n in frame.loc[~crossed, "n"]})
    lines = []
    if seeds:
        n = "/".join(map(str, seeds))
        how = ", selected on test" if by.part == "test" else ""
        lines = [f"mean over n = {n} seeds at the {by.epoch} epoch", f"framed: best{how}"]
    statuses = {word for status in frame.loc[crossed, "status"] for word in status.split(", ")}
    if statuses:
        lines.append(f"×: {', '.join(sorted(statuses))}")
    return "; ".join(lines)


def _lowest_colour(values: Any) -> float | None:
    """Where the colours end if some values lie far below the rest: three interquartile ranges
    below the median. None where none does."""
    there = values[~np.isnan(values)]
    if not there.size:
        return None
    quarter, median, three_quarters = np.percentile(there, [25, 50, 75])
    lowest = float(median - 3 * (three_quarters - quarter))
    return lowest if three_quarters > quarter and there.min() < lowest else None


def _write_values(axes: Any, values: Any, lowest: float | None) -> None:
    """Numbers in the squares, black on bright and white on dark; × where there is none."""
    there = values[~np.isnan(values)]
    middle = 0.0
    if there.size:
        middle = ((there.min() if lowest is None else lowest) + there.max()) / 2
    for (i, j), value in np.ndenumerate(values):
        text = "×" if np.isnan(value) else f"{value:.1f}"
        color = "white" if value < middle else "black"  # black for NaN, on nothing
        axes.text(j, i, text, ha="center", va="center", color=color)


def _frame_square(axes: Any, i: int, j: int) -> None:
    from matplotlib.patches import Rectangle

    frame = Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor="#D55E00", linewidth=3)
    axes.add_patch(frame).set_clip_on(False)  # at the border half of it would be cut off


def _sample_at(frame: pd.DataFrame, point: Mapping[str, Any]) -> Sample | None:
    here = (row for row in as_rows(frame) if all(row[key] == point[key] for key in point))
    return next((row["sample"] for row in here), None)
