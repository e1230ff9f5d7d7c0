"""Products of ragged tiles: rows and columns that no store takes are left out, and all others are as they were."""

from __future__ import annotations

import numpy as np
import pytest
import triton
import triton.language as tl

from unify.compiler import mlir, mlir_reader
from unify.compiler.cpu import demand, tiling

from .harness import Compiled, compile_kernel, run


@triton.jit
def grouped_kernel(a, b, out, first, last, k, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    # One program a group: its rows [first, last) of a, and its matrix of b.
    group = tl.program_id(0)
    row = tl.load(first + group) + tl.arange(0, M)
    inside = (row < tl.load(last + group))[:, None]
    column, step = tl.arange(0, N), tl.arange(0, K)
    total = tl.zeros([M, N], dtype=tl.float32)
    for start in range(0, k, K):
        x = tl.load(a + row[:, None] * k + (start + step)[None, :], mask=inside, other=0.0)
        y = tl.load(b + group * k * N + (start + step)[:, None] * N + column[None, :])
        total = tl.dot(x, y, total)
    tl.store(out + row[:, None] * N + column[None, :], tl.maximum(total, -1.0) * 2, mask=inside)


@triton.jit
def listed_kernel(a, b, tokens, out, count, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    # Rows by a list whose entries beyond `count` stand for none, and two products one after another.
    token = tl.load(tokens + tl.program_id(0) * M + tl.arange(0, M))
    wanted = token < count
    column, step = tl.arange(0, N), tl.arange(0, K)
    x = tl.load(a + token[:, None] * K + step[None, :], mask=wanted[:, None], other=0.0)
    inner = tl.dot(x, tl.load(b + step[:, None] * K + step[None, :]))
    result = tl.dot(inner * 0.5, tl.load(b + step[:, None] * K + column[None, :]))
    tl.store(out + token[:, None] * N + column[None, :], result, mask=wanted[:, None] & (column < N - 1)[None, :])


@triton.jit
def running_kernel(a, b, out, rounds, M: tl.constexpr, N: tl.constexpr):
    # The rows that are stored change from round to round, those of later rounds are summed from the first on.
    row, column = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :]
    total = tl.zeros([M, N], dtype=tl.float32)
    for i in range(rounds):
        x = tl.load(a + (i * M + row) * N + column)
        total = tl.dot(x, tl.load(b + tl.arange(0, N)[:, None] * N + column), total)
        tl.store(out + (i * M + row) * N + column, total, mask=row < i * 7 + 1)


@triton.jit
def summed_kernel(a, b, out, sums, limit, M: tl.constexpr, N: tl.constexpr):
    # All rows are needed: for the sums along columns.
    row, column = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :]
    total = tl.dot(tl.load(a + row * N + column), tl.load(b + tl.arange(0, N)[:, None] * N + column))
    tl.store(out + row * N + column, total, mask=row < limit)
    tl.store(sums + tl.arange(0, N), tl.sum(total, axis=0))


def _masks(kernel: Compiled, axis: int = 0) -> list[int]:
    """How many masks of rows or columns each product of the kernel has."""
    function = mlir_reader.parse(kernel.ttir).functions[0]
    uses = tiling.plan(function).uses
    return [len(demand.masks(op, axis, uses)) for op in mlir.walk(function) if op.name == "tt.dot"]


@pytest.mark.parametrize("arch", ["", "x86-64-v3"])
@pytest.mark.parametrize("tile", [(16, 16, 16), (64, 32, 32), (64, 8, 16)])
def test_groups_of_any_size(arch, tile):
    m, n, k = tile
    rng = np.random.default_rng(m + n)
    counts = np.array([m, 0, 1, *rng.integers(1, m + 1, 9)], np.int32)
    last = counts.cumsum(dtype=np.int32)
    a = rng.standard_normal((counts.sum(), 3 * k), np.float32)
    b = rng.standard_normal((len(counts), 3 * k, n), np.float32)
    b[1] = np.nan  # nobody's
    out = np.full((counts.sum(), n), 7, np.float32)
    arguments = {"a": a, "b": b, "out": out, "first": last - counts, "last": last, "k": 3 * k}
    kernel = compile_kernel(grouped_kernel, arguments, {"M": m, "N": n, "K": k}, arch=arch)
    assert _masks(kernel) == [1]
    assert kernel.prepare((len(counts),), arguments)() == 0
    want = [np.maximum(a[e - c : e].astype(float) @ w, -1) * 2 for e, c, w in zip(last, counts, b, strict=True)]
    np.testing.assert_allclose(out, np.concatenate(want), rtol=1e-5, atol=1e-4)


