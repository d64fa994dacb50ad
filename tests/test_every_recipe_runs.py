"""Every shipped recipe trains: its own networks, methods and augmentation, two steps an epoch.

One seed, one epoch (two where the method doubles them), and images so few that an epoch is two
steps; CIFAR's are random ones in the real format. The three largest networks train with one method
each by default, on ten classes, and with the others under `-m slow`.
"""

from __future__ import annotations

import json
import math
import shutil

import pytest
import torch

from fsam_cli.engine.initial_weights import load_initial
from fsam_cli.engine.run import execute, loaded
from fsam_cli.engine.state import build_model
from fsam_cli.engine.train import Hooks
from fsam_cli.recipe.load import load_experiment, shipped_recipes
from fsam_cli.recipe.plan import plan
from tests.support.cifar_archive import write_cifar
from tests.support.vision import write_cars, write_flowers, write_imagenet, write_vit

EXPERIMENTS = sorted(name for name in shipped_recipes() if not name.startswith("_"))
# Training sets, the validation part included.
SIZES = {"digits": 1442, "cifar10": 6, "cifar100": 6, "flowers": 6, "cars": 6, "imagenet": 6}
SMALL = ("train.epochs=1", "train.gradient_evaluations=null", "seeds=[0]", "precision=fp32")
# At the recipes' learning rate of 0.1 all train, too, but after so few batches the running
# statistics are mostly their initial values, and the evaluation of DenseNet and VGG overflows.
CIFAR = (*SMALL, "data.checksum=none", "train.lr=1e-3")
# Vision transformers see four patches, and begin with weights for these.
VISION = {
    "vit-b16-c100": (*CIFAR, "data.resize=32"),
    "vit-b16-cars": (*SMALL, "data.size=32"),
    "vit-b16-flowers": (*SMALL, "data.size=32"),
    "deit-b-imagenet": (
        *SMALL,
        "data.size=32",
        "data.augment=[{name: random_resized_crop, size: 32}, flip]",
        "model.init_from=vit_b16.pt",
        "train.lr=1e-3",
    ),
}
PASSES = {  # over every image, each step
    "sgd": 1,
    "sam": 2,
    "asam": 2,
    "fsam": 2,
    "sam_matched": 2,
    "usam": 2,
    "sam_on": 2,
    "late_sam": 2,  # made to climb from the start
    "msam": 1,
    "look_sam": 2,  # made to climb in every step
    "gsam": 2,
    "friendly_sam": 2,
}


@pytest.fixture(scope="session")
def archives(tmp_path_factory):
    """One folder with every set, and weights."""
    root = tmp_path_factory.mktemp("data")
    for classes in (10, 100):
        write_cifar(root, classes=classes, train=SIZES["cifar10"], test=4)
    write_flowers(root)
    write_cars(root)
    write_imagenet(root)
    write_vit(root)
    return root


def trained_on(data):
    """Images, without the validation part."""
    return SIZES[data.name] - round(SIZES[data.name] * data.validation)


def shrunk(recipe):
    """The experiment with two batches an epoch."""
    data = load_experiment(recipe).recipe.data
    half = f"train.batch_size={math.ceil(trained_on(data) / 2)}"
    if "late_sam" in load_experiment(recipe).methods:
        half = f"methods.late_sam.start=0 methods.look_sam.k=1 {half}"
    small = VISION.get(recipe, SMALL if data.name == "digits" else CIFAR)
    return load_experiment(recipe, (*small, *half.split()))


# Many seconds each: the method that is trained by default, if any.
LARGE = {
    "pyramidnet272-c10": "asam",
    "pyramidnet272-c100": None,
    "section5.7-c10": None,
    "vgg19-bn-c10": "sgd-1x",
    "vgg19-bn-c100": None,
    "wrn28-10-c10": "fsam",
    "wrn28-10-c100": None,
    "vit-b16-c100": "asam",
    "vit-b16-cars": None,
    "vit-b16-flowers": "sgd-1x",
    "deit-b-imagenet": "fsam",
}


def runs():
    for recipe in EXPERIMENTS:
        for label in load_experiment(recipe).methods:
            rest = LARGE.get(recipe, label) != label
            marks = [pytest.mark.slow] if rest else []
            yield pytest.param(recipe, label, id=f"{recipe}-{label}", marks=marks)


@pytest.mark.parametrize(("recipe", "label"), list(runs()))
def test_every_method_of_every_shipped_recipe_trains_two_steps(archives, tmp_path, recipe, label):
    experiment = shrunk(recipe)
    [one] = plan(experiment, out=tmp_path, device="cpu", data_dir=archives, only=(label,))
    told, epochs = [], []
    hooks = Hooks(
        on_step=lambda done, total: told.append((done, total)),
        on_epoch=epochs.append,
        checkpoint_seconds=math.inf,
    )
    report = execute(one, hooks)
    assert (report.ended, report.reason) == ("done", "")

    count = round(experiment.recipe.methods[label].epochs_factor)
    assert len(epochs) == count
    # Told between the two steps of an epoch, not at its end.
    assert told == [(2 * epoch + 1, 2 * count) for epoch in range(count)]
    result = json.loads((one.folder / "result.json").read_text())
    passes = PASSES[experiment.recipe.methods[label].name]
    assert result["sample_gradients"] == trained_on(experiment.recipe.data) * count * passes
    assert result["last"]["train_loss"] > 0  # what is not finite would be null
    assert result["last"]["test_loss"] > 0

    saved = torch.load(one.folder / "weights.pt", weights_only=True, mmap=True)["weights"]
    for name, before in initial(recipe, one).items():
        assert turned(before, some_of(saved[name])), name
    shutil.rmtree(tmp_path)  # VGG-19's weights alone are 560 MB


_initial: dict[str, dict[str, torch.Tensor]] = {}


def initial(recipe, one):
    """Some of every matrix and filter before the first step; of the latest recipe only."""
    if recipe not in _initial:
        _initial.clear()
        model = build_model(one, loaded(one))
        if one.initial is not None:
            load_initial(model, one.initial)
        _initial[recipe] = {
            name: some_of(weights).clone()
            for name, weights in model.named_parameters()
            if weights.ndim > 1
        }
    return _initial[recipe]


def some_of(weights):
    """A thousand entries from everywhere: rows behind dropout rest, and the rim of a filter at a
    resolution of 1x1."""
    flat = weights.detach().flatten()
    return flat[torch.linspace(0, len(flat) - 1, 1000, dtype=torch.float64).long()].double()


def turned(before, after):
    """Whether weights moved otherwise than weight decay alone would move them, along themselves."""
    across = after - before * (before @ after / (before @ before))
    return float(across.norm() / before.norm()) > 1e-6
