"""Label noise and the validation part: exact counts, and nothing but the generator decides."""

from __future__ import annotations

import numpy as np
import pytest

from fsam_cli.datasets._noise import corrupt
from fsam_cli.datasets._split import validation_split
from fsam_cli.errors import DataError
from fsam_cli.recipe.schema import LabelNoise

LABELS = np.random.default_rng(1).integers(0, 10, size=5000)


def noisy(rate, flip="different", *, labels=LABELS, classes=10, seed=7):
    noise = LabelNoise(rate=rate, flip=flip)
    return corrupt(labels, classes=classes, noise=noise, random=np.random.default_rng(seed))


@pytest.mark.parametrize("rate", [0.0, 0.2, 0.4, 0.60004, 0.8, 1.0])
def test_exactly_the_rounded_share_of_labels_becomes_a_different_one(rate):
    assert (noisy(rate) != LABELS).sum() == round(5000 * rate)


@pytest.mark.parametrize(("n", "rate", "hit"), [(5, 0.5, 2), (7, 0.5, 4), (1, 0.4, 0), (1, 0.6, 1)])
def test_the_share_of_few_labels_is_rounded_as_python_rounds(n, rate, hit):
    labels = np.arange(n) % 3
    assert (noisy(rate, labels=labels, classes=3) != labels).sum() == hit


def test_with_two_classes_different_means_the_other_one():
    labels = np.arange(100) % 2
    assert np.array_equal(noisy(1.0, labels=labels, classes=2), 1 - labels)


def test_different_reaches_every_other_class_about_equally():
    counts = np.zeros((10, 10), dtype=int)
    np.add.at(counts, (LABELS, noisy(1.0)), 1)
    assert (np.diag(counts) == 0).all()
    # About 500 labels of each class over 9 others: 56 each, with a deviation of 7.
    others = counts[~np.eye(10, dtype=bool)]
    assert others.min() > 25
    assert others.max() < 90


def test_uniform_draws_from_all_classes_so_that_a_tenth_stays_what_it_was():
    drawn = noisy(1.0, "uniform")
    assert 400 < (drawn == LABELS).sum() < 600
    assert np.bincount(drawn, minlength=10).min() > 400
    assert np.bincount(drawn, minlength=10).max() < 600


def test_uniform_touches_no_more_than_the_rounded_share():
    changed = (noisy(0.4, "uniform") != LABELS).sum()
    assert 1700 < changed <= 2000


@pytest.mark.parametrize("flip", ["different", "uniform"])
def test_equal_generators_give_equal_noise_and_others_do_not(flip):
    assert np.array_equal(noisy(0.4, flip), noisy(0.4, flip))
    assert not np.array_equal(noisy(0.4, flip), noisy(0.4, flip, seed=8))


@pytest.mark.parametrize("flip", ["different", "uniform"])
def test_a_higher_rate_corrupts_all_that_a_lower_one_does_in_the_same_way(flip):
    low, high = noisy(0.2, flip), noisy(0.8, flip)
    hit = low != LABELS
    assert hit.any()
    assert np.array_equal(low[hit], high[hit])


@pytest.mark.parametrize("flip", ["different", "uniform"])
def test_the_labels_given_are_left_as_they_are_and_the_noisy_ones_are_labels(flip):
    before = LABELS.copy()
    after = noisy(0.9, flip)
    assert np.array_equal(LABELS, before)
    assert after.dtype == np.int64
    assert after.min() == 0
    assert after.max() == 9


def test_the_noise_of_a_seed_is_what_it_always_was():
    labels = np.arange(10)
    assert noisy(0.4, labels=labels, seed=0).tolist() == [0, 1, 1, 3, 0, 5, 2, 6, 8, 9]
    assert noisy(0.4, "uniform", labels=labels, seed=0).tolist() == [0, 1, 9, 3, 6, 5, 5, 9, 8, 9]


def test_one_class_has_no_different_label():
    labels = np.zeros(10, dtype=np.int64)
    with pytest.raises(DataError, match=r"data\.label_noise: there is only one class"):
        noisy(0.5, labels=labels, classes=1)
    assert np.array_equal(noisy(0.5, "uniform", labels=labels, classes=1), labels)


@pytest.mark.parametrize(("n", "share", "held"), [(1442, 0.1, 144), (100, 0.25, 25), (5, 0.1, 0)])
def test_the_split_deals_every_image_once_in_order(n, share, held):
    train, validation = validation_split(n, share, np.random.default_rng(3))
    assert len(validation) == held
    assert train.dtype == validation.dtype == np.int64
    assert (np.diff(train) > 0).all()
    assert (np.diff(validation) > 0).all()
    assert sorted([*train, *validation]) == list(range(n))


def test_a_share_of_zero_holds_nothing_out():
    train, validation = validation_split(7, 0.0, np.random.default_rng(3))
    assert train.tolist() == list(range(7))
    assert validation.shape == (0,)


def test_equal_generators_cut_equally():
    first = validation_split(500, 0.2, np.random.default_rng(3))
    again = validation_split(500, 0.2, np.random.default_rng(3))
    other = validation_split(500, 0.2, np.random.default_rng(4))
    assert np.array_equal(first[1], again[1])
    assert not np.array_equal(first[1], other[1])


@pytest.mark.parametrize(("n", "share"), [(2, 0.9), (1, 0.6), (0, 0.0)])
def test_a_split_that_leaves_nothing_to_train_on_is_refused(n, share):
    with pytest.raises(ValueError, match="leaves none"):
        validation_split(n, share, np.random.default_rng(0))
