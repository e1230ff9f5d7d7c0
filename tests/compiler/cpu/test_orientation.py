"""Tensors that loops and branches carry, laid out as what is loaded: along rows, along columns, and along both."""

from __future__ import annotations

import numpy as np
import pytest
import triton
import triton.language as tl

from unify.compiler import mlir, mlir_reader
from unify.compiler.cpu import tiling

from .harness import run, ttir

# Triton 3.9 warns of an argument that 3.6 wants.
pytestmark = pytest.mark.filterwarnings("ignore:.*can_reorder")

SHAPES = [(64, 200, 8, 64), (50, 77, 16, 32), (33, 40, 64, 4), (20, 19, 32, 1), (7, 130, 4, 128), (1, 5, 2, 8)]


def in_memory(x: np.ndarray, layout: str) -> tuple[np.ndarray, dict[str, int]]:
    """A matrix whose rows or columns run on, and its strides."""
    rows, columns = x.shape
    if layout == "rows":
        return np.ascontiguousarray(x), {"ROW": columns, "COLUMN": 1}
    return np.asfortranarray(x).ravel(order="K"), {"ROW": 1, "COLUMN": rows}


@triton.jit
def merge(mean_a, square_a, count_a, mean_b, square_b, count_b):
    delta = mean_b - mean_a
    count = count_a + count_b
    share = tl.where(count == 0.0, 0.0, count_b / count)
    return mean_a + delta * share, square_a + square_b + delta * delta * count_a * share, count


@triton.jit
def statistics_kernel(
    x, mean_out, square_out, count_out, rows, columns,
    ROW: tl.constexpr, COLUMN: tl.constexpr, BRANCH: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
):  # fmt: skip
    i = tl.program_id(0) * M + tl.arange(0, M)[:, None]
    mean = tl.zeros([M, N], tl.float32)
    square = tl.zeros([M, N], tl.float32)
    count = tl.zeros([M, N], tl.float32)
    for start in range(0, columns, N):
        j = start + tl.arange(0, N)[None, :]
        inside = (j < columns) & (i < rows)
        value = tl.load(x + i * ROW + j * COLUMN, inside, other=0.0)
        if BRANCH:
            if start == 0:
                new_mean, new_square, new_count = value, tl.zeros_like(square), tl.full([M, N], 1.0, tl.float32)
            else:
                new_count = count + 1
                new_mean = mean + (value - mean) / new_count
                new_square = square + (value - mean) * (value - new_mean)
        else:
            one = tl.where(inside, 1.0, 0.0)
            new_mean, new_square, new_count = merge(mean, square, count, value, value * 0, one)
        mean = tl.where(inside, new_mean, mean)
        square = tl.where(inside, new_square, square)
        count = tl.where(inside, new_count, count)
    mean, square, count = tl.reduce((mean, square, count), 1, merge)
    place = tl.program_id(0) * M + tl.arange(0, M)
    tl.store(mean_out + place, mean, place < rows)
    tl.store(square_out + place, square, place < rows)
    tl.store(count_out + place, count, place < rows)


