"""A grid of settings as a frame: its best point, its neighbours, its edges, its picture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from typing import TYPE_CHECKING, Any

import pandas as pd

from fsam_cli.records.frame import as_rows
from fsam_cli.records.statistics import Sample

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Grid = Mapping[str, Sequence[Any]]  # values by dotted key, in the order given

SWEEP_SCHEMA = "fsam-sweep/1"
NUMBERS = ("mean", "std", "test_mean", "test_std", "n", "status")  # of a point


@dataclass(frozen=True)
class Best:
    """The chosen point of a grid and how far it can be trusted."""

    point: dict[str, Any]
    score: float  # fraction, mean over seeds, of the selecting metric
    neighbours: list[tuple[dict[str, Any], float]]  # one step along one axis, score minus best's
    on_edge: list[str]  # keys whose best value is the first or last of several


def points_of(grid: Grid) -> list[dict[str, Any]]:
    """Every combination, the last key varying fastest."""
    return [dict(zip(grid, values, strict=True)) for values in product(*grid.values())]


def grid_frame(
    grid: Grid, runs: pd.DataFrame, folders: Sequence[Sequence[str]], column: str
) -> pd.DataFrame:
    """A row per grid point: its keys, `mean`, `std`, `n` of `column`, test figures, `status`.

    Args:
        grid: the sweep's.
        runs: from `load_runs`, of one label.
        folders: for each point of `points_of(grid)`, its run directories.
        column: the selecting metric, of the frame of runs.
    """
    by_path = runs.set_index("path")
    rows = []
    for point, paths in zip(points_of(grid), folders, strict=True):
        group = by_path.loc[list(paths)]
        bad = [status for status in group["status"] if status != "done"]
        row: dict[str, Any] = {**point, "status": ", ".join(sorted(set(bad))) or "done"}
        for name, source in (("", column), ("test_", "last_test_accuracy")):
            sample = None if bad else _sample(group, source)
            row[f"{name}mean"] = sample.mean if sample else None
            row[f"{name}std"] = sample.std if sample else None
        row["n"] = len(paths) if not bad else 0
        rows.append(row)
    frame = pd.DataFrame(rows)
    # As given: pandas would make numbers of 1 and null, which are then not found in the grid.
    values = {key: [row[key] for row in rows] for key in grid}
    return frame.assign(**{key: pd.Series(column, dtype=object) for key, column in values.items()})


def best_of(grid: Grid, frame: pd.DataFrame) -> Best | None:
    """The point with the highest mean; None if no point is complete."""
    complete = frame[frame["mean"].notna()]
    if complete.empty:
        return None
    row = max(as_rows(complete), key=lambda entry: float(entry["mean"]))  # the first of equals
    point = {key: row[key] for key in grid}
    neighbours = []
    for key, values in grid.items():
        at = list(values).index(point[key])
        for other in (at - 1, at + 1):
            if 0 <= other < len(values):
                near = {**point, key: values[other]}
                score = _score(frame, near)
                if score is not None:
                    neighbours.append((near, score - float(row["mean"])))
    edge = [
        key
        for key, values in grid.items()
        if len(values) > 1 and point[key] in (values[0], values[-1])
    ]
    return Best(point, float(row["mean"]), neighbours, edge)


def document(
    recipe: str, select: str, metric: str, grid: Grid, frames: Mapping[str, pd.DataFrame]
) -> dict[str, Any]:
    """What `--format json` prints (docs/report-schema.md).

    Args:
        recipe: its name.
        select: the part that points are compared on.
        metric: the number that they are compared by.
        grid: the sweep's.
        frames: by method, from `grid_frame`.
    """
    points = [
        {
            "method": label,
            "point": {key: row[key] for key in grid},
            **{name: row[name] for name in NUMBERS},
        }
        for label, frame in frames.items()
        for row in as_rows(frame)
    ]
    return {
        "schema": SWEEP_SCHEMA,
        "recipe": recipe,
        "select": select,
        "metric": metric,
        "grid": {key: list(values) for key, values in grid.items()},
        "points": points,
        "best": {label: _as_mapping(best_of(grid, frame)) for label, frame in frames.items()},
    }


def _as_mapping(best: Best | None) -> dict[str, Any] | None:
    if best is None:
        return None
    return {
        "point": best.point,
        "mean": best.score,
        "neighbours": [{"point": near, "difference": diff} for near, diff in best.neighbours],
        "on_edge": best.on_edge,
    }


def long_rows(grid: Grid, frames: Mapping[str, pd.DataFrame]) -> list[dict[str, Any]]:
    """What `--format csv` prints: the points of all methods in one table."""
    return [
        {"method": label, **{name: row[name] for name in (*grid, *NUMBERS)}}
        for label, frame in frames.items()
        for row in as_rows(frame)
    ]


def picture_name(recipe: str, label: str, grid: Grid | None) -> str:
    """What a heat map is called; `_style.save` makes a short and plain file name of it.

    Args:
        recipe: its name.
        label: of the method.
        grid: what tells this sweep from others of the recipe; None for the recipe's own.
    """
    own = f"methods.{label}."
    swept = [
        f"{key.removeprefix(own)}={','.join(map(str, values))}"
        for key, values in (grid or {}).items()
    ]
    return "-".join(["sweep", recipe, label, *swept])


def heat_map(
    grid: Grid, frame: pd.DataFrame, *, title: str, what: str, column: str = "mean"
) -> Figure:
    """Figure 5 of the paper: accuracy over two settings on one scale.

    Points without a mean (diverged, failed) are crossed out; the best is framed. One setting
    makes a single row.
    """
    import numpy as np

    from fsam_cli.reports._style import new_figure

    keys = list(grid)
    down, across = (keys[0], keys[1]) if len(keys) > 1 else ("", keys[0])
    rows = list(grid[down]) if down else [None]
    columns = list(grid[across])
    values = np.full((len(rows), len(columns)), np.nan)
    for entry in as_rows(frame):
        if entry[column] is not None and not pd.isna(entry[column]):
            i = rows.index(entry[down]) if down else 0
            values[i, columns.index(entry[across])] = 100 * float(entry[column])
    figure = new_figure(1.6 + 0.95 * len(columns), 2.1 + 0.6 * len(rows))
    axes = figure.add_subplot()
    image = axes.imshow(np.ma.masked_invalid(values), cmap="cividis", aspect="auto")
    axes.set_xticks(range(len(columns)), [str(value) for value in columns])
    axes.set_yticks(range(len(rows)), [str(value) for value in rows] if down else [""])
    axes.set_xlabel(across)
    axes.set_ylabel(down)
    figure.colorbar(image, ax=axes, label=f"{what} (%)")
    _write_values(axes, values)
    counts = sorted({int(n) for n in frame["n"] if n})
    seeds = "/".join(map(str, counts)) or "0"
    axes.set_title(title, fontsize=10)
    figure.supxlabel(
        f"mean over n = {seeds} seeds; framed: best; ×: diverged or failed", fontsize=8
    )
    return figure


def _write_values(axes: Any, values: Any) -> None:
    """Numbers in the squares, black on bright and white on dark; × where there is none."""
    import numpy as np
    from matplotlib.patches import Rectangle

    if np.isnan(values).all():
        return
    middle = (np.nanmin(values) + np.nanmax(values)) / 2
    for (i, j), value in np.ndenumerate(values):
        missing = np.isnan(value)
        text = "×" if missing else f"{value:.1f}"
        dark = not missing and value < middle
        axes.text(j, i, text, ha="center", va="center", color="white" if dark else "black")
    i, j = np.unravel_index(np.nanargmax(values), values.shape)
    frame = Rectangle((j - 0.5, i - 0.5), 1, 1, fill=False, edgecolor="#D55E00", linewidth=3)
    axes.add_patch(frame)


def _sample(group: pd.DataFrame, column: str) -> Sample | None:
    if group[column].isna().any():
        return None
    pairs = zip(group["seed"], group[column], strict=True)
    return Sample({int(seed): float(value) for seed, value in pairs})


def _score(frame: pd.DataFrame, point: Mapping[str, Any]) -> float | None:
    for row in as_rows(frame):
        if all(row[key] == value for key, value in point.items()):
            return None if pd.isna(row["mean"]) else float(row["mean"])
    return None
