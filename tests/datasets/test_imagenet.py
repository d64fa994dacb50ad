"""imagenet: images that are decoded when they are asked for, whoever asks."""

from __future__ import annotations

import dataclasses
import re
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from sklearn.datasets import load_sample_images
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Resize

from fsam_cli.datasets._on_demand import OnDemand
from fsam_cli.datasets.imagenet import ImageNet, _listed, middle
from fsam_cli.engine.feed import Feed
from fsam_cli.engine.run import execute, loaded
from fsam_cli.engine.seeding import stream
from fsam_cli.engine.train import Hooks
from fsam_cli.errors import DataError, UsageError
from fsam_cli.measure.subjects import recorded
from fsam_cli.measure.weight_perturbation import Network
from fsam_cli.recipe.load import load_experiment
from fsam_cli.recipe.plan import plan
from fsam_cli.records.frame import load_runs
from tests.support.vision import picture

SMALL = ImageNet(size=16, train_size=24)


@pytest.fixture
def tree(tmp_path):
    """Three classes of four training and two validation pictures, wide and high ones."""
    for label in range(3):
        for part, count in (("train", 4), ("val", 2)):
            for number in range(count):
                seed = 10 * label + number + 100 * (part == "val")
                shape = {"width": 40 + seed % 7, "height": 60 - seed % 5}
                picture(tmp_path / part / f"n0000{label}" / f"{number}.png", seed, **shape)
    _listed.cache_clear()
    return tmp_path


@pytest.mark.parametrize(("shorter", "size"), [(32, 28), (37, 29), (45, 45)])
def test_the_middle_is_torchvisions_to_the_bit(tmp_path, shorter, size):
    transform = Compose([Resize(shorter, InterpolationMode.BICUBIC), CenterCrop(size)])
    path = tmp_path / "a.png"
    # Odd and even sides, wide and high, smaller and larger; noise, whose overshoot is clipped.
    shapes = np.random.default_rng(0).integers(17, 160, (60, 2)).tolist()
    for seed, (width, height) in enumerate([(64, 64), (45, 45), (45, 90), *shapes]):
        picture(path, seed, width=width, height=height)
        expected = np.array(transform(Image.open(path))).transpose(2, 0, 1)
        ours = middle(path, shorter=shorter, size=size)
        assert np.array_equal(ours, expected), (width, height)


def test_the_middle_of_a_photograph_is_torchvisions(tmp_path):
    photograph = Image.fromarray(load_sample_images().images[0])
    transform = Compose([Resize(256, InterpolationMode.BICUBIC), CenterCrop(224)])
    for number, shape in enumerate([(500, 375), (375, 500), (333, 500), (91, 67)]):
        path = tmp_path / f"{number}.JPEG"
        photograph.resize(shape).save(path)
        expected = np.array(transform(Image.open(path))).transpose(2, 0, 1)
        assert np.array_equal(middle(path, shorter=256, size=224), expected)


@pytest.mark.parametrize(("size", "shorter"), [(224, 256), (384, 438)])  # 438.9 in full
def test_test_images_are_resized_to_the_pixels_that_timm_resizes_to(tmp_path, size, shorter):
    for name in ("train/n0/0.png", "train/n1/0.png", "val/n0/0.png"):
        picture(tmp_path / name, 3, width=97, height=61)
    data = ImageNet(size=size).load(tmp_path)
    expected = middle(tmp_path / "val/n0/0.png", shorter=shorter, size=size)
    assert np.array_equal(data.test_images[0:1][0].numpy(), expected)


def test_images_are_those_of_their_files_in_order_and_normalised_as_imagenet(tree):
    data = SMALL.load(tree)
    assert data.class_names == ("n00000", "n00001", "n00002")
    assert data.train_labels.tolist() == [0] * 4 + [1] * 4 + [2] * 4
    assert data.test_labels.tolist() == [0, 0, 1, 1, 2, 2]
    assert data.train_images.shape == (12, 3, 24, 24)
    assert data.test_images.shape == (6, 3, 16, 16)
    path = tree / "val/n00001/0.png"
    assert np.array_equal(data.test_images[2:3][0].numpy(), middle(path, shorter=18, size=16))
    path = tree / "train/n00002/1.png"
    assert np.array_equal(
        data.train_images[torch.tensor([9])][0].numpy(), middle(path, shorter=24, size=24)
    )
    assert np.array_equal(data.plain[9:10][0].numpy(), middle(path, shorter=18, size=16))
    assert (data.mean, data.std) == ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def test_its_identity_is_of_names_sizes_and_settings(tree):
    before = SMALL.fingerprint(tree)
    assert (before.train_size, before.test_size, before.classes) == (12, 6, 3)
    assert before.shape == (3, 16, 16)
    assert before.verified is None
    assert ImageNet(size=16, train_size=20).fingerprint(tree).digest != before.digest
    with (tree / "train/n00000/0.png").open("ab") as file:
        file.write(b"more")
    _listed.cache_clear()  # as in another process
    assert SMALL.fingerprint(tree).digest != before.digest