@pytest.mark.parametrize("branch", [True, False], ids=["branch", "merge"])
@pytest.mark.parametrize("layout", ["rows", "columns"])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_running_mean_and_variance(shape, layout, branch):
    rows, columns, m, n = shape
    values = np.random.default_rng(0).standard_normal((rows, columns)).astype(np.float32) + 3
    x, strides = in_memory(values, layout)
    mean, square, count = (np.full(rows + 1, 99, np.float32) for _ in range(3))
    arguments = {"x": x, "mean_out": mean, "square_out": square, "count_out": count, "rows": rows, "columns": columns}
    run(statistics_kernel, (-(-rows // m),), arguments, **strides, BRANCH=branch, M=m, N=n)
    np.testing.assert_array_equal(count, [*[columns] * rows, 99])
    np.testing.assert_allclose(mean[:-1], values.mean(1), rtol=1e-5)
    np.testing.assert_allclose(square[:-1], values.var(1) * columns, rtol=1e-4, atol=1e-4)
    assert mean[-1] == square[-1] == 99


@triton.jit
def parts_kernel(x, out, length, part, total, CHANNELS: tl.constexpr, M: tl.constexpr, N: tl.constexpr):
    i = tl.program_id(0) * M + tl.arange(0, M)[:, None]
    sums = tl.zeros([M, N], tl.float32)
    for start in range(0, part, N):
        j = start + tl.arange(0, N)[None, :]
        step = j + part * (i // CHANNELS)
        inside = (j < part) & (step < length) & (i < total)
        sums += tl.load(x + i % CHANNELS + CHANNELS * (step % length), inside, other=0.0)
    place = tl.program_id(0) * M + tl.arange(0, M)
    tl.store(out + place, tl.sum(sums, 1), place < total)


@pytest.mark.parametrize("channels", [64, 16, 8, 3])
@pytest.mark.parametrize("tile", [(16, 32), (8, 64), (64, 4)], ids=str)
def test_sums_over_parts_of_the_length_for_each_channel(tile, channels):
    length, parts = 301, 4
    part = -(-length // parts)
    x = np.random.default_rng(0).standard_normal((length, channels)).astype(np.float32)
    total = parts * channels
    out = np.zeros(total, np.float32)
    arguments = {"x": x, "out": out, "length": length, "part": part, "total": total}
    run(parts_kernel, (-(-total // tile[0]),), arguments, CHANNELS=channels, M=tile[0], N=tile[1])
    want = [x[p * part : (p + 1) * part].sum(0) for p in range(parts)]
    np.testing.assert_allclose(out.reshape(parts, channels), want, rtol=1e-4, atol=1e-4)


@triton.jit
def exchange_kernel(x, y, out, n, ROW: tl.constexpr, COLUMN: tl.constexpr, M: tl.constexpr, N: tl.constexpr):
    i, j = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :]
    a = tl.load(x + i * ROW + j * COLUMN)
    b = tl.load(y + i * ROW + j * COLUMN)
    for step in range(n):
        a, b = b, a * 2 + step
        if step == 2:
            a, b = b - a, a
    tl.store(out + i * N + j, a + b * 3)


@pytest.mark.parametrize("layout", ["rows", "columns"])
@pytest.mark.parametrize("shape", [(32, 32), (16, 4), (4, 16), (8, 1), (64, 2)], ids=str)
def test_two_carried_tensors_change_places(shape, layout):
    rng = np.random.default_rng(0)
    a, b = (rng.standard_normal(shape).astype(np.float32) for _ in range(2))
    (x, strides), (y, _) = in_memory(a, layout), in_memory(b, layout)
    out = np.zeros(shape, np.float32)
    run(exchange_kernel, (1,), {"x": x, "y": y, "out": out, "n": 5}, **strides, M=shape[0], N=shape[1])
    for step in range(5):
        a, b = b, a * 2 + step
        if step == 2:
            a, b = b - a, a
    np.testing.assert_allclose(out, a + b * 3, rtol=1e-5)


@triton.jit
def apart_kernel(x, y, a_out, b_out, n, M: tl.constexpr, N: tl.constexpr):
    i, j = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :]
    a, b = tl.zeros([M, N], tl.float32), tl.zeros([M, N], tl.float32)
    for step in range(n):
        a += tl.load(x + step * M * N + i + j * M)
        b += tl.load(y + step * M * N + i * N + j)
    while tl.max(tl.max(a, 1), 0) > 1.0:
        a *= 0.5
    tl.store(a_out + i + j * M, a)
    tl.store(b_out + i * N + j, tl.dot(a, tl.trans(a)) + b if M == N else b)


@pytest.mark.parametrize("shape", [(32, 32), (16, 64), (64, 8), (8, 4)], ids=str)
def test_rows_and_columns_in_one_loop(shape):
    m, n = shape
    x, y = (np.random.default_rng(i).random((3, m, n)).astype(np.float32) for i in range(2))
    a_out, b_out = np.zeros((n, m), np.float32), np.zeros((m, n), np.float32)
    columns = np.ascontiguousarray(x.transpose(0, 2, 1))
    run(apart_kernel, (1,), {"x": columns, "y": y, "a_out": a_out, "b_out": b_out, "n": 3}, M=m, N=n)
    a = x.sum(0)
    while a.max() > 1:
        a = a / 2
    np.testing.assert_allclose(a_out, a.T, rtol=1e-5)
    np.testing.assert_allclose(b_out, y.sum(0) + (a @ a.T if m == n else 0), rtol=1e-4)


@pytest.mark.parametrize(("layout", "fastest"), [("rows", set()), ("columns", {0})])
def test_carried_tensors_lie_as_their_loads_do(layout, fastest):
    _, strides = in_memory(np.zeros((64, 200), np.float32), layout)
    signature = dict.fromkeys(("x", "mean_out", "square_out", "count_out"), "*fp32") | {"rows": "i32", "columns": "i32"}
    text = ttir(statistics_kernel, signature, {**strides, "BRANCH": False, "M": 16, "N": 32}, set())
    function = mlir_reader.parse(text).functions[0]
    (loop,) = [op for op in mlir.walk(function) if op.name == "scf.for"]
    found = tiling.plan(function).fastest
    assert {found[value] for value in loop.results if value in found} == fastest
    assert all(value in found for value in loop.results) is bool(fastest)
