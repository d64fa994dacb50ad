"""Images of one pixel, and what is measured of networks that see them."""

from __future__ import annotations

from pathlib import Path

import torch

from fsam_cli.datasets._contract import DataSet, Fingerprint, ImageSet
from fsam_cli.measure.subjects import Subject
from fsam_cli.models._contract import Model


class OnePixel(DataSet):
    """Training: 0 is class 0, 1 is class 1. Test: 1 is class 1, twice, and 0 is class 1."""

    def fingerprint(self, root):
        return Fingerprint("digest", True, 2, 3, 2, (1, 1, 1))

    def load(self, root):
        pixels = {"train": [0, 255], "test": [255, 255, 0]}
        images = {
            k: torch.tensor(v, dtype=torch.uint8).view(-1, 1, 1, 1) for k, v in pixels.items()
        }
        return ImageSet(
            images["train"],
            torch.tensor([0, 1]),
            images["test"],
            torch.tensor([1, 1, 1]),
            ("zero", "one"),
            (0.0,),
            (1.0,),
        )


def subject_of(weights: Path, model: Model) -> Subject:
    """A network of these weights, its tables beside them."""
    return Subject(
        weights=weights,
        tables=f"{weights.with_suffix('')}.",
        seed=0,
        data=OnePixel(),
        digest="digest",
        data_root=None,
        label_noise=None,
        validation=0.0,
        resize=None,
        normalise="data",
        model=model,
        precision="fp32",
        channels_last=False,
        threads=1,
        identity=weights.stem,
    )
