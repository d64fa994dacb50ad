"""A recipe over the one it extends, and overrides over both."""

from __future__ import annotations

import pytest

from fsam_cli.errors import RecipeError, UsageError
from fsam_cli.recipe.load import load_experiment

BASE = """
data:
  name: image_folder
  root: images
  size: 16
  label_noise: {rate: 0.4, flip: uniform}
  validation: 0.2
  augment: [crop, flip]
model: {name: small_resnet, norm: group, init_from: start.pt}
train: {epochs: 2, optimizer: {name: sgd, momentum: 0.9}}
methods:
  sgd-2x: {method: sgd, epochs_factor: 2}
  sam: {rho: 0.3}
  plain: sam
"""


@pytest.fixture
def load(tmp_path):
    """The recipe that has `text` laid over `BASE`."""
    (tmp_path / "base.yaml").write_text(BASE)

    def loader(text="", *overrides):
        (tmp_path / "top.yaml").write_text(f"extends: base.yaml\n{text}\n")
        return load_experiment(str(tmp_path / "top.yaml"), overrides)

    return loader


@pytest.fixture(params=["file", "override"])
def laid(load, request):
    """The same change of one key, in a file that extends `BASE` and on the command line."""

    def change(place, value):
        if request.param == "override":
            return load("", f"{place}={value}")
        *sections, key = place.split(".")
        text = f"{{{key}: {value}}}"
        for section in reversed(sections):
            text = f"{{{section}: {text}}}"
        return load(text[1:-1])

    return change


def test_a_bare_data_set_keeps_the_section_and_drops_the_former_set_s_settings(laid):
    data = laid("data", "cifar10").recipe.data
    assert (data.name, data.settings) == ("cifar10", {})
    assert (data.root, data.validation) == ("images", 0.2)
    assert [named.name for named in data.augment] == ["crop", "flip"]
    assert (data.label_noise.rate, data.label_noise.flip) == (0.4, "uniform")


def test_a_bare_data_set_leaves_a_shipped_recipe_its_label_noise_and_augmentations():
    assert load_experiment("quickstart", ["data=digits"]).recipe == (
        load_experiment("quickstart").recipe
    )
    shipped = load_experiment("resnet20-c100").recipe.data
    other = load_experiment("resnet20-c100", ["data=cifar10"]).recipe.data
    assert other == shipped.model_copy(update={"name": "cifar10"})


def test_a_bare_rate_of_label_noise_keeps_how_labels_flip(laid):
    noise = laid("data.label_noise", "0.1").recipe.data.label_noise
    assert (noise.rate, noise.flip) == (0.1, "uniform")
    assert laid("data.label_noise", "null").recipe.data.label_noise is None


def test_a_bare_model_keeps_its_file_of_weights_and_drops_the_former_network_s_settings(laid):
    experiment = laid("model", "small_resnet")
    assert experiment.recipe.model.init_from == "start.pt"
    assert experiment.model.norm == "batch"


def test_a_bare_optimiser_has_nothing_of_the_former(laid):
    optimizer = laid("train.optimizer", "adamw").recipe.train.optimizer
    assert (optimizer.name, optimizer.settings) == ("adamw", {})


def test_a_bare_method_keeps_its_share_of_the_epochs(laid):
    experiment = laid("methods.sgd-2x", "sam")
    assert experiment.recipe.methods["sgd-2x"].epochs_factor == 2
    assert experiment.methods["sgd-2x"].rho == 0.05


def test_null_takes_an_inherited_method_away(laid):
    experiment = laid("methods.sam", "null")
    assert list(experiment.recipe.methods) == ["sgd-2x", "plain"]
    assert experiment.added == ()


def test_null_adds_a_method_that_is_not_there_with_its_default_settings(laid):
    experiment = laid("methods.asam", "null")
    assert list(experiment.methods) == ["sgd-2x", "sam", "plain", "asam"]
    assert experiment.methods["asam"].rho == 0.5


def test_null_is_a_default_method_in_a_file_of_its_own(tmp_path):
    path = tmp_path / "mine.yaml"
    path.write_text(
        "data: digits\nmodel: small_resnet\ntrain: {epochs: 2}\nmethods: {sam: null, sgd: }\n"
    )
    assert list(load_experiment(str(path)).methods) == ["sam", "sgd"]
    assert list(load_experiment(str(path), ["methods={sam: null}"]).methods) == ["sam"]
    assert list(load_experiment(str(path), ["methods.sam=null"]).methods) == ["sgd"]
    added = load_experiment(str(path), ["methods.asam={}", "methods.asam=null"])
    assert added.added == ()


def test_a_recipe_in_the_middle_can_give_back_what_another_took(load, tmp_path):
    load("methods: {sam: null}")
    (tmp_path / "third.yaml").write_text("extends: top.yaml\nmethods: {sam: null}\n")
    assert load_experiment(str(tmp_path / "third.yaml")).methods["sam"].rho == 0.05


def test_a_recipe_without_methods_left_is_refused(load):
    with pytest.raises(RecipeError, match=r"methods: \{\} is refused"):
        load("methods: {sam: null, plain: null, sgd-2x: null}")


