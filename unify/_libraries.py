"""Libraries that enqueue work on a current stream of their own: how each is asked for it, and keeps memory alive.

A library is asked only once one of its arrays came, so it is imported by then.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Library:
    """What one library says of the devices of one kind, by their numbers.

    current_stream(index): its stream object, whose attribute `address` is the vendor's stream.
    record_use(array, address, index), if there is such a means: the array's memory is not reused before what that
    stream holds when the array is let go of has run.
    is_in_use(): whether it has worked on such a device; to be asked for a stream is not to be its first work there.
    """

    current_stream: Callable[[int], Any]
    address: str
    is_in_use: Callable[[], bool] = lambda: True
    record_use: Callable[[Any, int, int], None] | None = None


def _torch_cuda(torch: Any) -> Library:
    def record_use(array: Any, address: int, index: int) -> None:
        array.record_stream(torch.cuda.ExternalStream(address, device=index))

    return Library(torch.cuda.current_stream, "cuda_stream", torch.cuda.is_initialized, record_use)


def _torch_npu(torch: Any) -> Library:
    # Its record_stream takes its own streams alone (2.13: "External NPU stream is not supported"): our reference does.
    return Library(torch.npu.current_stream, "npu_stream", torch.npu.is_initialized)


def _cupy(cupy: Any) -> Library:
    # CuPy's pool keeps memory by the stream it was allocated on and has no means for a second one: our reference does.
    return Library(cupy.cuda.get_current_stream, "ptr")


# By the root of the module that an array's type is of, and the kind of the device it is on.
LIBRARIES: dict[tuple[str, str], Callable[[Any], Library]] = {
    ("torch", "cuda"): _torch_cuda,
    ("torch", "ascend"): _torch_npu,
    ("cupy", "cuda"): _cupy,
}


def library_of(array_type: type, device_kind: str) -> Library | None:
    """The library that an array's type, or one that it is derived from, comes from. Called once for each type."""
    for base in array_type.__mro__:
        root = base.__module__.partition(".")[0]
        make = LIBRARIES.get((root, device_kind))
        if make is not None and root in sys.modules:
            return make(sys.modules[root])
    return None


def owner_of_stream(address: int, index: int, device_kind: str) -> object | None:
    """The object of the stream at `address`, if it is a library's current one on that device."""
    for (root, kind), make in LIBRARIES.items():
        if kind != device_kind or root not in sys.modules:
            continue
        library = make(sys.modules[root])
        stream: object = library.current_stream(index) if library.is_in_use() else None
        if getattr(stream, library.address, None) == address:
            return stream
    return None


def cuda_device_index(array: Any) -> int:
    """The number of the CUDA device that an array is on which has only __cuda_array_interface__, which does not say it.

    By the array's own word (CuPy, torch: `.device`; Numba: the context of its memory), else its library's current one.
    """
    device = getattr(array, "device", None)
    for name in ("id", "index", "device_id"):
        if isinstance(found := getattr(device, name, None), int):
            return found
    context = getattr(getattr(array, "gpu_data", None), "context", None)
    if isinstance(found := getattr(getattr(context, "device", None), "id", None), int):
        return found
    module = sys.modules.get(type(array).__module__.partition(".")[0])
    current = getattr(getattr(module, "cuda", None), "current_device", None)
    return int(current()) if callable(current) else 0
