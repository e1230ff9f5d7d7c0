"""Gather and histogram against torch."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

import unify

from .harness import run


@unify.jit
def gather_kernel(
    source, index, out, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, L: tl.constexpr, AXIS: tl.constexpr
):
    value = tl.load(source + tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :])
    place = tl.arange(0, K)[:, None] * L + tl.arange(0, L)[None, :]
    tl.store(out + place, tl.gather(value * 2, tl.load(index + place), AXIS))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.int8, torch.int64])
@pytest.mark.parametrize(
    ("shape", "indices", "axis"), [((16, 32), (4, 32), 0), ((8, 64), (8, 128), 1), ((1, 4), (1, 2), 1)]
)
def test_gather(shape: tuple[int, int], indices: tuple[int, int], axis: int, dtype: torch.dtype) -> None:
    source = torch.randint(-30, 30, shape).to(dtype)
    index = torch.randint(0, shape[axis], indices, dtype=torch.int32)
    out = torch.empty(indices, dtype=dtype)
    gather_kernel[(1,)](source, index, out, M=shape[0], N=shape[1], K=indices[0], L=indices[1], AXIS=axis)
    torch.testing.assert_close(out, torch.gather(source * 2, axis, index.long()), rtol=0, atol=0)


@unify.jit
def histogram_kernel(values, out, n, N: tl.constexpr, BINS: tl.constexpr):
    i = tl.arange(0, N)
    inside = i < n
    tl.store(out + tl.arange(0, BINS), tl.histogram(tl.load(values + i, mask=inside, other=0), BINS, mask=inside))


@pytest.mark.parametrize(("size", "bins", "n"), [(2048, 16, 2048), (1024, 128, 1000), (64, 2, 0)])
def test_histogram(size: int, bins: int, n: int) -> None:
    values = torch.randint(0, bins, (size,), dtype=torch.int32)
    out = torch.empty(bins, dtype=torch.int32)
    histogram_kernel[(1,)](values, out, n, N=size, BINS=bins)
    torch.testing.assert_close(out.long(), torch.bincount(values[:n], minlength=bins))


@triton.jit
def gather_in_loop_kernel(out, rounds, SIZE: tl.constexpr):
    i = tl.arange(0, SIZE)
    source, total = i * 3, i * 0
    for turn in range(rounds):
        total += tl.gather(source, (SIZE - 1 - i) ^ turn, 0)
    tl.store(out + i, total + source)


@pytest.mark.parametrize("rounds", [0, 1, 3])
def test_what_is_gathered_in_a_loop_is_there_behind_it(rounds):
    i = np.arange(1024, dtype=np.int32)
    out = np.zeros_like(i)
    run(gather_in_loop_kernel, (1,), {"out": out, "rounds": rounds}, SIZE=1024)
    np.testing.assert_array_equal(out, i * 3 + sum(((1023 - i) ^ turn) * 3 for turn in range(rounds)))


@triton.jit
def gather_largest_kernel(x, out, N: tl.constexpr):
    i = tl.arange(0, N)
    largest = tl.max(tl.load(x + i[:, None] * N + i[None, :]), 1)
    tl.store(out + i, tl.gather(largest, N - 1 - i, 0))


def test_what_was_reduced_is_gathered():
    x = np.random.default_rng(0).integers(0, 999, (32, 32)).astype(np.int32)
    out = np.zeros(32, np.int32)
    run(gather_largest_kernel, (1,), {"x": x, "out": out}, N=32)
    np.testing.assert_array_equal(out, x.max(1)[::-1])


@triton.jit
def gather_rows_kernel(x, index, out, M: tl.constexpr, N: tl.constexpr):
    place = tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
    value = tl.load(x + place) * 2
    tl.store(out + place, tl.gather(value, tl.load(index + place), 1) + value)


def test_rows_that_have_a_gap_in_memory():
    rng = np.random.default_rng(1)
    x, index = rng.standard_normal((64, 256), np.float32), rng.integers(0, 256, (64, 256)).astype(np.int32)
    out = np.zeros_like(x)
    run(gather_rows_kernel, (1,), {"x": x, "index": index, "out": out}, M=64, N=256)
    np.testing.assert_array_equal(out, np.take_along_axis(x * 2, index, 1) + x * 2)
