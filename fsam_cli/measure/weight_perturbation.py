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
from typing import Literal

import torch
from torch import Tensor, nn

from fsam_cli.engine.evaluate import BATCH, batch_slices, evaluate
from fsam_cli.measure.network import Network, mean_gradient, network_of, noise, provenance
from fsam_cli.measure.on_record import keep, rows_on_record
from fsam_cli.measure.subjects import Subject, Unmeasurable
from fsam_cli.records.perturbation import TABLE, PerturbationSetting
from fsam_cli.records.side_table import Measurement


def missing(
    subject: Subject, setting: PerturbationSetting, *, alphas: Sequence[float], draws: int
) -> list[tuple[int, float]]:
    """(draw, alpha) of the rows that are asked for and not on record, in order."""
    rows = rows_on_record(subject, TABLE)
    there = {(row["draw"], row["alpha"]) for row in rows if setting.describes(row)}
    asked = [(draw, alpha) for draw in range(draws) for alpha in alphas]
    return [point for point in asked if point not in there]


def measure(
    subject: Subject,
    setting: PerturbationSetting,
    points: Sequence[tuple[int, float]],
    *,
    device: torch.device,
    on_point: Callable[[Measurement], object] = lambda _row: None,
) -> None:
    """Measure (draw, alpha) points and add them to the subject's table.

    Raises:
        Unmeasurable: weights that cannot be loaded, or whose gradient is not finite.
        RecordError: the table cannot be written.
    """
    found = _curve(network_of(subject, device), setting, points)
    keep(subject, TABLE, found, on_row=on_point)


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
    batches = len(batch_slices(len(images), BATCH, network.pixels))
    for numbers in torch.arange(len(images), device=images.device).tensor_split(batches):
        with torch.autocast(images.device.type, torch.bfloat16, enabled=network.bf16):
            network.model(network.normalised(images[numbers]))


def _curve(
    network: Network, setting: PerturbationSetting, points: Sequence[tuple[int, float]]
) -> Iterator[Measurement]:
    """The rows of the points; a direction is computed once."""
    here = provenance(network)
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
        return noise(network, "weight_perturbation", draw)
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
