"""`fsam sweep`: a grid of settings, or an equal tuning budget for every method.

Each point x seed is an ordinary run: resume, skip, failure, `-j`, `--shard` and records are those
of `fsam train`.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from fsam_cli.commands._print import out, print_json, print_rows, say
from fsam_cli.commands.train import TrainRequest, carry_out, name_unused_plugins, sharded
from fsam_cli.errors import UsageError
from fsam_cli.recipe import yaml12
from fsam_cli.recipe.load import Experiment, load_experiment
from fsam_cli.recipe.plan import RunPlan, plan
from fsam_cli.recipe.schema import Recipe, Sweep
from fsam_cli.records.frame import as_rows, load_runs
from fsam_cli.reports.sweep import (
    Grid,
    best_of,
    document,
    grid_frame,
    heat_map,
    long_rows,
    picture_name,
    points_of,
)


def sweep(
    request: TrainRequest,
    *,
    grid: Sequence[str],
    select: Literal["validation", "test"] | None,
    figures: Path | None,
    dry_run: bool,
) -> int:
    """Train every point of a grid and say which is best.

    Args:
        request: as for `fsam train`.
        grid: `key=v1,v2,...` each; the recipe's own `sweep` when empty.
        select: overrides the recipe's choice of the selecting part.
        figures: where the heat maps go.
        dry_run: show the runs and their cost only.

    Returns:
        0, or 1 if any run failed, diverged or could not be read.

    Raises:
        UsageError: no grid, an unreadable one, one that changes no run, or nothing to select by.
    """
    experiment = load_experiment(request.recipe, request.overrides, request.plugins)
    name_unused_plugins(experiment, quiet=request.quiet)
    chosen = chosen_sweep(experiment.recipe, grid, select)
    by_point = [_plans_at(request, experiment, point) for point in points_of(chosen.grid)]
    folders = swept_folders(chosen.grid, by_point)
    plans = list({each.folder: each for point in by_point for each in point}.values())
    mine = sharded(plans, request.shard)
    if dry_run:
        from fsam_cli.commands._cost import dry_run_table

        dry_run_table(mine, rerun=request.rerun, format=request.format)
        return 0
    code = carry_out(request, plans, mine)
    column = selecting_column(experiment.recipe, chosen.select)
    runs = load_runs(*(each.folder for each in plans))
    frames = {
        label: grid_frame(chosen.grid, runs[runs["label"] == label], paths, column)
        for label, paths in folders.items()
    }
    _show(experiment.recipe.name, chosen, column, frames, request.format)
    if figures is not None:
        _draw(experiment.recipe.name, chosen, frames, figures, told_apart=bool(grid))
    return code


def swept_folders(grid: Grid, by_point: Sequence[Sequence[RunPlan]]) -> dict[str, list[list[str]]]:
    """The run directories of each point, for every method that the grid touches.

    Raises:
        UsageError: it touches none.
    """
    labels = list(dict.fromkeys(each.label for point in by_point for each in point))
    found = {}
    for label in labels:
        paths = [[str(each.folder) for each in point if each.label == label] for point in by_point]
        # A single point differs from nothing; its keys say whose it is.
        alone = len(paths) == 1 and not {_owner(key, labels) for key in grid}.isdisjoint(
            {label, None}
        )
        if alone or len(set(map(tuple, paths))) > 1:
            found[label] = paths
    if not found:
        raise UsageError(
            f"the grid changes nothing: no run of {', '.join(labels)} depends on "
            f"{', '.join(grid)}; sweep a setting of theirs, or name another method with --only"
        )
    return found


def _owner(key: str, labels: Sequence[str]) -> str | None:
    """The method whose setting a dotted key is; labels may hold dots, so the longest counts."""
    owners = [label for label in labels if f"{key}.".startswith(f"methods.{label}.")]
    if owners:
        return max(owners, key=len)
    return key if key.startswith("methods.") else None


def chosen_sweep(
    recipe: Recipe, grid: Sequence[str], select: Literal["validation", "test"] | None
) -> Sweep:
    """The grid of the command line, or the recipe's.

    Raises:
        UsageError: neither is there, an entry is no `key=v1,v2`, or a key or value is repeated.
    """
    if not grid and recipe.sweep is None:
        raise UsageError(
            "nothing to sweep: give --grid key=v1,v2 (repeatable), a `sweep:` section in the "
            "recipe, or --tune"
        )
    values: dict[str, tuple[Any, ...]] = {}
    for key, several in map(_grid_entry, grid):
        if key in values:
            raise UsageError(
                f"--grid {key} is given twice; write all its values once, --grid {key}=v1,v2,v3"
            )
        values[key] = several
    if not values and recipe.sweep is not None:
        values = dict(recipe.sweep.grid)
    for key, several in values.items():
        _check_values(key, several)
    chosen = select or (recipe.sweep.select if recipe.sweep else "validation")
    if chosen == "validation" and recipe.data.validation == 0:
        raise UsageError(
            "selecting on validation needs a validation part: data.validation=0.1, "
            "or --select test, which selects on the test set and says so"
        )
    return Sweep(grid=values, select=chosen)


def selecting_column(recipe: Recipe, select: Literal["validation", "test"]) -> str:
    """The number of a run that points are compared by."""
    if select == "test":
        return "last_test_accuracy"
    which = "selected" if recipe.train.select == "validation" else "last"
    return f"{which}_validation_accuracy"


def _grid_entry(entry: str) -> tuple[str, tuple[Any, ...]]:
    key, equals, text = entry.partition("=")
    try:
        values = yaml12.parse(f"[{text}]")
    except ValueError as error:
        raise UsageError(f"--grid {entry}: {error}") from None
    if not equals or not key or not values:
        raise UsageError(f"--grid {entry}: write key=v1,v2, methods.fsam.gamma=0.05,0.1 for one")
    return key, tuple(values)


def _check_values(key: str, values: Sequence[Any]) -> None:
    if not values:
        raise UsageError(f"the grid of {key} has no value; name at least one")
    for position, value in enumerate(values):
        if value in values[:position]:  # 1 and 1.0 are one value
            raise UsageError(
                f"the grid of {key}: the value {value} stands there twice; write each once"
            )


def _plans_at(
    request: TrainRequest, experiment: Experiment, point: dict[str, Any]
) -> list[RunPlan]:
    overrides = [f"{key}={json.dumps(value)}" for key, value in point.items()]
    return plan(
        load_experiment(
            request.recipe,
            [*request.overrides, *overrides],
            request.plugins,
            known=experiment.plugins,
        ),
        out=request.out,
        device=request.device,
        data_dir=request.data_dir,
        only=request.only,
    )


def _show(
    recipe: str, chosen: Sweep, column: str, frames: Mapping[str, pd.DataFrame], format: str
) -> None:
    """One document or one table for programs; for people a table for each method."""
    if format == "json":
        print_json(document(recipe, chosen.select, column, chosen.grid, frames))
    elif format == "csv":
        print_rows(long_rows(chosen.grid, frames), format=format)
    for label, frame in frames.items():
        last = verdict(chosen.grid, frame, chosen.select)
        if format in ("csv", "json"):
            say(f"{label}: {last}")
            continue
        title = f"{label}: accuracy, selected by {chosen.select}"
        print_rows(_rows(chosen, frame, label), format=format, title=title)
        out(last)


def _rows(chosen: Sweep, frame: pd.DataFrame, label: str) -> list[dict[str, Any]]:
    return [
        {
            "method": label,
            **{key: entry[key] for key in chosen.grid},
            f"{chosen.select} %": _percent(entry["mean"], entry["std"]),
            "test, last %": _percent(entry["test_mean"], entry["test_std"]),
            "n": entry["n"],
            "status": entry["status"],
        }
        for entry in as_rows(frame)
    ]


def verdict(grid: Grid, frame: pd.DataFrame, select: str) -> str:
    """The best point, how much worse its neighbours are, and whether it lies on an edge."""
    best = best_of(grid, frame)
    if best is None:
        return "no point of the grid is complete: there is no best one"
    lines = [f"best by {select}: {_point(best.point)} with {100 * best.score:.2f} %"]
    lines += [f"  neighbour {_point(near)}: {100 * d:+.2f}" for near, d in best.neighbours]
    if best.on_edge:
        lines.append(
            f"  warning: the best lies on the edge of the grid in {', '.join(best.on_edge)}; "
            "a wider grid may hold a better one"
        )
    if select == "test":
        lines.append("  note: selected on the test set, so its accuracy is flattered")
    return "\n".join(lines)


def _draw(
    recipe: str,
    chosen: Sweep,
    frames: Mapping[str, pd.DataFrame],
    folder: Path,
    *,
    told_apart: bool,
) -> None:
    """A heat map for each method; `told_apart`: by the grid in its name."""
    from fsam_cli.reports._style import save

    if len(chosen.grid) > 2:
        say("a heat map has two settings; none is drawn for more")
        return
    for label, frame in frames.items():
        title, what = f"{recipe}: {label}", f"{chosen.select} accuracy"
        figure = heat_map(chosen.grid, frame, title=title, what=what)
        name = picture_name(recipe, label, chosen.grid if told_apart else None)
        for path in save(figure, folder, name):
            say(f"wrote {path}")


def _point(point: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in point.items())


def _percent(mean: float | None, std: float | None) -> str:
    if mean is None or pd.isna(mean):
        return ""
    spread = "" if std is None or pd.isna(std) else f"±{100 * std:.2f}"
    return f"{100 * mean:.2f}{spread}"
