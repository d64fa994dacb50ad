"""stdout is for results."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from contextlib import contextmanager, redirect_stdout


@contextmanager
def prints_aside() -> Iterator[None]:
    """What a user's own code prints inside goes to stderr, where it spoils no CSV or JSON. Also a
    decorator."""
    with redirect_stdout(sys.stderr):
        yield
