"""Products and reductions: the order of their sums, and where it cannot be seen."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import triton
import triton.language as tl

from .harness import Emulated, compare, compile_kernel, emulate, written

RNG = np.random.default_rng(7)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@triton.jit
def _product(a, b, out, m, n, k, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    rows, columns = tl.program_id(0) * M + tl.arange(0, M), tl.program_id(1) * N + tl.arange(0, N)
    total = tl.zeros((M, N), tl.float32)
    for start in range(0, k, K):
        depth = start + tl.arange(0, K)
        x = tl.load(a + rows[:, None] * k + depth[None, :], (rows[:, None] < m) & (depth[None, :] < k), other=0.0)
        y = tl.load(b + depth[:, None] * n + columns[None, :], (depth[:, None] < k) & (columns[None, :] < n), other=0.0)
        total = tl.dot(x, y, total)
    inside = (rows[:, None] < m) & (columns[None, :] < n)
    tl.store(out + rows[:, None] * n + columns[None, :], total.to(out.dtype.element_ty), inside)


@pytest.mark.parametrize(("m", "n", "k"), [(64, 64, 64), (70, 130, 100), (3, 17, 33)])
@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_a_product_adds_in_the_order_of_its_depth(m: int, n: int, k: int, dtype: type) -> None:
    a, b, out = floats(m, k).astype(dtype), floats(k, n).astype(dtype), np.zeros((m, n), np.float32)
    arguments = {"a": a, "b": b, "out": out, "m": m, "n": n, "k": k}
    emulate(_product, (-(-m // 32), -(-n // 64)), arguments, M=32, N=64, K=32)
    expected = np.zeros((m, n), np.float32)
    for i in range(k):  # float32, one rounding a step, as the text has it
        expected += a[:, i : i + 1].astype(np.float32) * b[i : i + 1].astype(np.float32)
    np.testing.assert_array_equal(out, expected)


def test_a_fast_build_may_add_in_another_order_and_is_as_near() -> None:
    a, b, out = floats(64, 64), floats(64, 64), np.zeros((64, 64), np.float32)
    arguments = {"a": a, "b": b, "out": out, "m": 64, "n": 64, "k": 64}
    compiled = compile_kernel(_product, arguments, {"M": 32, "N": 32, "K": 32})
    Emulated(compiled, strict=False).launch((2, 2), arguments)
    np.testing.assert_allclose(out, a @ b, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("dtype", ["float16", "bfloat16"])
def test_products_of_short_floats_agree_with_the_cpu_target(dtype: str) -> None:
    def short(x: np.ndarray) -> np.ndarray:
        return x.astype(np.float16) if dtype == "float16" else (x.view(np.uint32) >> 16).astype(np.uint16)

    out = short(np.zeros((70, 90), np.float32))
    arguments = {"a": short(floats(70, 128)), "b": short(floats(128, 90)), "out": out, "m": 70, "n": 90, "k": 128}
    step = 2.0**-10 if dtype == "float16" else 2.0**-7
    compare(_product, (3, 2), arguments, rtol=step, atol=16 * step, M=32, N=64, K=64)


@triton.jit
def _sums(x, out, M: tl.constexpr, N: tl.constexpr):
    rows, columns = tl.arange(0, M), tl.arange(0, N)
    value = tl.load(x + rows[:, None] * N + columns[None, :])
    tl.store(out + rows, tl.sum(value, 1))
    tl.store(out + M + columns, tl.sum(value, 0))
    tl.store(out + M + N + rows, tl.max(value, 1))
    tl.store(out + 2 * M + N + columns, tl.min(value, 0))


@pytest.mark.parametrize(("m", "n"), [(1, 64), (4, 4), (16, 128), (128, 16), (64, 2)])
def test_reductions_along_both_axes(m: int, n: int) -> None:
    x, out = floats(m, n), np.zeros(2 * (m + n), np.float32)
    emulate(_sums, (1,), {"x": x, "out": out}, M=m, N=n)
    expected = np.zeros(2 * (m + n), np.float32)
    for i in range(n):
        expected[:m] += x[:, i]
    for i in range(m):
        expected[m : m + n] += x[i]
    expected[m + n :] = np.concatenate([x.max(1), x.min(0)])
    np.testing.assert_array_equal(out, expected)


@triton.jit
def _integer_sums(x, out, M: tl.constexpr, N: tl.constexpr):
    rows, columns = tl.arange(0, M), tl.arange(0, N)
    value = tl.load(x + rows[:, None] * N + columns[None, :])
    flat = tl.reshape(value, (M * N,))
    tl.store(out, tl.sum(flat, 0))
    tl.store(out + 1, tl.max(flat, 0))
    tl.store(out + 2, tl.min(flat, 0))
    tl.store(out + 3, tl.xor_sum(flat, 0))
    tl.store(out + 4 + rows, tl.sum(value, 1))


@pytest.mark.parametrize(("m", "n"), [(2, 32), (8, 8), (16, 64)])
def test_whole_numbers_are_reduced_in_lanes(m: int, n: int) -> None:
    x = RNG.integers(-(2**31), 2**31, (m, n)).astype(np.int32)
    out = np.zeros(4 + m, np.int32)
    emulate(_integer_sums, (1,), {"x": x, "out": out}, M=m, N=n)
    with np.errstate(over="ignore"):
        expected = [x.sum(dtype=np.int32), x.max(), x.min(), np.bitwise_xor.reduce(x, None), *x.sum(1, dtype=np.int32)]
    np.testing.assert_array_equal(out, np.array(expected, np.int32))


@triton.jit
def _arg_extremes(x, out, M: tl.constexpr, N: tl.constexpr):
    rows, columns = tl.arange(0, M), tl.arange(0, N)
    value = tl.load(x + rows[:, None] * N + columns[None, :])
    tl.store(out + rows, tl.argmax(value, 1))
    tl.store(out + M + columns, tl.argmin(value, 0))


def test_the_first_of_equal_extremes_is_named() -> None:
    x = RNG.integers(0, 5, (16, 32)).astype(np.float32)
    out = np.zeros(48, np.int32)
    emulate(_arg_extremes, (1,), {"x": x, "out": out}, M=16, N=32)
    np.testing.assert_array_equal(out, np.concatenate([x.argmax(1), x.argmin(0)]))


@triton.jit
def _any_extremes(x, out, N: tl.constexpr):
    value = tl.load(x + tl.program_id(0) * N + tl.arange(0, N))
    tl.store(out + tl.program_id(0) * 2, tl.argmax(value, 0, tie_break_left=False))
    tl.store(out + tl.program_id(0) * 2 + 1, tl.argmin(value, 0, tie_break_left=False))


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int32])
def test_extremes_begin_with_nothing_that_stood_there_before(dtype: Any) -> None:
    x = (RNG.permutation(6 * 64).reshape(6, 64) - 200).astype(dtype)
    out = np.zeros((6, 2), np.int32)
    emulate(_any_extremes, (6,), {"x": x, "out": out}, N=64)
    np.testing.assert_array_equal(out, np.stack([x.argmax(1), x.argmin(1)], 1))


@triton.jit
def _bytes(x, y, out, K: tl.constexpr):
    rows, depth = tl.arange(0, 16), tl.arange(0, K)
    a = tl.load(x + rows[:, None] * K + depth[None, :]).to(tl.int32)
    b = tl.load(y + rows[:, None] * K + depth[None, :]).to(tl.int32)
    tl.store(out + rows[:, None] * 16 + rows[None, :], tl.sum(a[:, None, :] * b[None, :, :], 2))


def test_a_broadcast_product_is_not_written_out_before_its_sum() -> None:
    x, y = (RNG.integers(-128, 128, (16, 8)).astype(np.int8) for _ in range(2))
    out = np.zeros((16, 16), np.int32)
    emulated = emulate(_bytes, (1,), {"x": x, "y": y, "out": out}, K=8)
    np.testing.assert_array_equal(out, x.astype(np.int32) @ y.T.astype(np.int32))
    assert emulated.kernel.scratch_bytes < 16 * 16 * 8 * 4


@triton.jit
def _batches(x, y, out, B: tl.constexpr):
    at = tl.arange(0, B)
    place = tl.arange(0, 4)[:, None, None] * B * B + at[None, :, None] * B + at[None, None, :]
    tl.store(out + place, tl.dot(tl.load(x + place), tl.load(y + place)))


def test_a_batch_of_products() -> None:
    x, y, out = floats(4, 32, 32), floats(4, 32, 32), np.zeros((4, 32, 32), np.float32)
    emulate(_batches, (1,), {"x": x, "y": y, "out": out}, B=32)
    np.testing.assert_allclose(out, x.astype(np.float64) @ y, rtol=1e-4, atol=1e-5)


@triton.jit
def _byte_product(x, y, out, B: tl.constexpr):
    at = tl.arange(0, B)
    place = at[:, None] * B + at[None, :]
    tl.store(out + place, tl.dot(tl.load(x + place), tl.load(y + place)))


def test_a_product_of_bytes() -> None:
    x, y = (RNG.integers(-128, 128, (32, 32)).astype(np.int8) for _ in range(2))
    out = np.zeros((32, 32), np.int32)
    emulate(_byte_product, (1,), {"x": x, "y": y, "out": out}, B=32)
    np.testing.assert_array_equal(out, x.astype(np.int32) @ y.astype(np.int32))


def test_a_number_that_is_summed_itself_keeps_its_value() -> None:
    out = np.zeros(2, np.int32)
    body = """
    %zero = "arith.constant"() <{value = 0 : index}> : () -> index
    %one = "arith.constant"() <{value = 1 : index}> : () -> index
    %nothing = "arith.constant"() <{value = 0 : i32}> : () -> i32
    %x = "memref.alloc"() : () -> memref<64xi32>
    %sum = "memref.alloc"() : () -> memref<i32>
    "memref.store"(%nothing, %sum) : (i32, memref<i32>) -> ()
    "linalg.generic"(%x, %sum) <{
      indexing_maps = [#id, #none], iterator_types = [#linalg.iterator_type<reduction>],
      operandSegmentSizes = array<i32: 1, 1>
    }> ({
    ^bb0(%in: i32, %old: i32):
      %v = "arith.addi"(%n, %old) : (i32, i32) -> i32
      "linalg.yield"(%v) : (i32) -> ()
    }) : (memref<64xi32>, memref<i32>) -> ()
    %total = "memref.load"(%sum) : (memref<i32>) -> i32
    "memref.store"(%total, %out, %zero) : (i32, memref<?xi32>, index) -> ()
    "memref.store"(%n, %out, %one) : (i32, memref<?xi32>, index) -> ()"""
    written(body, out, 3)
    np.testing.assert_array_equal(out, [192, 3])


@triton.jit
def _long(x, out, n, N: tl.constexpr):
    total = tl.zeros((N,), tl.float32)
    for start in range(0, n, N):
        at = start + tl.arange(0, N)
        total += tl.load(x + at, at < n, other=0.0)
    tl.store(out, tl.sum(total, 0))
    tl.store(out + 1, tl.max(total, 0))


@pytest.mark.parametrize("strict", [True, False])
def test_one_long_sum(strict: bool) -> None:
    x, out = floats(5000), np.zeros(2, np.float32)
    arguments = {"x": x, "out": out, "n": 5000}
    Emulated(compile_kernel(_long, arguments, {"N": 256}), strict=strict).launch((1,), arguments)
    parts = np.concatenate([x, np.zeros(5120 - 5000, np.float32)]).reshape(-1, 256)
    total = np.zeros(256, np.float32)
    for part in parts:
        total += part
    if strict:
        expected = np.float32(0)
        for value in total:
            expected += value
        assert out[0] == expected
    np.testing.assert_allclose(out, [total.sum(dtype=np.float64), total.max()], rtol=1e-4)
