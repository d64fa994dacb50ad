"""Mean, spread and tests of a few seeds, on scipy.special alone (scipy.stats is slow to import)."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from statistics import mean, stdev
from typing import Literal

from scipy.special import nctdtrinc, stdtr, stdtrit

LEVEL = 0.05
POWER = 0.8
LEAST_UNPAIRED = 3  # seeds
ROUNDING = 1e-12  # of the largest number: what is smaller is an error of arithmetic


@dataclass(frozen=True)
class Sample:
    """Numbers of one cell by seed."""

    by_seed: Mapping[int, float]

    @property
    def n(self) -> int:
        return len(self.by_seed)

    @property
    def mean(self) -> float:
        return float(mean(self.by_seed.values()))

    @property
    def std(self) -> float:
        """Sample standard deviation (ddof 1); NaN for a single seed."""
        return float(stdev(self.by_seed.values())) if self.n > 1 else math.nan


@dataclass(frozen=True)
class Comparison:
    """A two-sided test of mean(first) - mean(second)."""

    test: Literal["paired", "Welch"]
    difference: float
    standard_error: float  # of the difference
    p: float
    low: float | None  # 95 % confidence interval of the difference; None: no spread to have one by
    high: float | None
    # The true difference that this test finds at LEVEL in POWER of cases, going by this spread.
    detectable: float | None
    n: int  # pairs, or the smaller sample


def compare(first: Sample, second: Sample) -> Comparison | None:
    """Paired t-test over the seeds that both have, Welch's where these are too few.

    Numbers of one seed are dependent: the same initial weights, images and noise. Seeds that only
    one of the two has are left out of the pairs, unless fewer than two would remain, or fewer than
    half of the smaller sample's.

    None where no test is possible: fewer than two seeds (three, unpaired: with two against many
    Welch's test rejects twice as often as it should), or numbers that differ without any spread,
    such as one image more in each of two pairs. (Numbers that do not differ have p = 1.)
    """
    pairs = _pairs(first, second)
    if pairs is not None:
        return _paired(first, second, pairs)
    return None if min(first.n, second.n) < LEAST_UNPAIRED else _welch(first, second)


def difference(first: Sample, second: Sample) -> float:
    """What `compare` tests, where there is no test of it too: over the pairs where it pairs."""
    pairs = _pairs(first, second)
    return first.mean - second.mean if pairs is None else pairs.mean


def _pairs(first: Sample, second: Sample) -> Sample | None:
    """The differences by seed; None where too few seeds are of both."""
    common = sorted(set(first.by_seed) & set(second.by_seed))
    if 2 * len(common) < max(4, min(first.n, second.n)):
        return None
    return Sample({seed: first.by_seed[seed] - second.by_seed[seed] for seed in common})


def _paired(first: Sample, second: Sample, pairs: Sample) -> Comparison | None:
    error = pairs.std / math.sqrt(pairs.n)
    ones, others = (Sample({s: each.by_seed[s] for s in pairs.by_seed}) for each in (first, second))
    return _student("paired", ones, others, pairs.mean, error, pairs.n - 1)


def _welch(first: Sample, second: Sample) -> Comparison | None:
    a, b = first.std**2 / first.n, second.std**2 / second.n
    spread = a**2 / (first.n - 1) + b**2 / (second.n - 1)
    freedom = (a + b) ** 2 / spread if spread > 0 else float(first.n + second.n - 2)
    return _student("Welch", first, second, first.mean - second.mean, math.sqrt(a + b), freedom)


def _student(
    test: Literal["paired", "Welch"],
    first: Sample,
    second: Sample,
    difference: float,
    error: float,
    freedom: float,
) -> Comparison | None:
    rounding = ROUNDING * max(map(abs, [*first.by_seed.values(), *second.by_seed.values()]))
    difference, error = (0.0 if abs(x) <= rounding else x for x in (difference, error))
    if error == 0 and difference != 0:  # t would be infinite, whatever the difference
        return None
    n = min(first.n, second.n)
    if error == 0:
        return Comparison(test, difference, error, 1.0, None, None, None, n)
    p = 2 * float(stdtr(freedom, -abs(difference) / error))
    critical = float(stdtrit(freedom, 1 - LEVEL / 2))
    low, high = difference - error * critical, difference + error * critical
    # t is noncentral then; that it errs on the other side, too, adds nothing to speak of.
    detectable = error * float(nctdtrinc(freedom, 1 - POWER, critical))
    return Comparison(test, difference, error, p, low, high, detectable, n)


def holm(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down adjusted p-values, in the order given (Holm 1979)."""
    order = sorted(range(len(p_values)), key=lambda position: p_values[position])
    adjusted = [0.0] * len(p_values)
    highest = 0.0
    for rank, position in enumerate(order):
        highest = max(highest, min(1.0, (len(p_values) - rank) * p_values[position]))
        adjusted[position] = highest
    return adjusted


def within_noise_of_best(samples: Mapping[str, Sample], *, higher_is_better: bool) -> set[str]:
    """The best by mean, and all that no test shows to be worse, at 5 % (Holm over all pairs).

    Which is the best is seen from the same numbers, so every pair counts as one that might have
    been tested: else some method of five to ten equal ones would be called worse in 8 to 14 % of
    rows. Samples of a single seed can be neither told apart nor called best; with fewer than two
    others there is nothing to be best of, and nothing is returned. What no test is possible for is
    not told apart. Pairs are of shared seeds: where samples have further ones, the best by mean may
    be the worse of a pair, and then it is not returned.
    """
    able = {key: sample for key, sample in samples.items() if sample.n >= 2}
    if len(able) < 2:
        return set()
    sign = 1 if higher_is_better else -1
    best = max(able, key=lambda key: sign * able[key].mean)
    pairs = list(combinations(able, 2))
    comparisons = [compare(able[one], able[other]) for one, other in pairs]
    adjusted = holm([1.0 if each is None else each.p for each in comparisons])
    worse = set()
    for (one, other), each, p in zip(pairs, comparisons, adjusted, strict=True):
        if each is not None and p < LEVEL and best in (one, other):
            worse.add(other if sign * each.difference > 0 else one)
    return set(able) - worse
