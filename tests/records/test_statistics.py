"""Few-seed statistics, against numbers worked out by hand and against scipy.stats."""

from __future__ import annotations

import math

import numpy as np
import pytest
from scipy import stats

from fsam_cli.records.statistics import Sample, compare, difference, holm, within_noise_of_best


def sample(*values, seeds=None):
    return Sample(dict(zip(seeds or range(len(values)), values, strict=True)))


def test_mean_and_sample_standard_deviation_by_hand():
    three = sample(1.0, 2.0, 6.0)
    assert three.mean == 3
    assert three.std == pytest.approx(math.sqrt((4 + 1 + 9) / 2))


def test_a_single_seed_has_no_spread():
    assert math.isnan(sample(0.9).std)


def test_a_paired_test_by_hand():
    # Differences 1, 2, 3: mean 2, standard error 1/sqrt(3), t = sqrt(12) with 2 degrees of
    # freedom, where Student's distribution is p = 1 - t / sqrt(t^2 + 2).
    found = compare(sample(11.0, 22.0, 33.0), sample(10.0, 20.0, 30.0))
    assert (found.test, found.n, found.difference) == ("paired", 3, 2)
    assert found.standard_error == pytest.approx(1 / math.sqrt(3))
    assert found.p == pytest.approx(1 - math.sqrt(12 / 14))
    half = 4.302652729911275 / math.sqrt(3)  # the 97.5 % quantile at 2 degrees of freedom
    assert (found.low, found.high) == pytest.approx((2 - half, 2 + half))


@pytest.mark.parametrize(("n", "found"), [(33, False), (34, True)])
def test_half_a_standard_deviation_takes_34_pairs(n, found):
    # Cohen 1988: two-sided at 5 %, power 80 %, of the differences' standard deviation.
    scores = np.resize([-1.0, 1.0], n)
    scores = (scores - scores.mean()) / scores.std(ddof=1)
    paired = compare(sample(*scores), sample(*np.zeros(n)))
    assert paired.test == "paired"
    assert (paired.detectable <= 0.5) == found


@pytest.mark.parametrize(("n", "found"), [(63, False), (64, True)])
def test_half_a_standard_deviation_takes_64_of_each_unpaired(n, found):
    scores = np.resize([-1.0, 1.0], n)
    scores = (scores - scores.mean()) / scores.std(ddof=1)
    unpaired = compare(sample(*scores), sample(*scores, seeds=range(1000, 1000 + n)))
    assert unpaired.test == "Welch"
    assert (unpaired.detectable <= 0.5) == found


def test_three_pairs_detect_what_they_find_in_four_of_five_cases():
    three = compare(sample(11.0, 22.0, 33.0), sample(10.0, 20.0, 30.0))
    draws = np.random.default_rng(0).normal(three.detectable, 1.0, size=(20000, 3))  # their spread
    assert (stats.ttest_1samp(draws, 0, axis=1).pvalue < 0.05).mean() == pytest.approx(
        0.8, abs=0.01
    )


def test_pairs_go_by_seed_and_not_by_position():
    found = compare(sample(1.0, 2.0, 4.0), sample(40.0, 10.0, 21.0, seeds=(2, 0, 1)))
    assert found.difference == pytest.approx(7 / 3 - 71 / 3)
    assert found.p == pytest.approx(stats.ttest_rel([1, 2, 4], [10, 21, 40]).pvalue)


def test_seeds_that_only_one_has_are_left_out_of_the_pairs():
    first = sample(1.0, 2.0, 4.0, 50.0)
    second = sample(3.0, 9.0, 5.0, -7.0, seeds=(1, 2, 0, 9))
    found = compare(first, second)
    expected = stats.ttest_rel([1, 2, 4], [5, 3, 9])
    assert (found.test, found.n) == ("paired", 3)
    assert found.difference == pytest.approx(7 / 3 - 17 / 3)
    assert found.p == pytest.approx(expected.pvalue)


@pytest.mark.parametrize(
    ("common", "test"), [(0, "Welch"), (1, "Welch"), (2, "Welch"), (3, "paired"), (6, "paired")]
)
def test_pairs_are_at_least_half_of_the_smaller_sample(common, test):
    draws = np.random.default_rng(common)
    seeds = range(6 - common, 14 - common)
    first, second = sample(*draws.normal(size=6)), sample(*draws.normal(size=8), seeds=seeds)
    found = compare(first, second)
    assert (found.test, found.n) == (test, common if test == "paired" else 6)


def test_two_seeds_beside_others_are_not_tested():
    """Welch's test with two against five is wrong twice as often as it says."""
    assert compare(sample(0.1, 0.2), sample(0.5, 0.9, 0.7, seeds=(5, 6, 7))) is None
    assert compare(sample(0.1, 0.2), sample(0.5, 0.9, 0.7, seeds=(1, 6, 7))) is None
    assert compare(sample(0.1, 0.2), sample(0.5, 0.9)).test == "paired"


