"""What the questions about GPUs share: peers that may be missing, and how the host's and the device's time are read."""

from __future__ import annotations

import contextlib
import functools
import importlib
import time
from collections.abc import Callable
from typing import Any

import unify as un
from unify.bench import Side
from unify.errors import UnsupportedError

# The driver queues 1,024 launches; beyond that a launch waits for the device, and its time is not the host's.
MOST_QUEUED = 500


def torch_cuda() -> Any:
    """Returns torch, or the reason for which it is no peer."""
    torch = _module("torch")
    if not torch.cuda.is_available():
        raise UnsupportedError(f"torch {torch.__version__} sees no CUDA device")
    torch.set_grad_enabled(False)
    return torch


def cupy_cuda() -> Any:
    """Returns CuPy, or the reason for which it is no peer."""
    cupy = _module("cupy")
    try:
        count = cupy.cuda.runtime.getDeviceCount()
    except Exception as error:
        raise UnsupportedError(f"CuPy finds no CUDA device: {error}") from None
    if count == 0:
        raise UnsupportedError("CuPy finds no CUDA device")
    return cupy


def cuda_core() -> Any:
    """Returns cuda.core by the name that its version has, or the reason for which it is no peer."""
    try:
        core = _module("cuda.core")
    except UnsupportedError:
        raise UnsupportedError("cuda.core is not installed (pip install cuda-core)") from None
    return core if hasattr(core, "launch") else _module("cuda.core.experimental")


def _module(name: str) -> Any:
    try:
        return importlib.import_module(name)
    except Exception as error:  # a package that is there may still not load: a library of CUDA's that it misses
        raise UnsupportedError(f"{name} cannot be imported: {error}") from None


def host_side(step: Callable[[], object], finish: Callable[[], object], **more: Any) -> Side:
    """A side whose cost is the host's time of a call; the device is waited for between, untimed."""

    def cost(calls: int) -> float:
        clock, total, left = time.perf_counter, 0.0, calls
        for _ in range(20):
            step()
        finish()
        while left:
            count = min(left, MOST_QUEUED)
            start = clock()
            for _ in range(count):
                step()
            total += clock() - start
            finish()
            left -= count
        return total / calls

    return Side(step=step, finish=finish, cost=cost, **more)


def device_side(step: Callable[[], object], device: Any, stream: Any, **more: Any) -> Side:
    """A side whose cost is the device's time of a call, by events around it, the second-level cache flushed before.

    stream: unify's, on which `step` works, or one of another library taken over. The flush also hides the launch.
    """
    flush = _flush_buffer(device)

    def cost(calls: int) -> float:
        events = [(un.event(device, timing=True), un.event(device, timing=True)) for _ in range(calls)]
        for start, end in events:
            flush.fill_(0, stream=stream)
            start.record(stream)
            step()
            end.record(stream)
        stream.synchronize()
        return sum(start.elapsed_ms(end) for start, end in events) / calls / 1e3

    return Side(step=step, finish=stream.synchronize, cost=cost, **more)


@functools.cache
def _flush_buffer(device: Any) -> Any:
    bytes = max(1 << 20, 2 * int(device.properties.get("cache_bytes", 0)))
    return un.empty(bytes // 4, un.int32, device=device)


def on_torch_stream(torch: Any, device: Any) -> Any:
    """Torch's current stream, as unify's."""
    return un.Stream.from_native(torch.cuda.current_stream(device.index).cuda_stream, device)


def driver_library(device: Any) -> str:
    """The library that the C++ loops open: CUDA's, or the simulated one."""
    if not device.properties.get("simulated"):
        return "libcuda.so.1"
    with contextlib.suppress(ImportError):
        from unify.simulator.cuda import library_path

        return str(library_path())
    raise UnsupportedError("the simulated driver was not built")


@functools.cache
def driver(device: Any) -> Any:
    """The C++ loops on this device."""
    from gpu_driver import Driver

    return Driver(device.index, driver_library(device))
