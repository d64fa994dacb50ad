"""`fsam models`: every network with its trainable parameters and multiply-adds."""

from __future__ import annotations

from typing import Any

import torch

from fsam_cli.commands._print import print_rows
from fsam_cli.errors import FsamError
from fsam_cli.models._contract import Model, multiply_adds, trainable_parameters
from fsam_cli.parts import catalogue


def models(*, classes: int, image_size: int, channels: int, format: str) -> None:
    """A line per model; nothing is computed or allocated (torch's meta device).

    Args:
        classes: of the last layer.
        image_size: height and width in pixels.
        channels: of the images.
        format: table, markdown, csv or json.
    """
    rows: list[dict[str, Any]] = []
    for name, kind in sorted(catalogue("models").items()):
        row: dict[str, Any] = {"model": name, "parameters": None, "multiply-adds": None, "note": ""}
        try:
            with torch.device("meta"):
                model = _build(kind, classes, image_size, channels)
                images = torch.empty(1, channels, image_size, image_size)
        except FsamError as error:  # an image too small for it
            row["note"] = str(error)
        else:
            row["parameters"] = trainable_parameters(model)
            row["multiply-adds"] = multiply_adds(model, images)
        rows.append(row)
    if not any(row["note"] for row in rows):
        for row in rows:
            del row["note"]
    print_rows(rows, format=format)


def _build(kind: Any, classes: int, image_size: int, channels: int) -> torch.nn.Module:
    settings: Model = kind()
    return settings.build(channels=channels, classes=classes, image_size=image_size)