def test_different_seeds_are_compared_by_welch():
    first, second = sample(1.0, 2.0, 4.0), sample(3.0, 9.0, 5.0, 7.0, seeds=(3, 4, 5, 6))
    found = compare(first, second)
    expected = stats.ttest_ind([1, 2, 4], [3, 9, 5, 7], equal_var=False)
    interval = expected.confidence_interval(0.95)
    assert (found.test, found.n) == ("Welch", 3)
    assert found.p == pytest.approx(expected.pvalue)
    assert (found.low, found.high) == pytest.approx((interval.low, interval.high))


def test_a_test_of_different_seeds_by_hand():
    # Variances 1 and 1 of three each: Welch's freedom is 4, the standard error sqrt(2/3) and
    # t^2 = 27/2, where Student's distribution is p = 1 - sin(a) (1 + cos(a)^2 / 2), tan(a) = t/2.
    found = compare(sample(1.0, 2.0, 3.0), sample(4.0, 5.0, 6.0, seeds=(3, 4, 5)))
    assert (found.test, found.n, found.difference) == ("Welch", 3, -3)
    assert found.standard_error == pytest.approx(math.sqrt(2 / 3))
    assert found.p == pytest.approx(1 - math.sqrt(13.5 / 17.5) * (1 + 2 / 17.5))
    half = 2.7764451051977934 * math.sqrt(2 / 3)  # the 97.5 % quantile at 4 degrees of freedom
    assert (found.low, found.high) == pytest.approx((-3 - half, -3 + half))


def test_equally_many_but_different_seeds_are_not_paired():
    assert compare(sample(1.0, 2.0, 4.0), sample(1.0, 2.0, 5.0, seeds=(3, 4, 5))).test == "Welch"


@pytest.mark.parametrize("seed", range(5))
def test_p_values_and_intervals_are_scipys(seed):
    draws = np.random.default_rng(seed)
    a, b = draws.normal(size=5), draws.normal(0.5, 2, size=5)
    paired = compare(sample(*a), sample(*b))
    welch = compare(sample(*a), sample(*b, seeds=range(5, 10)))
    theirs = stats.ttest_rel(a, b), stats.ttest_ind(a, b, equal_var=False)
    for found, expected in zip((paired, welch), theirs, strict=True):
        interval = expected.confidence_interval(0.95)
        assert found.p == pytest.approx(expected.pvalue, rel=1e-9)
        assert (found.low, found.high) == pytest.approx((interval.low, interval.high), rel=1e-9)


@pytest.mark.parametrize("seeds", [(0, 1, 2), (3, 4, 5)])
def test_equal_numbers_without_spread_are_not_different(seeds):
    found = compare(sample(0.5, 0.5, 0.5), sample(0.5, 0.5, 0.5, seeds=seeds))
    assert (found.p, found.low, found.high) == (1, None, None)  # no spread, no interval


@pytest.mark.parametrize("seeds", [(0, 1, 2), (3, 4, 5)])
def test_a_constant_difference_without_spread_cannot_be_tested(seeds):
    high, low = sample(0.75, 0.75, 0.75), sample(0.5, 0.5, 0.5, seeds=seeds)
    assert compare(high, low) is None
    assert within_noise_of_best({"a": high, "b": low}, higher_is_better=True) == {"a", "b"}


@pytest.mark.parametrize("value", [0.0109, 0.1, 0.7, 1e-9, 123456.7])
def test_equal_numbers_have_no_spread_and_are_their_own_mean(value):
    for n in range(2, 40):
        assert (sample(*[value] * n).mean, sample(*[value] * n).std) == (value, 0)


def test_equal_cells_with_different_numbers_of_seeds_are_not_different():
    seven, ten = sample(*[0.0109] * 7), sample(*[0.0109] * 10, seeds=range(20, 30))
    found = compare(seven, ten)
    assert (found.test, found.difference, found.standard_error, found.p) == ("Welch", 0, 0, 1)
    assert within_noise_of_best({"a": seven, "b": ten}, higher_is_better=True) == {"a", "b"}


def test_a_constant_paired_difference_has_no_spread_though_it_is_rounded_differently():
    lower = (0.1, 0.3, 0.37, 0.51)
    assert len({value + 0.4 - value for value in lower}) > 1
    assert compare(sample(*(value + 0.4 for value in lower)), sample(*lower)) is None


def test_a_mean_difference_that_is_an_error_of_rounding_is_none():
    found = compare(sample(0.1 + 0.2, 0.7), sample(0.3, 0.7))
    assert (found.difference, found.standard_error, found.p) == (0, 0, 1)


