"""A network's buffers, kept and put back, and its running statistics held still for a pass."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

_STATISTICS = ("running_mean", "running_var", "num_batches_tracked")  # of batch normalisation


class KeptBuffers:
    """The buffers of a network as they are now.

    A pass may write into a buffer (`self.n += 1`) or put another tensor in its place
    (`self.n = self.n + 1`); `put_back` undoes both.

    Args:
        modules: all modules of the network; to find them takes longer than all else here.
        statistics: the running statistics of batch normalisation among them.
    """

    @torch.no_grad()
    def __init__(self, modules: Iterable[nn.Module], *, statistics: bool = True) -> None:
        self._kept: list[tuple[nn.Module, str, Tensor, Tensor]] = [
            (module, name, buffer, buffer.clone())
            for module in modules
            for name, buffer in module._buffers.items()
            if buffer is not None and (statistics or not _is_statistic(module, name))
        ]

    @torch.no_grad()
    def put_back(self) -> None:
        """Every buffer is the tensor that it was, with the value that it had."""
        for module, name, buffer, value in self._kept:
            buffer.copy_(value)
            module._buffers[name] = buffer

    def replaced(self) -> str | None:
        """The first buffer that is another tensor by now, as `Layer.name`; None if all stayed."""
        for module, name, buffer, _ in self._kept:
            if module._buffers[name] is not buffer:
                return f"{type(module).__name__}.{name}"
        return None


@contextmanager
def running_statistics_frozen(modules: Collection[nn.Module]) -> Iterator[None]:
    """Normalise by the batch, as in training, and leave the running statistics and counters alone.

    Turning `track_running_stats` off does exactly this for batch normalisation. (Setting the
    momentum to 0 still counts batches, and loses the momentum when done twice.) Instance
    normalisation moves its statistics all the same, and other layers, some of them batch
    normalisation with more to it, may have buffers that move with every pass (spectral
    normalisation does), so those are put back.

    Args:
        modules: all modules of the network, as a list: in a large one they take milliseconds to
            find.
    """
    layers = [
        each
        for each in modules
        if isinstance(each, nn.modules.batchnorm._BatchNorm) and each.track_running_stats
    ]
    kept = KeptBuffers(modules, statistics=False)
    for layer in layers:
        layer.track_running_stats = False
    try:
        yield
    finally:
        for layer in layers:
            layer.track_running_stats = True
        kept.put_back()


def _is_statistic(module: nn.Module, name: str) -> bool:
    """Whether torch's own pass moves it, which `track_running_stats` stops."""
    own = (nn.modules.batchnorm._BatchNorm.forward, nn.SyncBatchNorm.forward)
    return name in _STATISTICS and getattr(type(module), "forward", None) in own
