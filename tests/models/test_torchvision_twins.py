"""The networks that are torchvision's compute what torchvision's compute."""

import pytest
import torch
from torch import nn
from torchvision import models as torchvision_models

from fsam_cli.models.densenet import DenseNet121
from fsam_cli.models.vgg import Vgg19, Vgg19Small


def test_densenet121_with_torchvisions_weights_gives_torchvisions_logits():
    theirs = torchvision_models.densenet121(num_classes=10).eval()
    ours = DenseNet121().build(channels=3, classes=10, image_size=32).eval()
    ours.load_state_dict(theirs.state_dict())
    images = torch.randn(2, 3, 40, 40)
    assert torch.equal(ours(images), theirs(images))


def test_vgg19_bn_has_torchvisions_weights_by_name_shape_and_order():
    with torch.device("meta"):
        theirs = torchvision_models.vgg19_bn(num_classes=10).state_dict()
        ours = Vgg19().build(channels=3, classes=10, image_size=32).state_dict()
    assert [(key, value.shape) for key, value in ours.items()] == [
        (key, value.shape) for key, value in theirs.items()
    ]


def test_vgg19_bn_has_torchvisions_layers_in_torchvisions_order():
    with torch.device("meta"):
        theirs = torchvision_models.vgg19_bn(num_classes=10)
        ours = Vgg19().build(channels=3, classes=10, image_size=32)
    for part in ("features", "avgpool", "classifier"):
        their_layers, our_layers = str(getattr(theirs, part)), str(getattr(ours, part))
        plain = their_layers.replace("inplace=True", "")
        plain = plain.replace(", ceil_mode=False", "").replace("(7, 7)", "7")
        assert our_layers.replace(", ceil_mode=False", "") == plain


def test_vgg19_bn_small_has_the_same_convolutions_and_one_linear_layer():
    with torch.device("meta"):
        big = Vgg19().build(channels=3, classes=10, image_size=32)
        small = Vgg19Small().build(channels=3, classes=10, image_size=32)
    assert str(small.features) == str(big.features)
    assert [m.in_features for m in small.modules() if isinstance(m, nn.Linear)] == [512]


@pytest.mark.parametrize("dropout", [0.0, 0.5])
def test_vgg19_bn_puts_the_dropout_asked_for_between_its_linear_layers(dropout):
    with torch.device("meta"):
        network = Vgg19(dropout=dropout).build(channels=3, classes=10, image_size=32)
    assert [m.p for m in network.modules() if isinstance(m, nn.Dropout)] == [dropout, dropout]
