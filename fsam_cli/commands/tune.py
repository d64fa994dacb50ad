"""`fsam sweep --tune`: every method gets the same number of trials, then fresh seeds.

Trials are compared by validation accuracy only. The winner of each method is trained again on
seeds that no trial has seen, and only there is the test set looked at.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import count
from pathlib import Path
from typing import Any

import filelock
import pandas as pd

from fsam_cli.commands._cost import Estimate, estimates_table
from fsam_cli.commands._print import out, print_json, print_rows, say
from fsam_cli.commands._space import PROTOCOL, Space, spaces_of
from fsam_cli.commands._winners import refuse_beforehand, write_recipe
from fsam_cli.commands.report import print_table
from fsam_cli.commands.sweep import selection_of
from fsam_cli.commands.train import experiment_of, name_oversights, plans_of, run_plans, wanted
from fsam_cli.errors import UsageError, counted
from fsam_cli.measure.search import Point, around, best_of, extended, first_round, spread
from fsam_cli.options import SweepRequest
from fsam_cli.plugins import PluginFile
from fsam_cli.recipe.load import Experiment
from fsam_cli.recipe.plan import RunPlan, identity_hash
from fsam_cli.records.frame import as_rows, load_planned, load_runs
from fsam_cli.records.plain import document_text
from fsam_cli.records.store import cannot_write, write_atomically
from fsam_cli.records.summary import one_row
from fsam_cli.reports import render
from fsam_cli.reports.sweep import Selection
from fsam_cli.reports.table import Table, build_table

TUNING_SCHEMA = "fsam-tuning/1"
TRIALS = 12  # of each method
LR = f"{PROTOCOL}lr"  # of the protocol, and the only such key that a method may have for itself
TUNED = "tuned"  # names the table of the winners


@dataclass(frozen=True)
class Tuning:
    """What all methods have in common."""

    request: SweepRequest
    plugins: tuple[PluginFile, ...]  # as read at the start: later trials use the same code
    labels: tuple[str, ...]  # of all methods that are tuned
    shared: tuple[str, ...]  # keys of the protocol that are searched for some method
    seeds: tuple[int, ...]  # of trials
    by: Selection

    def experiment(self, points: Mapping[str, Point], seeds: Sequence[int]) -> Experiment:
        """The recipe with the settings of a point for each label.

        Raises:
            UsageError: settings that the recipe refuses.
        """
        overrides = [
            f"{key_of(label, setting)}={value!r}"
            for label, point in points.items()
            for setting, value in point.items()
        ]
        return experiment_of(self.request, [*overrides, f"seeds={list(seeds)}"], known=self.plugins)

    def plans(
        self, label: str, point: Point, seeds: tuple[int, ...], *, trial: bool
    ) -> list[RunPlan]:
        """The runs of a method with the settings of a point.

        Raises:
            UsageError: settings that the recipe refuses.
        """
        experiment = self.experiment({label: point}, seeds)
        plans = plans_of(self.request, experiment, only=[label], trial=trial)
        return [
            replace(
                each,
                planned_labels=self.labels,
                tuned=tuple(sorted({*each.tuned, *self.shared})),
            )
            for each in plans
        ]


@dataclass
class Search:
    """One method's trials so far."""

    label: str
    space: Space
    points: list[Point] = field(default_factory=list)
    plans: list[list[RunPlan]] = field(default_factory=list)  # by point
    scores: list[float | None] = field(default_factory=list)  # None: not all runs are done
    reached: list[str] = field(default_factory=list)  # where the space was extended

    @property
    def best(self) -> Point | None:
        return best_of(self.points, self.scores)

    @property
    def known(self) -> list[float]:
        """The scores of those trials that have one."""
        return [score for score in self.scores if score is not None]

    @property
    def standard_error(self) -> float | None:
        """Of the winner's score: binomial, over its validation images of all tuning seeds."""
        if self.best is None:
            return None
        share, winner = max(self.known), self.plans[self.points.index(self.best)]
        images = sum(each.validation_images for each in winner)
        return math.sqrt(share * (1 - share) / images)

    @property
    def close(self) -> int:
        """Trials whose score is within this of the winner's, the winner among them."""
        if self.standard_error is None:
            return 0
        return sum(score >= max(self.known) - self.standard_error for score in self.known)

    @property
    def spent(self) -> int:
        """Sample-gradients of all trials."""
        return sum(each.sample_gradients for plans in self.plans for each in plans)


