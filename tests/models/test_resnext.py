"""The blocks of aggregated transformations."""

import torch
from torch import nn

from fsam_cli.models.resnext import ResNeXtBlock


def test_norms_follow_all_three_convolutions_and_the_last_activation_the_addition():
    block = ResNeXtBlock(32, 128, stride=2, norm="batch").eval()
    for bias, norm in enumerate((block.norm1, block.norm2, block.norm3)):
        nn.init.constant_(norm.bias, -0.1 * bias)  # the norms differ
    x = torch.randn(2, 32, 6, 6)
    residual = block.norm1(block.conv1(x)).relu()
    residual = block.norm2(block.conv2(residual)).relu()
    residual = block.norm3(block.conv3(residual))
    torch.testing.assert_close(block(x), (residual + block.shortcut(x)).relu())


def test_the_grouped_convolution_alone_halves_the_image():
    block = ResNeXtBlock(32, 128, stride=2, norm="batch")
    assert [each.stride for each in (block.conv1, block.conv2, block.conv3)] == [
        (1, 1),
        (2, 2),
        (1, 1),
    ]
    assert block.conv2.groups == 32
