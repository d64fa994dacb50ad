"""A device that is not the CPU, emulated: tensors that say so and keep their numbers on the CPU.

For torch it is "meta", the one kind of device of which autograd asks nothing. Code that looks at
the kind takes the branches that a GPU takes, what mixes devices fails as it does there, and what
makes the host wait is counted, or refused. Graphs are recorded operation by operation: a replay
runs no Python, so a number that Python held at the capture stays what it was, and what a graph
reads has to be alive still.

Not emulated: autocast, kernels, streams, memory that a graph uses for two things in turn.
"""

from __future__ import annotations

from collections import Counter
from contextlib import ExitStack, contextmanager, nullcontext

import torch
from torch import Tensor
from torch.overrides import TorchFunctionMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves, tree_map

from fsam_cli.engine import checkpoint
from fsam_cli.engine.batches import Batch

DEVICE = torch.device("meta")
CPU = torch.device("cpu")

aten = torch.ops.aten
_CONVERSIONS = {aten._to_copy.default, *(getattr(aten.to, kind) for kind in aten.to.overloads())}
_COPIES = {*_CONVERSIONS, aten.copy_.default}
_INDEXES = {aten.index.Tensor, aten.index_put_.default, aten._index_put_impl_.default}
_ASKS = {  # their result is, or its shape follows from, values
    aten._local_scalar_dense.default,
    aten.equal.default,
    aten.is_nonzero.default,
    aten.masked_select.default,
    aten.nonzero.default,
    aten._unique2.default,
}


class OnDevice(Tensor):
    """A tensor on the device."""

    @staticmethod
    def __new__(cls, inner):
        made = Tensor._make_wrapper_subclass(
            cls,
            inner.size(),
            strides=inner.stride(),
            storage_offset=inner.storage_offset(),
            dtype=inner.dtype,
            device=DEVICE,
        )
        made.inner = inner
        return made

    def data_ptr(self):
        return self.inner.data_ptr()

    def tolist(self):
        return self.cpu().tolist()

    @property
    def data(self):
        return OnDevice(self.inner)

    @data.setter
    def data(self, other):
        Tensor.data.__set__(self, other)
        self.inner = other.inner

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        raise AssertionError(f"{func} outside of `with Device()`")


class Device(TorchDispatchMode):
    """Switched on inside a `with`.

    Attributes:
        waits: what the host has waited for, by operation.
        patient: whether it may.
        tape: of a capture that is going on.
    """

    def __init__(self):
        super().__init__()
        self.waits, self.patient, self.tape = Counter(), True, None
        self._on = ExitStack()

    def __enter__(self):
        self._on.enter_context(_NewTensors())
        return super().__enter__()

    def __exit__(self, *error):
        super().__exit__(*error)
        self._on.close()

    @contextmanager
    def refusing_to_wait(self):
        self.patient = False
        try:
            yield
        finally:
            self.patient = True

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        tensors = _tensors((args, kwargs))
        to = None if kwargs.get("device") is None else torch.device(kwargs["device"])
        if to != DEVICE and not any(isinstance(each, OnDevice) for each in tensors):
            return func(*args, **kwargs)
        self._check(func, args, kwargs, tensors, to)
        if to is not None:
            kwargs["device"] = CPU
        args, kwargs = tree_map(_inner, (args, kwargs))
        with torch.inference_mode(False), torch.no_grad():
            found = func(*args, **kwargs)
            if func in _CONVERSIONS and found is args[0]:
                found = found.clone()
            if to == CPU:
                return found
            if self.tape is not None:
                self.tape.append((func, *tree_map(_alias, (args, kwargs, found))))
            here = {id(each.inner): each for each in tensors if isinstance(each, OnDevice)}
            return tree_map(lambda value: _outer(value, here), found)

    def _check(self, func, args, kwargs, tensors, to):
        if kwargs.get("generator") is not None:
            raise RuntimeError(f"{func}: a generator of the CPU fills a tensor of the device")
        elsewhere = [each for each in tensors if not isinstance(each, OnDevice)]
        if func in _COPIES:
            waits = (elsewhere or to == CPU) and not kwargs.get("non_blocking")
        elif func in _INDEXES:
            waits = any(_selects(each) for each in _tensors(args[1]))
        elif func is aten.repeat_interleave.Tensor:
            waits = kwargs.get("output_size") is None
        else:
            waits = func in _ASKS
            elementwise = torch.Tag.pointwise in func.tags  # takes numbers from anywhere
            if wrong := [tuple(e.shape) for e in elsewhere if e.dim() or not elementwise]:
                raise RuntimeError(f"{func}: tensors of the CPU, {wrong}, beside the device's")
        if waits:
            self._wait(func)

    def _wait(self, func):
        if self.tape is not None or not self.patient:
            raise RuntimeError(f"{func} waits for the device")
        self.waits[str(func)] += 1


