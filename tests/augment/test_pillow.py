"""Every operation equals Pillow's, called as torchvision calls it, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import (
    AutoAugment,
    AutoAugmentPolicy,
    InterpolationMode,
    RandAugment,
    TrivialAugmentWide,
)
from torchvision.transforms.autoaugment import _apply_op

from fsam_cli.augment._pillow import OPERATIONS

AFFINE = ("ShearX", "ShearY", "TranslateX", "TranslateY", "Rotate")


def settings(name: str, height: int, width: int) -> tuple[float, ...]:
    """Every magnitude that torchvision's three augmentations have for it, with its signs."""
    spaces = (
        AutoAugment(AutoAugmentPolicy.CIFAR10)._augmentation_space(10, (height, width)),
        RandAugment()._augmentation_space(31, (height, width)),
        TrivialAugmentWide()._augmentation_space(31),
    )
    found = []
    for magnitudes, signed in (space[name] for space in spaces if name in space):
        each = magnitudes.double().reshape(-1).tolist()
        found += [*each, *(-magnitude for magnitude in each)] if signed else each
    return tuple(found)


def with_pillow(image: Image.Image, name: str, magnitude: float) -> Image.Image:
    return _apply_op(image, name, magnitude, InterpolationMode.NEAREST, None)


def assert_exact(name, images, to_batch, magnitudes=None):
    """All settings of all images in one call of ours, one by one in Pillow."""
    magnitudes = magnitudes or settings(name, images[0].height, images[0].width)
    expected = to_batch([with_pillow(i, name, each) for each in magnitudes for i in images])
    setting = torch.arange(len(magnitudes)).repeat_interleave(len(images))
    result = OPERATIONS[name](to_batch(images * len(magnitudes)), setting, magnitudes)
    assert result.dtype == torch.uint8
    wrong = (result != expected).flatten(1).any(1).nonzero().flatten() // len(images)
    assert not len(wrong), f"magnitudes {sorted({magnitudes[i] for i in wrong.tolist()})}"


def places(height, width):
    """An image whose pixels say where they are."""
    y, x = np.mgrid[:height, :width]
    return Image.fromarray(np.stack([x, y, np.full_like(x, 255)], axis=2).astype(np.uint8))


def test_the_operations_are_those_of_torchvisions_augmentations():
    policies = AutoAugment(AutoAugmentPolicy.CIFAR10).policies
    used = {name for pair in policies for name, _, _ in pair}
    for space in (
        RandAugment()._augmentation_space(31, (32, 32)),
        TrivialAugmentWide()._augmentation_space(31),
    ):
        used |= set(space)
    assert set(OPERATIONS) == used - {"Identity"}


@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("size", [(8, 8), (32, 32), (23, 64)], ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_all_levels_and_signs_equal_pillow_on_real_images(name, size, mode, real_images, to_batch):
    assert_exact(name, real_images(8, *size, mode), to_batch)


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["L", "RGB"])
@pytest.mark.parametrize("name", OPERATIONS)
def test_many_sizes_equal_pillow_on_real_images(name, mode, real_images, to_batch):
    for height in range(8, 65, 4):
        for width in {height, 72 - height}:
            assert_exact(name, real_images(24, height, width, mode), to_batch)


@pytest.mark.parametrize("name", AFFINE)
def test_affine_operations_read_the_pixels_that_pillow_reads_at_every_size(name, to_batch):
    for height in range(8, 65):
        width = 8 + (height * 5) % 57 if height % 3 else height
        assert_exact(name, [places(height, width)], to_batch)


@pytest.mark.parametrize(
    ("name", "slope"),  # of 65,536ths, which Pillow counts in
    [("ShearX", 13107.5), ("ShearY", 1040.5), ("ShearY", 17873.5)],
)
def test_a_slope_between_two_steps_is_rounded_as_after_torchvisions_way_through_degrees(
    name, slope, to_batch
):
    assert_exact(name, [places(64, 64)], to_batch, (slope / 65536,))


@pytest.mark.parametrize("size", [(1, 1), (1, 9), (2, 2), (3, 3), (5, 2)], ids=str)
@pytest.mark.parametrize("name", OPERATIONS)
def test_images_too_small_for_a_neighbourhood_equal_pillow(name, size, to_batch):
    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), dtype=np.uint8)
    assert_exact(name, [Image.fromarray(pixels)], to_batch)


def test_auto_contrast_truncates_like_pillow_between_any_two_edges(to_batch):
    edges = [(low, high) for low in range(0, 256, 5) for high in range(low, 256)]
    ramp = np.arange(256, dtype=np.uint8).reshape(16, 16)
    images = [Image.fromarray(ramp.clip(low, high)) for low, high in edges]
    expected = to_batch([ImageOps.autocontrast(image) for image in images])
    result = OPERATIONS["AutoContrast"](to_batch(images), torch.zeros(len(images)).long(), ())
    assert torch.equal(result, expected)


def test_a_single_bright_pixel_leaves_equalize_no_step(real_images, to_batch):
    image = to_batch([real_images(2, 8, 8, "L")[1]])
    assert torch.equal(OPERATIONS["Equalize"](image, torch.zeros(1).long(), ()), image)
