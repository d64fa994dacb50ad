"""Reading the MATLAB files in which older image sets keep their labels."""

from __future__ import annotations

from pathlib import Path
from typing import Any

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
