"""Rules by the vendor's last IR: for each a kernel that has it, at a line, and one that does the same without it."""

from __future__ import annotations

from typing import Any

import pytest
import triton.language as tl

import unify as un

from ..installed import NEEDS_ASCEND
from .kernels import findings_of, line_of

pytestmark = NEEDS_ASCEND

FLOATS = {"x": "*fp32:16", "y": "*fp32:16"}
INTS = {"x": "*i32:16", "y": "*i32:16"}
LONGS = {"x": "*i64:16", "y": "*i64:16"}
B3, NEXT = "ascend:910B3", "ascend:950"


def check(
    rule: str, before: Any, after: Any, types: dict[str, str], evidence: str, target: str = B3, **constants: Any
) -> None:
    found = findings_of(before, target, types, **constants)
    assert [finding.line for finding in found[rule]] == [line_of(before)]
    assert evidence in found[rule][0].evidence
    assert rule not in findings_of(after, target, types, **constants)


@un.jit
def add(x, y, N: tl.constexpr = 256):
    i = tl.program_id(0) * N + tl.arange(0, N)
    tl.store(y + i, tl.load(x + i) + tl.load(y + i))  # here


def test_sums_of_long_integers_are_done_one_by_one() -> None:
    found = findings_of(add, B3, LONGS)["scalar-arithmetic"]
    assert [finding.line for finding in found] == [line_of(add)]
    assert "arith.addi" in found[0].evidence
    assert ": i64" in found[0].evidence
    assert "addition of int64, 256 elements" in found[0].text
    assert "scalar-arithmetic" not in findings_of(add, B3, INTS)
    assert "scalar-arithmetic" not in findings_of(add, NEXT, LONGS)  # which has vectors of them


@un.jit
def wrapped(x, y, n, N: tl.constexpr = 256):
    i = tl.arange(0, N)
    tl.store(y + i, tl.load(x + i) % n)  # here


@un.jit
def wrapped_by_bits(x, y, n, N: tl.constexpr = 256):
    i = tl.arange(0, N)
    tl.store(y + i, tl.load(x + i) & (n - 1))


