"""Scans, gathers and printing, which the vendor's compiler leaves to its library; sorting, which it writes out."""

from __future__ import annotations

import inspect
import os
import tempfile
from typing import Any

import numpy as np
import pytest
import triton
import triton.language as tl

from .harness import Emulated, compare, compile_kernel, emulate

RNG = np.random.default_rng(3)


@triton.jit
def _scans(x, out, M: tl.constexpr, N: tl.constexpr, AXIS: tl.constexpr, REVERSE: tl.constexpr):
    place = tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
    value = tl.load(x + place)
    tl.store(out + place, tl.cumsum(value, AXIS, reverse=REVERSE))
    tl.store(out + M * N + place, tl.cumprod(value, AXIS, reverse=REVERSE))


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("dtype", [np.float32, np.int32, np.float16])
def test_sums_and_products_so_far(dtype: Any, axis: int, reverse: bool) -> None:
    x = RNG.integers(1, 3, (8, 16)).astype(dtype)
    out = np.zeros((2, 8, 16), dtype)
    emulate(_scans, (1,), {"x": x, "out": out}, M=8, N=16, AXIS=axis, REVERSE=reverse)
    turned = np.flip(x, axis) if reverse else x
    expected = np.stack([np.cumsum(turned, axis, dtype=dtype), np.cumprod(turned, axis, dtype=dtype)])
    np.testing.assert_array_equal(out, np.flip(expected, axis + 1) if reverse else expected)


@triton.jit
def _step(gain, drive, next_gain, next_drive):
    return gain * next_gain, drive * next_gain + next_drive


@triton.jit
def _recurrence(gain, drive, out, N: tl.constexpr):
    at = tl.program_id(0) * N + tl.arange(0, N)
    _, state = tl.associative_scan((tl.load(gain + at), tl.load(drive + at)), 0, _step)
    tl.store(out + at, state)


def test_a_scan_with_a_function_of_the_kernel() -> None:
    gain, drive = RNG.random((3, 64)).astype(np.float32), RNG.standard_normal((3, 64)).astype(np.float32)
    out = np.zeros_like(gain)
    emulate(_recurrence, (3,), {"gain": gain, "drive": drive, "out": out}, N=64)
    state, expected = np.zeros(3), np.zeros((3, 64))
    for i in range(64):
        state = state * gain[:, i] + drive[:, i]
        expected[:, i] = state
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


@triton.jit
def _gathers(x, index, out, N: tl.constexpr):
    at = tl.arange(0, N)
    place = at[:, None] * N + at[None, :]
    value, where = tl.load(x + place), tl.load(index + place)
    tl.store(out + place, tl.gather(value, where, 0))
    tl.store(out + N * N + place, tl.gather(value, where, 1))


def test_gathers_along_both_axes() -> None:
    x, index = RNG.standard_normal((16, 16)).astype(np.float32), RNG.integers(0, 16, (16, 16)).astype(np.int32)
    out = np.zeros((2, 16, 16), np.float32)
    emulate(_gathers, (1,), {"x": x, "index": index, "out": out}, N=16)
    expected = [np.take_along_axis(x, index, axis) for axis in (0, 1)]
    np.testing.assert_array_equal(out, np.stack(expected))


@triton.jit
def _sorted(x, out, N: tl.constexpr, K: tl.constexpr):
    at = tl.program_id(0) * N + tl.arange(0, N)
    value = tl.load(x + at)
    tl.store(out + at, tl.sort(value))
    tl.store(out + 4 * N + at, tl.sort(value, descending=True))
    tl.store(out + 8 * N + tl.program_id(0) * K + tl.arange(0, K), tl.topk(value, K))


@pytest.mark.parametrize("dtype", [np.float32, np.int32])
def test_sort_and_topk(dtype: Any) -> None:
    x = (RNG.standard_normal((4, 32)) * 100).astype(dtype)
    out = np.zeros(4 * (32 + 32 + 8), dtype)
    emulate(_sorted, (4,), {"x": x, "out": out}, N=32, K=8)
    up = np.sort(x, -1)
    np.testing.assert_array_equal(out, np.concatenate([a.ravel() for a in (up, up[:, ::-1], up[:, :-9:-1])]))


@triton.jit
def _histogram(x, out, N: tl.constexpr, BINS: tl.constexpr):
    tl.store(out + tl.arange(0, BINS), tl.histogram(tl.load(x + tl.arange(0, N)), BINS))


