# mypy: disable-error-code="no-untyped-def,untyped-decorator"
"""Kernels that only benchmarks need, in plain Triton: both unify and Triton launch the same functions."""

from __future__ import annotations

import triton
import triton.language as tl


@triton.jit
def nothing_kernel(a, b, c, out, rows, columns, stride, limit):
    # Eight arguments and next to no work: what is left is the launch.
    if tl.program_id(0) > rows:
        tl.store(out, tl.load(a) + tl.load(b) + tl.load(c) + columns + stride + limit)


@triton.jit
def softmax_kernel(x, out, columns, BLOCK: tl.constexpr):
    # One program a row that fits a block, as in Triton's tutorial on fused softmax.
    row = tl.program_id(0)
    column = tl.arange(0, BLOCK)
    inside = column < columns
    value = tl.load(x + row * columns + column, mask=inside, other=float("-inf"))
    value = tl.exp(value - tl.max(value, axis=0))
    tl.store(out + row * columns + column, value / tl.sum(value, axis=0), mask=inside)


@triton.jit
def add_kernel(x, y, out, size, BLOCK: tl.constexpr):
    # As in Triton's first tutorial: one program a block.
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = place < size
    tl.store(out + place, tl.load(x + place, mask=inside) + tl.load(y + place, mask=inside), mask=inside)


@triton.jit
def layer_norm_kernel(x, weight, bias, out, columns, eps, BLOCK: tl.constexpr):
    # One program a row that fits a block: the mean first, then the variance around it.
    row = tl.program_id(0) * columns
    column = tl.arange(0, BLOCK)
    inside = column < columns
    value = tl.load(x + row + column, mask=inside, other=0.0)
    value = tl.where(inside, value - tl.sum(value, axis=0) / columns, 0.0)
    value *= tl.rsqrt(tl.sum(value * value, axis=0) / columns + eps)
    value = value * tl.load(weight + column, mask=inside) + tl.load(bias + column, mask=inside)
    tl.store(out + row + column, value, mask=inside)


@triton.jit
def sum_kernel(x, out, share, BLOCK: tl.constexpr):
    # One program sums `share` values that lie side by side: a row, or a part of all, whose sums it can sum again.
    place = tl.arange(0, BLOCK)
    x += tl.program_id(0) * share
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, share, BLOCK):
        total += tl.load(x + start + place, mask=start + place < share, other=0.0)
    tl.store(out + tl.program_id(0), tl.sum(total, axis=0))


@triton.jit
def gemm_kernel(
    a, b, out, m, n, k, a_row, a_k, b_k, b_column, out_row, out_column,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, GROUP: tl.constexpr,
):  # fmt: skip
    # In the form of Triton's tutorial on matrix products: programs in groups of rows, what lies beyond an edge read
    # from the other one (`% m`, `% n`), so that only steps along k need a mask.
    SUM: tl.constexpr = tl.int32 if a.dtype.element_ty == tl.int8 else tl.float32
    band = GROUP * tl.cdiv(n, N)
    first = tl.program_id(0) // band * GROUP
    rows = min(tl.cdiv(m, M) - first, GROUP)
    row = (first + tl.program_id(0) % band % rows) * M + tl.arange(0, M)
    column = tl.program_id(0) % band // rows * N + tl.arange(0, N)
    step = tl.arange(0, K)
    left = a + (row % m)[:, None] * a_row + step[None, :] * a_k
    right = b + step[:, None] * b_k + (column % n)[None, :] * b_column
    total = tl.zeros([M, N], dtype=SUM)
    for start in range(0, k, K):
        inside = step < k - start
        x = tl.load(left, mask=inside[None, :], other=0)
        y = tl.load(right, mask=inside[:, None], other=0)
        total = tl.dot(x, y, total, out_dtype=SUM)
        left += K * a_k
        right += K * b_k
    place = out + row[:, None] * out_row + column[None, :] * out_column
    tl.store(place, total.to(out.dtype.element_ty), mask=(row < m)[:, None] & (column < n)[None, :])


@triton.jit
def experts_kernel(x, weight, blocks, out, n, k, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    # One program M tokens of one expert. blocks: [number, 3] int32, each with its expert, first and last token.
    # x: [tokens, k], sorted by expert; weight: [experts, k, n], N divides n and K divides k; out: [tokens, n].
    block = blocks + tl.program_id(0) * 3
    weight += tl.load(block).to(tl.int64) * k * n
    row = tl.load(block + 1) + tl.arange(0, M)
    column = tl.program_id(1) * N + tl.arange(0, N)
    step = tl.arange(0, K)
    inside = (row < tl.load(block + 2))[:, None]
    total = tl.zeros([M, N], dtype=tl.float32)
    for start in range(0, k, K):
        left = tl.load(x + row[:, None] * k + (start + step)[None, :], mask=inside, other=0.0)
        right = tl.load(weight + (start + step)[:, None] * n + column[None, :])
        total = tl.dot(left, right, total)
    tl.store(out + row[:, None] * n + column[None, :], total.to(out.dtype.element_ty), mask=inside)
