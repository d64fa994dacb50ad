"""What a part of one's own is made from: the contracts of the four rooms, in one place.

See docs/your-own-parts.md. `Minimiser`, `Model`, `DataSet` and `Augmentation` are the bases; the
rest is what their verbs take and give.
"""

from __future__ import annotations

from fsam_cli.augment._contract import Augmentation
from fsam_cli.datasets._contract import DataSet, Fingerprint, ImageSet
from fsam_cli.errors import DataError
from fsam_cli.minimisers._contract import (
    Chunk,
    LogRange,
    Minimiser,
    inverse_fisher_times,
    zero_unless_finite,
)
from fsam_cli.models._contract import Model, initialise, normalisation

__all__ = [
    "Augmentation",
    "Chunk",
    "DataError",
    "DataSet",
    "Fingerprint",
    "ImageSet",
    "LogRange",
    "Minimiser",
    "Model",
    "initialise",
    "inverse_fisher_times",
    "normalisation",
    "zero_unless_finite",
]
