"""The numbers of an epoch, worked out once more from the weights, the images and the labels."""

from __future__ import annotations

import csv
import json
import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from fsam_cli.datasets._noise import corrupt
from fsam_cli.datasets._split import validation_split
from fsam_cli.engine.run import execute
from fsam_cli.engine.seeding import stream
from fsam_cli.engine.train import Hooks
from fsam_cli.recipe.load import load_experiment
from fsam_cli.recipe.plan import plan

# At this learning rate float32 weights stay what they are, so every step sees the same network.
PEAK = 1e-30
SETTINGS = (
    *("methods={it: {method: late_sam, start: 1}}", "seeds=[3]", "model.norm=group"),
    *("data.augment=[]", "data.label_noise=0.4", "data.validation=0.1"),
    *("train.epochs=2", f"train.lr={PEAK}", "train.warmup_epochs=0.5", "train.batch_size=256"),
    *("train.label_smoothing=0.1", "train.micro_batch_size=100", "train.select=last"),
)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    out = tmp_path_factory.mktemp("runs")
    [one] = plan(load_experiment("quickstart", SETTINGS), out=out, device="cpu")
    assert execute(one, Hooks()).ended == "done"
    return one


def rows_of(one):
    with (one.folder / "metrics.csv").open() as file:
        return [
            {key: float(value) for key, value in row.items() if value}
            for row in csv.DictReader(file)
        ]


def expected_of(one):
    data, model = one.data.load(None), one.model.build(channels=1, classes=10, image_size=8)
    model.load_state_dict(torch.load(one.folder / "weights.pt", weights_only=True)["weights"])
    noise, true = one.recipe.data.label_noise, data.train_labels
    labels = torch.from_numpy(
        corrupt(true.numpy(), classes=10, noise=noise, random=stream(3, "label_noise"))
    )
    train, held = validation_split(len(labels), 0.1, stream(3, "validation"))
    mean, std = torch.tensor(data.mean), torch.tensor(data.std)

    @torch.no_grad()
    def seen(images, labels, smoothing=0.0):
        logits = model((images.float() / 255 - mean) / std)
        loss = F.cross_entropy(logits, labels, label_smoothing=smoothing)
        return loss.item(), logits.argmax(dim=1) == labels

    train_loss, fitted = seen(data.train_images[train], labels[train], smoothing=0.1)
    validation_loss, validated = seen(data.train_images[held], labels[held])
    test_loss, right = seen(data.test_images, data.test_labels)
    share = {
        "train_accuracy": fitted,
        "corrupted_fit": fitted[labels[train] != true[train]],
        "validation_accuracy": validated,
        "test_accuracy": right,
    }
    losses = {"train_loss": train_loss, "validation_loss": validation_loss, "test_loss": test_loss}
    images = {"label": data.test_labels, "right": right}
    return (
        len(train),
        images,
        {**losses, **{key: hit.double().mean().item() for key, hit in share.items()}},
    )


def test_losses_accuracies_and_the_fit_to_corrupted_labels_are_those_of_the_network(one):
    *_, expected = expected_of(one)
    assert len(set(expected.values())) == len(expected)  # none could stand for another
    for row in rows_of(one):
        assert {key: row[key] for key in expected} == pytest.approx(expected, rel=1e-5)


def test_gradients_are_counted_by_image_and_pass_and_the_rate_is_that_of_the_last_step(one):
    images, *_ = expected_of(one)
    first, second = rows_of(one)
    assert first["sample_gradients"] == images  # SAM begins with the second epoch
    assert second["sample_gradients"] == 3 * images
    steps = math.ceil(images / 256)
    warmup = round(steps / 2)
    for row, step in ((first, steps - 1), (second, 2 * steps - 1)):
        phase = math.pi * (step - warmup) / (2 * steps - warmup)
        assert row["lr"] / PEAK == pytest.approx((1 + math.cos(phase)) / 2)


def test_the_result_repeats_the_last_the_selected_and_the_best_test_epoch(one):
    result, rows = json.loads((one.folder / "result.json").read_text()), rows_of(one)
    for which, epoch in (("last", 2), ("selected", 1), ("best_test", 1)):  # the first of equals
        shown = {key: value for key, value in result[which].items() if value is not None}
        assert shown == {key: rows[epoch - 1][key] for key in shown}
        assert shown["epoch"] == epoch
        assert set(result[which]) - set(shown) == {"test_top5_accuracy"}  # of ten classes
    assert (result["selected_epoch"], result["sample_gradients"]) == (
        1,
        rows[1]["sample_gradients"],
    )


def test_predictions_of_every_test_image_are_kept_of_the_last_and_the_selected_epoch(one):
    _, images, expected = expected_of(one)
    with np.load(one.folder / "predictions.npz") as arrays:
        kept = dict(arrays)
    assert kept["label"].tolist() == images["label"].tolist()
    for which in ("", "selected_"):
        assert (kept[f"{which}prediction"] == kept["label"]).tolist() == images["right"].tolist()
        assert (kept[f"{which}rank"] == 0).tolist() == images["right"].tolist()
        assert kept[f"{which}loss"].mean() == pytest.approx(expected["test_loss"], rel=1e-5)