def test_its_identity_does_not_depend_on_how_its_folder_is_spelled(tree, monkeypatch):
    digests = {SMALL.fingerprint(tree).digest}
    here, above, below = tree, tree.parent, tree / "train"
    for place, spelled in (
        *((here, root) for root in (".", "./", f"../{tree.name}", "train/..")),
        *((above, root) for root in (tree.name, f"./{tree.name}/")),
        (below, ".."),
    ):
        monkeypatch.chdir(place)
        digests.add(SMALL.fingerprint(Path(spelled)).digest)
    assert len(digests) == 1


def test_images_are_found_from_wherever_they_are_asked_for(tree, tmp_path_factory, monkeypatch):
    monkeypatch.chdir(tree)
    data = SMALL.load(Path())
    monkeypatch.chdir(tmp_path_factory.mktemp("elsewhere"))
    assert torch.equal(data.test_images[0:6], SMALL.load(tree).test_images[0:6])


def test_a_tree_of_another_form_is_refused_with_the_right_form(tmp_path):
    with pytest.raises(DataError, match=r"\{train,val\}/<class>/images"):
        SMALL.fingerprint(tmp_path)
    with pytest.raises(DataError, match="imagenet cannot be located"):
        SMALL.fingerprint(None)


def test_one_class_is_refused_for_it_may_be_a_folder_of_the_class_folders(tree):
    for part in ("train", "val"):
        (tree / part).rename(tree / "classes")
        (tree / part).mkdir()
        (tree / "classes").rename(tree / part / "ILSVRC")
    with pytest.raises(DataError, match="one class folder 'ILSVRC', whose folders are n00000, "):
        SMALL.fingerprint(tree)


def test_a_class_without_pictures_is_refused_and_a_hidden_folder_is_none(tree):
    before = SMALL.fingerprint(tree)
    picture(tree / "train/.ipynb_checkpoints/0.png", 1)
    _listed.cache_clear()
    assert SMALL.fingerprint(tree) == before
    (tree / "train/n00003").mkdir()
    (tree / "train/n00003/0.heic").write_bytes(b"")
    _listed.cache_clear()
    with pytest.raises(DataError, match=r"train/n00003: its files have the endings \.heic"):
        SMALL.fingerprint(tree)


def test_what_was_named_ahead_is_what_comes_and_anything_else_comes_as_well():
    asked = []

    def decode(path):
        asked.append(path)
        return np.full((1, 2, 2), int(path), dtype=np.uint8)

    images = OnDemand([str(number) for number in range(9)], decode, (1, 2, 2))
    images.ahead(torch.tensor([4, 2]))
    assert images[torch.tensor([4, 2])][:, 0, 0, 0].tolist() == [4, 2]
    assert sorted(asked) == ["2", "4"]  # once each
    images.ahead(torch.tensor([1]))
    assert images[torch.tensor([5, 1, 5])][:, 0, 0, 0].tolist() == [5, 1, 5]
    assert images[6:20][:, 0, 0, 0].tolist() == [6, 7, 8]
    assert images.subset(torch.tensor([8, 0]))[0:2][:, 0, 0, 0].tolist() == [8, 0]
    assert images[torch.tensor([], dtype=torch.long)].shape == (0, 1, 2, 2)


def test_after_a_slice_the_next_one_is_decoded_meanwhile():
    asked = []

    def decode(path):
        asked.append(int(path))
        return np.full((1, 2, 2), int(path), dtype=np.uint8)

    images = OnDemand([str(number) for number in range(8)], decode, (1, 2, 2))
    assert images[0:3][:, 0, 0, 0].tolist() == [0, 1, 2]
    images._threads.shutdown(wait=True)
    assert sorted(asked) == [0, 1, 2, 3, 4, 5]
    images._threads = None
    assert images[3:6][:, 0, 0, 0].tolist() == [3, 4, 5]
    assert images[6:9][:, 0, 0, 0].tolist() == [6, 7]
    images._threads.shutdown(wait=True)
    assert sorted(asked) == list(range(8))  # once each, and nothing beyond the end


