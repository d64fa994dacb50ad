"""`fsam sweep`: a grid of settings, or an equal tuning budget for every method.

Each point x seed is an ordinary run: resume, skip, failure, `-j`, `--shard` and records are those
of `fsam train`.
"""

from __future__ import annotations

import json
import re
from collections.abc import Container, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from fsam_cli.commands._print import out, print_json, print_rows, say, say_written
from fsam_cli.commands.train import experiment_of, name_oversights, plans_of, run_plans, sharded
from fsam_cli.errors import UsageError, did_you_mean
from fsam_cli.hold import signals_held_back
from fsam_cli.options import SweepRequest
from fsam_cli.recipe import yaml12
from fsam_cli.recipe.load import Experiment
from fsam_cli.recipe.plan import RunPlan
from fsam_cli.recipe.schema import Recipe, Sweep
from fsam_cli.records.frame import as_rows, load_runs
from fsam_cli.reports._style import require_matplotlib, save
from fsam_cli.reports.sweep import (
    Grid,
    Neighbour,
    Result,
    Selection,
    Swept,
    best_of,
    document,
    grid_frame,
    heat_map,
    long_rows,
    picture_name,
    points_of,
)
from fsam_cli.reports.text_table import interval_in_points, percent

# Keys of a recipe along which nothing competes, and how they are set.
_BESIDE = {"name": "name=another", "seeds": "seeds=0:5"}


def sweep(request: SweepRequest) -> int:
    """Train every point of a grid, or tune: see `_over_grid` and `tune`.

    Raises:
        UsageError: options of the other kind, too.
    """
    if request.tune:
        if request.grid or request.select or request.figures:
            raise UsageError("--tune searches by itself: it takes no --grid, --select or --figures")
        with signals_held_back():  # it brings scipy along, and imports from this file
            from fsam_cli.commands.tune import tune

        return tune(request)
    if request.trials or request.tuning_seeds or request.space or request.write_recipe:
        raise UsageError(
            "--trials, --tuning-seeds, --space and --write-recipe are for --tune; a grid has its "
            "own points"
        )
    return _over_grid(request)


def _over_grid(request: SweepRequest) -> int:
    """Train every point of a grid, the recipe's own unless one is given, and say which is best.

    Returns:
        0, or 1 if any run failed, diverged or could not be read.

    Raises:
        UsageError: no grid, an unreadable one, one that changes no run, nothing to select by, or
            pictures without matplotlib.
    """
    if request.figures is not None:
        require_matplotlib()
    experiment = experiment_of(request)
    name_oversights(experiment, request)
    chosen = chosen_sweep(experiment, request.grid, request.select, request.only)
    by_point = [_plans_at(request, experiment, point) for point in points_of(chosen.grid)]
    folders = swept_folders(chosen.grid, by_point)
    swept = {key for own, _ in folders.values() for key in own}
    if (idle := [key for key in chosen.grid if key not in swept]) and not request.quiet:
        say(f"not swept, since no run of these methods depends on it: {', '.join(idle)}")
    plans = list({each.folder: each for point in by_point for each in point}.values())
    mine = sharded(plans, request.shard)
    if request.dry_run:
        from fsam_cli.commands._cost import dry_run_table

        settings = {
            folder: point
            for own, paths in folders.values()
            for point, at in zip(points_of(own), paths, strict=True)
            for folder in at
        }
        dry_run_table(mine, rerun=request.rerun, format=request.format, settings=settings)
        return 0
    code = run_plans(request, plans, mine)
    if len(mine) < len(plans):
        say(
            f"--shard {request.shard}: the table lacks what other shards train; copy all run "
            "folders into one, then give the command again without --shard"
        )
    by = selection_of(experiment.recipe, chosen.select)
    runs = load_runs(*(each.folder for each in plans))
    methods = {
        label: Swept(own, grid_frame(own, runs[runs["label"] == label], paths, by))
        for label, (own, paths) in folders.items()
    }
    references = {
        label: Swept({}, grid_frame({}, runs[runs["label"] == label], [paths], by))
        for label, paths in untouched(by_point, methods).items()
    }
    try:  # before `| head` has seen enough
        if request.figures is not None:
            told_apart = bool(request.grid)
            _draw(experiment.recipe.name, by, methods, request.figures, told_apart=told_apart)
    finally:
        result = Result(experiment.recipe.name, by, chosen.grid, methods, references)
        _show(result, request.format)
    return code


