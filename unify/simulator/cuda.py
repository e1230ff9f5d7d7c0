"""A simulated CUDA driver, and kernels that run on it: `simulate("cuda:90")`."""

from __future__ import annotations

import ctypes
import functools
import re
from dataclasses import replace
from pathlib import Path

from unify._device import open_driver
from unify._errors import InvalidArgument
from unify.compiler.target import Binary, CompileFunction, Options, Target, register_target

from .section import NAME, HostKernel, host_section, with_section
from .simulation import GIB, Simulation, Words, error_of, load, made_once, whole

CAPABILITIES = (80, 86, 89, 90, 100, 120)
_WORDS = Words("CUDA", "cuLaunchKernelEx", "cuMemcpyAsync", "CUDA_ERROR_ILLEGAL_ADDRESS")
_TEXT = re.compile(r"cuda:(?P<capability>\d+)(?:x(?P<count>\d+))?(?:,(?P<memory_gib>\d+(?:\.\d+)?)g)?")


def library_path() -> Path:
    """The shared library that takes the place of libcuda.so.1."""
    return Path(__file__).with_name("libunify_simulated_cuda.so")


@functools.cache
def _library() -> ctypes.CDLL:
    path = library_path()
    if not path.exists():
        raise InvalidArgument(f"simulated CUDA: {path} is not there; build it with `make build`.")
    library = load(str(path))
    library.unify_simulator_configure.argtypes = [ctypes.c_int, ctypes.c_int, ctypes.c_uint64, ctypes.c_char_p]
    return library


def simulate(target: str = "cuda:90", count: int = 1, memory_bytes: int = GIB, name: str | None = None) -> Simulation:
    """Makes this process see `count` simulated chips of a compute capability: 80, 86, 89, 90, 100 or 120.

    Before the first CUDA device is opened. Kernels compiled for the target `cuda` run on them from then on: each cubin
    carries the CPU compiler's code too. The same again is the same object. Raises InvalidArgument.
    """
    kind, _, arch = target.partition(":")
    if kind != "cuda" or not arch.isdecimal():
        raise InvalidArgument(f"simulate: {target!r} is not a chip; say cuda:90, for example.")
    if int(arch) not in CAPABILITIES:
        known = ", ".join(map(str, CAPABILITIES))
        raise InvalidArgument(f"simulate: {target!r} is no chip that can be simulated; known: {known}.")
    asked = (int(arch), whole("count", count), whole("memory_bytes", memory_bytes, (1 << 63) - 1), name)
    return made_once("cuda", asked, lambda: _make(*asked))


def _make(arch: int, count: int, memory_bytes: int, name: str | None) -> Simulation:
    library = _library()
    encoded = None if name is None else name.encode()

    def configure() -> None:
        if library.unify_simulator_configure(count, arch, memory_bytes, encoded) < 0:
            raise InvalidArgument(f"simulated CUDA: {error_of(library)}.")

    open_driver("cuda", str(library_path()), configure)
    register_target("cuda", compile_simulated)
    return Simulation(library, f"cuda:{arch}", count, _WORDS)


def from_text(text: str) -> Simulation:
    """Reads "cuda:90", "cuda:90x2" for two of them, "cuda:90x2,4g" for 4 GiB of memory each. Raises InvalidArgument."""
    found = _TEXT.fullmatch(text)
    if found is None:
        raise InvalidArgument(
            f"UNIFY_SIMULATE={text!r}: say cuda:90, cuda:90x2 for two chips, or cuda:90x2,4g; of Ascend, ascend:910B3."
        )
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
