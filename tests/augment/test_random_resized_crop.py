"""Random resized crop: torchvision's boxes, resized for a whole batch at once."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from scipy.stats import kstest
from torch.nn import functional as F

from fsam_cli.augment.random_resized_crop import RandomResizedCrop

DRAWS = 20_000


def boxes(part, height, width, images=DRAWS):
    return part.draw(np.random.default_rng(0), images, height, width)


@pytest.mark.parametrize("size", [None, 20, 90])  # as it was, smaller and larger than any box
def test_every_image_is_its_box_resized_as_torch_resizes_one(real_images, to_batch, size):
    part = RandomResizedCrop(size=size)
    images = real_images(40, 56, 48)
    drawn = boxes(part, 56, 48, 40)
    rows = {key: torch.from_numpy(value) for key, value in drawn.items()}
    cropped = part.apply(to_batch(images), rows)
    for number, image in enumerate(images):
        top, left, height, width = (
            int(drawn[k][number]) for k in ("top", "left", "height", "width")
        )
        box = to_batch([image.crop((left, top, left + width, top + height))]).double()
        shape = (size or 56, size or 48)
        resized = F.interpolate(box, shape, mode="bicubic", antialias=True).clamp(0, 255)[0]
        assert (resized - cropped[number]).abs().max() < 0.5 + 1e-3, number  # rounded


def test_boxes_lie_within_the_image_and_have_the_areas_and_shapes_asked_for():
    part = RandomResizedCrop(scale=(0.2, 0.6), ratio=(0.5, 2.0))
    drawn = boxes(part, 200, 300)
    assert (drawn["top"] >= 0).all()
    assert (drawn["left"] >= 0).all()
    assert (drawn["top"] + drawn["height"] <= 200).all()
    assert (drawn["left"] + drawn["width"] <= 300).all()
    area = drawn["height"] * drawn["width"] / (200 * 300)
    assert 0.19 < area.min() < 0.21
    assert 0.59 < area.max() < 0.61
    shape = drawn["width"] / drawn["height"]
    assert 0.49 < shape.min() < 0.51
    assert 1.98 < shape.max() < 2.03


def test_areas_are_uniform_shapes_log_uniform_and_places_uniform():
    drawn = boxes(RandomResizedCrop(scale=(0.01, 0.02)), 4000, 4000)  # all fit
    area = drawn["height"] * drawn["width"] / 4000**2
    shape = np.log(drawn["width"] / drawn["height"])
    low = math.log(3 / 4)
    assert kstest(area, "uniform", (0.01, 0.01)).pvalue > 1e-3
    assert kstest(shape, "uniform", (low, -2 * low)).pvalue > 1e-3
    top, left = (
        (drawn[start] + 0.5) / (4000 - drawn[length] + 1)
        for start, length in (("top", "height"), ("left", "width"))
    )
    assert kstest(top, "uniform").pvalue > 1e-3
    assert kstest(left, "uniform").pvalue > 1e-3
    assert abs(np.corrcoef(top, left)[0, 1]) < 0.03  # four deviations of independent ones


def test_a_box_has_at_least_a_pixel_each_way():
    drawn = boxes(RandomResizedCrop(scale=(0.01, 0.05), ratio=(0.001, 1000.0)), 8, 8)
    assert (drawn["height"].min(), drawn["width"].min()) == (1, 1)


def test_where_no_box_fits_the_largest_in_the_middle_is_taken():
    drawn = boxes(RandomResizedCrop(scale=(1, 1)), 100, 400, images=5)  # no whole image is 4:3
    assert (drawn["height"] == 100).all()
    assert (drawn["width"] == 133).all()
    assert (drawn["left"] == 134).all()


@pytest.mark.parametrize(
    ("shape", "ratio", "box"),
    [
        ((8, 1), (0.01, 0.01), (8, 1)),
        ((1, 8), (0.01, 0.01), (1, 1)),
        ((1, 8), (100.0, 100.0), (1, 8)),
        ((8, 1), (100.0, 100.0), (1, 1)),
        ((3, 3), (1 / 4096, 1 / 4096), (3, 1)),
        ((3, 3), (4096.0, 4096.0), (1, 3)),
    ],
)
def test_of_an_image_too_small_for_any_shape_that_is_allowed_the_nearest_is_taken(
    shape, ratio, box
):
    crop = RandomResizedCrop(scale=(1.0, 1.0), ratio=ratio)
    draws = crop.draw(np.random.default_rng(1), 4, *shape)
    assert set(zip(draws["height"], draws["width"], strict=True)) == {box}
    images = torch.randint(0, 256, (1, 1, *shape), dtype=torch.uint8).expand(4, -1, -1, -1)
    tensors = {name: torch.from_numpy(values) for name, values in draws.items()}
    if box == shape:  # the whole image, as it was
        assert torch.equal(crop.apply(images, tensors), images)


def test_a_box_of_one_pixel_fills_the_image_with_it():
    images = torch.arange(48, dtype=torch.uint8).view(1, 3, 4, 4)
    box = {"top": [2], "left": [1], "height": [1], "width": [1]}
    cropped = RandomResizedCrop().apply(images, {k: torch.tensor(v) for k, v in box.items()})
    assert cropped.flatten(2).eq(torch.tensor([9, 25, 41]).view(1, 3, 1)).all()


@pytest.mark.parametrize(
    ("settings", "word"),
    [
        ({"scale": (0.5, 0.1)}, "scale"),
        ({"scale": (0, 1)}, "scale"),
        ({"ratio": (2, 1)}, "ratio"),
        ({"ratio": (1, 4097)}, "ratio"),
        ({"ratio": (5e-324, 1)}, "ratio"),
    ],
)
def test_ranges_that_are_none_are_refused(settings, word):
    with pytest.raises(ValidationError, match=rf"{word}\n.* is not a range"):
        RandomResizedCrop(**{k: tuple(map(float, v)) for k, v in settings.items()})