def test_a_picture_that_cannot_be_decoded_is_named_where_it_is_asked_for(tree):
    path = tree / "train/n00000/1.png"
    path.write_bytes(path.read_bytes()[:200])
    data = SMALL.load(tree)
    with pytest.raises(DataError, match=r"n00000/1\.png cannot be decoded"):
        data.train_images[0:4]


@pytest.fixture
def planned(tree, tmp_path):
    def make(*overrides):
        recipe = tmp_path / "mine.yaml"
        recipe.write_text(
            f"data: {{name: imagenet, root: {tree}, size: 16, train_size: 24, validation: 0.25,\n"
            "  augment: [{name: random_resized_crop, size: 16}, flip]}\n"
            "model: small_resnet\n"
            "train: {epochs: 2, batch_size: 3}\n"
            "methods: {sam: {rho: 0.1}}\n"
            "seeds: [0]\n"
        )
        experiment = load_experiment(str(recipe), overrides)
        return plan(experiment, out=tmp_path / "runs", device="cpu")[0]

    return make


def test_a_feed_gives_what_it_would_of_images_in_memory(planned, monkeypatch):
    """Blocks of a batch, decoded ahead, against all images at once."""
    one = planned()
    data = loaded(one)
    whole = {
        name: getattr(data, name)[0 : len(getattr(data, name))]
        for name in ("train_images", "test_images", "plain_train_images")
    }
    in_memory = Feed(one, dataclasses.replace(data, **whole), torch.device("cpu"))
    on_demand = Feed(one, data, torch.device("cpu"))
    on_demand._block = 4
    for epoch in (0, 1):
        pairs = zip(on_demand.epoch(epoch), in_memory.epoch(epoch), strict=True)
        for ours, theirs in pairs:
            assert ours.images.shape[1:] == (3, 16, 16)
            assert torch.equal(ours.images, theirs.images)
            assert torch.equal(ours.labels, theirs.labels)
    named = []
    monkeypatch.setattr(OnDemand, "ahead", lambda self, numbers: named.append(numbers.tolist()))
    list(on_demand.epoch(1))
    assert list(map(len, named)) == [3, 3, 0]  # beside each block the following one
    [resumed] = on_demand.epoch(1, first=2)
    assert torch.equal(resumed.images, list(in_memory.epoch(1))[2].images)
    assert on_demand.validation.images.shape == (3, 3, 16, 16)
    assert torch.equal(on_demand.validation.images[0:3], in_memory.validation.images)


def test_a_trained_network_is_perturbed_on_training_images_as_test_images_are_seen(planned):
    one = planned("train.epochs=1")
    assert execute(one, Hooks()).ended == "done"
    [entry] = recorded(load_runs(one.folder.parents[2]), None)
    network = Network(entry.subject, loaded(one), torch.device("cpu"))
    assert torch.equal(network.train.images[0:12], loaded(one).plain[0:12])
    assert network.normalised(network.train.images[0:2]).shape == (2, 3, 16, 16)


def test_an_augmentation_that_ends_at_another_size_is_refused_with_the_remedy(planned):
    one = planned("data.augment=[flip]")
    with pytest.raises(UsageError, match=r"\(3, 24, 24\).*random_resized_crop: \{size: 16\}"):
        next(Feed(one, loaded(one), torch.device("cpu")).epoch(0))


def test_an_image_comes_in_the_order_of_its_memory(tree):
    """Else the one thread that trains would reorder what the others have decoded."""
    picture = next((tree / "train").rglob("*.png"))
    assert middle(picture, shorter=20, size=16).flags["C_CONTIGUOUS"]


def test_an_image_that_cannot_be_read_in_mid_run_loses_no_step(planned, tree):
    """The images are decoded while it trains; mended, the run goes on."""
    one = planned("data.validation=0", "train.batch_size=2")
    order = stream(one.seed, "order", 1).permutation(12)
    path = Path(loaded(one).train_images._paths[order[-1]])  # of the last batch of the second epoch
    whole = path.read_bytes()
    told = []

    def spoil(row):
        path.write_bytes(bytes(len(whole)))
        told.append(row["epoch"])

    with pytest.raises(DataError, match=path.name):
        execute(one, Hooks(on_epoch=spoil))
    assert told == [1]
    assert "cannot be decoded" in (one.folder / "log.txt").read_text()
    path.write_bytes(whole)
    assert execute(one, Hooks()).ended == "done"
    assert re.search(r"continued at step (\d+) of 12", (one.folder / "log.txt").read_text())