def tune(request: SweepRequest) -> int:
    """Search, select, train the winners on fresh seeds, and print both tables.

    Returns:
        0, or 1 if a method has no winner, or a run of a winner failed or diverged.

    Raises:
        UsageError: no validation part, an unknown method, too few seeds, or no such space.
    """
    trials, tuning_seeds = request.trials or TRIALS, request.tuning_seeds or 1
    experiment = experiment_of(request)
    name_oversights(experiment, request)
    recipe = experiment.recipe
    untuned = _planned(request, experiment, tuning_seeds)
    seeds = recipe.seeds[:tuning_seeds]
    labels = tuple(dict.fromkeys(request.only or recipe.methods))
    spaces = spaces_of(experiment, request.space, labels)
    every = {key for each in spaces.values() for key in each.ranges}
    shared = tuple(sorted(filter(_of_the_protocol, every)))
    if request.write_recipe is not None:
        refuse_beforehand(request.write_recipe, shared)
    by = selection_of(recipe, "validation")
    tuning = Tuning(request, experiment.plugins, labels, shared, seeds, by)
    searches = [Search(label, spaces[label]) for label in labels]
    for search in searches:
        for point in search.space.probes:
            tuning.plans(search.label, point, seeds, trial=True)
    fresh = tuple(max(recipe.seeds) + 1 + position for position in range(len(recipe.seeds)))
    if request.dry_run:
        _show(tuning, searches, trials, fresh)
        return 0
    for size, later in ((first_round(trials), False), (trials - first_round(trials), True)):
        if size > 0:
            _round(tuning, searches, size, later=later)
    _name_unequal_compute(searches)
    _name_luck(searches)
    finals = [
        tuning.plans(search.label, search.best, fresh, trial=False)
        for search in searches
        if search.best is not None
    ]
    plans = [each for group in zip(*finals, strict=True) for each in group] if finals else []
    code = run_plans(request, plans, plans)
    for search in searches:
        _name_results_that_chose(search)
    without = [search.label for search in searches if search.best is None]
    if without:
        say(f"no winner for {', '.join(without)}: no trial has all its runs done (see above)")
        code = 1
    record = {**_record(searches, seeds, fresh), "protocol": protocol_hash(untuned[0])}
    write_record(request.out / recipe.name / "tuning.json", record)
    how = f"selected by validation accuracy at the {by.epoch} epoch"
    if request.write_recipe is not None and finals:
        winners = {search.label: search.best for search in searches if search.best is not None}
        write_recipe(
            request.write_recipe,
            tuning.experiment(winners, fresh),
            request,
            labels=list(winners),
            without=without,
            asked=_asked(trials, seeds),
            chosen_by=how,
        )
    runs = load_planned(wanted(plans))
    if request.format == "json":
        print_json({**record, "report": _report(runs)})
    elif request.format == "csv":
        print_rows(_long_rows(searches, runs), format="csv")
    else:
        title = f"{_asked(trials, seeds)}, {how}"
        rows = _rows(searches)
        shown = rows if request.format != "table" else [_for_a_terminal(row) for row in rows]
        print_rows(shown, format=request.format, title=title)
        out(f"\nThe winners, trained again on the fresh seeds {_list(fresh)}:\n")
        if plans:
            print_table(_table(runs), format=request.format)
    return code


def _planned(request: SweepRequest, experiment: Experiment, tuning_seeds: int) -> list[RunPlan]:
    """The recipe's own runs, once it is known that they can be tuned.

    Raises:
        UsageError: what `tune` raises.
    """
    recipe = experiment.recipe
    if recipe.data.validation == 0:
        raise UsageError("--tune selects on validation: set data.validation, 0.1 for instance")
    if request.shard != "1/1":
        raise UsageError("--tune looks at its trials in between, so it cannot be sharded; use -j")
    if tuning_seeds > len(recipe.seeds):
        raise UsageError(
            f"--tuning-seeds {tuning_seeds}: trials run on the first seeds of the recipe, which "
            f"has {counted(len(recipe.seeds), 'seed')} ({_list(recipe.seeds)}); give it more, "
            f"seeds=0:{tuning_seeds}, or ask for fewer (the winners run on fresh seeds, counted on "
            "from its highest)"
        )
    return plans_of(request, experiment)  # names an unknown --only as `fsam train` does


def _round(tuning: Tuning, searches: Sequence[Search], count: int, *, later: bool) -> None:
    """All methods' trials of one round, launched together so that -j has work."""
    _draw(tuning, searches, count, later=later)
    todo = [each for s in searches for plans in s.plans for each in plans]
    todo = list({each.folder: each for each in todo}.values())
    say(f"round {2 if later else 1}: {counted(len(todo), 'run')} in all")
    run_plans(tuning.request, todo, todo)
    for search in searches:
        search.scores = [_score(plans, tuning.by.metric) for plans in search.plans]


