"""Every method against its defining equation, hand-computed numbers and a plain reference."""

from __future__ import annotations

import math

import pytest
import torch

from fsam_cli.engine.ascent import ascent_length, climb_, perturb_, restore_
from fsam_cli.minimisers._contract import Chunk
from fsam_cli.minimisers.asam import Asam
from fsam_cli.minimisers.fsam import FisherSam
from fsam_cli.minimisers.sam import Sam
from fsam_cli.minimisers.sam_matched import SamMatched
from fsam_cli.parts import catalogue
from tests.support.networks import Elsewhere

CLIMBERS = {
    "sam": Sam(rho=0.3),
    "asam": Asam(rho=0.7, eta=0.05),
    "asam_all": Asam(rho=0.7, eta=0.0, scope="all"),
    "fsam": FisherSam(gamma=0.2, eta=1.5),
    "fsam_damped": FisherSam(gamma=0.2, eta=0.4, inverse="damped"),
    "sam_matched": SamMatched(gamma=0.2, eta=1.5),
}


def chunks_of(*tensors, kinds=("weight", "bias"), fisher=None, dtype=torch.float64):
    """Chunks from (w, g) pairs."""
    return [
        Chunk(w.to(dtype), g.to(dtype), None if fisher is None else fisher[i].to(dtype), kind)
        for i, ((w, g), kind) in enumerate(zip(tensors, kinds, strict=True))
    ]


def random_chunks(seed=0, sizes=(37, 11), **kwargs):
    random = torch.Generator().manual_seed(seed)
    pairs = [
        (
            torch.randn(n, generator=random, dtype=torch.float64),
            torch.randn(n, generator=random, dtype=torch.float64),
        )
        for n in sizes
    ]
    return chunks_of(*pairs, **kwargs)


def eps_of(method, chunks):
    """The perturbation as one float64 vector, through the product's own path."""
    chunks = [Chunk(c.w.clone(), c.g, c.f, c.kind) for c in chunks]
    before = [c.w.clone() for c in chunks]
    perturb_(method, chunks, [c.w.clone() for c in chunks])
    return torch.cat([c.w - w for c, w in zip(chunks, before, strict=True)])


def flat(chunks, what):
    return torch.cat([getattr(c, what) for c in chunks])


def reference(method, chunks):
    """The equations once more, written plainly on python floats."""
    w, g = flat(chunks, "w").tolist(), flat(chunks, "g").tolist()
    kinds = [c.kind for c in chunks for _ in range(c.w.numel())]
    f = [x * x for x in g] if chunks[0].f is None else flat(chunks, "f").tolist()
    norm = math.sqrt(sum(x * x for x in g))
    if isinstance(method, Sam):
        return [method.rho * x / norm for x in g]
    if isinstance(method, Asam):
        t = [
            abs(x) + method.eta if method.scope == "all" or "weight" in kind else 1.0
            for x, kind in zip(w, kinds, strict=True)
        ]
        tg = math.sqrt(sum((a * b) ** 2 for a, b in zip(t, g, strict=True)))
        return [method.rho * a * a * b / tg for a, b in zip(t, g, strict=True)]
    if method.inverse == "damped":
        natural = [x / (y + method.eta) for x, y in zip(g, f, strict=True)]
    else:
        natural = [x / (1 + method.eta * y) for x, y in zip(g, f, strict=True)]
    dual = math.sqrt(sum(a * b for a, b in zip(g, natural, strict=True)))
    fsam = [method.gamma * x / dual for x in natural]
    if isinstance(method, SamMatched):
        length = math.sqrt(sum(x * x for x in fsam))
        return [length * x / norm for x in g]
    return fsam


@pytest.mark.parametrize("name", CLIMBERS)
@pytest.mark.parametrize("seed", range(3))
def test_every_method_equals_its_plain_reference(name, seed):
    chunks = random_chunks(seed)
    expected = torch.tensor(reference(CLIMBERS[name], chunks), dtype=torch.float64)
    torch.testing.assert_close(eps_of(CLIMBERS[name], chunks), expected, rtol=1e-12, atol=1e-14)


