"""One step of sharpness-aware training, readable as the paper's Algorithm 1.

    g    = gradient of the mean loss at w            batch statistics move here, and only here
    eps  = the method's climb
    g2   = gradient of the mean loss at w + eps      same images, same dropout masks
    w   <- base optimiser's step at w with g2

w + eps is written over g, and the parameters become views of it for the second pass, whose gradient
goes to another buffer: w is not written between two updates.

All of AMP, accumulation, m-sharpness, batch normalisation and non-finite gradients is solved here
once, for every method.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsam_cli.engine.ascent import combine_, recombines, refuse_unmoved
from fsam_cli.engine.batches import Batch, batch_bounds
from fsam_cli.engine.buffers import running_statistics_frozen
from fsam_cli.engine.climb import CompiledClimb, EagerClimb
from fsam_cli.engine.fisher import fisher_diagonal
from fsam_cli.engine.flat import FlatWeights, PerturbedWeights
from fsam_cli.engine.optimizer import FlatOptimizer
from fsam_cli.engine.replicas import ALONE, Replicas
from fsam_cli.engine.seeding import seed_masks, torch_seed
from fsam_cli.minimisers._contract import Minimiser
from fsam_cli.models._contract import refuse_no_logits


@dataclass(frozen=True)
class StepInfo:
    """When a step is taken."""

    number: int  # of the step since the start of the run; fixes dropout masks and drawn labels
    epoch: int  # from 0
    epochs: int
    lr: float  # of this step
    peak_lr: float


class Watch(Protocol):
    """Looks at a step without changing a number of it (see `diagnostics`)."""

    def before_climb(self, stepper: Stepper) -> None:
        """Called at w, the gradient buffer holding g; not for methods that climb without one."""

    def at_climbed(self, stepper: Stepper) -> None:
        """Called at w + eps; g has been overwritten."""

    def before_descent(self, stepper: Stepper, batch: Batch, when: StepInfo) -> None:
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
        compiled: bool = False,
        classes: int | None = None,  # that the network must have logits for; None: not looked at
        replicas: Replicas = ALONE,
    ) -> None:
        self.model, self.method, self.optimizer = model, method, optimizer
        self.modules = list(model.modules())
        self.flat: FlatWeights = optimizer.flat
        self.seed = seed
        self.label_smoothing = label_smoothing
        self.micro_batch_size = micro_batch_size
        self.clip_norm = clip_norm
        self.bf16 = bf16
        self.classes = classes
        self.replicas = replicas
        self.fisher: Tensor | None = None  # flat diagonal at the last climb, if the method has one
        refuse_unmoved(method, self.flat.ranges)
        self._recombines = recombines(method)
        # Flat vectors beyond weights, gradient and momentum; each is there only if it is needed.
        self._moving = [at for at in self.flat.ranges if method.climbs and method.perturbs(at)]
        self._perturbed = PerturbedWeights(self.flat, self._moving)
        self._first = self._vector(needed=self._recombines)  # the gradient at w
        self._total = self._vector(needed=method.m_sharpness is not None)
        self.memory = torch.zeros_like(self.flat.weights) if method.remembers else None
        # Learning rate and share of the radius, where a captured step reads them.
        self._lr = torch.zeros((), device=self.flat.weights.device)
        self._share = torch.ones((), device=self.flat.weights.device)
        self._from_memory = False
        kind = CompiledClimb if compiled and method.climbs else EagerClimb
        self._climber = kind(method, self.flat, self.memory)

    def step(self, batch: Batch, when: StepInfo, watch: Watch | None = None) -> Pass:
        """One whole step.

        Args:
            batch: on the device.
            when: it is taken.
            watch: diagnostics, on the steps where they are due.
        """
        try:
            if self.method.m_sharpness is None or not self.climbs(when):
                first = self._sharpness_aware(batch, when, watch)
            else:
                first = self._each_its_own_hill(batch, when, self.method.m_sharpness, watch)
            self.descend(when.lr)
        except BaseException:
            self.come_back()
            self.flat.attach_gradients()  # an interrupt may have come in the middle of it
            raise
        return first

    def climbs(self, when: StepInfo) -> bool:
        """Whether this step climbs; else it is a plain one."""
        return self.method.climbs_at(when.number, when.epoch, when.epochs)

    def gradient(self, batch: Batch, number: int) -> Pass:
        """Put the gradient of the batch's mean loss into the flat buffer.

        Accumulates over micro-batches. Each pass has its own autocast region: one region over
        both would keep the cached bf16 copies of w, and the perturbation would vanish. Of a batch
        that replicas share the gradient is the whole batch's, and what is given is of their parts.

        Args:
            batch: the step's, or one of its hills.
            number: of the step; with the batch's offset it fixes the dropout masks.

        Raises:
            UsageError: what the network gives is not logits of these classes.
        """
        self.flat.gradient.zero_()
        size, total = len(batch.labels), batch.total
        losses, predictions = [], []
        for start, stop in batch_bounds(size, self.micro_batch_size or size):
            if not self._from_memory:  # a captured step draws nothing
                seed_masks(
                    torch_seed(self.seed, "masks", number, batch.offset + start),
                    batch.images.device,
                )
            part = batch.part(start, stop)
            with torch.autocast(part.images.device.type, torch.bfloat16, enabled=self.bf16):
                given = self.model(part.images)
            if self.classes is not None:
                refuse_no_logits(given, stop - start, self.classes)
            logits = given.float()
            loss = self._summed_loss(logits, part)
            (loss / total).backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
            predictions.append(logits.detach().argmax(dim=1))
        if batch.whole is not None:
            self.replicas.sum_(self.flat.gradient)
        return Pass(torch.stack(losses).sum() / total, torch.cat(predictions))

    def _summed_loss(self, logits: Tensor, part: Batch) -> Tensor:
        smoothing = self.label_smoothing
        if part.minor_labels is None or part.minor_share is None:
            return F.cross_entropy(logits, part.labels, reduction="sum", label_smoothing=smoothing)
        major, minor = (
            F.cross_entropy(logits, labels, reduction="none", label_smoothing=smoothing)
            for labels in (part.labels, part.minor_labels)
        )
        return torch.lerp(major, minor, part.minor_share).sum()

    def climb(self, batch: Batch, when: StepInfo) -> None:
        """From w to w + eps, by the gradient at hand, over which w + eps is written.

        Args:
            batch: only looked at by methods with a Fisher information of single images.
            when: the step is taken.
        """
        self.fisher = self._fisher(batch, when.number)
        momentum = None
        if self.method.climbs_along == "momentum":
            momentum = self.optimizer.momentum()
        share = self.method.share_of_radius(when.lr / when.peak_lr)
        self._climber(
            self._share if self._from_memory else share, fisher=self.fisher, momentum=momentum
        )
        self._perturbed.enter()

    def come_back(self) -> None:
        """Back to w."""
        self._perturbed.leave()

    @contextmanager
    def climbed(self, batch: Batch, when: StepInfo) -> Iterator[None]:
        """The network is at w + eps inside, at w again outside; see `climb`."""
        self.climb(batch, when)
        try:
            yield
        finally:
            self.come_back()

    def perturbation(self) -> Tensor:
        """The flat eps of the last climb, as it was rounded; 0 where nothing moves.

        To be asked before the update moves w, and before anybody climbs on these weights again.
        """
        eps = torch.zeros_like(self.flat.weights)
        for kind in self._moving:
            at = slice(*self.flat.ranges[kind])
            torch.sub(self._perturbed.values[at], self.flat.weights[at], out=eps[at])
        return eps

    def descend(self, lr: float) -> None:
        """The base optimiser's step with the gradient at hand; none where that is not finite."""
        if self.clip_norm is not None:
            norm = _norm(self.flat.gradient)
            self.flat.gradient.mul_((self.clip_norm / norm).clamp(max=1.0).nan_to_num(nan=1.0))
        self.optimizer.step(self._lr if self._from_memory else lr)

    @contextmanager
    def settings_from_memory(self, when: StepInfo) -> Iterator[None]:
        """Steps inside take their learning rate and radius from memory, where those of `when` are
        put, and draw no dropout masks of their own (see `graph`)."""
        self._share.fill_(self.method.share_of_radius(when.lr / when.peak_lr))
        self._lr.fill_(when.lr)
        self._from_memory = True
        try:
            yield
        finally:
            self._from_memory = False

    def _sharpness_aware(self, batch: Batch, when: StepInfo, watch: Watch | None) -> Pass:
        """Put into the flat buffer what the base optimiser is to step along."""
        climbs = self.climbs(when)
        if climbs and self.method.climbs_along == "momentum":
            with self.climbed(batch, when):
                if watch is not None:
                    watch.at_climbed(self)
                first = self._first_pass(batch, when)
            self._recombine(climbed=True)
            return first
        first = self._first_pass(batch, when)
        if not climbs:
            self.fisher = self._fisher(batch, when.number) if self._recombines else None
        else:
            if watch is not None:
                watch.before_climb(self)
            with self.climbed(batch, when), running_statistics_frozen(self.modules):
                if watch is not None:
                    watch.at_climbed(self)
                self.gradient(batch, when.number)
            if watch is not None:
                watch.before_descent(self, batch, when)
        self._recombine(climbed=climbs)
        return first

    def _first_pass(self, batch: Batch, when: StepInfo) -> Pass:
        """The pass in which batch statistics move; its gradient is kept where it is needed."""
        first = self.gradient(batch, when.number)
        if self._recombines:
            self._first.copy_(self.flat.gradient)
        return first

    def _each_its_own_hill(self, batch: Batch, when: StepInfo, m: int, watch: Watch | None) -> Pass:
        """m-sharpness: every m images climb from w on their own; the mean of what they found."""
        seen = []
        self._total.zero_()
        for start, stop in batch_bounds(len(batch.labels), m):
            first = self._sharpness_aware(batch.part(start, stop), when, watch)
            share = (stop - start) / batch.total
            self._total.add_(self.flat.gradient, alpha=share)
            seen.append((first.loss * share, first.predictions))
            watch = None  # the first hill stands for all
        self.replicas.sum_(self._total)
        self.flat.gradient.copy_(self._total)
        losses, predictions = zip(*seen, strict=True)
        return Pass(torch.stack(losses).sum(), torch.cat(predictions))

    def _recombine(self, *, climbed: bool) -> None:
        """Both gradients, or the Fisher information, make the step where the method says so."""
        if not self._recombines:
            return
        firsts = self.flat.chunks(gradient=self._first, fisher=self.fisher, memory=self.memory)
        seconds = [at.g for at in self.flat.chunks()]
        combine_(self.method, firsts, seconds, climbed=climbed)

    def _fisher(self, batch: Batch, number: int) -> Tensor | None:
        source = self.method.fisher_source
        if source is None:
            return None
        drawn = torch.Generator().manual_seed(torch_seed(self.seed, "fisher", number, batch.offset))
        by_name = fisher_diagonal(
            self.model,
            batch.images,
            batch.labels,
            source=source,
            draws=self.method.fisher_labels,
            generator=drawn,
        )
        flat = torch.zeros_like(self.flat.weights)
        self.flat.fill(flat, by_name)
        if batch.whole is not None:
            self.replicas.sum_(flat.mul_(len(batch.labels) / batch.total))
        return flat

    def _vector(self, *, needed: bool) -> Tensor:
        return torch.empty_like(self.flat.weights) if needed else torch.empty(0)


def _norm(g: Tensor) -> Tensor:
    """‖g‖, in float64 where its square may leave the range of float32."""
    norm: Tensor = torch.linalg.vector_norm(g)
    if g.device.type != "cpu" or not norm.isfinite():
        # torch copies to float64 what it measures in it, so only a piece at a time.
        pieces = torch.split(g, 1 << 22)
        norms = [torch.linalg.vector_norm(piece, dtype=torch.float64) for piece in pieces]
        norm = torch.linalg.vector_norm(torch.stack(norms))
    return norm
