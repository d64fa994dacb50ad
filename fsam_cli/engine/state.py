"""Everything a run is at one step: built from its plan, saved to and read from a checkpoint."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fsam_cli.datasets._contract import ImageSet
from fsam_cli.engine import checkpoint
from fsam_cli.engine.average import Average
from fsam_cli.engine.batches import Batch
from fsam_cli.engine.clock import Clock
from fsam_cli.engine.compiled import reset_compiler
from fsam_cli.engine.evaluate import Evaluation
from fsam_cli.engine.fisher import refuse_batch_statistics
from fsam_cli.engine.flat import FlatWeights, contiguous_on_cpu
from fsam_cli.engine.initial_weights import load_initial
from fsam_cli.engine.optimizer import FlatOptimizer
from fsam_cli.engine.replicas import ALONE, Replicas
from fsam_cli.engine.seeding import torch_seed
from fsam_cli.engine.step import Pass, Stepper
from fsam_cli.errors import RecordError, UsageError
from fsam_cli.recipe.plan import RunPlan

EpochRow = dict[str, Any]  # one line of metrics.csv

FORMAT = "fsam-checkpoint/3"  # of the content; counts up with every change of its keys
# A run is continued only by what began it: these change bits, or more.
_SAME_TO_CONTINUE = ("torch", "device")


def build_model(plan: RunPlan, data: ImageSet) -> nn.Module:
    """The network with the initial weights of the plan's seed: equal for every method, and drawn
    on the CPU, so equal on every device."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(torch_seed(plan.seed, "weights"))
        channels, size, _ = plan.input_shape
        return plan.model.build(channels=channels, classes=data.classes, image_size=size)