SHIPPED = {name: each() for name, each in catalogue("minimisers").items() if name != "sgd"}
EVERY = {**SHIPPED, **CLIMBERS, "fsam_handed_in": FisherSam(fisher="model", eta=2.0)}


@pytest.mark.parametrize("name", EVERY)
@pytest.mark.parametrize("over", ["new memory", "the gradient", "the scratch"])
def test_w_plus_the_direction_is_what_it_says_wherever_it_is_written(name, over):
    method = EVERY[name]
    for chunk in random_chunks():
        fisher = chunk.g.abs() if method.fisher_source else None
        chunk = chunk._replace(f=fisher, v=chunk.w.flip(0), m=chunk.g.flip(0))
        expected = chunk.w + 0.3 * method.direction(chunk)
        at = chunk._replace(g=chunk.g.clone(), scratch=torch.full_like(chunk.g, math.nan))
        out = {"new memory": None, "the gradient": at.g, "the scratch": at.scratch}[over]
        got = method.w_plus_direction(at, 0.3, out)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)
        assert out is None or got.data_ptr() == out.data_ptr()


@pytest.mark.parametrize("name", EVERY)
def test_off_the_cpu_the_climb_goes_to_the_same_point(name):
    method = EVERY[name]
    chunks = [
        at._replace(f=at.g.abs() if method.fisher_source else None, v=at.w.flip(0))
        for at in random_chunks()
    ]
    places = [torch.full_like(at.w, math.nan) for at in chunks]
    climb_(method, torch.tensor(0.3).as_subclass(Elsewhere), chunks, places)
    for at, place in zip(chunks, places, strict=True):
        if method.perturbs(at.kind):
            expected = at.w + 0.3 * method.direction(at)
            torch.testing.assert_close(place, expected, rtol=1e-6, atol=1e-7)
        else:
            assert place.isnan().all()


class Backwards(FisherSam):
    def direction(self, at):
        return -at.g


class Doubled(FisherSam):
    def preconditioned(self, step, at):
        return 2 * step


class Mixed(Backwards, Asam):
    gamma: float = 1.0


@pytest.mark.parametrize("method", [Backwards(), Doubled(), Mixed()])
def test_a_direction_of_ones_own_is_followed_below_a_method_with_a_faster_way(method):
    for chunk in random_chunks():
        expected = chunk.w + 0.3 * method.direction(chunk)
        got = method.w_plus_direction(chunk, 0.3, None)
        torch.testing.assert_close(got, expected, rtol=1e-12, atol=1e-14)


def test_sam_by_hand():
    chunks = chunks_of((torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])), kinds=("weight",))
    assert eps_of(Sam(rho=0.5), chunks).tolist() == pytest.approx([0.3, 0.4], abs=1e-15)


def test_asam_by_hand_with_a_weight_and_a_bias():
    # T = (2 + 1, 1): Tg = (3, 4), so eps = (9, 4) / 5.
    chunks = chunks_of(
        (torch.tensor([-2.0]), torch.tensor([1.0])), (torch.tensor([7.0]), torch.tensor([4.0]))
    )
    assert eps_of(Asam(rho=1.0, eta=1.0), chunks).tolist() == pytest.approx([1.8, 0.8], abs=1e-15)


def test_asam_literally_as_equation_5_scales_biases_too():
    chunks = chunks_of(
        (torch.tensor([-2.0]), torch.tensor([1.0])), (torch.tensor([0.5]), torch.tensor([4.0]))
    )
    root = math.sqrt(8.0)  # Tg = (2, 2)
    expected = [4 / root, 1 / root]
    got = eps_of(Asam(rho=1.0, eta=0.0, scope="all"), chunks).tolist()
    assert got == pytest.approx(expected, abs=1e-15)


