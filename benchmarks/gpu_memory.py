"""What do an allocation and a copy cost on a GPU, against torch, CuPy, and the driver's own copy in a C++ loop?"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from gpu_common import cupy_cuda, driver, host_side, torch_cuda

import unify as un
from unify.bench import Case, Setup, Side
from unify.bench.case import GIGABYTES_A_SECOND, MICROSECONDS

KIB, MIB = 1 << 10, 1 << 20
SIZES = {"1k": KIB, "64k": 64 * KIB, "1m": MIB, "64m": 64 * MIB}
COPY_BYTES = 256 * MIB
WAYS = {"h2d": "from pinned memory to the device", "d2h": "from the device to pinned memory", "d2d": "on the device"}

Build = Callable[[Setup], Side]


def cases(is_smoke: bool = False) -> list[Case]:
    calls, bytes = (20, MIB) if is_smoke else (10_000, COPY_BYTES)
    allocations = [
        Case(
            f"allocate-{name}", "allocate", f"allocate and free {size >> 10:,} KiB", MICROSECONDS, _ours(size),
            {"torch": _torch(size), "cupy": _cupy(size)}, calls=calls,
        )
        for name, size in SIZES.items()
    ]  # fmt: skip
    copies = [
        Case(
            f"copy-{way}", "copy", f"copy {bytes >> 20} MiB {about}", GIGABYTES_A_SECOND, _our_copy(way, bytes),
            {"c++": _driver_copy(way, bytes), "torch": _torch_copy(way, bytes)},
            # A copy on the device reads and writes; what the link to the host could carry is not known here.
            work=bytes, bytes=2 * bytes if way == "d2d" else 0, calls=2 if is_smoke else 10,
        )
        for way, about in WAYS.items()
    ]  # fmt: skip
    return [*allocations, *copies]


def _ours(size: int) -> Build:
    def build(setup: Setup) -> Side:
        device = un.device(setup.device)
        return host_side(lambda: un.empty(size, un.uint8, device=device), device.synchronize)

    return build


def _torch(size: int) -> Build:
    def build(setup: Setup) -> Side:
        torch = torch_cuda()
        place = torch.device("cuda", un.device(setup.device).index)
        return host_side(lambda: torch.empty(size, dtype=torch.uint8, device=place), torch.cuda.synchronize)

    return build


def _cupy(size: int) -> Build:
    def build(_: Setup) -> Side:
        cupy = cupy_cuda()
        return host_side(lambda: cupy.cuda.alloc(size), cupy.cuda.get_current_stream().synchronize)

    return build


def _our_arrays(device: Any, way: str, bytes: int) -> tuple[Any, Any]:
    """Target and source."""

    def make(place: str) -> Any:
        if place == "d":
            return un.zeros(bytes, un.uint8, device=device)
        pinned = un.empty_pinned(bytes, un.uint8, device)
        pinned.fill_(0)
        return pinned

    return make(way[2]), make(way[0])


def _our_copy(way: str, bytes: int) -> Build:
    def build(setup: Setup) -> Side:
        device = un.device(setup.device)
        target, source = _our_arrays(device, way, bytes)
        stream = un.stream(device)
        device.synchronize()
        return Side(step=lambda: target.copy_(source, stream=stream), finish=stream.synchronize)

    return build


def _driver_copy(way: str, bytes: int) -> Build:
    def build(setup: Setup) -> Side:
        device = un.device(setup.device)
        loops = driver(device)
        target, source = _our_arrays(device, way, bytes)
        device.synchronize()

        def cost(calls: int, arrays: tuple[Any, Any] = (target, source)) -> float:  # which keeps the memory
            return float(loops.copy_s(arrays[0].address, arrays[1].address, bytes, calls))

        return Side(cost=cost)

    return build


def _torch_copy(way: str, bytes: int) -> Build:
    def build(setup: Setup) -> Side:
        torch = torch_cuda()
        place = f"cuda:{un.device(setup.device).index}"

        def make(end: str) -> Any:
            if end == "d":
                return torch.zeros(bytes, dtype=torch.uint8, device=place)
            return torch.zeros(bytes, dtype=torch.uint8).pin_memory()

        target, source = make(way[2]), make(way[0])
        return Side(step=lambda: target.copy_(source, non_blocking=True), finish=torch.cuda.synchronize)

    return build
