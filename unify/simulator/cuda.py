"""A simulated CUDA driver, and kernels that run on it: `simulate("cuda:90")`."""

from __future__ import annotations

import ctypes
import functools
import re
from dataclasses import replace
from pathlib import Path

from unify._device import open_driver
from unify._errors import InvalidArgument, described
from unify.compiler.target import Binary, CompileFunction, Options, Target, register_target

from .section import NAME, HostKernel, host_section, with_section

GIB = 1 << 30
_TEXT = re.compile(r"cuda:(?P<capability>\d+)(?:x(?P<count>\d+))?(?:,(?P<memory_gib>\d+(?:\.\d+)?)g)?")


def library_path() -> Path:
    """The shared library that takes the place of libcuda.so.1."""
    return Path(__file__).with_name("libunify_simulated_cuda.so")


class Simulation:
    """The simulated devices of this process: faults on demand, and what is alive on them.

    Device numbers are CUDA's, from 0. `call` is a driver function by its name without a version: "cuMemcpyAsync".
    """

    def __init__(self, library: ctypes.CDLL, target: str, count: int) -> None:
        self._library = library
        self.target = target
        self.count = count

    def __repr__(self) -> str:
        return f"unify.simulate({self.target!r}, count={self.count})"

    def fail(self, call: str = "*", after: int = 0, error: str = "CUDA_ERROR_ILLEGAL_ADDRESS", device: int = 0) -> None:
        """Makes the call that comes after `after` others of its name fail; "*" is any call.

        error: a CUresult by name, "ecc", "launch_failure", "lost", "hang" or "corrupt". What goes wrong in work that
        was only enqueued shows at a later call, as on a chip.
        """
        self._check(self._library.unify_simulator_fail(device, f"{call}:{after}:{error}".encode()))

    def fail_after(self, seconds: float, error: str, device: int = 0) -> None:
        """Makes a device fail by time, whatever it does then."""
        self._check(self._library.unify_simulator_fail(device, f"time:{seconds}:{error}".encode()))

    def lose(self, device: int = 0) -> None:
        """Takes a device off the bus, until the process ends."""
        self.fail_after(0, "lost", device)

    def hang(self, call: str = "cuLaunchKernelEx", after: int = 0, device: int = 0) -> None:
        """Stops the work that the call enqueues, and its stream, until `release`."""
        self.fail(call, after, "hang", device)

    def release(self, device: int = 0) -> None:
        """Lets the work go on that hangs."""
        self._check(self._library.unify_simulator_release(device))

    def slow(self, bytes_per_second: float, device: int = 0) -> None:
        """Lets copies take at least as long as they would at this bandwidth; 0 is as fast as the machine.

        A copy between two devices is as slow as the one whose stream it is on.
        """
        if not isinstance(bytes_per_second, (int, float)):
            raise InvalidArgument(f"simulate: slow: bytes a second are a number, not {described(bytes_per_second)}.")
        self._check(self._library.unify_simulator_slow(device, bytes_per_second))

    def corrupt(self, call: str = "cuMemcpyAsync", after: int = 0, device: int = 0) -> None:
        """Flips a bit in the middle of what a copy writes; the copy reports success."""
        self.fail(call, after, "corrupt", device)

    def clear(self, device: int = 0) -> None:
        """Forgets the faults planned and lets go what hangs. What happened already stays until the context is reset."""
        self._check(self._library.unify_simulator_clear(device))

    def live(self, device: int = 0) -> dict[str, int]:
        """How many of each kind are alive on a device, and how many bytes; graphs and reservations of all devices."""
        return {kind: self._check(self._library.unify_simulator_live(device, kind.encode())) for kind in _KINDS}

    def _check(self, result: int) -> int:
        if result < 0:
            raise InvalidArgument(f"simulated CUDA: {self._library.unify_simulator_error().decode()}.")
        return result


_KINDS = (
    *("bytes", "allocations", "pinned_bytes", "managed_bytes", "physical", "reservations"),
    *("streams", "events", "modules", "graphs", "graph_execs", "retained"),
)


@functools.cache
def _library() -> ctypes.CDLL:
    path = library_path()
    if not path.exists():
        raise InvalidArgument(f"simulated CUDA: {path} is not there; build it with `make build`.")
    library = ctypes.CDLL(str(path))
    library.unify_simulator_configure.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_uint64, ctypes.c_char_p]
    library.unify_simulator_fail.argtypes = [ctypes.c_int, ctypes.c_char_p]
    library.unify_simulator_slow.argtypes = [ctypes.c_int, ctypes.c_double]
    library.unify_simulator_live.argtypes = [ctypes.c_int, ctypes.c_char_p]
    library.unify_simulator_live.restype = ctypes.c_int64
    library.unify_simulator_error.restype = ctypes.c_char_p
    return library


def simulate(target: str = "cuda:90", count: int = 1, memory_bytes: int = GIB, name: str | None = None) -> Simulation:
    """Makes this process see `count` simulated chips of a compute capability: 80, 86, 89, 90, 100 or 120.

    Before the first CUDA device is opened. Kernels compiled for the target `cuda` run on them from then on: each cubin
    carries the CPU compiler's code too. Raises InvalidArgument.
    """
    kind, _, arch = target.partition(":")
    if kind != "cuda" or not arch.isdecimal():
        raise InvalidArgument(f"simulate: {target!r} is not a chip; say cuda:90, for example.")
    library = _library()
    simulation = Simulation(library, target, count)
    encoded = None if name is None else name.encode()
    simulation._check(library.unify_simulator_configure(count, int(arch), memory_bytes, encoded))
    open_driver("cuda", str(library_path()))
    register_target("cuda", compile_simulated)
    return simulation


def from_text(text: str) -> Simulation:
    """Reads what UNIFY_SIMULATE holds: "cuda:90", "cuda:90x2" for two of them, "cuda:90x2,4g" for 4 GiB of memory each.

    Raises InvalidArgument.
    """
    found = _TEXT.fullmatch(text)
    if found is None:
        raise InvalidArgument(f"UNIFY_SIMULATE={text!r}: say cuda:90, cuda:90x2 for two chips, or cuda:90x2,4g.")
    memory_bytes = int(float(found["memory_gib"] or 1) * GIB)
    return simulate(f"cuda:{found['capability']}", int(found["count"] or 1), memory_bytes)


def _compile_cuda() -> CompileFunction:
    from unify.compiler import cuda

    return cuda.compile


def compile_simulated(ttir: str, target: Target, options: Options) -> Binary:
    """The compile half of `cuda` while it is simulated: the real cubin, and the CPU's code for it in a section."""
    return with_host_code(_compile_cuda()(ttir, target, options), ttir, options.check_bounds)


def with_host_code(binary: Binary, ttir: str, check_bounds: bool = False) -> Binary:
    """Returns a binary for a real chip with what lets a simulated one run it.

    The CPU's arguments are the first part of CUDA's: Triton appends two pointers to scratch memory.
    """
    from unify.compiler import cpu

    image = cpu.build(ttir, "", None, check_bounds)
    parameters = [(type_, offset) for _, type_, offset in image.parameters]
    kernel = HostKernel(binary.name, image.object, image.args_bytes, image.scratch_bytes, parameters)
    if image.name != binary.name:
        raise InvalidArgument(f"the cubin has the kernel {binary.name!r}, the CPU compiler made {image.name!r}.")
    return replace(binary, image=with_section(binary.image, NAME, host_section(kernel)))
