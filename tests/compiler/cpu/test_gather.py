"""Gather and histogram against torch."""

from __future__ import annotations

import pytest
import torch
import triton.language as tl

import unify


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
