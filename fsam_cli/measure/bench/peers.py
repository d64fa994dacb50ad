"""Other implementations of SAM beside fsam's: equal network, equal gradients, equal SGD.

Whether the work is equal is checked first: from equal weights, twice, every implementation climbs
and descends, and eps and update are compared with fsam's eager step. The radius and the learning
rate of that check are so large that float32's rounding of the weights stays out of it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from torch import Tensor, nn

from fsam_cli.engine.step import StepInfo
from fsam_cli.errors import briefly
from fsam_cli.measure.bench.floor import Floor, multiple, passes_of, race_on_floor
from fsam_cli.measure.bench.memory import STEPS, extra_memory
from fsam_cli.measure.bench.minimiser import Ground, refuse_skipped, step_alone
from fsam_cli.measure.bench.network import (
    LR,
    SGD,
    WHEN,
    BenchProtocol,
    Implementation,
    put_gradient,
)
from fsam_cli.measure.bench.peer_adapters._contract import Setting
from fsam_cli.measure.bench.peer_files import NamedPeer
from fsam_cli.measure.bench.race import Spread, Timing, Variant
from fsam_cli.minimisers.sam import Sam

RHO = 0.05
AGREES = 1e-3  # relative; float32 norms of tens of millions of weights may differ by a tenth of it
CHECKED = 0.1  # size of eps and of the update, per weight, in the check of agreement


@dataclass(frozen=True)
class PeerLine:
    """One implementation of SAM with SGD on one network."""

    label: str
    version: str | None  # None: fsam itself, or not known
    seconds: Spread  # of climb and descent, without forward or backward
    multiple: Spread | None  # of the floor
    over: Mapping[str, Spread]  # times fsam's step in the same round, by fsam's implementation
    extra_memory: float  # beyond weights, gradient and momentum; 1 is the weights' size
    difference: float | None  # from fsam's eager step, relative; None: that step itself

    @property
    def agrees(self) -> bool:
        """Whether it does the same work."""
        return self.difference is None or self.difference <= AGREES


@dataclass(frozen=True)
class SideBySide:
    """All implementations on one network."""

    model: str
    weights: int
    floor: Floor
    elsewhere: float | None  # share of the processors that others used meanwhile
    lines: tuple[PeerLine, ...]
    left_out: tuple[str, ...]  # those that failed, fsam's compiled step among them, and why


def side_by_side(
    name: str,
    protocol: BenchProtocol,
    peers: Sequence[NamedPeer],
    *,
    implementations: Sequence[Implementation],
    timing: Timing,
) -> SideBySide:
    """Check that all do the same work on one network, then time them in one race.

    Args:
        name: of the network in the protocol.
        protocol: whose networks are built; method and optimiser are those of the comparison.
        implementations: of fsam's own step, `eager` among them.
    """
    common = BenchProtocol(protocol.models, (), SGD, classes=protocol.classes)
    ground = Ground(name, common, timing.device)
    differences, left_out = _differences(ground, peers, implementations)
    peers = [peer for peer in peers if peer.name in differences]
    implementations = [how for how in implementations if _ours(how) in differences]
    sam = Sam(rho=RHO)
    steppers = {how: ground.stepper(sam, how) for how in implementations}
    steps: dict[str, Variant] = {
        _ours(how): partial(step_alone, stepper, ground.batch) for how, stepper in steppers.items()
    }
    steps |= {peer.name: _step_of(peer, _parameters(ground)) for peer in peers}
    samples, floor = race_on_floor(steps, ground.floats, timing)
    refuse_skipped(steppers.values())
    del steps, steppers  # and what they hold, before memory is measured
    versions = {peer.name: peer.version for peer in peers}
    memory = {_ours(how): ground.extra_memory(sam, how) for how in implementations}
    memory |= {peer.name: _extra_memory(peer, ground) for peer in peers}
    lines = tuple(
        PeerLine(
            label,
            versions.get(label),
            samples.spread(label),
            multiple(samples, label, passes_of("sam", sam, SGD), floor),
            {how: samples.ratio(label, _ours(how)) for how in implementations},
            extra,
            differences[label],
        )
        for label, extra in memory.items()
    )
    return SideBySide(name, ground.flat.count, floor, samples.elsewhere, lines, left_out)


def _parameters(ground: Ground) -> list[nn.Parameter]:
    """Copies of weights and gradient for somebody else, in the network's order."""
    by_name = {segment.name: segment for segment in ground.flat.segments}
    copies = []
    for name, _ in ground.model.named_parameters():
        w, g = (
            ground.flat.view(buffer, by_name[name]).detach().clone()
            for buffer in (ground.flat.weights, ground.gradient)
        )
        parameter = nn.Parameter(w)
        parameter.grad = g
        copies.append(parameter)
    return copies


