"""Trained runs for the commands that measure them; other modules bring their own."""

from __future__ import annotations

from tests.support.trained import runs, trained  # noqa: F401 (fixtures)
