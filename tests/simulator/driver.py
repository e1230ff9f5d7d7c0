"""The simulated driver by ctypes, as any program would call it, and kernels in C for it."""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import shutil
import struct
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import unify as un
from unify.simulator.section import NAME, HostKernel, host_section, with_section

LIBRARY = Path(
    os.environ.get("UNIFY_SIMULATED_CUDA", Path(un.__file__).parent / "simulator/libunify_simulated_cuda.so")
)
MIB = 1 << 20


@functools.cache
def copied() -> str:
    """A copy of the library: a driver of its own, beside the one that unify may have opened in this process."""
    handle, path = tempfile.mkstemp(suffix=".so")
    os.close(handle)
    atexit.register(os.unlink, path)
    return str(shutil.copyfile(LIBRARY, path))


VERSIONED = {
    **dict.fromkeys(
        [
            *("cuDeviceTotalMem", "cuDeviceGetUuid", "cuDevicePrimaryCtxRelease", "cuDevicePrimaryCtxReset"),
            *("cuMemAlloc", "cuMemFree", "cuMemGetInfo", "cuMemGetAddressRange", "cuMemcpy2DAsync"),
            *("cuStreamDestroy", "cuEventDestroy", "cuStreamBeginCapture", "cuGraphExecUpdate", "cuIpcOpenMemHandle"),
            "cuStreamGetCaptureInfo",
        ],
        "_v2",
    )
}
HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)


class CudaError(Exception):
    """What a call returned, by name: `error.name`."""

    def __init__(self, call: str, name: str) -> None:
        super().__init__(f"{call}: {name}")
        self.name = name


class LaunchConfig(ctypes.Structure):
    _fields_ = (
        *[(f"grid_{axis}", ctypes.c_uint) for axis in "xyz"],
        *[(f"block_{axis}", ctypes.c_uint) for axis in "xyz"],
        ("shared_bytes", ctypes.c_uint),
        ("stream", ctypes.c_void_p),
        ("attributes", ctypes.c_void_p),
        ("attribute_count", ctypes.c_uint),
    )


class Attribute(ctypes.Structure):
    _fields_ = (("id", ctypes.c_int), ("pad", ctypes.c_int), ("value", ctypes.c_uint * 16))


class Driver:
    """`driver.cuMemAlloc(...)` calls, and raises CudaError unless it is CUDA_SUCCESS."""

    def __init__(self, **settings: Any) -> None:
        self.library = ctypes.CDLL(copied())
        self.library.unify_simulator_error.restype = ctypes.c_char_p
        self.library.unify_simulator_live.restype = ctypes.c_int64
        self.configure(**settings)

    def configure(self, count: int = 1, capability: int = 90, memory_bytes: int = 64 * MIB) -> None:
        made = self.library.unify_simulator_configure(count, capability, ctypes.c_uint64(memory_bytes), None)
        assert made == 0, self.library.unify_simulator_error().decode()

    def fail(self, plan: str, device: int = 0) -> None:
        assert self.library.unify_simulator_fail(device, plan.encode()) == 0, self.library.unify_simulator_error()

    def live(self, what: str, device: int = 0) -> int:
        return int(self.library.unify_simulator_live(device, what.encode()))

    def result(self, call: str, *arguments: Any) -> str:
        """The name of what a call returns."""
        function = getattr(self.library, call + VERSIONED.get(call, ""))
        name = ctypes.c_char_p()
        self.library.cuGetErrorName(function(*map(_argument, arguments)), ctypes.byref(name))
        return (name.value or b"unknown").decode()

    def __getattr__(self, call: str) -> Callable[..., None]:
        def checked(*arguments: Any) -> None:
            if (name := self.result(call, *arguments)) != "CUDA_SUCCESS":
                raise CudaError(call, name)

        return checked

    def made(self, call: str, *arguments: Any) -> int:
        """What a call returns through its first parameter, a pointer or a handle."""
        out = ctypes.c_uint64()
        getattr(self, call)(ctypes.byref(out), *arguments)
        return out.value

    # ---- more than one call ----

    def open(self, device: int = 0) -> int:
        """The primary context of a device, made current."""
        self.cuInit(0)
        context = self.made("cuDevicePrimaryCtxRetain", device)
        self.cuCtxSetCurrent(context)
        return context

    def stream(self, flags: int = 1) -> int:
        return self.made("cuStreamCreateWithPriority", flags, 0)

    def event(self, flags: int = 2) -> int:
        return self.made("cuEventCreate", flags)

    def upload(self, data: bytes) -> int:
        address = self.made("cuMemAlloc", len(data))
        source = ctypes.create_string_buffer(data, len(data))
        self.cuMemcpyAsync(address, ctypes.addressof(source), len(data), 0)
        self.cuStreamSynchronize(0)  # streams that do not block would run beside it
        return address

    def download(self, address: int, size: int, stream: int = 0) -> bytes:
        out = ctypes.create_string_buffer(size)
        self.cuMemcpyAsync(ctypes.addressof(out), address, size, stream)
        return out.raw

    def function(self, image: bytes, name: str) -> int:
        module = self.made("cuModuleLoadDataEx", image, 0, None, None)
        return self.made("cuModuleGetFunction", module, name.encode())

    def launch(self, function: int, args: bytes, programs: int = 1, stream: int = 0, **more: Any) -> None:
        self.cuLaunchKernelEx(*launch_arguments(function, args, programs, stream, **more))