class _NewTensors(TorchFunctionMode):
    """`torch.tensor` and the like fill a tensor before anything is dispatched."""

    def __torch_function__(self, func, types, args=(), kwargs=None):
        kwargs = dict(kwargs or {})
        if func in (torch.tensor, torch.as_tensor, torch.full) and kwargs.get("device") == DEVICE:
            return func(*args, **{**kwargs, "device": CPU}).to(DEVICE)
        return func(*args, **kwargs)


class Recorder:
    """What `engine.graph.CudaRecorder` is for CUDA."""

    def __init__(self, device):
        self._device = device
        self.captures = self.replays = 0

    def aside(self):
        return nullcontext()

    def refusing_to_wait(self):
        return self._device.refusing_to_wait()

    def record(self, function):
        self.captures += 1
        tape = self._device.tape = []
        try:
            results = function()
        finally:
            self._device.tape = None
        outside = _read_from_outside(tape)

        def replay():
            self.replays += 1
            for storage, uses in outside:
                assert _uses(storage) > uses, "the graph reads memory that nobody holds any more"
            for func, args, kwargs, found in tape:
                _again(func, args, kwargs, found)

        return replay, results


def _again(func, args, kwargs, found):
    """Run an operation of a tape; what it made then is written over."""
    given = {_place(each) for each in _tensors((args, kwargs))}
    for old, new in zip(_tensors(found), _tensors(func(*args, **kwargs)), strict=True):
        if _place(old) not in given:  # else it has been written, or is a view
            old.copy_(new)


def _read_from_outside(tape):
    """The memory that was there before the capture, with the number of uses that are the tape's."""
    made, outside, uses = set(), {}, Counter()
    for _, args, kwargs, found in tape:
        given = _tensors((args, kwargs))
        outside.update({_place(e): e.untyped_storage() for e in given if _place(e) not in made})
        made.update({_place(each) for each in _tensors(found)} - outside.keys())
        uses.update(_place(each) for each in (*given, *_tensors(found)))
    return [(storage, uses[place] + 1) for place, storage in outside.items()]


def _tensors(tree):
    return [each for each in tree_leaves(tree) if isinstance(each, Tensor)]


def _inner(value):
    return value.inner if isinstance(value, OnDevice) else value


def _outer(value, here):
    """On the device; an argument that was written is itself."""
    if not isinstance(value, Tensor):
        return value
    return here[id(value)] if id(value) in here else OnDevice(value)


def _alias(value):
    """A tensor of the tape's own, which keeps alive no tensor of the step."""
    return value.detach() if isinstance(value, Tensor) else value


def _place(tensor):
    return tensor.untyped_storage()._cdata


def _uses(storage):
    return torch._C._storage_Use_Count(storage._cdata)


def _selects(index):
    """Whether torch has to look at an index, or to fetch it."""
    return index.dtype in (torch.bool, torch.uint8) or not isinstance(index, OnDevice)


def emulated(monkeypatch):
    """A `Device`, with what torch and fsam do for known kinds of devices done for this one, too."""
    autocast, save = torch.autocast, checkpoint.save

    def regions(kind, *settings, enabled=True):
        if kind != DEVICE.type:
            return autocast(kind, *settings, enabled=enabled)
        assert not enabled, "autocast is not emulated"
        return nullcontext()

    monkeypatch.setattr(torch, "autocast", regions)
    monkeypatch.setattr(checkpoint, "save", lambda path, it: save(path, _on_cpu(it)))
    return Device()


def _on_cpu(content):
    """torch writes only its own kinds of tensors to files."""
    return tree_map(lambda each: each.to(CPU) if isinstance(each, Tensor) else each, content)


def sent(batch):
    """A batch on the device."""
    return Batch(*(each.to(DEVICE) for each in (batch.images, batch.labels, batch.corrupted)))