@pytest.mark.parametrize("whole", ["{name: small_resnet}", "small_resnet"])
def test_settings_alone_are_laid_over_a_bare_name(tmp_path, whole):
    (tmp_path / "base.yaml").write_text(
        f"data: digits\nmodel: {whole}\ntrain: {{epochs: 2, optimizer: sgd}}\nmethods: {{a: sam}}\n"
    )
    (tmp_path / "top.yaml").write_text(
        "extends: base.yaml\ndata: {validation: 0.3, label_noise: 0.2}\nmodel: {norm: group}\n"
        "train: {optimizer: {momentum: 0.5}}\nmethods: {a: {rho: 0.3}}\n"
    )
    (tmp_path / "third.yaml").write_text(
        "extends: top.yaml\ndata: {label_noise: {flip: uniform}}\nmethods: {a: {method: asam}}\n"
    )
    top = load_experiment(str(tmp_path / "top.yaml"))
    assert (top.recipe.data.name, top.recipe.data.validation) == ("digits", 0.3)
    assert (top.recipe.model.name, top.model.norm) == ("small_resnet", "group")
    assert top.recipe.train.optimizer.settings == {"momentum": 0.5}
    assert (top.recipe.methods["a"].name, top.methods["a"].rho) == ("sam", 0.3)
    third = load_experiment(str(tmp_path / "third.yaml"))
    assert (third.recipe.data.label_noise.rate, third.recipe.data.label_noise.flip) == (
        0.2,
        "uniform",
    )
    assert (third.recipe.methods["a"].name, third.methods["a"].rho) == ("asam", 0.3)


def test_settings_of_a_shipped_recipe_s_network_can_be_laid_over_its_bare_name(tmp_path):
    (tmp_path / "mine.yaml").write_text("extends: vgg19-bn-c10\nmodel: {dropout: 0.0}\n")
    experiment = load_experiment(str(tmp_path / "mine.yaml"))
    assert (experiment.recipe.model.name, experiment.model.dropout) == ("vgg19_bn", 0.0)


def test_a_mapping_of_an_override_replaces_the_whole_section(load):
    data = load("", "data={name: digits}").recipe.data
    assert (data.augment, data.label_noise) == ((), None)


def test_an_override_extends_nothing(load):
    with pytest.raises(UsageError, match="only a file extends a recipe"):
        load("", "extends=quickstart")


def test_a_path_of_an_override_starts_at_the_working_directory(load, tmp_path, monkeypatch):
    here = tmp_path / "here"
    here.mkdir()
    (here / "mine.pt").touch()
    (here / "mine.py").write_text("PROVIDES = {}\n")
    monkeypatch.chdir(here)
    overrides = ("data.root=cif/d", "model.init_from=mine.pt")
    recipe = load("", *overrides).recipe
    assert (recipe.data.root, recipe.model.init_from) == (f"{here}/cif/d", f"{here}/mine.pt")
    mappings = (
        "data={name: digits, root: cif/d}",
        "model={name: small_resnet, init_from: mine.pt}",
    )
    recipe = load("", *mappings).recipe
    assert (recipe.data.root, recipe.model.init_from) == (f"{here}/cif/d", f"{here}/mine.pt")
    for plugins in ("mine.py", "[mine.py]"):
        with pytest.raises(RecipeError, match=f"{here}/mine.py"):
            load("", f"plugins={plugins}")


def test_a_path_of_a_file_starts_at_its_folder_and_whole_ones_and_homes_are_kept(
    load, tmp_path, monkeypatch
):
    (tmp_path / "here").mkdir()
    (tmp_path / "here/start.pt").touch()
    monkeypatch.chdir(tmp_path / "here")
    recipe = load("", "data=digits").recipe
    assert (recipe.data.root, recipe.model.init_from) == ("images", "start.pt")
    for root in ("~/images", "/images"):
        assert load("", f"data.root={root}").recipe.data.root == root
    assert load("", "data.root=null").recipe.data.root is None


def test_weights_of_an_override_that_are_not_here_may_lie_beside_the_recipe(
    load, tmp_path, monkeypatch
):
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    assert load("", "model.init_from=mine.pt").recipe.model.init_from == "mine.pt"


def test_of_two_overrides_of_one_key_the_last_counts():
    recipe = load_experiment("quickstart", ["train.epochs=2", "train={epochs: 3}"]).recipe
    assert recipe.train.epochs == 3
    assert load_experiment("quickstart", ["train.lr=1", "train.lr=0.5"]).recipe.train.lr == 0.5


@pytest.mark.parametrize("override", ["extends=figure5-digits", "extends.x=figure5-digits"])
def test_no_override_extends_a_recipe(override):
    with pytest.raises(UsageError, match="only a file extends a recipe"):
        load_experiment("quickstart", [override])


def test_a_method_that_is_no_name_is_told_by_the_key_that_was_written():
    with pytest.raises(RecipeError, match=r"methods\.sam-0\.1\.method: 3 is refused"):
        load_experiment("quickstart", ["methods.sam-0.1.method=3"])
