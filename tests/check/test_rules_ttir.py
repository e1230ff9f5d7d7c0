"""Rules by a kernel's TTIR: a kernel that has it, at a line, and one that has not; and what the vendor says of both."""

from __future__ import annotations

from typing import Any

import pytest
import triton.language as tl
from triton.language.extra import libdevice

import unify as un

from ..installed import NEEDS_ASCEND
from .kernels import findings_of, line_of, outcome_of

pytestmark = NEEDS_ASCEND

FLOATS = {"x": "*fp32:16", "y": "*fp32:16"}
INTS = {"x": "*i32:16", "y": "*i32:16"}
FLOAT8 = {"x": "*fp8e5:16", "y": "*fp8e5:16"}
B3 = "ascend:910B3"


@un.jit
def add(x, y, N: tl.constexpr = 256):
    i = tl.arange(0, N)
    tl.store(y + i, tl.load(x + i).to(y.dtype.element_ty) + 1)  # here


@pytest.mark.parametrize("target", [B3, "ascend:950"])
@pytest.mark.parametrize(
    ("rule", "types", "said"),
    [
        ("float64", {"x": "*fp64:16", "y": "*fp64:16"}, "should have element type"),
        ("float8", {"x": "*fp8e5:16", "y": "*fp32:16"}, "tt.fp_to_fp"),
        ("float8", {"x": "*fp8e4nv:16", "y": "*fp32:16"}, "tt.fp_to_fp"),
    ],
)
def test_types_that_no_core_has(rule: str, types: dict[str, str], said: str, target: str) -> None:
    outcome = outcome_of(add, target, types)
    assert outcome.status == "failed"
    assert said in str(outcome.reason)
    assert [finding.line for finding in outcome.findings if finding.rule == rule] == [line_of(add)]
    outcome = outcome_of(add, target, FLOATS)
    assert (outcome.status, outcome.findings) == ("lowered", ())


def test_a_copy_of_float8_is_none_of_its_arithmetic() -> None:
    @un.jit
    def copied(x, y, N: tl.constexpr = 256):
        i = tl.arange(0, N)
        tl.store(y + i, tl.load(x + i))

    assert outcome_of(copied, B3, FLOAT8).findings == ()


def test_the_950_adds_float8() -> None:
    outcome = outcome_of(add, "ascend:950", FLOAT8)
    assert (outcome.status, outcome.findings) == ("lowered", ())
    outcome = outcome_of(add, B3, FLOAT8)
    assert (outcome.status, [f.rule for f in outcome.findings]) == ("failed", ["float8"])


@un.jit
def asinh_of_nvidia(x, y, N: tl.constexpr = 256):
    i = tl.arange(0, N)
    tl.store(y + i, libdevice.asinh(tl.load(x + i)))  # here


@un.jit
def tanh_of_nvidia(x, y, N: tl.constexpr = 256):
    i = tl.arange(0, N)
    tl.store(y + i, libdevice.tanh(tl.load(x + i)))


@un.jit
def tanh_by_hand(x, y, N: tl.constexpr = 256):
    i = tl.arange(0, N)
    tl.store(y + i, 2 * tl.sigmoid(2 * tl.load(x + i)) - 1)


def test_functions_of_nvidias_library() -> None:
    outcome = outcome_of(asinh_of_nvidia, B3, FLOATS)
    assert "tt.extern_elementwise" in str(outcome.reason)
    assert [(f.rule, f.line) for f in outcome.findings] == [("libdevice", line_of(asinh_of_nvidia))]
    assert "__nv_asinhf" in outcome.findings[0].text
    for kernel, target, status in ((asinh_of_nvidia, "cpu", "ok"), (tanh_of_nvidia, B3, "lowered")):
        outcome = outcome_of(kernel, target, FLOATS)
        assert (outcome.status, outcome.findings) == (status, ())  # these are known there
    assert outcome_of(tanh_by_hand, B3, FLOATS).findings == ()


@un.jit
def moved_by_ptx(x, y, N: tl.constexpr = 256):
    i = tl.arange(0, N)
    value = tl.load(x + i)
    moved = tl.inline_asm_elementwise("mov.b32 $0, $1;", "=r,r", [value], dtype=tl.int32, is_pure=True, pack=1)  # here
    tl.store(y + i, moved)


