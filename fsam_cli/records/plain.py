"""Values as JSON has them: its text, and nothing that it cannot hold."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from typing import Any


def plain(value: Any) -> Any:
    """Numbers of numpy as Python's, what is not finite as None, inside whatever holds them."""
    if isinstance(value, Mapping):
        return {str(key): plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [plain(entry) for entry in value]
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def document_text(content: Any) -> str:
    """A whole document, ending with its line."""
    return json.dumps(plain(content), indent=1, allow_nan=False, default=str) + "\n"
