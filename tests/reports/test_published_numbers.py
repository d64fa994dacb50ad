"""The paper's numbers and protocol as data: complete, and equal to what the paper prints."""

from __future__ import annotations

import csv
import re
from pathlib import Path

import pytest

from fsam_cli.minimisers._contract import Minimiser
from fsam_cli.recipe.load import shipped_recipes
from fsam_cli.records.frame import load_runs
from fsam_cli.reports import published
from fsam_cli.reports.table import build_table
from tests.support.recorded import planned_cells, record_recipe

FOLDER = Path(published.__file__).parent
METHODS = ["sgd", "sam", "asam", "fsam"]
TABLE1 = [
    *("densenet121", "resnet20", "resnet56", "vgg19_bn"),
    *("resnext29_32x4d", "wrn28_2", "wrn28_10", "pyramidnet272"),
]
RATES = ["0.2", "0.4", "0.6", "0.8"]
RECIPES = sorted(
    name
    for name in shipped_recipes()
    if re.fullmatch(r"(densenet|resnet|vgg|resnext|wrn|pyramidnet|noise).*-c100?", name)
)
VISION = ["deit-b-imagenet", "vit-b16-c100", "vit-b16-cars", "vit-b16-flowers"]


@pytest.fixture(scope="module")
def vision(vision_data):
    return f"data.root={vision_data}"