class State:
    """The tensors and numbers of a run, or of one of its replicas."""

    def __init__(
        self,
        plan: RunPlan,
        data: ImageSet,
        environment: dict[str, str],
        replicas: Replicas = ALONE,
    ) -> None:
        self.plan, train = plan, plan.recipe.train
        self.replicas = replicas
        device = torch.device(plan.device)
        model = build_model(plan, data)
        # Of the names in a file of weights, those that stay as they were drawn.
        self.drawn = () if plan.initial is None else load_initial(model, plan.initial)
        self.model = model.to(device)
        if plan.recipe.channels_last:
            # Before the weights are laid flat: converting later would detach them.
            self.model.to(memory_format=torch.channels_last)
        self.model.train()
        _refuse_what_cannot_be_kept(self.model)
        if plan.method.fisher_source is not None:
            refuse_batch_statistics(self.model)
        self.flat = FlatWeights(self.model)
        if plan.compile != "none":
            reset_compiler()
        if plan.compile == "all":
            self.model.compile(dynamic=False)
        compiled = plan.compile != "none"
        self.optimizer = FlatOptimizer(train.optimizer, self.flat, compiled=compiled)
        self.stepper = Stepper(
            self.model,
            plan.method,
            self.optimizer,
            seed=plan.seed,
            label_smoothing=train.label_smoothing,
            micro_batch_size=train.micro_batch_size,
            clip_norm=train.clip_norm,
            bf16=plan.precision == "bf16",
            compiled=compiled,
            classes=data.classes,
            replicas=replicas,
        )
        self.average = None if train.ema is None else Average(self.model, self.flat, train.ema)
        self.clock = Clock(device)
        self._environments = [dict(environment)]  # in which it was trained, this one last
        self.step = 0
        self.sample_gradients = 0
        self.lr = 0.0  # of the last step
        # Over this epoch's first passes: loss times images, correct, corrupted, corrupted fitted;
        # of a replica over its own parts of the batches.
        self.sums = torch.zeros(4, dtype=torch.float64, device=device)
        self.observed: list[dict[str, float]] = []  # diagnostics of this epoch
        self.rows: list[EpochRow] = []
        self.selected: dict[str, Any] = {}  # test predictions (and weights) at the best epoch
        self.before: dict[str, float | None] | None = None  # what weights of a file reach untrained

    def count(self, first: Pass, batch: Batch) -> None:
        """Add a first pass to the epoch's sums, without waiting for the device."""
        right = first.predictions == batch.labels
        self.sums += torch.stack(
            [
                first.loss.double() * batch.total,
                right.sum().double(),
                batch.corrupted.sum().double(),
                (right & batch.corrupted).sum().double(),
            ]
        )

    def summed(self) -> tuple[float, float, float, float]:
        """This epoch's sums over all replicas."""
        each = self.replicas.gathered(self.sums.tolist())
        loss, correct, corrupted, fitted = map(sum, zip(*each, strict=True))
        return loss, correct, corrupted, fitted

    def begin_epoch(self) -> None:
        self.sums.zero_()
        self.observed = []

    def diverged(self) -> bool:
        """Whether any loss of this epoch or any gradient so far was not finite."""
        return bool(self.optimizer.nonfinite.item()) or not bool(self.sums[0].isfinite())

    def consider(self, epoch: int, test: Evaluation, validation: Evaluation | None) -> None:
        """Keep this epoch's test predictions if its validation accuracy is the best so far; the
        first of equals stays."""
        if validation is None or validation.accuracy <= self.selected.get("accuracy", -1.0):
            return
        self.selected = {
            "epoch": epoch,
            "accuracy": validation.accuracy,
            "predictions": test.predictions,
            "ranks": test.ranks,
            "losses": test.losses,
        }
        if self.plan.recipe.train.select == "validation":
            self.selected["weights"] = self.weights()

    def weights(self) -> dict[str, Tensor]:
        """The network's state dictionary as it is now, contiguous: what `load_state_dict` takes."""
        return _copied(self.model.state_dict().items())

    def weights_to_keep(self) -> dict[str, Tensor]:
        """What stays of a finished run: the selected epoch's weights, or the last ones."""
        if "weights" in self.selected:
            kept: dict[str, Tensor] = self.selected["weights"]
            return kept
        if self.average is None:
            return self.weights()
        with self.average.in_place():
            return self.weights()

    def save(self, path: Path) -> None:
        """Write the whole state; the first replica does, and needs the others' sums.

        Raises:
            RecordError: the disk refuses.
        """
        sums = torch.cat(self.replicas.gathered(self.sums.cpu()))
        if self.replicas.rank:
            return
        memory = self.stepper.memory
        content = {
            "format": FORMAT,
            "cell": self.plan.cell,
            "seed": self.plan.seed,
            "environments": self._environments,
            "weights": self.weights(),
            "buffers": _copied(self._own_buffers()),
            "optimizer": self.optimizer.state_by_name(),
            "nonfinite": self.optimizer.nonfinite,
            "memory": None if memory is None else self.flat.by_name(memory),
            "average": self.average and self.average.state(),
            "step": self.step,
            "sample_gradients": self.sample_gradients,
            "lr": self.lr,
            "sums": sums,
            "observed": self.observed,
            "rows": self.rows,
            "selected": self.selected,
            "before": self.before,
            "seconds": dict(self.clock.seconds),
        }
        checkpoint.save(path, content)

    def restore(self, path: Path, *, force: bool = False) -> None:
        """Continue from a checkpoint.

        Args:
            path: what `save` wrote.
            force: also across versions of torch and kinds of device, giving up bit equality.

        Raises:
            RecordError: damaged, of another run, or begun by another fsam, torch or device.
        """
        content = checkpoint.load(path)
        if content.get("format") != FORMAT:
            raise RecordError(
                f"{path} has the form {content.get('format')!r}, and this fsam continues "
                f"{FORMAT!r}; continue with the version that wrote it, or remove it to start this "
                "run again"
            )
        if (content.get("cell"), content.get("seed")) != (self.plan.cell, self.plan.seed):
            raise RecordError(f"{path} belongs to another run; remove it to start this one again")
        then, now = content["environments"][-1], self._environments[-1]
        for key in _SAME_TO_CONTINUE:
            if then[key] != now[key] and not force:
                raise RecordError(
                    f"{path} was begun with {key} {then[key]} and this is {now[key]}; continue "
                    "with the former, or give up bit equality with --force-resume"
                )
        try:
            self._load(content)
        except (torch.OutOfMemoryError, torch.AcceleratorError):
            raise  # not the file's fault
        except (KeyError, RuntimeError, AttributeError) as error:
            raise RecordError(
                f"{path} does not fit this network ({type(error).__name__}: {error}); "
                "remove it to start this run again"
            ) from error
        earlier = [each for each in content["environments"] if _told(each) != _told(now)]
        self._environments = [*earlier, now]

    def launches_eagerly(self) -> None:
        """Put on record that CUDA graphs, though asked for, are not what steps are taken by."""
        self._environments[-1]["cuda_graph"] = "no"

    @property
    def environment(self) -> dict[str, Any]:
        """Where it was trained; `earlier` holds the others if it was continued elsewhere."""
        *earlier, now = self._environments
        return {**now, "earlier": earlier} if earlier else dict(now)

    def _own_buffers(self) -> Iterator[tuple[str, Tensor]]:
        """Those that are in no state dictionary; they move like the others."""
        kept = self.model.state_dict()
        for name, buffer in self.model.named_buffers(remove_duplicate=False):
            if name not in kept:
                yield name, buffer

    def _load(self, content: dict[str, Any]) -> None:
        # A tied weight has several names, and a state dictionary holds them all.
        parameters = dict(self.model.named_parameters(remove_duplicate=False))
        with torch.no_grad():
            for name, tensor in {**content["weights"], **content["buffers"]}.items():
                if name in parameters:
                    parameters[name].copy_(tensor)  # in place: a view of the flat buffer
                else:
                    self._load_buffer(name, tensor)
        self.optimizer.load_state_by_name(content["optimizer"])
        self.optimizer.nonfinite.copy_(content["nonfinite"])
        if self.stepper.memory is not None:
            self.flat.fill(self.stepper.memory, content["memory"])
        if self.average is not None:
            self.average.load_state(**content["average"])
        self.step = content["step"]
        self.sample_gradients = content["sample_gradients"]
        self.lr = content["lr"]
        self.sums.copy_(content["sums"].view(self.replicas.size, -1)[self.replicas.rank])
        self.observed, self.rows = content["observed"], content["rows"]
        self.selected = content["selected"]
        self.before = content["before"]
        self.clock.seconds.update(content["seconds"])

    def _load_buffer(self, name: str, value: Tensor) -> None:
        module, _, key = name.rpartition(".")
        buffers = self.model.get_submodule(module)._buffers
        mine = buffers[key]
        if mine is not None and (mine.shape, mine.dtype) == (value.shape, value.dtype):
            mine.copy_(value)  # in place: several layers may share it
        else:  # the network had made itself another one
            buffers[key] = value


def _refuse_what_cannot_be_kept(model: nn.Module) -> None:
    """Raise UsageError where a checkpoint could not bring back what is in the state dictionary."""
    parameters = model.named_parameters(remove_duplicate=False)
    buffers = model.named_buffers(remove_duplicate=False)
    kept = {name for name, _ in (*parameters, *buffers)}
    for name in model.state_dict():
        if name not in kept:
            raise UsageError(
                f"'{name}' of the network's state is neither a parameter nor a buffer, so no "
                "checkpoint could bring it back; keep it in a buffer"
            )


def _copied(named: Iterable[tuple[str, Tensor]]) -> dict[str, Tensor]:
    """Contiguous copies on the CPU, by name."""
    return {name: contiguous_on_cpu(tensor) for name, tensor in named}


def _told(environment: dict[str, str]) -> dict[str, str]:
    """Without what a run finds out only while it goes on."""
    return {key: value for key, value in environment.items() if key != "cuda_graph"}
