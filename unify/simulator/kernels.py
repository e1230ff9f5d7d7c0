"""Triton's own kernels in a program on simulated chips: unify compiles and launches them, as `unify.jit` would.

The vendor's compiler lowers them, and what it made is emulated; tensors of torch_npu are taken where they lie, on its
current stream.
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

from triton.backends.compiler import GPUTarget
from triton.backends.driver import DriverBase
from triton.runtime import driver
from triton.runtime.autotuner import Autotuner, Heuristics
from triton.runtime.jit import JITFunction

import unify

_ATTRIBUTE = "_unify_kernel"  # of what triton.jit, autotune or heuristics made


@functools.cache
def install() -> None:
    """From now on kernels of triton.jit, triton.autotune and triton.heuristics are launched by unify."""
    driver.set_active(SimulatedDriver())
    for made in (JITFunction, Autotuner, Heuristics):
        made.run = functools.wraps(made.run)(_run)
        made.__getitem__ = functools.wraps(made.__getitem__)(_launcher)


def _kernel(made: Any) -> Any:
    kernel = made.__dict__.get(_ATTRIBUTE)
    return made.__dict__.setdefault(_ATTRIBUTE, unify.jit(made)) if kernel is None else kernel


def _launcher(made: Any, grid: Any) -> Callable[..., None]:
    return _kernel(made)[grid]  # type: ignore[no-any-return]


def _run(made: Any, *args: Any, grid: Any, warmup: bool = False, **kwargs: Any) -> None:
    if warmup:
        raise NotImplementedError("warmup of a kernel compiles for no launch, which unify does not: launch it instead.")
    _kernel(made)[grid](*args, **kwargs)


class _Utilities:
    """What programs ask a driver of Ascend for."""

    def get_device_properties(self, device: int) -> dict[str, int]:
        """The cores, under the names of triton-ascend's driver."""
        told = _npu().get_device_properties(device)
        return {"num_aicore": told.cube_core_num, "num_vectorcore": told.vector_core_num, "max_shared_mem": 192 << 10}


class SimulatedDriver(DriverBase):  # type: ignore[misc, unused-ignore]
    """Triton's device as a program finds it on a chip: torch_npu's current one."""

    def __init__(self) -> None:
        super().__init__()
        self.utils = _Utilities()

    @staticmethod
    def is_active() -> bool:
        """It is set active, not looked for."""
        return True

    def get_current_target(self) -> GPUTarget:
        """As triton-ascend names it."""
        return GPUTarget("npu", _npu().get_device_name(_npu().current_device()), 0)

    def get_current_device(self) -> int:
        """torch_npu's."""
        return int(_npu().current_device())

    def set_current_device(self, device: int) -> None:
        """torch_npu's."""
        _npu().set_device(device)

    def get_current_stream(self, device: int | None = None) -> int:
        """The vendor's handle of torch_npu's current stream."""
        return int(_npu().current_stream(device).npu_stream)

    def get_active_torch_device(self) -> Any:
        """Where programs make their tensors."""
        import torch

        return torch.device("npu", self.get_current_device())

    def get_device_interface(self) -> Any:
        """What triton.testing needs of torch.npu."""
        return _npu()

    def map_python_to_cpp_type(self, ty: str) -> str:
        """Raises NotImplementedError."""
        raise NotImplementedError(f"a launcher in C++ ({ty}): unify launches the kernels of this program.")

    def get_benchmarker(self) -> Callable[..., Any]:
        """Triton's own; its times are this machine's."""
        from triton.testing import do_bench

        return do_bench  # type: ignore[no-any-return, unused-ignore]

    def get_empty_cache_for_benchmark(self) -> Any:
        """As much as triton-ascend clears between measurements."""
        import torch

        return torch.empty(192 << 18, dtype=torch.int, device="npu")

    def clear_cache(self, cache: Any) -> None:
        """Writes all of it."""
        cache.zero_()


def _npu() -> Any:
    import torch

    return torch.npu
