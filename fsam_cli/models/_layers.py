"""Pieces that the networks of several families are assembled from."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Mapping, Sequence

from torch import Tensor, nn
from torch.nn import functional

from fsam_cli.errors import UsageError
from fsam_cli.models._contract import Norm, initialise, normalisation


def convolution(
    inputs: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1
) -> nn.Conv2d:
    """A convolution without bias (a norm follows) that keeps the image size up to its stride."""
    return nn.Conv2d(
        inputs, outputs, kernel, stride=stride, padding=kernel // 2, groups=groups, bias=False
    )


def stem(channels: int, width: int, norm: Norm) -> nn.Sequential:
    """The CIFAR stem of post-activation networks: a 3x3 convolution and no pooling."""
    return nn.Sequential(convolution(channels, width, 3), normalisation(norm, width), nn.ReLU())


def projection(inputs: int, outputs: int, *, stride: int, norm: Norm) -> nn.Module:
    """A post-activation block's shortcut: 1x1 convolution and norm where the shape changes."""
    if inputs == outputs and stride == 1:
        return nn.Identity()
    return nn.Sequential(
        convolution(inputs, outputs, 1, stride=stride), normalisation(norm, outputs)
    )


class ZeroPad(nn.Module):
    """Appends channels of zeros: the shortcut to a wider block that costs no parameter."""

    def __init__(self, added: int) -> None:
        super().__init__()
        self.added = added

    def forward(self, x: Tensor) -> Tensor:
        return functional.pad(x, (0, 0, 0, 0, 0, self.added))

    def extra_repr(self) -> str:
        return f"added={self.added}"


def stages(
    block: Callable[..., nn.Module], inputs: int, outputs: Sequence[int], blocks: Sequence[int]
) -> dict[str, nn.Module]:
    """`stage1`, `stage2`, ...: every stage but the first halves the image, in its first block.

    Args:
        block: makes one, from (input channels, output channels, stride=).
        inputs: channels before the first stage.
        outputs: channels of each stage.
        blocks: how many each stage has.
    """
    found: dict[str, nn.Module] = {}
    for number, (width, count) in enumerate(zip(outputs, blocks, strict=True), start=1):
        stage = nn.Sequential()
        for stride in (1 if number == 1 else 2, *[1] * (count - 1)):
            stage.append(block(inputs, width, stride=stride))
            inputs = width
        found[f"stage{number}"] = stage
    return found


def classifier(features: Mapping[str, nn.Module], *, width: int, classes: int) -> nn.Sequential:
    """A freshly initialised network: the features, their mean over the image, one linear layer.

    Args:
        features: the stages in order, by the name their weights carry; the last gives
            (batch, width, height, width) of any size.
        width: channels of the last stage.
        classes: number of logits.
    """
    network = nn.Sequential(
        OrderedDict(
            **features,
            pool=nn.AdaptiveAvgPool2d(1),
            flatten=nn.Flatten(),
            classifier=nn.Linear(width, classes),
        )
    )
    initialise(network)
    return network


def require_image_size(image_size: int, *, at_least: int, model: str) -> None:
    """Refuse images that a network's poolings would shrink to nothing.

    Raises:
        UsageError: with the smallest possible size and what to use instead.
    """
    if image_size < at_least:
        raise UsageError(
            f"model: {model} needs images of at least {at_least}x{at_least} pixels, these have "
            f"{image_size}x{image_size}; use small_resnet or resnet20, which take any size"
        )
