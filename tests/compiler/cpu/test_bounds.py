"""What ranges of integers decide, in kernels whose numbers wrap around, end at a border or divide by zero."""

from __future__ import annotations

import numpy as np
import pytest
import triton
import triton.language as tl

from .harness import compile_kernel, run


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


@triton.jit
def rows_kernel(x, out, rows, N: tl.constexpr, ROWS: tl.constexpr, COLUMNS: tl.constexpr):
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)[:, None]
    total = tl.zeros([ROWS, COLUMNS], tl.float32)
    for start in range(0, N, COLUMNS):
        column = start + tl.arange(0, COLUMNS)[None, :]
        mask = (row < rows) & (column < N)
        total += tl.load(x + row * N + column, mask, other=0.0)
    for start in range(0, N, COLUMNS):
        column = start + tl.arange(0, COLUMNS)[None, :]
        mask = (row < rows) & (column < N)
        tl.store(out + row * N + column, tl.load(x + row * N + column, mask) / tl.sum(total, 1)[:, None], mask)


@pytest.mark.parametrize(("n", "columns"), [(512, 512), (512, 64), (500, 64)])
def test_a_row_that_is_outside_is_not_written_and_one_inside_needs_no_mask(n: int, columns: int) -> None:
    x, out = np.random.default_rng(0).random((4, n), np.float32), np.zeros((4, n), np.float32)
    arguments, constants = {"x": x, "out": out, "rows": 3}, {"N": n, "ROWS": 2, "COLUMNS": columns}
    kernel = compile_kernel(rows_kernel, arguments, constants)
    assert kernel.prepare((2,), arguments)() == 0
    np.testing.assert_allclose(out[:3], x[:3] / x[:3].sum(1, keepdims=True), rtol=1e-5)
    assert (out[3] == 0).all()
    # Columns that go evenly into tiles are all inside: what is left of the mask is one answer for a row.
    assert ("call void @llvm.masked.store" in kernel.stages["llvm"]) == (n % columns != 0)


@triton.jit
def compared_kernel(x, out, n, PREDICATE: tl.constexpr, SWAP: tl.constexpr, N: tl.constexpr):
    i = tl.program_id(0) * N + tl.arange(0, N)
    bound = tl.zeros([N], tl.int32) + n
    a, b = (bound, i) if SWAP else (i, bound)
    if PREDICATE == "<":
        mask = a < b
    elif PREDICATE == "<=":
        mask = a <= b
    elif PREDICATE == ">":
        mask = a > b
    else:
        mask = a >= b
    tl.store(out + i, tl.load(x + i, mask, other=-1), mask | (i % 32 == 5))


@pytest.mark.parametrize("swap", [False, True])
@pytest.mark.parametrize("predicate", ["<", "<=", ">", ">="])
def test_a_run_compared_with_a_bound_that_may_go_evenly_into_it(predicate: str, swap: bool) -> None:
    for n in (64, 48, 50, 0, -16, 1024):
        x, out = np.arange(256, dtype=np.int32), np.full(256, -2, np.int32)
        run(compared_kernel, (4,), {"x": x, "out": out, "n": n}, PREDICATE=predicate, SWAP=swap, N=64)
        a, b = (n, x) if swap else (x, n)
        mask = {"<": a < b, "<=": a <= b, ">": a > b, ">=": a >= b}[predicate]
        np.testing.assert_array_equal(out, np.where(mask, x, np.where(x % 32 == 5, -1, -2)))


@triton.jit
def grouped_kernel(x, out, rows, columns, GROUP: tl.constexpr, M: tl.constexpr, N: tl.constexpr):
    # Programs in groups of rows, as in Triton's tutorial on matrix products; its last group may have fewer rows.
    across = tl.cdiv(columns, N)
    first = tl.program_id(0) // (GROUP * across) * GROUP
    height = min(tl.cdiv(rows, M) - first, GROUP)
    row = (first + tl.program_id(0) % (GROUP * across) % height) * M + tl.arange(0, M)
    column = tl.program_id(0) % (GROUP * across) // height * N + tl.arange(0, N)
    value = tl.load(x + (row % rows)[:, None] * columns + (column % columns)[None, :])
    inside = (row < rows)[:, None] & (column < columns)[None, :]
    tl.store(out + row[:, None] * columns + column[None, :], value * 2, mask=inside)


@pytest.mark.parametrize("shape", [(80, 96), (48, 64), (50, 70)])
def test_a_grouped_program_s_columns_run_on(shape: tuple[int, int]) -> None:
    x = np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    out = np.zeros_like(x)
    arguments = {"x": x, "out": out, "rows": shape[0], "columns": shape[1]}
    kernel = compile_kernel(grouped_kernel, arguments, {"GROUP": 2, "M": 16, "N": 32})
    assert kernel.prepare((-(-shape[0] // 16) * -(-shape[1] // 32),), arguments)() == 0
    np.testing.assert_array_equal(out, x * 2)
    if shape[1] % 16 == 0 and kernel.target.vector_bytes == 32:
        assert "gather" not in kernel.stages["llvm"]
