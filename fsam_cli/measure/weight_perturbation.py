"""How much accuracy a trained network keeps when its weights are moved (paper, Section 5.4).

    theta + alpha d / norm(d)             d = g, or Gaussian noise

`g` is the gradient of the plain mean cross-entropy over the whole training set: every image, the
validation part too, un-augmented, with its true label; the network in evaluation mode. One step,
one norm over all trainable weights, buffers untouched. This is our reading: the paper names
neither the loss nor the split.

An absolute alpha favours networks with large weights. `relative: filter` moves each filter by its
own length instead (Li et al. 2018, "Visualizing the Loss Landscape of Neural Nets"),

    eps_f = alpha norm(w_f) d_f / norm(d_f)      filter f: a slice along the first dimension

where weights of one dimension (biases, norms) stay. `recalibrated` measures the batch statistics
again at the moved weights, so that what is lost is not merely their match with the weights.

Nothing here writes a weight file; the network in memory comes back to exactly its weights.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsam_cli.augment._pipeline import Pipeline
from fsam_cli.datasets._contract import DataSet, Fingerprint, ImageSet
from fsam_cli.datasets._statistics import statistics
from fsam_cli.engine import checkpoint
from fsam_cli.engine.environment import environment
from fsam_cli.engine.evaluate import BATCH, evaluate, parts
from fsam_cli.engine.feed import HeldOut
from fsam_cli.engine.flat import FlatWeights
from fsam_cli.engine.initial_weights import unwrapped
from fsam_cli.engine.seeding import stream
from fsam_cli.errors import DataError, RecordError, in_a_line
from fsam_cli.measure.subjects import Subject, Unmeasurable
from fsam_cli.records import perturbation
from fsam_cli.records.perturbation import Measurement, PerturbationSetting

GRADIENT_BATCH = 128  # images; what training itself has room for
WRITE_SECONDS = 2.0  # between saves within a curve


def rows_on_record(subject: Subject) -> list[Measurement]:
    """What was measured on these very weights.

    Raises:
        Unmeasurable: the table is unreadable.
    """
    try:
        rows = perturbation.read(subject.table)
    except RecordError as error:
        raise Unmeasurable(str(error)) from None
    return [row for row in rows if row["subject"] == subject.identity]


def missing(
    subject: Subject, setting: PerturbationSetting, *, alphas: Sequence[float], draws: int
) -> list[tuple[int, float]]:
    """(draw, alpha) of the rows that are asked for and not on record, in order."""
    rows = rows_on_record(subject)
    there = {(row["draw"], row["alpha"]) for row in rows if setting.describes(row)}
    asked = [(draw, alpha) for draw in range(draws) for alpha in alphas]
    return [point for point in asked if point not in there]


def check_data(subject: Subject) -> None:
    """The data are those of the training.

    Raises:
        DataError: they are not there, or others.
    """
    found = _fingerprint(subject.data, subject.data_root).digest
    if found != subject.digest:
        where = f" in {subject.data_root}" if subject.data_root else ""
        raise DataError(
            f"{subject.weights}: trained on data with the digest {subject.digest}, and the data"
            f"{where} have {found}; name the right folder with --data-dir"
        )


def measure(
    subject: Subject,
    setting: PerturbationSetting,
    points: Sequence[tuple[int, float]],
    *,
    device: torch.device,
    on_point: Callable[[Measurement], object] = lambda _row: None,
) -> None:
    """Measure (draw, alpha) points and add them to the subject's table.

    What was measured is written every few seconds and on the way out, also when interrupted.

    Raises:
        Unmeasurable: weights that cannot be loaded, or whose gradient is not finite.
        RecordError: the table cannot be written.
    """
    rows = rows_on_record(subject)
    recorded, written = len(rows), time.monotonic()
    torch.set_num_threads(subject.threads)  # the control's bits are the training's
    network = Network(subject, _loaded(subject.data, subject.data_root), device)
    try:
        for row in _curve(network, setting, points):
            rows.append(row)
            on_point(row)
            if time.monotonic() - written > WRITE_SECONDS:
                perturbation.write(subject.table, rows)
                recorded, written = len(rows), time.monotonic()
    finally:
        if len(rows) > recorded:
            perturbation.write(subject.table, rows)


class Network:
    """A trained network in evaluation mode, with the images it is measured on."""

    def __init__(self, subject: Subject, data: ImageSet, device: torch.device) -> None:
        self.subject, self.classes = subject, data.classes
        _, channels, height, width = data.test_images.shape
        size = subject.resize or height
        with torch.random.fork_rng(devices=[]):
            model = subject.model.build(channels=channels, classes=data.classes, image_size=size)
        _load(model, subject.weights)
        self._memory = torch.channels_last if subject.channels_last else torch.contiguous_format
        self.model = model.to(device).to(memory_format=self._memory).eval()
        self.flat = FlatWeights(self.model)
        self.train = HeldOut(data.plain.to(device), data.train_labels.to(device))
        self.test = HeldOut(data.test_images.to(device), data.test_labels.to(device))
        self.bf16 = subject.precision == "bf16"
        self.pixels = size * (subject.resize or width)
        self._pipeline = Pipeline([], *statistics(data, subject.normalise), resize=subject.resize)

    def normalised(self, images: Tensor) -> Tensor:
        """uint8 images as the network sees them, in its memory order."""
        return self._pipeline.normalise(images).contiguous(memory_format=self._memory)


def mean_gradient(network: Network, held: HeldOut) -> Tensor:
    """Gradient of the mean cross-entropy over all images, at the weights as they are.

    Batches are summed in float64: the result does not depend on how the images are cut, beyond
    the rounding within a batch. Computed in float32 whatever the precision of the training (which
    torch convolves in TF32 on a GPU).

    Returns:
        (weights,) float64, in the order of the flat buffer.
    """
    flat = network.flat
    total = torch.zeros_like(flat.gradient, dtype=torch.float64)
    for at in parts(len(held), GRADIENT_BATCH, network.pixels):
        images, labels = network.normalised(held.images[at]), held.labels[at]
        flat.gradient.zero_()
        F.cross_entropy(network.model(images), labels, reduction="sum").backward()  # type: ignore[no-untyped-call]
        total += flat.gradient
    return total / len(held)


def gaussian(network: Network, draw: int) -> Tensor:
    """Standard normal noise, a function of the subject's seed and the number of the draw.

    Drawn on the CPU in the order of the model's parameters, so that methods compared by seed are
    moved in the same direction.

    Returns:
        (weights,) float64, in the order of the flat buffer.
    """
    flat = network.flat
    noise = torch.zeros_like(flat.weights, dtype=torch.float64)
    random = stream(network.subject.seed, "weight_perturbation", draw)
    views = {segment.name: flat.view(noise, segment) for segment in flat.segments}
    for name, _ in network.model.named_parameters():
        if name in views:
            drawn = random.standard_normal(tuple(views[name].shape))
            views[name].copy_(torch.from_numpy(drawn))
    return noise


def unit_step(network: Network, direction: Tensor, relative: Literal["none", "filter"]) -> Tensor:
    """eps at alpha = 1; eps is proportional to alpha either way.

    Returns:
        (weights,) float64; zeros where there is no direction to go.
    """
    if relative == "none":
        norm = torch.linalg.vector_norm(direction)
        return torch.zeros_like(direction) if norm == 0 else direction / norm
    step = torch.zeros_like(direction)
    weights = network.flat.weights.double()
    for segment in network.flat.segments:
        if len(segment.shape) < 2:
            continue
        eps, w, d = (network.flat.view(buffer, segment) for buffer in (step, weights, direction))
        along = tuple(range(1, len(segment.shape)))
        w_norm = torch.linalg.vector_norm(w, dim=along, keepdim=True)  # (filters, 1, ...)
        d_norm = torch.linalg.vector_norm(d, dim=along, keepdim=True)
        # A filter without a gradient (a dead unit) has nowhere to go: d / inf = 0.
        eps.copy_(w_norm * d / d_norm.masked_fill(d_norm == 0, float("inf")))
    return step


@contextmanager
def batch_statistics_at(network: Network) -> Iterator[None]:
    """Running statistics measured anew over the training set, at the weights as they are.

    A plain average over nearly equal batches, normalised in evaluation mode but for the batch
    norms themselves. Statistics, counters and momentum come back exactly.
    """
    layers = [
        module
        for module in network.model.modules()
        if isinstance(module, nn.modules.batchnorm._NormBase) and module.track_running_stats
    ]
    before = [
        (layer, layer.momentum, [buffer.clone() for buffer in layer.buffers(recurse=False)])
        for layer in layers
    ]
    try:
        for layer in layers:
            layer.reset_running_stats()
            layer.momentum = None  # torch's name for the cumulative average
            layer.train()
        _see_training_images(network)
        for layer in layers:
            layer.eval()
        yield
    finally:
        for layer, momentum, values in before:
            layer.eval()
            layer.momentum = momentum
            with torch.no_grad():
                for buffer, value in zip(layer.buffers(recurse=False), values, strict=True):
                    buffer.copy_(value)


@torch.no_grad()
def _see_training_images(network: Network) -> None:
    images = network.train.images
    batches = len(parts(len(images), BATCH, network.pixels))
    for numbers in torch.arange(len(images), device=images.device).tensor_split(batches):
        with torch.autocast(images.device.type, torch.bfloat16, enabled=network.bf16):
            network.model(network.normalised(images[numbers]))


def _curve(
    network: Network, setting: PerturbationSetting, points: Sequence[tuple[int, float]]
) -> Iterator[Measurement]:
    """The rows of the points; a direction is computed once."""
    whole = environment(network.flat.weights.device)
    here = {key: whole[key] for key in ("torch", "device_name")}
    unit, unit_of = torch.empty(0), -1
    gradient_norm: float | None = None
    for draw, alpha in points:
        if draw != unit_of:
            direction = _direction(network, setting, draw)
            if setting.direction == "gradient":
                gradient_norm = _norm(direction)
            unit, unit_of = unit_step(network, direction, setting.relative), draw
        yield {
            "subject": network.subject.identity,
            **setting.columns(),
            "draw": draw,
            "alpha": alpha,
            "gradient_norm": gradient_norm,
            "classes": network.classes,
            **_point(network, setting, alpha * unit),
            **here,
        }


def _direction(network: Network, setting: PerturbationSetting, draw: int) -> Tensor:
    if setting.direction == "gaussian":
        return gaussian(network, draw)
    held = network.train if setting.gradient_split == "train" else network.test
    gradient = mean_gradient(network, held)
    if not bool(gradient.isfinite().all()):
        raise Unmeasurable(f"{network.subject.weights}: its gradient is not finite")
    return gradient


def _point(network: Network, setting: PerturbationSetting, eps: Tensor) -> Measurement:
    since, flat = time.perf_counter(), network.flat
    weights = flat.weights.double()
    with ExitStack() as undone:
        undone.enter_context(flat.holding((weights + eps).float()))
        if setting.recalibrated:
            undone.enter_context(batch_statistics_at(network))
        evaluation = evaluate(network.model, network.test, network, bf16=network.bf16)
    return {
        "test_accuracy": evaluation.accuracy,
        "test_loss": evaluation.loss,
        "eps_norm": _norm(eps),
        "weight_norm": _norm(weights),
        "seconds": time.perf_counter() - since,
    }


def _norm(vector: Tensor) -> float:
    return float(torch.linalg.vector_norm(vector))


def _load(model: nn.Module, path: Path) -> None:
    """Weights as fsam keeps them, or in another form that a training may start from.

    Raises:
        Unmeasurable: damaged, or not this network's.
    """
    try:
        content = checkpoint.load(path)
    except RecordError as error:
        raise Unmeasurable(f"{path} is damaged or no weight file") from error
    try:
        model.load_state_dict(unwrapped(content))
    except (RuntimeError, TypeError, AttributeError) as error:
        why = in_a_line(error)[:300]
        raise Unmeasurable(f"{path} does not fit the model: {why}") from None


@lru_cache(maxsize=8)
def _fingerprint(data: DataSet, root: Path | None) -> Fingerprint:
    return data.fingerprint(root)


@lru_cache(maxsize=2)
def _loaded(data: DataSet, root: Path | None) -> ImageSet:
    """Many runs were trained on one data set."""
    return data.load(root)
