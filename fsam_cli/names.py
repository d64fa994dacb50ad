"""What may name a recipe, a label or a part, which become folders and files."""

from __future__ import annotations

import re

PLAIN_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
