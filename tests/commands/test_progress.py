"""How a launch tells its runs apart."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

from fsam_cli.commands._progress import names_of


def planned(label, cell, seed=0):
    return SimpleNamespace(label=label, cell=cell, seed=seed, folder=Path(label, cell, str(seed)))


def test_runs_go_by_label_and_seed_and_the_points_of_a_sweep_by_their_cell_too():
    one, other = planned("sam", "aa"), planned("fsam", "bb", seed=1)
    point, another = planned("asam", "cc"), planned("asam", "dd")
    names = names_of([one, other, point, another])
    assert list(names.values()) == [
        "sam seed 0",
        "fsam seed 1",
        "asam seed 0 (cc)",
        "asam seed 0 (dd)",
    ]
