"""Weights of a file laid into a freshly drawn network: where a fine-tuning begins.

The file holds what `torch.save` made of a state dictionary, bare or under `weights` (as fsam keeps
them), `model` (DeiT's) or `state_dict`; or it is a safetensors file. Everything but the classifier,
the network's last linear layer, must be there and fit. A classifier for other classes, or none,
leaves the one that the run's seed drew.
"""

from __future__ import annotations

import hashlib
import io
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from fsam_cli.errors import DataError, in_a_line
from fsam_cli.recipe.initial import InitialWeights

_INSIDE = ("weights", "model", "state_dict")
_SHOWN = 3  # names in a message


def load_initial(model: nn.Module, initial: InitialWeights) -> tuple[str, ...]:
    """Lay the file's tensors into the model.

    Returns:
        The names of the tensors that stay as they were drawn: the classifier's, or none.

    Raises:
        DataError: the file changed since it was planned with, is none of these forms, or is not
            of this network.
    """
    found = _state_dictionary(initial)
    mine = model.state_dict()
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    classifier = tuple(f"{name}." for name in linear[-1:])  # the last one, if there is any
    drawn = [name for name in mine if name not in found or found[name].shape != mine[name].shape]
    # What counts batches is in no file from before torch did, and changes nothing here.
    missing = [name for name in drawn if not name.endswith("num_batches_tracked")]
    strangers = [name for name in found if name not in mine]
    wrong = [name for name in (*missing, *strangers) if not name.startswith(classifier)]
    if wrong:
        what = ", ".join(_told(name, mine, found) for name in wrong[:_SHOWN])
        more = f" and {len(wrong) - _SHOWN} more" if len(wrong) > _SHOWN else ""
        raise DataError(
            f"model.init_from: {initial.path} is not of this network: {what}{more}; name the file "
            "of the same architecture and image size"
        )
    with torch.no_grad():
        for name, tensor in mine.items():
            if name not in drawn:
                tensor.copy_(found[name])
    return tuple(missing)


def _told(name: str, mine: Mapping[str, Tensor], found: Mapping[str, Tensor]) -> str:
    if name not in found:
        return f"no {name}"
    if name not in mine:
        return f"{name}, which the network has not"
    return f"{name} of shape {tuple(found[name].shape)} instead of {tuple(mine[name].shape)}"


def _state_dictionary(initial: InitialWeights) -> dict[str, Tensor]:
    path = initial.path
    try:
        content = path.read_bytes()
    except OSError as error:
        raise DataError(f"model.init_from: cannot read {path} ({error.strerror})") from None
    if hashlib.sha256(content).hexdigest()[:16] != initial.digest:
        raise DataError(
            f"model.init_from: {path} changed while the command ran; runs were planned with other "
            "weights. Give the command again"
        )
    reader = _safetensors if path.suffix == ".safetensors" else _torch
    read = unwrapped(reader(content, path))
    if not isinstance(read, dict) or not all(isinstance(each, Tensor) for each in read.values()):
        raise DataError(
            f"model.init_from: {path} holds no state dictionary; save one with "
            "torch.save(network.state_dict(), FILE)"
        )
    return read


def unwrapped(content: Any) -> Any:
    """The state dictionary in what a file holds, if it stands under one of the usual keys."""
    for key in _INSIDE:
        if isinstance(content, dict) and isinstance(content.get(key), dict):
            return content[key]
    return content


def _torch(content: bytes, path: Path) -> Any:
    try:
        return torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
    except Exception as error:  # the unpickler of other files raises whatever it stumbles over
        raise DataError(
            f"model.init_from: {path} is damaged, or holds more than weights "
            f"({type(error).__name__}); save the state dictionary alone: "
            "torch.save(network.state_dict(), FILE)"
        ) from None


def _safetensors(content: bytes, path: Path) -> Any:
    try:
        from safetensors.torch import load
    except ImportError:
        raise DataError(
            f"model.init_from: {path} needs the package safetensors: pip install 'fsam-cli[timm]'"
        ) from None
    try:
        return load(content)
    except Exception as error:  # its errors are of its own
        raise DataError(f"model.init_from: {path} is damaged ({in_a_line(error)[:200]})") from None