@pytest.mark.parametrize(("target", "said"), [(B3, "llvm.inline_asm"), ("ascend:950", "llvm.inline_asm"), ("cpu", "")])
def test_inline_assembly_is_for_one_chip(target: str, said: str) -> None:
    found = findings_of(moved_by_ptx, target, INTS)["inline-assembly"]
    assert [finding.line for finding in found] == [line_of(moved_by_ptx)]
    assert said in found[0].evidence
    assert "inline-assembly" not in findings_of(moved_by_ptx, "cuda:90", INTS)
    assert "inline-assembly" not in findings_of(add, target, INTS)


@un.jit
def waiting(x, y):
    while tl.atomic_cas(x, 0, 1) == 1:  # here
        pass
    tl.store(y, tl.load(y) + 1)
    tl.atomic_xchg(x, 0)


@un.jit
def nobody_waits(x, y):
    tl.atomic_add(y, 1)


def test_a_lock_that_programs_wait_for() -> None:
    found = findings_of(waiting, B3, INTS)
    assert [(f.line, f.severity) for f in found["spin-lock"]] == [(line_of(waiting), "portability")]
    assert "spin-lock" not in findings_of(nobody_waits, B3, INTS)


@un.jit
def waiting_by_load(x, y):
    while tl.load(x, volatile=True) < 5:  # here
        pass
    tl.store(y, 1)


@un.jit
def waiting_by_the_round_before(x, y):
    is_taken = 1
    while is_taken:
        is_taken = tl.atomic_xchg(x, 1)  # here
    tl.store(y, 1)


@un.jit
def following(x, y):
    place = 1
    while place > 0:  # a list in memory, that nobody changes
        tl.store(y + place, tl.load(y + place, volatile=True) + 1)
        place = tl.load(x + place)


@un.jit
def working(x, y, n):
    part = tl.atomic_add(x, 1)
    while part < n:  # a queue
        tl.store(y + part, part)
        part = tl.atomic_add(x, 1)


@pytest.mark.parametrize("kernel", [waiting_by_load, waiting_by_the_round_before])
def test_other_ways_to_wait(kernel: Any) -> None:
    assert [f.line for f in findings_of(kernel, B3, INTS)["spin-lock"]] == [line_of(kernel)]


def test_loops_that_wait_for_nobody() -> None:
    assert "spin-lock" not in findings_of(following, B3, INTS)
    assert "spin-lock" not in findings_of(working, B3, {**INTS, "n": "i32"})


@un.jit
def leaving(x, n):
    if tl.program_id(0) >= n:  # here
        return
    tl.store(x + tl.program_id(0), 1.0)


@un.jit
def staying(x, n):
    if tl.program_id(0) < n:
        tl.store(x + tl.program_id(0), 1.0)


@un.jit
def place_of(n):
    if tl.program_id(0) >= n:  # in a function
        return n
    return tl.program_id(0)


@un.jit
def joined(x, n):
    tl.store(x + place_of(n), 1.0)


def test_a_kernel_whose_ways_join_after_a_return_starts_a_block_for_each_program() -> None:
    types = {"x": "*fp32", "n": "i32"}
    outcome = outcome_of(joined, B3, types)
    assert [(f.rule, f.line) for f in outcome.findings] == [("early-return", line_of(place_of, "# in a function"))]
    assert outcome.memory["grid_limit"] == 65535
    for kernel in (staying, leaving):
        outcome = outcome_of(kernel, B3, types)
        assert "early-return" not in [f.rule for f in outcome.findings]
        assert outcome.memory["grid_limit"] is None


@un.jit
def loosely(x, y, N: tl.constexpr = 256):
    i = tl.arange(0, N)
    tl.atomic_add(y + i, tl.load(x + i), sem="relaxed")  # here


@un.jit
def strictly(x, y, N: tl.constexpr = 256):
    i = tl.arange(0, N)
    tl.atomic_add(y + i, tl.load(x + i))


def test_orders_of_atomics() -> None:
    assert [f.line for f in findings_of(loosely, B3, FLOATS)["atomic-order"]] == [line_of(loosely)]
    assert "atomic-order" not in findings_of(strictly, B3, FLOATS)