def swept_folders(
    grid: Grid, by_point: Sequence[Sequence[RunPlan]]
) -> dict[str, tuple[Grid, list[list[str]]]]:
    """For every method that the grid touches, its own grid and the run directories of each point.

    Its own grid lacks the settings of other methods, along which its runs do not change.

    Args:
        grid: the whole sweep's.
        by_point: the runs of each point of it.

    Raises:
        UsageError: it touches none.
    """
    labels = list(dict.fromkeys(each.label for point in by_point for each in point))
    found = {}
    for label in labels:
        mine = [each for point in by_point for each in point if each.label == label]
        # A method with a learning rate of its own does not depend on the protocol's.
        others = {"train.lr"} if any(map(_has_own_lr, mine)) else set()
        own: Grid = {
            key: grid[key]
            for key in grid
            if owner_of(key, labels) in (label, None) and key not in others
        }
        first = {key: grid[key][0] for key in grid if key not in own}
        folders = [
            [str(each.folder) for each in plans if each.label == label]
            for point, plans in zip(points_of(grid), by_point, strict=True)
            if all(point[key] == value for key, value in first.items())
        ]
        # A single point differs from nothing; its keys say whose it is.
        if own and (len(folders) == 1 or len(set(map(tuple, folders))) > 1):
            found[label] = own, folders
    if not found:
        raise UsageError(
            f"the grid changes nothing: no run of {', '.join(labels)} depends on "
            f"{', '.join(grid)}; sweep a setting of theirs, or name another method with --only"
        )
    return found


def untouched(by_point: Sequence[Sequence[RunPlan]], swept: Container[str]) -> dict[str, list[str]]:
    """The run directories of every method that the grid does not touch: the same at each point."""
    found: dict[str, list[str]] = {}
    for each in by_point[0]:
        if each.label not in swept:
            found.setdefault(each.label, []).append(str(each.folder))
    return found


def _has_own_lr(each: RunPlan) -> bool:
    return each.recipe.methods[each.label].lr is not None


def owner_of(key: str, labels: Sequence[str]) -> str | None:
    """The method whose setting a dotted key is; labels may hold dots, so the longest counts."""
    owners = [label for label in labels if f"{key}.".startswith(f"methods.{label}.")]
    if owners:
        return max(owners, key=len)
    return key if key.startswith("methods.") else None


def chosen_sweep(
    experiment: Experiment,
    grid: Sequence[str],
    select: Literal["validation", "test"] | None,
    only: Sequence[str],
) -> Sweep:
    """The grid of the command line, or the recipe's, by dotted keys.

    Raises:
        UsageError: neither is there, an entry is no `key=v1,v2`, a bare key is nobody's or that of
            several methods, or a key or value is repeated.
    """
    recipe = experiment.recipe
    if not grid and not (recipe.sweep and recipe.sweep.grid):
        raise UsageError(
            "nothing to sweep: give --grid key=v1,v2 (repeatable), a `sweep:` section with a grid "
            "in the recipe, or --tune"
        )
    values: dict[str, tuple[Any, ...]] = {}
    for given, several in map(_grid_entry, grid):
        key = _dotted(given, experiment, only)
        if key in values:
            raise UsageError(
                f"--grid {key} is given twice; write all its values once, --grid {key}=v1,v2,v3"
            )
        values[key] = several
    if not values and recipe.sweep is not None:
        values = {
            _dotted(key, experiment, only): recipe.sweep.grid[key] for key in recipe.sweep.grid
        }
    for key, several in values.items():
        if key in _BESIDE:
            raise UsageError(
                f"the grid of {key}: its values are not compared with each other; set it outside "
                f"the grid, {_BESIDE[key]}"
            )
        _check_values(key, several)
    chosen = select or (recipe.sweep.select if recipe.sweep else "validation")
    if chosen == "validation" and recipe.data.validation == 0:
        raise UsageError(
            "selecting on validation needs a validation part: data.validation=0.1, "
            "or --select test, which selects on the test set and says so"
        )
    return Sweep(grid=values, select=chosen)


def _dotted(key: str, experiment: Experiment, only: Sequence[str]) -> str:
    """`gamma` is `methods.fsam.gamma` where that is the only method with such a setting.

    Raises:
        UsageError: a bare key that is neither the recipe's nor one method's.
    """
    if "." in key or key in Recipe.model_fields:
        return key
    there = experiment.methods
    asked = there.keys() & set(only)  # what is not there is refused when the runs are planned
    methods = {label: there[label] for label in there if not asked or label in asked}
    having = [
        f"methods.{label}.{key}"
        for label, method in methods.items()
        if key in type(method).model_fields
    ]
    if len(having) > 1:
        raise UsageError(
            f"the grid of {key}: several methods have it; name one, {' or '.join(having)}, or "
            "choose a method with --only"
        )
    if not having:
        known = {name for method in methods.values() for name in type(method).model_fields}
        raise UsageError(
            f"the grid of {key}: no method has it, and it is not a key of the recipe; "
            f"{did_you_mean(key, known)}"
        )
    return having[0]


def selection_of(recipe: Recipe, select: Literal["validation", "test"]) -> Selection:
    """What points are compared by, at the epoch that the recipe takes as its result."""
    return Selection(select, "selected" if recipe.train.select == "validation" else "last")


