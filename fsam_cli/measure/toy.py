"""The toy problem of Sec. 3.1 of the Fisher SAM paper (Figures 1 to 3).

θ = (μ, σ) of a univariate Gaussian, with two minima that mix two divergences:

    l(θ) = -log(α₁ exp(-E₁/β₁²) + α₂ exp(-E₂/β₂²)),      E_i = KL(N(μ, σ²) ‖ N(m_i, s_i²))

With the Kullback-Leibler divergence as printed (`energy="kl"`) the printed minima do not come
out. With its constant -1/2 dropped (`energy="paper"`) all eight published numbers do.

The minimisers are the benchmark's own, asked for their `sums`, `length` and `direction` at a
chunk that holds both parameters, with the exact Fisher information diag(1/σ², 2/σ²) handed in.
The paper gives no starts, radii or learning rates for Figures 2 and 3; those here show them.
Everything is float64 and without randomness.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from typing import Literal, NamedTuple

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from fsam_cli.measure.bench.race import threads
from fsam_cli.minimisers._contract import Chunk, Minimiser
from fsam_cli.minimisers.asam import Asam
from fsam_cli.minimisers.fsam import FisherSam
from fsam_cli.minimisers.sam import Sam
from fsam_cli.minimisers.sam_matched import SamMatched
from fsam_cli.minimisers.sgd import Sgd

Energy = Literal["paper", "kl"]
Decay = Literal["cosine", "linear"]

MEANS = (20.0, -20.0)  # m
DEVIATIONS = (30.0, 10.0)  # s
WEIGHTS = (0.7, 0.3)  # α
SCALES = (1.8, 1.2)  # β

STEPS = 1500
LEARNING_RATE = 30.0
MOMENTUM = 0.9
SMALLEST_SIGMA = 0.01  # of the weights and of the probe
NOTHING = 1e-300  # beside a Fisher information: added to one in float64 it changes no digit

# How every path goes (`descend`), for those who read the numbers.
SCHEME = {
    "steps": STEPS,
    "learning_rate": LEARNING_RATE,
    "momentum": MOMENTUM,
    "smallest_sigma": SMALLEST_SIGMA,
    "decay": {"trajectories": "cosine", "basins": "linear"},
}

DESTINATIONS = ("flat", "sharp", "saddle", "elsewhere")

# What the paper prints in Sec. 3.1 and under Figure 1.
PUBLISHED = {
    "flat": {"mu": 19.85, "sigma": 29.95, "loss": 0.51, "hessian_trace": 0.001},
    "sharp": {"mu": -15.94, "sigma": 13.46, "loss": 0.49, "hessian_trace": 0.006},
}


class ToyProblem:
    """The loss of Sec. 3.1 and what belongs to it, on points θ = (..., 2)."""

    def __init__(self, energy: Energy = "paper") -> None:
        self.energy = energy
        self._constant = -0.5 if energy == "kl" else 0.0

    def loss(self, theta: Tensor) -> Tensor:
        return -torch.logaddexp(*self._exponents(theta))

    def gradient(self, theta: Tensor) -> Tensor:
        """∇l = Σ p_i u_i, u_i = ∇E_i / β_i², where p_i is component i's share in the sum of l."""
        first, second = self._slopes(theta)
        share = self._share(theta)
        return share * first + (1 - share) * second

    def hessian(self, theta: Tensor) -> Tensor:
        """∇²l = Σ p_i ∇²E_i / β_i² - p₁ p₂ (u₁ - u₂)(u₁ - u₂)ᵀ, (..., 2, 2)."""
        first, second = self._slopes(theta)
        share = self._share(theta)
        apart = first - second
        curvature = torch.zeros_like(theta)
        inverse_variance = theta[..., 1].square().reciprocal()
        for p, s, beta in zip((share, 1 - share), DEVIATIONS, SCALES, strict=True):
            by_mu = torch.full_like(inverse_variance, s**-2)
            own = torch.stack((by_mu, by_mu + inverse_variance), dim=-1)
            curvature = curvature + p * own / beta**2
        outer = apart[..., :, None] * apart[..., None, :]
        return torch.diag_embed(curvature) - (share * (1 - share))[..., None] * outer

    def _share(self, theta: Tensor) -> Tensor:
        """p₁, (..., 1)."""
        first, second = self._exponents(theta)
        return torch.sigmoid(first - second)[..., None]

    def _slopes(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """∇E_i / β_i² of both components."""
        mu, sigma = theta.unbind(-1)
        first, second = (
            torch.stack(((mu - m) / s**2, sigma / s**2 - 1 / sigma), dim=-1) / beta**2
            for m, s, beta in zip(MEANS, DEVIATIONS, SCALES, strict=True)
        )
        return first, second

    def _exponents(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        """log α_i - E_i / β_i² of both components."""
        mu, sigma = theta.unbind(-1)
        log_sigma = sigma.log()
        first, second = (
            math.log(alpha)
            - (
                math.log(s)
                - log_sigma
                + (sigma.square() + (mu - m).square()) / (2 * s**2)
                + self._constant
            )
            / beta**2
            for m, s, alpha, beta in zip(MEANS, DEVIATIONS, WEIGHTS, SCALES, strict=True)
        )
        return first, second


def fisher_information(theta: Tensor) -> Tensor:
    """The diagonal (1/σ², 2/σ²) of a Gaussian's Fisher information, Sec. 3.1."""
    inverse_variance = theta[..., 1].square().reciprocal()
    return torch.stack((inverse_variance, 2 * inverse_variance), dim=-1)


class StationaryPoint(NamedTuple):
    """A stationary point of the loss."""

    name: str
    mu: float
    sigma: float
    loss: float
    hessian_trace: float


class Landmarks(NamedTuple):
    """All stationary points: two minima, and the saddle on the ridge between their basins.

    The paper does not mention the saddle, yet sharpness-aware methods can end there: a probe
    uphill oversteps the ridge's crest, and the descent on its far side leads back to the crest.
    """

    flat: StationaryPoint
    sharp: StationaryPoint
    saddle: StationaryPoint


def landmarks(problem: ToyProblem) -> Landmarks:
    """Minima from the lowest cells of a grid, the saddle from between them, by Newton's method."""
    mu, sigma = np.arange(-60.0, 61.0), np.arange(2.0, 81.0)
    loss = surface(problem, mu, sigma).loss
    least_around = np.lib.stride_tricks.sliding_window_view(loss, (3, 3)).min(axis=(2, 3))
    lowest = np.argwhere(loss[1:-1, 1:-1] == least_around) + 1
    found = [_newton(problem, np.array([mu[j], sigma[i]])) for i, j in lowest]
    found.sort(key=lambda theta: float(problem.hessian(theta).trace()))
    flat, sharp = found  # there are just two
    saddle = _newton(problem, ((flat + sharp) / 2).numpy())
    points = []
    for name, theta in zip(Landmarks._fields, (flat, sharp, saddle), strict=True):
        numbers = (*theta, problem.loss(theta), problem.hessian(theta).trace())
        points.append(StationaryPoint(name, *map(float, numbers)))
    return Landmarks(*points)


def _newton(problem: ToyProblem, start: np.ndarray) -> Tensor:
    theta = torch.from_numpy(start)
    for _ in range(50):
        step = torch.linalg.solve(problem.hessian(theta), problem.gradient(theta))
        theta = theta - step
        if float(step.abs().max()) < 1e-12:
            break
    return theta


class Surface(NamedTuple):
    """The loss on a grid, for contours."""

    mu: np.ndarray
    sigma: np.ndarray
    loss: np.ndarray  # (sigma, mu)


def surface(problem: ToyProblem, mu: np.ndarray, sigma: np.ndarray) -> Surface:
    points = np.stack(np.meshgrid(mu, sigma), axis=-1)
    return Surface(mu, sigma, problem.loss(torch.from_numpy(points)).numpy())


def line_between(
    problem: ToyProblem, flat: StationaryPoint, sharp: StationaryPoint
) -> pd.DataFrame:
    """The loss along the straight line through both minima: distance from the sharp one, loss."""
    a = torch.tensor([sharp.mu, sharp.sigma], dtype=torch.float64)
    b = torch.tensor([flat.mu, flat.sigma], dtype=torch.float64)
    length = float((b - a).norm())
    distance = torch.linspace(-18.0, length + 18.0, 400, dtype=torch.float64)
    points = a + distance[:, None] * (b - a) / length
    return pd.DataFrame({"distance": distance.numpy(), "loss": problem.loss(points).numpy()})


def perturbation(method: Minimiser, w: Tensor, g: Tensor, f: Tensor) -> Tensor:
    """eps of one point, both its parameters in one chunk: eqs. (2), (5) and (10)."""
    if not method.climbs:
        return torch.zeros_like(w)
    at = Chunk(w, g, f, "weight")
    return method.length(method.sums(at)) * method.direction(at)


def perturbations(
    methods: Sequence[Minimiser],
) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """`perturbation` of each method at its own points (methods, n, 2), in one sweep over them."""

    def of_one_start(w: Tensor, g: Tensor, f: Tensor) -> Tensor:
        return torch.stack(
            [perturbation(method, w[k], g[k], f[k]) for k, method in enumerate(methods)]
        )

    many: Callable[[Tensor, Tensor, Tensor], Tensor] = torch.func.vmap(
        of_one_start, in_dims=1, out_dims=1
    )
    return many


def half_axes(method: Minimiser, theta: Tensor) -> Tensor:
    """The neighbourhood's reach along μ and σ at each point (n, 2): eps for a gradient along it."""
    both = theta.expand(2, -1, -1)
    along = torch.eye(2, dtype=theta.dtype)[:, None].expand_as(both)
    eps = perturbations([method, method])(both, along, fisher_information(both))
    return eps.diagonal(dim1=0, dim2=2)


class ToyStep(NamedTuple):
    """Where all points stand before a step, and where their gradients are taken."""

    theta: Tensor  # (methods, starts, 2)
    probe: Tensor  # θ + eps


def descend(
    problem: ToyProblem, methods: Sequence[Minimiser], starts: Tensor, decay: Decay
) -> Iterator[ToyStep]:
    """Gradient descent with momentum from many starts, STEPS steps; the end comes last.

        v ← 0.9 v + g;   θ ← θ - a_t v;   a_t = 30 (1 + cos(π t / 1500)) / 2, or 30 (1 - t / 1500)

    where g is the gradient at the probe, and σ is kept at or above 0.01, the probe's too.

    Args:
        starts: (methods, starts, 2), for each method its own.
    """
    climb = perturbations(methods)
    theta = starts.clone()
    velocity = torch.zeros_like(theta)
    for t in range(STEPS + 1):
        f = fisher_information(theta)
        g = problem.gradient(theta)
        probe = _bounded(theta + climb(theta, g, f))
        yield ToyStep(theta, probe)
        rate = (1 + math.cos(math.pi * t / STEPS)) / 2 if decay == "cosine" else 1 - t / STEPS
        velocity = MOMENTUM * velocity + problem.gradient(probe)
        theta = _bounded(theta - LEARNING_RATE * rate * velocity)


def _bounded(theta: Tensor) -> Tensor:
    mu, sigma = theta.unbind(-1)
    return torch.stack((mu, sigma.clamp(min=SMALLEST_SIGMA)), dim=-1)


class Case(NamedTuple):
    """One trajectory."""

    figure: int  # of the paper, from whose start it goes
    published: bool  # the paper draws it; otherwise a control
    label: str
    method: Minimiser
    start: tuple[float, float]


def exact_fisher_sam(gamma: float) -> FisherSam:
    """FSAM with F⁻¹ = 1/f, f being handed in."""
    return FisherSam(gamma=gamma, eta=NOTHING, fisher="model", inverse="damped")


def literal_asam(rho: float) -> Asam:
    """ASAM as eq. (5) prints it, T = |w| for every parameter."""
    return Asam(rho=rho, eta=0.0, scope="all")


def matched_sam(gamma: float) -> SamMatched:
    """SAM's direction with the length of `exact_fisher_sam`: what FSAM's direction is worth."""
    return SamMatched(gamma=gamma, eta=NOTHING, fisher="model", inverse="damped")


def cases() -> list[Case]:
    """The four panels of Figures 2 and 3, and from the same starts the controls."""
    wide, narrow = (-30.0, 29.0), (-4.0, 8.0)
    return [
        Case(2, True, "sam", Sam(rho=0.5), wide),
        Case(2, True, "fsam", exact_fisher_sam(0.5), wide),
        Case(2, False, "sgd", Sgd(), wide),
        Case(2, False, "sam", Sam(rho=10.0), wide),
        Case(2, False, "sam_matched", matched_sam(0.5), wide),
        Case(3, True, "asam", literal_asam(0.1), narrow),
        Case(3, True, "fsam", exact_fisher_sam(0.5), narrow),
        Case(3, False, "sgd", Sgd(), narrow),
        Case(3, False, "asam", literal_asam(0.5), narrow),
        Case(3, False, "fsam", exact_fisher_sam(0.1), narrow),
        Case(3, False, "sam_matched", matched_sam(0.5), narrow),
    ]


def trajectories(problem: ToyProblem, chosen: Sequence[Case]) -> pd.DataFrame:
    """Every point of every path, in long form.

    Columns: case (position in `chosen`), figure, published, method, radius, step, mu, sigma,
    probe_mu, probe_sigma, and the half axes half_mu, half_sigma of the neighbourhood.
    """
    starts = torch.tensor([case.start for case in chosen], dtype=torch.float64)[:, None, :]
    with threads(1):  # too few points to share out: more take several times as long
        steps = list(descend(problem, [case.method for case in chosen], starts, "cosine"))
    theta = torch.stack([step.theta for step in steps])[:, :, 0]  # (steps, cases, 2)
    probe = torch.stack([step.probe for step in steps])[:, :, 0]
    frames = []
    for position, case in enumerate(chosen):
        here, there = theta[:, position], probe[:, position]
        half = half_axes(case.method, here)
        frames.append(
            pd.DataFrame(
                {
                    "case": position,
                    "figure": case.figure,
                    "published": case.published,
                    "method": case.label,
                    "radius": case.method.radius,
                    "step": np.arange(len(here)),
                    "mu": here[:, 0].numpy(),
                    "sigma": here[:, 1].numpy(),
                    "probe_mu": there[:, 0].numpy(),
                    "probe_sigma": there[:, 1].numpy(),
                    "half_mu": half[:, 0].numpy(),
                    "half_sigma": half[:, 1].numpy(),
                }
            )
        )
    return pd.concat(frames, ignore_index=True)


def endings(paths: pd.DataFrame, at: Landmarks) -> pd.DataFrame:
    """One row per trajectory: start, first probe's length, after one step, end, and which minimum.

    `probe` is the Euclidean length of the first perturbation: what makes radii comparable.
    """
    first, second, last = (paths[paths["step"] == step].set_index("case") for step in (0, 1, STEPS))
    probe = np.hypot(first["probe_mu"] - first["mu"], first["probe_sigma"] - first["sigma"])
    ends = first[["figure", "published", "method", "radius"]].assign(
        start_mu=first["mu"],
        start_sigma=first["sigma"],
        probe=probe,
        step1_mu=second["mu"],
        step1_sigma=second["sigma"],
        end_mu=last["mu"],
        end_sigma=last["sigma"],
        ends_at=destinations(last[["mu", "sigma"]].to_numpy(), at),
    )
    return ends.reset_index(drop=True)


def destinations(points: np.ndarray, at: Landmarks) -> np.ndarray:
    """The name of the stationary point within one unit of each point (n, 2), or "elsewhere"."""
    distances = np.stack(
        [np.hypot(points[:, 0] - point.mu, points[:, 1] - point.sigma) for point in at]
    )
    names = np.array(Landmarks._fields)[distances.argmin(axis=0)]
    return np.where(distances.min(axis=0) <= 1, names, "elsewhere")