@un.jit
def wrapped_by_division(x, y, n, N: tl.constexpr = 256):
    i = tl.arange(0, N)
    value = tl.load(x + i)
    tl.store(y + i, value - value // n * n)


def test_remainders_are_done_one_by_one() -> None:
    check("scalar-arithmetic", wrapped, wrapped_by_bits, {**INTS, "n": "i32"}, "arith.remsi")
    check("scalar-arithmetic", wrapped, wrapped_by_division, {**INTS, "n": "i32"}, "arith.remsi")


@un.jit
def shifted_each(x, y, N: tl.constexpr = 256):
    i = tl.arange(0, N)
    tl.store(y + i, tl.load(x + i) << tl.load(y + i))  # here


def test_shifts_that_differ_are_done_one_by_one() -> None:
    found = findings_of(shifted_each, B3, INTS)["scalar-arithmetic"]
    assert [f.line for f in found] == [line_of(shifted_each)]
    assert "scalar-arithmetic" not in findings_of(shifted, B3, {**INTS, "n": "i32"})


@un.jit
def divided(x, y, n, N: tl.constexpr = 256):
    i = tl.arange(0, N)
    tl.store(y + i, tl.load(x + i) // n)  # here


@un.jit
def divided_later(x, y, n, N: tl.constexpr = 256):
    i = tl.program_id(0) * N + tl.arange(0, N)
    value = tl.load(x + i, mask=i < n)
    tl.store(y + i, value // 7, mask=i < n)  # here


@un.jit
def divided_as_floats(x, y, n, N: tl.constexpr = 256):
    i = tl.arange(0, N)
    tl.store(y + i, (tl.load(x + i).to(tl.float32) / n).to(tl.int32))


@un.jit
def shifted(x, y, n, N: tl.constexpr = 256):
    i = tl.arange(0, N)
    tl.store(y + i, tl.load(x + i) >> n)


def test_integers_are_divided_as_floats() -> None:
    check("integer-division", divided, shifted, {**INTS, "n": "i32"}, "@vdiv_vs_1d_float")
    check("integer-division", divided_later, divided_as_floats, {**INTS, "n": "i32"}, "@vdiv_vs_1d_float")
    assert "integer-division" not in findings_of(divided, B3, {"x": "*i16:16", "y": "*i16:16", "n": "i16"})  # exact


@un.jit
def cut(x, y, n, N: tl.constexpr = 256):
    i = tl.program_id(0) * N + tl.arange(0, N)
    tl.store(y + i, tl.where(i < n, tl.load(x + i), 0.0))  # here


@un.jit
def cut_as_floats(x, y, n, N: tl.constexpr = 256):
    i = tl.program_id(0) * N + tl.arange(0, N)
    tl.store(y + i, tl.where(i.to(tl.float32) < n.to(tl.float32), tl.load(x + i), 0.0))


def test_integers_are_compared_in_three_steps() -> None:
    check("integer-compare", cut, cut_as_floats, {**FLOATS, "n": "i32"}, "@vcmp_eq_1d_int32_t")


@un.jit
def picked(x, index, y, N: tl.constexpr = 256):
    i = tl.arange(0, N)
    chosen = tl.load(index + i)
    tl.store(y + i, tl.load(x + chosen))  # here


@un.jit
def picked_on_chip(x, index, y, N: tl.constexpr = 256):
    i = tl.arange(0, N)
    chosen = tl.load(index + i)
    tl.store(y + i, tl.gather(tl.load(x + i), chosen, 0))


@pytest.mark.parametrize("target", [B3, NEXT])
def test_a_gather_loads_one_by_one(target: str) -> None:
    check("gather", picked, picked_on_chip, {**FLOATS, "index": "*i32:16"}, "memref.load", target)


def test_a_scalar_load_in_a_loop_is_no_gather() -> None:
    @un.jit
    def scaled(x, y, n, N: tl.constexpr = 256):
        for row in range(n):
            i = row * N + tl.arange(0, N)
            tl.store(y + i, tl.load(y + i) * tl.load(x + row))

    assert "gather" not in findings_of(scaled, B3, {**FLOATS, "n": "i32"})


@un.jit
def placed(x, index, y, N: tl.constexpr = 256):
    i = tl.arange(0, N)
    chosen = tl.load(index + i)
    tl.store(y + chosen, tl.load(x + i))  # here


@un.jit
def placed_in_rows(x, index, y, N: tl.constexpr = 256):
    i = tl.arange(0, N)
    chosen = tl.load(index)
    tl.store(y + chosen * N + i, tl.load(x + i))


@pytest.mark.parametrize("target", [B3, NEXT])
def test_a_scatter_stores_one_by_one(target: str) -> None:
    check("scatter", placed, placed_in_rows, {**FLOATS, "index": "*i32:16"}, "store", target)


@un.jit
def every_fourth(x, y, N: tl.constexpr = 256):
    i = tl.arange(0, N)
    tl.store(y + i, tl.load(x + i * 4))  # here


@un.jit
def every_one(x, y, N: tl.constexpr = 256):
    i = tl.arange(0, N)
    tl.store(y + i, tl.load(x + i))


@pytest.mark.parametrize("target", [B3, NEXT])
def test_strides_are_copied_one_by_one(target: str) -> None:
    check("strided-access", every_fourth, every_one, FLOATS, "strided<[4]>", target)


@un.jit
def turned_in_memory(x, y, n, M: tl.constexpr = 32, N: tl.constexpr = 64):
    i, j = tl.arange(0, M), tl.arange(0, N)
    tile = tl.load(x + i[:, None] + j[None, :] * n)  # here
    tl.store(y + i[:, None] * N + j[None, :], tile)


@un.jit
def turned_on_chip(x, y, n, M: tl.constexpr = 32, N: tl.constexpr = 64):
    i, j = tl.arange(0, M), tl.arange(0, N)
    tile = tl.trans(tl.load(x + j[:, None] * n + i[None, :]))
    tl.store(y + i[:, None] * N + j[None, :], tile)


def test_a_turned_tile_has_strides() -> None:
    check("strided-access", turned_in_memory, turned_on_chip, {**FLOATS, "n": "i32"}, "strided<[1, ?]>")


@un.jit
def narrow_rows(x, y, n, M: tl.constexpr = 128, N: tl.constexpr = 4):
    i, j = tl.arange(0, M), tl.arange(0, N)
    tile = tl.load(x + i[:, None] * n + j[None, :])  # here
    tl.store(y + i[:, None] * N + j[None, :], tl.exp(tile))


def test_rows_shorter_than_a_block_are_padded() -> None:
    found = findings_of(narrow_rows, B3, {**FLOATS, "n": "i32"})["row-padding"]
    assert found[0].line == line_of(narrow_rows)
    assert "row of 16 bytes takes 32" in found[0].text
    assert "row-padding" not in findings_of(narrow_rows, B3, {**FLOATS, "n": "i32"}, N=8)


@un.jit
def summed_up(x, y, N: tl.constexpr = 256):
    i = tl.arange(0, N)
    tl.store(y + i, tl.cumsum(tl.load(x + i), 0))  # here


@un.jit
def summed_up_by_rows(x, y, N: tl.constexpr = 256):
    i, j = tl.arange(0, N), tl.arange(0, 64)
    at = i[:, None] * 64 + j[None, :]
    tl.store(y + at, tl.cumsum(tl.load(x + at), 0))


def test_a_scan_goes_one_by_one() -> None:
    check("sequential-scan", summed_up, summed_up_by_rows, FLOATS, "arith.addf")


@un.jit
def filled(x, y, n, N: tl.constexpr = 256):
    i = tl.program_id(0) * N + tl.arange(0, N)
    value = tl.load(x + i, mask=i < n, other=0.0)  # here
    tl.store(y + i, value + 1, mask=i < n)


@un.jit
def not_filled(x, y, n, N: tl.constexpr = 256):
    i = tl.program_id(0) * N + tl.arange(0, N)
    value = tl.load(x + i, mask=i < n)
    tl.store(y + i, value + 1, mask=i < n)


def test_what_is_masked_off_is_filled_first() -> None:
    check("masked-fill", filled, not_filled, {**FLOATS, "n": "i32"}, "@broadcast_scalar_float_to_1d")


@un.jit
def summed(x, y, n, N: tl.constexpr = 256):
    i = tl.arange(0, N)
    tl.store(y, tl.sum(tl.load(x + i, mask=i < n, other=0.0), 0))


@un.jit
def stored_for_all(x, y, n, N: tl.constexpr = 256):
    i = tl.arange(0, N)
    tl.store(y + i, tl.load(x + i, mask=i < n, other=1.0))


@pytest.mark.parametrize("kernel", [summed, stored_for_all])
def test_a_fill_that_is_needed_is_no_finding(kernel: Any) -> None:
    assert "masked-fill" not in findings_of(kernel, B3, {**FLOATS, "n": "i32"})


@un.jit
def rows_by_remainder(x, y, n, N: tl.constexpr = 32):
    i = tl.arange(0, N)
    rows = (tl.program_id(0) * N + i) % n
    places = x + rows[:, None] * N + i[None, :]
    total = tl.zeros([N, N], tl.float32)
    for _ in range(4):
        total += tl.load(places)  # here
        places += N
    tl.store(y + i[:, None] * N + i[None, :], total)


@un.jit
def rows_by_mask(x, y, n, N: tl.constexpr = 32):
    i = tl.arange(0, N)
    rows = tl.program_id(0) * N + i
    places = x + rows[:, None] * N + i[None, :]
    total = tl.zeros([N, N], tl.float32)
    for _ in range(4):
        total += tl.load(places, mask=rows[:, None] < n, other=0.0)
        places += N
    tl.store(y + i[:, None] * N + i[None, :], total)


@pytest.mark.parametrize("target", [B3, NEXT])
def test_places_that_are_remainders_are_no_rows(target: str) -> None:
    types = {**FLOATS, "n": "i32"}
    check("wrapped-places", rows_by_remainder, rows_by_mask, types, "memref.load", target)
    assert "gather" not in findings_of(rows_by_mask, target, types)
    assert "wrapped-places" not in findings_of(by_table, target, {**FLOATS, "n": "*i32:16"})


@un.jit
def by_table(x, y, n, N: tl.constexpr = 32):
    i = tl.arange(0, N)
    tl.store(y + i, tl.load(x + tl.load(n + i) % 8))


@un.jit
def in_parts(x, y, n, N: tl.constexpr):
    for start in range(0, n, N):
        i = start + tl.arange(0, N)
        value = tl.load(x + i)
        other = tl.load(y + i)  # here
        tl.store(y + i, tl.exp(value) * other + value)


def test_large_tiles_have_one_place() -> None:
    types = {**FLOATS, "n": "i32"}
    found = findings_of(in_parts, B3, types, N=16384)["no-double-buffer"]
    assert line_of(in_parts) in [finding.line for finding in found]
    assert all("pointer_cast" in finding.evidence for finding in found)
    assert "no-double-buffer" not in findings_of(in_parts, B3, types, N=1024)


@un.jit
def held(x, y, N: tl.constexpr = 256):
    i = tl.arange(0, N)
    value = tl.load(x + i)
    tl.debug_barrier()  # here
    tl.store(y + i, value)


@pytest.mark.parametrize("target", [B3, NEXT])
def test_a_barrier_waits_for_all_units(target: str) -> None:
    check("barrier", held, every_one, FLOATS, "PIPE_ALL", target)


@un.jit
def greatest_of_all(x, y, N: tl.constexpr = 64):
    i = tl.program_id(0) * N + tl.arange(0, N)
    tl.store(y + i, tl.atomic_max(x + i, i))  # here


@un.jit
def counted_in_a_loop(x, y, n):
    tl.atomic_add(y, 1)
    for i in range(n):
        tl.atomic_xor(x + i, 1)  # here


@pytest.mark.parametrize("target", [B3, NEXT])
def test_a_lock_around_a_loop_is_told_at_the_atomic_in_it(target: str) -> None:
    (all_programs,) = findings_of(greatest_of_all, target, INTS)["atomic-lock"]
    assert (all_programs.line, "one after the other" in all_programs.text) == (line_of(greatest_of_all), True)
    assert "@sync_block_lock" in all_programs.evidence
    (whole_loop,) = findings_of(counted_in_a_loop, target, {**INTS, "n": "i32"})["atomic-lock"]
    assert (whole_loop.line, "around its whole loop." in whole_loop.text) == (line_of(counted_in_a_loop), True)
    (itself,) = findings_of(flagged, target, INTS)["atomic-lock"]
    assert "all cores share." in itself.text


@un.jit
def flagged(x, y):
    tl.atomic_cas(x, 0, 1)  # here


@un.jit
def counted(x, y):
    tl.atomic_add(x, 1)


@pytest.mark.parametrize("target", [B3, NEXT])
def test_atomics_that_the_chip_lacks_take_a_lock(target: str) -> None:
    check("atomic-lock", flagged, counted, INTS, "@sync_block_lock", target)


@un.jit
def sorted_all(x, y, N: tl.constexpr = 32):
    i = tl.arange(0, N)
    tl.store(y + i, tl.sort(tl.load(x + i)))  # here


@un.jit
def largest(x, y, N: tl.constexpr = 32):
    i = tl.arange(0, N)
    tl.store(y, tl.max(tl.load(x + i), 0))


def test_sorting_is_a_network() -> None:
    check("many-operations", sorted_all, largest, FLOATS, " × @")


@un.jit
def scaled_product(a, b, c, k, K: tl.constexpr = 64):
    i, j = tl.arange(0, 64), tl.arange(0, K)
    total = tl.zeros([64, 64], tl.float32)
    for start in range(0, k, K):
        left = tl.load(a + i[:, None] * k + start + j[None, :])
        right = tl.load(b + (start + j)[:, None] * 64 + i[None, :])
        total += tl.dot(left, right) * 0.5  # here
    tl.store(c + i[:, None] * 64 + i[None, :], total)


@un.jit
def product_scaled_once(a, b, c, k, K: tl.constexpr = 64):
    i, j = tl.arange(0, 64), tl.arange(0, K)
    total = tl.zeros([64, 64], tl.float32)
    for start in range(0, k, K):
        left = tl.load(a + i[:, None] * k + start + j[None, :])
        right = tl.load(b + (start + j)[:, None] * 64 + i[None, :])
        total = tl.dot(left, right, total)
    tl.store(c + i[:, None] * 64 + i[None, :], total * 0.5)


def test_a_product_that_leaves_the_cube_in_each_round() -> None:
    types = {"a": "*fp16:16", "b": "*fp16:16", "c": "*fp32:16", "k": "i32:16"}
    check("cube-to-vector", scaled_product, product_scaled_once, types, "@fixpipe_nz2nd")