def launch_arguments(
    function: int,
    args: bytes,
    programs: int = 1,
    stream: int = 0,
    block: tuple[int, int, int] = (128, 1, 1),
    shared_bytes: int = 0,
    attributes: tuple[Attribute, ...] = (),
) -> tuple[Any, ...]:
    """The arguments of cuLaunchKernelEx, with the kernel's own in one buffer."""
    listed = (Attribute * len(attributes))(*attributes)
    config = LaunchConfig(programs, 1, 1, *block, shared_bytes, stream, ctypes.addressof(listed), len(attributes))
    config.keep = listed  # type: ignore[attr-defined]
    buffer = ctypes.create_string_buffer(args, len(args))
    size = ctypes.c_size_t(len(args))
    extra = (ctypes.c_void_p * 5)(1, ctypes.addressof(buffer), 2, ctypes.addressof(size), 0)
    extra.keep = (buffer, size)  # type: ignore[attr-defined]
    return ctypes.byref(config), function, None, extra


def _argument(value: Any) -> Any:
    return ctypes.c_uint64(value) if isinstance(value, int) and not -(1 << 31) <= value < 1 << 31 else value


def cubin(capability: int = 90) -> bytes:
    """An ELF file for a chip, without any code."""
    names = b"\0.shstrtab\0"
    sections = struct.pack("<IIQQQQIIQQ", *[0] * 10)
    sections += struct.pack("<IIQQQQIIQQ", 1, 3, 0, 0, 64, len(names), 0, 0, 1, 0)
    ident = b"\x7fELF\x02\x01\x01\x33\x07".ljust(16, b"\0")
    table = 64 + (len(names) + 7) // 8 * 8
    header = struct.pack("<16sHHIQQQIHHHHHH", ident, 2, 190, 1, 0, 0, table, capability, 64, 0, 0, 64, 2, 1)
    return (header + names).ljust(table, b"\0") + sections


@functools.cache
def compiled(name: str, body: str) -> bytes:
    """The object of a kernel in C. `body` runs for each program i; `args` are 8-byte words, `fault` may be filled."""
    source = f"""
    #include <unify/host_kernel.h>
    int32_t {name}(const unify_host_call* call, uint64_t begin, uint64_t end) {{
      const uint64_t* args = (const uint64_t*)call->args;
      unify_host_fault* fault = call->fault;
      (void)args;
      (void)fault;
      for (uint64_t i = begin; i < end; ++i) {{ {body} }}
      return (int32_t)fault->kind;
    }}
    """
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kernel.o")
        command = ["cc", "-x", "c", "-O1", "-fPIC", "-fno-stack-protector", "-fcf-protection=none", "-c", "-I"]
        command += [un.get_include(), "-o", str(path), "-"]
        if os.uname().machine != "x86_64":
            command.remove("-fcf-protection=none")
        subprocess.run(command, input=source, text=True, check=True)
        return path.read_bytes()


def image(name: str, body: str, types: tuple[str, ...] = ("*fp32",), capability: int = 90, scratch: int = 0) -> bytes:
    """A cubin with a kernel in C inside. All parameters have 8 bytes: pointers, or i64."""
    parameters = [(type_, 8 * index) for index, type_ in enumerate(types)]
    kernel = HostKernel(name, compiled(name, body), 8 * len(types), scratch, parameters)
    return with_section(cubin(capability), NAME, host_section(kernel))


def words(*values: int) -> bytes:
    return struct.pack(f"<{len(values)}Q", *values)
