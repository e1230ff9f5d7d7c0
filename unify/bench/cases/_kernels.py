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
