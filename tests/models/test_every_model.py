"""What every network promises: the published counts, any input, one gradient per image."""

import math
from functools import cache

import pytest
import torch
from torch import nn
from torch.func import functional_call, grad, vmap
from torch.nn.functional import cross_entropy

from fsam_cli import parts
from fsam_cli.errors import UsageError
from fsam_cli.models import _contract
from fsam_cli.models._contract import Model, multiply_adds, normalisation, trainable_parameters
from fsam_cli.recipe.schema import NamedPart

COUNTS = {  # parameters for 10 and 100 classes, multiply-adds for a 3x32x32 image and 10 classes
    "densenet121": (6_964_106, 7_056_356, 57_829_376),
    "resnet20": (272_474, 278_324, 40_813_184),
    "resnet32": (466_906, 472_756, 69_124_736),
    "resnet56": (855_770, 861_620, 125_747_840),
    "resnet34": (21_282_122, 21_328_292, 1_159_402_496),
    "vgg19_bn": (139_622_218, 139_990_948, 517_709_824),
    "vgg19_bn_small": (20_040_522, 20_086_692, 398_136_320),
    "resnext29_32x4d": (4_775_754, 4_868_004, 774_055_936),
    "wrn28_2": (1_467_610, 1_479_220, 214_353_152),
    "wrn28_10": (36_479_194, 36_536_884, 5_243_328_768),
    "pyramidnet272": (26_210_842, 26_288_692, 4_488_778_176),
}
EVERY = ["small_resnet", *COUNTS]
SMALLEST = {"densenet121": 29, "vgg19_bn": 32, "vgg19_bn_small": 32}  # pixels; others take any
# Enough to meet every kind of block with real weights in seconds.
LIGHT = ["small_resnet", "resnet20", "wrn28_2", "resnext29_32x4d", "densenet121", "vgg19_bn_small"]


def model(name: str, **settings: object) -> Model:
    return parts.build("models", NamedPart(name=name, settings=settings), "model")


@cache  # the tests that share one only look at it
def on_meta(
    name: str, *, channels: int = 3, classes: int = 10, image_size: int = 32, **settings: object
) -> nn.Module:
    """The network without memory or arithmetic, for what depends on shapes alone."""
    shape = {"channels": channels, "classes": classes, "image_size": image_size}
    return _contract.on_meta(model(name, **settings), **shape)


def seeded(name: str, *, seed: int = 0, image_size: int = 32, **settings: object) -> nn.Module:
    torch.manual_seed(seed)
    return model(name, **settings).build(channels=3, classes=10, image_size=image_size)


def image_size_for(name: str) -> int:
    return SMALLEST.get(name, 8)


@pytest.mark.parametrize("name", COUNTS)
def test_parameters_are_the_published_ones_for_10_and_for_100_classes(name):
    ten, hundred, _ = COUNTS[name]
    assert trainable_parameters(on_meta(name)) == ten
    assert trainable_parameters(on_meta(name, classes=100)) == hundred


@pytest.mark.parametrize("name", COUNTS)
def test_multiply_adds_are_the_published_ones(name):
    assert multiply_adds(on_meta(name), (3, 32, 32)) == COUNTS[name][2]


@pytest.mark.parametrize("name", EVERY)
def test_the_norm_changes_neither_the_parameters_nor_the_multiply_adds(name):
    batch, group = on_meta(name), on_meta(name, norm="group")
    assert trainable_parameters(group) == trainable_parameters(batch)
    assert multiply_adds(group, (3, 32, 32)) == multiply_adds(batch, (3, 32, 32))


@pytest.mark.parametrize("name", EVERY)
def test_any_channels_classes_and_image_size_give_one_logit_per_class(name):
    smallest = SMALLEST.get(name, 5)
    for channels, classes, size in [(1, 102, smallest), (4, 2, 65)]:
        network = on_meta(name, channels=channels, classes=classes, image_size=size)
        logits = network(torch.empty(2, channels, size, size, device="meta"))
        assert logits.shape == (2, classes)


