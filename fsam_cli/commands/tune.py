"""`fsam sweep --tune`: every method gets the same number of trials, then fresh seeds.

Trials are compared by validation accuracy only. The winner of each method is trained again on
seeds that no trial has seen, and only there is the test set looked at.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from fsam_cli.commands._print import out, print_rows, say
from fsam_cli.commands.report import print_side_by_side
from fsam_cli.commands.sweep import selecting_column
from fsam_cli.commands.train import TrainRequest, carry_out, name_unused_plugins
from fsam_cli.errors import UsageError
from fsam_cli.measure.search import Point, around, best_of, extended, first_round, spread
from fsam_cli.minimisers._contract import Minimiser
from fsam_cli.plugins import PluginFile
from fsam_cli.recipe.load import Experiment, load_experiment
from fsam_cli.recipe.plan import RunPlan, plan
from fsam_cli.records.frame import load_runs
from fsam_cli.records.store import write_atomically


@dataclass
class Search:
    """One method's trials so far."""

    label: str
    method: Minimiser
    plugins: tuple[PluginFile, ...]  # as read at the start: later trials use the same code
    points: list[Point] = field(default_factory=list)
    plans: list[list[RunPlan]] = field(default_factory=list)  # by point
    scores: list[float | None] = field(default_factory=list)  # None: diverged or failed
    reached: list[str] = field(default_factory=list)  # where the space was extended

    @property
    def best(self) -> Point | None:
        return best_of(self.points, self.scores)

    @property
    def spent(self) -> int:
        """Sample-gradients of all trials."""
        return sum(each.sample_gradients for plans in self.plans for each in plans)


def tune(request: TrainRequest, *, trials: int, tuning_seeds: int) -> int:
    """Search, select, train the winners on fresh seeds, and print both tables.

    Args:
        request: as for `fsam train`.
        trials: settings tried per method.
        tuning_seeds: seeds per trial, the first of the recipe's.

    Returns:
        0, or 1 if a run of a winner failed or diverged.

    Raises:
        UsageError: no validation part, or too few trials.
    """
    experiment = load_experiment(request.recipe, request.overrides, request.plugins)
    name_unused_plugins(experiment, quiet=request.quiet)
    recipe = experiment.recipe
    if recipe.data.validation == 0:
        raise UsageError("--tune selects on validation: set data.validation, 0.1 for instance")
    if request.shard != "1/1":
        raise UsageError("--tune looks at its trials in between, so it cannot be sharded; use -j")
    seeds = recipe.seeds[:tuning_seeds]
    column = selecting_column(recipe, "validation")
    searches = [
        Search(label, experiment.methods[label], experiment.plugins)
        for label in (request.only or tuple(recipe.methods))
    ]
    for count, later in ((first_round(trials), False), (trials - first_round(trials), True)):
        if count > 0:
            _round(request, searches, count, seeds, column, later=later)
    fresh = tuple(max(recipe.seeds) + 1 + position for position in range(len(recipe.seeds)))
    finals = [_plans(request, s, s.best, fresh) for s in searches if s.best is not None]
    plans = [each for group in zip(*finals, strict=True) for each in group] if finals else []
    code = carry_out(request, plans, plans)
    _write(request, experiment, searches, seeds, fresh)
    _print(searches, trials, seeds, fresh, request.format)
    if plans:
        folders = [each.folder for each in plans]
        print_side_by_side(folders, name="tuned", format=request.format)
    return code


def _round(
    request: TrainRequest,
    searches: Sequence[Search],
    count: int,
    seeds: tuple[int, ...],
    column: str,
    *,
    later: bool,
) -> None:
    """All methods' trials of one round, launched together so that -j has work."""
    for number, search in enumerate(searches):
        space = search.method.search
        if later:
            if search.best is None or not space:
                continue
            box = around(space, search.best)
            search.reached = extended(space, box)
            space = box
        new = spread(space, count, seed=2 * number + later)
        search.points += new
        search.plans += [_plans(request, search, point, seeds) for point in new]
    todo = [each for s in searches for plans in s.plans for each in plans]
    todo = list({each.folder: each for each in todo}.values())
    say(f"round {2 if later else 1}: {len(todo)} runs in all")
    carry_out(request, todo, todo)
    for search in searches:
        search.scores = [_score(plans, column) for plans in search.plans]


def _score(plans: Sequence[RunPlan], column: str) -> float | None:
    """Mean validation accuracy over the tuning seeds; a point with a bad run has none."""
    runs = load_runs(*(each.folder for each in plans))
    if (runs["status"] != "done").any() or runs[column].isna().any():
        return None
    return float(runs[column].astype(float).mean())


def _plans(
    request: TrainRequest, search: Search, point: Point, seeds: tuple[int, ...]
) -> list[RunPlan]:
    overrides = [
        f"{key if key.startswith('train.') else f'methods.{search.label}.{key}'}={value!r}"
        for key, value in point.items()
    ]
    overrides.append(f"seeds={list(seeds)}")
    return plan(
        load_experiment(
            request.recipe,
            [*request.overrides, *overrides],
            request.plugins,
            known=search.plugins,
        ),
        out=request.out,
        device=request.device,
        data_dir=request.data_dir,
        only=(search.label,),
    )


def _rows(searches: Sequence[Search]) -> list[dict[str, Any]]:
    return [
        {
            "method": search.label,
            "trials": len(search.points),
            "bad trials": sum(score is None for score in search.scores),
            "selected": ", ".join(f"{k}={v:g}" for k, v in (search.best or {}).items()) or "-",
            "validation %": None
            if search.best is None
            else round(100 * max(score for score in search.scores if score is not None), 2),
            "extended": ", ".join(search.reached) or "",
            "sample-gradients": search.spent,
        }
        for search in searches
    ]


def _print(
    searches: Sequence[Search],
    trials: int,
    seeds: tuple[int, ...],
    fresh: tuple[int, ...],
    format: str,
) -> None:
    title = f"{trials} trials a method on seeds {_list(seeds)}, selected by validation accuracy"
    print_rows(_rows(searches), format=format, title=title)
    if format in ("table", "markdown"):
        out(f"\nThe winners, trained again on the fresh seeds {_list(fresh)}:\n")


def _write(
    request: TrainRequest,
    experiment: Experiment,
    searches: Sequence[Search],
    seeds: tuple[int, ...],
    fresh: tuple[int, ...],
) -> None:
    """tuning.json beside the recipe's runs: every trial with its score."""
    content = {
        "schema": "fsam-tuning/1",
        "tuning_seeds": list(seeds),
        "final_seeds": list(fresh),
        "methods": [
            {
                **row,
                "points": search.points,
                "scores": search.scores,
                "cells": [plans[0].cell for plans in search.plans],
            }
            for row, search in zip(_rows(searches), searches, strict=True)
        ],
    }
    path = request.out / experiment.recipe.name / "tuning.json"
    write_atomically(path, json.dumps(content, indent=1).encode())
    say(f"wrote {path}")


def _list(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