def test_fisher_sam_by_hand():
    # f = (1, 4), Finv = (1/2, 1/5), Finv g = (1/2, 2/5), gᵀFinv g = 1/2 + 4/5 = 1.3
    chunks = chunks_of((torch.zeros(2), torch.tensor([1.0, 2.0])), kinds=("weight",))
    root = math.sqrt(1.3)
    got = eps_of(FisherSam(gamma=2.0, eta=1.0), chunks).tolist()
    assert got == pytest.approx([1.0 / root, 0.8 / root], abs=1e-15)


def test_fisher_sam_with_a_fisher_handed_in_by_hand():
    # damped, eta 0: Finv = 1/f = (4, 1), Finv g = (4, 2), gᵀFinv g = 8
    fisher = [torch.tensor([0.25, 1.0])]
    chunks = chunks_of((torch.zeros(2), torch.tensor([1.0, 2.0])), kinds=("weight",), fisher=fisher)
    method = FisherSam(gamma=1.0, eta=1e-300, inverse="damped", fisher="model")
    expected = [4 / math.sqrt(8), 2 / math.sqrt(8)]
    assert eps_of(method, chunks).tolist() == pytest.approx(expected, abs=1e-15)


@pytest.mark.parametrize("seed", range(3))
def test_sam_stands_on_its_sphere(seed):
    assert eps_of(Sam(rho=0.3), random_chunks(seed)).norm().item() == pytest.approx(0.3)


@pytest.mark.parametrize("seed", range(3))
def test_asam_stands_on_its_ellipsoid(seed):
    method, chunks = Asam(rho=0.7, eta=0.05), random_chunks(seed)
    t = torch.cat([chunks[0].w.abs() + 0.05, torch.ones(11, dtype=torch.float64)])
    assert (eps_of(method, chunks) / t).norm().item() == pytest.approx(0.7)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("inverse", ["anti_regularised", "damped"])
def test_fisher_sam_stands_on_its_ellipsoid(seed, inverse):
    method = FisherSam(gamma=0.2, eta=0.8, inverse=inverse)
    chunks = random_chunks(seed)
    g = flat(chunks, "g")
    fisher = 1 + 0.8 * g**2 if inverse == "anti_regularised" else g**2 + 0.8
    eps = eps_of(method, chunks)
    assert (eps * fisher * eps).sum().sqrt().item() == pytest.approx(0.2)


@pytest.mark.parametrize("seed", range(3))
def test_no_point_of_the_ellipsoid_climbs_further_to_first_order(seed):
    """eps maximises g·eps over the neighbourhood: random points of its surface do worse."""
    method, chunks = FisherSam(gamma=0.2, eta=0.8), random_chunks(seed)
    g, eps = flat(chunks, "g"), eps_of(method, chunks)
    fisher = 1 + 0.8 * g**2
    random = torch.Generator().manual_seed(seed)
    for _ in range(50):
        other = torch.randn(g.numel(), generator=random, dtype=torch.float64)
        other *= 0.2 / (other * fisher * other).sum().sqrt()
        assert torch.dot(g, other) < torch.dot(g, eps)


def test_length_matched_sam_has_sams_direction_and_fisher_sams_length():
    chunks = random_chunks()
    g = flat(chunks, "g")
    matched = eps_of(SamMatched(gamma=0.2, eta=1.5), chunks)
    fisher = eps_of(FisherSam(gamma=0.2, eta=1.5), chunks)
    assert matched.norm().item() == pytest.approx(fisher.norm().item())
    assert torch.dot(matched, g) / (matched.norm() * g.norm()) == pytest.approx(1.0)
    assert not torch.allclose(matched, fisher)


def test_fisher_sam_becomes_sam_where_eta_is_zero():
    chunks = random_chunks()
    torch.testing.assert_close(
        eps_of(FisherSam(gamma=0.3, eta=0.0), chunks), eps_of(Sam(rho=0.3), chunks)
    )


def test_sam_ignores_the_scale_of_the_loss_and_fisher_sam_does_not():
    chunks = random_chunks()
    scaled = [Chunk(c.w, 100 * c.g, None, c.kind) for c in chunks]
    torch.testing.assert_close(eps_of(Sam(rho=0.3), chunks), eps_of(Sam(rho=0.3), scaled))
    fsam = FisherSam(gamma=0.3, eta=1.0)
    assert (eps_of(fsam, chunks) - eps_of(fsam, scaled)).norm() > 0.01


