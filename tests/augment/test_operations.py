"""Spaces of operations have torchvision's magnitudes; each image goes through what it drew."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from torchvision.transforms import (
    AutoAugment,
    AutoAugmentPolicy,
    RandAugment,
    TrivialAugmentWide,
)

from fsam_cli.augment._operations import learned, put_through, space
from fsam_cli.augment._pillow import OPERATIONS
from fsam_cli.augment.trivial_augment import SPACE
from fsam_cli.parts import catalogue

WIDE = {"slope": 0.99, "across": 32.0, "down": 32.0, "degrees": 135.0, "factor": 0.99, "bits": 6}


def torchvisions(space):
    """(magnitude, minus the magnitude), or twice the magnitude, of each level."""
    return {
        name: tuple(
            each for m in magnitudes.reshape(-1).tolist() for each in (m, -m if signed else m)
        )
        if magnitudes.ndim
        else ()
        for name, (magnitudes, signed) in space.items()
        if name not in ("Identity", "Invert")
    }


@pytest.mark.parametrize("size", [(32, 32), (23, 64), (224, 224)], ids=str)
def test_what_autoaugment_was_learned_with_are_torchvisions_magnitudes(size):
    theirs = AutoAugment(AutoAugmentPolicy.CIFAR10)._augmentation_space(10, size)
    assert learned(10, *size) == torchvisions(theirs)


@pytest.mark.parametrize("levels", [*range(2, 64), 101, 256])
def test_magnitudes_are_torchvisions_to_the_last_bit_with_any_number_of_levels(levels):
    theirs = RandAugment()._augmentation_space(levels, (37, 95))
    assert learned(levels, 37, 95) == torchvisions(theirs)
    theirs = TrivialAugmentWide()._augmentation_space(levels)
    assert space(levels, **WIDE) == torchvisions(theirs)


def test_trivial_augments_space_is_wide():
    assert torchvisions(TrivialAugmentWide()._augmentation_space(31)) == SPACE


def test_each_image_goes_through_its_own_operations_in_their_order(real_images, to_batch):
    images = to_batch(real_images(120, 16, 12))
    random = np.random.default_rng(0)
    operation = torch.from_numpy(random.integers(0, len(SPACE) + 1, (120, 3)))
    setting = torch.from_numpy(random.integers(0, 62, (120, 3), dtype=np.int8))
    result = put_through(images, operation, setting, SPACE)
    names = (*SPACE, "Identity")
    for i in range(120):
        image = images[i : i + 1]
        for number, one in zip(operation[i].tolist(), setting[i].long(), strict=True):
            if names[number] != "Identity":
                image = OPERATIONS[names[number]](image, one[None], SPACE[names[number]])
        assert torch.equal(result[i : i + 1], image)


def test_the_images_given_are_not_changed(real_images, to_batch):
    images = to_batch(real_images(13, 8, 8))
    before = images.clone()
    operation = torch.arange(13)[:, None]
    put_through(images, operation, torch.full((13, 1), 61), SPACE)
    assert torch.equal(images, before)


def test_images_that_are_neither_grey_nor_colour_are_refused():
    images = torch.zeros((4, 2, 8, 8), dtype=torch.uint8)
    none = torch.zeros((4, 1), dtype=torch.int64)
    with pytest.raises(ValueError, match="grey and colour images; these have 2 channels"):
        put_through(images, none, none, SPACE)


@pytest.fixture(params=["autoaugment", "randaugment", "trivial_augment"])
def part(request):
    """Each augmentation that puts images through operations."""
    return catalogue("augment")[request.param]()


def test_an_empty_batch_comes_back_empty(part, rows):
    images = torch.zeros((0, 3, 8, 8), dtype=torch.uint8)
    assert part.apply(images, rows(part, 0)).shape == images.shape


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_the_gpu_makes_the_same_pixels(part, real_images, to_batch, rows):
    images = to_batch(real_images(2000, 32, 32))
    draws = rows(part, len(images))
    on_gpu = part.apply(images.cuda(), draws)
    assert torch.equal(on_gpu.cpu(), part.apply(images, draws))
