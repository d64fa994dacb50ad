"""From a run's record to the network that is measured."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from fsam_cli.measure.subjects import MEASURABLE, recorded
from fsam_cli.recipe.schema import LabelNoise
from fsam_cli.records.frame import load_runs
from tests.support.recorded import configuration, record_run


def measured_of(root, *, weights=b"weights", data_dir=None, seed=0, record=(), **changes):
    """What is to be measured of a run recorded with these changes of its configuration, and of its
    record."""
    folder = record_run(root, config=configuration(**changes), seed=seed)
    (folder / "weights.pt").write_bytes(weights)
    result = {"data_root": None, **json.loads((folder / "result.json").read_text()), **dict(record)}
    (folder / "result.json").write_text(json.dumps(result))
    (entry,) = recorded(load_runs(root), data_dir)
    return entry


def test_a_network_is_measured_as_it_is_on_record(tmp_path):
    changes = {
        "data.resize": 4,
        "data.normalise": "imagenet",
        "validation": 0.2,
        "model.norm": "group",
        "precision": "bf16",
        "channels_last": False,
        "threads": 3,
    }
    entry = measured_of(tmp_path, seed=5, **changes)
    assert (entry.status, entry.seed) == (MEASURABLE, 5)
    subject = entry.subject
    assert (subject.resize, subject.normalise, subject.validation) == (4, "imagenet", 0.2)
    assert subject.label_noise == LabelNoise(rate=0.4, flip="different")
    assert (subject.model.norm, subject.precision) == ("group", "bf16")
    assert (subject.channels_last, subject.threads, subject.seed) == (False, 3, 5)
    assert subject.digest == "ab" * 32
    assert measured_of(tmp_path / "usual").subject.channels_last


def test_rows_belong_to_weights_data_model_and_precision_and_to_nothing_else(tmp_path):
    def identity(name, **more):
        return measured_of(tmp_path / name, **more).subject.identity

    usual = identity("usual")
    others = [
        identity("weights", weights=b"others"),
        identity("data", **{"data.digest": "cd" * 32}),
        identity("model", **{"model.norm": "group"}),
        identity("precision", precision="bf16"),
    ]
    assert len({usual, *others}) == 5
    assert identity("threads", threads=2, validation=0.2) == usual


def test_data_lie_where_they_lay_unless_the_user_says_where(tmp_path):
    there = {"data_root": "/then"}
    found = [
        measured_of(tmp_path / "a").subject,
        measured_of(tmp_path / "b", record=there).subject,
        measured_of(tmp_path / "c", record=there, data_dir=Path("/now")).subject,
    ]
    assert [each.data_root for each in found] == [None, Path("/then"), Path("/now")]


@pytest.mark.parametrize(
    "changes",
    [
        {"model": {"norm": "batch"}},
        {"data": None},
        {"label_noise": {"rate": 0.4, "flip": "of a later version"}},
    ],
    ids=["no name", "no data", "unknown noise"],
)
def test_a_record_that_cannot_be_understood_is_left_out_and_says_so_in_a_line(tmp_path, changes):
    entry = measured_of(tmp_path, **changes)
    assert (entry.status, entry.subject) == ("unmeasurable", None)
    assert entry.reason.startswith("its record lacks something, or has what is not known here: ")
    assert "\n" not in entry.reason