def test_histogram() -> None:
    x, out = RNG.integers(0, 16, 256).astype(np.int32), np.zeros(16, np.int32)
    emulate(_histogram, (1,), {"x": x, "out": out}, N=256, BINS=16)
    np.testing.assert_array_equal(out, np.bincount(x, minlength=16))


@triton.jit
def _printing(x, n, N: tl.constexpr):
    at = tl.arange(0, N)
    value = tl.load(x + at)
    tl.device_print("value", value, n)
    tl.device_print("number", n, hex=True)
    tl.store(x + at, value)


def test_printing_is_as_on_the_cpu_target() -> None:
    arguments = {"x": np.array([1.5, -2, 0, 3e9], np.float32), "n": -7}
    compiled = compile_kernel(_printing, arguments, {"N": 4})
    emulated = Emulated(compiled)
    expected = _printed(compiled.prepare((2, 2), arguments))
    got = _printed(lambda: emulated.launch((2, 2), arguments))
    # Programs come in another order: the last axis of the grid runs fastest.
    assert sorted(got.splitlines()) == sorted(expected.splitlines())
    assert "pid (0, 1, 0) idx (1) value: (operand 0) -2.000000" in got


@triton.jit
def _printing_percents(n):
    tl.device_print("100% of 5%d, %%", n)


def test_what_is_printed_before_a_value_is_no_format() -> None:
    compiled = compile_kernel(_printing_percents, {"n": 3}, {})
    for run in (compiled.prepare((1, 1), {"n": 3}), lambda: Emulated(compiled).launch((1, 1), {"n": 3})):
        assert _printed(run) == "pid (0, 0, 0) idx () 100% of 5%d, %%: 3\n"


def _printed(run: Any) -> str:
    import ctypes

    libc = ctypes.CDLL(None)
    with tempfile.TemporaryFile() as file:
        libc.fflush(None)
        kept = os.dup(1)
        os.dup2(file.fileno(), 1)
        try:
            run()
            libc.fflush(None)
        finally:
            os.dup2(kept, 1)
            os.close(kept)
        file.seek(0)
        return file.read().decode()


@triton.jit
def _maximum(a, b):
    return tl.maximum(a, b)


@triton.jit
def _running_extremes(x, out, N: tl.constexpr):
    place = tl.arange(0, N)[:, None] * N + tl.arange(0, N)[None, :]
    value = tl.load(x + place)
    both = tl.associative_scan(value, 0, _maximum) + tl.associative_scan(value, 1, _maximum, reverse=True)
    tl.store(out + place, both)


def test_a_scan_of_two_axes_agrees_with_the_cpu_target() -> None:
    x = RNG.standard_normal((16, 16)).astype(np.float32)
    compare(_running_extremes, (1,), {"x": x, "out": np.zeros_like(x)}, N=16)


@triton.jit
def _asserted(x, out, limit, N: tl.constexpr):
    at = tl.program_id(0) * N + tl.arange(0, N)
    value = tl.load(x + at)
    tl.device_assert(value < limit, "too large")
    tl.device_assert(tl.sum(value, 0) != 77, "an unlucky sum")
    tl.store(out + at, value)


@pytest.mark.parametrize(("value", "message"), [(100, "too large"), (62, "an unlucky sum")])
def test_a_failed_assertion_ends_the_grid_and_tells_program_and_line(value: int, message: str) -> None:
    x, out = np.ones(64, np.int32), np.zeros(64, np.int32)
    emulated = Emulated(compile_kernel(_asserted, {"x": x, "out": out, "limit": 99}, {"N": 16}, debug=True))
    emulated.launch((4,), {"x": x, "out": out, "limit": 99})
    np.testing.assert_array_equal(out, 1)
    x[2 * 16 + 3], out[:] = value, 0
    with pytest.raises(AssertionError, match=message):
        emulated.launch((4,), {"x": x, "out": out, "limit": 99})
    np.testing.assert_array_equal(out, np.arange(64) < 32)
    lines, first = inspect.getsourcelines(_asserted.fn)
    line = first + next(i for i, text in enumerate(lines) if f'"{message}"' in text)
    fault = emulated.fault
    assert (fault.kind, fault.line, tuple(fault.program)) == (1, line, (2, 0, 0))
    assert fault.file.endswith(b"test_calls.py")
