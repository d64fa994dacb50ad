"""Epochs for curves: a file that is not ours takes its whole label out, and says why."""

from __future__ import annotations

import csv
import math

import pytest

from fsam_cli.records.curves import load_curves
from fsam_cli.records.frame import load_runs
from tests.support.recorded import configuration, record_metrics, record_run


def recorded(root, *labels, epochs=3):
    """Two runs of each label, with the metrics that training writes."""
    config = configuration(**{"train.epochs": epochs})
    for label in labels:
        for seed in (0, 1):
            run = record_run(root, label=label, seed=seed, seeds=(0, 1), config=config)
            record_metrics(run, epochs=epochs)


def metrics(root, label, seed):
    [file] = root.glob(f"*/{label}/seed{seed}-*/metrics.csv")
    return file


def test_every_epoch_of_every_run_is_a_row(tmp_path):
    recorded(tmp_path, "sgd", "sam")
    epochs, unreadable = load_curves(load_runs(tmp_path))
    assert unreadable == {}
    assert epochs.groupby(["label", "seed"])["epoch"].apply(list).to_dict() == {
        (label, seed): [1, 2, 3] for label in ("sgd", "sam") for seed in (0, 1)
    }
    assert epochs["test_accuracy"].tolist() == [0.5, 0.6, 0.7] * 4


def edited(change):
    """Damage: the lines of the file, the heading first, with one thing changed."""

    def damage(file):
        lines = file.read_text().splitlines()
        change(lines)
        file.write_text("\n".join(lines))

    return damage


DAMAGE = {
    "No such file": lambda file: file.unlink(),
    "Is a directory": lambda file: (file.unlink(), file.mkdir()),
    "utf-8": lambda file: file.write_bytes(b"\xff\xfe"),
    "no column epoch": lambda file: file.write_text(""),
    "no column test_accuracy": edited(
        lambda lines: lines.insert(0, lines.pop(0).replace("test_accuracy", "accuracy"))
    ),
    "could not convert string to float: 'many'": edited(
        lambda lines: lines.append(lines.pop().replace("300", "many"))
    ),
    "a line is cut short": edited(lambda lines: lines.append(lines.pop()[:5])),
    "its epochs are not 1 to 3": edited(lambda lines: lines.pop()),
    "test_accuracy is 1.7, not between": edited(
        lambda lines: lines.append(lines.pop().replace("0.7", "1.7"))
    ),
    "sample_gradients are not counted": edited(
        lambda lines: lines.append(lines.pop().replace("300", "inf"))
    ),
    "field larger than field limit": lambda file: file.write_text("x" * 200_000),
}


@pytest.mark.parametrize("why", DAMAGE)
def test_one_damaged_file_takes_out_its_label_and_no_other(tmp_path, why):
    recorded(tmp_path, "sgd", "sam")
    DAMAGE[why](metrics(tmp_path, "sam", 1))
    epochs, unreadable = load_curves(load_runs(tmp_path))
    assert set(epochs["label"]) == {"sgd"}
    assert list(unreadable) == ["sam"]
    assert unreadable["sam"].startswith("metrics.csv of seed 1 is unreadable (")
    assert why in unreadable["sam"]


def test_columns_stay_when_no_run_can_be_read(tmp_path):
    recorded(tmp_path, "sam")
    for seed in (0, 1):
        metrics(tmp_path, "sam", seed).unlink()
    epochs, _ = load_curves(load_runs(tmp_path))
    assert epochs.empty
    assert {"label", "epoch", "test_accuracy"} <= set(epochs)


def test_what_was_not_measured_is_missing_and_what_was_no_number_is_infinite(tmp_path):
    recorded(tmp_path, "sam")
    file = metrics(tmp_path, "sam", 0)
    rows = list(csv.DictReader(file.read_text().splitlines()))
    for row, loss in zip(rows, ("", "nan", "inf"), strict=True):
        row["test_loss"] = loss
    record_metrics(file.parent, rows=rows)
    losses = load_curves(load_runs(file.parent)).epochs["test_loss"].tolist()
    assert math.isnan(losses[0])
    assert losses[1:] == [math.inf, math.inf]
