"""Sharpness and accuracy side by side: rank correlation and the picture, from frames alone."""

from __future__ import annotations

import math
from itertools import combinations

import pytest

from fsam_cli.records.frame import load_runs
from fsam_cli.reports import sharpness_figure
from fsam_cli.reports.sharpness import (
    LAMBDA_MAX,
    TRACE,
    correlation_tables,
    correlations,
    rank_correlation,
    rise_metric,
)
from fsam_cli.reports.table import build_table
from fsam_cli.reports.text_table import to_digits
from tests.support.recorded import configuration, record_run

METHODS = ("sgd", "sam", "asam", "fsam")
ACCURACY = {"sgd": 0.7, "sam": 0.9, "asam": 0.8, "fsam": 0.9}
LAMBDA = {"sgd": 20.0, "sam": 4.0, "asam": 9.0, "fsam": 6.0}


@pytest.fixture
def table(tmp_path):
    for label in METHODS:
        for seed in (0, 1, 2):
            record_run(
                tmp_path / "runs",
                label=label,
                seed=seed,
                accuracy=ACCURACY[label] + 0.01 * (seed - 1),
                config=configuration(method={"name": label}),
                labels=METHODS,
            )
    runs = load_runs(tmp_path / "runs")
    values = [LAMBDA[label] + seed - 1 for label, seed in zip(runs.label, runs.seed, strict=True)]
    return build_table(
        runs.assign(lambda_max=values, trace=math.nan), metrics=lambda _row: [LAMBDA_MAX, TRACE]
    )


def test_kendall_s_tau_is_counted_over_pairs_of_means(table):
    concordant = discordant = tied = 0
    for a, b in combinations(METHODS, 2):
        apart = (LAMBDA[a] - LAMBDA[b]) * (ACCURACY[a] - ACCURACY[b])
        concordant, discordant = concordant + (apart > 0), discordant + (apart < 0)
        tied += apart == 0
    assert (concordant, discordant, tied) == (0, 5, 1)
    (row,) = table.rows
    found = rank_correlation(row, LAMBDA_MAX)
    # tau-b: one of the six pairs is tied in accuracy.
    assert found == (pytest.approx(-5 / math.sqrt(6 * 5)), 4)
    assert rank_correlation(row, TRACE) == (None, 0)
    (entry,) = correlations(table, [LAMBDA_MAX, TRACE])
    assert (entry["metric"], entry["n"]) == ("lambda_max", 4)
    (shown,) = correlation_tables(table, [LAMBDA_MAX, TRACE])
    assert list(shown.rows[0].values()) == [LAMBDA_MAX.name, "-0.91", "4"]


def test_where_a_measure_is_the_same_everywhere_there_is_no_order(table):
    same = table.runs.assign(lambda_max=1.0)
    (row,) = build_table(same, metrics=lambda _row: [LAMBDA_MAX]).rows
    assert rank_correlation(row, LAMBDA_MAX) == (None, 4)


def test_a_scale_that_begins_at_0_is_not_logarithmic(table):
    lowest = table.runs.lambda_max.min()
    from_zero = table.runs.assign(lambda_max=table.runs.lambda_max - lowest)
    (row,) = build_table(from_zero, metrics=lambda _row: [LAMBDA_MAX]).rows
    (axes,) = sharpness_figure.figure(row, [LAMBDA_MAX]).axes
    assert axes.get_xscale() == "linear"


@pytest.mark.parametrize(
    ("number", "shown"),
    [(1.5e-9, "1.50e-09"), (0.00123, "0.00123"), (1234.5, "1234"), (3e12, "3.00e+12")],
)
def test_a_measure_of_any_size_has_three_digits(number, shown):
    assert f"{number:{to_digits(number, 3)}}" == shown


def test_a_rise_has_its_radius_in_the_heading_where_it_needs_it():
    assert rise_metric("rise.sam", "sam rho=0.1").short == "rise sam"
    assert rise_metric("rise.sam (rho=0.1, m=30)", "sam rho=0.1").short == "rise sam rho=0.1"


def test_an_incomplete_method_has_no_say_and_is_named_in_the_picture(table):
    (row,) = table.rows
    broken = table.runs.drop(table.runs.index[(table.runs.label == "sam") & (table.runs.seed == 1)])
    (row,) = build_table(broken, metrics=lambda _row: [LAMBDA_MAX]).rows
    assert rank_correlation(row, LAMBDA_MAX).n == 3
    drawn = sharpness_figure.figure(row, [LAMBDA_MAX])
    (axes,) = drawn.axes
    assert sorted(axes.get_legend_handles_labels()[1]) == ["asam (n=3)", "fsam (n=3)", "sgd (n=3)"]
    assert "not drawn: sam: 1 of 3 missing" in drawn.get_supxlabel().replace("\n", " ")


def test_every_run_is_a_point_of_its_own_numbers(table):
    (row,) = table.rows
    drawn = sharpness_figure.figure(row, [LAMBDA_MAX])
    (axes,) = drawn.axes
    points = sorted(tuple(xy) for each in axes.collections for xy in each.get_offsets())
    expected = [
        (LAMBDA[label] + seed - 1, 100 * (ACCURACY[label] + 0.01 * (seed - 1)))
        for label in METHODS
        for seed in (0, 1, 2)
    ]
    for point, other in zip(points, sorted(expected), strict=True):
        assert point == pytest.approx(other)
    assert axes.get_xscale() == "log"  # from 3 to 21
    assert "τ = -0.91 over 4 means" in axes.get_title(loc="right")


def test_two_methods_have_no_order_worth_a_number(table):
    two = table.runs[table.runs.label.isin(["sgd", "sam"])]
    (row,) = build_table(two, metrics=lambda _row: [LAMBDA_MAX]).rows
    assert rank_correlation(row, LAMBDA_MAX) == (None, 2)
