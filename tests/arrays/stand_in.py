"""Stand-ins for torch and CuPy on a simulated chip: modules of their names, on streams that unify did not make.

Their arrays' memory is a tensor's, which nobody else sees; all else goes to the driver by ctypes, as theirs does.
"""

from __future__ import annotations

import ctypes
import struct
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import numpy as np
from exchange_table import add_table

import unify as un
from unify.simulator import library_path

endless: list[ForeignStream] = []
functions: list[Any] = []  # that the driver may still call
gates: list[threading.Event] = []  # opened after each case, also one that failed
HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class Driver:
    def __init__(self) -> None:
        self._library = ctypes.CDLL(str(library_path()))

    def __getattr__(self, name: str) -> Any:
        def call(*arguments: Any) -> None:
            result = getattr(self._library, name)(*arguments)
            assert result == 0, f"{name}: error {result}"

        return call

    def enter(self, index: int) -> None:
        context = ctypes.c_void_p()
        self.cuDevicePrimaryCtxRetain(ctypes.byref(context), index)
        self.cuCtxSetCurrent(context)


driver = Driver()


class ForeignStream:
    """A library's stream object; the vendor's stream ends with it, as CuPy's does."""

    def __init__(self, index: int = 0, flags: int = 1) -> None:
        un.device(f"cuda:{index}")
        driver.enter(index)
        handle = ctypes.c_void_p()
        driver.cuStreamCreateWithPriority(ctypes.byref(handle), flags, 0)
        self.cuda_stream = self.ptr = handle.value or 0

    def __del__(self) -> None:
        driver.cuStreamDestroy_v2(ctypes.c_void_p(self.ptr))

    def fill(self, array: Any, value: float) -> None:
        bits = struct.unpack("<I", struct.pack("<f", value))[0]
        address = ctypes.c_uint64(array.memory.address)
        driver.cuMemsetD32Async(address, bits, ctypes.c_size_t(array.memory.size), ctypes.c_void_p(self.ptr))

    def copy(self, target: Any, source: Any) -> None:
        addresses = (ctypes.c_uint64(array.memory.address) for array in (target, source))
        driver.cuMemcpyAsync(*addresses, ctypes.c_size_t(source.memory.nbytes), ctypes.c_void_p(self.ptr))

    def hold(self) -> threading.Event:
        """What is enqueued from here on waits until the event is set."""
        event = gate()
        function = HOST_FUNCTION(lambda _: (event.wait(60), None)[1])
        functions.append(function)
        driver.cuLaunchHostFunc(ctypes.c_void_p(self.ptr), function, None)
        return event

    @contextmanager
    def captured(self, mode: int = 0) -> Iterator[ForeignGraph]:
        """As torch.cuda.graph: by default in the mode that lets nobody allocate or wait."""
        graph = ForeignGraph(self)
        driver.cuStreamBeginCapture_v2(ctypes.c_void_p(self.ptr), mode)
        yield graph
        graph.instantiate()

    def synchronize(self) -> None:
        driver.cuStreamSynchronize(ctypes.c_void_p(self.ptr))

    def is_idle(self) -> bool:
        return bool(driver._library.cuStreamQuery(ctypes.c_void_p(self.ptr)) == 0)


class ForeignGraph:
    """What was captured; it can be launched once the capture is over."""

    def __init__(self, stream: ForeignStream) -> None:
        self.stream = stream
        self.executable = ctypes.c_void_p()

    def instantiate(self) -> None:
        graph = ctypes.c_void_p()
        driver.cuStreamEndCapture(ctypes.c_void_p(self.stream.ptr), ctypes.byref(graph))
        driver.cuGraphInstantiateWithFlags(ctypes.byref(self.executable), graph, ctypes.c_uint64(0))
        driver.cuGraphDestroy(graph)

    def launch(self) -> None:
        driver.cuGraphLaunch(self.executable, ctypes.c_void_p(self.stream.ptr))

    def destroy(self) -> None:
        driver.cuGraphExecDestroy(self.executable)


class ThreadsStream(ForeignStream):
    """CUDA's per-thread default stream, as CuPy gives it out: one handle, another stream on each thread."""

    def __init__(self) -> None:
        driver.enter(0)
        self.cuda_stream = self.ptr = 2

    def __del__(self) -> None:
        """It never ends."""


