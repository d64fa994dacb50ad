"""Runs of two methods with two seeds each, trained for an epoch, as fixtures."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from tests.support.command import TINY, fsam

SHORT = ("-r", "quickstart", *TINY, "train.epochs=1", "seeds=[0, 1]", "-j", "1", "-q")


@pytest.fixture(scope="session")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("trained")
    fsam("train", *SHORT, cwd=folder)
    return folder / "runs"


@pytest.fixture
def runs(trained, tmp_path):
    """A copy of one's own."""
    return Path(shutil.copytree(trained, tmp_path / "runs"))
