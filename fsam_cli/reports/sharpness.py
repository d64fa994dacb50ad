"""Sharpness beside test accuracy: which measures there are, and how well they go together.

Everything here is a function of the table of `reports.table`, whose runs have a column for each
measure.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from fsam_cli.records.summary import Cell, Metric, Row, result_metric
from fsam_cli.reports.table import Table
from fsam_cli.reports.text_table import TextTable

SCHEMA = "fsam-sharpness/1"
LEAST_MEANS = 3  # of which an order can be told


def _measure(column: str, name: str, short: str, *, wide: bool = False) -> Metric:
    return Metric(column, name, short, tested=True, form=None, wide=wide)


TRAINED = _measure("loss", "loss on training images (nats)", "loss")
GRADIENT = _measure("gradient_norm", "norm of its gradient", "‖∇‖", wide=True)
LAMBDA_MAX = _measure("lambda_max", "largest eigenvalue of its Hessian", "λmax")
TRACE = _measure("trace", "trace of its Hessian", "trace")
OF_THE_LOSS = (TRAINED, GRADIENT, LAMBDA_MAX, TRACE)


def rise_metric(column: str, told: str) -> Metric:
    """The rise of the loss within a neighbourhood.

    Args:
        column: of the runs, `rise.sam`, or `rise.sam (rho=0.1, m=128)` where there are others.
        told: whose neighbourhood it is, `sam rho=0.1`.
    """
    alone = " " not in column
    short = column.replace(".", " ") if alone else f"rise {told}"
    return _measure(column, f"rise within {told} (nats)", short)


class Correlation(NamedTuple):
    """Kendall's tau-b of a measure with the test accuracy."""

    value: float | None  # None: too few means, or no order among them
    n: int  # methods with both


def rank_correlation(row: Row, metric: Metric) -> Correlation:
    """Over the means of the complete cells of a row: methods are no sample of anything, and their
    seeds are no further methods, so there is no test of it."""
    pairs = [pair for cell in row.cells.values() if (pair := _means(cell, metric)) is not None]
    if len(pairs) < LEAST_MEANS:
        return Correlation(None, len(pairs))
    from scipy.stats import kendalltau  # slow to import

    value = float(kendalltau(*zip(*pairs, strict=True)).statistic)
    return Correlation(None if math.isnan(value) else value, len(pairs))


def _means(cell: Cell, metric: Metric) -> tuple[float, float] | None:
    sharp, accurate = cell.sample(metric), cell.sample(result_metric(cell))
    return None if sharp is None or accurate is None else (sharp.mean, accurate.mean)


def correlations(table: Table, metrics: Sequence[Metric]) -> list[dict[str, Any]]:
    """One mapping for each row and measure: `recipe`, `row`, `metric`, `kendall_tau`, `n`."""
    return [
        {
            "recipe": row.recipe,
            "row": row.name,
            "metric": metric.column,
            "kendall_tau": found.value,
            "n": found.n,
        }
        for row in table.rows
        for metric in metrics
        if (found := rank_correlation(row, metric)).n
    ]


def correlation_tables(table: Table, metrics: Sequence[Metric]) -> list[TextTable]:
    """One for each row that has enough methods."""
    tables = []
    for row in table.rows:
        found = {metric: rank_correlation(row, metric) for metric in metrics}
        body = [
            {"measure": metric.name, "Kendall's τ": f"{each.value:+.2f}", "n": str(each.n)}
            for metric, each in found.items()
            if each.value is not None
        ]
        if body:
            tables.append(TextTable(f"{row.title}: rank correlation with test accuracy", body))
    return tables


def notes(
    *, images: int | None, draws: int | None, neighbourhoods: Sequence[str], m: int
) -> list[str]:
    """What the numbers are.

    Args:
        images: at most so many; None: all.
        draws: of random signs, for the trace; None: nothing of the Hessian was asked for.
        neighbourhoods: whose they are, with their radii.
        m: images of a micro-batch, at most.
    """
    of_them = "all images" if images is None else f"at most {images:,} of the images"
    hessian = ""
    if draws is not None:
        hessian = f"λmax is by Lanczos' iteration, the trace by random signs (--draws {draws}). "
    return [
        f"Sharpness: of the mean cross-entropy over {of_them} that a run was trained on, not "
        "augmented and with the labels it was given; the network in evaluation mode, in float32. "
        f"{hessian}A rise is what the method's own perturbation adds to the loss of a micro-batch "
        f"of at most {m:,} images, a mean over these: {'; '.join(neighbourhoods)}.",
        "λmax, trace and the rise of SAM (and of Fisher SAM with the default eta) change where "
        "weights are scaled and the network's answers are not, and all measures shrink with the "
        "loss: compare methods that fit the training images alike. τ is over the means of the "
        "methods, which are no random sample; below 0, the flatter ones are the more accurate.",
    ]
