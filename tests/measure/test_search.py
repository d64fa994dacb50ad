"""Equal budgets: where trials are placed, and what is chosen."""

from __future__ import annotations

import pytest

from fsam_cli.measure.search import around, best_of, extended, first_round, point_at, spread
from fsam_cli.minimisers._contract import LogRange
from fsam_cli.parts import catalogue

SPACE = {"rho": LogRange(0.01, 1.0), "eta": LogRange(1e-3, 10.0)}


@pytest.mark.parametrize(("trials", "first"), [(1, 1), (2, 2), (3, 2), (12, 8)])
def test_two_thirds_of_the_trials_cover_the_space(trials, first):
    assert first_round(trials) == first


def test_trials_are_distinct_inside_the_space_and_the_same_every_time():
    points = spread(SPACE, 16, seed=3)
    assert len({tuple(point.items()) for point in points}) == 16
    assert all(SPACE[k].low <= v <= SPACE[k].high for p in points for k, v in p.items())
    assert points == spread(SPACE, 16, seed=3)
    assert spread(SPACE, 5, seed=3) == points[:5]  # no power of two, and not a word about it


def test_each_round_and_each_seed_has_trials_of_its_own():
    draws = [spread(SPACE, 4, seed, later=later) for seed in range(3) for later in (False, True)]
    assert len({point["rho"] for draw in draws for point in draw}) == 4 * len(draws)


@pytest.mark.parametrize("later", [False, True])
def test_the_trials_of_all_methods_lie_at_the_same_shares_of_their_axes(later):
    narrow = {"gamma": LogRange(0.1, 1.0)}
    wide = {"rho": LogRange(0.01, 1.0), "eta": LogRange(0.1, 1.0), "alpha": LogRange(0.1, 1.0)}
    one = [p["gamma"] for p in spread(narrow, 6, seed=1, later=later)]
    three = spread(wide, 6, seed=1, later=later)
    # Half the logarithmic width from the upper end is the same share; three digits are kept.
    assert [p["rho"] ** 0.5 for p in three] == pytest.approx(one, rel=0.01)
    two = [p["eta"] for p in spread(SPACE | {"eta": LogRange(0.1, 1.0)}, 6, seed=1, later=later)]
    assert [p["eta"] for p in three] == two
    assert two != one


def test_a_space_may_have_more_settings_than_any_method():
    many = {f"setting{number}": LogRange(0.1, 1.0) for number in range(40)}
    assert [len(point) for point in spread(many, 3, seed=0)] == [40] * 3


def test_trials_spread_evenly_over_the_logarithm():
    low = [point["rho"] < 0.1 for point in spread(SPACE, 16, seed=0)]
    assert sum(low) == 8  # 0.1 is the middle of 0.01..1 on a logarithmic axis


def test_a_method_without_a_space_has_one_point():
    assert spread({}, 12, seed=0) == [{}]


def test_the_second_round_is_half_as_wide_with_the_best_in_its_middle():
    box = around(SPACE, {"rho": 0.1, "eta": 0.1})
    assert box["rho"].low == pytest.approx(0.1 / 100**0.25)
    assert box["rho"].high / box["rho"].low == pytest.approx(10)
    assert extended(SPACE, box) == []


def test_a_best_on_the_edge_extends_the_space_and_says_so():
    box = around(SPACE, {"rho": 1.0, "eta": 0.1})
    assert box["rho"].high > 1.0
    assert extended(SPACE, box) == ["rho up to 3.16"]
    assert extended(SPACE, around(SPACE, {"rho": 0.01, "eta": 0.1})) == ["rho down to 0.00316"]


def test_rounding_to_three_digits_leaves_no_space():
    space = {"rho": LogRange(0.12345, 0.98765)}
    assert point_at(space, [0.0]) == {"rho": 0.12345}  # 0.123 would be below it
    assert point_at(space, [1.0]) == {"rho": 0.98765}
    assert point_at(space, [0.5]) == {"rho": 0.349}


def test_a_space_that_the_user_gave_is_not_left():
    low = SPACE["eta"].low
    box = around(SPACE, {"rho": 1.0, "eta": low}, within={"rho"})
    assert box["rho"].low == pytest.approx(1 / 100**0.25)
    assert box["rho"].high == 1.0
    assert box["eta"].low < low  # a declared one is
    assert "rho" not in " ".join(extended(SPACE, box))
    at_the_edge = around(SPACE, {"rho": 0.01, "eta": 0.1}, within=SPACE)
    assert at_the_edge["rho"].low == 0.01
    assert extended(SPACE, at_the_edge) == []


def test_the_first_of_equals_is_best_and_a_diverged_trial_never_is():
    points = [{"rho": 1.0}, {"rho": 2.0}, {"rho": 3.0}]
    assert best_of(points, [0.5, 0.7, 0.7]) == {"rho": 2.0}
    assert best_of(points, [None, None, 0.1]) == {"rho": 3.0}
    assert best_of(points, [None, None, None]) is None
    assert best_of(points, [None, 0.0, None]) == {"rho": 2.0}


@pytest.mark.parametrize("name", sorted(catalogue("minimisers")))
def test_every_method_declares_a_space_of_its_own_settings(name):
    method = catalogue("minimisers")[name]
    own = set(method.model_fields)
    assert method.search, name
    for key, (low, high) in method.search.items():
        assert key in own or key.startswith("train."), key
        assert 0 < low < high