def _step_of(peer: NamedPeer, parameters: list[nn.Parameter]) -> Variant:
    built = peer.build(parameters, _setting(RHO, LR))

    def step() -> None:
        built.first_step()
        built.second_step()

    return step


def _extra_memory(peer: NamedPeer, ground: Ground) -> float:
    parameters = _parameters(ground)

    def some_steps() -> Variant:
        step = _step_of(peer, parameters)
        for _ in range(STEPS):
            step()
        return step

    return extra_memory(some_steps, ground.floats, ground.device)


def _differences(
    ground: Ground, peers: Sequence[NamedPeer], implementations: Sequence[Implementation]
) -> tuple[dict[str, float | None], tuple[str, ...]]:
    """By label, how far from fsam's eager step; left out, with the reason, are those that raise or
    leave weights that are not finite."""
    start = ground.flat.weights.clone()
    rho = lr = CHECKED * ground.floats**0.5
    when = StepInfo(WHEN.number, WHEN.epoch, WHEN.epochs, lr, lr)

    def ours(how: Implementation) -> list[list[Tensor]]:
        ground.flat.weights.copy_(start)
        stepper = ground.stepper(Sam(rho=rho), how)

        def climb() -> None:
            put_gradient(ground.flat, ground.gradient)
            stepper.climb(ground.batch, when)

        def descend() -> None:
            stepper.come_back()
            stepper.descend(lr)

        moved = _moved(climb, descend, list(ground.model.parameters()))
        ground.flat.weights.copy_(start)
        return moved

    reference = ours("eager")
    found: dict[str, float | None] = {_ours("eager"): None}
    left_out = []
    for how in implementations:
        if how == "eager":
            continue
        try:
            found[_ours(how)] = largest_difference(ours(how), reference)
        except Exception as error:  # a compiler may be there and fail
            left_out.append(f"{_ours(how)}: {briefly(error)}")
            ground.flat.weights.copy_(start)
    for peer in peers:
        parameters = _parameters(ground)
        try:
            built = peer.build(parameters, _setting(rho, lr))
            theirs = _moved(built.first_step, built.second_step, parameters)
        except Exception as error:  # whatever somebody else's code does wrong
            left_out.append(f"{peer.name}: {briefly(error)}")
        else:
            if all(bool(moved.isfinite().all()) for move in theirs for moved in move):
                found[peer.name] = largest_difference(theirs, reference)
            else:
                left_out.append(f"{peer.name}: it leaves weights that are not finite")
    return found, tuple(left_out)


def _moved(climb: Variant, descend: Variant, parameters: list[nn.Parameter]) -> list[list[Tensor]]:
    """eps, update, eps, update: of two steps, the second with momentum; a tensor a parameter."""
    moves = []
    for _ in range(2):
        start = [parameter.detach().clone() for parameter in parameters]
        for step in (climb, descend):
            step()
            moves.append([p.detach() - then for p, then in zip(parameters, start, strict=True)])
    return moves


def largest_difference(theirs: list[list[Tensor]], ours: list[list[Tensor]]) -> float:
    """Over all moves, the largest difference of one weight over the largest move of one weight."""

    def of_one_move(mine: list[Tensor], other: list[Tensor]) -> float:
        apart = max(float((b - a).abs().max()) for a, b in zip(mine, other, strict=True))
        return apart / max(float(a.abs().max()) for a in mine)

    return max(of_one_move(mine, other) for mine, other in zip(ours, theirs, strict=True))


def _setting(rho: float, lr: float) -> Setting:
    return Setting(rho, lr, SGD.settings["momentum"], SGD.settings["weight_decay"])


def _ours(how: Implementation) -> str:
    return f"fsam {how}"