def _draw(tuning: Tuning, searches: Sequence[Search], count: int, *, later: bool) -> None:
    """The trials of one round, planned."""
    for search in searches:
        space = search.space.ranges
        if later:
            if search.best is None or not space:
                continue
            box = around(space, search.best, within=search.space.kept)
            search.reached = extended(space, box)
            space = box
        new = spread(space, count, tuning.seeds[0], later=later)
        search.points += new
        search.plans += [
            tuning.plans(search.label, point, tuning.seeds, trial=True) for point in new
        ]


def _show(tuning: Tuning, searches: Sequence[Search], trials: int, fresh: tuple[int, ...]) -> None:
    """The dry run: the second round and the winners are not known yet, but what they cost is, as
    the settings that are searched change no run's length."""
    first = first_round(trials)
    _draw(tuning, searches, first, later=False)
    estimates = []
    for search in searches:
        own = len(search.points) + (trials - first if search.space.ranges else 0)
        space = (f"{key}={low:g}:{high:g}" for key, (low, high) in search.space.ranges.items())
        row = {"method": search.label, "space": ", ".join(space), "trials": own}
        plans = [each for point in search.plans for each in point]
        estimates.append(Estimate(row, plans, own * len(tuning.seeds) + len(fresh)))
    then = f"then the winner of each on the fresh seeds {_list(fresh)}"
    title = f"{_asked(trials, tuning.seeds)}, {then}"
    request = tuning.request
    estimates_table(estimates, rerun=request.rerun, format=request.format, title=title)


def _name_unequal_compute(searches: Sequence[Search]) -> None:
    if len({search.spent for search in searches}) > 1:
        told = ", ".join(f"{search.label} {search.spent:,}" for search in searches)
        say(
            f"every method has the same number of trials, but not the same compute: {told} sample-"
            "gradients; epochs_factor, or train.gradient_evaluations, makes them equal"
        )


def _name_luck(searches: Sequence[Search]) -> None:
    """Say how many trials the winners' scores do not stand out from."""
    lucky = [search for search in searches if search.close > 1]
    if not lucky:
        return
    largest = max(search.standard_error or 0.0 for search in lucky)
    told = ", ".join(f"{search.label} {search.close} of {len(search.points)}" for search in lucky)
    say(
        f"chance has a say in what was selected: a score has a standard error of about "
        f"{100 * largest:.1f} points (binomial, of its validation images), and within one of the "
        f"winner's are {told}; --tuning-seeds and a larger data.validation narrow it"
    )


def _name_results_that_chose(search: Search) -> None:
    """Warn where seeds of a winner's trials are results already, and now chose its settings too."""
    if search.best is None:
        return
    runs = load_runs(*(each.folder for each in search.plans[search.points.index(search.best)]))
    seeds = [int(seed) for seed in runs["seed"][~runs["trial"].astype(bool)]]
    if seeds:
        say(
            f"{search.label}: an earlier command trained the winner's seeds {_list(seeds)} as "
            "results, and now they have chosen settings. This command's table leaves them out, "
            "`fsam report` does not: give --out another folder, or higher seeds"
        )


def _score(plans: Sequence[RunPlan], column: str) -> float | None:
    """Mean validation accuracy over the tuning seeds; a point with a bad run has none."""
    runs = load_runs(*(each.folder for each in plans))
    if (runs["status"] != "done").any() or runs[column].isna().any():
        return None
    return float(runs[column].astype(float).mean())


def key_of(label: str, setting: str) -> str:
    """The recipe's key of a method's setting, or of one of the protocol that is searched for it."""
    if setting == LR:  # the method's own stands over the protocol's
        return f"methods.{label}.lr"
    return setting if _of_the_protocol(setting) else f"methods.{label}.{setting}"


def _of_the_protocol(key: str) -> bool:
    return key.startswith(PROTOCOL)


def _rows(searches: Sequence[Search]) -> list[dict[str, Any]]:
    return [
        {
            "method": search.label,
            "trials": len(search.points),
            "bad trials": sum(score is None for score in search.scores),
            "selected": ", ".join(f"{k}={v:g}" for k, v in (search.best or {}).items()) or "-",
            "validation %": None if search.best is None else round(100 * max(search.known), 2),
            "close": search.close,
            "extended": ", ".join(search.reached),
            "sample-gradients": search.spent,
        }
        for search in searches
    ]


