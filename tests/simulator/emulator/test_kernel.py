"""The function around a kernel's program: arguments as the vendor packs them, and programs in the chip's order."""

from __future__ import annotations

import numpy as np
import pytest
import triton
import triton.language as tl

import unify as un
from unify.compiler import mlir_reader
from unify.compiler.cpu import link
from unify.simulator.emulator.kernel import generate

from .harness import Emulated, compile_kernel, emulate


@triton.jit
def _places(out):
    x, y, z = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    linear = (x * tl.num_programs(1) + y) * tl.num_programs(2) + z
    tl.store(out + linear, 1000000 + x * 10000 + y * 100 + z)


@pytest.mark.parametrize("blocks", [range(24), range(5, 17), range(23, 24), range(7, 7)])
def test_the_last_axis_of_the_grid_runs_fastest(blocks: range) -> None:
    out = np.zeros(24, np.int32)
    Emulated(compile_kernel(_places, {"out": out})).launch((2, 3, 4), {"out": out}, blocks)
    place = np.indices((2, 3, 4)).reshape(3, -1)
    expected = 1000000 + place[0] * 10000 + place[1] * 100 + place[2]
    np.testing.assert_array_equal(out, np.where(np.isin(np.arange(24), blocks), expected, 0))


@triton.jit
def _scalars(out, flag, small, whole, large, single, double, last):
    tl.store(out, flag.to(tl.float64))
    tl.store(out + 1, small.to(tl.float64))
    tl.store(out + 2, whole.to(tl.float64))
    tl.store(out + 3, large.to(tl.float64))
    tl.store(out + 4, single.to(tl.float64))
    tl.store(out + 5, double)
    tl.store(out + 6, last.to(tl.float64))


def test_arguments_lie_as_the_vendors_launcher_packs_them() -> None:
    types = {
        "out": "*fp64", "flag": "i1", "small": "i8", "whole": "i32", "large": "i64", "single": "fp32", "double": "fp64",
        "last": "i16",
    }  # fmt: skip
    values = {
        "out": np.zeros(7), "flag": True, "small": -5, "whole": 70000, "large": -(2**40), "single": 1.5, "double": 0.1,
        "last": -300,
    }  # fmt: skip
    emulated = Emulated(compile_kernel(_scalars, values, types=types))
    assert dict(emulated.kernel.parameters) == {
        "*fp64": 24, "i1": 32, "i8": 36, "i32": 40, "i64": 48, "fp32": 56, "fp64": 64, "i16": 72,
    }  # fmt: skip
    assert emulated.kernel.args_bytes == 76 + 12
    emulated.launch((1,), values)
    np.testing.assert_array_equal(values["out"], [1, -5, 70000, -(2.0**40), 1.5, 0.1, -300])


@triton.jit
def _copy(x, out, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(out + at, tl.load(x + at))


def test_the_object_names_the_kernel_and_its_memory() -> None:
    x, out = np.arange(64, dtype=np.float32), np.zeros(64, np.float32)
    kernel = emulate(_copy, (1,), {"x": x, "out": out}, N=64).kernel
    assert (kernel.name, kernel.object[:4]) == ("_copy", b"\x7fELF")
    assert kernel.scratch_bytes >= 64 * 4
    np.testing.assert_array_equal(x, out)


MODULE = """"builtin.module"() ({
  "func.func"() <{function_type = (memref<?xi8>, memref<?xi8>, i32, i32, i32, i32, i32, i32) -> (), sym_name = "k"}> ({
  ^bb0(%a: memref<?xi8>, %b: memref<?xi8>, %c: i32, %d: i32, %e: i32, %f: i32, %g: i32, %h: i32):
    BODY
    "func.return"() : () -> ()
  }) {SyncBlockLockArgIdx = 0 : i64, WorkspaceArgIdx = 1 : i64} : () -> ()
}) : () -> ()
"""


def build(body: str) -> None:
    module = mlir_reader.parse(MODULE.replace("BODY", body))
    generate(module, link.features(""), strict=True)


def test_what_is_not_known_is_named_with_its_line() -> None:
    with pytest.raises(
        un.errors.CompileError, match=r"moe\.py:17: the emulator cannot run hivm\.hir\.copy: no code"
    ) as error:
        build('"hivm.hir.copy"(%a) : (memref<?xi8>) -> () loc("moe.py":17:3)')
    assert (error.value.file, error.value.line) == ("moe.py", 17)


def test_a_library_function_that_is_not_known_is_named() -> None:
    with pytest.raises(un.errors.CompileError, match=r"k\.py:3: .*the library function triton_fft_0"):
        build('"func.call"(%c) <{callee = @triton_fft_0}> : (i32) -> () loc("k.py":3:1)')


def test_a_temporary_without_a_size_is_refused() -> None:
    with pytest.raises(un.errors.CompileError, match=r"a temporary of unknown size, memref<\?xf32>"):
        build('%n = "arith.index_cast"(%c) : (i32) -> index %m = "memref.alloc"(%n) : (index) -> memref<?xf32>')


def test_too_many_temporaries_are_refused() -> None:
    with pytest.raises(un.errors.CompileError, match=r"tiles take 128 MiB at a time; the limit is 64 MiB"):
        build('%m = "memref.alloc"() : () -> memref<33554432xf32> "memref.store"(%m) : (memref<33554432xf32>) -> ()')


def test_two_kernels_in_a_module_are_refused() -> None:
    with pytest.raises(un.errors.CompileError, match="expected one kernel in the vendor's module, found 0"):
        generate(mlir_reader.parse('"builtin.module"() ({\n}) : () -> ()'), link.features(""), strict=True)
