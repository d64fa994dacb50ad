"""What each parameter of a network is: the weights that methods treat differently."""

from __future__ import annotations

from torch import Tensor, nn

from fsam_cli.errors import UsageError
from fsam_cli.minimisers._contract import Kind

_NORM_LAYERS = (
    nn.modules.batchnorm._NormBase,
    nn.GroupNorm,
    nn.LayerNorm,
    nn.RMSNorm,
)


def kinds_by_name(model: nn.Module, *, frozen: bool = False) -> dict[str, Kind]:
    """The kind of every trainable parameter by its name, of the frozen ones too if asked for."""
    kinds: dict[str, Kind] = {}
    for prefix, module in model.named_modules():
        norm = _normalises(module)
        for name, parameter in module.named_parameters(recurse=False):
            full = f"{prefix}.{name}" if prefix else name
            if frozen or parameter.requires_grad:
                kinds[full] = _kind(full, norm=norm)
    # named_parameters() drops repetitions: a shared parameter counts once, by its first name.
    return {name: kinds[name] for name, _ in model.named_parameters() if name in kinds}


def refuse_complex(name: str, parameter: Tensor) -> None:
    """Raise UsageError for a complex parameter, whose g·g is no squared length."""
    if parameter.is_complex():
        raise UsageError(
            f"'{name}' is complex, and eps is defined for real weights; keep real and imaginary "
            "part as two parameters, or freeze it"
        )


def _normalises(module: nn.Module) -> bool:
    """Whether it is a normalisation layer: one of torch's, or what is named so and has a gain for
    each channel, as timm's RmsNorm."""
    gain = module._parameters.get("weight")
    named = "norm" in type(module).__name__.lower() and gain is not None and gain.dim() == 1
    return named or isinstance(module, _NORM_LAYERS)


def _kind(name: str, *, norm: bool) -> Kind:
    if "weight" in name:
        return "norm_weight" if norm else "weight"
    return "norm_bias" if norm else "bias"
