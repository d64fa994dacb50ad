"""Reading the pickles that CIFAR comes in, without letting a pickle run anything.

Unpickling calls whatever the file names. A CIFAR file, be it the published one (written by
Python 2) or one written by today's numpy in any protocol, names few things: the array type, the
function that makes an empty array (or, in protocol 5, one of given bytes), the dtype, and what
carries bytes in protocol 2. Here stand-ins answer to numpy's names: they can only become an array
of bytes. The real ones would not do, for a file may set the flags of a real dtype so that its bytes
are taken for pointers. Any other name ends the reading.
"""

from __future__ import annotations

import _codecs
import io
import pickle
from typing import Any

import numpy as np

from fsam_cli.errors import DataError


class _StandIn:
    """Answers to a name that a pickle asks for."""

    def __setstate__(self, state: Any) -> None:
        """Being defined is what matters: without it a pickle could set attributes of the class."""
        raise pickle.UnpicklingError("something other than an array is given a content")


class _ArrayType(_StandIn):
    """Answers to `numpy.ndarray`, which a pickle only hands on to `_reconstruct`."""


class _ByteType(_StandIn):
    """Answers to `numpy.dtype`, for the one dtype that pixels have."""

    def __init__(self, spec: Any, *_flags: Any) -> None:
        if spec not in ("u1", "|u1", "uint8"):
            raise pickle.UnpicklingError(f"an array of dtype {spec!r} where uint8 is expected")

    def __setstate__(self, state: Any) -> None:
        """Byte order, alignment, fields: nothing that single bytes have."""


class _ByteArray(_StandIn):
    """Answers to `_reconstruct`: made empty, then given its content by `__setstate__`."""

    def __init__(self, *_form: Any) -> None:
        self.values = np.empty(0, dtype=np.uint8)

    def __setstate__(self, state: Any) -> None:
        _version, shape, kind, by_columns, content = state
        # Python 2 had one type for text and bytes; `encoding="latin1"` below made text of it.
        raw = bytearray(content, "latin1") if isinstance(content, str) else content
        self._fill(raw, kind, shape, "F" if by_columns else "C")

    def _fill(self, content: Any, kind: Any, shape: Any, order: Any) -> None:
        if not isinstance(kind, _ByteType) or not isinstance(content, bytes | bytearray):
            raise pickle.UnpicklingError("an array that is not made of bytes")
        if order not in ("C", "F"):
            raise pickle.UnpicklingError(f"an array in the order {order!r}, neither C nor F")
        raw = content if isinstance(content, bytearray) else bytearray(content)  # can be written to
        self.values = np.frombuffer(raw, dtype=np.uint8).reshape(shape, order=order)


class _FilledArray(_ByteArray):
    """Answers to `_frombuffer` of protocol 5: made with its content."""

    def __init__(self, content: Any, kind: Any, shape: Any, order: Any) -> None:
        self._fill(content, kind, shape, order)


class _NoBytes(_StandIn):
    """Answers to `bytes`, called without anything for the content of an empty array."""

    def __new__(cls) -> Any:
        return b""


ALLOWED: dict[tuple[str, str], Any] = {
    ("numpy", "ndarray"): _ArrayType,
    ("numpy", "dtype"): _ByteType,
    ("numpy.core.multiarray", "_reconstruct"): _ByteArray,  # numpy 1
    ("numpy._core.multiarray", "_reconstruct"): _ByteArray,  # numpy 2
    ("numpy.core.numeric", "_frombuffer"): _FilledArray,
    ("numpy._core.numeric", "_frombuffer"): _FilledArray,
    ("_codecs", "encode"): _codecs.encode,
    ("__builtin__", "bytes"): _NoBytes,
}


class _Forbidden(Exception):
    """The pickle names something that no CIFAR file needs."""


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in ALLOWED:
            raise _Forbidden(f"{module}.{name}")
        return ALLOWED[module, name]


def unpickled(content: bytes, where: str) -> dict[str, Any]:
    """The dictionary in the content of a CIFAR file, its arrays as numpy's.

    Raises:
        DataError: not a pickle, not a dictionary, or one that names something else to call.
    """
    try:
        # latin1 maps the byte strings of Python 2 onto characters one to one.
        found = _Unpickler(io.BytesIO(content), encoding="latin1").load()
    except _Forbidden as error:
        raise DataError(
            f"{where} is not a CIFAR file: it asks for {error}, which none needs; "
            "do not trust it, fetch the official one"
        ) from None
    except Exception as error:  # a mangled pickle can raise anything at all
        raise DataError(
            f"{where} is damaged or no CIFAR file ({type(error).__name__}: {error}); fetch it again"
        ) from None
    if not isinstance(found, dict):
        raise DataError(
            f"{where} is not a CIFAR file: it does not hold a dictionary but a "
            f"{type(found).__name__}; fetch the official one"
        )
    return {
        key: entry.values if isinstance(entry, _ByteArray) else entry
        for key, entry in found.items()
    }
