"""Ranks of the true class, the top-5 accuracy, and what weights of a file reach untrained."""

from __future__ import annotations

import json
from math import inf, nan

import numpy as np
import pytest
import torch

from fsam_cli.engine.evaluate import BATCH, batch_slices, evaluate, ranks_of
from fsam_cli.engine.feed import HeldOut
from fsam_cli.engine.run import execute
from fsam_cli.engine.train import Hooks
from fsam_cli.errors import Interrupted
from fsam_cli.recipe.load import load_experiment
from fsam_cli.recipe.plan import plan
from tests.support.cifar_archive import write_cifar

SCORES = [
    # scores of six classes, the true one, classes above it
    ([0.1, 0.6, 0.5, 0.4, 0.3, 0.2], 1, 0),
    ([0.1, 0.6, 0.5, 0.4, 0.3, 0.2], 5, 4),
    ([0.1, 0.6, 0.5, 0.4, 0.3, 0.2], 0, 5),
    ([1.0, 2.0, 2.0, 2.0, 0.0, 0.0], 1, 0),  # of equals the first is above
    ([1.0, 2.0, 2.0, 2.0, 0.0, 0.0], 3, 2),
    ([7.0] * 6, 5, 5),
    ([9.0, nan, 8.0, inf, 0.0, -inf], 1, 0),  # as argmax has it
    ([9.0, nan, 8.0, inf, 0.0, -inf], 0, 2),
    ([nan] * 6, 4, 4),
]


@pytest.mark.parametrize(("scores", "label", "above"), SCORES)
def test_the_rank_is_the_number_of_classes_above_the_true_one(scores, label, above):
    logits, labels = torch.tensor([scores]), torch.tensor([label])
    assert ranks_of(labels, logits).tolist() == [above]
    assert (logits.argmax(dim=1) == labels).tolist() == [above == 0]


class Plain:
    """Images as they are."""

    pixels = 1

    def normalised(self, images):
        return images


class Table(torch.nn.Module):
    """The scores of an image are its row."""

    def forward(self, images):
        return images


@pytest.mark.parametrize("at_once", [4, 1024])
def test_both_accuracies_are_shares_of_all_images(monkeypatch, at_once):
    monkeypatch.setattr("fsam_cli.engine.evaluate.BATCH", at_once)
    rows, labels, above = zip(*SCORES, strict=True)
    held, table, sizes = HeldOut(torch.tensor(rows), torch.tensor(labels)), Table(), []
    table.register_forward_hook(lambda _table, seen, _scores: sizes.append(len(seen[0])))
    found = evaluate(table, held, Plain(), bf16=False)
    assert sizes == ([4, 4, 1] if at_once == 4 else [9])
    assert found.ranks.tolist() == list(above)
    assert found.accuracy == above.count(0) / len(above)
    assert found.top5_accuracy == sum(rank < 5 for rank in above) / len(above)
    assert found.accuracy < found.top5_accuracy < 1


@pytest.mark.parametrize(
    ("images", "pixels", "sizes"),
    [(2500, 32**2, [1024, 1024, 452]), (700, 224**2, [334, 334, 32]), (2, 2**25, [1, 1])],
)
def test_images_are_evaluated_as_many_at_once_as_their_size_allows(images, pixels, sizes):
    cut = [len(range(images)[at]) for at in batch_slices(images, BATCH, pixels)]
    assert cut == sizes


RECIPE = """
data: {{name: cifar{classes}, checksum: none}}
model: resnet20
train: {{epochs: 2, batch_size: 4, lr: 0.01, diagnostics: off}}
methods: {{sgd: {{}}}}
seeds: [0]
threads: 1
"""


def planned(folder, classes, *overrides):
    if not list(folder.glob("cifar*")):
        write_cifar(folder, classes=classes, train=8, test=40)
    (folder / "mine.yaml").write_text(RECIPE.format(classes=classes))
    experiment = load_experiment(str(folder / "mine.yaml"), overrides)
    [one] = plan(experiment, out=folder / "runs", device="cpu", data_dir=folder)
    return one


def recorded(one):
    with np.load(one.folder / "predictions.npz") as arrays:
        return json.loads((one.folder / "result.json").read_text()), dict(arrays)


@pytest.mark.parametrize("classes", [10, 100])
def test_top5_is_recorded_from_100_classes_on_and_ranks_always(tmp_path, classes):
    one = planned(tmp_path, classes)
    assert execute(one, Hooks()).ended == "done"
    result, arrays = recorded(one)
    assert ((arrays["rank"] == 0) == (arrays["prediction"] == arrays["label"])).all()
    top5 = float((arrays["rank"] < 5).mean())
    assert result["last"]["test_top5_accuracy"] == (top5 if classes == 100 else None)
    assert result["before"] is None  # its weights are drawn


def test_weights_of_a_file_are_evaluated_before_the_first_step_and_only_then(tmp_path):
    first = planned(tmp_path, 100)
    execute(first, Hooks())
    start = f"model.init_from={first.folder / 'weights.pt'}"
    on = planned(tmp_path, 100, start)
    asked = iter([False, True])
    with pytest.raises(Interrupted):  # and continued
        execute(on, Hooks(should_stop=lambda: next(asked)))
    execute(on, Hooks())
    ended, _ = recorded(first)
    result, _ = recorded(on)
    keys = ("test_loss", "test_accuracy", "test_top5_accuracy")
    assert result["before"] == {key: ended["last"][key] for key in keys}
    assert result["last"]["test_loss"] != result["before"]["test_loss"]


def test_a_file_whose_classifier_does_not_stay_is_not_evaluated(tmp_path):
    (tmp_path / "ten").mkdir()
    first = planned(tmp_path / "ten", 10)
    execute(first, Hooks())
    on = planned(tmp_path, 100, f"model.init_from={first.folder / 'weights.pt'}")
    assert execute(on, Hooks()).ended == "done"
    assert recorded(on)[0]["before"] is None
