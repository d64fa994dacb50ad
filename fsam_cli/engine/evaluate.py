"""Loss and predictions on held-out images, in large batches, in evaluation mode."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsam_cli.engine.feed import HeldOut
from fsam_cli.engine.replicas import ALONE, Replicas, part_of

BATCH = 1024  # images
BATCH_PIXELS = 2**24  # of large images fewer: 334 of 224x224 pixels


class Normaliser(Protocol):
    """Whoever turns stored images into what the network sees (`feed.Feed` for one)."""

    @property
    def pixels(self) -> int:
        """Of an image as the network sees it."""

    def normalised(self, images: Tensor) -> Tensor:
        """(batch, channels, height, width) uint8 to float32."""


@dataclass(frozen=True)
class Evaluation:
    """What a network says of each image; cross-entropy without label smoothing."""

    predictions: Tensor  # (n,) int64 class numbers, on the CPU
    ranks: Tensor  # (n,) int64 classes that score above the true one, on the CPU
    losses: Tensor  # (n,) float32 nats, on the CPU
    accuracy: float  # fraction
    top5_accuracy: float  # fraction: the true class is among the five that score highest
    loss: float  # mean, nats


def batch_slices(images: int, batch: int, pixels: int) -> list[slice]:
    """All images, cut into batches of at most `batch` and BATCH_PIXELS."""
    size = max(1, min(batch, BATCH_PIXELS // pixels))
    return [slice(start, start + size) for start in range(0, images, size)]


def ranks_of(labels: Tensor, logits: Tensor) -> Tensor:
    """How many classes score above the true one; 0 exactly where `argmax` gives the label.

    Of equal scores the lower class number is above, and nan is above every number, as in `argmax`.

    Args:
        labels: (n,) class numbers.
        logits: (n, classes).

    Returns:
        (n,) int64.
    """
    order = logits.argsort(dim=1, descending=True, stable=True)
    return (order == labels[:, None]).int().argmax(dim=1)


@torch.no_grad()  # inference mode would leave tensors that no later training step can use
def evaluate(
    model: nn.Module,
    held: HeldOut,
    feed: Normaliser,
    *,
    bf16: bool,
    replicas: Replicas = ALONE,
) -> Evaluation:
    """Evaluate and leave each layer in the mode it was in; replicas share the images out."""
    modes = [(module, module.training) for module in model.modules()]
    model.eval()
    first, last = part_of(0, len(held), replicas)
    predictions, ranks, losses = [held.labels[:0]], [held.labels[:0]], [held.labels[:0].float()]
    try:
        for part in batch_slices(last - first, BATCH, feed.pixels):
            at = slice(first + part.start, min(first + part.stop, last))
            images, labels = feed.normalised(held.images[at]), held.labels[at]
            with torch.autocast(images.device.type, torch.bfloat16, enabled=bf16):
                logits = model(images).float()
            predictions.append(logits.argmax(dim=1))
            ranks.append(ranks_of(labels, logits))
            losses.append(F.cross_entropy(logits, labels, reduction="none"))
    finally:
        model.train(modes[0][1])
        for module, training in modes:  # a network may keep some of its layers in another mode
            module.training = training
    mine = [torch.cat(each).cpu() for each in (predictions, ranks, losses)]
    predicted, rank, loss = map(torch.cat, zip(*replicas.gathered(mine), strict=True))
    return Evaluation(
        predictions=predicted,
        ranks=rank,
        losses=loss,
        accuracy=(predicted == held.labels.cpu()).double().mean().item(),
        top5_accuracy=(rank < 5).double().mean().item(),
        loss=loss.double().mean().item(),
    )
