"""SAM of pytorch_optimizer (https://github.com/kozistr/pytorch_optimizer), Apache-2.0.

Its default loops over the parameters on a CPU; `foreach=True` hands all of them to one call.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import nn

from fsam_cli.measure.bench.peer_adapters._contract import Peer, Setting

DISTRIBUTION = "pytorch-optimizer"


def default(parameters: list[nn.Parameter], setting: Setting) -> Peer:
    return _sam(parameters, setting)


def foreach(parameters: list[nn.Parameter], setting: Setting) -> Peer:
    return _sam(parameters, setting, foreach=True)


def _sam(parameters: list[nn.Parameter], setting: Setting, **options: Any) -> Peer:
    from pytorch_optimizer import SAM

    peer: Peer = SAM(
        parameters,
        torch.optim.SGD,
        rho=setting.rho,
        lr=setting.lr,
        momentum=setting.momentum,
        weight_decay=setting.weight_decay,
        **options,
    )
    return peer


PROVIDES = {"pytorch_optimizer": default, "pytorch_optimizer foreach": foreach}