def test_rows_by_a_list_through_two_products():
    m, n, k, count = 32, 16, 32, 41
    rng = np.random.default_rng(5)
    tokens = rng.permutation(64).astype(np.int32)
    a, b = rng.standard_normal((count, k), np.float32), rng.standard_normal((k, k), np.float32)
    out = np.full((count, n), 7, np.float32)
    arguments = {"a": a, "b": b, "tokens": tokens, "out": out, "count": count}
    kernel = compile_kernel(listed_kernel, arguments, {"M": m, "N": n, "K": k})
    assert _masks(kernel) == [1, 1]
    assert _masks(kernel, axis=1) == [0, 1]  # the first product's columns are summed in the second
    assert kernel.prepare((2,), arguments)() == 0
    want = a.astype(float) @ b * 0.5 @ b[:, :n]
    np.testing.assert_allclose(out[:, :-1], want[:, :-1], rtol=1e-5, atol=1e-4)
    assert (out[:, -1] == 7).all()


def test_rows_that_a_later_round_stores_are_multiplied_in_each():
    m, n, rounds = 32, 16, 5
    rng = np.random.default_rng(6)
    a, b = rng.standard_normal((rounds, m, n), np.float32), rng.standard_normal((n, n), np.float32)
    out = np.full((rounds, m, n), 7, np.float32)
    arguments = {"a": a, "b": b, "out": out, "rounds": rounds}
    kernel = compile_kernel(running_kernel, arguments, {"M": m, "N": n})
    assert _masks(kernel) == [0]
    assert kernel.prepare((1,), arguments)() == 0
    stored = np.arange(m)[None, :, None] < np.arange(rounds)[:, None, None] * 7 + 1
    np.testing.assert_allclose(out, np.where(stored, (a @ b).cumsum(0), 7), rtol=1e-5, atol=1e-4)


def test_rows_that_somebody_else_reads_are_multiplied():
    rng = np.random.default_rng(7)
    a, b = rng.standard_normal((32, 16), np.float32), rng.standard_normal((16, 16), np.float32)
    out, sums = np.zeros((32, 16), np.float32), np.zeros(16, np.float32)
    run(summed_kernel, (1,), {"a": a, "b": b, "out": out, "sums": sums, "limit": 3}, M=32, N=16)
    np.testing.assert_allclose(sums, (a @ b).sum(0), rtol=1e-4, atol=1e-4)
    np.testing.assert_allclose(out[:3], (a @ b)[:3], rtol=1e-5, atol=1e-4)


@triton.jit
def edge_kernel(a, b, out, n, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    row, column, step = tl.arange(0, M)[:, None], tl.arange(0, N)[None, :], tl.arange(0, K)
    x = tl.load(a + row * K + step[None, :])
    # Columns of the right operand of a product are columns of what it gives.
    inner = tl.dot(x, tl.load(b + step[:, None] * n + column, mask=column < n, other=float("nan")))
    tl.store(out + row * n + column, tl.dot(tl.load(a + row * K + tl.arange(0, M)[None, :]), inner), mask=column < n)


@pytest.mark.parametrize("n", [1, 15, 16, 17, 50, 64])
def test_columns_behind_an_edge(n):
    m, k = 16, 32
    rng = np.random.default_rng(n)
    a, b = rng.standard_normal((m, k), np.float32), rng.standard_normal((k, n), np.float32)
    out = np.full((m, n), 7, np.float32)
    arguments = {"a": a, "b": b, "out": out, "n": n}
    kernel = compile_kernel(edge_kernel, arguments, {"M": m, "N": 64, "K": k})
    assert _masks(kernel, axis=1) == [1, 1]
    assert kernel.prepare((1,), arguments)() == 0
    np.testing.assert_allclose(out, a[:, :m].astype(float) @ (a @ b), rtol=1e-5, atol=1e-3)
