"""PyramidNet's widths and shortcuts, and ShakeDrop."""

import pytest
import torch
from torch import nn
from torch.func import grad, vmap

from fsam_cli.models.pyramidnet import PyramidBlock, PyramidNet272, ShakeDrop


def shakes_of(network):
    return [module for module in network.modules() if isinstance(module, ShakeDrop)]


def test_the_last_block_is_alpha_wider_than_the_stem():
    with torch.device("meta"):
        network = PyramidNet272().build(channels=3, classes=10, image_size=32)
    blocks = [module for module in network.modules() if isinstance(module, PyramidBlock)]
    widths = [block.conv2.out_channels for block in blocks]
    assert len(widths) == 90
    assert widths[:4] == [18, 20, 23, 25]  # 16 + 2.22 k, rounded
    assert widths[-1] == 216
    assert network.classifier.in_features == 4 * 216


def test_a_shortcut_pools_and_pads_and_has_no_weights():
    block = PyramidBlock(8, 4, stride=2, norm="batch", shakedrop=0.0)
    x = torch.randn(2, 8, 6, 6)
    shortcut = block.shortcut(x)
    assert shortcut.shape == (2, 16, 3, 3)
    torch.testing.assert_close(
        shortcut[:, :8], x.unflatten(2, (3, 2)).unflatten(4, (3, 2)).mean((3, 5))
    )
    assert shortcut[:, 8:].eq(0).all()
    assert not list(block.shortcut.parameters())


def test_an_odd_image_shrinks_alike_on_both_branches():
    block = PyramidBlock(8, 4, stride=2, norm="batch", shakedrop=0.0)
    for size in (1, 3, 7):
        x = torch.randn(2, 8, size, size)
        assert block(x).shape == (2, 16, (size + 1) // 2, (size + 1) // 2)


def test_the_first_convolution_sees_negative_values_because_no_relu_precedes_it():
    block = PyramidBlock(8, 4, stride=1, norm="batch", shakedrop=0.0)
    seen = []
    block.conv1.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0]))
    block(torch.randn(2, 8, 4, 4))
    assert seen[0].min() < 0


def test_shakedrop_is_absent_by_default():
    with torch.device("meta"):
        network = PyramidNet272().build(channels=3, classes=10, image_size=32)
    assert not shakes_of(network)


def test_shakedrop_grows_linearly_to_its_setting_at_the_last_block():
    with torch.device("meta"):
        network = PyramidNet272(shakedrop=0.5).build(channels=3, classes=10, image_size=32)
    probabilities = [shake.probability for shake in shakes_of(network)]
    assert probabilities == pytest.approx([0.5 * k / 90 for k in range(1, 91)])


def test_shakedrop_in_evaluation_is_the_mean_of_its_training():
    torch.manual_seed(0)
    shake = ShakeDrop(0.4)
    x = torch.full((200_000, 1, 1, 1), 3.0)
    training = shake(x)
    evaluated = shake.eval()(x)
    assert evaluated.unique().item() == pytest.approx(3.0 * 0.6)
    assert training.mean().item() == pytest.approx(3.0 * 0.6, abs=0.02)  # four standard errors


def test_shakedrop_scales_forward_by_alpha_and_backward_by_beta():
    torch.manual_seed(0)
    x = torch.ones(100_000, 1, 1, 1, requires_grad=True)
    forth = ShakeDrop(0.4)(x)
    forth.sum().backward()
    back, forth = x.grad.flatten(), forth.detach().flatten()
    shaken = forth != 1
    assert shaken.double().mean().item() == pytest.approx(0.4, abs=0.01)
    assert back[~shaken].eq(1).all()
    assert forth[shaken].min().item() == pytest.approx(-1, abs=0.01)
    assert forth[shaken].max().item() == pytest.approx(1, abs=0.01)
    assert back[shaken].min().item() == pytest.approx(0, abs=0.01)
    assert back[shaken].mean().item() == pytest.approx(0.5, abs=0.01)
    correlation = torch.corrcoef(torch.stack([forth[shaken], back[shaken]]))[0, 1]
    assert abs(correlation) < 0.03


def test_shakedrop_that_never_shakes_is_the_identity_to_the_bit():
    x = torch.randn(8, 3, 2, 2)
    assert torch.equal(ShakeDrop(0.0)(x), x)


def test_shakedrop_gives_all_of_an_image_one_factor_and_each_image_its_own():
    torch.manual_seed(0)
    shaken = ShakeDrop(1.0)(torch.ones(5, 3, 2, 2)).flatten(1)
    assert torch.equal(shaken, shaken[:, :1].expand_as(shaken))
    assert len(shaken[:, 0].unique()) == 5


def test_two_passes_from_one_random_state_are_shaken_alike_and_others_are_not():
    torch.manual_seed(0)
    network = PyramidNet272(shakedrop=0.5).build(channels=3, classes=10, image_size=4)
    x = torch.randn(2, 3, 4, 4)
    passes = []
    for seed in (1, 1, 2):
        torch.manual_seed(seed)
        with torch.no_grad():
            passes.append(network(x))
    assert torch.equal(passes[0], passes[1])
    assert not torch.equal(passes[0], passes[2])


def test_shakedrop_works_under_per_image_gradients():
    shake = ShakeDrop(1.0)

    def total(image):
        return shake(image[None]).sum()

    torch.manual_seed(0)
    gradients = vmap(grad(total), randomness="different")(torch.randn(6, 3, 2, 2))
    assert ((gradients >= 0) & (gradients <= 1)).all()
    assert len(gradients[:, 0, 0, 0].unique()) == 6


@pytest.mark.parametrize("shakedrop", [-0.1, 1.1])
def test_a_shakedrop_that_is_no_probability_is_refused(shakedrop):
    with pytest.raises(ValueError, match="shakedrop"):
        PyramidNet272(shakedrop=shakedrop)


def test_norm_modules_stand_around_every_convolution_of_a_block():
    block = PyramidBlock(8, 4, stride=1, norm="group", shakedrop=0.0)
    norms = [module for module in block.modules() if isinstance(module, nn.GroupNorm)]
    assert [norm.num_channels for norm in norms] == [8, 4, 4, 16]


def test_a_block_activates_before_its_last_two_convolutions_and_shakes_what_is_added():
    block = PyramidBlock(8, 4, stride=2, norm="batch", shakedrop=0.5).eval()
    for norm in (block.norm1, block.norm2, block.norm3, block.norm4):
        nn.init.normal_(norm.bias)
    x = torch.randn(2, 8, 6, 6)
    residual = block.conv2(block.norm2(block.conv1(block.norm1(x))).relu())
    residual = block.norm4(block.conv3(block.norm3(residual).relu()))
    torch.testing.assert_close(block(x), 0.5 * residual + block.shortcut(x))
