"""Compiles a kernel with Triton's front end, the vendor's adapter and the emulator, and runs it on NumPy arrays."""

from __future__ import annotations

import ctypes
import importlib
import itertools
import subprocess
import tempfile
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm
import numpy as np
import pytest

from unify._errors import TargetError
from unify.compiler import mlir_reader
from unify.compiler.ascend import TRIES, adapter_flags
from unify.compiler.ascend_text import vendor_text
from unify.compiler.cpu import link
from unify.compiler.persistent import persistent
from unify.simulator import emulator
from unify.simulator.emulator.kernel import generate
from unify.simulator.section import HostKernel

from ...compiler.cpu.harness import Compiled, Fault, compile_kernel

_C = {
    "i1": ctypes.c_int32, "i8": ctypes.c_int32, "i16": ctypes.c_int32, "i32": ctypes.c_int32, "i64": ctypes.c_int64,
    "fp16": ctypes.c_float, "bf16": ctypes.c_float, "fp32": ctypes.c_float, "fp64": ctypes.c_double,
}  # fmt: skip


def tool(name: str) -> Path:
    """One of the vendor's programs; the test is skipped where they are not installed."""
    try:
        toolchain = importlib.import_module("unify.compiler.toolchain")
        return Path(toolchain.find("ascend"), name)
    except (ImportError, TargetError) as problem:
        pytest.skip(str(problem))


def linalg(ttir: str, is_950: bool = False) -> str:
    """What the vendor's adapter makes of a module for the 910B, or the 950."""
    with tempfile.TemporaryDirectory() as folder:
        source, out = Path(folder, "kernel.mlir"), Path(folder, "linalg.mlir")
        source.write_text(vendor_text(ttir))
        command = [str(tool("triton-adapter-opt")), str(source), *adapter_flags(is_950), "-o", str(out)]
        for _ in range(TRIES):
            done = subprocess.run(command, capture_output=True, text=True, check=False)
            if done.returncode >= 0:  # else it crashed
                break
        assert done.returncode == 0, done.stderr
        return out.read_text()


class _Call(ctypes.Structure):
    _fields_ = (
        ("args", ctypes.c_void_p), ("grid", ctypes.c_uint32 * 3), ("reserved", ctypes.c_uint32),
        ("scratch", ctypes.c_void_p), ("fault", ctypes.c_void_p),
    )  # fmt: skip


_counter = itertools.count()


def pack(kernel: HostKernel, grid: tuple[int, ...], values: list[Any], workspace: np.ndarray) -> Any:
    """The arguments as the vendor's launcher packs them. The lock lies in the workspace."""
    data = bytearray(kernel.args_bytes)
    for offset in (8, 16):
        data[offset : offset + 8] = bytes(ctypes.c_uint64(workspace.ctypes.data))
    for value, (type_, offset) in zip(values, kernel.parameters, strict=True):
        raw = ctypes.c_uint64(value.ctypes.data) if type_[0] == "*" else _C[type_](value)
        data[offset : offset + ctypes.sizeof(raw)] = bytes(raw)
    data[-12:] = np.array(grid, np.int32).tobytes()
    return (ctypes.c_char * len(data)).from_buffer(data)


class Loaded:
    """A host object, linked by LLVM."""

    _jit: Any = None

    def __init__(self, kernel: HostKernel) -> None:
        self.kernel = kernel
        if Loaded._jit is None:
            llvm.initialize_native_target()
            llvm.initialize_native_asmprinter()
            llvm.load_library_permanently("libm.so.6")
            llvm.load_library_permanently("libmvec.so.1")
            machine = llvm.Target.from_default_triple().create_target_machine(reloc="pic", codemodel="small")
            # LLVM's older linker, the default, aborts where mmap gives it places 2 GiB apart, as beside devices.
            Loaded._jit = llvm.create_lljit_compiler(machine, use_jit_link=True)
        library = llvm.JITLibraryBuilder().add_object_img(kernel.object).add_current_process()
        self._resources = library.export_symbol(kernel.name).link(Loaded._jit, f"emulated{next(_counter)}")
        prototype = ctypes.CFUNCTYPE(ctypes.c_int32, ctypes.c_void_p, ctypes.c_uint64, ctypes.c_uint64)
        self._entry = prototype(self._resources[kernel.name])
        # What temporaries hold at first is nobody's: 0xff is a NaN, and a large index.
        self._scratch = np.full(kernel.scratch_bytes + 64, 0xFF, np.uint8)

    def run(self, grid: tuple[int, ...], values: list[Any], blocks: range | None = None) -> None:
        """Runs the whole grid, or some of its blocks, on this thread."""
        full, workspace = (*grid, 1, 1, 1)[:3], np.zeros(4096, np.uint8)
        packed = pack(self.kernel, full, values, workspace)
        blocks = blocks if blocks is not None else range(full[0] * full[1] * full[2])
        scratch = (self._scratch.ctypes.data + 63) // 64 * 64
        # The simulated device knows no grid of three axes: the arguments have it.
        self.fault = Fault()
        arguments = (ctypes.addressof(packed), (ctypes.c_uint32 * 3)(len(blocks), 1, 1), 0, scratch)
        call = _Call(*arguments, ctypes.addressof(self.fault))
        status = self._entry(ctypes.addressof(call), blocks.start, blocks.stop)
        assert status == self.fault.kind == 0, self.fault.message


