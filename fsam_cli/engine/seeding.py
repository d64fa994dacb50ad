"""Named random streams: every draw of data is a function of (seed, purpose, epoch, image).

Never of the method, the worker or the position in a batch. Seed 3 of SAM and seed 3 of Fisher SAM
therefore start from equal weights and see equal images in equal order, and a run that was cut off
in mid-epoch draws again what it drew before.

Dropout masks and the labels of the Fisher information are drawn for many images at once, as
functions of (seed, step, first image of the pass): equal in both passes of a step, and for all
methods that cut the batch alike. With dropout another `micro_batch_size` is another training.
"""

from __future__ import annotations

import zlib

import numpy as np
import torch


def stream(seed: int, purpose: str, epoch: int = 0) -> np.random.Generator:
    """The generator of one purpose in one epoch (counter-based, Philox)."""
    return np.random.Generator(np.random.Philox(_sequence(seed, purpose, epoch)))


def torch_seed(seed: int, purpose: str, *position: int) -> int:
    """A 63-bit seed for torch, for what torch itself draws: weights, dropout masks."""
    state = _sequence(seed, purpose, *position).generate_state(1, np.uint64)
    return int(state[0] >> np.uint64(1))


def seed_masks(seed: int, device: torch.device) -> None:
    """Seed what layers draw from, on the CPU and on a CUDA device.

    `torch.manual_seed` seeds every kind of device that there could be, and so costs a small network
    a percent or two of its step.
    """
    torch.default_generator.manual_seed(seed)
    if device.type == "cuda":
        torch.cuda.default_generators[device.index].manual_seed(seed)


def _sequence(seed: int, purpose: str, *position: int) -> np.random.SeedSequence:
    return np.random.SeedSequence([seed, zlib.crc32(purpose.encode()), *position])
