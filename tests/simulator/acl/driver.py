"""The simulated ACL by ctypes, as any program would call it, and kernels in C for it."""

from __future__ import annotations

import atexit
import ctypes
import functools
import os
import re
import shutil
import struct
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import unify as un
from unify.simulator.ascend import container
from unify.simulator.section import HostKernel

from ..driver import MIB, compiled

ROOT = Path(__file__).resolve().parents[3]
LIBRARY = Path(
    os.environ.get("UNIFY_SIMULATED_ASCENDCL", Path(un.__file__).parent / "simulator/libunify_simulated_ascendcl.so")
)
RESULTS = {
    int(value): name
    for name, value in re.findall(
        r"RESULT\((\w+), (\d+)", (ROOT / "csrc/simulator/ascend/acl_results.inc").read_text(), re.MULTILINE
    )
}
HOST_FUNCTION = ctypes.CFUNCTYPE(None, ctypes.c_void_p)
H2H, H2D, D2H, D2D, DEFAULT = range(5)
SYNC, TIME_LINE, IPC = 1, 8, 0x40
ON_DEVICE_0 = struct.pack("<iiiIi4xQ", 0, 0, 4, 0, 1, 0)  # aclrtPhysicalMemProp
AICORE, VECTOR, CUBE = 0x43554245, 0x41415246, 0x41494343


@functools.cache
def copied() -> str:
    """A copy of the library: an ACL of its own, beside the one that unify may have opened in this process."""
    handle, path = tempfile.mkstemp(suffix=".so")
    os.close(handle)
    atexit.register(os.unlink, path)
    return str(shutil.copyfile(LIBRARY, path))


class AclError(Exception):
    """What a call returned, by name without its beginning: `error.name`."""

    def __init__(self, call: str, name: str) -> None:
        super().__init__(f"{call}: {name}")
        self.name = name


class LoadOption(ctypes.Structure):
    _fields_ = (("type", ctypes.c_uint), ("value", ctypes.c_uint * 4))


class LoadOptions(ctypes.Structure):
    _fields_ = (("options", ctypes.POINTER(LoadOption)), ("count", ctypes.c_size_t))


class Acl:
    """`acl.aclrtMalloc(...)` calls, and raises AclError unless it is ACL_SUCCESS."""

    def __init__(self, **settings: Any) -> None:
        self.library = ctypes.CDLL(copied())
        self.library.unify_simulator_error.restype = ctypes.c_char_p
        self.library.unify_simulator_live.restype = ctypes.c_int64
        self.library.aclGetRecentErrMsg.restype = ctypes.c_char_p
        self.library.aclrtGetSocName.restype = ctypes.c_char_p
        self.configure(**settings)

    def configure(self, count: int = 1, chip: str = "910B3", memory_bytes: int = 64 * MIB) -> None:
        made = self.library.unify_simulator_configure(count, chip.encode(), ctypes.c_uint64(memory_bytes))
        assert made == 0, self.library.unify_simulator_error().decode()

    def fail(self, plan: str, device: int = 0) -> None:
        assert self.library.unify_simulator_fail(device, plan.encode()) == 0, self.library.unify_simulator_error()

    def live(self, what: str, device: int = 0) -> int:
        return int(self.library.unify_simulator_live(device, what.encode()))

    def result(self, call: str, *arguments: Any) -> str:
        """The name of what a call returns: "RT_CONTEXT_NULL", "SUCCESS"."""
        code = getattr(self.library, call)(*map(_argument, arguments))
        return RESULTS.get(code, str(code)).removeprefix("ACL_").removeprefix("ERROR_")

    def __getattr__(self, call: str) -> Callable[..., None]:
        def checked(*arguments: Any) -> None:
            if (name := self.result(call, *arguments)) != "SUCCESS":
                raise AclError(call, name)

        return checked

    def made(self, call: str, *arguments: Any) -> int:
        """What a call returns through its first parameter, a pointer or a handle."""
        out = ctypes.c_uint64()
        getattr(self, call)(ctypes.byref(out), *arguments)
        return out.value

    def told(self, call: str, *arguments: Any) -> int:
        """What a call returns through its last parameter."""
        out = ctypes.c_uint64()
        getattr(self, call)(*arguments, ctypes.byref(out))
        return out.value

    def message(self) -> str:
        """What the calls of this thread said that failed since it was last asked; empty without any."""
        return (self.library.aclGetRecentErrMsg() or b"").decode()

    # ---- more than one call ----

    def malloc(self, size: int) -> int:
        return self.made("aclrtMalloc", ctypes.c_size_t(size), 0)

    def pinned(self, size: int) -> int:
        return self.made("aclrtMallocHost", ctypes.c_size_t(size))

    def reserve(self, size: int) -> int:
        return self.made("aclrtReserveMemAddress", ctypes.c_size_t(size), ctypes.c_size_t(0), None, ctypes.c_uint64(0))

    def physical(self, size: int) -> int:
        return self.made("aclrtMallocPhysical", ctypes.c_size_t(size), ON_DEVICE_0, ctypes.c_uint64(0))

    def map(self, address: int, size: int, handle: int) -> str:
        nothing = ctypes.c_size_t(0)
        return self.result("aclrtMapMem", address, ctypes.c_size_t(size), nothing, handle, ctypes.c_uint64(0))

    def stream(self, stops: bool = False) -> int:
        stream = self.made("aclrtCreateStreamWithConfig", 0, 3)
        if stops:
            self.aclrtSetStreamFailureMode(stream, ctypes.c_uint64(1))
        return stream

    def event(self, flags: int = SYNC) -> int:
        return self.made("aclrtCreateEventExWithFlag", flags)

    def upload(self, data: bytes) -> int:
        address = self.malloc(len(data))
        self.aclrtMemcpy(address, ctypes.c_size_t(len(data)), data, ctypes.c_size_t(len(data)), H2D)
        return address

    def download(self, address: int, size: int) -> bytes:
        out = ctypes.create_string_buffer(size)
        self.aclrtMemcpy(ctypes.addressof(out), ctypes.c_size_t(size), address, ctypes.c_size_t(size), D2H)
        return out.raw

    def copy_later(self, to: int, source: int, size: int, kind: int, stream: int = 0) -> str:
        size_t = ctypes.c_size_t(size)
        return self.result("aclrtMemcpyAsync", to, size_t, source, size_t, kind, stream)

    def fill_later(self, address: int, value: int, size: int, stream: int = 0) -> str:
        return self.result("aclrtMemsetAsync", address, ctypes.c_size_t(size), value, ctypes.c_size_t(size), stream)

    def binary(self, content: bytes, magic: int = VECTOR) -> int:
        out = ctypes.c_uint64()
        self.aclrtBinaryLoadFromData(content, ctypes.c_size_t(len(content)), load_options(magic), ctypes.byref(out))
        return out.value

    def function(self, content: bytes, name: str, magic: int = VECTOR) -> int:
        return self.told("aclrtBinaryGetFunction", self.binary(content, magic), name.encode())

    def launch(self, function: int, args: bytes, blocks: int = 1, stream: int = 0) -> None:
        self.aclrtLaunchKernelWithHostArgs(*launch_arguments(function, args, blocks, stream))


