"""The largest eigenvalue, against a dense eigendecomposition."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from fsam_cli.measure.lanczos import largest_eigenvalue


def matrix(eigenvalues, seed=0):
    random = np.random.default_rng(seed)
    q, _ = np.linalg.qr(random.standard_normal((len(eigenvalues),) * 2))
    return torch.from_numpy(q @ np.diag(eigenvalues) @ q.T)


def found(operator, *, tolerance=1e-6, most=200, seed=1):
    random = np.random.default_rng(seed)
    start = torch.from_numpy(random.standard_normal(len(operator)))
    return largest_eigenvalue(lambda v: operator @ v, start, tolerance=tolerance, most=most)


@pytest.mark.parametrize(
    "eigenvalues",
    [
        np.linspace(-1, 2, 60),
        np.r_[-50.0, np.linspace(0, 1, 60)],  # the largest, not the largest in absolute value
        np.r_[np.zeros(80), 3.0, 3.0, 3.0, 7.0],
        np.r_[np.zeros(40), -4.0],  # nothing above 0
        np.geomspace(1e-6, 1e3, 120),
    ],
)
def test_it_is_the_largest_and_the_error_bounds_the_distance(eigenvalues):
    estimate = found(matrix(eigenvalues))
    assert estimate.value == pytest.approx(max(eigenvalues), rel=1e-6, abs=1e-6)
    assert min(abs(eigenvalues - estimate.value)) <= estimate.error + 1e-9
    assert estimate.products < 200


def test_it_stops_by_the_largest_however_far_the_lowest_is():
    estimate = found(matrix(np.r_[-1000.0, np.linspace(0, 1, 60)]), tolerance=1e-3)
    assert estimate.error <= 1e-3 * estimate.value
    assert estimate.value == pytest.approx(1, rel=1e-3)


def test_where_the_largest_is_0_it_stops_all_the_same():
    estimate = found(matrix([0.0] * 10 + [-4.0, -1.0]), tolerance=1e-3)
    assert estimate.value == pytest.approx(0, abs=1e-12)
    assert estimate.products < 10


def test_stopped_early_it_says_how_far_off_it_may_be():
    eigenvalues = np.linspace(0, 1, 300)
    estimate = found(matrix(eigenvalues), most=8)
    assert estimate.products == 8
    assert 1e-3 < estimate.error < 0.3
    assert 0.8 < estimate.value < 1 - 1e-3  # from below, and not there yet
    assert min(abs(eigenvalues - estimate.value)) <= estimate.error


@pytest.mark.parametrize(("scale", "products"), [(0.0, 1), (2.5, 1)])
def test_where_every_vector_is_an_eigenvector_one_product_is_enough(scale, products):
    estimate = found(scale * torch.eye(10, dtype=torch.float64))
    assert estimate == (pytest.approx(scale), pytest.approx(0, abs=1e-12), products)


def test_more_products_than_dimensions_do_not_break_it():
    estimate = found(matrix([1.0, 2.0, 3.0]), tolerance=0.0, most=50)
    assert estimate.value == pytest.approx(3)


def test_a_product_that_is_not_finite_gives_nan():
    estimate = found(torch.full((4, 4), float("inf"), dtype=torch.float64))
    assert np.isnan(estimate.value)
    assert np.isnan(estimate.error)


@pytest.mark.parametrize("scale", [1e-12, 1e12])
def test_the_tolerance_is_relative(scale):
    eigenvalues = np.linspace(-1, 2, 60)
    plain, scaled = (found(matrix(eigenvalues * each)) for each in (1, scale))
    assert scaled.products == plain.products
    assert scaled.value == pytest.approx(scale * plain.value)