@pytest.mark.parametrize("factor", [0.1, 7.0])
def test_asam_is_invariant_to_rescaled_weights(factor):
    """w -> a w with g -> g / a leaves eps / w alone when eta is 0 (Kwon et al., Theorem 1)."""
    method, chunks = Asam(rho=0.7, eta=0.0, scope="all"), random_chunks()
    rescaled = [Chunk(factor * c.w, c.g / factor, None, c.kind) for c in chunks]
    w = flat(chunks, "w")
    torch.testing.assert_close(eps_of(method, chunks) / w, eps_of(method, rescaled) / (factor * w))


@pytest.mark.parametrize("name", CLIMBERS)
def test_cutting_the_weights_into_chunks_changes_nothing(name):
    chunks = random_chunks(sizes=(64,), kinds=("weight",))
    halves = [
        Chunk(chunks[0].w[at], chunks[0].g[at], None, "weight")
        for at in (slice(0, 10), slice(10, 64))
    ]
    torch.testing.assert_close(eps_of(CLIMBERS[name], chunks), eps_of(CLIMBERS[name], halves))


@pytest.mark.parametrize("name", CLIMBERS)
def test_a_zero_gradient_leaves_nowhere_to_climb(name):
    chunks = chunks_of((torch.ones(3), torch.zeros(3)), kinds=("weight",), dtype=torch.float32)
    assert eps_of(CLIMBERS[name], chunks).tolist() == [0.0, 0.0, 0.0]


@pytest.mark.parametrize("name", ["sam", "asam", "asam_all", "fsam"])
@pytest.mark.parametrize("scale", [1e-30, 1e25])
def test_squares_out_of_float32s_range_still_give_the_right_radius(name, scale):
    """g² under- or overflows in float32 where g itself does not."""
    method = CLIMBERS[name]
    g = torch.tensor([3.0, -4.0, 12.0]) * scale
    w = torch.tensor([1.0, 2.0, 3.0])
    chunks = chunks_of((w, g), kinds=("weight",), dtype=torch.float32)
    eps = eps_of(method, chunks)
    assert torch.isfinite(eps).all()
    wide = chunks_of((w, g.double()), kinds=("weight",))
    length = ascent_length(method, chunks).double()
    expected = ascent_length(method, wide)
    if name != "fsam" or scale < 1:  # above, fsam's direction itself is below float32's range
        assert length.item() == pytest.approx(expected.item(), rel=1e-5)
        assert eps.norm() > 0


@pytest.mark.parametrize("name", ["sam", "asam", "asam_all", "fsam", "sam_matched"])
@pytest.mark.parametrize("scale", [1e-15, 1e-17, 1e-19, 1e-21, 3e-23, 1e-23, 1e-30, 1e-37])
def test_squares_that_lose_digits_in_float32_still_give_the_right_radius(name, scale):
    """Not 0 as a sum, and each of them rounded to a multiple of 1e-45."""
    (chunk,) = random_chunks(sizes=(10_000,), kinds=("weight",))
    g = (scale * chunk.g).float()
    lengths = [
        ascent_length(CLIMBERS[name], chunks_of((chunk.w, g), kinds=("weight",), dtype=dtype))
        for dtype in (torch.float32, torch.float64)
    ]
    assert lengths[0].dtype == torch.float32
    assert lengths[0].item() == pytest.approx(lengths[1].item(), rel=1e-5)


def test_a_gradient_too_small_for_any_factor_of_float32_leaves_nowhere_to_climb():
    chunks = chunks_of((torch.ones(1), torch.tensor([1e-42])), kinds=("weight",))
    narrow = [Chunk(at.w.float(), at.g.float(), None, at.kind) for at in chunks]
    assert narrow[0].g.item() > 0
    assert eps_of(Sam(rho=0.3), narrow).tolist() == [0.0]


