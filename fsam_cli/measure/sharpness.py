"""How sharp the training loss is where a method has ended.

Of the mean cross-entropy L over images that the run was trained on, un-augmented and with the
labels that it was given (wrong ones, too, where there is label noise), without label smoothing; the
network in evaluation mode, in float32 (on a GPU, too, without TF32):

    loss           L(w)
    gradient_norm  ‖∇L(w)‖
    lambda_max     the largest eigenvalue of the Hessian H of L                  (Lanczos)
    trace          tr H, the mean of zᵀHz over random signs z                    (Hutchinson 1990)
    rise.METHOD    the mean over micro-batches B of m images of L_B(w + eps) - L_B(w), where eps is
                   the method's perturbation for B: m-sharpness (Foret et al. 2021, Section 4.1),
                   with the first-order solution in the place of the maximum, as there

`lambda_max`, `trace` and SAM's rise depend on how weights are scaled, even where the network's
answers do not (Dinh et al. 2017, "Sharp Minima Can Generalize For Deep Nets"), and so does Fisher
SAM's with the default eta, which is nearly SAM's; ASAM's rise hardly does. All of them shrink where
the loss itself goes to 0.

Products with H are exact derivatives of derivatives, not differences.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from fsam_cli.datasets._split import validation_split
from fsam_cli.engine.ascent import refuse_unmoved
from fsam_cli.engine.climb import EagerClimb
from fsam_cli.engine.evaluate import batch_slices
from fsam_cli.engine.feed import HeldOut, given_labels
from fsam_cli.engine.flat import PerturbedWeights
from fsam_cli.engine.seeding import stream
from fsam_cli.errors import UsageError, in_a_line
from fsam_cli.measure.lanczos import largest_eigenvalue
from fsam_cli.measure.network import (
    GRADIENT_BATCH,
    Network,
    mean_gradient,
    network_of,
    noise,
    provenance,
    summed_loss,
)
from fsam_cli.measure.on_record import keep, rows_on_record
from fsam_cli.measure.subjects import Subject, Unmeasurable
from fsam_cli.minimisers._contract import KINDS, Minimiser
from fsam_cli.records.sharpness import TABLE
from fsam_cli.records.side_table import Measurement

VERSION = 1  # of all below; to be raised with what changes a number, so that no table mixes them
TOLERANCE = 1e-3  # of lambda_max's residual, relative
MOST_PRODUCTS = 100  # for lambda_max


@dataclass(frozen=True)
class Neighbourhood:
    """Whose perturbation it is."""

    method: str
    minimiser: Minimiser
    plugin: str = ""  # the hash of the file that it comes from, if it is not built in

    @property
    def name(self) -> str:
        """For people: the method with the settings that are tuned, and those that are not its
        defaults."""
        told = [
            f"{key}={value}"
            for key, value in self.minimiser.model_dump().items()
            if key in self.minimiser.search
            or value != type(self.minimiser).model_fields[key].default
        ]
        return " ".join([self.method, ", ".join(told)]).strip()

    @property
    def setting(self) -> str:
        """Everything that decides the perturbation."""
        own = self.minimiser.model_dump(exclude={"m_sharpness", "natural_gradient"})
        if self.plugin:
            own["plugin"] = self.plugin
        return ", ".join(f"{key}={value}" for key, value in own.items())


@dataclass(frozen=True)
class SharpnessSetting:
    """What is measured of each network."""

    images: int | None  # of the training part; None: all
    draws: int  # of random signs, for the trace
    neighbourhoods: tuple[Neighbourhood, ...]
    m: int  # images of a micro-batch, at most; they are nearly equal
    hessian: bool = True


class Quantity(NamedTuple):
    """One number to be measured, as the table names it."""

    measure: str
    setting: str


def rise_within(neighbourhood: Neighbourhood, m: int) -> Quantity:
    """The rise of the loss there, over micro-batches of at most m images."""
    return Quantity(f"rise.{neighbourhood.method}", f"{neighbourhood.setting}, m={m}")


class Found(NamedTuple):
    """A value, and what is known of its error."""

    value: float
    error: float | None = None


def quantities(setting: SharpnessSetting) -> dict[Quantity, Callable[[Network, HeldOut], Found]]:
    """Everything that is asked for, and how it is measured."""
    wanted: dict[Quantity, Callable[[Network, HeldOut], Found]] = {
        Quantity("loss", ""): _loss,
        Quantity("gradient_norm", ""): _gradient_norm,
    }
    if setting.hessian:
        wanted[Quantity("lambda_max", f"tolerance={TOLERANCE:g}")] = _lambda_max
        of_trace = Quantity("trace", f"draws={setting.draws}")
        wanted[of_trace] = partial(trace, draws=setting.draws)
    for each in setting.neighbourhoods:
        wanted[rise_within(each, setting.m)] = partial(rise, minimiser=each.minimiser, m=setting.m)
    return wanted


def missing(subject: Subject, setting: SharpnessSetting) -> list[Quantity]:
    """What is asked for and not on record, in order."""
    there = on_record(subject, setting)
    return [quantity for quantity in quantities(setting) if quantity not in there]


def on_record(subject: Subject, setting: SharpnessSetting) -> dict[Quantity, Measurement]:
    """What is asked for and on record.

    Raises:
        Unmeasurable: the table is unreadable.
    """
    found = {
        Quantity(row["measure"], row["setting"]): row
        for row in rows_on_record(subject, TABLE)
        if row["version"] == VERSION
        and row["images"] == min(setting.images or row["of"], row["of"])
    }
    return {each: found[each] for each in quantities(setting) if each in found}


def settled(row: Measurement) -> bool:
    """Whether lambda_max is known to `TOLERANCE`, if it is finite."""
    return not row["error"] > TOLERANCE * abs(row["value"])


def measure(
    subject: Subject,
    setting: SharpnessSetting,
    wanted: Sequence[Quantity],
    *,
    device: torch.device,
    on_quantity: Callable[[Measurement], object] = lambda _row: None,
) -> None:
    """Measure some of the quantities and add them to the subject's table.

    Raises:
        Unmeasurable: weights that cannot be loaded, or a network that has no second derivative.
        RecordError: the table cannot be written.
    """
    found = _measured(network_of(subject, device), setting, wanted)
    keep(subject, TABLE, found, on_row=on_quantity)


def trained_on(network: Network) -> HeldOut:
    """The images that the run was trained on, un-augmented, with the labels it was given, in an
    order of its seed."""
    subject, every = network.subject, network.train
    given = given_labels(
        every.labels.cpu(), network.classes, noise=subject.label_noise, seed=subject.seed
    )
    part, _ = validation_split(len(given), subject.validation, stream(subject.seed, "validation"))
    order = stream(subject.seed, "sharpness.images").permutation(part)
    device = every.labels.device
    labels = torch.from_numpy(given).to(device)
    return HeldOut(every.images, labels).subset(torch.from_numpy(order).to(device))


def hessian_product(network: Network, held: HeldOut, vector: Tensor) -> Tensor:
    """H times a vector, H the Hessian of the mean loss over all images.

    Args:
        network: at whose weights.
        held: the images and labels.
        vector: (weights,) in the order of the flat buffer; rounded to float32.

    Returns:
        (weights,) float64; batches are summed in it.

    Raises:
        Unmeasurable: an operation of the network has no second derivative.
    """
    total = torch.zeros_like(network.flat.weights, dtype=torch.float64)
    for _, product in _products(network, held, [vector]):
        total += product
    return total / len(held)


def trace(network: Network, held: HeldOut, draws: int) -> Found:
    """tr H and its standard error over the draws (None for one)."""
    signs = [
        noise(network, "sharpness.trace", draw, law="signs").to(torch.int8) for draw in range(draws)
    ]
    terms = [0.0] * draws
    for draw, product in _products(network, held, signs):
        terms[draw] += float(torch.dot(signs[draw].double(), product.double()))
    return _mean([term / len(held) for term in terms], [1.0] * draws)


def _products(
    network: Network, held: HeldOut, vectors: Sequence[Tensor]
) -> Iterator[tuple[int, Tensor]]:
    """For each batch and vector: its number, and its product with the Hessian of the batch's summed
    loss, (weights,) float32, which the next one overwrites.

    A batch's gradient is computed once, and then derived along each of the vectors.
    """
    flat = network.flat
    parameters = [segment.parameter for segment in flat.segments]
    for at in batch_slices(len(held), GRADIENT_BATCH, network.pixels):
        try:
            with sdpa_kernel(SDPBackend.MATH):  # the only attention that can be derived twice
                loss = summed_loss(network, held, at)
                gradients = torch.autograd.grad(
                    loss, parameters, create_graph=True, materialize_grads=True
                )
                if not all(gradient.requires_grad for gradient in gradients):
                    raise RuntimeError("an operation hides of what its derivative is a function")
                for number, vector in enumerate(vectors):
                    along = [flat.view(vector, segment).float() for segment in flat.segments]
                    terms = [(g * v).sum() for g, v in zip(gradients, along, strict=True)]
                    slope = torch.stack(terms).sum()
                    flat.gradient.zero_()
                    # Not `autograd.grad`, which passes by what cannot be derived twice.
                    slope.backward(retain_graph=True)  # type: ignore[no-untyped-call]
                    yield number, flat.gradient
        except RuntimeError as error:
            if not any(word in str(error) for word in ("derivative", "differentiat")):
                raise
            raise Unmeasurable(
                f"{network.subject.weights}: the network has no second derivative "
                f"({in_a_line(error)[:200]}); leave the Hessian out with --no-hessian"
            ) from None


def rise(network: Network, held: HeldOut, minimiser: Minimiser, m: int) -> Found:
    """The mean rise of the loss within the method's neighbourhood, over micro-batches of at most m
    images, and its standard error over them (None for one).

    Raises:
        Unmeasurable: the method moves no weight of this network.
    """
    flat = network.flat
    moving = [kind for kind in KINDS if minimiser.perturbs(kind)]
    try:
        refuse_unmoved(minimiser, flat.ranges)
    except UsageError as error:
        raise Unmeasurable(f"{network.subject.weights}: {error}") from None
    climb, above = EagerClimb(minimiser, flat, None), PerturbedWeights(flat, moving)
    rises, sizes = [], []
    for numbers in torch.arange(len(held)).tensor_split(math.ceil(len(held) / m)):
        at = slice(int(numbers[0]), int(numbers[-1]) + 1)
        flat.gradient.zero_()
        before = summed_loss(network, held, at) / len(numbers)
        before.backward()  # type: ignore[no-untyped-call]
        climb(1.0, fisher=None, momentum=None)
        above.enter()
        try:
            with torch.no_grad():
                after = summed_loss(network, held, at) / len(numbers)
        finally:
            above.leave()
        rises.append(float(after) - float(before.detach()))
        sizes.append(float(len(numbers)))
    return _mean(rises, sizes)


def _measured(
    network: Network, setting: SharpnessSetting, wanted: Sequence[Quantity]
) -> Iterator[Measurement]:
    """A row for each, as it is measured."""
    here, how, every = provenance(network), quantities(setting), trained_on(network)
    images = min(setting.images or len(every), len(every))
    chosen = every.subset(torch.arange(images, device=every.labels.device))
    for quantity in wanted:
        since = time.perf_counter()
        with _whole_float32():
            value, error = how[quantity](network, chosen)
        yield {
            "subject": network.subject.identity,
            **quantity._asdict(),
            "version": VERSION,
            "images": images,
            "of": len(every),
            "value": value,
            "error": error,
            "seconds": time.perf_counter() - since,
            **here,
        }


@contextmanager
def _whole_float32() -> Iterator[None]:
    """Convolutions without TF32, which is torch's default on a GPU: its rounding is as large as
    `TOLERANCE`, and as small rises."""
    convolutions: Any = torch.backends.cudnn.conv  # type: ignore[attr-defined]
    before = convolutions.fp32_precision
    convolutions.fp32_precision = "ieee"
    try:
        yield
    finally:
        convolutions.fp32_precision = before


@torch.no_grad()
def _loss(network: Network, held: HeldOut) -> Found:
    batches = batch_slices(len(held), GRADIENT_BATCH, network.pixels)
    total = sum(float(summed_loss(network, held, at)) for at in batches)
    return Found(total / len(held))


def _gradient_norm(network: Network, held: HeldOut) -> Found:
    return Found(float(torch.linalg.vector_norm(mean_gradient(network, held))))


def _lambda_max(network: Network, held: HeldOut) -> Found:
    start = noise(network, "sharpness.lambda_max", 0)
    found = largest_eigenvalue(
        lambda vector: hessian_product(network, held, vector),
        start,
        tolerance=TOLERANCE,
        most=MOST_PRODUCTS,
    )
    return Found(found.value, found.error)


def _mean(terms: Sequence[float], weights: Sequence[float]) -> Found:
    """The weighted mean, and its standard error as if of equal weights, as they nearly are."""
    mean = math.fsum(t * w for t, w in zip(terms, weights, strict=True)) / math.fsum(weights)
    if len(terms) < 2:
        return Found(mean)
    squares = math.fsum((term - mean) ** 2 for term in terms)
    return Found(mean, math.sqrt(squares / (len(terms) - 1) / len(terms)))
