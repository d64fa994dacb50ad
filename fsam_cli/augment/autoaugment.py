"""AutoAugment: one of 25 learned pairs of operations for each image.

Cubuk et al., "AutoAugment: Learning Augmentation Policies from Data", CVPR 2019, CIFAR-10 (used
for CIFAR-100 too). Policies, magnitudes, signs and probabilities are those of torchvision's
`AutoAugment(AutoAugmentPolicy.CIFAR10)` on PIL images: given the same draws, the result is equal
to it bit for bit. SAM's repository has another set, of 95 sub-policies.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from fsam_cli.augment._contract import Augmentation
from fsam_cli.augment._operations import Space, learned, put_through


class Step(NamedTuple):
    """An operation of a policy, how often it is applied, and how strongly (0 to 9)."""

    name: str
    probability: float
    level: int = 0  # operations without a magnitude ignore it


POLICIES = (
    (Step("Invert", 0.1), Step("Contrast", 0.2, 6)),
    (Step("Rotate", 0.7, 2), Step("TranslateX", 0.3, 9)),
    (Step("Sharpness", 0.8, 1), Step("Sharpness", 0.9, 3)),
    (Step("ShearY", 0.5, 8), Step("TranslateY", 0.7, 9)),
    (Step("AutoContrast", 0.5), Step("Equalize", 0.9)),
    (Step("ShearY", 0.2, 7), Step("Posterize", 0.3, 7)),
    (Step("Color", 0.4, 3), Step("Brightness", 0.6, 7)),
    (Step("Sharpness", 0.3, 9), Step("Brightness", 0.7, 9)),
    (Step("Equalize", 0.6), Step("Equalize", 0.5)),
    (Step("Contrast", 0.6, 7), Step("Sharpness", 0.6, 5)),
    (Step("Color", 0.7, 7), Step("TranslateX", 0.5, 8)),
    (Step("Equalize", 0.3), Step("AutoContrast", 0.4)),
    (Step("TranslateY", 0.4, 3), Step("Sharpness", 0.2, 6)),
    (Step("Brightness", 0.9, 6), Step("Color", 0.2, 8)),
    (Step("Solarize", 0.5, 2), Step("Invert", 0.0)),
    (Step("Equalize", 0.2), Step("AutoContrast", 0.6)),
    (Step("Equalize", 0.2), Step("Equalize", 0.6)),
    (Step("Color", 0.9, 9), Step("Equalize", 0.6)),
    (Step("AutoContrast", 0.8), Step("Solarize", 0.2, 8)),
    (Step("Brightness", 0.1, 3), Step("Color", 0.7, 0)),
    (Step("Solarize", 0.4, 5), Step("AutoContrast", 0.9)),
    (Step("TranslateY", 0.9, 9), Step("TranslateY", 0.7, 9)),
    (Step("AutoContrast", 0.9), Step("Solarize", 0.8, 3)),
    (Step("Equalize", 0.8), Step("Invert", 0.1)),
    (Step("TranslateY", 0.7, 9), Step("AutoContrast", 0.9)),
)

LEVELS = 10


@cache
def _space(height: int, width: int) -> Space:
    return {**learned(LEVELS, height, width), "Invert": ()}


NAMES = tuple(_space(1, 1))


@cache
def _policies() -> tuple[Tensor, Tensor, Tensor]:
    """`POLICIES` as (policies, 2) tensors: number in `NAMES`, probability, level."""
    numbers = [[NAMES.index(step.name) for step in pair] for pair in POLICIES]
    probabilities = [[step.probability for step in pair] for pair in POLICIES]
    levels = [[step.level for step in pair] for pair in POLICIES]
    probability = torch.tensor(probabilities, dtype=torch.float32)
    return torch.tensor(numbers), probability, torch.tensor(levels)


class AutoAugment(Augmentation):
    """`autoaugment`: the 25 CIFAR-10 policies, one drawn for each image."""

    decides_on_host = True

    def draw(
        self, random: np.random.Generator, images: int, height: int, width: int
    ) -> dict[str, np.ndarray]:
        return {
            "policy": random.integers(0, len(POLICIES), size=images),
            "coin": random.random((images, 2), dtype=np.float32),  # applied up to its probability
            "negative": random.integers(0, 2, size=(images, 2), dtype=np.int8) == 0,
        }

    def apply(self, images: Tensor, draws: Mapping[str, Tensor]) -> Tensor:
        number, probability, level = (each[draws["policy"]] for each in _policies())
        operation = number.masked_fill(draws["coin"] > probability, len(NAMES))
        setting = 2 * level + draws["negative"]
        return put_through(images, operation, setting, _space(*images.shape[2:]))


PROVIDES = {"autoaugment": AutoAugment}
