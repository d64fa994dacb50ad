"""`vgg19_bn` and `vgg19_bn_small`: sixteen convolutions with norms, and two kinds of head.

Simonyan, Zisserman: "Very Deep Convolutional Networks for Large-Scale Image Recognition", ICLR
2015, configuration E, with batch normalisation as torchvision adds it. `vgg19_bn` is torchvision's
network, down to the names of the weights: its head pools to 7x7 (which repeats the one pixel that
32x32 images leave) and has two layers of 4096 with `dropout`, which draws from torch's global
random state. `vgg19_bn_small` has one linear layer, as is usual on CIFAR. The Fisher SAM paper
does not say which it used; the evidence for the first is weak.

    parameters            10 classes    100 classes    multiply-adds (3x32x32, 10 classes)
    vgg19_bn             139,622,218    139,990,948                            517,709,824
    vgg19_bn_small        20,040,522     20,086,692                            398,136,320

Convolutions and norms are initialised as in every model here, which is torchvision's way too. The
linear layers of `vgg19_bn` start as torchvision's do, normal with deviation 0.01; that of
`vgg19_bn_small` keeps torch's default.
"""

from __future__ import annotations

from collections import OrderedDict

from pydantic import Field
from torch import nn

from fsam_cli.models._contract import Model, Norm, initialise, normalisation
from fsam_cli.models._layers import classifier, require_image_size

STAGES = ((64, 2), (128, 2), (256, 4), (512, 4), (512, 4))  # channels, convolutions
SMALLEST_IMAGE = 32  # pixels: halved five times
POOLED = 7  # pixels that torchvision's head sees
HIDDEN = 4096


def convolutions(channels: int, norm: Norm) -> nn.Sequential:
    """Five stages of 3x3 convolutions, each with a max-pooling at its end.

    The convolutions have a bias, as torchvision's do, although a norm follows.
    """
    layers: list[nn.Module] = []
    inputs = channels
    for width, count in STAGES:
        for _ in range(count):
            layers += [
                nn.Conv2d(inputs, width, 3, padding=1),
                normalisation(norm, width),
                nn.ReLU(),
            ]
            inputs = width
        layers.append(nn.MaxPool2d(2))
    return nn.Sequential(*layers)


def hidden_head(width: int, classes: int, dropout: float) -> nn.Sequential:
    """torchvision's two hidden layers and its logits, initialised its way."""
    head = nn.Sequential(
        nn.Linear(width * POOLED**2, HIDDEN),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(HIDDEN, HIDDEN),
        nn.ReLU(),
        nn.Dropout(dropout),
        nn.Linear(HIDDEN, classes),
    )
    for module in head:
        if isinstance(module, nn.Linear):
            nn.init.normal_(module.weight, std=0.01)
            nn.init.zeros_(module.bias)
    return head


class Vgg19(Model):
    """torchvision's network, its 4096 head included."""

    norm: Norm = "batch"
    dropout: float = Field(0.5, ge=0, lt=1)

    def build(self, *, channels: int, classes: int, image_size: int) -> nn.Module:
        require_image_size(image_size, at_least=SMALLEST_IMAGE, model="vgg19_bn")
        network = nn.Sequential(
            OrderedDict(
                features=convolutions(channels, self.norm),
                avgpool=nn.AdaptiveAvgPool2d(POOLED),
                flatten=nn.Flatten(),
                classifier=hidden_head(STAGES[-1][0], classes, self.dropout),
            )
        )
        initialise(network)
        return network


class Vgg19Small(Model):
    """The same convolutions, their mean over the image, and one linear layer."""

    norm: Norm = "batch"

    def build(self, *, channels: int, classes: int, image_size: int) -> nn.Module:
        require_image_size(image_size, at_least=SMALLEST_IMAGE, model="vgg19_bn_small")
        features = {"features": convolutions(channels, self.norm)}
        return classifier(features, width=STAGES[-1][0], classes=classes)


PROVIDES = {"vgg19_bn": Vgg19, "vgg19_bn_small": Vgg19Small}
