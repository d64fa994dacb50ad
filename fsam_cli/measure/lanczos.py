"""The largest eigenvalue of a symmetric operator that can only be multiplied by a vector."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

# Of the largest absolute Ritz value: a residual below it is an error of float64's arithmetic.
ROUNDING = 1e-12


class Eigenvalue(NamedTuple):
    """An estimate, and how far the nearest eigenvalue is from it at most."""

    value: float
    error: float
    products: int  # with the operator


def largest_eigenvalue(
    product: Callable[[Tensor], Tensor], start: Tensor, *, tolerance: float, most: int
) -> Eigenvalue:
    """Lanczos' iteration, until the residual of the largest Ritz pair is small.

    The residual's norm ‖A y - θ y‖ = |beta s| bounds the distance from θ to an eigenvalue of A. The
    basis is not kept: rounding then makes copies of eigenvalues that have converged, and leaves
    these where they are (Paige 1971; Golub and Van Loan, Section 10.3).

    Args:
        product: A v for v of any shape; A symmetric.
        start: anything not orthogonal to the eigenvector, as a random vector is not.
        tolerance: of the residual, relative to the eigenvalue.
        most: products at most.

    Returns:
        nan where a product is not finite.
    """
    v, before, beta = start / torch.linalg.vector_norm(start), torch.zeros_like(start), 0.0
    diagonal: list[float] = []
    beside: list[float] = []  # the diagonal
    value = error = float("nan")
    for products in range(1, most + 1):
        w = product(v) - beta * before
        alpha = float(torch.sum(w * v))
        w = w - alpha * v
        beta = float(torch.linalg.vector_norm(w))
        diagonal.append(alpha)
        if not np.isfinite([alpha, beta]).all():
            return Eigenvalue(float("nan"), float("nan"), products)
        ritz, vectors = eigh_tridiagonal(np.array(diagonal), np.array(beside))
        value, error = float(ritz[-1]), beta * abs(float(vectors[-1, -1]))
        if error <= max(tolerance * abs(value), ROUNDING * float(np.abs(ritz).max())):
            break
        beside.append(beta)
        before, v = v, w / beta
    return Eigenvalue(value, error, products)
