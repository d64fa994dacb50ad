"""The toy problem of Sec. 3.1 against the paper's numbers, and two statements of its theory."""

from __future__ import annotations

import csv
import io
import itertools
import json
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.distributions import Normal, kl_divergence

from fsam_cli.commands.toy import toy as toy_command
from fsam_cli.engine.ascent import ascent_length
from fsam_cli.measure import toy, toy_basins
from fsam_cli.minimisers._contract import Chunk
from fsam_cli.options import ToyRequest
from tests.support.command import fsam

ENERGIES = ("paper", "kl")

# Fractions of the 1,189 starts that reach the flat minimum.
FRACTIONS = {
    ("sgd", 0.0): 0.789,
    ("sam", 0.5): 0.810,
    ("sam", 1.0): 0.823,
    ("sam", 5.0): 0.901,
    ("asam", 0.1): 0.847,
    ("asam", 0.2): 0.894,
    ("asam", 0.5): 0.971,
    ("fsam", 0.1): 0.834,
    ("fsam", 0.2): 0.857,
    ("fsam", 0.5): 0.867,
}


@pytest.fixture(scope="module")
def paper():
    return toy.ToyProblem("paper")


@pytest.fixture(scope="module")
def landmarks(paper):
    return toy.landmarks(paper)


@pytest.fixture(scope="module")
def paths(paper):
    return toy.trajectories(paper, toy.cases())


def some_points(n=40):
    mu = torch.linspace(-45, 45, n, dtype=torch.float64)
    sigma = torch.linspace(70, 0.5, n, dtype=torch.float64)
    return torch.stack((mu, sigma), dim=-1)


@pytest.mark.parametrize("energy", ENERGIES)
def test_the_analytic_gradient_and_hessian_are_those_of_autograd(energy):
    problem = toy.ToyProblem(energy)
    theta = some_points().requires_grad_()
    (expected,) = torch.autograd.grad(problem.loss(theta).sum(), theta)
    torch.testing.assert_close(problem.gradient(theta), expected, rtol=1e-12, atol=1e-14)
    for point in some_points(5):
        torch.testing.assert_close(
            problem.hessian(point),
            torch.func.jacrev(torch.func.jacrev(problem.loss))(point),
            rtol=1e-9,
            atol=1e-14,
        )


def test_energy_kl_is_the_divergence_to_each_component():
    theta = some_points()
    terms = [
        np.log(alpha) - kl_divergence(Normal(*theta.unbind(-1)), Normal(m, s)) / beta**2
        for m, s, alpha, beta in zip(
            toy.MEANS, toy.DEVIATIONS, toy.WEIGHTS, toy.SCALES, strict=True
        )
    ]
    torch.testing.assert_close(
        toy.ToyProblem("kl").loss(theta), -torch.logsumexp(torch.stack(terms), dim=0)
    )


def test_all_eight_published_numbers_come_out_to_the_printed_digits(landmarks):
    for point in (landmarks.flat, landmarks.sharp):
        printed = toy.PUBLISHED[point.name]
        assert round(point.mu, 2) == printed["mu"]
        assert round(point.sigma, 2) == printed["sigma"]
        assert round(point.loss, 2) == printed["loss"]
        assert round(point.hessian_trace, 3) == printed["hessian_trace"]


@pytest.mark.parametrize(
    ("energy", "flat", "sharp"),
    [
        (
            "paper",
            (19.8451, 29.9483, 0.5108, 0.001011),
            (-15.9404, 13.4607, 0.4939, 0.005939),
        ),
        (
            "kl",
            (19.8101, 29.9366, 0.3564, 0.001007),
            (-16.8047, 12.8025, 0.2752, 0.007246),
        ),
    ],
)
def test_the_minima_of_both_energies_are_the_computed_ones(energy, flat, sharp):
    at = toy.landmarks(toy.ToyProblem(energy))
    for point, expected in ((at.flat, flat), (at.sharp, sharp)):
        got = (point.mu, point.sigma, point.loss, point.hessian_trace)
        assert tuple(round(x, d) for x, d in zip(got, (4, 4, 4, 6), strict=True)) == expected