def gate() -> threading.Event:
    gates.append(threading.Event())
    return gates[-1]


def hold(stream: un.Stream) -> threading.Event:
    """As ForeignStream.hold, of a stream of ours."""
    event = gate()
    stream.host_call(lambda: (event.wait(60), None)[1])
    return event


def order(later: int, earlier: int) -> None:
    event = ctypes.c_void_p()
    driver.cuEventCreate(ctypes.byref(event), 2)
    driver.cuEventRecord(event, ctypes.c_void_p(earlier))
    driver.cuStreamWaitEvent(ctypes.c_void_p(later), event, 0)


class Array:
    """The library's part is in the classes that are derived from it."""

    library: Library

    def __init__(self, memory: un.Tensor) -> None:
        self.memory = memory

    def __dlpack_device__(self) -> tuple[int, int]:
        return self.memory.__dlpack_device__()

    def __dlpack__(self, stream: int | None = None, max_version: Any = None) -> object:
        """As the standard says: work on `stream` comes after that on the library's current stream."""
        self.library.made_ready_for.append(stream)
        if stream != -1:
            order(1 if stream is None else stream, self.library.stream.ptr)
        return self.memory.__dlpack__(stream=-1, max_version=max_version)

    def numpy(self) -> Any:
        """Waits for the library's current stream, as their own methods do, and for nothing else."""
        result = np.empty(self.memory.shape, self.memory.dtype.numpy)
        addresses = ctypes.c_uint64(result.ctypes.data), ctypes.c_uint64(self.memory.address)
        stream = self.library.stream
        driver.cuMemcpyAsync(*addresses, ctypes.c_size_t(result.nbytes), ctypes.c_void_p(stream.ptr))
        stream.synchronize()
        return result


class Library:
    """A module `name` whose `cuda.<function>(index)` is its current stream; None: it has no such function."""

    def __init__(self, name: str, function: str | None, records: bool) -> None:
        self.stream = ForeignStream()
        self.asked = 0
        self.recorded: list[tuple[int, int]] = []  # address, stream
        self.made_ready_for: list[int | None] = []
        module, cuda = ModuleType(name), ModuleType(f"{name}.cuda")
        module.cuda, module.from_dlpack = cuda, self.from_dlpack  # type: ignore[attr-defined]
        if function is not None:
            setattr(cuda, function, self.current)
        cuda.is_initialized = lambda: True  # type: ignore[attr-defined]
        cuda.ExternalStream = lambda address, device: address  # type: ignore[attr-defined]
        sys.modules[name] = module
        members: dict[str, Any] = {"__module__": name, "library": self}
        if records:
            members["record_stream"] = lambda array, stream: self.recorded.append((array.memory.address, stream))
        self.Array = type("Array", (Array,), members)

    def current(self, index: int) -> ForeignStream:
        assert index == 0
        self.asked += 1
        return self.stream

    @contextmanager
    def on(self, stream: ForeignStream) -> Iterator[ForeignStream]:
        before, self.stream = self.stream, stream
        yield stream
        self.stream = before

    def array(self, values: Any) -> Any:
        tensor = un.asarray(np.array(values, np.float32), device="cuda:0", copy=True)
        un.synchronize("cuda:0")
        return self.Array(tensor)

    def from_dlpack(self, tensor: un.Tensor) -> Any:
        tensor.__dlpack__(stream=self.stream.ptr, max_version=(1, 3))
        return self.Array(tensor)


def torch() -> Library:
    return Library("torch", "current_stream", records=True)


def torch_by_table() -> Library:
    """As torch is from 2.10 on. The table names no object that a stream ends with: torch's never end."""
    library = torch()
    endless.append(library.stream)
    add_table(library.Array)
    return library


def cupy() -> Library:
    return Library("cupy", "get_current_stream", records=False)


def unknown() -> Library:
    return Library("elsewhere", None, records=False)


class InterfaceArray:
    """Speaks __cuda_array_interface__ alone, with `stream` as its version 3 has it."""

    def __init__(self, memory: un.Tensor, stream: int | None) -> None:
        self.__cuda_array_interface__ = {**memory.__cuda_array_interface__, "stream": stream}
        self.memory = memory