def launch_arguments(function: int, args: bytes, blocks: int = 1, stream: int = 0) -> tuple[Any, ...]:
    """The arguments of aclrtLaunchKernelWithHostArgs."""
    return function, blocks, stream, None, args, ctypes.c_size_t(len(args)), None, ctypes.c_size_t(0)


def load_options(magic: int, *more: tuple[int, int]) -> LoadOptions:
    """The options of aclrtBinaryLoadFromData: which cores a binary is for, and others by their numbers."""
    pairs = [(2, magic), *more]
    listed = (LoadOption * len(pairs))(*[LoadOption(type_, (ctypes.c_uint * 4)(value)) for type_, value in pairs])
    return LoadOptions(listed, len(pairs))


def told_to_who_waits(acl: Acl, stream: int, hang: Callable[[], None], abort: Callable[[], None]) -> str:
    """What a thread is answered that waits for a stream whose work is aborted; again, if it came too late to wait."""
    for seconds in (0.01, 0.1, 1, 10):
        hang()
        answers: list[str] = []
        waiting = threading.Thread(
            target=lambda into: into.append(acl.result("aclrtSynchronizeStream", stream)), args=(answers,)
        )
        waiting.start()
        time.sleep(seconds)
        abort()
        waiting.join()
        if answers != ["SUCCESS"]:
            break
    return answers[0]


def _argument(value: Any) -> Any:
    if isinstance(value, LoadOptions):
        return ctypes.byref(value)
    return ctypes.c_uint64(value) if isinstance(value, int) and not -(1 << 31) <= value < 1 << 31 else value


PREFIX = 24  # where the cores meet, the lock, the workspace: as the vendor's launcher has it


def image(name: str, body: str, types: Sequence[str] = ("*fp32",), scratch: int = 0, prefix: int = 0) -> bytes:
    """An ELF file with a kernel in C inside. Its parameters, all of 8 bytes, follow the prefix: args[3], args[4] ...

    prefix: how much of it the chip looks at.
    """
    parameters = [(type_, PREFIX + 8 * index) for index, type_ in enumerate(types)]
    return container(HostKernel(name, compiled(name, body), PREFIX + 8 * len(types), scratch, parameters, prefix))


def words(*values: int) -> bytes:
    """The arguments of such a kernel."""
    return bytes(PREFIX) + struct.pack(f"<{len(values)}Q", *values)
