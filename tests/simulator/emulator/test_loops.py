"""linalg.generic and copies, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import triton
import triton.language as tl

from .harness import emulate

RNG = np.random.default_rng(7)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@triton.jit
def _add(x, y, out, n, BLOCK: tl.constexpr):
    at = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + at, tl.load(x + at, at < n) + tl.load(y + at, at < n), at < n)


@pytest.mark.parametrize("n", [1, 15, 1024, 5000])
def test_a_masked_tail_is_left_alone(n: int) -> None:
    x, y, out = floats(n), floats(n), np.full(n + 100, 7, np.float32)
    emulate(_add, (-(-n // 1024),), {"x": x, "y": y, "out": out, "n": n}, BLOCK=1024)
    np.testing.assert_array_equal(out[:n], x + y)
    assert (out[n:] == 7).all()


@triton.jit
def _softmax(x, out, row, n, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    value = tl.load(x + tl.program_id(0) * row + at, at < n, other=float("-inf"))
    power = tl.exp(value - tl.max(value, 0))
    tl.store(out + tl.program_id(0) * row + at, power / tl.sum(power, 0), at < n)


def test_softmax_of_rows() -> None:
    x, out = floats(5, 1000), np.zeros((5, 1000), np.float32)
    emulate(_softmax, (5,), {"x": x, "out": out, "row": 1000, "n": 1000}, BLOCK=1024)
    power = np.exp(x.astype(np.float64) - x.max(-1, keepdims=True))
    np.testing.assert_allclose(out, power / power.sum(-1, keepdims=True), rtol=1e-5)


@triton.jit
def _layer_norm(x, weight, bias, out, n, eps, BLOCK: tl.constexpr):
    at = tl.arange(0, BLOCK)
    value = tl.load(x + tl.program_id(0) * n + at, at < n, other=0.0)
    mean = tl.sum(value, 0) / n
    centred = tl.where(at < n, value - mean, 0.0)
    scale = 1 / tl.sqrt(tl.sum(centred * centred, 0) / n + eps)
    result = centred * scale * tl.load(weight + at, at < n) + tl.load(bias + at, at < n)
    tl.store(out + tl.program_id(0) * n + at, result, at < n)


def test_layer_norm() -> None:
    x, weight, bias, out = floats(4, 777), floats(777), floats(777), np.zeros((4, 777), np.float32)
    emulate(_layer_norm, (4,), {"x": x, "weight": weight, "bias": bias, "out": out, "n": 777, "eps": 1e-5}, BLOCK=1024)
    wide = x.astype(np.float64)
    expected = (wide - wide.mean(-1, keepdims=True)) / np.sqrt(wide.var(-1, keepdims=True) + 1e-5) * weight + bias
    np.testing.assert_allclose(out, expected, rtol=1e-4, atol=1e-5)


@triton.jit
def _nothing_lost(x, out, N: tl.constexpr):
    at = tl.arange(0, N)
    value = tl.load(x + at)
    tl.store(out + at, value + 1 - 1)
    tl.store(out + N + at, value * 0)
    tl.store(out + 2 * N + at, tl.maximum(value, 1.0))


def test_nan_infinity_and_small_numbers_are_kept() -> None:
    x = np.array([np.nan, np.inf, -np.inf, 0.0, -0.0, 1e-45, 3e38, 1.0], np.float32)
    out = np.zeros((3, 8), np.float32)
    emulate(_nothing_lost, (1,), {"x": x, "out": out}, N=8)
    with np.errstate(invalid="ignore"):
        expected = np.stack([x + np.float32(1) - np.float32(1), x * np.float32(0), np.fmax(x, 1)])
    np.testing.assert_array_equal(out, expected)


def test_the_same_bits_come_each_time() -> None:
    x = floats(3, 1000)
    results = []
    for _ in range(2):
        out = np.zeros((3, 1000), np.float32)
        emulate(_softmax, (3,), {"x": x, "out": out, "row": 1000, "n": 1000}, BLOCK=1024)
        results.append(out.tobytes())
    assert results[0] == results[1]
