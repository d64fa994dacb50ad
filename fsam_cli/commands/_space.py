"""What `fsam sweep --tune` searches: the space that each method declares, and the user's ranges.

A range of the user's replaces the declared one of the same setting, or is one more dimension. It is
never left; a declared one is extended where the best lies near its edge.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fsam_cli.commands.sweep import owner_of
from fsam_cli.errors import UsageError, did_you_mean
from fsam_cli.measure.search import Point, point_at
from fsam_cli.minimisers._contract import LogRange
from fsam_cli.recipe.load import Experiment

PROTOCOL = "train."  # begins the keys that are every method's; others are a method's own
Ends = tuple[float, float]


@dataclass(frozen=True)
class Space:
    """The ranges of one method."""

    ranges: Mapping[str, LogRange]  # by setting: `rho`, or `train.lr`
    kept: frozenset[str] = frozenset()  # the user's

    @property
    def probes(self) -> list[Point]:
        """Both corners and the middle: what the recipe refuses there need not wait for a trial."""
        if not self.kept:
            return []
        return [point_at(self.ranges, [share] * len(self.ranges)) for share in (0.0, 0.5, 1.0)]


def spaces_of(
    experiment: Experiment, given: Sequence[str], labels: Sequence[str]
) -> dict[str, Space]:
    """The space of each method, by label.

    Args:
        experiment: whose recipe may have ranges in `sweep.space`.
        given: `key=low:high` of the command line; one replaces the recipe's of the same key. A key
            is `train.lr` (for every method), `methods.sam.rho`, `methods.sam.lr`, or `rho` (for
            each that has it).
        labels: of the methods that are tuned.

    Raises:
        UsageError: an entry is no such range, or its key is nobody's, given twice, or of none of
            the methods that are tuned.
    """
    recipe = experiment.recipe
    ranges = {} if recipe.sweep is None else dict(recipe.sweep.space)
    asked = _asked(given)
    own: dict[str, dict[str, LogRange]] = {label: {} for label in labels}
    for key, (low, high) in (*_of_all_first(ranges), *_of_all_first(asked)):
        found = [pair for pair in _settings(key, experiment) if pair[0] in own]
        if key in asked and not found:  # a recipe's space is for all its methods
            raise UsageError(
                f"the space of {key} changes nothing: no run of {', '.join(labels)} depends on "
                "it; search a setting of theirs, or name another method with --only"
            )
        for label, setting in found:
            own[label][setting] = LogRange(low, high)
    return {
        label: Space({**experiment.methods[label].search, **mine}, frozenset(mine))
        for label, mine in own.items()
    }


def _of_all_first(ranges: Mapping[str, Ends]) -> list[tuple[str, Ends]]:
    """What is said of one method stands whatever is said of all."""
    return sorted(ranges.items(), key=lambda entry: entry[0].startswith("methods."))


def _asked(given: Sequence[str]) -> dict[str, Ends]:
    ranges: dict[str, Ends] = {}
    for key, ends in map(_entry, given):
        if key in ranges:
            raise UsageError(
                f"--space {key} is given twice; write one range, --space {key}=LOW:HIGH"
            )
        ranges[key] = ends
    return ranges


def _entry(text: str) -> tuple[str, Ends]:
    key, _, values = text.partition("=")
    try:
        low, high = map(float, values.split(":"))
    except ValueError:
        low = high = math.nan
    if not (key and 0 < low < high < math.inf):
        raise UsageError(
            f"--space {text}: write KEY=LOW:HIGH, 0 < LOW < HIGH, e.g. train.lr=0.02:0.5"
        )
    return key, (low, high)


def _settings(key: str, experiment: Experiment) -> list[tuple[str, str]]:
    """(label, setting) of all methods that a key is of."""
    methods = experiment.methods
    if key.startswith(PROTOCOL):
        return [(label, key) for label in methods]
    if key.startswith("methods."):
        label = owner_of(key, list(methods))
        if label not in methods:
            raise UsageError(f"the space of {key}: no such method; there are {', '.join(methods)}")
        candidates, name = [label], key.removeprefix(f"methods.{label}.")
    else:
        candidates, name = list(methods), key
    if name == "lr" and key.startswith("methods."):
        return [(candidates[0], f"{PROTOCOL}lr")]  # the method's own, as a recipe has it
    found = [(label, name) for label in candidates if name in type(methods[label]).model_fields]
    if not found:
        fields = {field for label in candidates for field in type(methods[label]).model_fields}
        known = [*fields, "train.lr"]
        raise UsageError(f"the space of {key}: no method has it; {did_you_mean(name, known)}")
    return found
