"""Crop, flip and cutout: what moves, what comes in, how often."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError
from scipy.stats import chisquare
from torch.nn import functional as F

from fsam_cli.augment.crop import Crop
from fsam_cli.augment.cutout import Cutout
from fsam_cli.augment.flip import Flip

DRAWS = 40_000


def uniform(values, outcomes):
    """Whether all `outcomes` values occur about equally often."""
    counts = torch.bincount(values, minlength=outcomes)
    assert len(counts) == outcomes
    return chisquare(counts).pvalue > 1e-3


def test_a_crop_is_a_window_of_the_image_with_a_border_of_zeros(real_images, to_batch, rows):
    images = to_batch(real_images(60, 12, 10))
    draws = rows(Crop(padding=3), len(images))
    cropped = Crop(padding=3).apply(images, draws)
    padded = F.pad(images, (3, 3, 3, 3), value=0)
    for i, (top, left) in enumerate(zip(draws["top"], draws["left"], strict=True)):
        assert torch.equal(cropped[i], padded[i, :, top : top + 12, left : left + 10])


def test_what_a_crop_brings_in_from_outside_is_zero_and_nothing_else_is():
    images = torch.full((1, 1, 6, 6), 255, dtype=torch.uint8)
    draws = {"top": torch.tensor([0]), "left": torch.tensor([7])}  # 4 rows above, 3 to the right
    cropped = Crop().apply(images, draws)
    assert cropped[0, 0, 4:, :3].eq(255).all()
    assert cropped.sum() == 255 * 2 * 3


def test_crop_offsets_are_uniform_over_all_81_windows(rows):
    draws = rows(Crop(), DRAWS)
    assert uniform(draws["top"] * 9 + draws["left"], 81)


def test_a_crop_without_padding_changes_nothing(real_images, to_batch, rows):
    images = to_batch(real_images(5, 8, 8))
    assert torch.equal(Crop(padding=0).apply(images, rows(Crop(padding=0), 5)), images)


def test_a_flip_mirrors_left_and_right_of_the_images_drawn(real_images, to_batch, rows):
    images = to_batch(real_images(40, 9, 7))
    draws = rows(Flip(), len(images))
    flipped = Flip().apply(images, draws)
    for i, mirrored in enumerate(draws["flipped"].tolist()):
        assert torch.equal(flipped[i], images[i].flip(2) if mirrored else images[i])


@pytest.mark.parametrize("probability", [0.0, 0.3, 0.5, 1.0])
def test_images_are_flipped_as_often_as_asked(probability, rows):
    share = rows(Flip(probability=probability), DRAWS)["flipped"].double().mean()
    assert share == pytest.approx(
        probability, abs=4 * (probability * (1 - probability) / DRAWS) ** 0.5
    )


@pytest.mark.parametrize("size", [1, 5, 16, 40])
def test_cutout_clears_a_square_clipped_at_the_border_and_nothing_else(size, rows):
    height, width = 20, 24
    part = Cutout(size=size)
    draws = rows(part, 200, height, width)
    images = torch.rand(200, 3, height, width) + 1
    cut = part.apply(images, draws)
    for i, (row, column) in enumerate(zip(draws["row"], draws["column"], strict=True)):
        expected = images[i].clone()
        top, left = int(row) - size // 2, int(column) - size // 2
        expected[:, max(top, 0) : max(top + size, 0), max(left, 0) : max(left + size, 0)] = 0
        assert torch.equal(cut[i], expected)


def test_cutout_centres_are_uniform_over_the_whole_image_border_included(rows):
    draws = rows(Cutout(), DRAWS, 10, 14)
    assert uniform(draws["row"] * 14 + draws["column"], 140)


def test_cutout_at_a_corner_clears_a_quarter_of_the_square():
    draws = {"row": torch.tensor([0]), "column": torch.tensor([31])}
    cut = Cutout().apply(torch.ones(1, 3, 32, 32), draws)
    assert cut[0, :, :8, 23:].eq(0).all()
    assert (cut == 0).sum() == 3 * 8 * 9  # an even square reaches one pixel further up and left


def test_cutout_clears_what_is_not_a_number_too():
    images = torch.full((1, 1, 4, 4), torch.nan)
    draws = {"row": torch.tensor([2]), "column": torch.tensor([2])}
    assert Cutout().apply(images, draws).eq(0).all()


@pytest.mark.parametrize("part", [Crop, Flip, Cutout])
def test_the_images_given_are_not_changed(part, rows):
    images = torch.rand(50, 3, 8, 8) + 1
    before = images.clone()
    part().apply(images, rows(part(), 50, 8, 8))
    assert torch.equal(images, before)


@pytest.mark.parametrize(
    ("part", "settings"),
    [(Crop, {"padding": -1}), (Flip, {"probability": 1.1}), (Cutout, {"size": 0})],
)
def test_settings_without_a_meaning_are_refused(part, settings):
    with pytest.raises(ValidationError):
        part(**settings)
