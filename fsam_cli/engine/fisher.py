"""The diagonal Fisher information from one gradient per image (eqs. 7 and 11 of the paper).

    empirical    f = mean_i (∇ log p(y_i | x_i))²
    model        f = mean_i E_y~p(y|x_i) (∇ log p(y | x_i))², y drawn, or summed over all classes

Log p is plain cross-entropy, whatever label smoothing the loss has.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor, nn
from torch.func import functional_call, grad, vmap
from torch.nn import functional as F

from fsam_cli.engine.buffers import running_statistics_frozen
from fsam_cli.errors import UsageError, in_a_line

CHUNK = 32  # images whose gradients are held at once

# Labels of all images, and the share of each; None where every share is 1.
Labelled = list[tuple[Tensor, Tensor | None]]


def refuse_batch_statistics(model: nn.Module) -> None:
    """Raise UsageError where one image's output depends on the others of its batch, or the
    gradients of single images cannot be taken side by side."""
    for name, module in model.named_modules():
        if isinstance(module, nn.modules.instancenorm._InstanceNorm):
            if module.track_running_stats and module.training:
                raise UsageError(
                    f"one gradient per image was asked for, and '{name}' ({type(module).__name__}) "
                    "keeps running statistics, which many single images cannot move at once; "
                    "build it with track_running_stats=False, or use fisher: gradient_magnitude"
                )
        elif isinstance(module, nn.modules.batchnorm._NormBase) and module.training:
            raise UsageError(
                f"one gradient per image was asked for, and '{name}' ({type(module).__name__}) "
                "mixes the images of a batch; use a network without batch statistics "
                "(model.norm: group), or fisher: gradient_magnitude"
            )


def fisher_diagonal(
    model: nn.Module,
    images: Tensor,
    labels: Tensor,
    *,
    source: Literal["empirical", "model"],
    draws: int | Literal["all"],
    generator: torch.Generator,
) -> dict[str, Tensor]:
    """f by parameter name, each in its parameter's shape.

    Args:
        model: in training mode, without batch statistics.
        images: (batch, channels, height, width).
        labels: (batch,) the given labels, for `empirical`; class numbers, not mixtures.
        source: which Fisher information.
        draws: labels drawn per image for `model`, or `all` for the exact expectation.
        generator: on the CPU, for the drawn labels.

    Raises:
        UsageError: batch normalisation in training mode, soft labels, or buffers that the network
            writes in place.
    """
    refuse_batch_statistics(model)
    if labels.dim() != 1 or labels.is_floating_point():
        raise UsageError("the Fisher information needs class labels; mixed or soft ones have none")
    labels = labels.long()
    weights = {
        name: parameter.detach()
        for name, parameter in model.named_parameters()
        if parameter.requires_grad
    }
    buffers = {name: buffer.detach() for name, buffer in model.named_buffers()}

    def log_likelihood(values: dict[str, Tensor], image: Tensor, label: Tensor) -> Tensor:
        # Copies, for layers whose buffers move with every pass: those of the network stay.
        passing = {name: buffer.clone() for name, buffer in buffers.items()}
        logits = functional_call(model, {**values, **passing}, (image.unsqueeze(0),))
        return -F.cross_entropy(logits.float(), label.unsqueeze(0))

    gradients = vmap(grad(log_likelihood), in_dims=(None, 0, 0), randomness="different")
    labelled: Labelled = [(labels, None)]
    if source == "model":
        labelled = _by_prediction(model, images, draws, generator)
    try:
        return _mean_square(gradients, weights, images, labelled)
    except RuntimeError as error:
        _refuse_written_buffers(model, images[:1], error)
        raise


def _refuse_written_buffers(model: nn.Module, image: Tensor, error: RuntimeError) -> None:
    """Raise UsageError for a network that writes into a buffer what one image says, if it does."""
    if isinstance(error, torch.OutOfMemoryError):
        return
    passing = {name: buffer.clone() for name, buffer in model.named_buffers()}
    with torch.no_grad():
        functional_call(model, passing, (image,))
    if written := [name for name, buffer in passing.items() if buffer._version]:
        raise UsageError(
            "one gradient per image was asked for, and the network writes into "
            f"{', '.join(written)} in every pass, which single images side by side cannot "
            f"({in_a_line(error)[:200]}); put a new tensor in the buffer's place, or use fisher: "
            "gradient_magnitude"
        ) from error


def _by_prediction(
    model: nn.Module, images: Tensor, draws: int | Literal["all"], generator: torch.Generator
) -> Labelled:
    """Labels as the network's own prediction gives them, with their shares."""
    with torch.no_grad(), running_statistics_frozen(list(model.modules())):
        probabilities = model(images).float().softmax(dim=1)  # (batch, classes)
    if draws == "all":
        return [
            (torch.full((len(images),), c, device=images.device), probabilities[:, c])
            for c in range(probabilities.shape[1])
        ]
    # Where the prediction is NaN the loss and g are too, and the step ends as any such: whatever
    # is drawn there, nothing is stepped along. torch would refuse to draw.
    probabilities = torch.where(probabilities.isfinite(), probabilities, 1.0).cpu()
    drawn = torch.multinomial(probabilities, draws, replacement=True, generator=generator)
    share = torch.full((len(images),), 1 / draws, device=images.device)
    return [(labels, share) for labels in drawn.to(images.device).unbind(dim=1)]


def _mean_square(
    gradients: Callable[..., dict[str, Tensor]],
    weights: dict[str, Tensor],
    images: Tensor,
    labelled: Labelled,
) -> dict[str, Tensor]:
    """mean_i sum_y share_i(y) (∇ log p(y | x_i))², a few images at a time."""
    total = {name: torch.zeros_like(weight) for name, weight in weights.items()}
    for labels, shares in labelled:
        for start in range(0, len(images), CHUNK):
            at = slice(start, start + CHUNK)
            per_image = gradients(weights, images[at], labels[at])  # (chunk, *shape) each
            for name, g in per_image.items():
                square = g.square()
                if shares is not None:
                    square *= shares[at].reshape(-1, *[1] * (g.dim() - 1))
                total[name] += square.sum(dim=0)
    return {name: f / len(images) for name, f in total.items()}
