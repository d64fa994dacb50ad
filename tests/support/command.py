"""Running `fsam` as a user does, and comparing what it left on disk."""

from __future__ import annotations

import csv
import io
import json
import os
import subprocess
import sys
from contextlib import redirect_stderr, redirect_stdout
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
    """Run to the end; the exit code must be `check` unless that is None.

    In this process, which has torch imported already, unless the command starts processes.
    """
    spelled = [str(argument) for argument in arguments]
    trains = spelled[0] in ("train", "sweep") and "--dry-run" not in spelled
    alone = not trains or "-j" not in spelled or spelled[spelled.index("-j") + 1] == "1"
    if trains and "-j" not in spelled:
        spelled += ["-j", "1"]
    run = _in_process if alone else _in_a_process
    done = run(spelled, cwd, environment)
    if check is not None:
        assert done.returncode == check, (done.returncode, done.stdout, done.stderr)
    return done


def _in_a_process(arguments, cwd, environment):
    return subprocess.run(
        command(*arguments),
        cwd=cwd,
        capture_output=True,
        text=True,
        timeout=240,
        env=_environment(environment),
    )


def _in_process(arguments, cwd, environment):
    from fsam_cli.app import main

    stdout, stderr = io.StringIO(), io.StringIO()
    saved = sys.argv, Path.cwd(), dict(os.environ)
    sys.argv = ["fsam", *arguments]
    os.chdir(cwd)
    os.environ.update(_environment(environment))
    os.environ.pop("FSAM_DATA", None)
    os.environ.update(environment)
    try:
        with redirect_stdout(stdout), redirect_stderr(stderr):
            main()
    except SystemExit as ended:
        code = ended.code or 0
    finally:
        sys.argv = saved[0]
        os.chdir(saved[1])
        os.environ.clear()
        os.environ.update(saved[2])
    return subprocess.CompletedProcess(arguments, code, stdout.getvalue(), stderr.getvalue())


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
    paths = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    return {**cleared, "PYTHONPATH": paths, "COLUMNS": "120", **more}


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
        key: _without_times(value) if key == "environment" else value
        for key, value in mapping.items()
        if "seconds" not in key and key not in ("started", "finished", "runs_at_once")
    }
