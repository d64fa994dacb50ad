"""All trainable weights in one flat buffer, the parameters being views of it.

Perturbing and updating then stream through contiguous memory, and extra state costs one buffer.
Parameters are ordered by kind, so that a method that treats kinds differently (ASAM's T,
normalisation layers) still works on whole ranges.

Other weights for a while (w + eps, an average) lie in another buffer, and the parameters become
views of that one (`AlternateWeights`). So w is never overwritten: coming back to it is exact and
copies nothing. w + eps is written over the gradient that led there, and a second buffer takes the
next gradient (`PerturbedWeights`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor, nn

from fsam_cli.engine.kinds import kinds_by_name, refuse_complex
from fsam_cli.errors import UsageError
from fsam_cli.minimisers._contract import KINDS, Chunk, Kind

ALIGN = 64  # floats: segments start on cache lines and full vectors
# Floats a piece on a CPU: fewer, and calls and thread barriers cost more than the passes; more, and
# a piece has left the cache before the next pass over it.
CPU_CHUNK = 1 << 19


@dataclass(frozen=True)
class Segment:
    """A parameter, and where it lies in the flat buffer."""

    name: str
    kind: Kind
    parameter: nn.Parameter = field(repr=False, compare=False)
    offset: int  # floats
    shape: torch.Size
    stride: tuple[int, ...]

    @property
    def numel(self) -> int:
        return self.shape.numel()


class _Gradient(NamedTuple):
    """A flat gradient and its pieces, one for each segment."""

    buffer: Tensor
    views: list[Tensor]


class FlatWeights:
    """Owns `weights` and `gradient`, both flat fp32, and lays the model's parameters on them.

    Convert the model to its device and to channels_last first: a later conversion would detach
    the parameters from the buffers.

    The gradient of a parameter that a pass does not reach is 0 here, not None. Weight decay and
    momentum move such a parameter all the same, where torch's optimisers, and fsam's in one's own
    loop, leave it out. A frozen parameter is not on the buffers, and nothing moves it.

    Raises:
        UsageError: no parameter is trainable, or one that is is complex.
    """

    def __init__(self, model: nn.Module) -> None:
        parameters = dict(model.named_parameters())
        kinds = kinds_by_name(model)
        if not kinds:
            raise UsageError("the network has no trainable parameter, so there is nothing to train")
        for name in kinds:
            refuse_complex(name, parameters[name])
        self.segments: list[Segment] = []
        self.ranges: dict[Kind, tuple[int, int]] = {}
        end = 0
        for name in sorted(kinds, key=lambda name: KINDS.index(kinds[name])):  # stable in a kind
            parameter = parameters[name]
            stride = _dense_stride(parameter)
            segment = Segment(name, kinds[name], parameter, end, parameter.shape, stride)
            self.segments.append(segment)
            end += -(-segment.numel // ALIGN) * ALIGN
            start = self.ranges.get(segment.kind, (segment.offset, 0))[0]
            self.ranges[segment.kind] = (start, end)
        device = next(iter(parameters.values())).device
        self.weights = torch.zeros(end, dtype=torch.float32, device=device)
        with torch.no_grad():
            for segment in self.segments:
                view = self.view(self.weights, segment)
                view.copy_(segment.parameter)
                segment.parameter.data = view
        self._trained = [segment.parameter for segment in self.segments]  # quicker to walk
        # The first takes what a backward pass finds; the second is made when it is needed.
        self._gradients = [self._new_gradient()]
        self.attach_gradients()

    @property
    def gradient(self) -> Tensor:
        """The flat gradient; a climb puts another buffer in its place."""
        return self._gradients[0].buffer

    @property
    def spare(self) -> Tensor:
        """The buffer that a climb puts in the gradient's place; made when first asked for."""
        return self._both()[1].buffer

    def exchange_gradients(self, *, attach: bool = True) -> None:
        """What was `spare` takes the next gradient, and what was `gradient` is spare.

        Args:
            attach: the parameters' `.grad`, too.
        """
        self._both().reverse()
        if attach:
            self.attach_gradients()

    def attach_gradients(self) -> None:
        """Every parameter's `.grad` is its view of `gradient`."""
        for parameter, view in zip(self._trained, self._gradients[0].views, strict=True):
            parameter.grad = view

    def _both(self) -> list[_Gradient]:
        if len(self._gradients) == 1:
            self._gradients.append(self._new_gradient())
        return self._gradients

    def _new_gradient(self) -> _Gradient:
        buffer = torch.zeros_like(self.weights)
        return _Gradient(buffer, [self.view(buffer, segment) for segment in self.segments])

    @property
    def count(self) -> int:
        """Trainable weights, padding not counted."""
        return sum(segment.numel for segment in self.segments)

    def view(self, buffer: Tensor, segment: Segment) -> Tensor:
        """The piece of a flat buffer that belongs to one parameter, in the parameter's shape."""
        return buffer.as_strided(segment.shape, segment.stride, segment.offset)

    def by_name(self, buffer: Tensor) -> dict[str, Tensor]:
        """Contiguous copies on the CPU by parameter name, as checkpoints hold them."""
        return {
            segment.name: contiguous_on_cpu(self.view(buffer, segment)) for segment in self.segments
        }

    def fill(self, buffer: Tensor, values: Mapping[str, Tensor]) -> None:
        """Write per-parameter tensors into a flat buffer.

        Raises:
            KeyError: a parameter is missing.
            RuntimeError: a shape is another.
        """
        with torch.no_grad():
            for segment in self.segments:
                view = self.view(buffer, segment)
                if values[segment.name].shape != view.shape:
                    raise RuntimeError(f"{segment.name} has another shape")
                view.copy_(values[segment.name])

    def chunks(
        self,
        *,
        gradient: Tensor | None = None,
        fisher: Tensor | None = None,
        momentum: Tensor | None = None,
        memory: Tensor | None = None,
        scratch: Tensor | None = None,
    ) -> list[Chunk]:
        """The weights and what goes with them, in pieces that fit the cache, each of one kind.

        Args:
            gradient: flat; by default the gradient buffer.
            fisher: flat diagonal of the Fisher information.
            momentum: of the base optimiser, flat.
            memory: of the method, flat.
            scratch: as long as the longest piece at least; its beginning is lent to each in turn.
        """
        g = self.gradient if gradient is None else gradient

        def piece(kind: Kind, at: slice) -> Chunk:
            f, v, m = (None if each is None else each[at] for each in (fisher, momentum, memory))
            lent = None if scratch is None else scratch[: at.stop - at.start]
            return Chunk(self.weights[at], g[at], f, kind, v, m, lent)

        return [piece(kind, at) for kind, at in self._pieces()]

    def attached(self) -> bool:
        """Whether every parameter and gradient lies on the buffers."""
        return all(
            segment.parameter.data_ptr() == self.view(self.weights, segment).data_ptr()
            and segment.parameter.grad is not None
            and segment.parameter.grad.data_ptr() == self.view(self.gradient, segment).data_ptr()
            for segment in self.segments
        )

    @contextmanager
    def holding(self, values: Tensor) -> Iterator[None]:
        """Evaluate at other weights, and come back to exactly these.

        Args:
            values: flat; the parameters are views of it inside.
        """
        elsewhere = AlternateWeights(self, values)
        elsewhere.enter()
        try:
            yield
        finally:
            elsewhere.leave()

    def _pieces(self) -> Iterator[tuple[Kind, slice]]:
        """Ranges of the flat vectors, each of one kind and on a CPU small enough for the cache."""
        longest = CPU_CHUNK if self.weights.device.type == "cpu" else len(self.weights)
        for kind, (start, end) in self.ranges.items():
            for begin in range(start, end, longest):
                yield kind, slice(begin, min(begin + longest, end))


