"""What a run is fed: every draw is a function of seed, purpose, epoch and image."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from fsam_cli.engine.feed import Feed
from fsam_cli.engine.seeding import stream, torch_seed
from fsam_cli.engine.state import State, build_model
from fsam_cli.recipe.load import load_experiment
from fsam_cli.recipe.plan import plan

RECIPE = """
data:
  name: digits
  augment: [{name: crop, padding: 1}, flip, {name: cutout, size: 3}]
  label_noise: {rate: 0.4}
model: small_resnet
train: {epochs: 2, batch_size: 100}
methods: {sgd: {}, sam: {}, fsam: {}}
seeds: [0, 1]
"""


@pytest.fixture
def plans(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(RECIPE)

    def make(*overrides):
        experiment = load_experiment(str(path), overrides)
        return {(p.label, p.seed): p for p in plan(experiment, out=Path("runs"), device="cpu")}

    return make


def feed_of(plan):
    return Feed(plan, plan.data.load(None), torch.device("cpu"))


def epoch_of(feed, epoch=0, first=0):
    return list(feed.epoch(epoch, first))


def same(one, two):
    return len(one) == len(two) and all(
        torch.equal(a.images, b.images)
        and torch.equal(a.labels, b.labels)
        and torch.equal(a.corrupted, b.corrupted)
        for a, b in zip(one, two, strict=True)
    )


def test_methods_of_one_seed_see_the_same_and_seeds_do_not(plans):
    made = plans()
    sam, fsam, other = (
        epoch_of(feed_of(made[key])) for key in (("sam", 0), ("fsam", 0), ("sam", 1))
    )
    assert same(sam, fsam)
    assert not same(sam, other)


def test_methods_of_one_seed_start_from_the_same_weights(plans):
    made = plans()
    data = made["sam", 0].data.load(None)
    models = {key: build_model(made[key], data) for key in made}
    for p, q in zip(models["sam", 0].parameters(), models["fsam", 0].parameters(), strict=True):
        assert torch.equal(p, q)
    assert not torch.equal(next(models["sam", 0].parameters()), next(models["sam", 1].parameters()))


def test_building_a_model_leaves_the_global_random_state_alone(plans):
    made = plans()
    torch.manual_seed(5)
    expected = torch.rand(3)
    torch.manual_seed(5)
    build_model(made["sam", 0], made["sam", 0].data.load(None))
    assert torch.equal(torch.rand(3), expected)


def test_an_epoch_can_be_taken_up_in_its_middle(plans):
    feed = feed_of(plans()["sam", 0])
    whole = epoch_of(feed, 1)
    assert same(whole[5:], epoch_of(feed, 1, first=5))


def test_epochs_differ_in_order_and_augmentation(plans):
    feed = feed_of(plans()["sam", 0])
    first, second = epoch_of(feed, 0), epoch_of(feed, 1)
    assert not same(first, second)
    assert sorted(torch.cat([b.labels for b in first]).tolist()) == sorted(
        torch.cat([b.labels for b in second]).tolist()
    )


def test_batches_cover_every_training_image_once(plans):
    made = plans("data.augment=[]")["sam", 0]
    feed = feed_of(made)
    images = torch.cat([b.images for b in epoch_of(feed)])
    assert len(images) == feed.size == made.training_images
    assert len(torch.unique(images.flatten(1), dim=0)) > 0.99 * feed.size


def test_the_batch_size_changes_no_images_augmentation(plans):
    """A draw belongs to an image, not to its place in a batch."""
    small = torch.cat([b.images for b in epoch_of(feed_of(plans()["sam", 0]))])
    large = torch.cat(
        [b.images for b in epoch_of(feed_of(plans("train.batch_size=300")["sam", 0]))]
    )
    assert torch.equal(small, large)


@pytest.mark.parametrize("flip", ["different", "uniform"])
def test_exactly_the_asked_share_of_labels_is_drawn_and_validation_is_as_noisy(plans, flip):
    made = plans(f"data.label_noise.flip={flip}", "data.validation=0.3")["sam", 0]
    feed, data = feed_of(made), made.data.load(None)
    corrupted = torch.cat([b.corrupted for b in epoch_of(feed)])
    expected = 0.4 if flip == "different" else 0.36  # a tenth of the draws hit the old label
    assert corrupted.double().mean().item() == pytest.approx(expected, abs=0.04)
    assert len(feed.validation) == round(0.3 * len(data.train_labels))
    # Validation images are found again in the training set by their pixels.
    by_pixels = {
        image.numpy().tobytes(): int(label)
        for image, label in zip(data.train_images, data.train_labels, strict=True)
    }
    true = [by_pixels[image.numpy().tobytes()] for image in feed.validation.images]
    wrong = (torch.tensor(true) != feed.validation.labels).double().mean().item()
    assert wrong == pytest.approx(expected, abs=0.08)
    assert torch.equal(feed.test.labels, data.test_labels)  # never corrupted


def test_without_a_validation_part_everything_is_trained_on(plans):
    feed = feed_of(plans("data.validation=0")["sam", 0])
    assert feed.size == 1442
    assert len(feed.validation) == 0


def test_images_that_are_wider_than_high_are_augmented_in_all_of_their_height(plans):
    one = plans("data.augment=[{name: cutout, size: 3}]")["sgd", 0]
    data = one.data.load(None)
    low = {
        f"{part}_images": getattr(data, f"{part}_images")[:, :, :2] for part in ("train", "test")
    }
    shape = replace(one.fingerprint, shape=(1, 2, 8))
    feed = Feed(replace(one, fingerprint=shape), replace(data, **low), torch.device("cpu"))
    for each in epoch_of(feed):
        assert (each.images == 0).flatten(1).any(dim=1).all()  # no square above or below the image


@pytest.mark.parametrize("last", [True, False])
def test_the_weights_of_convolutions_lie_in_the_order_that_the_recipe_names(plans, last):
    one = plans(f"channels_last={last}")["sgd", 0]
    state = State(one, one.data.load(None), {})
    kernels = [w for w in state.model.parameters() if w.dim() == 4 and min(w.shape) > 1]
    assert kernels
    for kernel in kernels:
        assert kernel.is_contiguous(memory_format=torch.channels_last) is last


def test_streams_are_named_and_independent():
    draws = {
        (seed, purpose, epoch): stream(seed, purpose, epoch).integers(0, 2**60)
        for seed in (0, 1)
        for purpose in ("order", "noise")
        for epoch in (0, 1)
    }
    assert len(set(draws.values())) == 8
    assert stream(0, "order", 1).integers(0, 2**60) == draws[0, "order", 1]
    assert torch_seed(0, "masks", 1, 0) != torch_seed(0, "masks", 0, 1)
    assert 0 <= torch_seed(3, "weights") < 2**63


def test_streams_never_change_between_versions():
    """These numbers are part of NUMERICS: a change of them changes every run."""
    assert stream(0, "order").permutation(8).tolist() == _FIRST_ORDER
    assert isinstance(stream(0, "order"), np.random.Generator)


_FIRST_ORDER = [3, 0, 5, 7, 1, 4, 2, 6]
