"""Products of few rows, lane by lane: too few to pack a weight for, which is read once, in the order of memory."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import triton.language as tl

import unify

from .tile import Tile

# Rows of x up to so many bytes stay in a CPU's first-level cache while a weight's pass by one after the other, in one
# run of memory. For others x is read once for several rows of the weight.
_NEAR = 12 << 10
_ONE_FEATURE, _FEATURES = Tile(1, 1, 32), Tile(1, 8, 16)
_ELSEWHERE = Tile(1, 32, 64)


def few_tile(device: Any, rows: int, row_bytes: int) -> Tile:
    """The tile for so many rows of x, each of so many bytes."""
    if device.kind != "cpu":
        return replace(_ELSEWHERE, m=rows, n=16 if rows == 4 else 32)
    return replace(_ONE_FEATURE if rows * row_bytes <= _NEAR else _FEATURES, m=rows)


def as_words(*arrays: Any) -> tuple[Any, ...]:
    """Arrays of bfloat16 as words of two of them, if a CPU will read them and all can be; else as they are."""
    if arrays[0].device.kind == "cpu" and all(map(_has_words, arrays)):
        return tuple(array.view(unify.int32) for array in arrays)
    return arrays


def _has_words(array: Any) -> bool:
    is_even = array.address % 4 == 0 and not any(size % 2 for size in (array.shape[-1], *array.strides[:-1]))
    return array.dtype == unify.bfloat16 and array.strides[-1] == 1 and is_even


@unify.jit
def _both(pair):
    """The two bfloat16 of each word as float32: a shift and a mask, where spreading them would take shuffles."""
    return (pair << 16).to(tl.float32, bitcast=True), (pair & -65536).to(tl.float32, bitcast=True)


@unify.jit
def few_products(
    x, weight, k, ROWS: tl.constexpr, N: tl.constexpr, K: tl.constexpr, EVEN: tl.constexpr
):  # fmt: skip
    """[ROWS, N] float32: rows x times rows of a weight, of k inputs; sums of K lanes, folded once at the end.

    x: [ROWS, 1] and weight: [N, 1], where rows begin; in words, k and K are as well. EVEN: K divides k.
    """
    total = tl.zeros([ROWS, N, K], dtype=tl.float32)
    for start in range(0, k, K):
        step = (start + tl.arange(0, K))[None, :]
        if EVEN:
            value = tl.load(x + step)[:, None, :]
            factor = tl.load(weight + step)[None, :, :]
        else:
            value = tl.load(x + step, mask=step < k, other=0)[:, None, :]
            factor = tl.load(weight + step, mask=step < k, other=0)[None, :, :]
        if x.dtype.element_ty == tl.int32:
            low, high = _both(value)
            low_factor, high_factor = _both(factor)
            total += low_factor * low
            total += high_factor * high
        else:
            total += factor.to(tl.float32) * value.to(tl.float32)
    return tl.sum(total, axis=2)
