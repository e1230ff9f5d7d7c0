"""Compiles a kernel with Triton's front end and our CPU compiler alone, and runs it on NumPy arrays."""

from __future__ import annotations

import ctypes
import itertools
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest

from unify.compiler import Specialization, cpu, to_ttir
from unify.compiler.cpu.link import features

from . import emulator

_TYPES = {
    "float32": "fp32", "float64": "fp64", "float16": "fp16", "uint16": "bf16", "int8": "i8", "uint8": "u8",
    "int16": "i16", "int32": "i32", "int64": "i64", "uint32": "u32", "uint64": "u64", "bool": "i1",
}  # fmt: skip
_C = {
    "i1": ctypes.c_bool,
    "i32": ctypes.c_int32,
    "i64": ctypes.c_int64,
    "fp32": ctypes.c_float,
    "fp64": ctypes.c_double,
}


def ttir(fn: Any, signature: dict[str, str], constants: dict[str, Any], aligned: set[str], debug: bool = False) -> str:
    specialization = Specialization(signature, constants, frozenset(aligned))
    return to_ttir(fn, specialization, num_warps=4, num_stages=1, debug=debug)


class _Call(ctypes.Structure):
    _fields_ = (
        ("args", ctypes.c_void_p), ("grid", ctypes.c_uint32 * 3), ("reserved", ctypes.c_uint32),
        ("scratch", ctypes.c_void_p), ("fault", ctypes.c_void_p),
    )  # fmt: skip


class Fault(ctypes.Structure):
    _fields_ = (
        ("kind", ctypes.c_uint32), ("line", ctypes.c_uint32), ("program", ctypes.c_uint32 * 3),
        ("argument", ctypes.c_int32), ("offset", ctypes.c_int64), ("message", ctypes.c_char_p),
        ("file", ctypes.c_char_p),
    )  # fmt: skip


_counter = itertools.count()


class Compiled:
    """A kernel loaded through LLVM's own linker, or run by an emulator if it is for a processor of another kind."""

    _jit: Any = None

    def __init__(self, text: str, arch: str = "") -> None:
        self.ttir = text
        self.stages: dict[str, str] = {}
        self.image = cpu.build(text, arch, self.stages)
        self.fault = Fault()
        self.target, host = features(arch), features("")
        self.is_foreign = self.target.triple != host.triple
        self.lacking = ", ".join(sorted(self.target.flags - host.flags))
        self._resources: Any = None  # until it is run

    def _load(self) -> None:
        if Compiled._jit is None:
            llvm.load_library_permanently("libm.so.6")
            llvm.load_library_permanently("libmvec.so.1")
            target = llvm.Target.from_default_triple()
            machine = target.create_target_machine(reloc="pic", codemodel="small")
            # LLVM's older linker, the default, aborts where mmap gives it places 2 GiB apart, as beside devices.
            Compiled._jit = llvm.create_lljit_compiler(machine, use_jit_link=True)
        library = llvm.JITLibraryBuilder().add_object_img(self.image.object).add_current_process()
        self._resources = library.export_symbol(self.image.name).link(Compiled._jit, f"kernel{next(_counter)}")
        prototype = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64)
        self.entry = prototype(self._resources[self.image.name])
        self._scratch = np.zeros(self.image.scratch_bytes + 64, dtype=np.uint8)

    def pack(self, arguments: dict[str, Any]) -> Any:
        data = bytearray(max(8, self.image.args_bytes))
        for name, type_, offset in self.image.parameters:
            value = arguments[name]
            raw = ctypes.c_uint64(value.ctypes.data) if type_.startswith("*") else _C[type_](value)
            data[offset : offset + ctypes.sizeof(raw)] = bytes(raw)
        return (ctypes.c_char * len(data)).from_buffer(data)

    def prepare(self, grid: tuple[int, ...], arguments: dict[str, Any]) -> Any:
        """A function without arguments that runs the whole grid on this thread."""
        if self.is_foreign:
            packed = self.pack(arguments)
            return lambda: emulator.run(self.image, self.target, (*grid, 1, 1, 1)[:3], packed, arguments, self.fault)
        if self.lacking:
            pytest.skip(f"compiled, but this processor cannot run it: it lacks {self.lacking}")
        if self._resources is None:
            self._load()
        full = (*grid, 1, 1, 1)[:3]
        packed = self.pack(arguments)
        scratch = (self._scratch.ctypes.data + 63) // 64 * 64
        call = _Call(ctypes.addressof(packed), (ctypes.c_uint32 * 3)(*full), 0, scratch, ctypes.addressof(self.fault))
        address, total = ctypes.addressof(call), full[0] * full[1] * full[2]

        def run(keep: Any = (packed, call, arguments)) -> int:
            return int(self.entry(address, 0, total))

        return run


def compile_kernel(
    fn: Any, arguments: dict[str, Any], constants: dict[str, Any] | None = None, *, types: dict[str, str] | None = None,
    arch: str = "", debug: bool = False, aligned: bool = True,
) -> Compiled:  # fmt: skip
    """Signature and alignment hints as a launch with these arguments would make them; an int of 1 is a constant."""
    constants = dict(constants or {})
    signature, hinted = {}, set()
    for name in fn.arg_names:
        if name in constants:
            signature[name] = "constexpr"
            continue
        value = arguments[name]
        if types and name in types:
            signature[name] = types[name]
        elif isinstance(value, np.ndarray):
            signature[name] = "*" + _TYPES[str(value.dtype)]
        elif isinstance(value, bool):
            signature[name] = "i1"
        elif isinstance(value, int) and value == 1:
            signature[name], constants[name] = "constexpr", 1
        elif isinstance(value, int):
            signature[name] = "i32" if -(2**31) <= value < 2**31 else "i64"
        else:
            signature[name] = "fp32"
        if aligned and (
            (isinstance(value, np.ndarray) and value.ctypes.data % 16 == 0)
            or (isinstance(value, int) and not isinstance(value, bool) and value % 16 == 0)
        ):
            hinted.add(name)
    return Compiled(ttir(fn, signature, constants, hinted - set(constants), debug), arch)


def run(fn: Any, grid: tuple[int, ...], arguments: dict[str, Any], **constants: Any) -> Compiled:
    """Compiles and runs once; arrays are changed in place."""
    compiled = compile_kernel(fn, arguments, constants)
    status = compiled.prepare(grid, arguments)()
    assert status == 0, f"kernel returned {status}"
    return compiled