def test_small_numbers_are_compared_on_their_own_scale():
    first, second = sample(1e-15, 2e-15, 6e-15), sample(3e-15, 9e-15, 5e-15)
    expected = stats.ttest_rel([1, 2, 6], [3, 9, 5])
    assert compare(first, second).p == pytest.approx(expected.pvalue)


def test_one_seed_cannot_be_compared():
    assert compare(sample(0.9), sample(0.8)) is None


def test_holm_by_hand():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


def test_everything_within_noise_of_the_best_is_marked():
    samples = {
        "best": sample(0.90, 0.92, 0.94),
        "near": sample(0.91, 0.91, 0.93),
        "far": sample(0.50, 0.52, 0.5399),
    }
    assert within_noise_of_best(samples, higher_is_better=True) == {"best", "near"}
    assert within_noise_of_best(samples, higher_is_better=False) == {"far"}


def test_holm_keeps_what_a_single_test_would_throw_out():
    close = sample(0.0, -0.3, -0.6, -0.4)  # against zeros: p = 0.080
    best = sample(0.0, 0.0, 0.0, 0.0)
    p = compare(best, close).p
    low = sample(-0.1, -0.3, -0.5, -0.4)
    assert 0.025 < compare(best, low).p < 0.05 < p  # 0.032, of two comparisons 0.064
    assert within_noise_of_best({"best": best, "low": low}, higher_is_better=True) == {"best"}
    three = {"best": best, "low": low, "close": close}
    assert within_noise_of_best(three, higher_is_better=True) == set(three)


def test_every_pair_counts_since_the_best_is_seen_from_the_same_numbers():
    """Two that are close to each other make three pairs of what were two comparisons."""
    best, second = sample(0.0, 0.0, 0.0, 0.0), sample(0.1, -0.1, 0.2, -0.3)
    low = sample(-0.15, -0.3, -0.5, -0.4)
    p = compare(best, low).p
    assert 2 * p < 0.05 < 3 * p
    assert compare(second, low).p > 0.05
    assert within_noise_of_best({"best": best, "low": low}, higher_is_better=True) == {"best"}
    three = {"best": best, "second": second, "low": low}
    assert within_noise_of_best(three, higher_is_better=True) == set(three)


@pytest.mark.parametrize(("methods", "seeds"), [(2, 3), (5, 5), (8, 5), (13, 5)])
def test_equal_methods_are_rarely_called_worse(methods, seeds):
    """The promise of the mark, over 400 rows of methods that are all the same."""
    draws = np.random.default_rng(methods)
    rows = 400
    wrong = 0
    for _ in range(rows):
        row = {str(k): sample(*draws.normal(size=seeds)) for k in range(methods)}
        wrong += len(within_noise_of_best(row, higher_is_better=True)) < methods
    assert wrong <= stats.binom.ppf(0.999, rows, 0.05)


def test_single_seeds_are_neither_best_nor_marked_and_one_cell_alone_is_best_of_nothing():
    lucky = {"lucky": sample(0.99), "a": sample(0.8, 0.9), "b": sample(0.7, 0.95)}
    assert within_noise_of_best(lucky, higher_is_better=True) == {"a", "b"}
    assert within_noise_of_best({"a": sample(0.8, 0.9)}, higher_is_better=True) == set()


PAIRS = {"b": Sample({0: 0.82, 1: 0.8301, 2: 0.84}), "a": Sample({0: 0.8, 1: 0.81, 2: 0.82})}


def test_the_difference_is_of_the_seeds_that_both_have_whether_or_not_it_can_be_tested():
    longer = Sample({**PAIRS["a"].by_seed, 3: 0.95, 4: 0.95, 5: 0.95})
    assert difference(PAIRS["b"], longer) == pytest.approx(0.0200333, abs=1e-6)
    assert difference(PAIRS["b"], longer) == compare(PAIRS["b"], longer).difference
    constant = Sample({0: 0.65, 1: 0.66, 2: 0.67})
    more = Sample({0: 0.60, 1: 0.61, 2: 0.62, 3: 0.9})
    assert compare(more, constant) is None
    assert difference(more, constant) == pytest.approx(-0.05)
    assert difference(Sample({0: 0.5}), Sample({7: 0.75})) == -0.25


def test_a_best_mean_that_loses_on_the_shared_seeds_is_not_marked_and_what_beats_it_is():
    longer = Sample({**PAIRS["a"].by_seed, 3: 0.95, 4: 0.95, 5: 0.95})
    assert longer.mean > PAIRS["b"].mean
    cells = {"a": longer, "b": PAIRS["b"]}
    assert within_noise_of_best(cells, higher_is_better=True) == {"b"}
    upside_down = {
        key: Sample({seed: 1 - value for seed, value in cell.by_seed.items()})
        for key, cell in cells.items()
    }
    assert within_noise_of_best(upside_down, higher_is_better=False) == {"b"}
