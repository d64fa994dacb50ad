"""RandAugment is torchvision's on PIL images: operations, distribution, pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import chisquare
from torchvision import transforms

from fsam_cli.augment.randaugment import NAMES, RandAugment

DRAWS = 40_000
THEIRS = list(transforms.RandAugment()._augmentation_space(31, (32, 32)))


def steps(draws, image):
    """What torchvision is to draw for this image, by the number of outcomes."""
    pairs = zip(draws["operation"][image].tolist(), draws["negative"][image].tolist(), strict=True)
    return [{14: THEIRS.index(NAMES[number]), 2: int(negative)} for number, negative in pairs]


def test_the_operations_are_torchvisions():
    assert sorted(NAMES) == sorted(THEIRS)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize(
    ("size", "settings"),
    [
        ((32, 32), {}),
        ((8, 8), {"magnitude": 30}),
        ((33, 64), {"num_ops": 3, "magnitude": 15}),
        ((64, 33), {"num_ops": 1, "magnitude": 5, "num_magnitude_bins": 11}),
        ((96, 96), {"num_ops": 2, "magnitude": 1, "num_magnitude_bins": 2}),
    ],
    ids=str,
)
def test_with_equal_draws_it_is_torchvision_on_pil_images(
    size, settings, mode, real_images, to_batch, rows, given
):
    images = real_images(400, *size, mode)
    part = RandAugment(**settings)
    draws = rows(part, len(images), *size)
    theirs = transforms.RandAugment(**settings)
    expected = to_batch([given(theirs, image, steps(draws, i)) for i, image in enumerate(images)])
    assert torch.equal(part.apply(to_batch(images), draws), expected)


@pytest.mark.slow
@pytest.mark.parametrize("magnitude", range(31))
def test_every_strength_is_torchvisions(magnitude, real_images, to_batch, rows, given):
    images = real_images(400, 32, 32)
    part = RandAugment(magnitude=magnitude)
    draws = rows(part, len(images))
    theirs = transforms.RandAugment(magnitude=magnitude)
    expected = to_batch([given(theirs, image, steps(draws, i)) for i, image in enumerate(images)])
    assert torch.equal(part.apply(to_batch(images), draws), expected)


def test_all_pairs_of_operations_and_signs_are_equally_frequent(rows):
    draws = rows(RandAugment(), DRAWS)
    kind = 2 * draws["operation"].long() + draws["negative"]
    pairs = torch.bincount(28 * kind[:, 0] + kind[:, 1], minlength=28 * 28)
    assert len(pairs) == 28 * 28
    assert chisquare(pairs).pvalue > 1e-3


def test_the_numbers_of_an_image_are_uncorrelated_with_its_neighbours(rows):
    draws = rows(RandAugment(), DRAWS)
    numbers = torch.cat([draws["operation"], draws["negative"]], dim=1).double()
    correlation = torch.corrcoef(torch.cat([numbers[:-1], numbers[1:]], dim=1).T) - torch.eye(8)
    assert correlation.abs().max() < 5 / DRAWS**0.5


def test_a_magnitude_beyond_its_scale_is_refused():
    with pytest.raises(ValidationError, match=r"magnitude: 31 is not below .*; write 0 to 30"):
        RandAugment(magnitude=31)


@pytest.mark.parametrize("settings", [{"num_ops": 0}, {"num_magnitude_bins": 1}, {"magnitude": -1}])
def test_settings_without_a_meaning_are_refused(settings):
    with pytest.raises(ValidationError, match="greater than or equal"):
        RandAugment(**settings)


def test_draws_never_change_between_versions():
    drawn = RandAugment().draw(np.random.default_rng(0), 4, 32, 32)
    assert drawn["operation"].tolist() == [[5, 7], [10, 11], [11, 12], [0, 8]]
    assert drawn["negative"].astype(int).tolist() == [[0, 1], [1, 1], [1, 1], [0, 0]]
