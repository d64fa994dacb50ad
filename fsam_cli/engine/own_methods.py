"""The paper's methods and the control, each as an optimiser of one's own loop."""

from __future__ import annotations

from typing import Any, Literal, TypeVar

import torch
from torch import nn

from fsam_cli.engine.own_loop import SharpnessAware
from fsam_cli.errors import UsageError
from fsam_cli.minimisers._contract import Minimiser
from fsam_cli.minimisers.asam import Asam
from fsam_cli.minimisers.fsam import FisherSam
from fsam_cli.minimisers.sam import Sam
from fsam_cli.minimisers.sam_matched import SamMatched
from fsam_cli.recipe.problems import problems_of

M = TypeVar("M", bound=Minimiser)


class SAM(SharpnessAware):
    """Sharpness-aware minimisation: eps = ρ g / ‖g‖ (Foret et al. 2021)."""

    def __init__(
        self, model: nn.Module, base_optimizer: torch.optim.Optimizer, rho: float = 0.05
    ) -> None:
        super().__init__(model, base_optimizer, _checked(Sam, rho=float(rho)))


class ASAM(SharpnessAware):
    """Adaptive SAM: eps = ρ T²g / ‖Tg‖, T = |w| + η (Kwon et al. 2021)."""

    def __init__(
        self,
        model: nn.Module,
        base_optimizer: torch.optim.Optimizer,
        rho: float = 0.5,
        *,
        eta: float = 0.01,
        scope: Literal["weights", "all"] = "weights",
    ) -> None:
        method = _checked(Asam, rho=float(rho), eta=float(eta), scope=scope)
        super().__init__(model, base_optimizer, method)


class FisherSAM(SharpnessAware):
    """Fisher SAM: eps = γ F⁻¹g / sqrt(gᵀF⁻¹g) (Kim et al. 2022).

    Further settings are the recipe's: `fisher`, `inverse`, `labels`.
    """

    def __init__(
        self,
        model: nn.Module,
        base_optimizer: torch.optim.Optimizer,
        gamma: float = 0.1,
        eta: float = 1.0,
        **settings: Any,
    ) -> None:
        method = _checked(FisherSam, gamma=float(gamma), eta=float(eta), **settings)
        super().__init__(model, base_optimizer, method)


class LengthMatchedSAM(SharpnessAware):
    """SAM's direction with the Euclidean length Fisher SAM would take: the control."""

    def __init__(
        self,
        model: nn.Module,
        base_optimizer: torch.optim.Optimizer,
        gamma: float = 0.1,
        eta: float = 1.0,
        **settings: Any,
    ) -> None:
        method = _checked(SamMatched, gamma=float(gamma), eta=float(eta), **settings)
        super().__init__(model, base_optimizer, method)


def _checked(method: type[M], **settings: Any) -> M:
    """A method with these settings.

    Raises:
        UsageError: a setting that it refuses.
    """
    made, problems = problems_of(method, settings)
    if made is None:
        raise UsageError("\n".join(map(str, problems)))
    return made
