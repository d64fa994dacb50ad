"""Saving and reading tensors: safe to load, whole or not at all."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import torch

from fsam_cli.errors import RecordError
from fsam_cli.records.store import write_atomically


def save(path: Path, content: dict[str, Any]) -> None:
    """Write a dictionary of tensors and plain values.

    Raises:
        RecordError: the disk refuses.
    """
    buffer = io.BytesIO()
    torch.save(content, buffer)
    write_atomically(path, buffer.getbuffer())


def load(path: Path) -> dict[str, Any]:
    """Read what `save` wrote, onto the CPU; only data can come out of the file (`weights_only`).

    Raises:
        RecordError: damaged, or not such a file.
        MemoryError: not the file's fault.
    """
    try:
        content = torch.load(path, map_location="cpu", weights_only=True)
    except MemoryError:
        raise
    except Exception as error:  # the unpickler of other files raises whatever it stumbles over
        raise RecordError(
            f"{path} is damaged ({type(error).__name__}); "
            "remove it to have this run start again from the beginning"
        ) from error
    if not isinstance(content, dict):
        raise RecordError(
            f"{path} is not an fsam checkpoint; remove it to have this run start again"
        )
    return content
