"""What may name a recipe, a label or a part, which become folders and files."""

from __future__ import annotations

import re

PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")  # also in records, however long
LONGEST_NAME = 100  # characters of a new one; a file system takes some 255, endings included
RULE = (
    f"use at most {LONGEST_NAME} letters, digits, '.', '_' and '-', starting with a letter or digit"
)


def may_name(text: str) -> bool:
    """Whether it keeps the rule."""
    return len(text) <= LONGEST_NAME and PLAIN_NAME.fullmatch(text) is not None
