"""Images too many for memory: decoded when they are asked for, the next ones meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import torch
from torch import Tensor

Decode = Callable[[str], np.ndarray]  # one image as (channels, height, width) uint8


class OnDemand:
    """(n, channels, height, width) uint8 images that stand in for a tensor of them.

    Indexing decodes, on threads (Pillow lets go of the interpreter's lock), and gives a tensor on
    the device. What `ahead` named is decoded meanwhile, and after a slice the next one.

    Args:
        paths: one for each image.
        decode: of one image; its errors are raised where the image is asked for.
        shape: (channels, height, width) of what it gives.
        device: of the tensors given.
    """

    dtype = torch.uint8

    def __init__(
        self,
        paths: Sequence[str],
        decode: Decode,
        shape: tuple[int, int, int],
        device: torch.device | str = "cpu",
    ) -> None:
        self._paths, self._decode, self._of_one = paths, decode, shape
        self.shape = torch.Size((len(paths), *shape))
        self.device = torch.device(device)
        self._threads: ThreadPoolExecutor | None = None
        self._ahead: tuple[list[int], list[Future[np.ndarray]]] = ([], [])

    def __len__(self) -> int:
        return len(self._paths)

    def dim(self) -> int:
        return len(self.shape)

    def to(self, device: torch.device) -> OnDemand:
        return OnDemand(self._paths, self._decode, self._of_one, device)

    def subset(self, numbers: Tensor) -> OnDemand:
        """The images of these numbers, in their order, none of them decoded."""
        paths = [self._paths[number] for number in numbers.tolist()]
        return OnDemand(paths, self._decode, self._of_one, self.device)

    def ahead(self, numbers: Tensor) -> None:
        """Begin to decode what will be asked for next."""
        wanted = numbers.tolist()
        self._ahead = wanted, self._begun(wanted)

    def __getitem__(self, at: Tensor | slice) -> Tensor:
        if isinstance(at, slice):  # whoever takes slices goes through the images in order
            span = range(*at.indices(len(self)))
            wanted = list(span)
            following = list(range(span.stop, min(span.stop + len(span), len(self))))
        else:
            wanted, following = at.tolist(), []
        coming = self._ahead[1] if wanted == self._ahead[0] else self._begun(wanted)
        self._ahead = following, self._begun(following)
        # Pinned, so that the copy to a GPU waits for nothing that is queued there.
        pinned = self.device.type == "cuda"
        images = torch.empty((len(wanted), *self.shape[1:]), dtype=self.dtype, pin_memory=pinned)
        for number, image in enumerate(coming):
            images[number] = torch.from_numpy(image.result())
        return images.to(self.device, non_blocking=pinned)

    def _begun(self, wanted: Sequence[int]) -> list[Future[np.ndarray]]:
        if self._threads is None:
            self._threads = ThreadPoolExecutor()
        return [self._threads.submit(self._decode, self._paths[number]) for number in wanted]
