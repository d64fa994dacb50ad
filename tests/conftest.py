"""What tests of several folders need."""

from __future__ import annotations

import warnings

import pytest


@pytest.fixture
def quiet_compiler():
    """torch's compiler warns of its own deprecations."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
