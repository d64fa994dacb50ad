"""What tests of several folders need."""

from __future__ import annotations

import warnings

import pytest

from tests.support.vision import write_cars, write_flowers, write_imagenet


@pytest.fixture
def quiet_compiler():
    """torch's compiler warns of its own deprecations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.fixture(scope="session")
def vision_data(tmp_path_factory):
    """What a plan of the vision transformers' recipes looks at: small sets in the real form, and
    files with the names of weights."""
    root = tmp_path_factory.mktemp("data")
    write_flowers(root)
    write_cars(root)
    write_imagenet(root)
    for name in ("vit_b16.pt", "deit_base_patch16_224-b5f2ef4d.pth"):
        (root / name).write_bytes(b"weights")
    return root
