"""A block for each core with a loop around the kernel: what it leaves is what the grid's own programs leave."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import triton
import triton.language as tl

from unify.compiler.persistent import persistent

from ...compiler.cpu.harness import compile_kernel
from .harness import Emulated, Looped, compare

RNG = np.random.default_rng(31)
# One block, some, as many as the 910B3 has cores, and more than there are programs.
BLOCKS = (1, 7, 40, 5000)


def check(fn: Any, grid: tuple[int, ...], arguments: dict[str, Any], rtol: float = 0, **constants: Any) -> None:
    """Asserts that all arrays are what the CPU target leaves, whatever the number of blocks."""
    compiled = compile_kernel(fn, arguments, constants)
    expected = _copy(arguments)
    assert compiled.prepare(grid, expected)() == 0
    looped = Looped(compiled)
    for blocks in BLOCKS:
        seen = _copy(arguments)
        looped.launch(grid, seen, blocks)
        for name, value in seen.items():
            np.testing.assert_allclose(value, expected[name], rtol=rtol, err_msg=f"{name}, {blocks} blocks")


def _copy(arguments: dict[str, Any]) -> dict[str, Any]:
    return {name: v.copy() if isinstance(v, np.ndarray) else v for name, v in arguments.items()}


@triton.jit
def _numbered(out, seen):
    x, y, z = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    width, height, depth = tl.num_programs(0), tl.num_programs(1), tl.num_programs(2)
    place = (z * height + y) * width + x
    tl.store(out + place, x + 100 * y + 10000 * z + 1000000 * (width * 7 + height * 5 + depth * 3))
    tl.atomic_add(seen + place, 1)


@pytest.mark.parametrize("grid", [(4999,), (71, 67), (13, 17, 19), (1, 1, 3000), (1, 1, 1), (40,)])
def test_each_program_of_a_grid_is_done_once_and_knows_its_place(grid: tuple[int, ...]) -> None:
    count = int(np.prod(grid))
    out, seen = np.zeros((2, count), np.int32)
    check(_numbered, grid, {"out": out, "seen": seen})


@triton.jit
def _rows(x, weight, out, columns, BLOCK: tl.constexpr):
    row, part = tl.program_id(1), tl.program_id(0)
    i = part * BLOCK + tl.arange(0, BLOCK)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, columns, BLOCK):
        j = start + tl.arange(0, BLOCK)
        total += tl.load(x + row * columns + j, mask=j < columns, other=0.0)
    scale = tl.rsqrt(tl.sum(total * total, 0) + 1e-3)
    if part % 2 == 0:
        scale = scale * tl.load(weight + part)
    tl.store(out + row * columns + i, tl.load(x + row * columns + i, mask=i < columns) * scale, mask=i < columns)


def test_nothing_of_a_program_is_left_for_the_next_one() -> None:
    # Sums and masks start anew: columns that are no multiple of the block, in rows that differ by their size.
    x = (RNG.standard_normal((37, 150)) * np.exp(RNG.standard_normal((37, 1)))).astype(np.float32)
    arguments = {"x": x, "weight": RNG.random(3).astype(np.float32), "out": np.zeros_like(x), "columns": 150}
    check(_rows, (3, 37), arguments, rtol=1e-5, BLOCK=64)


@triton.jit
def _counted(x, count, most, sums, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < n, other=0)
    tl.atomic_add(count + value % 8, 1, mask=i < n)
    tl.atomic_max(most, tl.max(value, 0))
    tl.atomic_add(sums + tl.program_id(1), tl.sum(value, 0))


def test_atomic_sums_of_all_programs() -> None:
    x = RNG.integers(0, 1000, 3000).astype(np.int32)
    count, most, sums = np.zeros(8, np.int32), np.zeros(1, np.int32), np.zeros(3, np.int32)
    check(_counted, (47, 3), {"x": x, "count": count, "most": most, "sums": sums, "n": 3000}, BLOCK=64)


@triton.jit
def _place(columns):
    """Where a program works, as a function of its own."""
    place = tl.program_id(0)
    if tl.num_programs(1) > 1:
        place += tl.program_id(1) * columns
    return place


@triton.jit
def _first(columns, BLOCK: tl.constexpr):
    return _place(columns) * BLOCK + tl.arange(0, BLOCK)


@triton.jit
def _by_helpers(x, out, columns, BLOCK: tl.constexpr):
    i = _first(columns, BLOCK)
    tl.store(out + i, tl.load(x + i) * 2 + tl.num_programs(0))


@pytest.mark.parametrize("grid", [(300,), (12, 25)])
def test_program_ids_are_asked_for_in_functions(grid: tuple[int, ...]) -> None:
    x = RNG.integers(0, 99, 300 * 8).astype(np.int32)
    check(_by_helpers, grid, {"x": x, "out": np.zeros_like(x), "columns": grid[0]}, BLOCK=8)


@triton.jit
def _deep(x, out, n):
    row = tl.program_id(0)
    steps = 0
    value = tl.load(x + row)
    while (value > 1) & (steps < n + tl.program_id(1)):
        value = tl.where(value % 2 == 0, value // 2, 3 * value + 1 + tl.program_id(1) * 2)
        steps += 1
    tl.store(out + row * tl.num_programs(1) + tl.program_id(1), steps)


def test_program_ids_are_asked_for_in_loops_whose_length_they_decide() -> None:
    x = np.arange(1, 61, dtype=np.int32)
    check(_deep, (60, 3), {"x": x, "out": np.zeros(180, np.int32), "n": 20})


@triton.jit
def _left_early(x, out, n, BLOCK: tl.constexpr):
    row = tl.program_id(0)
    if row >= n:
        return
    i = row * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i)
    if tl.sum(value, 0) > 0:
        tl.store(out + i, value + 1)
        return
    for k in range(n):
        value += k * tl.num_programs(1)
    tl.store(out + i, value)


def test_a_kernel_that_leaves_early_leaves_the_loop_alone() -> None:
    x = RNG.integers(-50, 50, 300 * 16).astype(np.int32)
    check(_left_early, (300,), {"x": x, "out": np.full_like(x, -99), "n": 33}, BLOCK=16)


@triton.jit
def _several_ways(x, out, n):
    p = tl.program_id(0)
    if p == 1:
        return
    elif p == 2:
        tl.store(out + p, 7)
        return
    if tl.load(x + p) > n:
        tl.store(out + p, 1)
        if tl.load(x + p) > 2 * n:
            tl.store(out + p, 2)
        return
    tl.store(out + p, tl.load(x + p))


def test_a_kernel_with_several_ways_out() -> None:
    x = RNG.integers(0, 100, 200).astype(np.int32)
    check(_several_ways, (200,), {"x": x, "out": np.full_like(x, -99), "n": 33})


@triton.jit
def _leaving(n):
    if tl.program_id(0) >= n:
        return tl.program_id(0) * 0 - 1
    return tl.program_id(0)


@triton.jit
def _helper_leaves_early(x, out, n):
    where = _leaving(n)
    if where >= 0:
        tl.store(out + where, tl.load(x + where) + 1)


def test_a_kernel_whose_function_returns_early_runs_as_it_is() -> None:
    x = RNG.integers(0, 99, 500).astype(np.int32)
    arguments = {"x": x, "out": np.zeros_like(x), "n": 321}
    assert persistent(compile_kernel(_helper_leaves_early, arguments).ttir) is None
    compare(_helper_leaves_early, (500,), arguments)


def test_blocks_share_the_programs_and_no_one_else_s() -> None:
    # Block 2 of 7 does the programs 2, 9, 16, …: what the others do not do is left as it was.
    out, seen = np.full(500, -1, np.int32), np.zeros(500, np.int32)
    compiled = compile_kernel(_numbered, {"out": out, "seen": seen})
    looped = Looped(compiled)
    looped.run((7,), [out, seen, 500, 1, 1], range(2, 3))
    np.testing.assert_array_equal(seen, np.arange(500) % 7 == 2)
    Emulated(compiled).launch((500,), {"out": out, "seen": seen})
    np.testing.assert_array_equal(seen, 1 + (np.arange(500) % 7 == 2))
