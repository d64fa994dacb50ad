"""Every operation equals Pillow's, called as torchvision calls it, bit for bit."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image, ImageOps
from torchvision.transforms import AutoAugment, AutoAugmentPolicy, InterpolationMode
from torchvision.transforms.autoaugment import _apply_op

from fsam_cli.augment._pillow import LEVELS, OPERATIONS

TORCHVISION = AutoAugment(AutoAugmentPolicy.CIFAR10)
AFFINE = ("ShearY", "TranslateX", "TranslateY", "Rotate")
SETTINGS = [(level, negative) for level in range(LEVELS) for negative in (False, True)]


def with_pillow(image: Image.Image, name: str, level: int, negative: bool) -> Image.Image:
    magnitudes, signed = TORCHVISION._augmentation_space(LEVELS, (image.height, image.width))[name]
    magnitude = float(magnitudes[level].item()) if magnitudes.ndim else 0.0
    if signed and negative:
        magnitude *= -1.0
    return _apply_op(image, name, magnitude, InterpolationMode.NEAREST, None)


def assert_exact(name, images, to_batch):
    """All settings of all images in one call of ours, one by one in Pillow."""
    expected = to_batch([with_pillow(i, name, *setting) for setting in SETTINGS for i in images])
    setting = torch.arange(len(SETTINGS)).repeat_interleave(len(images))
    result = OPERATIONS[name](to_batch(images * len(SETTINGS)), setting)
    assert result.dtype == torch.uint8
    wrong = (result != expected).flatten(1).any(1).nonzero().flatten() // len(images)
    assert not len(wrong), f"settings {sorted({SETTINGS[i] for i in wrong.tolist()})}"


def test_the_operations_are_those_of_the_cifar_policies():
    used = {name for pair in TORCHVISION.policies for name, _, _ in pair}
    assert set(OPERATIONS) == used
    assert len(used) == 13


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
        y, x = np.mgrid[:height, :width]
        places = Image.fromarray(np.stack([x, y, np.full_like(x, 255)], axis=2).astype(np.uint8))
        assert_exact(name, [places], to_batch)


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
    result = OPERATIONS["AutoContrast"](to_batch(images), torch.zeros(len(images)).long())
    assert torch.equal(result, expected)


def test_a_single_bright_pixel_leaves_equalize_no_step(real_images, to_batch):
    image = to_batch([real_images(2, 8, 8, "L")[1]])
    assert torch.equal(OPERATIONS["Equalize"](image, torch.zeros(1).long()), image)
