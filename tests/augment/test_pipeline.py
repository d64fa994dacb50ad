"""The pipeline: draws by image number, pixels before normalisation, nothing by batch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from PIL import Image

from fsam_cli.augment._pipeline import Pipeline
from fsam_cli.augment.autoaugment import AutoAugment
from fsam_cli.augment.crop import Crop
from fsam_cli.augment.cutmix import CutMix
from fsam_cli.augment.cutout import Cutout
from fsam_cli.augment.flip import Flip
from fsam_cli.augment.mixup import Mixup
from fsam_cli.augment.randaugment import RandAugment
from fsam_cli.augment.random_erasing import RandomErasing
from fsam_cli.augment.random_resized_crop import RandomResizedCrop
from fsam_cli.augment.trivial_augment import TrivialAugment
from fsam_cli.parts import catalogue

MEAN, STD = (0.49, 0.48, 0.45), (0.25, 0.24, 0.26)
MODERN = [
    ("random_resized_crop", RandomResizedCrop()),
    ("randaugment", RandAugment()),
    ("trivial_augment", TrivialAugment()),
    ("random_erasing", RandomErasing(noise=True)),
]
PAPER = [("crop", Crop()), ("flip", Flip()), ("autoaugment", AutoAugment()), ("cutout", Cutout())]


def streams(epoch):
    """As the engine's: a function of the purpose and the epoch."""
    return lambda purpose: np.random.default_rng([epoch, *purpose.encode()])


def drawn(parts, images, epoch=0):
    pipeline = Pipeline(parts, MEAN, STD)
    count, _, height, width = images.shape
    pipeline.draw(streams(epoch), images=count, height=height, width=width)
    return pipeline


@pytest.fixture(scope="module")
def images(real_images, to_batch):
    return to_batch(real_images(300, 32, 32))


def test_the_folder_provides_the_four_augmentations_of_the_paper_and_those_of_others():
    every = (*PAPER, *MODERN, ("mixup", Mixup()), ("cutmix", CutMix()))
    assert dict(catalogue("augment")) == {name: type(part) for name, part in every}


def test_normalised_images_are_pixels_less_mean_over_std(images):
    pipeline = Pipeline([], MEAN, STD)
    mean, std = (torch.tensor(v, dtype=torch.float64).view(3, 1, 1) for v in (MEAN, STD))
    normalised = pipeline.normalise(images)
    assert normalised.dtype == torch.float32
    torch.testing.assert_close(normalised, ((images.double() / 255 - mean) / std).float())


def test_without_parts_training_images_are_those_of_evaluation(images):
    pipeline = drawn([], images)
    assert torch.equal(pipeline(images, torch.arange(300)), pipeline.normalise(images))


@pytest.mark.parametrize("parts", [PAPER, MODERN], ids=["paper", "modern"])
def test_an_image_is_augmented_equally_in_whatever_batch_it_is(images, parts):
    pipeline = drawn(parts, images)
    whole = pipeline(images, torch.arange(300))
    order = torch.from_numpy(np.random.default_rng(0).permutation(300))
    for size in (1, 64, 299):
        for numbers in order.split(size)[:20]:
            assert torch.equal(pipeline(images[numbers], numbers), whole[numbers])


@pytest.mark.parametrize("parts", [PAPER, MODERN], ids=["paper", "modern"])
def test_a_second_pipeline_draws_the_same_for_the_same_epoch_and_not_for_another(images, parts):
    numbers = torch.arange(300)
    first, again, later = (drawn(parts, images, epoch)(images, numbers) for epoch in (0, 0, 1))
    assert torch.equal(first, again)
    assert not torch.equal(first, later)


