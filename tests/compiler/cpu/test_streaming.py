"""Stores past the caches: only for large results whose registers are aligned, and with the same bytes in the end."""

from __future__ import annotations

import numpy as np
import pytest
import triton
import triton.language as tl

from unify.compiler.cpu.codegen.streaming import LEAST_BYTES

from .harness import compile_kernel


@triton.jit
def scale_kernel(x, out, size, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    tl.store(out + place, tl.load(x + place % 4096) * 2, mask=inside)


@triton.jit
def in_place_kernel(x, size, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + place, tl.load(x + place, mask=place < size) * 2, mask=place < size)


@triton.jit
def rows_kernel(x, out, columns, stride, M: tl.constexpr, N: tl.constexpr):
    row, column = tl.program_id(0) * M + tl.arange(0, M)[:, None], tl.arange(0, N)[None, :]
    value = tl.load(x + row % 64 * N + column)
    tl.store(out + row * stride + column, value + 1, mask=column < columns)


@pytest.mark.parametrize("first", [0, 8, 1])  # aligned to a register, to half a line, to an element
@pytest.mark.parametrize("size", [LEAST_BYTES // 4, LEAST_BYTES // 4 - 5, 100])
@pytest.mark.parametrize("dtype", ["float32", "float16"])
def test_results_of_any_size_and_alignment(first, size, dtype):
    x = np.random.default_rng(0).standard_normal(4096).astype(dtype)
    memory = np.full(size + 64, 7, dtype)
    start = -memory.ctypes.data % 64 // memory.itemsize + first
    out = memory[start : start + size]
    arguments = {"x": x, "out": out, "size": size}
    kernel = compile_kernel(scale_kernel, arguments, {"BLOCK": 1024})
    assert kernel.prepare((-(-size // 1024),), arguments)() == 0
    np.testing.assert_array_equal(out, np.resize(x * x.dtype.type(2), size))
    assert (memory[:start] == 7).all()
    assert (memory[start + size :] == 7).all()


@pytest.mark.parametrize("stride", [512, 520, 513])
def test_rows_whose_stride_is_an_argument(stride):
    rows, columns = LEAST_BYTES // 2048, 512
    x = np.random.default_rng(1).standard_normal((64, columns)).astype(np.float32)
    out = np.full((rows, stride), 7, np.float32)
    arguments = {"x": x, "out": out, "columns": columns, "stride": stride}
    kernel = compile_kernel(rows_kernel, arguments, {"M": 16, "N": columns})
    assert kernel.prepare((rows // 16,), arguments)() == 0
    np.testing.assert_array_equal(out[:, :columns], np.tile(x + 1, (rows // 64, 1)))
    assert (out[:, columns:] == 7).all()


def test_only_what_the_kernel_does_not_read_goes_past_the_caches():
    x = np.zeros(4096, np.float32)
    apart = compile_kernel(scale_kernel, {"x": x, "out": x, "size": 4096}, {"BLOCK": 1024}, arch="x86-64-v3")
    assert "!nontemporal" in apart.stages["llvm"]
    assert "sfence" in apart.stages["asm"]
    narrow = compile_kernel(scale_kernel, {"x": x, "out": x, "size": 4096}, {"BLOCK": 32}, arch="x86-64-v3")
    assert "!nontemporal" not in narrow.stages["llvm"]  # a program's part is too short
    within = compile_kernel(in_place_kernel, {"x": x, "size": 4096}, {"BLOCK": 1024}, arch="x86-64-v3")
    assert "!nontemporal" not in within.stages["llvm"]
    assert "sfence" not in within.stages["asm"]


@triton.jit
def publish_kernel(x, out, flags, BLOCK: tl.constexpr):
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + place, tl.load(x + place % 4096))
    tl.atomic_add(flags + tl.program_id(0), 1, sem="release")


def test_a_program_that_tells_others_of_its_results_keeps_them_in_order():
    arguments = {"x": np.zeros(4096, np.float32), "out": np.zeros(4096, np.float32), "flags": np.zeros(1, np.int32)}
    kernel = compile_kernel(publish_kernel, arguments, {"BLOCK": 4096}, arch="x86-64-v3")
    assert "!nontemporal" not in kernel.stages["llvm"]
