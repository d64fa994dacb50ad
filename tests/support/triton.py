"""What Inductor would run on an H200, without one: its Triton kernels, compiled to machine code.

Tensors are fake (they have a device, and no memory), and what Inductor asks of the device is
answered here. Nothing runs: that the kernels exist, what they read and whether they fit the
registers is known, their numbers and their speed are not.
"""

from __future__ import annotations

import importlib.util
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from unittest import mock

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_unflatten

H200 = SimpleNamespace(
    name="NVIDIA H200",
    major=9,
    minor=0,
    multi_processor_count=132,
    regs_per_multiprocessor=65536,
    max_threads_per_multi_processor=2048,
    max_threads_per_block=1024,
    warp_size=32,
    total_memory=141 << 30,
    L2_cache_size=50 << 20,
    gcnArchName="",
)
_KERNEL = re.compile(r"async_compile\.triton\('(\w+)', '''(.*?)'''", re.DOTALL)
_LAUNCH = re.compile(r"\b(\w+)\.run\(|\b(extern_kernels\.\w+|torch\.ops\.[\w.]+)\(")


@dataclass(frozen=True)
class Kernel:
    """One Triton kernel in one of the shapes that Inductor would try."""

    name: str
    loads: int
    stores: int
    registers: int  # of a thread
    spilled: int  # bytes of a thread that found no register


@dataclass(frozen=True)
class Generated:
    """What one call of a compiled function runs."""

    launches: list[str]  # names, in order; of other kernels than Triton's, too
    kernels: list[Kernel]


class _Written(Exception):
    """The code has been written; nothing is to be loaded."""


class Generator:
    """Writes and compiles functions for the device; `calls` has an entry for every call of one."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self.calls: list[Generated] = []

    def compile(self, function):
        """In the place of `torch.compile`: generates code at each call, and computes nothing."""

        def generate(*arguments):
            flat, shape = tree_flatten(arguments)
            tensors = [each for each in flat if isinstance(each, torch.Tensor)]

            def of_tensors(*given):
                left = iter(given)
                whole = [next(left) if isinstance(e, torch.Tensor) else e for e in flat]
                return function(*tree_unflatten(whole, shape))

            self.calls.append(self._generated(make_fx(of_tensors)(*tensors), tensors))
            return function(*arguments)

        return generate

    def _generated(self, graph, tensors) -> Generated:
        from torch._inductor.compile_fx import compile_fx
        from torch._inductor.graph import GraphLowering

        written: list[str] = []

        def keep(lowering):
            code, _ = lowering.codegen()
            written.append(code.value)
            raise _Written

        with mock.patch.object(GraphLowering, "compile_to_module", keep):
            try:
                compile_fx(graph, tensors)
            except Exception as error:
                if "_Written" not in repr(error):  # which torch puts into an error of its own
                    raise
        (source,) = written
        body = source.split("def call(self, args)")[1].split("runner = Runner")[0]
        return Generated(
            [triton or other for triton, other in _LAUNCH.findall(body)],
            [each for found in _KERNEL.findall(source) for each in self._compiled(*found)],
        )

    def _compiled(self, name: str, source: str) -> Iterator[Kernel]:
        import triton
        from triton.compiler import ASTSource

        path = self._folder / f"{name}_of_call_{len(self.calls)}.py"
        path.write_text(source.replace("triton_helpers.set_driver_to_gpu()", ""))
        spec = importlib.util.spec_from_file_location(path.stem, path)
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        tuner = getattr(module, name)
        names, meta = tuner.fn.arg_names, tuner.triton_meta
        for config in tuner.configs:
            constants = {**meta["constants"], **config.kwargs}
            compiled = triton.compile(
                ASTSource(
                    fn=tuner.fn,
                    signature={**meta["signature"], **dict.fromkeys(constants, "constexpr")},
                    constexprs={(names.index(key),): at for key, at in constants.items()},
                    attrs=meta["configs"][0],
                ),
                target=_target(),
                options={"num_warps": config.num_warps, "num_stages": config.num_stages},
            )
            used = _resources(compiled.asm["cubin"], path.with_suffix(".cubin"))
            yield Kernel(
                name,
                source.count("tl.load("),
                source.count("tl.store("),
                used["REG"],
                used["LOCAL"],
            )


def _target():
    from triton.backends.compiler import GPUTarget

    return GPUTarget("cuda", 90, 32)


def _resources(cubin: bytes, path: Path) -> dict[str, int]:
    """What the machine code takes, by the tool that comes with Triton."""
    import triton.backends.nvidia

    path.write_bytes(cubin)
    tool = Path(triton.backends.nvidia.__file__).parent / "bin" / "cuobjdump"
    told = subprocess.run(
        [tool, "-res-usage", path], capture_output=True, text=True, check=True, timeout=60
    )
    return {key: int(value) for key, value in re.findall(r"(\w+):(\d+)", told.stdout)}


@contextmanager
def pretended_h200(folder: Path) -> Iterator[Generator]:
    """Inside, tensors can be made on "cuda", and Inductor believes that there is an H200."""
    import torch._inductor.config as settings
    from torch._dynamo.device_interface import CudaInterface
    from triton.runtime import driver as triton_driver

    driver = SimpleNamespace(
        get_current_target=_target,
        get_current_device=lambda: 0,
        get_active_torch_device=lambda: torch.device("cuda", 0),
    )
    answers = {"get_device_properties": H200, "get_compute_capability": 90, "current_device": 0}
    with ExitStack() as stack:
        kept = {
            "TORCHINDUCTOR_CACHE_DIR": str(folder / "inductor"),
            "TRITON_CACHE_DIR": str(folder),
        }
        stack.enter_context(mock.patch.dict(os.environ, kept))
        for name, answer in answers.items():
            told = staticmethod(lambda *_, answer=answer, **__: answer)
            stack.enter_context(mock.patch.object(CudaInterface, name, told))
            if hasattr(CudaInterface.Worker, name):
                stack.enter_context(mock.patch.object(CudaInterface.Worker, name, told))
        stack.enter_context(
            mock.patch.object(CudaInterface, "is_available", staticmethod(lambda: True))
        )
        stack.enter_context(mock.patch.object(torch.cuda, "get_device_properties", lambda *_: H200))
        stack.enter_context(
            mock.patch.object(torch.cuda, "get_device_capability", lambda *_: (9, 0))
        )
        stack.enter_context(mock.patch.object(torch.cuda, "current_device", lambda: 0))
        stack.enter_context(mock.patch.object(triton_driver, "_active", driver))
        stack.enter_context(
            settings.patch(
                compile_threads=1,
                force_disable_caches=True,
                joint_graph_constant_folding=False,  # would make tensors on the device
            )
        )
        stack.enter_context(FakeTensorMode())
        yield Generator(folder)
