"""Measured points as `fsam perturb` hands them to its report, without measuring."""

from __future__ import annotations

import pandas as pd

ALPHAS = (0.0, 1.0, 2.0)


def points(
    label,
    seed,
    accuracies,
    *,
    draw=0,
    method=None,
    cell="c0",
    settings="",
    protocol="",
    recipe="r",
    alphas=ALPHAS,
    planned=(0,),
    run=None,
):
    return [
        {
            "recipe": recipe,
            "label": label,
            "cell": cell,
            "settings": settings,
            "protocol": protocol,
            "method": method or label,
            "seed": seed,
            "planned_seeds": list(planned),
            "run": run or f"runs/{recipe}/{label}/seed{seed}-{cell}",
            "status": "measured",
            "reason": "",
            "draw": draw,
            "alpha": alpha,
            "test_accuracy": accuracy,
            "test_loss": 2 - accuracy,
            "classes": 10,
            "device_name": "a CPU",
        }
        for alpha, accuracy in zip(alphas, accuracies, strict=True)
    ]


def left_out(label, seed, status="diverged", reason="loss not finite", **more):
    row = points(label, seed, (0.0, 0.0, 0.0), **more)[0]
    numbers = ("draw", "alpha", "test_accuracy", "test_loss", "classes", "device_name")
    return [{**row, **dict.fromkeys(numbers), "status": status, "reason": reason}]


def frame(*parts):
    return pd.DataFrame([row for part in parts for row in part])
