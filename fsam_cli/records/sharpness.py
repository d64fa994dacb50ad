"""sharpness.csv: how sharp the training loss is at the trained weights, one row per number."""

from __future__ import annotations

from fsam_cli.records.side_table import SideTable, optional

TABLE = SideTable(
    "sharpness.csv",
    {
        "subject": str,
        "measure": str,  # loss, gradient_norm, lambda_max, trace, or `rise.` and a neighbourhood
        "setting": str,  # what else decides the number; empty where nothing does
        "version": int,  # of the way in which fsam measures it
        "images": int,  # over which the loss is a mean
        "of": int,  # images that the run was trained on
        "value": float,  # losses and rises in nats
        "error": optional,  # bound of lambda_max's residual; standard error of a mean
        "seconds": float,
        "torch": str,
        "device_name": str,  # of the processor, or the GPU
    },
    key=("measure", "setting", "version", "images"),
)
