"""digits: the bundled set, its fixed split and its identity."""

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from fsam_cli.datasets import digits
from fsam_cli.datasets.digits import Digits
from fsam_cli.parts import catalogue


@pytest.fixture(scope="module")
def loaded():
    return Digits().load(None)


def test_the_first_image_is_scikit_learns_with_16_levels_spread_over_256(loaded):
    first = load_digits().images[0]
    by_hand = [[round(value * 255 / 16) for value in row] for row in first.tolist()]
    assert loaded.train_images[0, 0].tolist() == by_hand
    assert loaded.train_images.dtype == torch.uint8
    assert loaded.train_images.max() == 255


def test_every_fifth_example_of_a_class_is_a_test_image(loaded):
    bunch = load_digits()
    seen = [0] * 10
    train, test = [], []
    for index, label in enumerate(bunch.target.tolist()):
        seen[label] += 1
        (test if seen[label] % 5 == 0 else train).append(index)
    assert (len(train), len(test)) == (1442, 355)
    assert loaded.train_labels.tolist() == bunch.target[train].tolist()
    assert loaded.test_labels.tolist() == bunch.target[test].tolist()
    rescaled = np.rint(bunch.images[test] * 255 / 16).astype(np.uint8)
    assert np.array_equal(loaded.test_images[:, 0].numpy(), rescaled)


def test_the_split_is_stratified(loaded):
    counts = np.bincount(load_digits().target)
    assert torch.bincount(loaded.test_labels).tolist() == [count // 5 for count in counts]


def test_mean_and_deviation_are_those_of_the_training_part(loaded):
    pixels = loaded.train_images.double() / 255
    assert loaded.mean == pytest.approx([pixels.mean().item()], rel=1e-12)
    assert loaded.std == pytest.approx([pixels.std(correction=0).item()], rel=1e-12)


def test_the_fingerprint_agrees_with_what_is_loaded(loaded):
    found = Digits().fingerprint(None)
    assert (found.train_size, found.test_size) == (
        len(loaded.train_images),
        len(loaded.test_images),
    )
    assert found.shape == tuple(loaded.train_images.shape[1:])
    assert found.classes == loaded.classes == 10
    assert loaded.class_names == tuple("0123456789")
    assert found.verified is True
    assert found.digest == digits.DIGEST


@pytest.mark.parametrize("changed", ["pixel", "label", "split"])
def test_other_content_has_another_digest_and_is_not_verified(monkeypatch, changed):
    images, labels, test = (array.copy() for array in digits._content())
    if changed == "pixel":
        images[5, 0, 0] += 1
    elif changed == "label":
        labels[5] += 1
    else:
        test[5] = not test[5]
    monkeypatch.setattr(digits, "_content", lambda: (images, labels, test))
    found = Digits().fingerprint(None)
    assert found.verified is False
    assert found.digest != digits.DIGEST


def test_loading_twice_shares_no_memory(loaded):
    again = Digits().load(None)
    again.train_images.zero_()
    assert torch.equal(Digits().load(None).train_images, loaded.train_images)


@pytest.mark.parametrize(
    "named",
    ["digits.Digits()", "cifar.Cifar10()", "cifar.Cifar100()"],
)
def test_a_fingerprint_needs_neither_torch_nor_files(named):
    module = named.partition(".")[0]
    code = (
        f"import sys; from fsam_cli.datasets import {module}; {named}.fingerprint(None); "
        "assert not {'torch', 'torchvision'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", code], check=True, timeout=60)


def test_the_room_has_these_data_sets():
    assert set(catalogue("datasets")) >= {"digits", "cifar10", "cifar100", "image_folder"}
