"""The pre-activation structure of the wide residual networks."""

import pytest
import torch
from torch import nn
from torch.nn.functional import relu

from fsam_cli.models.wide_resnet import WideBlock, Wrn28x2


def test_the_shortcut_that_changes_the_shape_acts_on_the_raw_input():
    block = WideBlock(4, 8, stride=2, norm="batch", dropout=0.0)
    nn.init.zeros_(block.conv2.weight)  # no residual is left
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(block(x), block.shortcut(x))
    assert isinstance(block.shortcut, nn.Conv2d)
    assert block.shortcut.kernel_size == (1, 1)


def test_a_block_that_keeps_its_shape_adds_to_its_raw_input():
    block = WideBlock(4, 4, stride=1, norm="batch", dropout=0.0)
    nn.init.zeros_(block.conv2.weight)
    x = torch.randn(2, 4, 6, 6)
    assert torch.equal(block(x), x)


def test_norm_and_activation_precede_each_convolution():
    block = WideBlock(4, 8, stride=2, norm="batch", dropout=0.0).eval()
    x = torch.randn(2, 4, 6, 6)
    residual = block.conv1(relu(block.norm1(x)))
    residual = block.conv2(relu(block.norm2(residual)))
    torch.testing.assert_close(block(x), residual + block.shortcut(x))


def test_there_is_one_norm_after_the_stem_only_inside_the_blocks_and_one_before_the_pooling():
    with torch.device("meta"):
        network = Wrn28x2().build(channels=3, classes=10, image_size=32)
    assert [name for name, _ in network.named_children()] == [
        "stem", "stage1", "stage2", "stage3", "norm", "relu", "pool", "flatten", "classifier"
    ]  # fmt: skip
    assert isinstance(network.stem, nn.Conv2d)
    blocks = [module for module in network.modules() if isinstance(module, WideBlock)]
    norms = [module for module in network.modules() if isinstance(module, nn.BatchNorm2d)]
    assert len(norms) == 2 * len(blocks) + 1
    assert len(blocks) == 12


def test_dropout_draws_from_torchs_random_state_in_training_only():
    torch.manual_seed(0)
    network = Wrn28x2(dropout=0.3, norm="group").build(channels=3, classes=10, image_size=8)
    x = torch.randn(2, 3, 8, 8)
    draws = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        draws.append(network(x))
    assert torch.equal(draws[0], draws[1])
    assert not torch.equal(draws[0], draws[2])
    network.eval()
    assert torch.equal(network(x), network(x))


def test_a_dropout_of_zero_leaves_the_random_state_alone():
    network = Wrn28x2().build(channels=3, classes=10, image_size=8)
    before = torch.get_rng_state()
    network(torch.ones(2, 3, 8, 8))
    assert torch.equal(torch.get_rng_state(), before)


@pytest.mark.parametrize("dropout", [-0.1, 1.0])
def test_a_dropout_that_is_no_probability_below_one_is_refused(dropout):
    with pytest.raises(ValueError, match="dropout"):
        Wrn28x2(dropout=dropout)
