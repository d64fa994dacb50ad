"""The hardware's limit: what it costs to stream a step's memory traffic once, and nothing else.

A step of the minimiser has to read and write whole vectors of the network's size. Counted in
passes (one pass reads or writes 4 bytes a weight), with every vector touched as few times as the
arithmetic allows:

    norm        read g                                       1   (ASAM: and w, 2)
    climb       read w, g; write the saved w, w + eps        4
    descend     read the saved w, g, v; write v, w           5   (v is the momentum)

so 10 passes for SAM and Fisher SAM, 11 for ASAM, and 5 for SGD, which only descends. A method that
keeps or combines more, or whose base optimiser is not SGD with momentum, has no count here and is
shown without one. (That is the step that perturbs the weights in place, as public code does. fsam
writes w + eps over g, which saves a pass, and reads the second g once more to see that it is
finite.)

The bandwidth that turns passes into a floor is measured beside the steps, with the same number of
threads, by the fastest of three streaming kernels over four vectors of the network's size: as many
as a step uses, so a small network's floor is that of the cache its buffers stay in.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

import torch

from fsam_cli.measure.bench.race import Samples, Spread, Timing, Variant, race
from fsam_cli.minimisers._contract import Minimiser
from fsam_cli.recipe.optimizers import is_common_sgd, keeps_momentum
from fsam_cli.recipe.schema import Optimizer

BYTES = 4  # of a float32
VECTORS = 4  # weights, gradient, momentum, and w or w + eps
PASSES = MappingProxyType({"sgd": 5, "sam": 10, "fsam": 10, "sam_matched": 10, "asam": 11})
GRADIENT_PASSES = 4  # zero: write; accumulate: read both, write


def passes_of(name: str, method: Minimiser, optimizer: Optimizer) -> int | None:
    """How often a step of the minimiser touches a vector; None where nobody has counted."""
    counted = (
        is_common_sgd(optimizer)
        and keeps_momentum(optimizer)
        and method.natural_gradient is None
        and method.fisher_source is None
        and method.m_sharpness is None
    )
    return PASSES.get(name) if counted else None


@dataclass(frozen=True)
class Kernel:
    """A streaming kernel over the four vectors."""

    passes: int  # of one call, over all vectors it touches
    run: Variant


def floor_kernels(count: int, device: torch.device) -> dict[str, Kernel]:
    """The candidates, over vectors of `count` floats, by what they call."""
    a, b, c, d = (torch.ones(count, device=device) for _ in range(VECTORS))

    def scale() -> None:
        for vector in (a, b, c, d):
            vector.mul_(1.0)

    def copy() -> None:
        b.copy_(a)
        d.copy_(c)

    def add() -> None:
        torch.add(a, b, out=c)
        torch.add(b, a, out=d)

    return {
        "mul_": Kernel(2 * VECTORS, scale),
        "copy_": Kernel(4, copy),
        "add(out=)": Kernel(6, add),
    }


@dataclass(frozen=True)
class Floor:
    """The measured limit, and the race's variant that showed it."""

    kernel: str
    passes: int  # of one call of it
    bandwidth: Spread  # bytes per second
    buffers: int  # bytes of all four vectors
    cache: int | None  # bytes of the last-level cache, if the system tells

    @property
    def in_cache(self) -> bool | None:
        """Whether the buffers fit the last-level cache; None: not known."""
        return None if self.cache is None else self.buffers <= self.cache


def fastest(
    samples: Samples, kernels: Mapping[str, Kernel], *, count: int, device: torch.device
) -> Floor:
    """The kernel with the highest median bandwidth, of a race that each ran under its own name."""
    name = min(kernels, key=lambda name: samples.spread(name).median / kernels[name].passes)
    passes = kernels[name].passes
    bandwidth = samples.spread(name).per_second(passes * BYTES * count)
    return Floor(name, passes, bandwidth, VECTORS * BYTES * count, last_level_cache(device))


def race_on_floor(
    steps: Mapping[str, Variant], count: int, timing: Timing
) -> tuple[Samples, Floor]:
    """Steps and the kernels over vectors of `count` floats in one race, and the floor it shows."""
    kernels = floor_kernels(count, timing.device)
    variants = {name: kernel.run for name, kernel in kernels.items()} | {**steps}
    samples = race(variants, timing)
    return samples, fastest(samples, kernels, count=count, device=timing.device)


def multiple(samples: Samples, name: str, passes: int | None, floor: Floor) -> Spread | None:
    """A variant's time over the floor of `passes`, taken within each round.

    multiple = seconds / (passes x 4 bytes x weights / bandwidth)
    """
    if passes is None:
        return None
    return samples.ratio(name, floor.kernel, times=passes / floor.passes)


def last_level_cache(device: torch.device) -> int | None:
    """Bytes of the largest cache of the device; None where the system does not tell."""
    if device.type == "cuda":
        found = getattr(torch.cuda.get_device_properties(device), "L2_cache_size", None)
        return int(found) if found else None
    sizes = []
    for file in Path("/sys/devices/system/cpu/cpu0/cache").glob("index*/size"):
        text = file.read_text(encoding="ascii").strip()
        if text.endswith("K") and text[:-1].isdigit():
            sizes.append(int(text[:-1]) * 1024)
    return max(sizes, default=None)
