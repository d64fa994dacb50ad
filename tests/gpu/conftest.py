"""How every test on a CUDA device computes."""

from __future__ import annotations

import pytest
import torch


@pytest.fixture(autouse=True)
def plain_arithmetic():
    """Steps that are to be equal are compared without TF32, and with kernels that add up in one
    order; training has neither."""
    cudnn = torch.backends.cudnn
    before = cudnn.benchmark, cudnn.deterministic, cudnn.conv.fp32_precision
    cudnn.benchmark, cudnn.deterministic, cudnn.conv.fp32_precision = False, True, "ieee"
    yield
    cudnn.benchmark, cudnn.deterministic, cudnn.conv.fp32_precision = before