class Looped(Loaded):
    """As Emulated, of the kernel in its persistent form: a few blocks do the programs of a grid."""

    def __init__(self, compiled: Compiled) -> None:
        self.names = [name for name, _, _ in compiled.image.parameters]
        looped = persistent(compiled.ttir)
        assert looped is not None, "the kernel has no persistent form"
        super().__init__(emulator.build(linalg(looped), tool("bishengir-opt")))

    def launch(self, grid: tuple[int, ...], arguments: dict[str, Any], blocks: int) -> None:
        self.run((blocks,), [*(arguments[name] for name in self.names), *(*grid, 1, 1, 1)[:3]])


class Emulated(Loaded):
    """A kernel of Triton through the vendor's adapter; beside it what the CPU target makes of it."""

    def __init__(self, compiled: Compiled, strict: bool = True, is_950: bool = False) -> None:
        self.compiled, self.stages = compiled, dict[str, str]()
        text = linalg(compiled.ttir, is_950)
        super().__init__(emulator.build(text, tool("bishengir-opt"), strict=strict, stages=self.stages))

    def launch(self, grid: tuple[int, ...], arguments: dict[str, Any], blocks: range | None = None) -> None:
        self.run(grid, [arguments[name] for name, _, _ in self.compiled.image.parameters], blocks)


def written(body: str, out: np.ndarray, number: int) -> None:
    """Runs a body that is written in MLIR, with %out (memref<?xi32>) and %n (i32): what no kernel of Triton has."""
    places = ", ".join(f"%place{i}: i32" for i in range(6))
    module = mlir_reader.parse(f"""
#id = affine_map<(d0) -> (d0)>
#none = affine_map<(d0) -> ()>
"builtin.module"() ({{
  "func.func"() <{{sym_name = "written"}}> ({{
  ^bb0(%lock: memref<?xi8>, %work: memref<?xi8>, %out: memref<?xi32>, %n: i32, {places}):
    {body}
    "func.return"() : () -> ()
  }}) {{SyncBlockLockArgIdx = 0 : i64, WorkspaceArgIdx = 1 : i64}} : () -> ()
}}) : () -> ()
""")
    generated = generate(module, link.features(""), strict=True)
    image = link.link(generated.text, link.features(""))
    arguments = (generated.grid_offset + 12, generated.scratch_bytes, generated.parameters)
    Loaded(HostKernel(generated.name, image, *arguments)).run((1,), [out, number])


def emulate(fn: Any, grid: tuple[int, ...], arguments: dict[str, Any], **constants: Any) -> Emulated:
    """Compiles and runs once; arrays are changed in place."""
    emulated = Emulated(compile_kernel(fn, arguments, constants))
    emulated.launch(grid, arguments)
    return emulated


def compare(
    fn: Any, grid: tuple[int, ...], arguments: dict[str, Any], rtol: float = 0, atol: float = 0,
    types: dict[str, str] | None = None, is_950: bool = False, **constants: Any,
) -> None:  # fmt: skip
    """Asserts that the emulator leaves in all arrays what the CPU target does."""
    compiled = compile_kernel(fn, arguments, constants, types=types)
    theirs = {name: v.copy() if isinstance(v, np.ndarray) else v for name, v in arguments.items()}
    assert compiled.prepare(grid, theirs)() == 0
    Emulated(compiled, is_950=is_950).launch(grid, arguments)
    for name, value in arguments.items():
        if isinstance(value, np.ndarray):
            np.testing.assert_allclose(
                _floats(value, types, name), _floats(theirs[name], types, name), rtol=rtol, atol=atol, err_msg=name
            )


def _floats(value: np.ndarray, types: dict[str, str] | None, name: str) -> np.ndarray:
    is_bfloat = value.dtype == np.uint16 and (types or {}).get(name, "*bf16") == "*bf16"
    return (value.astype(np.uint32) << 16).view(np.float32) if is_bfloat else value