def test_the_formula_as_printed_does_not_give_the_published_minima():
    sharp = toy.landmarks(toy.ToyProblem("kl")).sharp
    assert round(sharp.mu, 2) != toy.PUBLISHED["sharp"]["mu"]
    assert round(sharp.loss, 2) != toy.PUBLISHED["sharp"]["loss"]


@pytest.mark.parametrize("energy", ENERGIES)
def test_two_landmarks_are_minima_and_one_is_a_saddle(energy):
    problem = toy.ToyProblem(energy)
    for point in toy.landmarks(problem):
        theta = torch.tensor([point.mu, point.sigma], dtype=torch.float64)
        assert float(problem.gradient(theta).norm()) < 1e-14
        lowest, highest = torch.linalg.eigvalsh(problem.hessian(theta)).tolist()
        assert highest > 0
        assert (lowest < 0) == (point.name == "saddle")


def eps_of(method, theta, g, f):
    return toy.perturbations([method])(theta[None], g[None], f[None])[0]


def test_the_line_through_both_minima_goes_beyond_them():
    problem = toy.ToyProblem()
    at = toy.landmarks(problem)
    line = toy.line_between(problem, at.flat, at.sharp)
    apart = np.hypot(at.flat.mu - at.sharp.mu, at.flat.sigma - at.sharp.sigma)
    assert (line["distance"].min(), line["distance"].max()) == pytest.approx((-18, apart + 18))
    for distance, point in ((0.0, at.sharp), (apart, at.flat)):
        loss = np.interp(distance, line["distance"], line["loss"])
        assert loss == pytest.approx(point.loss, abs=1e-4)


def test_a_probe_is_the_paper_s_formula_and_that_of_the_training_engine(paper):
    theta = some_points()
    g, f = paper.gradient(theta), toy.fisher_information(theta)
    sam = 0.5 * g / g.norm(dim=-1, keepdim=True)  # eq. (2)
    scaled = theta.abs() * g
    asam = 0.1 * theta.abs() * scaled / scaled.norm(dim=-1, keepdim=True)  # eq. (5)
    natural = g / f
    fsam_eps = 0.5 * natural / (g * natural).sum(-1, keepdim=True).sqrt()  # eq. (10)
    for method, expected in (
        (toy.Sam(rho=0.5), sam),
        (toy.literal_asam(0.1), asam),
        (toy.exact_fisher_sam(0.5), fsam_eps),
    ):
        eps = eps_of(method, theta, g, f)
        torch.testing.assert_close(eps, expected, rtol=1e-12, atol=0)
        at = Chunk(theta[3], g[3], f[3], "weight")
        engine = ascent_length(method, [at]) * method.direction(at)
        torch.testing.assert_close(eps[3], engine, rtol=1e-12, atol=0)


def test_a_probe_lies_on_the_edge_of_the_drawn_neighbourhood(paper):
    theta = some_points()
    g, f = paper.gradient(theta), toy.fisher_information(theta)
    sigma = theta[:, 1]
    half = toy.half_axes(toy.exact_fisher_sam(0.5), theta)
    torch.testing.assert_close(half[:, 0], 0.5 * sigma)  # the ellipse of Sec. 3.1
    torch.testing.assert_close(half[:, 1], 0.5 * sigma / 2**0.5)
    for method in (toy.Sam(rho=3.0), toy.literal_asam(0.2), toy.exact_fisher_sam(0.5)):
        eps = eps_of(method, theta, g, f)
        on_edge = (eps / toy.half_axes(method, theta)).norm(dim=-1)
        torch.testing.assert_close(on_edge, torch.ones_like(on_edge), rtol=1e-12, atol=0)


def test_appendix_b_ratio_of_divergence_to_fisher_form_is_one_half(paper):
    """KL(θ + ε, θ) = εᵀFε / 2 to leading order: Appendix B's εᵀFε misses the factor 1/2."""
    theta = some_points()
    g, f = paper.gradient(theta), toy.fisher_information(theta)
    furthest = []
    for gamma in (1e-1, 1e-2, 1e-3):
        eps = eps_of(toy.exact_fisher_sam(gamma), theta, g, f)
        there = theta + eps
        divergence = kl_divergence(Normal(*there.unbind(-1)), Normal(*theta.unbind(-1)))
        ratio = divergence / (eps * f * eps).sum(-1)
        furthest.append(float((ratio - 0.5).abs().max()))
    assert furthest[2] < 1e-3
    assert furthest[0] > 5 * furthest[1] > 25 * furthest[2]  # to 1/2 linearly in γ


