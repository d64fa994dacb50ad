"""The parts of `fsam sweep --tune`; tests/commands/test_sweep.py tunes."""

from __future__ import annotations

import json
from threading import Thread
from types import SimpleNamespace

import filelock
import pytest

from fsam_cli.commands import tune
from fsam_cli.commands._space import Space
from fsam_cli.minimisers.sam import Sam


def test_a_method_has_the_same_trials_whatever_it_is_compared_with():
    tuning = SimpleNamespace(plans=lambda *_, **__: [], seeds=(7, 8))
    found = []
    for labels in (["sam", "other"], ["other", "sam"], ["sam"]):
        searches = {label: tune.Search(label, Space(Sam.search)) for label in labels}
        tune._draw(tuning, list(searches.values()), 2, later=False)
        for search in searches.values():
            search.scores = [0.5, 0.4]
        tune._draw(tuning, list(searches.values()), 1, later=True)
        found.append(searches["sam"].points)
    assert found[0] == found[1] == found[2]
    first, second, around_first = (point["rho"] for point in found[0])
    assert len({first, second, around_first}) == 3
    tuning.seeds = (8,)
    search = tune.Search("sam", Space(Sam.search))
    tune._draw(tuning, [search], 2, later=False)
    assert search.points != found[0][:2]


def test_two_commands_that_end_at_once_write_one_after_the_other(tmp_path):
    record = tmp_path / "tuning.json"
    of_sgd, of_sam = ({"method": name} for name in ("sgd", "sam"))
    whole = {"schema": tune.TUNING_SCHEMA, "protocol": "p"}
    with filelock.FileLock(tmp_path / ".tuning.lock"):
        other = Thread(target=tune.write_record, args=(record, {**whole, "methods": [of_sam]}))
        other.start()
        other.join(timeout=0.5)
        assert not record.exists()
        record.write_text(json.dumps({**whole, "methods": [of_sgd]}))
    other.join(timeout=30)
    assert json.loads(record.read_text())["methods"] == [of_sgd, of_sam]


@pytest.mark.parametrize(
    ("spent", "told"), [([10, 10], False), ([10, 20], True), ([10, 20, 20], True)]
)
def test_methods_that_cost_unlike_are_named(capsys, spent, told):
    tune._name_unequal_compute([SimpleNamespace(label="m", spent=each) for each in spent])
    assert ("but not the same compute: m 10" in capsys.readouterr().err) == told
