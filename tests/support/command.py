"""Running `fsam` as a user does, and comparing what it left on disk."""

from __future__ import annotations

import csv
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

# Digits, two methods, seconds: what every test of the command trains.
TINY = (
    "train.epochs=3",
    "seeds=[0]",
    "methods={sgd: {}, fsam: {gamma: 0.1, eta: 100.0}}",
    "train.batch_size=256",
)


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-c", "from fsam_cli.app import main; main()", *map(str, arguments)]


def fsam(*arguments: str | Path, cwd: Path, check: int | None = 0, **environment: str):
    """Run to the end; the exit code must be `check` unless that is None."""
    done = subprocess.run(
        command(*arguments),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        env=_environment(environment),
    )
    if check is not None:
        assert done.returncode == check, (done.returncode, done.stdout, done.stderr)
    return done


def start(*arguments: str | Path, cwd: Path) -> subprocess.Popen[str]:
    """Start in a process group of its own, to be killed as one."""
    return subprocess.Popen(
        command(*arguments),
        cwd=cwd,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=_environment({}),
        start_new_session=True,
    )


def _environment(more: dict[str, str]) -> dict[str, str]:
    root = str(Path(__file__).resolve().parents[2])
    cleared = {k: v for k, v in os.environ.items() if k not in ("FSAM_DATA",)}
    return {**cleared, "PYTHONPATH": root, "COLUMNS": "120", **more}


def bits(root: Path) -> dict[str, dict]:
    """Every recorded number of every run below a root, times excepted."""
    found = {}
    for result in sorted(root.rglob("result.json")):
        folder = result.parent
        recorded = _without_times(json.loads(result.read_text()))
        with (folder / "metrics.csv").open() as file:
            rows = [_without_times(row) for row in csv.DictReader(file)]
        with np.load(folder / "predictions.npz") as arrays:
            predictions = {key: arrays[key].tobytes() for key in arrays}
        weights = torch.load(folder / "weights.pt", weights_only=True)["weights"]
        found[str(folder.relative_to(root))] = {
            "result": recorded,
            "metrics": rows,
            "predictions": predictions,
            "weights": {name: w.numpy().tobytes() for name, w in weights.items()},
        }
    return found


def _without_times(mapping: dict) -> dict:
    return {
        key: value
        for key, value in mapping.items()
        if "seconds" not in key and key not in ("started", "finished")
    }
