"""stdout is for results: what a user's own code prints goes to stderr, where it spoils no CSV."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

_kept: TextIO | None = None


@contextmanager
def stdout_for_results() -> Iterator[None]:
    """Inside, `print` is heard on stderr, and stdout is reached by `results` alone."""
    global _kept
    _kept, sys.stdout = sys.stdout, sys.stderr
    try:
        yield
    finally:
        sys.stdout, _kept = _kept, None


def results() -> TextIO:
    """The stdout of the process."""
    return sys.stdout if _kept is None else _kept


def forget_results() -> None:
    """Nothing can be written there any more, nor is it tried when the process ends."""
    global _kept
    nowhere = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 (until the end)
    if _kept is None:
        sys.stdout = nowhere
    else:
        _kept = nowhere