def test_equation_13_holds_without_replacement_and_not_with():
    """Mean of squares = α E_B[v(B) v(B)ᵀ] + (1 - α) v vᵀ with α = M(N-1)/(N-M), Theorem 3.1."""
    n = 6
    v = np.random.default_rng(0).normal(size=(n, 3)) + 0.5
    mean = v.mean(axis=0)
    left = np.einsum("ni,nj->ij", v, v) / n
    for m in (1, 2, 3, 5):
        alpha = m * (n - 1) / (n - m)

        def right(batches, alpha=alpha):
            means = np.array([v[list(batch)].mean(axis=0) for batch in batches])
            squared = np.einsum("bi,bj->ij", means, means) / len(means)
            return alpha * squared + (1 - alpha) * np.outer(mean, mean)

        without = right(list(itertools.combinations(range(n), m)))
        np.testing.assert_allclose(without, left, rtol=1e-12)
        if 1 < m < 5:  # one image alone is drawn either way
            with_replacement = right(list(itertools.product(range(n), repeat=m)))
            assert np.abs(with_replacement - left).max() > 0.05


@pytest.mark.parametrize(
    ("figure", "method", "radius", "start", "first", "ends_at"),
    [
        (2, "sam", 0.5, (-30, 29), (-29.390668, 28.722952), "sharp"),
        (2, "fsam", 0.5, (-30, 29), (-29.307540, 28.903430), "flat"),
        (3, "asam", 0.1, (-4, 8), (-4.355348, 9.239417), "sharp"),
        (3, "fsam", 0.5, (-4, 8), (-4.305334, 9.785313), "flat"),
    ],
)
def test_published_trajectories_begin_and_end_where_they_should(
    paths, landmarks, figure, method, radius, start, first, ends_at
):
    ends = toy.endings(paths, landmarks)
    (row,) = ends[(ends.figure == figure) & ends.published & (ends.method == method)].to_dict(
        "records"
    )
    assert row["radius"] == radius
    assert (row["start_mu"], row["start_sigma"]) == start
    assert (row["step1_mu"], row["step1_sigma"]) == pytest.approx(first, abs=1e-6)
    assert row["ends_at"] == ends_at
    minimum = getattr(landmarks, ends_at)
    assert (row["end_mu"], row["end_sigma"]) == pytest.approx((minimum.mu, minimum.sigma), abs=1e-3)


def test_first_steps_of_sharpness_aware_methods_differ_from_sgd_s(paths, landmarks):
    ends = toy.endings(paths, landmarks)
    for _, group in ends.groupby("figure"):
        (sgd,) = group[group.method == "sgd"].to_dict("records")
        for row in group[group.method != "sgd"].to_dict("records"):
            moved = np.hypot(
                row["step1_mu"] - sgd["step1_mu"], row["step1_sigma"] - sgd["step1_sigma"]
            )
            assert moved > 1e-3, row
            assert row["probe"] > 0


def test_sam_reaches_the_flat_minimum_too_once_it_probes_as_far(paths, landmarks):
    ends = toy.endings(paths, landmarks).set_index(["figure", "method", "radius"])["ends_at"]
    assert ends[2, "sam", 0.5] == "sharp"
    assert ends[2, "sam", 10.0] == "flat"
    assert ends[2, "sam_matched", 0.5] == "flat"
    assert ends[3, "asam", 0.5] == "flat"
    assert ends[3, "fsam", 0.1] == "sharp"


def test_sigma_stays_positive_from_where_one_step_would_leave_the_half_plane(paper):
    start = torch.tensor([[[0.0, 0.02], [-20.0, 400.0]]], dtype=torch.float64)
    for step in toy.descend(paper, [toy.Sam(rho=0.5)], start, "cosine"):
        assert float(step.theta[..., 1].min()) >= toy.SMALLEST_SIGMA
        assert float(step.probe[..., 1].min()) >= toy.SMALLEST_SIGMA
        assert bool(step.theta.isfinite().all())


