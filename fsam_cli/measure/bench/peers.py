"""Other implementations of SAM beside fsam's: equal network, equal gradients, equal SGD.

Whether the work is equal is checked first: from equal weights, twice, every implementation climbs
and descends, and eps and update are compared with fsam's eager step. The radius and the learning
rate of that check are so large that float32's rounding of the weights stays out of it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor, nn

from fsam_cli.engine.flat import FlatWeights
from fsam_cli.engine.step import StepInfo, Stepper
from fsam_cli.measure.bench.floor import Floor, fastest, floor_kernels, multiple, passes_of
from fsam_cli.measure.bench.memory import STEPS, extra_memory
from fsam_cli.measure.bench.minimiser import refuse_skipped, some_steps, step_alone
from fsam_cli.measure.bench.network import (
    LR,
    SGD,
    WHEN,
    BenchProtocol,
    Implementation,
    build,
    put_gradient,
    random_batch,
    random_gradient,
    stepper_of,
)
from fsam_cli.measure.bench.peer_adapters._contract import Setting
from fsam_cli.measure.bench.peer_files import NamedPeer
from fsam_cli.measure.bench.race import Budget, Clock, Spread, least_sample, race
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
    left_out: tuple[str, ...]  # those that failed, and why


def side_by_side(
    name: str,
    protocol: BenchProtocol,
    peers: Sequence[NamedPeer],
    *,
    implementations: Sequence[Implementation],
    budget: Budget,
    device: torch.device,
    clock: Clock,
) -> SideBySide:
    """Check that all do the same work on one network, then time them in one race.

    Args:
        name: of the network in the protocol.
        protocol: whose networks are built; method and optimiser are those of the comparison.
        peers: from `found_peers`.
        implementations: of fsam's own step, `eager` among them.
        budget: of the race.
        device: where to compute.
        clock: see `race.clock_of`.
    """
    ground = _Ground(name, protocol, device)
    differences, left_out = _differences(ground, peers, implementations)
    peers = [peer for peer in peers if peer.name in differences]
    floor_of = floor_kernels(ground.count, device)
    variants: dict[str, Callable[[], object]] = {
        kernel: entry.run for kernel, entry in floor_of.items()
    }
    ours = [_Ours(ground, how) for how in implementations]
    rivals: list[_Ours | _Theirs] = [*ours, *(_Theirs(ground, peer) for peer in peers)]
    variants |= {rival.label: rival.step() for rival in rivals}
    samples = race(variants, budget, clock, sample_seconds=least_sample(device))
    refuse_skipped(each.stepper for each in ours)
    floor = fastest(samples, floor_of, count=ground.count, device=device)
    del variants  # and what they hold, before memory is measured
    lines = tuple(
        PeerLine(
            rival.label,
            rival.version,
            samples.spread(rival.label),
            multiple(samples, rival.label, passes_of("sam", Sam(rho=RHO), SGD), floor),
            {how: samples.ratio(rival.label, _ours(how)) for how in implementations},
            extra_memory(rival.some_steps(), ground.count, device),
            differences[rival.label],
        )
        for rival in rivals
    )
    return SideBySide(name, ground.flat.count, floor, samples.elsewhere, lines, left_out)


class _Ground:
    """The network on which all are compared: its weights at the start, and one gradient."""

    def __init__(self, name: str, protocol: BenchProtocol, device: torch.device) -> None:
        self.model = build(
            protocol.models[name], classes=protocol.classes, device=device, channels_last=False
        )
        self.protocol = BenchProtocol(protocol.models, (), SGD, classes=protocol.classes)
        self.flat = FlatWeights(self.model)
        self.gradient = random_gradient(self.flat)
        put_gradient(self.flat, self.gradient)
        self.batch = random_batch(2, protocol.classes, device=device)

    @property
    def count(self) -> int:
        """Floats of a flat vector."""
        return self.flat.weights.numel()

    def stepper(self, how: Implementation, rho: float, flat: FlatWeights | None = None) -> Stepper:
        """fsam's, on the network's own weights."""
        return stepper_of(
            self.model, flat or self.flat, Sam(rho=rho), self.protocol, compiled=how == "compiled"
        )

    def parameters(self) -> list[nn.Parameter]:
        """Copies of weights and gradient for somebody else, in the network's order."""
        by_name = {segment.name: segment for segment in self.flat.segments}
        copies = []
        for name, _ in self.model.named_parameters():
            w, g = (
                self.flat.view(buffer, by_name[name]).detach().clone()
                for buffer in (self.flat.weights, self.gradient)
            )
            parameter = nn.Parameter(w)
            parameter.grad = g
            copies.append(parameter)
        return copies

    def weights(self) -> list[Tensor]:
        """The network's weights wherever they are, as `parameters` orders them, copied."""
        return _copies(list(self.model.parameters()))


