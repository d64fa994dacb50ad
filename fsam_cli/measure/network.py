"""A trained network and its data in memory, ready to be measured.

Nothing here or in what measures writes a weight file; the network comes back to exactly its
weights.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from fsam_cli.augment._pipeline import Pipeline
from fsam_cli.datasets._contract import DataSet, Fingerprint, ImageSet
from fsam_cli.datasets._statistics import statistics
from fsam_cli.engine import checkpoint
from fsam_cli.engine.environment import environment
from fsam_cli.engine.evaluate import batch_slices
from fsam_cli.engine.feed import HeldOut
from fsam_cli.engine.flat import FlatWeights
from fsam_cli.engine.initial_weights import unwrapped
from fsam_cli.engine.run import loaded_data
from fsam_cli.engine.seeding import stream
from fsam_cli.errors import DataError, RecordError, in_a_line
from fsam_cli.measure.subjects import Subject, Unmeasurable

GRADIENT_BATCH = 128  # images; what training itself has room for


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


def network_of(subject: Subject, device: torch.device) -> Network:
    """The network on its device, and its data.

    Raises:
        Unmeasurable: weights that cannot be loaded.
        DataError: the data cannot be read.
    """
    torch.set_num_threads(subject.threads)  # the bits at the trained weights are the training's
    data = loaded_data(subject.data, subject.data_root, subject.digest)
    return Network(subject, data, device)


def provenance(network: Network) -> dict[str, str]:
    """`torch` and `device_name`, as every row has them."""
    whole = environment(network.flat.weights.device)
    return {key: whole[key] for key in ("torch", "device_name")}


def summed_loss(network: Network, held: HeldOut, at: slice) -> Tensor:
    """The cross-entropy of some of the images: 0-dim, float64 from the logits on.

    The network computes in float32 whatever the precision of the training (and torch convolves that
    in TF32 on a GPU, unless told otherwise).
    """
    images, labels = network.normalised(held.images[at]), held.labels[at]
    return F.cross_entropy(network.model(images).double(), labels, reduction="sum")


def mean_gradient(network: Network, held: HeldOut) -> Tensor:
    """Gradient of the mean cross-entropy over all images, at the weights as they are.

    Batches are summed in float64: the result does not depend on how the images are cut, beyond
    the rounding within a batch.

    Returns:
        (weights,) float64, in the order of the flat buffer.
    """
    flat = network.flat
    total = torch.zeros_like(flat.gradient, dtype=torch.float64)
    for at in batch_slices(len(held), GRADIENT_BATCH, network.pixels):
        flat.gradient.zero_()
        summed_loss(network, held, at).backward()  # type: ignore[no-untyped-call]
        total += flat.gradient
    return total / len(held)


def noise(
    network: Network, purpose: str, draw: int, *, law: Literal["normal", "signs"] = "normal"
) -> Tensor:
    """A random vector, a function of the subject's seed, the purpose and the number of the draw.

    Drawn on the CPU in the order of the model's parameters, so that methods compared by seed are
    measured along the same vectors.

    Args:
        network: of whose weights.
        purpose: names the stream.
        draw: from 0.
        law: standard normal, or +1 and -1 with equal probability (Rademacher).

    Returns:
        (weights,) float64, in the order of the flat buffer; 0 in its padding.
    """
    flat = network.flat
    vector = torch.zeros_like(flat.weights, dtype=torch.float64)
    random = stream(network.subject.seed, purpose, draw)
    views = {segment.name: flat.view(vector, segment) for segment in flat.segments}
    for name, _ in network.model.named_parameters():
        if name in views:
            shape = tuple(views[name].shape)
            drawn = random.standard_normal(shape)
            views[name].copy_(torch.from_numpy(np.sign(drawn) if law == "signs" else drawn))
    return vector


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
