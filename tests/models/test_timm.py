"""Networks of timm: the published counts, timm's own function, and what is refused."""

from __future__ import annotations

import sys

import pytest
import timm
import torch

from fsam_cli.errors import RecipeError, UsageError
from fsam_cli.models._contract import trainable_parameters
from fsam_cli.models.timm_networks import DeitB, Timm, VitB16, as_timms
from fsam_cli.recipe.load import load_experiment
from fsam_cli.recipe.plan import plan


@pytest.mark.parametrize(
    ("kind", "classes", "parameters"),
    [
        (VitB16, 100, 85_875_556),
        (VitB16, 196, 85_949_380),
        (VitB16, 102, 85_877_094),
        (DeitB, 1000, 86_567_656),
    ],
)
def test_parameters_are_the_published_ones(kind, classes, parameters):
    with torch.device("meta"):
        network = kind().build(channels=3, classes=classes, image_size=224)
    assert trainable_parameters(network) == parameters


def test_a_network_is_timms_own_drawn_from_the_same_random_numbers():
    torch.manual_seed(5)
    ours = Timm(architecture="resnet18").build(channels=3, classes=7, image_size=32)
    torch.manual_seed(5)
    theirs = timm.create_model("resnet18", num_classes=7)
    images = torch.randn(2, 3, 32, 32)
    assert torch.equal(ours.eval()(images), theirs.eval()(images))


@pytest.mark.parametrize(
    "architecture", ["vit_tiny_patch16_224", "resnet18", "mlp_mixer", "xcit_nano_12_p16_224"]
)
def test_images_of_other_sizes_and_channels_are_taken(architecture):
    name = "mixer_s16_224" if architecture == "mlp_mixer" else architecture
    network = Timm(architecture=name).build(channels=1, classes=4, image_size=32)
    assert network(torch.zeros(2, 1, 32, 32)).shape == (2, 4)


def test_drop_path_reaches_the_blocks():
    network = Timm(architecture="vit_tiny_patch16_224", drop_path=0.3)
    chances = [
        module.drop_prob
        for module in network.build(channels=3, classes=2, image_size=32).modules()
        if type(module).__name__ == "DropPath"
    ]
    assert max(chances) == pytest.approx(0.3)


def test_an_architecture_that_timm_has_not_is_refused_before_anything_is_planned(tmp_path):
    recipe = tmp_path / "mine.yaml"
    recipe.write_text(
        "data: digits\nmodel: {name: timm, architecture: resnet_18}\ntrain: {epochs: 1}\n"
        "methods: {sgd: {}}\n"
    )
    with pytest.raises(UsageError, match=r"timm .* has no 'resnet_18'; did you mean .*resnet18"):
        plan(load_experiment(str(recipe)), out=tmp_path, device="cpu")


def test_of_many_near_names_three_are_told():
    with pytest.raises(UsageError) as refused:
        Timm(architecture="vit").check()
    assert str(refused.value).count(" or ") == 2


def test_a_setting_that_an_architecture_does_not_take_is_named():
    with pytest.raises(UsageError, match="drop_path_rate"):
        Timm(architecture="vgg11", drop_path=0.1).build(channels=3, classes=2, image_size=32)


def test_an_image_smaller_than_a_patch_is_refused():
    with pytest.raises(UsageError, match="images of at least 16x16 pixels"):
        VitB16().build(channels=3, classes=2, image_size=8)


def test_without_timm_the_way_to_install_it_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(UsageError, match=r"pip install 'fsam-cli\[timm\]'"):
        VitB16().check()


def test_a_model_that_only_timm_has_is_told_as_timms():
    with pytest.raises(RecipeError, match=r"timm has it: write \{name: timm, .*; did you"):
        load_experiment("quickstart", ["model=resnet18"])
    found = load_experiment("quickstart", ["model={name: timm, architecture: resnet18}"])
    assert found.model == Timm(architecture="resnet18")
    with pytest.raises(RecipeError) as refused:
        load_experiment("quickstart", ["model=resnet21"])
    assert "write {" not in str(refused.value)


def test_without_timm_a_model_that_may_be_timms_is_told_so(monkeypatch):
    monkeypatch.setitem(sys.modules, "timm", None)  # an import of it fails
    assert as_timms("vit_small_patch16_224").startswith("if it is one of timm's, pip install")
    assert as_timms("MyNet") == ""
    assert as_timms("transformer") == ""
