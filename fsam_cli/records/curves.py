"""The epochs of every run as one long frame; what curves are drawn from."""

from __future__ import annotations

from pathlib import Path

import pandas as pd

from fsam_cli.records.frame import as_rows
from fsam_cli.records.store import RunDirectory


def load_curves(runs: pd.DataFrame) -> pd.DataFrame:
    """A row per run and epoch: the columns of metrics.csv, with `path`, `label`, `seed`, `status`.

    Runs without a readable metrics.csv (planned ones, for instance) have no rows.

    Args:
        runs: from `records.frame.load_runs`.
    """
    frames = []
    for run in as_rows(runs):
        metrics = RunDirectory(Path(run["path"])).metrics
        try:
            epochs = pd.read_csv(metrics)
        except (OSError, ValueError):
            continue
        for key in ("path", "label", "seed", "status"):
            epochs[key] = run[key]
        frames.append(epochs)
    if not frames:
        return pd.DataFrame(columns=["path", "label", "seed", "status", "epoch"])
    return pd.concat(frames, ignore_index=True)