def test_parts_are_applied_in_the_order_given(images):
    numbers = torch.arange(300)
    pipeline = drawn(PAPER, images)
    expected = images
    for name, part in PAPER[:3]:
        draws = part.draw(streams(0)(name), 300, 32, 32)
        expected = part.apply(expected, {k: torch.from_numpy(v) for k, v in draws.items()})
    expected = pipeline.normalise(expected)
    draws = PAPER[3][1].draw(streams(0)("cutout"), 300, 32, 32)
    expected = PAPER[3][1].apply(expected, {k: torch.from_numpy(v) for k, v in draws.items()})
    assert torch.equal(pipeline(images, numbers), expected)


def test_cutout_leaves_the_mean_that_is_subtracted(images):
    cut = drawn([("cutout", Cutout(size=64))], images)(images, torch.arange(300))
    assert cut.eq(0).all()


def test_draws_of_a_part_do_not_depend_on_the_parts_beside_it(images):
    numbers = torch.arange(300)
    alone = drawn([("flip", Flip())], images)
    beside = drawn([("crop", Crop(padding=0)), ("flip", Flip())], images)
    assert torch.equal(alone(images, numbers), beside(images, numbers))


def test_a_part_listed_twice_draws_for_each(images):
    numbers = torch.arange(300)
    always = ("crop", Crop(padding=1))
    twice = drawn([always, ("crop", Crop(padding=8))], images)(images, numbers)
    other_way = drawn([always, ("crop.2", Crop(padding=8))], images)(images, numbers)
    assert torch.equal(twice, other_way)
    flips = drawn([("flip", Flip()), ("flip", Flip())], images)(images, numbers)
    unchanged = Pipeline([], MEAN, STD).normalise(images)
    assert 0.3 < (flips == unchanged).flatten(1).all(1).double().mean() < 0.7


def test_pixels_after_normalised_images_are_refused_with_both_names():
    with pytest.raises(ValueError, match="'flip' augments pixels and stands after 'cutout'"):
        Pipeline([("crop", Crop()), ("cutout", Cutout()), ("flip", Flip())], MEAN, STD)


class Scaled(Flip):
    """As one who augments in 0..1 and forgets the way back; normalised, all would be near black."""

    def apply(self, images, draws):
        return super().apply(images, draws) / 255


def test_pixels_that_come_back_as_no_bytes_are_refused_with_the_name(images):
    pipeline = drawn([("scaled", Scaled())], images)
    with pytest.raises(
        ValueError, match=r"'scaled' gave torch\.float32 .*give uint8 from 0 to 255"
    ):
        pipeline(images, torch.arange(300))


def test_a_grey_image_has_one_mean(real_images, to_batch):
    grey = to_batch(real_images(40, 8, 8, "L"))
    pipeline = Pipeline([("crop", Crop(padding=1)), ("autoaugment", AutoAugment())], (0.3,), (0.4,))
    pipeline.draw(streams(0), images=40, height=8, width=8)
    assert pipeline(grey, torch.arange(40)).shape == (40, 1, 8, 8)


def test_neither_images_nor_the_global_random_states_are_touched(images):
    before, state = images.clone(), torch.random.get_rng_state()
    np.random.seed(3)  # noqa: NPY002
    expected = np.random.random()  # noqa: NPY002
    np.random.seed(3)  # noqa: NPY002
    drawn(PAPER, images)(images, torch.arange(300))
    assert torch.equal(images, before)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert np.random.random() == expected  # noqa: NPY002


def test_images_are_resized_before_anything_else_in_training_and_in_evaluation(images):
    pipeline = Pipeline([("crop", Crop())], MEAN, STD, resize=48)
    pipeline.draw(streams(0), images=300, height=32, width=32)
    numbers = torch.arange(300)
    images = images // 2 + 64  # Pillow cuts off what overshoots
    larger = torch.stack(
        [
            torch.from_numpy(np.array(picture.resize((48, 48), Image.Resampling.BICUBIC)))
            for picture in map(Image.fromarray, images.permute(0, 2, 3, 1).numpy())
        ]
    ).permute(0, 3, 1, 2)
    seen = pipeline.normalise(images)
    plain = Pipeline([], MEAN, STD).normalise(larger)
    rounding = 2.01 / 255 / min(STD)  # torchvision's integers are off Pillow's by two at most
    assert (seen - plain).abs().max() <= rounding
    rows = Crop().draw(streams(0)("crop"), 300, 48, 48)
    cropped = Crop().apply(larger, {key: torch.from_numpy(row) for key, row in rows.items()})
    expected = Pipeline([], MEAN, STD).normalise(cropped)
    assert (pipeline(images, numbers) - expected).abs().max() <= rounding


