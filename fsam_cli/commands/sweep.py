"""`fsam sweep`: a grid of settings, or an equal tuning budget for every method.

Each point x seed is an ordinary run: resume, skip, failure, `-j`, `--shard` and records are those
of `fsam train`.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import pandas as pd

from fsam_cli.commands._print import out, print_rows, say
from fsam_cli.commands.train import TrainRequest, carry_out, name_unused_plugins, sharded
from fsam_cli.errors import UsageError
from fsam_cli.recipe import yaml12
from fsam_cli.recipe.load import Experiment, load_experiment
from fsam_cli.recipe.plan import RunPlan, plan
from fsam_cli.recipe.schema import Recipe, Sweep
from fsam_cli.records.frame import as_rows, load_runs
from fsam_cli.reports.sweep import Grid, best_of, grid_frame, heat_map, points_of


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
        UsageError: no grid, an unreadable one, or nothing to select by.
    """
    experiment = load_experiment(request.recipe, request.overrides, request.plugins)
    name_unused_plugins(experiment, quiet=request.quiet)
    chosen = chosen_sweep(experiment.recipe, grid, select)
    by_point = [_plans_at(request, experiment, point) for point in points_of(chosen.grid)]
    plans = list({each.folder: each for point in by_point for each in point}.values())
    mine = sharded(plans, request.shard)
    if dry_run:
        from fsam_cli.commands._cost import dry_run_table

        dry_run_table(mine, rerun=request.rerun, format=request.format)
        return 0
    code = carry_out(request, plans, mine)
    column = selecting_column(experiment.recipe, chosen.select)
    runs = load_runs(*(each.folder for each in plans))
    for label in dict.fromkeys(each.label for each in plans):
        folders = [
            [str(each.folder) for each in point if each.label == label] for point in by_point
        ]
        if len({tuple(paths) for paths in folders}) == 1:
            continue  # the grid does not touch this method
        frame = grid_frame(chosen.grid, runs[runs["label"] == label], folders, column)
        _show(chosen, frame, label, request.format)
        if figures is not None:
            _draw(chosen, frame, f"{experiment.recipe.name}: {label}", figures)
    return code


def chosen_sweep(
    recipe: Recipe, grid: Sequence[str], select: Literal["validation", "test"] | None
) -> Sweep:
    """The grid of the command line, or the recipe's.

    Raises:
        UsageError: neither is there, or an entry is no `key=v1,v2`.
    """
    if not grid and recipe.sweep is None:
        raise UsageError(
            "nothing to sweep: give --grid key=v1,v2 (repeatable), a `sweep:` section in the "
            "recipe, or --tune"
        )
    values = dict(_grid_entry(entry) for entry in grid)
    if not values and recipe.sweep is not None:
        values = dict(recipe.sweep.grid)
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
    if len(set(map(str, values))) != len(values):
        raise UsageError(f"--grid {entry}: a value stands there twice")
    return key, tuple(values)


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


def _show(chosen: Sweep, frame: pd.DataFrame, label: str, format: str) -> None:
    rows = [
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
    if format in ("csv", "json"):
        print_rows(as_rows(frame.assign(method=label)), format=format)
    else:
        print_rows(rows, format=format, title=f"{label}: accuracy, selected by {chosen.select}")
    say_or_out = say if format in ("csv", "json") else out
    say_or_out(verdict(chosen.grid, frame, chosen.select))


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


def _draw(chosen: Sweep, frame: pd.DataFrame, title: str, folder: Path) -> None:
    from fsam_cli.reports._style import save

    if len(chosen.grid) > 2:
        say("a heat map has two settings; none is drawn for more")
        return
    what = f"{chosen.select} accuracy"
    figure = heat_map(chosen.grid, frame, title=title, what=what)
    for path in save(figure, folder, f"sweep-{title.replace(': ', '-')}"):
        say(f"wrote {path}")


def _point(point: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in point.items())


def _percent(mean: float | None, std: float | None) -> str:
    if mean is None or pd.isna(mean):
        return ""
    spread = "" if std is None or pd.isna(std) else f"±{100 * std:.2f}"
    return f"{100 * mean:.2f}{spread}"