def _for_a_terminal(row: Mapping[str, Any]) -> dict[str, Any]:
    """The same in fewer columns."""
    bad = row["bad trials"]
    return {
        "method": row["method"],
        "trials": f"{row['trials']} ({bad} bad)" if bad else row["trials"],
        **{key: row[key] for key in ("selected", "validation %", "close", "extended")},
        "gradients": row["sample-gradients"],
    }


def _long_rows(searches: Sequence[Search], runs: pd.DataFrame) -> list[dict[str, Any]]:
    """One table of trials and winners: what was searched, and a line for each number of the winner.

    A method without a winner has one line, without such a number.
    """
    numbers = [] if runs.empty else as_rows(render.long_frame(_table(runs)))
    # One configuration per method, whose settings are "selected".
    columns = [key for key in (numbers[0] if numbers else ()) if key not in ("label", "settings")]
    rows = []
    for search, row in zip(searches, _rows(searches), strict=True):
        own: list[dict[str, Any]] = [line for line in numbers if line["label"] == search.label]
        lines = own or [dict.fromkeys(columns)]
        rows += [{**row, **{name: line[name] for name in columns}} for line in lines]
    return rows


def _report(runs: pd.DataFrame) -> Any:
    """The report of the winners' runs as data; None without a winner."""
    return None if runs.empty else json.loads(render.json_text(_table(runs)))


def _table(runs: pd.DataFrame) -> Table:
    return build_table(runs, rows=[one_row(runs, TUNED)])


def _record(
    searches: Sequence[Search], seeds: tuple[int, ...], fresh: tuple[int, ...]
) -> dict[str, Any]:
    """Every trial with its score."""
    on = {"tuning_seeds": list(seeds), "final_seeds": list(fresh)}
    return {
        "schema": TUNING_SCHEMA,
        **on,
        "methods": [
            {
                **row,
                **on,  # methods of another command keep theirs
                "standard_error": search.standard_error,
                "space": search.space.ranges,
                "points": search.points,
                "scores": search.scores,
                "cells": [plans[0].cell for plans in search.plans],
            }
            for row, search in zip(_rows(searches), searches, strict=True)
        ],
    }


def protocol_hash(untuned: RunPlan) -> str:
    """Hash of all that the methods of one tuning record have in common.

    Args:
        untuned: a run as the recipe plans it, of any method; a trial has its own values.
    """
    shared = {key: value for key, value in untuned.config.items() if key != "method"}
    # Epochs and learning rate may be each method's own; what the recipe gives them is everybody's.
    own = {"epochs", "gradient_evaluations", "lr"}
    budget = untuned.recipe.train.model_dump(include=own)
    return identity_hash({**shared, "train": {**untuned.config["train"], **budget}})


def write_record(path: Path, record: dict[str, Any]) -> None:
    """Write tuning.json; methods that only an earlier command tuned stay in it, if they were tuned
    under the same protocol.

    Raises:
        RecordError: the file cannot be written, or not be set aside where it is damaged.
    """
    own = {entry["method"]: entry for entry in record["methods"]}
    with filelock.FileLock(path.with_name(".tuning.lock")):  # two commands may end at once
        methods = {**_earlier(path, record["protocol"]), **own}
        text = document_text({**record, "methods": list(methods.values())})
        write_atomically(path, text.encode())
    say(f"wrote {path}")


def _earlier(path: Path, protocol: str) -> dict[str, dict[str, Any]]:
    """The methods on record; no such record, or one of another protocol, is set aside."""
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
        if record["schema"] != TUNING_SCHEMA:
            raise ValueError(f"its schema is {record['schema']!r}, not '{TUNING_SCHEMA}'")
        if record["protocol"] != protocol:
            raise ValueError(
                "it was tuned under another protocol: data, model, training or arithmetic differ"
            )
        return {entry["method"]: entry for entry in record["methods"]}
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, KeyError, RecursionError) as error:
        reason = f"no key {error}" if isinstance(error, KeyError) else str(error)
    numbers = (path.with_name(f"tuning-set-aside-{number}.json") for number in count(1))
    aside = next(free for free in numbers if not free.exists())
    try:
        path.rename(aside)
    except OSError as error:
        raise cannot_write(aside, error) from error
    say(f"{path} is not a tuning record that can be continued ({reason}); it is kept as {aside}")
    return {}


def _asked(trials: int, seeds: Sequence[int]) -> str:
    return f"{counted(trials, 'trial')} a method on seeds {_list(seeds)}"


def _list(seeds: Sequence[int]) -> str:
    return ", ".join(map(str, seeds))
