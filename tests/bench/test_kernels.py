"""The kernels that only benchmarks have, on shapes that no tile divides, against NumPy."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

import unify
from unify.bench.cases import _kernels

RNG = np.random.default_rng(0)


def launch(kernel: Any, grid: tuple[int, ...], *arguments: Any, **constants: int) -> None:
    unify.jit(kernel)[grid](*arguments, **constants)


def random(*shape: int) -> np.ndarray[Any, np.dtype[np.float32]]:
    return RNG.standard_normal(shape, np.float32)


def test_layer_norm_and_softmax_of_rows_shorter_than_a_block() -> None:
    x, weight, bias = random(5, 100), random(100), random(100)
    normed, soft = np.empty_like(x), np.empty_like(x)
    launch(_kernels.layer_norm_kernel, (5,), x, weight, bias, normed, 100, 1e-5, BLOCK=128)
    launch(_kernels.softmax_kernel, (5,), x, soft, 100, BLOCK=128)
    expected = (x - x.mean(1, keepdims=True)) / np.sqrt(x.var(1, keepdims=True) + 1e-5) * weight + bias
    np.testing.assert_allclose(normed, expected, rtol=1e-5, atol=1e-5)
    exponentials = np.exp(x - x.max(1, keepdims=True))
    np.testing.assert_allclose(soft, exponentials / exponentials.sum(1, keepdims=True), rtol=1e-5)


def test_adding_and_summing_end_where_the_array_ends() -> None:
    x, y = random(3, 100), random(3, 100)
    total, sums = np.empty_like(x), np.empty(3, np.float32)
    launch(_kernels.add_kernel, (5,), x, y, total, x.size, BLOCK=64)
    launch(_kernels.sum_kernel, (3,), x, sums, 100, BLOCK=64)
    np.testing.assert_array_equal(total, x + y)
    np.testing.assert_allclose(sums, x.sum(1), rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [np.float32, np.int8])
def test_gemm_with_edges_in_all_three_directions(dtype: Any) -> None:
    m, n, k = 70, 50, 40
    a, b = RNG.integers(-128, 128, (m, k)).astype(dtype), RNG.integers(-128, 128, (k, n)).astype(dtype)
    out = np.empty((m, n), np.int32 if dtype is np.int8 else np.float32)
    grid = (-(-m // 16) * -(-n // 16),)
    launch(_kernels.gemm_kernel, grid, a, b, out, m, n, k, k, 1, n, 1, n, 1, M=16, N=16, K=16, GROUP=3)
    np.testing.assert_array_equal(out, a.astype(np.int64) @ b.astype(np.int64))  # sums below 2**24 are exact in fp32


def test_each_expert_multiplies_its_own_tokens() -> None:
    counts, (k, n) = (3, 0, 20, 1), (32, 64)
    ends = np.cumsum(counts)
    x, weight, out = random(sum(counts), k), random(len(counts), k, n), np.empty((sum(counts), n), np.float32)
    blocks = [(e, row, end) for e, end in enumerate(ends) for row in range(end - counts[e], end, 16)]
    launch(
        _kernels.experts_kernel, (len(blocks), 2), x, weight, np.array(blocks, np.int32), out, n, k, M=16, N=32, K=16
    )
    expert = np.repeat(np.arange(len(counts)), counts)
    np.testing.assert_allclose(out, np.einsum("tk,tkn->tn", x, weight[expert]), rtol=1e-4, atol=1e-4)
