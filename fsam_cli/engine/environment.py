"""What a run ran on: recorded with it, and compared when it is continued."""

from __future__ import annotations

import os
import platform
from importlib.metadata import version
from pathlib import Path

import numpy
import torch

import fsam_cli


def environment(device: torch.device) -> dict[str, str]:
    """Versions and hardware, flat and printable."""
    cpu, gpu = _cpu_name(), {}
    if device.type == "cuda":  # torch's default there: convolutions of float32 in TF32
        gpu["float32_convolutions"] = torch.backends.cudnn.conv.fp32_precision  # type: ignore[attr-defined]
    return {
        "fsam": fsam_cli.__version__,
        "python": platform.python_version(),
        "torch": str(torch.__version__),  # its own type would not load as plain data
        "torchvision": version("torchvision"),  # importing it takes a second
        "numpy": numpy.__version__,
        "platform": platform.platform(),
        "device": device.type,
        "device_name": torch.cuda.get_device_name(device) if gpu else cpu,
        "cpu": cpu,
        "cpu_capability": torch.backends.cpu.get_cpu_capability(),
        **gpu,
    }


def enable_cudnn_benchmark(device: torch.device) -> None:
    """Let cuDNN time its algorithms at the first batch of a size: in a training all but the last
    have one size. Another process may find another the fastest, so numbers of a GPU agree within
    tolerance, as they do anyway."""
    if device.type == "cuda":
        torch.backends.cudnn.benchmark = True


def cores() -> int:
    """Processors that this process may use."""
    here = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return here or 1


def _cpu_name() -> str:
    try:
        for line in Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines():
            if line.startswith("model name"):
                return line.partition(":")[2].strip()
    except OSError:
        pass
    return platform.processor() or platform.machine()