class AlternateWeights:
    """Another flat buffer, on which the parameters can lie for a while; nothing is copied.

    Args:
        flat: whose parameters.
        values: flat; lives as long as this object.
        kinds: which parameters move there; the others stay on `flat.weights`.
    """

    def __init__(self, flat: FlatWeights, values: Tensor, kinds: Collection[Kind] = KINDS) -> None:
        moving = [segment for segment in flat.segments if segment.kind in kinds]
        self.values = values
        self._parameters = [segment.parameter for segment in moving]
        self._home = [flat.view(flat.weights, segment) for segment in moving]
        self._views = [flat.view(values, segment) for segment in moving]

    def enter(self) -> None:
        """The parameters are views of `values` from here on."""
        for parameter, view in zip(self._parameters, self._views, strict=True):
            parameter.data = view

    def leave(self) -> None:
        """The parameters are views of the flat weights again."""
        for parameter, view in zip(self._parameters, self._home, strict=True):
            parameter.data = view


class PerturbedWeights:
    """w + eps, in the place of the gradient that led there.

    After the climb the first gradient is no longer needed, so w + eps takes its buffer: only the
    second gradient costs one of its own, and a CPU writes over lines it has just read. The two
    buffers belong to `flat` and change places at every climb, whoever climbs.

    Args:
        flat: whose parameters.
        kinds: which parameters move; the others stay on `flat.weights`.
    """

    def __init__(self, flat: FlatWeights, kinds: Collection[Kind]) -> None:
        self._flat, self._kinds = flat, kinds
        self._places: dict[int, AlternateWeights] = {}  # both of them, by address
        self._here = AlternateWeights(flat, flat.weights, ())  # no climb yet: nothing moves

    @property
    def values(self) -> Tensor:
        """The flat w + eps of the last climb where `kinds` move, until anybody climbs on these
        weights again."""
        return self._here.values

    def enter(self) -> None:
        """The parameters lie on the gradient buffer, over which w + eps has been written."""
        flat, place = self._flat, self._flat.gradient.data_ptr()
        if place not in self._places:
            self._places[place] = AlternateWeights(flat, flat.gradient, self._kinds)
        self._here = self._places[place]
        flat.exchange_gradients()
        self._here.enter()

    def leave(self) -> None:
        """The parameters are views of the flat weights again."""
        self._here.leave()


def contiguous_on_cpu(tensor: Tensor) -> Tensor:
    """A copy that a checkpoint can hold; a network's worth of them would be too much for a GPU."""
    return tensor.detach().clone(memory_format=torch.contiguous_format).cpu()


def _dense_stride(parameter: Tensor) -> tuple[int, ...]:
    """The parameter's own memory order if it is dense (channels_last is), else row-major."""
    dense = torch.empty_like(parameter, memory_format=torch.preserve_format)
    return tuple(dense.stride())