def test_images_of_the_size_asked_for_are_left_as_they_are(images):
    asked, not_asked = (Pipeline([], MEAN, STD, resize=size) for size in (32, None))
    assert torch.equal(asked.normalise(images), not_asked.normalise(images))


def test_what_is_drawn_knows_the_size_that_images_are_brought_to():
    images = torch.full((50, 3, 32, 32), 128, dtype=torch.uint8)
    pipeline = Pipeline([("cutout", Cutout())], (0.0,) * 3, (1.0,) * 3, resize=48)
    pipeline.draw(lambda _: np.random.default_rng(0), images=50, height=32, width=32)
    rows = Cutout().draw(np.random.default_rng(0), 50, 48, 48)
    expected = Cutout().apply(
        pipeline.normalise(images), {key: torch.from_numpy(row) for key, row in rows.items()}
    )
    assert torch.equal(pipeline(images, torch.arange(50)), expected)


def by_hand(parts, images):
    """Each part drawn and applied for the size that it is given, each with a stream of its own."""
    plain = Pipeline([], MEAN, STD)
    for name, part in parts:
        if part.stage == "normalised":
            images = plain.normalise(images)
        rows = part.draw(streams(0)(name), len(images), *images.shape[2:])
        images = part.apply(images, {key: torch.from_numpy(row) for key, row in rows.items()})
    return images


@pytest.mark.parametrize("size", [20, 48, None])
@pytest.mark.parametrize("between", [[], [("crop", Crop())]])
def test_what_is_drawn_knows_the_size_that_a_part_before_gives(images, size, between):
    parts = [("random_resized_crop", RandomResizedCrop(size=size)), *between, ("cutout", Cutout())]
    augmented = drawn(parts, images)(images, torch.arange(300))
    assert torch.equal(augmented, by_hand(parts, images))
    # No channel of the normalised images is 0 elsewhere: every image has its square, or a quarter.
    assert augmented.eq(0).all(dim=1).sum(dim=(1, 2)).min() >= 8 * 8


def test_a_box_lies_in_the_image_that_another_part_made_larger_or_smaller(images):
    for size in (16, 64):
        parts = [
            ("random_resized_crop", RandomResizedCrop(size=size)),
            ("again", RandomResizedCrop(size=24, scale=(0.5, 1.0))),
        ]
        expected = Pipeline([], MEAN, STD).normalise(by_hand(parts, images))
        assert torch.equal(drawn(parts, images)(images, torch.arange(300)), expected)


class Halved(Flip):
    """Every other pixel, which nothing says."""

    def apply(self, images, draws):
        return images[:, :, ::2, ::2]


def test_a_part_that_does_not_say_how_large_its_images_are_is_refused_with_the_name(images):
    pipeline = drawn([("halved", Halved()), ("cutout", Cutout())], images)
    with pytest.raises(ValueError, match=r"'halved' gave .*\(16, 16\).*size_after says \(32, 32\)"):
        pipeline(images, torch.arange(300))


@pytest.mark.parametrize("size", [(32, 48), (48, 32)])
def test_images_of_one_right_side_are_resized_all_the_same(size):
    pipeline = Pipeline([], (0.5,) * 3, (0.5,) * 3, resize=32)
    images = torch.zeros((2, 3, *size), dtype=torch.uint8)
    assert pipeline.normalise(images).shape[2:] == (32, 32)
