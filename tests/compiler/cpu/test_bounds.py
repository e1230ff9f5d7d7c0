"""What ranges of integers decide, in kernels whose numbers wrap around, end at a border or divide by zero."""

from __future__ import annotations

import numpy as np
import pytest
import triton
import triton.language as tl

from .harness import run


@triton.jit
def hashed_mask_kernel(out, SIGNED: tl.constexpr, N: tl.constexpr):
    i = tl.arange(0, N)
    if SIGNED:
        tl.store(out + i, 1, mask=i * 1664525 + 1013904223 >= 0)
    else:
        tl.store(out + i, 1, mask=((i.to(tl.uint32) * 1664525 + 1013904223) >> 31) == 0)


@pytest.mark.parametrize("signed", [False, True])
def test_a_mask_of_numbers_that_wrap_around_is_computed(signed: bool) -> None:
    out = np.zeros(4096, np.int32)
    run(hashed_mask_kernel, (1,), {"out": out}, N=4096, SIGNED=signed)
    hashed = np.arange(4096, dtype=np.uint32) * np.uint32(1664525) + np.uint32(1013904223)
    np.testing.assert_array_equal(out, hashed >> 31 == 0)


@triton.jit
def hashed_index_kernel(table, out, TABLE: tl.constexpr, N: tl.constexpr):
    i = tl.program_id(0) * N + tl.arange(0, N)
    tl.store(out + i, tl.load(table + (i.to(tl.uint32) * 2654435761) % TABLE))


def test_a_hashed_index_wraps_before_its_remainder() -> None:
    table, out = np.arange(1000, dtype=np.int32), np.zeros(4096, np.int32)
    run(hashed_index_kernel, (4,), {"table": table, "out": out}, TABLE=1000, N=1024)
    hashed = np.arange(4096, dtype=np.uint32) * np.uint32(2654435761)
    np.testing.assert_array_equal(out, hashed % 1000)


@triton.jit
def divide_kernel(x, y, quotient, remainder, n, N: tl.constexpr):
    i = tl.arange(0, N)
    a, b = tl.load(x + i, mask=i < n, other=0), tl.load(y + i, mask=i < n, other=0)
    tl.store(quotient + i, a // b, mask=i < n)
    tl.store(remainder + i, tl.where(b == 0, 7, a % b), mask=i < n)


@triton.jit
def divide_scalar_kernel(x, y, quotient, remainder, n, N: tl.constexpr):
    for i in range(n):
        a, b = tl.load(x + i), tl.load(y + i)
        tl.store(quotient + i, tl.where(b == 0, 0, a // b))
        tl.store(remainder + i, tl.where(b == 0, 7, a % b))


@pytest.mark.parametrize("kernel", [divide_kernel, divide_scalar_kernel])
@pytest.mark.parametrize("type_", ["int8", "int16", "int32", "int64", "uint8", "uint32", "uint64"])
def test_lanes_that_nobody_uses_may_divide_by_zero(kernel, type_: str) -> None:
    info = np.iinfo(type_)
    x = np.array([info.min, info.max, 17, 0, 5, 100], type_)
    y = np.array([-1 if info.min else 1, 3, 5, 7, 0, 9], type_)
    quotient, remainder = np.zeros_like(x), np.zeros_like(x)
    run(kernel, (1,), {"x": x, "y": y, "quotient": quotient, "remainder": remainder, "n": len(x)}, N=16)
    for a, b, q, r in zip(*(array.tolist() for array in (x, y, quotient, remainder))):
        if b == 0:
            assert r == 7
            continue
        wanted = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
        assert r == a - wanted * b
        assert q == (wanted if wanted <= info.max else a)  # the least by -1 wraps to itself