@pytest.mark.parametrize("name", SMALLEST)
def test_an_image_that_the_poolings_would_lose_is_refused_with_a_remedy(name):
    smallest = SMALLEST[name]
    with pytest.raises(UsageError, match=f"at least {smallest}x{smallest} .* use small_resnet"):
        on_meta(name, image_size=smallest - 1)


@pytest.mark.parametrize("name", LIGHT)
def test_every_weight_gets_a_finite_gradient(name):
    size = image_size_for(name)
    network = seeded(name, image_size=size).to(memory_format=torch.channels_last)
    images = torch.randn(4, 3, size, size).contiguous(memory_format=torch.channels_last)
    cross_entropy(network(images), torch.arange(4)).backward()
    for weight_name, weight in network.named_parameters():
        assert weight.grad is not None, weight_name
        assert weight.grad.isfinite().all(), weight_name


@pytest.mark.parametrize("name", LIGHT)
def test_one_seed_gives_one_set_of_initial_weights(name):
    size = image_size_for(name)
    first, again = (seeded(name, image_size=size).state_dict() for _ in range(2))
    other = seeded(name, image_size=size, seed=1).state_dict()
    assert all(torch.equal(first[key], again[key]) for key in first)
    drawn = [key for key in first if first[key].dim() > 1]
    assert not any(torch.equal(first[key], other[key]) for key in drawn)


@pytest.mark.parametrize("name", LIGHT)
def test_convolutions_start_as_kaiming_fan_out_and_norms_as_the_identity(name):
    for module in seeded(name, image_size=image_size_for(name)).modules():
        if isinstance(module, nn.Conv2d) and module.weight.numel() > 10_000:
            fan_out = module.out_channels * math.prod(module.kernel_size)
            assert module.weight.std().item() == pytest.approx(math.sqrt(2 / fan_out), rel=0.05)
            assert module.bias is None or module.bias.eq(0).all()
        elif isinstance(module, nn.BatchNorm2d):
            assert module.weight.eq(1).all()
            assert module.bias.eq(0).all()


@pytest.mark.parametrize("name", EVERY)
def test_a_misspelt_setting_is_refused_with_a_suggestion(name):
    with pytest.raises(parts.PartError, match=r"model\.nrom: unknown key; did you mean 'norm'\?"):
        model(name, nrom="group")


@pytest.mark.parametrize("name", EVERY)
def test_an_unknown_norm_is_refused_with_the_two_there_are(name):
    with pytest.raises(parts.PartError, match=r"'layer' is not possible; use 'batch' or 'group'"):
        model(name, norm="layer")


@pytest.mark.parametrize("name", EVERY)
def test_batch_norm_is_the_default(name):
    kinds = {type(module) for module in on_meta(name).modules()}
    assert nn.BatchNorm2d in kinds
    assert nn.GroupNorm not in kinds


@pytest.mark.parametrize("name", EVERY)
def test_group_norm_keeps_no_statistics(name):
    network = on_meta(name, norm="group")
    assert not list(network.buffers())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in network.modules())


@pytest.mark.parametrize(("width", "groups"), [(16, 8), (8, 8), (20, 4), (18, 2), (25, 1)])
def test_group_norm_has_eight_groups_or_as_many_as_divide_the_width(width, groups):
    assert normalisation("group", width).num_groups == groups


@pytest.mark.parametrize("name", [*LIGHT, "pyramidnet272"])
def test_gradients_per_image_by_torch_func_are_those_of_each_image_alone(name):
    size = SMALLEST.get(name, 4)
    network = seeded(name, image_size=size, norm="group").double()
    images = torch.randn(2, 3, size, size, dtype=torch.float64)
    labels = torch.tensor([3, 8])
    weights = {key: weight.detach() for key, weight in network.named_parameters()}

    def loss(weights, image, label):
        logits = functional_call(network, weights, (image[None],))
        return cross_entropy(logits, label[None])

    per_image = vmap(grad(loss), in_dims=(None, 0, 0))(weights, images, labels)
    for index in range(2):
        network.zero_grad()
        cross_entropy(network(images[index : index + 1]), labels[index : index + 1]).backward()
        for key, weight in network.named_parameters():
            torch.testing.assert_close(per_image[key][index], weight.grad, rtol=1e-7, atol=1e-9)
