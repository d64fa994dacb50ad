"""The shortcuts of the CIFAR residual networks, and the small network cut from them."""

import pytest
import torch
from torch import nn

from fsam_cli.models._contract import trainable_parameters
from fsam_cli.models.cifar_resnet import BasicBlock, ResNet20, ResNet32, ResNet56
from fsam_cli.models.resnet34 import ResNet34
from fsam_cli.models.small_resnet import SmallResNet


@pytest.mark.parametrize(
    ("kind", "parameters"), [(ResNet20, 269_722), (ResNet32, 464_154), (ResNet56, 853_018)]
)
def test_padding_shortcuts_give_the_published_parameters(kind, parameters):
    with torch.device("meta"):
        network = kind(shortcut="pad").build(channels=3, classes=10, image_size=32)
    assert trainable_parameters(network) == parameters
    assert network(torch.empty(2, 3, 29, 29, device="meta")).shape == (2, 10)


def test_a_padding_shortcut_takes_every_second_pixel_and_adds_channels_of_zeros():
    block = BasicBlock(4, 8, stride=2, norm="batch", shortcut="pad")
    x = torch.randn(2, 4, 7, 7)
    expected = torch.zeros(2, 8, 4, 4)
    expected[:, :4] = x[:, :, ::2, ::2]
    assert torch.equal(block.shortcut(x), expected)


def test_a_block_that_keeps_its_shape_hands_its_input_on():
    for shortcut in ("conv", "pad"):
        block = BasicBlock(4, 4, stride=1, norm="batch", shortcut=shortcut)
        assert isinstance(block.shortcut, nn.Identity)


def test_a_block_activates_after_the_addition():
    block = BasicBlock(4, 4, stride=1, norm="batch", shortcut="conv")
    nn.init.zeros_(block.norm2.weight)  # no residual is left
    x = torch.randn(2, 4, 5, 5)
    assert torch.equal(block(x), x.relu())


def test_norm_and_activation_follow_the_first_convolution_and_a_norm_the_second():
    block = BasicBlock(4, 8, stride=2, norm="batch", shortcut="conv").eval()
    nn.init.constant_(block.norm1.bias, -0.5)  # the norms differ
    x = torch.randn(2, 4, 6, 6)
    residual = block.norm2(block.conv2(block.norm1(block.conv1(x)).relu()))
    torch.testing.assert_close(block(x), (residual + block.shortcut(x)).relu())
    assert (block.conv1.stride, block.conv2.stride) == ((2, 2), (1, 1))


def test_the_stem_is_a_convolution_a_norm_and_an_activation():
    network = SmallResNet().build(channels=3, classes=10, image_size=8)
    assert [type(each) for each in network.stem] == [nn.Conv2d, nn.BatchNorm2d, nn.ReLU]


@pytest.mark.parametrize(("kind", "convolutions"), [(ResNet20, 19), (ResNet32, 31), (ResNet56, 55)])
def test_the_depth_counts_the_3x3_convolutions_and_the_linear_layer(kind, convolutions):
    with torch.device("meta"):
        network = kind().build(channels=3, classes=10, image_size=32)
    kernels = [m.kernel_size for m in network.modules() if isinstance(m, nn.Conv2d)]
    assert kernels.count((3, 3)) == convolutions


def test_resnet34_shrinks_a_32_pixel_image_to_4_pixels_and_no_further():
    with torch.device("meta"):
        network = ResNet34().build(channels=3, classes=10, image_size=32)
        x = network.stage4(
            network.stage3(network.stage2(network.stage1(torch.empty(1, 64, 32, 32))))
        )
    assert x.shape == (1, 512, 4, 4)


def test_the_small_network_has_78042_parameters_and_eight_layers():
    network = SmallResNet().build(channels=3, classes=10, image_size=8)
    assert trainable_parameters(network) == 78_042
    grey = SmallResNet().build(channels=1, classes=10, image_size=8)
    assert trainable_parameters(grey) == 77_754
    blocks = [module for module in network.modules() if isinstance(module, BasicBlock)]
    assert [block.conv1.stride for block in blocks] == [(1, 1), (2, 2), (2, 2)]
    assert [block.conv1.out_channels for block in blocks] == [16, 32, 64]