def printed_lines():
    with (FOLDER / "published.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def column(table, data, method, metric="accuracy"):
    """Means and spreads of one column of a printed table, from top to bottom."""
    lines = [
        (float(line["mean"]), float(line["std"]))
        for line in printed_lines()
        if (line["table"], line["data"], line["method"]) == (table, data, method)
        and line["metric"] == metric
    ]
    return [mean for mean, _ in lines], [std for _, std in lines]


def beside(root):
    return published.beside_published(build_table(load_runs(root)))


def listed(frame, label):
    """The deviations of one method, by key."""
    [line] = [line for line in frame.to_dict("records") if line["label"] == label]
    return {each.key: str(each) for each in line["deviations"]}


def words_of(name):
    """The text of a shipped recipe without the breaks of its lines."""
    return " ".join(shipped_recipes()[name].read_text().replace("#", " ").split())


def test_every_number_of_the_four_tables_is_there_once():
    lines = printed_lines()
    counts = {table: sum(line["table"] == table for line in lines) for table in "1234"}
    assert counts == {"1": 8 * 2 * 4, "2": 2 * 4 + 2, "3": 3 * 4, "4": 4 * 4}
    assert len(lines) == sum(counts.values())
    keys = ["table", "data", "model", "label_noise", "method", "metric"]
    assert len({tuple(line[key] for key in keys) for line in lines}) == len(lines)
    expected = [("cifar10", m) for m in TABLE1] + [("cifar100", m) for m in TABLE1]
    for method in METHODS:
        column_1 = [line for line in lines if (line["table"], line["method"]) == ("1", method)]
        assert [(line["data"], line["model"]) for line in column_1] == expected
        column_4 = [line for line in lines if (line["table"], line["method"]) == ("4", method)]
        assert [line["label_noise"] for line in column_4] == RATES
        assert {(line["data"], line["model"]) for line in column_4} == {("cifar10", "resnet32")}


def test_the_paper_names_no_number_of_seeds_and_every_line_names_the_paper():
    for line in printed_lines():
        assert line["n"] == ""
        assert line["source"] == "arXiv 2206.04920"
        assert line["unit"] == "%"
        assert (line["std"] == "") == (line["method"] == "before")
        assert re.fullmatch(r"\d\d\.\d\d", line["mean"])


@pytest.mark.parametrize(
    ("table", "data", "method", "means", "stds"),
    [
        # Added up from the printed columns, in hundredths.
        ("1", "cifar10", "sgd", 76277, 92),
        ("1", "cifar10", "sam", 76615, 99),
        ("1", "cifar10", "asam", 76630, 80),
        ("1", "cifar10", "fsam", 76767, 67),
        ("1", "cifar100", "sgd", 61361, 175),
        ("1", "cifar100", "sam", 62842, 115),
        ("1", "cifar100", "asam", 62529, 141),
        ("1", "cifar100", "fsam", 63258, 167),
        ("4", "cifar10", "sgd", 31486, 121),
        ("4", "cifar10", "sam", 34336, 197),
        ("4", "cifar10", "asam", 33361, 121),
        ("4", "cifar10", "fsam", 34440, 116),
    ],
)
def test_every_column_adds_up(table, data, method, means, stds):
    mean, std = column(table, data, method)
    assert round(100 * sum(mean)) == means
    assert round(100 * sum(std)) == stds


@pytest.mark.parametrize(
    ("place", "mean", "std"),
    [
        (("1", "cifar10", "densenet121", 0, "sgd"), 91.83, 0.13),
        (("1", "cifar10", "wrn28_10", 0, "fsam"), 97.89, 0.07),
        (("1", "cifar10", "pyramidnet272", 0, "asam"), 97.91, 0.01),
        (("1", "cifar100", "vgg19_bn", 0, "sam"), 77.25, 0.24),
        (("1", "cifar100", "vgg19_bn", 0, "asam"), 74.36, 0.19),
        (("1", "cifar100", "wrn28_10", 0, "sam"), 85.60, 0.05),
        (("1", "cifar100", "wrn28_10", 0, "fsam"), 85.60, 0.11),
        (("1", "cifar100", "pyramidnet272", 0, "fsam"), 86.93, 0.14),
        (("2", "imagenet", "deit_b", 0, "fsam"), 82.17, 0.01),
        (("2", "imagenet", "deit_b", 0, "fsam", "top5_accuracy"), 95.90, 0.01),
        (("2", "imagenet", "deit_b", 0, "sgd", "top5_accuracy"), 95.61, 0.01),
        (("3", "cifar100", "vit_b16", 0, "fsam"), 88.39, 0.13),
        (("3", "cars", "vit_b16", 0, "sgd"), 92.85, 0.31),
        (("3", "flowers", "vit_b16", 0, "asam"), 95.08, 0.10),
        (("4", "cifar10", "resnet32", 0.2, "sgd"), 87.97, 0.04),
        (("4", "cifar10", "resnet32", 0.8, "sam"), 74.31, 1.02),
        (("4", "cifar10", "resnet32", 0.8, "fsam"), 74.66, 0.67),
    ],
)
def test_numbers_typed_from_the_paper(place, mean, std):
    *place, metric = place if len(place) == 6 else (*place, "accuracy")
    [found] = [
        each
        for each in published.published_numbers()
        if [each.table, each.data, each.model, each.label_noise, each.method] == place
        and each.metric == metric
    ]
    assert [found.mean, found.std] == pytest.approx([mean / 100, std / 100], abs=1e-15)
    assert found.n is None


def test_the_best_of_each_line_is_the_one_that_the_paper_prints_bold():
    groups = {}
    for line in printed_lines():
        if line["method"] != "before":
            key = tuple(line[k] for k in ("table", "data", "model", "label_noise", "metric"))
            groups.setdefault(key, {})[line["method"]] = float(line["mean"])
    for key, means in groups.items():
        bold = {method for method, mean in means.items() if mean == max(means.values())}
        expected = {"fsam"}
        if key[1:3] == ("cifar100", "wrn28_10"):
            expected = {"sam", "fsam"}
        if key[0] == "4" and key[3] == "0.2":
            expected = {"sam"}
        assert bold == expected, key


@pytest.mark.parametrize("name", RECIPES + VISION)
def test_the_header_of_a_recipe_has_the_numbers_its_methods_are_compared_with(
    name, tmp_path, vision
):
    record_recipe(tmp_path, name, "seeds=[0]", *([vision] if name in VISION else []))
    header = shipped_recipes()[name].read_text()
    pairs = re.findall(r"\b(SGD|SAM|ASAM|FSAM) (\d\d\.\d\d±\d\.\d\d)", header)
    metrics = ["accuracy", "top5_accuracy"] if name == "deit-b-imagenet" else ["accuracy"]
    places = [(metric, method) for metric in metrics for method in METHODS]
    assert [method.lower() for method, _ in pairs] == [method for _, method in places]
    expected = {place: numbers for place, (_, numbers) in zip(places, pairs, strict=True)}
    lines = beside(tmp_path).to_dict("records")
    assert {line["method"] for line in lines} == set(METHODS)
    for line in lines:
        shown = f"{100 * line['published_mean']:.2f}±{100 * line['published_std']:.2f}"
        metric = line["metric"].removeprefix("last_test_").removeprefix("selected_test_")
        assert shown == expected[metric, line["method"]]
        assert re.search(rf"Table {line['table']}\b", header)


# The protocol


@pytest.mark.parametrize("name", RECIPES)
def test_a_shipped_recipe_departs_only_where_its_header_says_so(name, tmp_path):
    record_recipe(tmp_path, name, "seeds=[0]")
    frame = beside(tmp_path)
    header = words_of(name)
    declared = {"seeds"}
    assert "5 seeds" in header
    if name.startswith("noise"):
        declared |= {"validation", "label_noise.flip"}
        assert "10 % of the training images are a validation part" in header
        assert 'the reading of "symmetric"' in header
    controls = {"sam-as-fsam"} & set(planned_cells(name))
    assert set(frame["label"]) == {"sgd-2x", "sam", "asam", "fsam"} | controls
    for label in frame["label"]:
        control = {"method.rho"} if label == "sam-as-fsam" else set()
        assert set(listed(frame, label)) == declared | control, label


@pytest.mark.parametrize("name", VISION)
def test_a_recipe_of_a_vision_transformer_departs_in_seeds_and_perhaps_in_its_weights(
    name, tmp_path, vision
):
    record_recipe(tmp_path, name, "seeds=[0]", vision)
    frame = beside(tmp_path)
    declared = {"seeds"} if name == "deit-b-imagenet" else {"seeds", "model.init_from"}
    assert set(frame["label"]) == {"sgd-1x", "sam", "sam-as-fsam", "asam", "fsam"}
    top5 = frame[frame["metric"] == "last_test_top5_accuracy"]
    top1 = frame.drop(top5.index)
    assert len(top5) == (len(top1) if name == "deit-b-imagenet" else 0)
    for label in top1["label"]:
        control = {"method.rho"} if label == "sam-as-fsam" else set()
        assert set(listed(top1, label)) == declared | control, label


# How a header names a guess, by key of the protocol; without those that no reader takes for another
# (a flip's probability, the box of a random resized crop, batch normalisation).
NAMED = {
    "augment": "random resized crop",
    "augment.crop.padding": "crop (padding 4)",
    "augment.cutout.size": "Cutout 16",
    "augment.random_resized_crop.size": "random resized crop",
    "data.crop": "87.5 % of a test image's shorter side",
    "data.normalise": "normalised as the weights were trained",
    "data.resize": "224x224 pixels",
    "data.size": "224x224 pixels",
    "data.train_size": "320x320 pixels",
    "method.eta": "no eta for ASAM",
    "method.gamma": "no gamma and eta for FSAM",
    "method.scope": "ASAM as in its authors' code",
    "model.drop_path": "no drop path",
    "model.dropout": "dropout",
    "model.shakedrop": "without ShakeDrop",
    "model.shortcut": "(option B)",
    "precision": "Precision",
    "train.label_smoothing": "no label smoothing",
    "train.optimizer.momentum": "momentum 0.9",
    "train.select": "the last epoch",
    "train.warmup_epochs": "no warm-up",
    "validation": "no validation part",
}
OBVIOUS = {
    *("augment.flip.probability", "model.norm"),
    *("augment.random_resized_crop.scale", "augment.random_resized_crop.ratio"),
}


@pytest.mark.parametrize("name", RECIPES + VISION)
def test_the_header_of_a_recipe_names_every_guess(name, tmp_path, vision):
    record_recipe(tmp_path, name, "seeds=[0]", *([vision] if name in VISION else []))
    guesses = {key for keys in beside(tmp_path)["guesses"] for key in keys} - OBVIOUS
    assert guesses
    header = words_of(name)
    named = NAMED
    if name.startswith("noise"):  # whose protocol is that of another table, guesses and all
        assert "the protocol of Table 1" in header
        assert "the guesses of resnet20-c10" in header
        named = {key: NAMED[key] for key in ("method.scope", "precision", "train.select")}
        guesses &= named.keys()
    assert {key for key in guesses if named[key] not in header} == set()


def test_there_are_recipes_for_every_table():
    assert len(RECIPES) == 16 + 8
    assert len(VISION) == 1 + 3


def test_every_setting_of_the_protocol_is_one_that_runs_have(vision):
    """A misspelt key would never be compared."""
    recorded = set(Minimiser.model_fields)
    known = {f"method.{name}" for name in recorded} | {"seeds", "data_verified"}
    for name in RECIPES + VISION:
        for cell in planned_cells(name, *([vision] if name in VISION else [])).values():
            known |= set(published.dotted(cell.config))
    with (FOLDER / "published_protocol.csv").open(newline="") as file:
        lines = list(csv.DictReader(file))
    assert {line["key"] for line in lines} - known == set()
    assert {line["basis"] for line in lines} == {"stated", "partly", "guess", "unknown", "free"}
    names = {"table": "1234", "method": METHODS, "data": ["cifar10", "cifar100"], "model": TABLE1}
    for line in lines:
        for key, valid in names.items():
            assert line[key] in ("", *valid), line
        assert (line["value"] == "") == (line["basis"] in ("unknown", "free")), line


@pytest.mark.parametrize(
    ("place", "key", "value"),
    [
        (("1", "wrn28_10", "cifar100", "sgd"), "train.epochs", "400"),
        (("1", "wrn28_10", "cifar100", "fsam"), "train.epochs", "200"),
        (("1", "pyramidnet272", "cifar10", "sgd"), "train.epochs", "1800"),
        (("1", "pyramidnet272", "cifar10", "sam"), "train.epochs", "900"),
        (("1", "pyramidnet272", "cifar100", "sam"), "train.batch_size", "256"),
        (("1", "pyramidnet272", "cifar100", "sam"), "method.rho", "0.05"),
        (("1", "wrn28_2", "cifar100", "sam"), "method.rho", "0.1"),
        (("1", "wrn28_2", "cifar100", "asam"), "method.eta", "0.1"),
        (("1", "pyramidnet272", "cifar100", "fsam"), "method.gamma", "0.5"),
        (("1", "pyramidnet272", "cifar10", "fsam"), "method.gamma", "0.1"),
        (("2", "deit_b", "imagenet", "fsam"), "method.gamma", "0.5"),
        (("3", "vit_b16", "cars", "asam"), "method.rho", "0.1"),
        (("4", "resnet32", "cifar10", "fsam"), "method.eta", "0.001"),
    ],
)
def test_protocols_typed_from_the_paper(place, key, value):
    [found] = {
        published.protocol_of(each)[key].value
        for each in published.published_numbers()
        if (each.table, each.model, each.data, each.method) == place
    }
    assert found == value
