"""Climbing: from a method's direction to perturbed weights, and from two gradients to a step.

What turns `Minimiser.sums`, `length` and `direction` (on a CPU `w_plus_direction`) into w + eps,
and `descent` into a step: for the training engine (which writes w + eps over the gradient) and for
the optimisers of one's own loop (which perturb in place and copy back). `climb.CompiledClimb` is
the same for whole vectors.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Sequence

import torch
from torch import Tensor

from fsam_cli.errors import UsageError
from fsam_cli.minimisers._contract import Chunk, Kind, Minimiser, added_up, zero_unless_finite

# Squares below 1e-38 lose digits, the smaller the more; a sum above this does not show it.
_SMALLEST_SUM = 1e-32


def refuse_unmoved(method: Minimiser, kinds: Collection[Kind]) -> None:
    """Raise UsageError where the method would perturb no weight of a network of these kinds."""
    if method.climbs and not any(method.perturbs(kind) for kind in kinds):
        raise UsageError(
            f"{type(method).__name__} perturbs no weight of this network, which has only "
            f"{', '.join(sorted(kinds))}; choose another method or another network"
        )


@torch.no_grad()
def ascent_length(method: Minimiser, chunks: Sequence[Chunk]) -> Tensor:
    """The factor by which `direction` becomes eps, over all chunks that move together.

    0 where there is nowhere to climb. On the CPU, a gradient whose squares leave the range in
    which float32 is accurate is measured again in float64 (the direction itself stays float32); on
    a GPU that would stop the queue, and such a step has another radius, or 0.
    """
    moving = [at for at in chunks if method.perturbs(at.kind)]
    if not moving:
        return chunks[0].w.new_zeros(())
    sums = added_up(method.sums(at) for at in moving)
    factor = method.length(sums)
    if factor.device.type == "cpu" and not in_range(factor, *sums) and _has_a_direction(moving):
        sums = added_up(method.sums(_in_float64(at)) for at in moving)
        factor = zero_unless_finite(method.length(sums).float())
    return factor


def in_range(*numbers: Tensor) -> bool:
    """Whether a climb's factor and sums can be trusted; waits for the device."""
    return all(_SMALLEST_SUM < abs(number.item()) < math.inf for number in numbers)


def _in_float64(at: Chunk) -> Chunk:
    f, v, m = (None if each is None else each.double() for each in (at.f, at.v, at.m))
    return Chunk(at.w.double(), at.g.double(), f, at.kind, v, m)


def _has_a_direction(chunks: Sequence[Chunk]) -> bool:
    largest = [float((at.g if at.v is None else at.v).abs().max()) for at in chunks]
    return 0 < sum(largest) < math.inf  # not NaN either


@torch.no_grad()
def climb_(
    method: Minimiser,
    factor: Tensor,
    chunks: Sequence[Chunk],
    to: Sequence[Tensor],
    *,
    remember: bool = True,
) -> None:
    """Write w + eps to another place.

    Args:
        method: whose climb it is; its memory is brought up to date.
        factor: 0-dim, of `direction`, as `ascent_length` gives it.
        chunks: all weights.
        to: one tensor for each chunk, in its shape; it may be the chunk's gradient. Left alone
            where the method does not move the weights.
        remember: let the method remember this gradient, if it keeps a memory.
    """
    on_cpu = factor.item() if factor.device.type == "cpu" else None
    # Backwards: of what was measured, the end is still in the cache.
    for at, place in zip(reversed(chunks), reversed(to), strict=True):
        memory = at.m if remember else None
        perturbs = method.perturbs(at.kind)
        # Over a gradient that is still to be remembered nothing can be written yet.
        out = place if memory is None else at.scratch
        above = at.w
        if perturbs and on_cpu is not None:
            above = method.w_plus_direction(at, on_cpu, out)
        elif perturbs:  # the host must not wait for the factor
            above = torch.addcmul(at.w, method.direction(at), factor, out=out)
        if memory is not None:
            method.remember(memory, at.g)
            if perturbs:
                place.copy_(above)


@torch.no_grad()
def perturb_(
    method: Minimiser,
    chunks: Sequence[Chunk],
    saved: Sequence[Tensor],
    *,
    share: float = 1.0,
    remember: bool = True,
) -> None:
    """w + eps in place. Should it raise half-way, `restore_` brings the weights back.

    Args:
        method: see `climb_`.
        chunks: all weights.
        saved: a copy of each chunk's weights.
        share: of the radius.
        remember: see `climb_`.
    """
    factor = ascent_length(method, chunks) * share
    at_w = [at._replace(w=keep) for at, keep in zip(chunks, saved, strict=True)]
    climb_(method, factor, at_w, [at.w for at in chunks], remember=remember)


@torch.no_grad()
def restore_(chunks: Sequence[Chunk], saved: Sequence[Tensor]) -> None:
    """Back to w, bit for bit: a copy, since (w + eps) - eps is not w."""
    for at, keep in zip(chunks, saved, strict=True):
        at.w.copy_(keep)


def recombines(method: Minimiser) -> bool:
    """Whether the step is along more than the second gradient, so that the first has to be kept."""
    return method.combines or method.natural_gradient is not None


@torch.no_grad()
def combine_(
    method: Minimiser,
    firsts: Sequence[Chunk],
    seconds: Sequence[Tensor],
    *,
    climbed: bool,
) -> None:
    """Make the second gradients, in place, what the base optimiser is to step along.

    Args:
        method: one that `recombines`.
        firsts: the chunks with the gradient at w.
        seconds: the gradient at w + eps, chunk by chunk.
        climbed: False where nothing did, and both gradients are the one at w.
    """
    pairs = list(zip(firsts, seconds, strict=True))
    if method.combines and (climbed or method.period == 1):
        sums = added_up(method.descent_sums(at.g, g2) for at, g2 in pairs)
        for at, g2 in pairs:
            if climbed and at.m is not None:
                method.remember_both(at.m, at.g, g2, sums)
            g2.copy_(method.descent(at.g, g2, sums))
    elif method.combines:
        kept = [(at.g, at.m, step) for at, step in pairs if at.m is not None]
        sums = added_up(method.between_sums(g, m) for g, m, _ in kept)
        for g, m, step in kept:
            step.copy_(method.between(g, m, sums))
    if method.natural_gradient is not None:
        for at, g2 in pairs:
            g2.copy_(method.preconditioned(g2, at))
