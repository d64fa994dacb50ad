"""TrivialAugment is torchvision's wide one on PIL images: operations, distribution, pixels."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import chisquare
from torchvision import transforms

from fsam_cli.augment.trivial_augment import LEVELS, NAMES, TrivialAugment

DRAWS = 80_000
THEIRS = list(transforms.TrivialAugmentWide()._augmentation_space(LEVELS))


def steps(draws, image):
    """What torchvision is to draw for this image, by the number of outcomes."""
    number, level, negative = (draws[key][image] for key in ("operation", "level", "negative"))
    return [{14: THEIRS.index(NAMES[number]), 2: int(negative), LEVELS: int(level)}]


def test_the_operations_are_torchvisions():
    assert sorted(NAMES) == sorted(THEIRS)


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [(32, 32), (8, 8), (33, 64), (96, 96)], ids=str)
def test_with_equal_draws_it_is_torchvision_on_pil_images(
    size, mode, real_images, to_batch, rows, given
):
    images = real_images(868, *size, mode)  # about one for each operation, level and sign
    draws = rows(TrivialAugment(), len(images), *size)
    theirs = transforms.TrivialAugmentWide()
    expected = to_batch([given(theirs, image, steps(draws, i)) for i, image in enumerate(images)])
    assert torch.equal(TrivialAugment().apply(to_batch(images), draws), expected)


def test_all_operations_levels_and_signs_are_equally_frequent_together(rows):
    draws = {key: value.long() for key, value in rows(TrivialAugment(), DRAWS).items()}
    kinds = (draws["operation"] * LEVELS + draws["level"]) * 2 + draws["negative"]
    counts = torch.bincount(kinds, minlength=14 * LEVELS * 2)
    assert len(counts) == 14 * LEVELS * 2
    assert chisquare(counts).pvalue > 1e-3


def test_the_numbers_of_an_image_are_uncorrelated_with_its_neighbours(rows):
    numbers = torch.stack([*rows(TrivialAugment(), DRAWS).values()], dim=1).double()
    correlation = torch.corrcoef(torch.cat([numbers[:-1], numbers[1:]], dim=1).T) - torch.eye(6)
    assert correlation.abs().max() < 5 / DRAWS**0.5


def test_it_has_no_settings():
    with pytest.raises(ValidationError, match="magnitude"):
        TrivialAugment(magnitude=9)


def test_draws_never_change_between_versions():
    drawn = TrivialAugment().draw(np.random.default_rng(0), 4, 32, 32)
    assert drawn["operation"].tolist() == [5, 7, 10, 11]
    assert drawn["level"].tolist() == [25, 28, 1, 19]
    assert drawn["negative"].astype(int).tolist() == [0, 1, 1, 1]