@un.jit
def marked_in_a_loop(x, y, n):
    for i in range(n):
        tl.atomic_or(y, tl.load(x + i))  # here


@un.jit
def marked_behind_a_loop(x, y, n):
    marks = 0
    for i in range(n):
        marks |= tl.load(x + i)
    tl.atomic_or(y, marks)


def test_atomics_in_loops() -> None:
    types = {**INTS, "n": "i32"}
    found = findings_of(marked_in_a_loop, B3, types)["atomic-in-loop"]
    assert [f.line for f in found] == [line_of(marked_in_a_loop)]
    assert "tl.atomic_or" in found[0].text
    assert "atomic-in-loop" not in findings_of(marked_behind_a_loop, B3, types)


@un.jit
def product(a, b, c, K: tl.constexpr = 32):
    i, j = tl.arange(0, 32), tl.arange(0, K)
    left, right = tl.load(a + i[:, None] * K + j[None, :]), tl.load(b + j[:, None] * 32 + i[None, :])
    tl.store(c + i[:, None] * 32 + i[None, :], tl.dot(left, right))  # here


def test_products_of_float32() -> None:
    def found(type_: str) -> Any:
        return findings_of(product, B3, {"a": type_, "b": type_, "c": "*fp32:16"})

    assert [f.line for f in found("*fp32:16")["dot-float32"]] == [line_of(product)]
    assert "dot-float32" not in found("*fp16:16")


@un.jit
def written_out(x, y, N: tl.constexpr = 256):
    i = tl.arange(0, N)
    for part in tl.static_range(32):
        tl.store(y + part * N + i, tl.load(x + part * N + i) + 1)  # here


@un.jit
def in_a_loop(x, y, N: tl.constexpr = 256):
    i = tl.arange(0, N)
    for part in range(32):
        tl.store(y + part * N + i, tl.load(x + part * N + i) + 1)


def test_loops_that_are_written_out() -> None:
    before, after = (outcome_of(kernel, B3, FLOATS, N=1024) for kernel in (written_out, in_a_loop))
    found = [f for f in before.findings if f.rule == "unrolled"]
    assert [f.line for f in found] == [line_of(written_out)]
    assert "32 times" in found[0].text
    assert "unrolled" not in [f.rule for f in after.findings]
    assert before.memory["ub_bytes"] >= 4 * after.memory["ub_bytes"]  # as the rule says


@un.jit
def part(x, i):
    return tl.load(x + i)  # a part


@un.jit
def called_by_hand(x, y, N: tl.constexpr = 64):
    i = tl.arange(0, N)
    a = part(x, i) + part(x, i + 64) + part(x, i + 128) + part(x, i + 192)
    b = part(x, i + 256) + part(x, i + 320) + part(x, i + 384) + part(x, i + 448)
    c = part(x, i + 512) + part(x, i + 576) + part(x, i + 640) + part(x, i + 704)
    d = part(x, i + 768) + part(x, i + 832) + part(x, i + 896) + part(x, i + 960)
    tl.store(y + i, a + b + c + d)


@un.jit
def called_in_a_loop(x, y, N: tl.constexpr = 64):
    i = tl.arange(0, N)
    total = tl.zeros([N], tl.float32)
    for number in tl.static_range(16):
        total += part(x, i + number * 64)
    tl.store(y + i, total)


def test_calls_by_hand_are_no_loop() -> None:
    assert "unrolled" not in findings_of(called_by_hand, B3, FLOATS, N=1024)
    (found,) = findings_of(called_in_a_loop, B3, FLOATS, N=1024)["unrolled"]
    assert "unrolled" not in findings_of(called_in_a_loop, B3, FLOATS, N=64)  # it fits well
    assert (found.line, "16 times" in found.text) == (line_of(part, "# a part"), True)


def test_what_a_library_function_does_is_at_the_users_line() -> None:
    outcome = outcome_of(tanh_by_hand, B3, {"x": "*fp64:16", "y": "*fp64:16"})
    lines = {f.line for f in outcome.findings if f.rule == "float64"}
    assert lines == {line_of(tanh_by_hand, "tl.sigmoid")}
