"""A simulated ACL, and kernels that run on it: `simulate("ascend:910B3")`."""

from __future__ import annotations

import ctypes
import functools
import importlib
import re
import struct
from dataclasses import replace
from pathlib import Path

from unify._device import open_driver
from unify._errors import InvalidArgument
from unify.compiler.target import Binary, Options, Target, register_target

from .section import ASCEND_NAME, HostKernel, empty_elf, host_section, with_section
from .simulation import GIB, Simulation, Words, error_of, load, made_once, whole

MODELS = ("910B1", "910B2", "910B3", "910B4", "910C", "950")
_WORDS = Words("Ascend", "aclrtLaunchKernelWithHostArgs", "aclrtMemcpyAsync", "ACL_ERROR_RT_AICORE_EXCEPTION")
_OF_OPERATORS = ("acl_op_compiler", "opapi")
LIBRARIES = (  # of the vendor's
    "ascendcl", "acl_tdt_channel", "ascend_hal", "ge_runner", "graph", "hccl", "hcomm", "msprofiler", *_OF_OPERATORS,
)  # fmt: skip
_TEXT = re.compile(r"ascend:(?P<model>\w+?)(?:x(?P<count>\d+))?(?:,(?P<memory_gib>\d+(?:\.\d+)?)g)?")
_IMAGE = struct.Struct("<8sIIIIQ")  # how the backend's images begin: magic, version, header, kind, mode, payload
_MAGIC = b"UNIFYASC"
_OBJECT = 0


def library_path() -> Path:
    """The shared library that takes the place of libascendcl.so."""
    return Path(__file__).with_name("libunify_simulated_ascendcl.so")


@functools.cache
def _library() -> ctypes.CDLL:
    path = library_path()
    if not path.exists():
        raise InvalidArgument(f"simulated Ascend: {path} is not there; build it with `make build`.")
    library = load(str(path))
    library.unify_simulator_configure.argtypes = [ctypes.c_int, ctypes.c_char_p, ctypes.c_uint64]
    return library


def link_libraries(folder: Path, operators: Path) -> None:
    """Makes links in a folder, under the names of the vendor's libraries that torch_npu is linked with or opens.

    operators: what libopapi.so and libacl_op_compiler.so shall be, made by `unify.simulator.operators.library`; the
    others are the simulated libascendcl.so. Links of before are replaced; other files of these names stay, and raise
    FileExistsError. Such a program runs on simulated chips with LD_LIBRARY_PATH=folder.
    """
    for name in LIBRARIES:
        link = folder / f"lib{name}.so"
        if link.is_symlink():
            link.unlink()
        link.symlink_to(operators if name in _OF_OPERATORS else library_path())


def simulate(target: str = "ascend:910B3", count: int = 1, memory_bytes: int = GIB) -> Simulation:
    """Makes this process see `count` simulated chips of a model: 910B1, 910B2, 910B3, 910B4, 910C or 950.

    Before the first Ascend device is opened. Kernels compiled for the target `ascend` run on them from then on: what
    Huawei's compiler made of a kernel, up to its assembler, runs on the CPU. The same again is the same object. Raises
    InvalidArgument.
    """
    kind, _, model = target.partition(":")
    if kind != "ascend" or model not in MODELS:
        raise InvalidArgument(f"simulate: {target!r} is not a chip; known: {', '.join(MODELS)}. Say ascend:910B3.")
    asked = (model, whole("count", count), whole("memory_bytes", memory_bytes, (1 << 63) - 1))
    return made_once("ascend", asked, lambda: _make(*asked))


def _make(model: str, count: int, memory_bytes: int) -> Simulation:
    library = _library()

    def configure() -> None:
        if library.unify_simulator_configure(count, model.encode(), memory_bytes) < 0:
            raise InvalidArgument(f"simulated Ascend: {error_of(library)}.")

    open_driver("ascend", str(library_path()), configure)
    register_target("ascend", compile_simulated)
    return Simulation(library, f"ascend:{model}", count, _WORDS)


def from_text(text: str) -> Simulation:
    """Reads "ascend:910B3", "ascend:910B3x2" for two of them, "ascend:910B3x2,8g" for 8 GiB of memory each.

    Raises InvalidArgument.
    """
    found = _TEXT.fullmatch(text)
    if found is None:
        raise InvalidArgument(
            f"UNIFY_SIMULATE={text!r}: say ascend:910B3, ascend:910B3x2 for two, or ascend:910B3x2,8g."
        )
    memory_bytes = int(float(found["memory_gib"] or 1) * GIB)
    return simulate(f"ascend:{found['model']}", int(found["count"] or 1), memory_bytes)


def compile_simulated(ttir: str, target: Target, options: Options) -> Binary:
    """The compile half of `ascend` while it is simulated: all that Huawei's compiler does, and then the CPU's code.

    The code is made of the linalg stage, in place of the binary that CANN's assembler would make.
    """
    compiler = importlib.import_module("unify.compiler.ascend")
    toolchain = importlib.import_module("unify.compiler.toolchain")
    emulator = importlib.import_module("unify.simulator.emulator")
    binary: Binary = compiler.compile(ttir, target, replace(options, stages=(*options.stages, "linalg")))
    kernel: HostKernel = emulator.build(binary.stages["linalg"], toolchain.find("ascend") / "bishengir-opt")
    stages = binary.stages if options.stages else {}
    return replace(with_host_code(binary, kernel), stages=stages)


def with_host_code(binary: Binary, kernel: HostKernel) -> Binary:
    """Returns a binary whose image a simulated chip can load: its header, and an object with the CPU's code in it.

    Raises InvalidArgument if the image is none of the Ascend backend's, or of another kernel.
    """
    if len(binary.image) < _IMAGE.size or binary.image[:8] != _MAGIC:
        raise InvalidArgument("with_host_code: not an image of the Ascend backend.")
    if kernel.name != binary.name or kernel.args_bytes > binary.args_bytes:
        raise InvalidArgument(
            f"the image has the kernel {binary.name!r} with {binary.args_bytes} bytes of arguments, the emulator made "
            f"{kernel.name!r} with {kernel.args_bytes}."
        )
    magic, version, header_bytes, _, mode, _ = _IMAGE.unpack_from(binary.image)
    payload = container(kernel)
    header = _IMAGE.pack(magic, version, header_bytes, _OBJECT, mode, len(payload))
    return replace(binary, image=header + binary.image[_IMAGE.size : header_bytes] + payload)


def container(kernel: HostKernel) -> bytes:
    """Returns the ELF file that the simulated aclrtBinaryLoadFromData takes, with one kernel in it."""
    return with_section(empty_elf(), ASCEND_NAME, host_section(kernel))
