"""Rules about what a kernel means on the chip: a kernel that has it, at a line, and one that has not."""

from __future__ import annotations

from typing import Any

import pytest
import triton.language as tl

import unify as un
from unify.check import rules
from unify.check.subject import Finding, Subject
from unify.compiler import Options, Specialization, Target, compile_ttir, to_ttir

from ..installed import NEEDS_ASCEND
from .kernels import findings_of, line_of

pytestmark = NEEDS_ASCEND

TYPES = {"x": "*i32:16", "out": "*i32:16", "n": "i32"}
CHIPS = ("ascend:910B3", "ascend:950")


def lines_of(rule: str, kernel: Any, target: str, types: dict[str, str] = TYPES, **constants: Any) -> list[int]:
    named = {name: type_ for name, type_ in types.items() if name in kernel.arg_names}
    return [finding.line for finding in findings_of(kernel, target, named, **constants).get(rule, [])]


# ---------------------------------------------------------------- masked loads


@un.jit
def by_index(x, out, n, N: tl.constexpr = 64):
    i = tl.arange(0, N)
    index = tl.load(x + i, mask=i < n, other=0)
    tl.store(out + i, tl.load(x + index, mask=i < n, other=-1), mask=i < n)  # here


@un.jit
def by_square(x, out, n, N: tl.constexpr = 64):
    i = tl.arange(0, N)
    tl.store(out + i, tl.load(x + i * i, mask=i < n, other=-1))  # here


@un.jit
def each_third(x, out, n, N: tl.constexpr = 64):
    i = tl.arange(0, N)
    tl.store(out + i, tl.load(x + i, mask=(i < n) & (i % 3 == 0), other=-1))  # here


@un.jit
def rows_by_index(x, out, n, N: tl.constexpr = 64):
    i, column = tl.arange(0, N), tl.arange(0, 16)
    rows = tl.load(x + i)
    value = tl.load(x + rows[:, None] * 16 + column[None, :], mask=(i < n)[:, None], other=0)  # here
    tl.store(out + i[:, None] * 16 + column[None, :], value)


@un.jit
def one_number(x, out, n):
    row = tl.program_id(0)
    tl.store(out + row, tl.load(x + row, mask=row < n, other=0), mask=row < n)  # here


@un.jit
def by_index_that_is_kept_inside(x, out, n, N: tl.constexpr = 64):
    i = tl.arange(0, N)
    index = tl.load(x + i, mask=i < n, other=0)
    is_inside = (index >= 0) & (index < n)
    tl.store(out + i, tl.load(x + tl.where(is_inside, index, 0), mask=is_inside, other=0), mask=i < n)


@un.jit
def rows_that_are_kept_inside(x, out, n, N: tl.constexpr = 64):
    i, column = tl.arange(0, N), tl.arange(0, 16)
    rows = tl.load(x + i)
    is_inside = rows < n
    place = tl.where(is_inside, rows, 0)[:, None] * 16 + column[None, :]
    tl.store(out + i[:, None] * 16 + column[None, :], tl.load(x + place, mask=is_inside[:, None], other=0))


@un.jit
def in_a_range(x, out, n, N: tl.constexpr = 64):
    i, row = tl.arange(0, N), tl.program_id(0)
    value = tl.load(x + row * N + i, mask=(i >= 3) & (i < n), other=-1)
    table = tl.load(x + i[:, None] * 16 + tl.arange(0, 16)[None, :], mask=(i < n)[:, None], other=0)
    tl.store(out + i, tl.where(value > 0, value + tl.sum(table, 1), 0), mask=i < n)


@un.jit
def by_index_without_a_mask(x, out, n, N: tl.constexpr = 64):
    i = tl.arange(0, N)
    index = tl.load(x + i, mask=i < n, other=0)
    tl.store(out + i, tl.load(x + index), mask=i < n)


@pytest.mark.parametrize("target", CHIPS)
@pytest.mark.parametrize(
    "kernel", [by_index, by_square, each_third, rows_by_index, one_number], ids=lambda k: k.fn.__name__
)
def test_loads_that_read_what_their_mask_leaves_out(kernel: Any, target: str) -> None:
    assert lines_of("masked-load", kernel, target) == [line_of(kernel)]


@pytest.mark.parametrize("target", CHIPS)
@pytest.mark.parametrize(
    "kernel",
    [in_a_range, by_index_without_a_mask, by_index_that_is_kept_inside, rows_that_are_kept_inside],
    ids=lambda k: k.fn.__name__,
)
def test_loads_that_read_what_they_say(kernel: Any, target: str) -> None:
    assert lines_of("masked-load", kernel, target) == lines_of("masked-store", kernel, target) == []


# ---------------------------------------------------------------- masked stores


@un.jit
def stored_each_third(x, out, n, N: tl.constexpr = 64):
    i = tl.arange(0, N)
    tl.store(out + i, tl.load(x + i), mask=(i < n) & (i % 3 == 0))  # here


@un.jit
def stored_where_positive(x, out, n, N: tl.constexpr = 64):
    i = tl.arange(0, N)
    value = tl.load(x + i)
    tl.store(out + i, value, mask=value > 0)  # here


@un.jit
def scattered(x, out, n, N: tl.constexpr = 64):
    i = tl.arange(0, N)
    tl.store(out + tl.load(x + i), i, mask=(i < n) & (i % 3 == 0))


@pytest.mark.parametrize("target", CHIPS)
def test_stores_that_write_what_their_mask_leaves_out(target: str) -> None:
    for kernel in (stored_each_third, stored_where_positive):
        assert lines_of("masked-store", kernel, target) == [line_of(kernel)]
    assert lines_of("masked-store", scattered, target) == []  # one by one, each under its condition


# ---------------------------------------------------------------- assertions


@un.jit
def asserted(x, out):
    value = tl.load(x)
    tl.device_assert(value > 0, "positive")  # here
    tl.store(out, value)


@pytest.mark.parametrize(("target", "is_lost"), [("ascend:910B3", False), ("ascend:950", True)])
def test_assertions_of_a_kernel_that_is_debugged(target: str, is_lost: bool) -> None:
    ttir = to_ttir(asserted, Specialization({"x": "*i32", "out": "*i32"}), num_warps=4, num_stages=1, debug=True)
    binary = compile_ttir("asserted", ttir, Target.parse(target), Options(stages=("lines",)))
    found: tuple[Finding, ...] = rules.findings(Subject(ttir, target, dict(binary.metadata), binary.stages["lines"]))
    assert [f.line for f in found if f.rule == "lost-assertion"] == [line_of(asserted)] * is_lost
