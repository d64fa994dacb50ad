"""`fsam models`: every network with its trainable parameters and multiply-adds."""

from __future__ import annotations

from typing import Any

from pydantic import ValidationError

from fsam_cli.commands._print import print_rows
from fsam_cli.errors import FsamError, UsageError
from fsam_cli.models._contract import multiply_adds, on_meta, trainable_parameters
from fsam_cli.options import ModelsRequest
from fsam_cli.parts import catalogue
from fsam_cli.plugins import plugins_of_command, provided

_LARGEST = 100_000  # of each size; torch's counts of elements overflow far above it


def models(request: ModelsRequest) -> None:
    """A line per model; nothing is computed or allocated (torch's meta device).

    Raises:
        UsageError: a file that is no plugin, or a size that no data have.
    """
    classes, image_size, channels = request.classes, request.image_size, request.channels
    sizes = {"--classes": classes, "--image-size": image_size, "--channels": channels}
    for option, size in sizes.items():
        if size > _LARGEST:
            raise UsageError(f"{option} {size}: at most {_LARGEST:,}")
    rows: list[dict[str, Any]] = []
    theirs = provided(plugins_of_command(request.plugins), "models")
    for name, kind in sorted({**catalogue("models"), **theirs}.items()):
        row: dict[str, Any] = {"model": name, "parameters": None, "multiply-adds": None, "note": ""}
        try:
            settings: Any = kind()
            network = on_meta(settings, channels=channels, classes=classes, image_size=image_size)
            row["multiply-adds"] = multiply_adds(network, (channels, image_size, image_size))
            row["parameters"] = trainable_parameters(network)
        except FsamError as error:  # an image too small for it, for one
            row["note"] = str(error)
        except ValidationError as error:
            row["note"] = _without_default(error)
        except Exception as error:
            if name not in theirs:
                raise
            row["note"] = f"{type(error).__name__}: {error}"
        rows.append(row)
    if not any(row["note"] for row in rows):
        for row in rows:
            del row["note"]
    of = f"for images of {channels}x{image_size}x{image_size} and {classes} classes"
    print_rows(rows, format=request.format, total=of)


def _without_default(error: ValidationError) -> str:
    missing = ", ".join(".".join(map(str, entry["loc"])) for entry in error.errors())
    return f"has no default for {missing}"