def _grid_entry(entry: str) -> tuple[str, tuple[Any, ...]]:
    key, equals, text = entry.partition("=")
    try:
        values = yaml12.parse(f"[{text}]")
    except ValueError as error:
        raise UsageError(f"--grid {entry}: {error}") from None
    if not equals or not key or not values:
        raise UsageError(f"--grid {entry}: write key=v1,v2, e.g. methods.fsam.gamma=0.05,0.1")
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
    request: SweepRequest, experiment: Experiment, point: dict[str, Any]
) -> list[RunPlan]:
    overrides = [f"{key}={json.dumps(value)}" for key, value in point.items()]
    return plans_of(request, experiment_of(request, overrides, known=experiment.plugins))


def _show(result: Result, format: str) -> None:
    """One document or one table for programs; for people a table for each method."""
    by, references = result.by, result.references
    if format == "json":
        print_json(document(result))
    elif format == "csv":
        print_rows(long_rows(result), format=format)
    for label, swept in result.methods.items():
        last = verdict(swept, by)
        if format in ("csv", "json"):
            say(f"{label}: {last}")
            continue
        title = f"{label}: accuracy at the {by.epoch} epoch, points compared on {by.part}"
        beside = [row for other in references for row in _rows(references[other], other, by)]
        rows = _rows(swept, label, by)
        rows += [{**dict.fromkeys(rows[0]), **row} for row in beside]
        print_rows(rows, format=format, title=title)
        if references:
            last += f"\n  for comparison, changed by no key of the grid: {', '.join(references)}"
        # A line without pipes right below a table would be a row of it; bullets keep their lines.
        out(re.sub(r"^ *", "- ", last, flags=re.MULTILINE) + "\n" if format == "markdown" else last)


def _rows(swept: Swept, label: str, by: Selection) -> list[dict[str, Any]]:
    return [
        {
            "method": label,
            **{key: entry[key] for key in swept.grid},
            f"{by.part}, {by.epoch} %": percent(entry["mean"], entry["std"]),
            f"test, {by.epoch} %": percent(entry["test_mean"], entry["test_std"]),
            "n": entry["n"],
            "status": entry["status"],
        }
        for entry in as_rows(swept.frame)
    ]


def verdict(swept: Swept, by: Selection) -> str:
    """The best point, how much worse its neighbours are, and whether it lies on an edge."""
    best = best_of(swept.grid, swept.frame)
    if best is None:
        return "no point of the grid is complete: there is no best one"
    score = f"{100 * best.mean:.2f} % at the {by.epoch} epoch"
    complete, points = int(swept.frame["mean"].notna().sum()), len(swept.frame)
    of_these = ""
    if complete < points:  # a shard, an interrupted sweep, or runs that diverged
        verb = "is" if complete == 1 else "are"
        of_these = f" of the {complete} of {points} points that {verb} complete"
    lines = [f"best by {by.part}{of_these}: {_point(best.point)} with {score}"]
    lines += [f"  neighbour {_point(near.point)}: {_noise(near)}" for near in best.neighbours]
    if any(near.low is not None for near in best.neighbours):
        lines.append(
            "  note: the intervals are not corrected for choosing the best point from the same "
            "numbers; one that excludes 0 is not evidence by itself"
        )
    if best.on_edge:
        lines.append(
            f"  warning: the best{' of these' if of_these else ''} lies on the edge of the grid in "
            f"{', '.join(best.on_edge)}; a wider grid may hold a better one"
        )
    yardsticks = [
        key
        for key in swept.grid
        if key.partition(".")[0] == "data" and not key.startswith("data.augment")
    ]
    if yardsticks:
        lines.append(
            f"  note: {', '.join(yardsticks)} changes what accuracy is measured on; only points of "
            "one value compare"
        )
    if by.part == "test":
        lines.append("  note: selected on the test set, so its accuracy is flattered")
    return "\n".join(lines)


def _noise(near: Neighbour) -> str:
    shown = f"{100 * near.difference:+.2f}"
    if near.low is None or near.high is None:
        return f"{shown} ({near.status})"
    return f"{shown} (95 % interval {interval_in_points(near.low, near.high)})"


def _draw(
    recipe: str, by: Selection, methods: Mapping[str, Swept], folder: Path, *, told_apart: bool
) -> None:
    """A heat map for each method; `told_apart`: by the grid in its name."""
    for label, swept in methods.items():
        if len(swept.grid) > 2:
            say(f"{label}: a heat map has two settings; none is drawn for more")
            continue
        figure = heat_map(swept.grid, swept.frame, title=f"{recipe}: {label}", by=by)
        name = picture_name(recipe, label, swept.grid if told_apart else None)
        say_written(save(figure, folder, name))


def _point(point: dict[str, Any]) -> str:
    return ", ".join(f"{key}={value}" for key, value in point.items())
