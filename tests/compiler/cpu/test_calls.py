"""Functions that are called, and scalar code for each element."""

from __future__ import annotations

import torch
import triton
import triton.language as tl

import unify


@triton.jit
def sign_or_limit(x, limit):
    if x > limit:
        return x * 0 + limit
    if x < 0:
        return x * 0 - 1
    return x


@triton.jit(noinline=True)
def twice(x, SHIFT: tl.constexpr):
    return x * 2 + SHIFT, x - SHIFT


@unify.jit
def calling_kernel(x, out, n, N: tl.constexpr):
    i = tl.arange(0, N)
    total = tl.zeros([N], dtype=tl.float32)
    for step in range(n):
        if step % 2 == 0:
            both = twice(step, 3)
            total += tl.load(x + i) * (both[0] - both[1])
        total += sign_or_limit(step - 2, 2)
    tl.store(out + i, total)


def test_functions_with_several_returns_inside_loops_and_branches() -> None:
    x, out = torch.randn(64), torch.empty(64)
    calling_kernel[(1,)](x, out, 6, N=64)
    expected = x * sum((2 * step + 3) - (step - 3) for step in (0, 2, 4)) + sum([-1, -1, 0, 1, 2, 2])
    torch.testing.assert_close(out, expected)


@triton.jit
def compare(a, b):
    if a < b:
        return -1
    elif a == b:
        return 0
    return 1


@unify.jit
def compare_kernel(x, y, out, M: tl.constexpr, N: tl.constexpr):
    place = tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
    tl.store(out + place, tl.map_elementwise(compare, tl.load(x + place), tl.load(y + place)))


def test_branches_for_each_element() -> None:
    x, y = torch.randint(0, 4, (2, 8, 32), dtype=torch.int32)
    out = torch.empty(8, 32, dtype=torch.int32)
    compare_kernel[(1,)](x, y, out, M=8, N=32)
    torch.testing.assert_close(out, (x - y).sign())
