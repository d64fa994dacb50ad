"""What may name a recipe, a label or a part, which become folders and files."""

from __future__ import annotations

import re

LONGEST_NAME = 100  # characters; a file system takes some 255, endings included
PLAIN_NAME = re.compile(rf"[A-Za-z0-9][A-Za-z0-9._-]{{0,{LONGEST_NAME - 1}}}")
RULE = (
    f"use at most {LONGEST_NAME} letters, digits, '.', '_' and '-', starting with a letter or digit"
)
