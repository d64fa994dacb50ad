"""Whether a method keeps its contract, tried on a few hundred random numbers on the CPU.

A method that looks across a chunk, writes over what it was handed, or has a length of 0 would train
all the same, to a table that looks like any other. So every method from a plugin is tried before
anything is trained, with the settings that the recipe gives it; fsam's own are tried by the tests.

Mistakes that raise when the method is used are the training's business, but for slips that no
machine could run: a kernel may be for GPUs alone.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from fsam_cli.errors import Problem, in_a_line
from fsam_cli.minimisers._contract import KINDS, Chunk, Kind, Minimiser, added_up
from fsam_cli.plugins import raised_in

SIZE = 257  # numbers of a chunk
CUTS = (slice(0, 96), slice(96, SIZE))  # its two parts: of different lengths
ZEROS = slice(5, None, 16)  # where all numbers are 0, as between two parameters, or in a dead unit
FACTOR = 0.5  # of the direction, where w + eps is tried
ELEMENTWISE = "compute elementwise, and leave sums over all weights to `sums` and `length`"
ON_A_COPY = "work on a copy"
# Hooks, and the flags without which they are not called.
NEEDS = (
    ("remember", "remembers"),
    ("remember_both", "remembers"),
    ("remember_both", "combines"),
    ("descent", "combines"),
    ("between", "remembers"),
    ("between", "combines"),
)
SLIPS = (NameError, AttributeError, TypeError)


class _Broken(Exception):
    """What a method does, and what it should do instead."""

    def __init__(self, what: str, instead: str) -> None:
        super().__init__(what)
        self.what, self.instead = what, instead


def broken_contract(method: Minimiser, key: str) -> Problem | None:
    """The first thing found with which a method could not be trained to what it says; None if all
    is well as far as can be seen.

    Args:
        method: with its settings.
        key: of the recipe, for the message.
    """
    file = Path(getattr(sys.modules[type(method).__module__], "__file__", ""))
    whose = f"{type(method).__name__} of {file}"
    try:
        # Nothing that the method may draw moves the random numbers of others.
        with torch.no_grad(), torch.random.fork_rng(devices=[]):
            _try(method)
    except _Broken as error:
        return Problem(key, f"{whose}: {error.what}", error.instead)
    except SLIPS as error:
        told = in_a_line(f"{type(error).__name__}: {error}")
        return Problem(key, f"{whose}: {told}{raised_in(error, [file])}", "fix the file")
    except Exception:
        return None
    return None


def _try(method: Minimiser) -> None:
    _refuse_what_is_never_called(method)
    _refuse_no_period(method.period)
    if method.climbs:
        chunks = [_chunk(method, kind) for kind in KINDS if method.perturbs(kind)]
        for whole in chunks:
            _try_direction(method, whole)
        if chunks:  # else it is refused with the network's own kinds
            _try_length(method, chunks)
    if method.remembers:
        _try_memory(method)
    if method.combines:
        _try_step(method, "descent")
    if method.combines and method.period > 1:
        _try_step(method, "between")


def _refuse_what_is_never_called(method: Minimiser) -> None:
    kind = type(method)
    for hook, flag in NEEDS:
        if getattr(kind, hook) is not getattr(Minimiser, hook) and not getattr(method, flag):
            raise _Broken(
                f"its `{hook}` is never called, since {flag} is False",
                f"write {flag}: ClassVar[bool] = True in the class",
            )
    if kind.between is not Minimiser.between and kind.period is Minimiser.period:
        raise _Broken(
            "its `between` is never called, since every step climbs",
            "define `period`, the steps from one that climbs to the next",
        )


def _refuse_no_period(period: object) -> None:
    if type(period) is not int or period < 1:
        raise _Broken(
            f"its period is {period!r}", "give a whole number of steps, from 1, which is every step"
        )


def _try_direction(method: Minimiser, whole: Chunk) -> None:
    given = _direction(method, whole)
    if not given.isfinite().all():
        raise _Broken(
            "its direction is not finite, where weight and gradient are 0 for instance",
            "some weights have no gradient: give 0 there",
        )
    if not torch.equal(given, _direction(method, whole)):
        raise _Broken(
            "its direction is another one when it is asked again",
            "compute it from what is handed over: a method has no state but its memory, and no "
            "random numbers of its own",
        )
    pieces = [_direction(method, piece) for piece in _in_two(whole)]
    if not _close(torch.cat(pieces), given):
        raise _Broken(
            "its direction of a chunk is not that of the chunk's two parts, and chunks end where "
            "that is fast",
            ELEMENTWISE,
        )
    if type(method).w_plus_direction is not Minimiser.w_plus_direction:
        above = method.w_plus_direction(whole, FACTOR, None)
        if not _close(above, whole.w + FACTOR * given):
            raise _Broken(
                "its w_plus_direction is not w plus the factor times its direction",
                "leave it out: it is only for speed",
            )


def _direction(method: Minimiser, at: Chunk) -> Tensor:
    """A copy of it, that may lie on the gradient or in the scratch.

    Raises:
        _Broken: it is no tensor of the chunk's shape, or what was handed over is changed.
    """
    before = _copied(at)
    given = method.direction(at)
    _refuse_changes(before, at, "direction")
    _refuse_another_shape(given, at.g, "direction")
    return given.clone()


def _sums(method: Minimiser, at: Chunk) -> tuple[Tensor, ...]:
    before = _copied(at)
    given = method.sums(at)
    _refuse_changes(before, at, "sums")
    _refuse_no_scalars(given, "sums")
    if not given:
        raise _Broken("its sums are empty", "give one scalar, which `length` then gets")
    if not torch.stack(given).isfinite().all():
        raise _Broken(
            "its sums are not finite, where weight and gradient are 0 for instance",
            "some weights have no gradient: let them add 0",
        )
    return given


def _try_length(method: Minimiser, chunks: Sequence[Chunk]) -> None:
    """It may be 0 where the direction does not lead uphill, but not always."""
    found = []
    for up in (chunks, [at._replace(g=-at.g) for at in chunks]):
        length = method.length(added_up([_sums(method, whole) for whole in up]))
        _refuse_no_scalars((length,), "length")
        found.append(float(length))
        pieces = [_sums(method, piece) for whole in up for piece in _in_two(whole)]
        if length.isfinite() and not _close(method.length(added_up(pieces)), length):
            raise _Broken(
                "its length depends on where chunks end, over all of which fsam adds its sums up",
                "let `sums` give sums of elementwise terms, and `length` take the roots",
            )
    if not any(0 < each < float("inf") for each in found):
        raise _Broken(
            f"its length is {found[0]:g} for any gradient, so no weight would climb",
            "let `direction` lead uphill, with at.g and not against it, or define `sums` and "
            "`length` for it",
        )


def _try_memory(method: Minimiser) -> None:
    m, g, g2 = _random(3), _random(4), _random(6)
    whole, pieces, fresh = m.clone(), m.clone(), torch.zeros_like(m)
    before, sums = (g.clone(), g2.clone()), method.descent_sums(g, g2)
    for memory, at in ((fresh, slice(None)), (whole, slice(None)), *((pieces, at) for at in CUTS)):
        method.remember(memory[at], g[at])
        method.remember_both(memory[at], g[at], g2[at], sums)
    both = type(method).remember_both is not Minimiser.remember_both
    verb = "remember_both" if both else "remember"
    if not (torch.equal(before[0], g) and torch.equal(before[1], g2)):
        raise _Broken(f"its `{verb}` writes over the gradient", "write to m alone")
    if not fresh.any():
        raise _Broken(
            f"its `{verb}` leaves the memory at zero", "write to m in place: m.lerp_(g, 0.1)"
        )
    if not whole.isfinite().all():
        raise _Broken("its memory is not finite", "some weights have no gradient")
    if not _close(pieces, whole):
        raise _Broken(
            "its memory of a chunk is not that of the chunk's two parts", "compute elementwise"
        )


def _try_step(method: Minimiser, verb: Literal["descent", "between"]) -> None:
    """What the base optimiser goes along, from both gradients or from one and the memory."""
    of_sums, of_step = getattr(method, f"{verb}_sums"), getattr(method, verb)
    first, second = _random(5), _random(6)
    sums = of_sums(first, second)
    _refuse_no_scalars(sums, f"{verb}_sums")
    sums_of_parts = added_up([of_sums(first[at], second[at]) for at in CUTS])
    before, kept = first.clone(), second.clone()
    given = of_step(first, kept, sums)
    _refuse_another_shape(given, first, verb)
    given = given.clone()
    pieces = torch.cat([of_step(first[at], second[at].clone(), sums) for at in CUTS])
    of_parts = of_step(first, second.clone(), sums_of_parts).clone()
    if not torch.equal(before, first):
        raise _Broken(f"its `{verb}` writes over {'g1' if verb == 'descent' else 'g'}", ON_A_COPY)
    if verb == "between" and not torch.equal(kept, second):
        raise _Broken("its `between` writes over the memory", ON_A_COPY)
    if not given.isfinite().all():
        raise _Broken(f"its {verb} is not finite", "some weights have no gradient")
    if not _close(pieces, given):
        raise _Broken(
            f"its {verb} of a chunk is not that of the chunk's two parts",
            f"compute elementwise, and leave sums over all weights to `{verb}_sums`",
        )
    if not _close(of_parts, given):
        raise _Broken(
            f"its {verb} depends on where chunks end, over all of which fsam adds its "
            f"{verb}_sums up",
            f"let `{verb}_sums` give sums of elementwise terms, and `{verb}` take the roots",
        )


def _chunk(method: Minimiser, kind: Kind) -> Chunk:
    """Numbers as in training, with all that the method asks for; no scratch."""
    w, g = _random(0, 0.3), _random(1)
    f = None if method.fisher_source is None else _random(2).square()
    v = _random(3) if method.climbs_along == "momentum" else None
    m = _random(4, 0.05) if method.remembers else None
    return Chunk(w, g, f, kind, v, m)


def _in_two(whole: Chunk) -> list[Chunk]:
    """Its two parts, copied, each with scratch, as a CPU lends it."""
    parts = []
    for at in CUTS:
        part = _copied(whole, at)
        scratch = torch.full_like(part["w"], float("nan"))
        parts.append(whole._replace(**part, scratch=scratch))
    return parts


def _random(seed: int, size: float = 0.1) -> Tensor:
    """(SIZE,) normally distributed, but for some zeros."""
    numbers = torch.randn(SIZE, generator=torch.Generator().manual_seed(seed)) * size
    numbers[ZEROS] = 0.0
    return numbers


def _copied(at: Chunk, piece: slice = slice(None)) -> dict[str, Any]:
    """What is handed over, or a piece of it, by name; not the scratch, meant to be written to."""
    handed = {"w": at.w, "g": at.g, "f": at.f, "v": at.v, "m": at.m}
    return {name: each[piece].clone() for name, each in handed.items() if each is not None}


def _refuse_changes(before: dict[str, Any], at: Chunk, verb: str) -> None:
    for name, value in before.items():
        if not torch.equal(value, getattr(at, name)):
            raise _Broken(
                f"its {verb} writes over at.{name}",
                f"leave what is handed over as it is: at.{name} * 2 instead of at.{name}.mul_(2)",
            )


def _refuse_another_shape(given: object, like: Tensor, verb: str) -> None:
    if isinstance(given, Tensor) and given.shape == like.shape:
        return
    what = f"of shape {tuple(given.shape)}" if isinstance(given, Tensor) else type(given).__name__
    raise _Broken(
        f"its {verb} is {what} where the gradient is of shape {tuple(like.shape)}",
        "give a tensor with one number for each weight",
    )


def _refuse_no_scalars(given: object, verb: str) -> None:
    what = "a 0-dim tensor" if verb == "length" else "a tuple of 0-dim tensors"
    if not isinstance(given, tuple) or not all(
        isinstance(each, Tensor) and each.dim() == 0 for each in given
    ):
        raise _Broken(f"its {verb} is not {what}", f"give {what}, as (at.g * at.g).sum() is")


def _close(a: Tensor, b: Tensor) -> bool:
    size = float(b.abs().max())
    return torch.allclose(a, b, rtol=1e-3, atol=1e-5 * size)
