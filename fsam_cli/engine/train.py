"""The whole training of one run, top to bottom.

Everything a run is at step t is in `State`, or is a function of (plan, t): batches, augmentation,
dropout masks and learning rate. So a checkpoint at any step, killed and continued at any moment,
ends in the same bits on a CPU; kernels of a GPU may add up in another order each time.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any, Literal

import torch

from fsam_cli.datasets._contract import ImageSet
from fsam_cli.engine.batches import Batch
from fsam_cli.engine.diagnostics import Observation, observed_steps, summarised
from fsam_cli.engine.evaluate import Evaluation, evaluate
from fsam_cli.engine.feed import Feed, HeldOut
from fsam_cli.engine.graph import CudaRecorder, GraphedStepper
from fsam_cli.engine.replicas import ALONE, Replicas, refuse_apart, share_buffers
from fsam_cli.engine.schedule import learning_rate
from fsam_cli.engine.state import EpochRow, State
from fsam_cli.engine.step import StepInfo
from fsam_cli.errors import DataError, Interrupted, UsageError
from fsam_cli.recipe.plan import RunPlan
from fsam_cli.records.store import RunDirectory

SAVING = 0.05  # largest share of the time that goes into checkpoints
TOP5_CLASSES = 100  # from so many on a top-5 accuracy says something, and is reported


@dataclass(frozen=True)
class Hooks:
    """What a run tells, and asks, while it goes on."""

    on_epoch: Callable[[EpochRow], object] = lambda _row: None
    on_step: Callable[[int, int], object] = lambda _done, _total: None
    should_stop: Callable[[], bool] = lambda: False
    checkpoint_seconds: float = 30.0  # between saves, at least; a save changes no number


@dataclass(frozen=True)
class Outcome:
    """How a training ended."""

    status: Literal["done", "diverged"]
    reason: str | None = None
    final: Evaluation | None = None  # of the test set, at the end


class Training:
    """One run, or a replica of it. `run` trains it from wherever its state stands to the end."""

    def __init__(
        self,
        plan: RunPlan,
        data: ImageSet,
        directory: RunDirectory,
        hooks: Hooks,
        environment: dict[str, str],
        replicas: Replicas = ALONE,
    ) -> None:
        self.plan, self.directory, self.hooks = plan, directory, hooks
        self.replicas = replicas
        self.feed = Feed(plan, data, torch.device(plan.device), replicas)
        self.state = State(plan, data, environment, replicas)
        self.clock = self.state.clock
        self.steps = plan.epochs * len(self.feed)
        self._classes = data.classes
        self._cost = plan.method.gradients(data.classes)  # sample-gradients per image, if it climbs
        self._saved_at, self._save_seconds = time.monotonic(), 0.0  # when the last one ended, took
        self.graphed: GraphedStepper | None = None
        if plan.cuda_graph:
            _, size = self.feed.bounds[0]  # of the first batch, and of nearly all
            self.graphed = GraphedStepper(self.state.stepper, CudaRecorder(), size=size)
        self._kinds: set[tuple[int | bool, ...]] = set()  # of steps taken: size, climbs, watched
        self._evaluated: set[int] = set()  # sizes of the held parts

    def run(self) -> Outcome:
        """Train to the end.

        Raises:
            Interrupted: asked to stop; the state is saved.
            DataError: an image cannot be read; the state is saved, unless it is a test image.
            RecordError: the disk refuses.
        """
        state = self.state
        final: Evaluation | None = None
        if state.step == 0 and self.plan.initial is not None and not state.drawn:
            # What weights that were trained elsewhere reach, before anything is trained here.
            state.before = self._of_the_test(self._evaluate(self.feed.test))
        while state.step < self.steps:
            epoch, first = divmod(state.step, len(self.feed))
            with self.clock.timing("train"):
                where = self._train_epoch(epoch, first)
            if where is not None:
                return Outcome("diverged", f"loss or gradient not finite {where}")
            final = self._end_epoch(epoch + 1)
        return Outcome("done", None, final)

    def _train_epoch(self, epoch: int, first: int) -> str | None:
        """The steps of an epoch from `first` on; gives where the training diverged, if it did."""
        per_epoch, state = len(self.feed), self.state
        # On a GPU, to look at what a step left is to wait for it.
        looked_at, on_cpu = observed_steps(per_epoch), self.plan.device == "cpu"
        observed = looked_at if self.plan.recipe.train.diagnostics != "off" else ()
        for number, batch in enumerate(self._batches(epoch, first), first):
            self._step(batch, epoch, watched=number in observed)
            if (number in looked_at or on_cpu) and self._diverged():
                return f"at epoch {epoch + 1}, {'' if on_cpu else 'by '}step {number}"
            if state.step % per_epoch:
                self._pause_if_asked()
        if self.graphed is not None and self.graphed.why_not is not None:
            self.directory.log(f"cuda_graph: {self.graphed.why_not}; steps are eager from here on")
            self.graphed = None
            state.launches_eagerly()
        if not state.flat.attached():
            raise UsageError(
                "the network gave a parameter another tensor while it was trained (`.to()` or "
                "`.data =` in its forward pass, for example); fsam's copy is no longer it"
            )
        if self._diverged():
            return f"in epoch {epoch + 1}"
        refuse_apart(state.flat.weights, self.replicas)
        return None

    def _batches(self, epoch: int, first: int) -> Iterator[Batch]:
        """Those of the epoch from `first` on; an image that cannot be read loses no step."""
        try:
            yield from self.feed.epoch(epoch, first)
        except DataError as error:
            if self.replicas.size == 1:  # else the others are in the middle of a step
                self.directory.log(str(error))
                self._save()
            raise

    def _step(self, batch: Batch, epoch: int, *, watched: bool) -> None:
        state, train = self.state, self.plan.recipe.train
        lr = learning_rate(
            state.step,
            steps=self.steps,
            warmup=round(train.warmup_epochs * len(self.feed)),
            peak=self.plan.lr,
            schedule=train.schedule,
        )
        watch = Observation(self.clock, full=train.diagnostics == "full") if watched else None
        when = StepInfo(state.step, epoch, self.plan.epochs, lr, self.plan.lr)
        climbs = state.stepper.climbs(when)
        with self._first_of_its_kind(len(batch.labels), climbs, watched):
            first = (self.graphed or state.stepper).step(batch, when, watch)
            share_buffers(state.model, self.replicas)
        if state.average is not None:
            state.average.update()
        if watch is not None:
            state.observed.append(watch.values)
        state.count(first, batch)
        state.sample_gradients += (self._cost if climbs else 1) * batch.total
        state.lr = lr
        state.step += 1

    def _first_of_its_kind(self, *kind: int | bool) -> AbstractContextManager[None]:
        """Where steps are compiled or captured, the first of a kind counts towards that."""
        new = kind not in self._kinds
        self._kinds.add(kind)
        if new and (self.plan.compile != "none" or self.graphed is not None):
            return self.clock.timing("compiling")
        return nullcontext()

    def _pause_if_asked(self) -> None:
        self.hooks.on_step(self.state.step, self.steps)
        stop, due = self.replicas.any(self.hooks.should_stop(), self._save_is_due())
        if stop or due:
            self._save()
        if stop:
            raise Interrupted("interrupted")

    def _diverged(self) -> bool:
        return self.replicas.any(self.state.diverged())[0]

    def _end_epoch(self, epoch: int) -> Evaluation | None:
        """Evaluate where due, record, save where due; gives the test evaluation if one was made."""
        last = epoch == self.plan.epochs
        test = validation = None
        if last or epoch % self.plan.recipe.train.evaluate_every == 0:
            average = self.state.average
            with nullcontext() if average is None else average.in_place():
                test = self._evaluate(self.feed.test)
                validation = self._evaluate(self.feed.validation) if self.feed.validation else None
                self.state.consider(epoch, test, validation)
        row = self._row(epoch, test, validation)
        self.state.rows.append(row)
        self.state.begin_epoch()
        if self.replicas.rank == 0:
            with self.clock.timing("records"):
                self.directory.write_metrics(self.state.rows)
        stop, due = self.replicas.any(self.hooks.should_stop(), self._save_is_due())
        if (stop or due) and not last:  # after the last epoch comes the result
            self._save()
        self.hooks.on_epoch(row)
        if stop and not last:
            raise Interrupted("interrupted")
        return test

    def _of_the_test(self, test: Evaluation | None) -> dict[str, Any]:
        """Columns of metrics.csv; None where nothing was evaluated."""
        reported = self._classes >= TOP5_CLASSES
        return {
            "test_loss": test and test.loss,
            "test_accuracy": test and test.accuracy,
            "test_top5_accuracy": test and test.top5_accuracy if reported else None,
        }

    def _evaluate(self, held: HeldOut) -> Evaluation:
        # A compiled network is compiled once more for the sizes of each held part.
        size = len(held.labels)
        compiling = self.plan.compile == "all" and size not in self._evaluated
        self._evaluated.add(size)
        with self.clock.timing("compiling" if compiling else "evaluation"):
            bf16 = self.plan.precision == "bf16"
            return evaluate(self.state.model, held, self.feed, bf16=bf16, replicas=self.replicas)

    def _row(self, epoch: int, test: Evaluation | None, validation: Evaluation | None) -> EpochRow:
        loss, correct, corrupted, fitted = self.state.summed()
        seconds = self.clock.seconds
        return {
            "epoch": epoch,
            "lr": self.state.lr,
            "train_loss": loss / self.feed.size,  # of the first passes, at w, as optimised
            "train_accuracy": correct / self.feed.size,  # against the given labels
            "corrupted_fit": fitted / corrupted if corrupted else None,
            "validation_loss": validation and validation.loss,
            "validation_accuracy": validation and validation.accuracy,
            **self._of_the_test(test),
            "sample_gradients": self.state.sample_gradients,
            "train_seconds": seconds["train"],
            "evaluation_seconds": seconds["evaluation"],
            "diagnostics_seconds": seconds["diagnostics"],
            **summarised(self.state.observed),
        }

    def _save_is_due(self) -> bool:
        every = self.hooks.checkpoint_seconds  # 0: after every step, whatever that costs
        wait = max(every, self._save_seconds / SAVING) if every else 0.0
        return time.monotonic() - self._saved_at > wait

    def _save(self) -> None:
        since = time.monotonic()
        with self.clock.timing("records"):
            self.state.save(self.directory.checkpoint)
        self._saved_at = time.monotonic()
        self._save_seconds = self._saved_at - since