@pytest.mark.parametrize("name", CLIMBERS)
def test_the_way_back_is_exact(name):
    chunks = random_chunks(dtype=torch.float32)
    before, saved = ([c.w.clone() for c in chunks] for _ in range(2))
    perturb_(CLIMBERS[name], chunks, saved)
    assert not torch.equal(chunks[0].w, before[0])
    restore_(chunks, saved)
    assert all(torch.equal(c.w, w) for c, w in zip(chunks, before, strict=True))


@pytest.mark.parametrize("name", CLIMBERS)
def test_float32_agrees_with_float64_to_rounding(name):
    narrow = eps_of(CLIMBERS[name], random_chunks(dtype=torch.float32))
    wide = eps_of(CLIMBERS[name], random_chunks(dtype=torch.float64))
    torch.testing.assert_close(narrow.double(), wide, rtol=1e-4, atol=1e-6)


@pytest.mark.parametrize("name", sorted(catalogue("minimisers")))
def test_every_method_file_opens_with_its_equation_and_its_cost(name):
    import importlib

    module = importlib.import_module(catalogue("minimisers")[name].__module__)
    assert "eps" in module.__doc__
    assert "Cost" in module.__doc__


def test_reshaped_marks_the_weights_whose_metric_departs_by_a_tenth():
    g = torch.tensor([0.1, 0.3, 1.0])
    chunk = Chunk(torch.zeros(3), g, None, "weight")  # eta f = 0.01, 0.09, 1
    assert FisherSam(gamma=0.1, eta=1.0).reshaped(chunk).tolist() == [False, False, True]
    damped = FisherSam(gamma=0.1, eta=1.0, inverse="damped")
    assert damped.reshaped(chunk).tolist() == [False, False, True]
    assert Sam(rho=0.1).reshaped(chunk) is None


def test_costs_in_gradients():
    costs = {
        name: part().gradients(10)
        for name, part in catalogue("minimisers").items()
        if name in ("sgd", "sam", "asam", "fsam", "sam_matched")
    }
    assert costs == {"sgd": 1, "sam": 2, "asam": 2, "fsam": 2, "sam_matched": 2}
    assert FisherSam(fisher="empirical").gradients(10) == 3
    assert FisherSam(fisher="model").gradients(10) == 3
    assert FisherSam(fisher="model", labels="all").gradients(10) == 12


def test_a_bare_name_means_the_settings_that_it_always_meant():
    """SAM's, ASAM's and FSAM's are the paper's for CIFAR-10; recipes and studies build on all."""
    settings = {name: part().model_dump() for name, part in catalogue("minimisers").items()}
    fisher = {"fisher": "gradient_magnitude", "inverse": "anti_regularised", "labels": 1}
    assert settings == {
        name: {"m_sharpness": None, "natural_gradient": None, **own}
        for name, own in {
            "sgd": {},
            "sam": {"rho": 0.05},
            "asam": {"rho": 0.5, "eta": 0.01, "scope": "weights"},
            "fsam": {"gamma": 0.1, "eta": 1.0, **fisher},
            "sam_matched": {"gamma": 0.1, "eta": 1.0, **fisher},
            "friendly_sam": {"rho": 0.05, "sigma": 1.0, "decay": 0.9},
            "gsam": {"rho": 0.05, "alpha": 0.1, "rho_min": None},
            "late_sam": {"rho": 0.05, "start": 0.8},
            "look_sam": {"rho": 0.05, "k": 5, "alpha": 0.7},
            "msam": {"rho": 0.3},
            "sam_on": {"rho": 0.5},
            "usam": {"rho": 0.1},
        }.items()
    }


@pytest.mark.parametrize("name", sorted(catalogue("minimisers")))
def test_radii_are_above_0_and_other_settings_not_below_it(name):
    part = catalogue("minimisers")[name]
    for key, default in part().model_dump().items():
        if not isinstance(default, float):
            continue
        refused = (0, -0.1) if key in ("rho", "gamma") else (-0.1,)
        for value in refused:
            with pytest.raises(ValueError, match=key):
                part(**{key: value})
