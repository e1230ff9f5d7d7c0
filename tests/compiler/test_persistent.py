"""The loop around a kernel: whatever the number of blocks, the same memory as the grid's own run leaves."""

from __future__ import annotations

import numpy as np
import pytest
import triton.language as tl

import unify as un
from unify.compiler import Options, Specialization, Target, compile_ttir, to_ttir
from unify.compiler.persistent import persistent

from .kernels import add_kernel, early_kernel, joined_kernel


@un.jit
def grid_kernel(out):
    x, y, z = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    width, height, depth = tl.num_programs(0), tl.num_programs(1), tl.num_programs(2)
    place = (z * height + y) * width + x
    tl.store(out + place, x + 100 * y + 10000 * z + 1000000 * depth)


@un.jit
def nested_kernel(x, out, rows, columns, BLOCK: tl.constexpr):
    row = tl.program_id(1)
    total = tl.zeros([BLOCK], tl.float32)
    for start in range(0, columns, BLOCK):
        i = start + tl.arange(0, BLOCK)
        total += tl.load(x + row * columns + i, mask=i < columns, other=0.0)
    if tl.program_id(0) == 0:
        tl.store(out + row, tl.sum(total, 0))
    else:
        tl.atomic_add(out + rows + row, tl.max(total, 0))


@un.jit
def hinted_kernel(out):
    x = tl.multiple_of(tl.program_id(0), 1)
    tl.store(out + tl.multiple_of(tl.program_id(1), 1) * tl.multiple_of(tl.num_programs(0), 1) + x, x + 1)


@un.jit
def ways_kernel(x, n):
    if tl.program_id(0) == 1:
        return
    elif tl.program_id(0) == 2:
        tl.store(x + tl.program_id(0), 2.0)
        return
    if tl.program_id(0) >= n:
        tl.atomic_add(x + tl.program_id(0), 3.0)
        return
    for _ in range(n):
        tl.store(x + tl.program_id(0), tl.load(x + tl.program_id(0)) + 1.0)


@un.jit
def alone_kernel(x):
    tl.store(x, 1.0)


TYPES = {"x": "*fp32", "y": "*fp32", "out": "*fp32", "n": "i32", "rows": "i32", "columns": "i32"}


def ttir_of(kernel: un.Kernel, **constants: int) -> str:
    types = {name: "constexpr" if name in constants else TYPES[name] for name in kernel.arg_names}
    return to_ttir(kernel, Specialization(types, constants), num_warps=4, num_stages=3, debug=False)


def run(name: str, ttir: str, grid: object, *arguments: object) -> None:
    binary = compile_ttir(name, ttir, Target("cpu"), Options())
    un.Module.from_binary(binary, "cpu").function()[grid](*arguments)
    un.synchronize("cpu")


@pytest.mark.parametrize("blocks", [1, 3, 7, 20])
@pytest.mark.parametrize("n", [1, 100, 1000])
def test_a_row_of_programs(n: int, blocks: int) -> None:
    x, y = np.random.default_rng(n).standard_normal((2, n), dtype=np.float32)
    out = np.zeros_like(x)
    looped = persistent(ttir_of(add_kernel, BLOCK=64))
    assert looped is not None
    run("add_kernel", looped, blocks, x, y, out, n, -(-n // 64), 1, 1)
    np.testing.assert_array_equal(out, x + y)


@pytest.mark.parametrize("blocks", [1, 4, 100])
@pytest.mark.parametrize("grid", [(5, 1, 1), (1, 1, 6), (3, 4, 5)])
def test_programs_know_who_they_are(grid: tuple[int, int, int], blocks: int) -> None:
    looped = persistent(ttir_of(grid_kernel))
    assert looped is not None
    seen, expected = np.zeros((2, *grid[::-1]), np.float32)
    run("grid_kernel", ttir_of(grid_kernel), grid, expected)
    run("grid_kernel", looped, blocks, seen, *grid)
    z, y, x = np.indices(grid[::-1])
    np.testing.assert_array_equal(expected, x + 100 * y + 10000 * z + 1000000 * grid[2])
    np.testing.assert_array_equal(seen, expected)


def test_a_hint_on_the_number_of_a_program_is_no_way_out() -> None:
    looped = persistent(ttir_of(hinted_kernel))
    assert looped is not None
    seen = np.zeros(12, np.float32)
    run("hinted_kernel", looped, 2, seen, 4, 3, 1)
    np.testing.assert_array_equal(seen, np.tile(np.arange(1, 5), 3))


@pytest.mark.parametrize("blocks", [1, 5, 64])
def test_loops_branches_and_atomics_stay_inside(blocks: int) -> None:
    rows, columns = 9, 300
    x = np.random.default_rng(1).standard_normal((rows, columns), dtype=np.float32)
    text = ttir_of(nested_kernel, BLOCK=64)
    looped = persistent(text)
    assert looped is not None
    expected, seen = np.zeros((2, 2 * rows), np.float32)
    run("nested_kernel", text, (3, rows), x, expected, rows, columns)
    run("nested_kernel", looped, blocks, x, seen, rows, columns, 3, rows, 1)
    np.testing.assert_allclose(expected[:rows], x.sum(1), rtol=1e-4, atol=1e-4)
    np.testing.assert_array_equal(seen, expected)


@pytest.mark.parametrize("blocks", [1, 3, 50])
@pytest.mark.parametrize("kernel", [early_kernel, ways_kernel])
def test_what_follows_an_early_return_is_put_under_a_condition(kernel: un.Kernel, blocks: int) -> None:
    looped = persistent(ttir_of(kernel))
    assert looped is not None
    assert '"cf.' not in looped
    expected, seen = np.zeros((2, 20), np.float32)
    run(kernel.fn.__name__, ttir_of(kernel), 20, expected, 7)
    run(kernel.fn.__name__, looped, blocks, seen, 7, 20, 1, 1)
    assert len(set(expected[:9])) > 1
    np.testing.assert_array_equal(seen, expected)


def test_what_joins_again_or_never_asks_stays_as_it_is() -> None:
    assert persistent(ttir_of(joined_kernel)) is None
    assert persistent(ttir_of(alone_kernel)) is None
