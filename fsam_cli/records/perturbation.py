"""perturbation.csv: how well a trained network stands up to moved weights, one row per strength.

It holds the rows of every way of perturbing that was asked for so far.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from fsam_cli.records.side_table import Measurement, SideTable, optional, truth

TABLE = SideTable(
    "perturbation.csv",
    {
        "subject": str,
        "direction": str,
        "gradient_split": str,  # empty for gaussian: no gradient is asked for
        "relative": str,
        "recalibrated": truth,
        "draw": int,  # 0 for the gradient, which is one direction
        "alpha": float,
        "test_accuracy": float,  # fraction
        "test_loss": float,  # plain cross-entropy, nats
        "eps_norm": float,  # of the whole step, over all weights
        "gradient_norm": optional,
        "weight_norm": float,  # of all trainable weights
        "classes": int,  # 1 / classes is chance
        "seconds": float,  # of this row: perturb, recalibrate, evaluate
        "torch": str,
        "device_name": str,  # of the processor, or the GPU
    },
    key=("direction", "gradient_split", "relative", "recalibrated", "draw", "alpha"),
)


@dataclass(frozen=True)
class PerturbationSetting:
    """The way of perturbing: what tells the curves of one network apart."""

    direction: Literal["gradient", "gaussian"] = "gradient"
    gradient_split: Literal["train", "test"] = "train"
    relative: Literal["none", "filter"] = "none"
    recalibrated: bool = False  # BatchNorm statistics, at the moved weights

    def columns(self) -> Measurement:
        """As the columns of that name hold it."""
        return {
            "direction": self.direction,
            "gradient_split": self.gradient_split if self.direction == "gradient" else "",
            "relative": self.relative,
            "recalibrated": self.recalibrated,
        }

    def describes(self, row: Mapping[str, Any]) -> bool:
        """Whether a row was measured in this way."""
        return all(row[name] == value for name, value in self.columns().items())
