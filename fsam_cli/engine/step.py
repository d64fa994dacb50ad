"""One step of sharpness-aware training, readable as the paper's Algorithm 1.

    g    = gradient of the mean loss at w            batch statistics move here, and only here
    eps  = the method's climb
    g2   = gradient of the mean loss at w + eps      same images, same dropout masks
    w   <- base optimiser's step at w with g2

All of AMP, accumulation, batch normalisation and non-finite gradients is solved here once, for
every method.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsam_cli.engine.ascent import perturb_, restore_, running_statistics_frozen
from fsam_cli.engine.batches import Batch, batch_bounds
from fsam_cli.engine.fisher import fisher_diagonal
from fsam_cli.engine.flat import FlatWeights
from fsam_cli.engine.optimizer import FlatOptimizer
from fsam_cli.engine.seeding import torch_seed
from fsam_cli.minimisers._contract import Minimiser
from fsam_cli.minimisers.fsam import FisherMetric


class Watch(Protocol):
    """Looks at a step without changing a number of it (see `diagnostics`)."""

    def at_climbed(self, stepper: Stepper, w: Tensor) -> None:
        """Called at w + eps, the gradient buffer still holding g."""

    def before_descent(self, stepper: Stepper, batch: Batch, number: int) -> None:
        """Called at w again, the gradient buffer holding g2."""


@dataclass(frozen=True)
class Pass:
    """What the first pass of a step saw; tensors on the device, nothing waited for."""

    loss: Tensor  # mean over the batch, as optimised
    predictions: Tensor  # (batch,) int64


class Stepper:
    """The network, its flat weights, the method and the base optimiser, ready to step."""

    def __init__(
        self,
        model: nn.Module,
        method: Minimiser,
        optimizer: FlatOptimizer,
        *,
        seed: int,
        label_smoothing: float,
        micro_batch_size: int | None,
        clip_norm: float | None,
        bf16: bool,
    ) -> None:
        self.model, self.method, self.optimizer = model, method, optimizer
        self.flat: FlatWeights = optimizer.flat
        self.seed = seed
        self.label_smoothing = label_smoothing
        self.micro_batch_size = micro_batch_size
        self.clip_norm = clip_norm
        self.bf16 = bf16
        self.fisher: Tensor | None = None  # flat diagonal at the last climb, if the method has one
        self._saved = torch.empty_like(self.flat.weights) if method.climbs else torch.empty(0)

    def step(self, batch: Batch, number: int, lr: float, watch: Watch | None = None) -> Pass:
        """One whole step.

        Args:
            batch: on the device.
            number: of the step since the start of the run; fixes dropout masks and drawn labels.
            lr: learning rate of this step.
            watch: diagnostics, on the steps where they are due.
        """
        first = self.gradient(batch, number)
        if self.method.climbs:
            with self.climbed(batch, number) as w, running_statistics_frozen(self.model):
                if watch is not None:
                    watch.at_climbed(self, w)
                self.gradient(batch, number)
            if watch is not None:
                watch.before_descent(self, batch, number)
        self.descend(lr)
        return first

    def gradient(self, batch: Batch, number: int) -> Pass:
        """Put the gradient of the batch's mean loss into the flat buffer.

        Accumulates over micro-batches. Each pass has its own autocast region: one region over
        both would keep the cached bf16 copies of w, and the perturbation would vanish.
        """
        self.flat.gradient.zero_()
        size = len(batch.labels)
        losses, predictions = [], []
        for start, stop in batch_bounds(size, self.micro_batch_size or size):
            torch.manual_seed(torch_seed(self.seed, "masks", number, start))
            images, labels = batch.images[start:stop], batch.labels[start:stop]
            with torch.autocast(images.device.type, torch.bfloat16, enabled=self.bf16):
                logits = self.model(images).float()
            loss = F.cross_entropy(
                logits, labels, reduction="sum", label_smoothing=self.label_smoothing
            )
            (loss / size).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            predictions.append(logits.detach().argmax(dim=1))
        return Pass(torch.stack(losses).sum() / size, torch.cat(predictions))

    @contextmanager
    def climbed(self, batch: Batch, number: int) -> Iterator[Tensor]:
        """At w + eps inside, at exactly w again outside; gives the saved flat w."""
        self.fisher = self._fisher(batch, number)
        chunks = self.flat.chunks(fisher=self.fisher)
        saved = [self._saved[at] for at, _ in chunks]
        pieces = [chunk for _, chunk in chunks]
        perturb_(self.method, pieces, saved)
        try:
            yield self._saved
        finally:
            restore_(pieces, saved)

    def descend(self, lr: float) -> None:
        """The base optimiser's step with the gradient at hand; skipped where it is not finite."""
        if self.clip_norm is not None:
            norm = torch.linalg.vector_norm(self.flat.gradient)
            self.flat.gradient.mul_((self.clip_norm / norm).clamp(max=1.0).nan_to_num(nan=1.0))
        self.optimizer.step(lr)

    def _fisher(self, batch: Batch, number: int) -> Tensor | None:
        source = self.method.fisher_source
        if source is None or not isinstance(self.method, FisherMetric):
            return None
        drawn = torch.Generator().manual_seed(torch_seed(self.seed, "fisher", number))
        by_name = fisher_diagonal(
            self.model,
            batch.images,
            batch.labels,
            source=source,
            draws=self.method.labels,
            generator=drawn,
        )
        flat = torch.zeros_like(self.flat.weights)
        self.flat.fill(flat, by_name)
        return flat
