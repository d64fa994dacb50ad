"""One thread, as a quickstart run has."""

from __future__ import annotations

from tests.support.threads import one_thread  # noqa: F401 (a fixture)
