"""The text of what is written: JSON, with nothing that it cannot hold, and CSV."""

from __future__ import annotations

import csv
import io
import json
import math
from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pandas as pd


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


def csv_text(columns: Iterable[str], rows: Iterable[Mapping[str, Any]]) -> str:
    """A heading and a line per row, floats in full precision."""
    text = io.StringIO()
    writer = csv.DictWriter(text, fieldnames=list(columns), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue()


def frame_csv(frame: pd.DataFrame) -> str:
    """`csv_text` of a frame, without its index."""
    text: str = frame.to_csv(index=False, lineterminator="\n")
    return text
