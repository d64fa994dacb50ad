"""Basins of attraction of the toy problem: from which starts is the flat minimum reached?

The paper shows one start per figure. Over a grid of starts, with the scheme of `toy.descend` and a
linear decay, a reader sees when its claim holds and when not.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import pandas as pd
import torch

from fsam_cli.measure.bench.race import threads
from fsam_cli.measure.toy import (
    DESTINATIONS,
    Landmarks,
    ToyProblem,
    descend,
    destinations,
    exact_fisher_sam,
    literal_asam,
    matched_sam,
)
from fsam_cli.minimisers._contract import Minimiser
from fsam_cli.minimisers.sam import Sam
from fsam_cli.minimisers.sgd import Sgd


def basin_methods() -> list[tuple[str, Minimiser]]:
    """The methods and radii of the basins map."""
    return [
        ("sgd", Sgd()),
        *(("sam", Sam(rho=rho)) for rho in (0.5, 1.0, 5.0, 10.0)),
        *(("asam", literal_asam(rho)) for rho in (0.1, 0.2, 0.5)),
        *(("fsam", exact_fisher_sam(gamma)) for gamma in (0.1, 0.2, 0.5)),
        *(("sam_matched", matched_sam(gamma)) for gamma in (0.1, 0.2, 0.5)),
    ]


def basin_starts() -> np.ndarray:
    """1,189 starts: μ from -40 to 40 and σ from 4 to 60 in steps of 2."""
    mu, sigma = np.meshgrid(np.arange(-40.0, 41.0, 2.0), np.arange(4.0, 61.0, 2.0))
    return np.stack((mu.ravel(), sigma.ravel()), axis=-1)


def basins(
    problem: ToyProblem,
    methods: Sequence[tuple[str, Minimiser]],
    at: Landmarks,
    progress: Callable[[int], None] | None = None,
) -> pd.DataFrame:
    """Where each method ends from each of `basin_starts`, with the linear decay.

    Args:
        progress: called with the number of steps done.

    Returns:
        Columns: method, radius, start_mu, start_sigma, probe (the first perturbation's Euclidean
        length), end_mu, end_sigma, ends_at ("flat", "sharp", "saddle" or "elsewhere").
    """
    grid = basin_starts()
    begin = torch.from_numpy(grid).to(torch.float64).expand(len(methods), -1, -1)
    probes, end = begin, begin
    descent = descend(problem, [method for _, method in methods], begin, "linear")
    with threads(1):  # a thousand points are too few to share out
        for t, step in enumerate(descent):
            if t == 0:
                probes = step.probe - step.theta
            end = step.theta
            if progress is not None:
                progress(t)
    frames = []
    for position, (label, method) in enumerate(methods):
        points = end[position].numpy()
        frames.append(
            pd.DataFrame(
                {
                    "method": label,
                    "radius": method.radius,
                    "start_mu": grid[:, 0],
                    "start_sigma": grid[:, 1],
                    "probe": probes[position].norm(dim=-1).numpy(),
                    "end_mu": points[:, 0],
                    "end_sigma": points[:, 1],
                    "ends_at": destinations(points, at),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def fractions(ends: pd.DataFrame) -> pd.DataFrame:
    """Per method and radius: the fraction of starts that end at the flat minimum, and counts.

    `probe` is the median length of the first perturbation over the starts.
    """
    rows = [
        {
            "method": method,
            "radius": float(group["radius"].iloc[0]),
            "probe": float(group["probe"].median()),
            "flat_fraction": float((group["ends_at"] == "flat").mean()),
            **{name: int((group["ends_at"] == name).sum()) for name in DESTINATIONS},
            "starts": len(group),
        }
        for (method, _), group in ends.groupby(["method", "radius"], sort=False)
    ]
    return pd.DataFrame(rows)
