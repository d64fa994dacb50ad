"""Trained runs for the commands that measure them; other modules bring their own. And what stands
for training where only its accuracies matter."""

from __future__ import annotations

import json

import pytest

from tests.support.recorded import record_run
from tests.support.trained import runs, trained  # noqa: F401 (fixtures)


@pytest.fixture
def instead_of_training(monkeypatch):
    """Called with what gives a run's accuracies by `(epoch, part)`; they are put on record."""

    def use(accuracies_of):
        def run_plans(request, plans, mine):
            for each in plans:
                if not each.folder.exists():
                    _record(request.out, each, accuracies_of(each))
            return 0

        for command in ("sweep", "tune"):
            monkeypatch.setattr(f"fsam_cli.commands.{command}.run_plans", run_plans)

    return use


def _record(out, each, accuracies):
    folder = record_run(
        out,
        recipe=each.recipe.name,
        label=each.label,
        seed=each.seed,
        cell=each.cell,
        config=each.config,
        seeds=each.recipe.seeds,
        labels=each.planned_labels,
        selected=0.5,
    )
    result = json.loads((folder / "result.json").read_text())
    result["status"] = accuracies.get("status", "done")
    for epoch in ("last", "selected"):
        for part in ("validation", "test"):
            result[epoch][f"{part}_accuracy"] = accuracies[epoch, part]
    (folder / "result.json").write_text(json.dumps(result))
