"""What a data set may load: pixels of another form would train without a word on near black."""

from __future__ import annotations

import pytest
import torch
from torchvision.models import ResNet18_Weights

from fsam_cli.datasets._contract import ImageSet
from fsam_cli.datasets._statistics import statistics
from fsam_cli.errors import DataError

PIXELS = torch.arange(4 * 2 * 3 * 3, dtype=torch.uint8).view(4, 2, 3, 3)
LABELS = torch.tensor([0, 1, 2, 1])


def image_set(**other):
    given = {
        "train_images": PIXELS,
        "train_labels": LABELS,
        "test_images": PIXELS[:2],
        "test_labels": LABELS[:2],
        "class_names": ("a", "b", "c"),
        "mean": (0.0, 0.5),
        "std": (1.0, 0.1),
    }
    return ImageSet(**{**given, **other})


def test_bytes_with_a_label_each_are_taken():
    assert image_set().classes == 3
    assert image_set(train_labels=LABELS.to(torch.uint8)).classes == 3
    assert len(image_set(test_images=PIXELS[:0], test_labels=LABELS[:0]).test_labels) == 0


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize(
    "images",
    [PIXELS.float() / 255, PIXELS.float(), PIXELS.long(), PIXELS[:, 0]],
    ids=["scaled", "float", "long", "flat"],
)
def test_pixels_that_are_not_bytes_are_refused_with_what_to_give(part, images):
    labels = LABELS[: len(images)]
    with pytest.raises(DataError, match=rf"^{part}_images: .*give pixels from 0 to 255"):
        image_set(**{f"{part}_images": images, f"{part}_labels": labels})


@pytest.mark.parametrize("part", ["train", "test"])
@pytest.mark.parametrize(
    ("labels", "words"),
    [
        (torch.tensor([0]), r"shape \(1,\) for 4 images"),
        (torch.tensor([0, 1, 2, 1, 0]), r"shape \(5,\) for 4 images"),
        (LABELS[:, None], r"shape \(4, 1\) for 4 images"),
        (LABELS.int(), "int32"),
        (LABELS.double(), "float64"),
        (LABELS + 1, "1 to 3, and there are 3 class_names; give labels from 0 to 2"),
        (LABELS - 1, "-1 to 1, and there are 3 class_names"),
    ],
)
def test_labels_that_are_not_one_class_for_each_image_are_refused(part, labels, words):
    with pytest.raises(DataError, match=rf"^{part}_labels: .*{words}"):
        image_set(**{f"{part}_images": PIXELS, f"{part}_labels": labels})


@pytest.mark.parametrize("mean", [(0.5, 127.0), (-0.1, 0.5), (float("nan"), 0.5)])
def test_a_mean_of_pixels_that_are_not_scaled_is_refused(mean):
    with pytest.raises(DataError, match=r"^mean: .*divide by 255"):
        image_set(mean=mean)


@pytest.mark.parametrize("std", [(0.0, 0.5), (0.5, 64.0), (0.5, float("nan"))])
def test_a_deviation_that_cannot_be_divided_by_is_refused(std):
    with pytest.raises(DataError, match=r"^std: .*give numbers above 0"):
        image_set(std=std)


def test_pixels_are_normalised_by_the_sets_own_numbers_or_those_of_a_pre_trained_network():
    assert statistics(image_set(), "data") == ((0.0, 0.5), (1.0, 0.1))
    theirs = ResNet18_Weights.DEFAULT.transforms()
    assert statistics(image_set(), "imagenet") == (tuple(theirs.mean), tuple(theirs.std))
    means, stds = statistics(image_set(), "half")
    ends = [
        [(pixel - mean) / std for pixel in (0, 1)] for mean, std in zip(means, stds, strict=True)
    ]
    assert ends == [[-1, 1], [-1, 1]]  # of both channels
