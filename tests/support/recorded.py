"""Run directories as training leaves them, without training."""

from __future__ import annotations

import copy
import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from fsam_cli.recipe.load import load_experiment
from fsam_cli.recipe.plan import RunPlan, plan
from fsam_cli.records.store import RunDirectory

CONFIG: dict[str, Any] = {
    "data": {"name": "digits", "digest": "ab" * 32},
    "augment": [],
    "label_noise": {"rate": 0.4, "flip": "different"},
    "validation": 0.1,
    "model": {"name": "small_resnet", "norm": "batch"},
    "train": {"epochs": 20, "batch_size": 128, "lr": 0.1, "select": "last"},
    "method": {"name": "sam", "rho": 0.1},
    "precision": "fp32",
    "channels_last": True,
    "threads": 1,
    "numerics": 1,
}
ENVIRONMENT = {"python": "3.11", "torch": "2.11.0", "device": "cpu", "device_name": "a CPU"}


def configuration(**changes: Any) -> dict[str, Any]:
    """CONFIG with dotted keys changed: `configuration(**{"method.rho": 0.2})`."""
    config = copy.deepcopy(CONFIG)
    for key, value in changes.items():
        *sections, last = key.split(".")
        section = config
        for name in sections:
            section = section[name]
        section[last] = value
    return config


def record_run(
    root: Path,
    *,
    recipe: str = "quickstart",
    label: str = "sam-0.1",
    seed: int = 0,
    status: str = "done",
    accuracy: float = 0.8,
    selected: float | None = None,
    top5: float | None = None,
    before: Mapping[str, float] | None = None,
    reason: str | None = None,
    config: Mapping[str, Any] | None = None,
    seeds: tuple[int, ...] = (0, 1, 2),
    labels: tuple[str, ...] = ("sgd-1x", "sam-0.1", "fsam-0.1"),
    planned_epochs: float | None = None,
    trial: bool = False,
    tuned: tuple[str, ...] = (),
    environment: Mapping[str, str] | None = None,
    data_verified: bool | None = True,
    cell: str | None = None,
) -> Path:
    """One run directory; `planned` and `interrupted` ones have no result.json."""
    config = configuration() if config is None else dict(config)
    text = json.dumps(config, sort_keys=True)
    cell = cell or hashlib.sha256(text.encode()).hexdigest()[:8]
    plan = {
        "schema": "fsam-run/1",
        "run": {"recipe": recipe, "label": label, "seed": seed, "cell": cell},
        "planned": {
            "labels": list(labels),
            "seeds": list(seeds),
            "epochs": planned_epochs,
            **({"trial": True} if trial else {}),
            **({"tuned": list(tuned)} if tuned else {}),
        },
        "data_verified": data_verified,
        "config": config,
    }
    folder = root / recipe / label / f"seed{seed}-{cell}"
    folder.mkdir(parents=True)
    (folder / "config.yaml").write_text(yaml.safe_dump(plan, sort_keys=False))
    if status == "interrupted":
        (folder / "checkpoint.pt").write_bytes(b"")
    if status not in ("planned", "interrupted"):
        result = {**plan, **_outcome(config, status, accuracy, selected, top5, reason)}
        result["before"] = None if before is None else dict(before)
        result["environment"] = dict(environment or ENVIRONMENT)
        (folder / "result.json").write_text(json.dumps(result, indent=1))
    return folder


def record_metrics(
    run: Path, *, epochs: int = 3, rows: Sequence[Mapping[str, Any]] | None = None
) -> None:
    """metrics.csv as training writes it: of so many epochs, or of these rows."""
    usual = [
        {
            "epoch": epoch,
            "lr": 0.1,
            "train_loss": 2.0 / epoch,
            "corrupted_fit": 0.1,
            "test_loss": 2.5 / epoch,
            "test_accuracy": min(round(0.4 + 0.1 * epoch, 2), 1.0),
            "sample_gradients": 100 * epoch,
        }
        for epoch in range(1, epochs + 1)
    ]
    RunDirectory(run).write_metrics(usual if rows is None else rows)


def record_cell(root: Path, accuracies: Mapping[int, float] | list[float], **more: Any) -> None:
    """A done run for each seed with its test accuracy at the last epoch."""
    by_seed = accuracies if isinstance(accuracies, Mapping) else dict(enumerate(accuracies))
    for seed, accuracy in by_seed.items():
        record_run(root, seed=seed, accuracy=accuracy, **more)


def planned_cells(recipe: str, *overrides: str) -> dict[str, RunPlan]:
    """The first seed's plan of every method of a shipped recipe, by label."""
    plans = plan(load_experiment(recipe, overrides), out=Path("runs"), device="cpu")
    return {each.label: each for each in reversed(plans)}


def record_recipe(
    root: Path,
    recipe: str,
    *overrides: str,
    accuracies: Mapping[str, list[float]] | None = None,
    **more: Any,
) -> None:
    """Done runs of a shipped recipe with the very configuration that training records.

    `accuracies` has one for each planned seed, by label; other labels have not been run. Without
    it every method has been, to 90 %.
    """
    for label, each in planned_cells(recipe, *overrides).items():
        if accuracies is None or label in accuracies:
            reached = accuracies[label] if accuracies else [0.9] * len(each.recipe.seeds)
            facts = {
                "recipe": each.recipe.name,
                "label": label,
                "config": each.config,
                "cell": each.cell,
                "seeds": each.recipe.seeds,
                "labels": each.planned_labels,
                "planned_epochs": each.recipe.train.budget,
                "tuned": each.tuned,
                "data_verified": each.fingerprint.verified,
            }
            by_seed = dict(zip(each.recipe.seeds, reached, strict=False))
            record_cell(root, by_seed, **{**facts, **more})


def _outcome(
    config: Mapping[str, Any],
    status: str,
    accuracy: float,
    selected: float | None,
    top5: float | None,
    reason: str | None,
) -> dict[str, Any]:
    def epoch(number: int, test_accuracy: float) -> dict[str, Any]:
        return {
            "epoch": number,
            "train_loss": 1.25,
            "train_accuracy": 0.6,
            "corrupted_fit": 0.3,
            "validation_loss": None if selected is None else 1.5,
            "validation_accuracy": None if selected is None else 0.5,
            "test_loss": 1 - test_accuracy,
            "test_accuracy": test_accuracy,
            "test_top5_accuracy": top5,
        }

    over = status != "failed"
    return {
        "status": status,
        "reason": reason,
        "select": config["train"]["select"],
        "last": epoch(config["train"]["epochs"], accuracy) if over else None,
        "selected": epoch(7, selected) if over and selected is not None else None,
        "best_test": epoch(9, accuracy + 0.01) if over else None,
        "sample_gradients": 2874 * config["train"]["epochs"],
        "train_seconds": 12.5,
        "evaluation_seconds": 0.5,
        "wall_seconds": 13.5,
        "started": "2024-01-01T00:00:00+00:00",
        "finished": "2024-01-01T00:00:13+00:00",
    }
