"""Loads and stores: masks, strides, gathers, and the order of what touches the same memory."""

from __future__ import annotations

import numpy as np
import pytest
import triton
import triton.language as tl

from .harness import compile_kernel, run


@triton.jit
def copy_kernel(x, out, rows, columns, x_row, x_column, o_row, o_column, M: tl.constexpr, N: tl.constexpr):
    i = (tl.program_id(0) * M + tl.arange(0, M))[:, None]
    j = (tl.program_id(1) * N + tl.arange(0, N))[None, :]
    inside = (i < rows) & (j < columns)
    value = tl.load(x + i * x_row + j * x_column, mask=inside, other=-1)
    tl.store(out + i * o_row + j * o_column, value, mask=inside)


@pytest.mark.parametrize("dtype", ["float32", "int8", "int64", "float16"])
@pytest.mark.parametrize("turned", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("shape", [(64, 64), (37, 50), (5, 100)])
def test_strided_copy_moves_each_element(dtype, turned, shape):
    rng = np.random.default_rng(0)
    x = rng.integers(-100, 100, shape).astype(dtype)
    source = np.asfortranarray(x) if turned[0] else x
    out = np.full((shape[0] + 1, shape[1] + 1), 77, dtype, order="F" if turned[1] else "C")
    strides = [s // x.itemsize for s in (*source.strides, *out.strides)]
    arguments = dict(zip(["x_row", "x_column", "o_row", "o_column"], strides))
    run(copy_kernel, (-(-shape[0] // 32), -(-shape[1] // 32)),
        {"x": source, "out": out, "rows": shape[0], "columns": shape[1], **arguments}, M=32, N=32)  # fmt: skip
    np.testing.assert_array_equal(out[:-1, :-1], x)
    assert (out[-1] == 77).all()
    assert (out[:, -1] == 77).all()


@triton.jit
def gather_kernel(x, index, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    place = tl.load(index + i, mask=i < n, other=0)
    tl.store(out + place, tl.load(x + place, mask=i < n), mask=i < n)


def test_indirect_load_and_store():
    rng = np.random.default_rng(1)
    x, index, out = (
        rng.standard_normal(100).astype(np.float32),
        rng.permutation(100).astype(np.int32),
        np.zeros(100, np.float32),
    )
    run(gather_kernel, (1,), {"x": x, "index": index, "out": out, "n": 70}, BLOCK=128)
    want = np.zeros_like(x)
    want[index[:70]] = x[index[:70]]
    np.testing.assert_array_equal(out, want)


@triton.jit
def pairs_kernel(x, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    a = tl.load(x + 2 * i, mask=i < n, other=0.0)
    b = tl.load(x + 2 * i + 1, mask=i < n, other=0.0)
    tl.store(out + 2 * i, a - b, mask=i < n)
    tl.store(out + 2 * i + 1, a + b, mask=i < n)


def test_interleaved_pairs_in_place():
    x = np.arange(60, dtype=np.float32) ** 1.5
    a, b = x[0::2].copy(), x[1::2].copy()
    run(pairs_kernel, (1,), {"x": x, "out": x, "n": 30}, BLOCK=32)
    np.testing.assert_array_equal(x[0::2], a - b)
    np.testing.assert_array_equal(x[1::2], a + b)


@triton.jit
def swap_kernel(x, y, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    a = tl.load(x + i)
    b = tl.load(y + i)
    tl.store(x + i, b)
    tl.store(y + i, a)


def test_loads_keep_their_values_past_stores():
    x, y = np.arange(64, dtype=np.float32), -np.arange(64, dtype=np.float32)
    run(swap_kernel, (1,), {"x": x, "y": y}, BLOCK=64)
    np.testing.assert_array_equal(x, -np.arange(64))
    np.testing.assert_array_equal(y, np.arange(64))


@triton.jit
def reuse_kernel(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    a = tl.load(x + i)
    tl.store(x + i, a + 1)
    b = tl.load(x + i)
    tl.store(x + i, tl.sum(a, 0) + tl.zeros([BLOCK], tl.float32))
    tl.store(out + i, a + b)


def test_load_between_two_stores_sees_the_first():
    x, out = np.arange(32, dtype=np.float32), np.zeros(32, np.float32)
    run(reuse_kernel, (1,), {"x": x, "out": out}, BLOCK=32)
    np.testing.assert_array_equal(out, 2 * np.arange(32) + 1)
    np.testing.assert_array_equal(x, np.full(32, 31 * 16))


@triton.jit
def loop_store_kernel(x, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    first = tl.load(x + i)
    for _step in range(n):
        value = tl.load(x + i)
        tl.store(x + i, value + first)


def test_load_before_a_loop_that_stores_keeps_its_value():
    x = np.arange(32, dtype=np.float32)
    run(loop_store_kernel, (1,), {"x": x, "n": 5}, BLOCK=32)
    np.testing.assert_array_equal(x, np.arange(32) * 6)


@triton.jit
def wrapped_kernel(x, out, start, modulus, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    place = (start + i) % modulus
    tl.store(out + i, tl.load(x + place))


@pytest.mark.parametrize(("start", "modulus"), [(0, 64), (48, 64), (16, 48), (7, 50), (-16, 64), (-5, 33)])
def test_wrapped_index_reads_the_element_it_names(start, modulus):
    base = np.arange(200, dtype=np.float32)
    out = np.zeros(64, np.float32)
    run(wrapped_kernel, (1,), {"x": base[100:], "out": out, "start": start, "modulus": modulus}, BLOCK=64)
    want = [100 + np.fmod(start + i, modulus) for i in range(64)]
    np.testing.assert_array_equal(out, want)


@triton.jit
def scalar_kernel(x, out, n):
    pid = tl.program_id(0)
    value = tl.load(x + pid, mask=pid < n, other=-5.0)
    tl.store(out + pid, value * 2)
    tl.store(out + 100 + pid, value, mask=pid % 2 == 0)


def test_scalar_loads_and_stores_with_masks():
    x, out = np.arange(10, dtype=np.float32), np.full(200, 9, np.float32)
    run(scalar_kernel, (12,), {"x": x, "out": out, "n": 10})
    np.testing.assert_array_equal(out[:12], np.concatenate([np.arange(10) * 2, [-10, -10]]))
    np.testing.assert_array_equal(out[100:112], [0, 9, 2, 9, 4, 9, 6, 9, 8, 9, -5, 9])


@triton.jit
def grid_kernel(out):
    x, y, z = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    place = x + tl.num_programs(0) * (y + tl.num_programs(1) * z)
    tl.store(out + place, x + 10 * y + 100 * z)


def test_program_numbers_run_x_fastest():
    out = np.zeros(24, np.int32)
    run(grid_kernel, (4, 3, 2), {"out": out})
    np.testing.assert_array_equal(out, [x + 10 * y + 100 * z for z in range(2) for y in range(3) for x in range(4)])


@triton.jit
def flags_kernel(x, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < n, other=True)
    tl.store(out + i, value ^ (i % 3 == 0), mask=i < n)


def test_booleans_are_bytes_in_memory():
    x = np.random.default_rng(2).integers(0, 2, 50).astype(bool)
    out = np.zeros(50, bool)
    run(flags_kernel, (1,), {"x": x, "out": out, "n": 50}, BLOCK=64)
    np.testing.assert_array_equal(out, x ^ (np.arange(50) % 3 == 0))


@triton.jit
def stride_and_remainder_kernel(x, out, stride, period, SIZE: tl.constexpr, STORES: tl.constexpr):
    i = tl.arange(0, SIZE)
    place = i * stride + i % period
    if STORES:
        tl.store(out + place, tl.load(x + i))
    else:
        tl.store(out + i, tl.load(x + place))


@pytest.mark.parametrize("stores", [False, True])
@pytest.mark.parametrize("period", [16, 64, 7])
def test_a_stride_that_is_an_argument_beside_a_remainder(period, stores):
    i = np.arange(64, dtype=np.int32)
    place = i * 3 + i % period
    x, out = np.arange(1, 300, dtype=np.int32), np.zeros(300, np.int32)
    arguments = {"x": x, "out": out, "stride": 3, "period": period}
    run(stride_and_remainder_kernel, (1,), arguments, SIZE=64, STORES=stores)
    want = np.zeros(300, np.int32)
    if stores:
        for source, target in zip(x, place, strict=False):  # the last of several wins
            want[target] = source
    else:
        want[:64] = x[place]
    np.testing.assert_array_equal(out, want)


@triton.jit
def narrow_kernel(x, index, out, first, FORM: tl.constexpr):
    i = tl.arange(0, 16)
    narrow = tl.load(index + i)
    if FORM == "sum":
        place = (narrow + narrow).to(tl.int32)
    elif FORM == "product":
        place = narrow * 3
    elif FORM == "range":
        place = (i + 120).to(tl.int8) * 1
    else:
        place = (i * 65536) * 65536 + i
    tl.store(out + i, tl.load(x + first + place))


@pytest.mark.parametrize("form", ["sum", "product", "range", "wide"])
@pytest.mark.parametrize("dtype", [np.int8, np.int16])
def test_indices_that_wrap_around_before_they_are_widened(dtype, form):
    x, out = np.arange(200_000, dtype=np.int32), np.zeros(16, np.int32)
    index = (np.arange(60, 76) if dtype is np.int8 else np.arange(16_380, 16_396)).astype(dtype)
    run(narrow_kernel, (1,), {"x": x, "index": index, "out": out, "first": 100_000}, FORM=form)
    i = np.arange(16)
    places = {"sum": index + index, "product": index * dtype(3), "range": (i + 120).astype(np.int8), "wide": i}
    np.testing.assert_array_equal(out, 100_000 + places[form].astype(np.int32))


@triton.jit
def unsigned_kernel(x, out, n, FIRST: tl.constexpr, WIDE: tl.constexpr):
    i = tl.arange(0, 64)
    place = (i - FIRST).to(tl.uint32)
    if WIDE:
        place = place.to(tl.int64)
    tl.store(out + i, tl.load(x + place, mask=place < n, other=-1))


@pytest.mark.parametrize("wide", [False, True])
@pytest.mark.parametrize("first", [3, 8, 13])
def test_unsigned_indices_below_zero_are_far_above(first, wide):
    x, out = np.arange(64, dtype=np.int32), np.zeros(64, np.int32)
    run(unsigned_kernel, (1,), {"x": x, "out": out, "n": 5}, FIRST=first, WIDE=wide)
    place = np.arange(64) - first
    np.testing.assert_array_equal(out, np.where((place >= 0) & (place < 5), place, -1))


@triton.jit
def table_kernel(x, table, out, k, per, N: tl.constexpr, K: tl.constexpr):
    row, inner = tl.arange(0, N), tl.arange(0, K)
    source = tl.minimum(tl.load(table + row) // per, 9)
    place = x + source[:, None] * k
    total = tl.zeros([N, K], dtype=tl.float32)
    for start in range(0, k, K):
        total += tl.load(place + (start + inner)[None, :])
    tl.store(out + row, tl.sum(total, axis=1))


def test_rows_that_a_table_names_are_looked_up_in_front_of_the_loop_over_their_elements():
    rng = np.random.default_rng(0)
    x, table = rng.standard_normal((10, 96)).astype(np.float32), rng.integers(0, 50, 4).astype(np.int32)
    arguments = {"x": x, "table": table, "out": np.zeros(4, np.float32), "k": 96, "per": 3}
    kernel = compile_kernel(table_kernel, arguments, {"N": 4, "K": 32})
    assert kernel.prepare((1,), arguments)() == 0
    np.testing.assert_allclose(arguments["out"], x[np.minimum(table // 3, 9)].sum(axis=1), rtol=1e-5)
    # Once for all rows together, and not for each row in the loop.
    found = [line for line in kernel.stages["source"].splitlines() if "call" in line and "@llvm.smin" in line]
    assert len(found) == 1
    assert "@llvm.smin.v4i32" in found[0]
