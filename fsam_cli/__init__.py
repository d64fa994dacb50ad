"""fsam: benchmarks of sharpness-aware minimisers.

For one's own training loop: `SAM`, `ASAM`, `FisherSAM`, `LengthMatchedSAM`, and `SharpnessAware`
for any other method. For one's own analysis: `load_runs(root)`, all recorded runs as a pandas
frame. All are imported when first used, so that `import fsam_cli` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fsam_cli.engine.own_loop import SharpnessAware
    from fsam_cli.engine.own_methods import ASAM, SAM, FisherSAM, LengthMatchedSAM
    from fsam_cli.records.frame import load_runs

__version__ = "0.1.0"
__all__ = [
    "ASAM",
    "SAM",
    "FisherSAM",
    "LengthMatchedSAM",
    "SharpnessAware",
    "__version__",
    "load_runs",
]

_HOMES = {
    "SAM": "fsam_cli.engine.own_methods",
    "ASAM": "fsam_cli.engine.own_methods",
    "FisherSAM": "fsam_cli.engine.own_methods",
    "LengthMatchedSAM": "fsam_cli.engine.own_methods",
    "SharpnessAware": "fsam_cli.engine.own_loop",
    "load_runs": "fsam_cli.records.frame",
}


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'fsam_cli' has no attribute {name!r}")
    return getattr(importlib.import_module(_HOMES[name]), name)