def test_basins_have_1189_starts_and_the_measured_fractions_for_sgd_and_fsam(paper, landmarks):
    methods = [("sgd", toy.Sgd()), ("fsam", toy.exact_fisher_sam(0.5))]
    threads = torch.get_num_threads()
    table = toy_basins.fractions(toy_basins.basins(paper, methods, landmarks))
    assert torch.get_num_threads() == threads
    assert list(table["starts"]) == [1189, 1189]
    for row in table.to_dict("records"):
        assert row["flat_fraction"] == pytest.approx(
            FRACTIONS[row["method"], row["radius"]], abs=0.01
        )
        assert sum(row[name] for name in toy.DESTINATIONS) == row["starts"]
    assert table["saddle"][0] == 0 < table["saddle"][1]  # only a sharpness-aware method stays there


@pytest.mark.slow
def test_basin_fractions_of_every_method_and_radius(paper, landmarks):
    table = toy_basins.fractions(toy_basins.basins(paper, toy_basins.basin_methods(), landmarks))
    found = table.set_index(["method", "radius"])["flat_fraction"]
    for key, expected in FRACTIONS.items():
        assert found[key] == pytest.approx(expected, abs=0.01), key
    assert found["sam", 10.0] > found["fsam", 0.5]


def test_the_command_s_json_has_every_number_and_nothing_else_on_stdout(tmp_path):
    done = fsam("toy", "--no-basins", "-f", "json", cwd=tmp_path)
    document = json.loads(done.stdout)
    assert document["schema"] == "fsam-toy/1"
    page = (Path(__file__).resolve().parents[2] / "docs" / "report-schema.md").read_text()
    keys = (*document, *document["scheme"], *document["points"][0], *document["trajectories"][0])
    assert [key for key in keys if f"`{key}`" not in page] == []
    assert document["energy"] == "paper"
    assert document["scheme"]["learning_rate"] == 30
    assert [point["name"] for point in document["points"]] == ["flat", "sharp", "saddle"]
    assert document["points"][0]["published"]["mu"] == 19.85
    drawn = [row for row in document["trajectories"] if row["published"]]
    assert [row["ends_at"] for row in drawn] == ["sharp", "flat", "sharp", "flat"]
    assert drawn[0]["step1_mu"] == pytest.approx(-29.390668, abs=1e-6)
    exact = toy.landmarks(toy.ToyProblem("paper"))
    endings = toy.endings(toy.trajectories(toy.ToyProblem("paper"), toy.cases()), exact)
    assert [row["probe"] for row in document["trajectories"]] == endings["probe"].tolist()
    assert document["basins"] is None
    assert list(tmp_path.iterdir()) == []


def test_every_format_prints_and_pictures_are_written_with_their_data(
    tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(toy, "STEPS", 30)
    monkeypatch.setattr(toy_basins, "basin_starts", lambda: np.array([[-20.0, 10.0], [20.0, 30.0]]))
    for format in ("table", "markdown", "csv"):
        toy_command(ToyRequest(energy="kl", format=format))
        text = capsys.readouterr().out
        assert "saddle" in text
        if format == "markdown":
            notes = text.rpartition("|\n")[2].strip().splitlines()
            assert len(notes) == 4
            assert all(note.startswith("- ") for note in notes)
        if format == "csv":
            rows = list(csv.DictReader(io.StringIO(text)))
            assert {row["part"] for row in rows} == {"point", "trajectory", "basin"}
            assert {row["energy"] for row in rows} == {"kl"}
            assert {row["figure"] for row in rows} == {"", "2", "3"}
    target = tmp_path / "pictures"
    toy_command(ToyRequest(format="json", figures=target, basins=False))
    captured = capsys.readouterr()
    json.loads(captured.out)
    written = {path.name for path in target.iterdir()}
    assert written == {
        *(f"toy-{i}.{ending}" for i in (1, 2, 3) for ending in ("png", "svg")),
        "toy-paths.csv",
    }
    assert "wrote" in captured.err
