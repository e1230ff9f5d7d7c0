"""Atomic operations, also between the threads of a grid. Loads, stores and polls are new in Triton 3.9."""

from __future__ import annotations

import time

import numpy as np
import pytest
import triton
import triton.language as tl

import unify

from .harness import compile_kernel, run

since_3_9 = pytest.mark.skipif(not hasattr(tl, "atomic_poll"), reason="this Triton has no atomic polls")
DTYPES = ["int16", "int32", "int64"]


@triton.jit
def copy_kernel(x, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.atomic_store(out + i, tl.atomic_load(x + i, mask=i < n) + 1, mask=i < n)


@triton.jit
def scalar_kernel(x, out):
    tl.atomic_store(out, tl.atomic_load(x, sem="relaxed"), sem="relaxed")


@triton.jit
def poll_kernel(flags, expected, out, limit, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.atomic_poll(flags + i, tl.load(expected + i), timeout_ns=limit))


@unify.jit
def relay_kernel(values, flags, SIZE: tl.constexpr):
    # Each program waits for the one before it, adds to what that left, and lets the next one go.
    me, i = tl.program_id(0), tl.arange(0, SIZE)
    value = tl.zeros([SIZE], tl.int32)
    if me > 0:
        tl.atomic_poll(flags + me - 1, 1)
        value = tl.load(values + (me - 1) * SIZE + i) + 1
    tl.store(values + me * SIZE + i, value)
    tl.atomic_store(flags + me, 1)


@triton.jit
def atomic_kernel(x, out, flags, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    value = tl.load(x + i, mask=i < n, other=0)
    tl.atomic_add(out + value % 4, value, mask=i < n)
    tl.atomic_max(out + 4 + value * 0, value, mask=i < n)
    tl.atomic_add(flags, 1.5)
    old = tl.atomic_cas(flags + 1, 0.0, 7.0)
    tl.store(flags + 2 + tl.program_id(0), old)


def test_atomics_meet_in_one_place():
    x = np.random.default_rng(3).integers(0, 1000, 100).astype(np.int32)
    out, flags = np.zeros(5, np.int32), np.zeros(6, np.float32)
    run(atomic_kernel, (4,), {"x": x, "out": out, "flags": flags, "n": 100}, BLOCK=32)
    np.testing.assert_array_equal(out, [*(x[x % 4 == r].sum() for r in range(4)), x.max()])
    np.testing.assert_array_equal(flags, [6, 7, 0, 7, 7, 7])


@since_3_9
@pytest.mark.parametrize("dtype", [*DTYPES, "int8", "float16", "float32", "float64"])
def test_masked_loads_and_stores(dtype):
    x = np.arange(32).astype(dtype)
    out = np.full(32, 100, dtype)
    run(copy_kernel, (1,), {"x": x, "out": out, "n": 19}, BLOCK=32)
    np.testing.assert_array_equal(out, np.where(np.arange(32) < 19, np.arange(32) + 1, 100))
    run(scalar_kernel, (1,), {"x": x[7:], "out": out})
    assert out[0] == 7


@since_3_9
@pytest.mark.parametrize("dtype", DTYPES)
def test_a_poll_says_which_of_its_numbers_it_saw(dtype):
    expected = np.arange(-4, 4).astype(dtype)
    flags = np.where(np.arange(8) % 3, expected, expected + 1)
    out = np.full(8, 9, np.int8)
    run(poll_kernel, (1,), {"flags": flags, "expected": expected, "out": out, "limit": 1000}, BLOCK=8)
    np.testing.assert_array_equal(out, flags == expected)


@since_3_9
def test_a_poll_gives_up_when_its_time_is_over_and_not_before():
    arguments = {"flags": np.zeros(8, np.int32), "expected": np.arange(8, dtype=np.int32), "limit": 20_000_000}
    call = compile_kernel(poll_kernel, {**arguments, "out": np.zeros(8, np.int8)}, {"BLOCK": 8}).prepare(
        (1,), {**arguments, "out": np.zeros(8, np.int8)}
    )
    begin = time.monotonic()
    assert call() == 0
    assert time.monotonic() - begin >= 0.02


@since_3_9
def test_programs_hand_work_on_in_order():
    programs, size = 512, 64
    values, flags = unify.zeros((programs, size), unify.int32), unify.zeros(programs, unify.int32)
    relay_kernel[(programs,)](values, flags, SIZE=size)
    np.testing.assert_array_equal(values.numpy(), np.arange(programs)[:, None].repeat(size, 1))
