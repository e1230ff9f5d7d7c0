"""Buffers looked at in another way: shapes, strides, addresses, single elements."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import triton
import triton.language as tl

from .harness import compare, emulate

RNG = np.random.default_rng(5)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@triton.jit
def _shapes(x, out, M: tl.constexpr, N: tl.constexpr):
    place = tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
    value = tl.load(x + place)
    turned = tl.trans(value)
    even, odd = tl.split(tl.reshape(value, (M, N // 2, 2)))
    tl.store(out + place, tl.reshape(turned, (M, N)))
    tl.store(out + M * N + place, tl.permute(turned, (1, 0)))
    tl.store(out + 2 * M * N + place, tl.reshape(tl.join(odd, even), (M, N)))
    tl.store(out + 3 * M * N + place, tl.interleave(even, odd))
    tl.store(out + 4 * M * N + place, tl.flip(value, 1))


@pytest.mark.parametrize(("m", "n"), [(16, 32), (4, 64), (64, 4)])
def test_shapes(m: int, n: int) -> None:
    x, out = floats(m, n), np.zeros((5, m, n), np.float32)
    emulate(_shapes, (1,), {"x": x, "out": out}, M=m, N=n)
    exchanged = x.reshape(m, n // 2, 2)[..., ::-1].reshape(m, n)
    np.testing.assert_array_equal(out, np.stack([x.T.reshape(m, n), x, exchanged, x, x[:, ::-1]]))


@triton.jit
def _transposed(x, out, rows, columns, M: tl.constexpr, N: tl.constexpr):
    row, column = tl.program_id(0) * M + tl.arange(0, M), tl.program_id(1) * N + tl.arange(0, N)
    inside = (row[:, None] < rows) & (column[None, :] < columns)
    value = tl.load(x + row[:, None] * columns + column[None, :], inside)
    tl.store(out + row[:, None] + column[None, :] * rows, value, inside)


@pytest.mark.parametrize("dtype", [np.float32, np.float16, np.int8, np.int64])
@pytest.mark.parametrize(("rows", "columns"), [(32, 64), (70, 45)])
def test_a_transposition_with_edges(rows: int, columns: int, dtype: Any) -> None:
    x = RNG.integers(-100, 100, (rows, columns)).astype(dtype)
    out = np.zeros((columns, rows), dtype)
    arguments = {"x": x, "out": out, "rows": rows, "columns": columns}
    emulate(_transposed, (-(-rows // 32), -(-columns // 16)), arguments, M=32, N=16)
    np.testing.assert_array_equal(out, x.T)


@triton.jit
def _pairs(x, out, N: tl.constexpr):
    at = tl.program_id(0) * 2 * N + 2 * tl.arange(0, N)
    even, odd = tl.load(x + at), tl.load(x + at + 1)
    tl.store(out + at, -odd)
    tl.store(out + at + 1, even)


def test_every_other_element() -> None:
    x, out = floats(3, 64), np.zeros((3, 64), np.float32)
    emulate(_pairs, (3,), {"x": x, "out": out}, N=32)
    np.testing.assert_array_equal(out, np.stack([-x[:, 1::2], x[:, ::2]], -1).reshape(3, 64))


@triton.jit
def _through_a_number(addresses, out, N: tl.constexpr):
    source = tl.load(addresses + tl.program_id(0)).to(tl.pointer_type(tl.float32))
    at = tl.arange(0, N)
    tl.store(out + tl.program_id(0) * N + at, tl.load(source + at) + 1)


def test_a_number_is_an_address() -> None:
    parts = [floats(16), floats(16)]
    addresses, out = np.array([p.ctypes.data for p in parts], np.int64), np.zeros((2, 16), np.float32)
    emulate(_through_a_number, (2,), {"addresses": addresses, "out": out}, N=16)
    np.testing.assert_array_equal(out, np.stack(parts) + 1)


@triton.jit
def _rows(x, order, out, ROWS: tl.constexpr, N: tl.constexpr):
    row, column = tl.program_id(0) * ROWS + tl.arange(0, ROWS), tl.arange(0, N)
    target = tl.load(order + row)
    value = tl.load(x + row[:, None] * N + column[None, :])
    tl.store(out + target[:, None] * N + column[None, :], value)


def test_rows_go_where_an_index_says() -> None:
    x, order, out = floats(64, 32), RNG.permutation(64).astype(np.int32), np.zeros((64, 32), np.float32)
    emulate(_rows, (4,), {"x": x, "order": order, "out": out}, ROWS=16, N=32)
    np.testing.assert_array_equal(out[order], x)


@triton.jit
def _masked(x, out, n, FIRST: tl.constexpr, N: tl.constexpr):
    at = tl.arange(0, N)
    inside = (at >= FIRST) & (at < n)
    tl.store(out + at, tl.load(x + at, inside, other=-3.0), inside)


@pytest.mark.parametrize("n", [5, 17, 32, 40])
def test_a_mask_with_a_beginning_and_an_end(n: int) -> None:
    x, out = floats(32), np.zeros(32, np.float32)
    compare(_masked, (1,), {"x": x, "out": out, "n": n}, FIRST=4, N=32)
