"""The weights that a fine-tuning starts from: which file is meant, and what is in it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

from fsam_cli.errors import UsageError
from fsam_cli.recipe.schema import expanded


@dataclass(frozen=True)
class InitialWeights:
    """A file of weights and what identifies its content."""

    path: Path
    digest: str  # first 16 hexadecimal digits of its SHA-256: part of a run's identity


def initial_weights(named: str, recipe_folder: Path, data_root: Path | None) -> InitialWeights:
    """The file that `model.init_from` names: beside the recipe, else in the data folder.

    Raises:
        UsageError: there is none, or it cannot be read.
    """
    folders = [recipe_folder, *([] if data_root is None else [data_root])]
    candidates = [folder / expanded(Path(named)) for folder in folders]
    try:
        path = next((each for each in candidates if each.is_file()), None)
        if path is None:
            tried = " or ".join(dict.fromkeys(str(each) for each in candidates))
            raise UsageError(
                f"model.init_from: no file {tried}; name the folder that it is in with --data-dir, "
                "or its path from the working directory with model.init_from=PATH"
            )
        return InitialWeights(path, _digest(path, path.stat().st_mtime_ns))
    except (OSError, ValueError) as error:  # it may not be read, or no file can have that name
        raise UsageError(f"model.init_from: cannot read {named!r} ({error})") from None


@lru_cache(maxsize=8)
def _digest(path: Path, _changed: int) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()[:16]
