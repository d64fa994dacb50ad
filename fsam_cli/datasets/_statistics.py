"""By what pixels are normalised: statistics of the set itself, or of a network's first training.

A pre-trained network goes on with the numbers it was trained with. `imagenet`: per channel over
ImageNet's training images, as torchvision's and DeiT's weights want them. `half`: -1 to 1, as the
ViT weights of Dosovitskiy et al. (2021) and Steiner et al. (2022) do.
"""

from __future__ import annotations

from fsam_cli.datasets._contract import ImageSet
from fsam_cli.recipe.schema import Normalise

Statistics = tuple[tuple[float, ...], tuple[float, ...]]

IMAGENET: Statistics = ((0.485, 0.456, 0.406), (0.229, 0.224, 0.225))


def statistics(data: ImageSet, normalise: Normalise) -> Statistics:
    """Mean and standard deviation per channel, of pixels scaled to 0..1."""
    if normalise == "imagenet":
        return IMAGENET
    if normalise == "half":
        return (0.5,) * len(data.mean), (0.5,) * len(data.mean)
    return data.mean, data.std