def _differences(
    ground: _Ground, peers: Sequence[NamedPeer], implementations: Sequence[Implementation]
) -> tuple[dict[str, float | None], tuple[str, ...]]:
    """By label, how far from fsam's eager step; left out, with the reason, are those that raise or
    leave weights that are not finite."""
    start = ground.flat.weights.clone()
    rho = lr = CHECKED * ground.count**0.5
    when = StepInfo(WHEN.number, WHEN.epoch, WHEN.epochs, lr, lr)

    def ours(how: Implementation) -> list[list[Tensor]]:
        ground.flat.weights.copy_(start)
        stepper = ground.stepper(how, rho)

        def climb() -> None:
            put_gradient(ground.flat, ground.gradient)
            stepper.climb(ground.batch, when)

        def descend() -> None:
            stepper.come_back()
            stepper.descend(lr)

        moved = _moved(climb, descend, ground.weights)
        ground.flat.weights.copy_(start)
        return moved

    reference = ours("eager")
    found: dict[str, float | None] = {_ours("eager"): None}
    for how in implementations:
        if how != "eager":
            found[_ours(how)] = largest_difference(ours(how), reference)
    left_out = []
    for peer in peers:
        parameters = ground.parameters()
        try:
            built = peer.build(parameters, _setting(rho, lr))
            theirs = _moved(
                built.first_step,
                built.second_step,
                partial(_copies, parameters),
            )
        except Exception as error:  # whatever somebody else's code does wrong
            left_out.append(f"{peer.name}: {type(error).__name__}: {error}")
        else:
            if all(bool(moved.isfinite().all()) for move in theirs for moved in move):
                found[peer.name] = largest_difference(theirs, reference)
            else:
                left_out.append(f"{peer.name}: it leaves weights that are not finite")
    return found, tuple(left_out)


def _moved(
    climb: Callable[[], object], descend: Callable[[], object], weights: Callable[[], list[Tensor]]
) -> list[list[Tensor]]:
    """eps, update, eps, update: of two steps, the second with momentum; a tensor a parameter."""
    moves = []
    for _ in range(2):
        start = weights()
        for step in (climb, descend):
            step()
            moves.append([now - then for now, then in zip(weights(), start, strict=True)])
    return moves


def _copies(parameters: list[nn.Parameter]) -> list[Tensor]:
    return [parameter.detach().clone() for parameter in parameters]


def largest_difference(theirs: list[list[Tensor]], ours: list[list[Tensor]]) -> float:
    """Over all moves, the largest difference of one weight over the largest move of one weight."""

    def of_one_move(mine: list[Tensor], other: list[Tensor]) -> float:
        apart = max(float((b - a).abs().max()) for a, b in zip(mine, other, strict=True))
        return apart / max(float(a.abs().max()) for a in mine)

    return max(of_one_move(mine, other) for mine, other in zip(ours, theirs, strict=True))


Step = Callable[[], object]


class _Ours:
    """fsam's step, on the network's own weights."""

    version = None

    def __init__(self, ground: _Ground, how: Implementation) -> None:
        self._ground, self._how = ground, how
        self.label = _ours(how)
        self.stepper = ground.stepper(how, RHO)

    def step(self) -> Step:
        """What is timed."""
        return partial(step_alone, self.stepper, self._ground.batch)

    def some_steps(self) -> Step:
        """What makes the minimiser and takes some steps; its memory is measured."""
        ground, fresh = self._ground, FlatWeights(self._ground.model)  # without a spare buffer yet
        return lambda: some_steps(
            ground.stepper(self._how, RHO, fresh), ground.gradient, ground.batch
        )


class _Theirs:
    """A peer's step, on copies; see `_Ours`."""

    def __init__(self, ground: _Ground, peer: NamedPeer) -> None:
        self._ground, self._peer = ground, peer
        self.label, self.version = peer.name, peer.version

    def step(self) -> Step:
        return self._step(self._ground.parameters())

    def some_steps(self) -> Step:
        parameters = self._ground.parameters()

        def steps() -> Step:
            step = self._step(parameters)
            for _ in range(STEPS):
                step()
            return step

        return steps

    def _step(self, parameters: list[nn.Parameter]) -> Step:
        built = self._peer.build(parameters, _setting(RHO, LR))

        def step() -> None:
            built.first_step()
            built.second_step()

        return step


def _setting(rho: float, lr: float) -> Setting:
    return Setting(rho, lr, SGD.settings["momentum"], SGD.settings["weight_decay"])


def _ours(how: Implementation) -> str:
    return f"fsam {how}"
