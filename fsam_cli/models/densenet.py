"""`densenet121`: torchvision's, with its ImageNet stem.

Huang, Liu, van der Maaten, Weinberger: "Densely Connected Convolutional Networks", CVPR 2017,
Table 1: growth rate 32, blocks of 6, 12, 24 and 16 layers, compression 0.5. The stem (7x7
convolution with stride 2, then max-pooling) leaves 32x32 images 8x8 pixels before the first
block. That is why the Fisher SAM paper's 91.8 % for SGD on CIFAR-10 points to it: a DenseNet
with a CIFAR stem reaches about 95 %.

Departures from torchvision: Kaiming fan-out initialisation instead of fan-in, and `norm: group`,
which replaces the norms. 6,964,106 parameters for 10 classes, 7,056,356 for 100; 57,829,376
multiply-adds for one 3x32x32 image.
"""

from __future__ import annotations

from torch import nn

from fsam_cli.models._contract import Model, Norm, initialise, normalisation
from fsam_cli.models._layers import require_image_size

STEM_WIDTH = 64
SMALLEST_IMAGE = 29  # pixels: halved twice, rounding up, then three times, rounding down


class DenseNet121(Model):
    """121 layers, growth rate 32."""

    norm: Norm = "batch"

    def build(self, *, channels: int, classes: int, image_size: int) -> nn.Module:
        # Imported here because it takes a second, and most commands build no DenseNet.
        from torchvision.models import densenet121

        require_image_size(image_size, at_least=SMALLEST_IMAGE, model="densenet121")
        network: nn.Module = densenet121(num_classes=classes)
        adapt(network, channels=channels, norm=self.norm)
        initialise(network)
        return network


def adapt(network: nn.Module, *, channels: int, norm: Norm) -> None:
    """Replace what torchvision has no argument for: the input channels and the norms."""
    stem = nn.Conv2d(channels, STEM_WIDTH, 7, stride=2, padding=3, bias=False)
    network.set_submodule("features.conv0", stem)
    for name, module in list(network.named_modules()):
        if isinstance(module, nn.BatchNorm2d):
            network.set_submodule(name, normalisation(norm, module.num_features))


PROVIDES = {"densenet121": DenseNet121}
