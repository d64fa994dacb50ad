"""Reading the MATLAB files in which older image sets keep their labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from fsam_cli.datasets._contract import refuse_closed
from fsam_cli.errors import DataError


def variable(path: Path, name: str) -> Any:
    """One variable of a `.mat` file, without the dimensions of length 1.

    Raises:
        DataError: no such file or variable, or the file is damaged.
    """
    from scipy.io import loadmat

    if not path.is_file():
        raise DataError(f"no file {path}; put it there")
    try:
        return loadmat(path, squeeze_me=True)[name]
    except Exception as error:  # the reader of damaged files raises whatever it stumbles over
        raise DataError(
            f"{path} is damaged, or has no '{name}' ({type(error).__name__}); fetch it again"
        ) from None


def folder_of(root: Path | None, name: str, within: str) -> Path:
    """Where a set lies: in `root` itself, or in the folder `within` that torchvision makes there.

    Args:
        root: the data folder; None: not given.
        name: of the data set, for the message.
        within: the folder's name.

    Raises:
        DataError: no root, or one that may not be entered.
    """
    if root is None:
        raise DataError(
            f"{name} needs to know where it lies: data.root in the recipe, --data-dir or FSAM_DATA"
        )
    refuse_closed(root)
    return root / within if (root / within).is_dir() else root
