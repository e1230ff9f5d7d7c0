"""Activations that become codes: 16-bit ones with a scale for each 32 values, which exact products of bytes take."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import triton.language as tl

import unify
from unify._errors import ShapeError
from unify._tensor import as_tensor

from .op import FLOATS, op

_BLOCK = 32  # values that share a scale


# One program a row of x, in steps of BLOCKS blocks. 16 bits as two signed bytes: code = 256 · high + low, so that byte
# dot products give sums that are exact in the codes. 32512 = 127 · 256 keeps `high` inside int8. A block's high bytes
# and its low ones share a cache line.
@unify.jit
def quantize_kernel(x, codes, scales, sums, k, x_row, BLOCKS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    for first in range(0, k // 32, BLOCKS):
        block = first + tl.arange(0, BLOCKS)
        inside = block < k // 32
        column = block[:, None] * 32 + tl.arange(0, 32)[None, :]
        value = tl.load(x + row * x_row + column, mask=inside[:, None], other=0.0).to(tl.float32)
        finite = tl.abs(value) <= 3.4028234663852886e38
        broken = tl.sum(tl.where(finite, 0, 1), axis=1)
        value = tl.where(finite, value, 0.0)
        largest = tl.max(tl.abs(value), axis=1)
        inverse = tl.where(largest > 1.0e-30, 32512.0 / largest, 0.0)
        code = tl.floor(value * inverse[:, None] + 0.5).to(tl.int32)
        upper = (code + 128) >> 8
        place = codes + row * 2 * k + block[:, None] * 64 + tl.arange(0, 32)[None, :]
        tl.store(place, upper.to(tl.int8), mask=inside[:, None])
        tl.store(place + 32, (code - upper * 256).to(tl.int8), mask=inside[:, None])
        scale = tl.where(broken > 0, float("nan"), largest * (1.0 / 32512.0))
        tl.store(scales + row * (k // 32) + block, scale, mask=inside)
        tl.store(sums + row * (k // 32) + block, tl.sum(code, axis=1), mask=inside)


@dataclass(frozen=True)
class QuantizedActivations:
    """[m, k] activations as 16-bit codes with a scale a block of 32.

    codes: int8 [m, k / 32, 2, 32], each block's high bytes and then its low ones; scales, sums: [m, k / 32].
    """

    codes: Any
    scales: Any
    sums: Any


@op
def quantize(x: Any, *, stream: Any = None) -> QuantizedActivations:
    """Turns activations into 16-bit codes, a scale for each 32: what the integer dot products of `linear` eat.

    x: [m, k] float16, bfloat16 or float32, k a multiple of 32, last axis contiguous. The error of a value is at most
    1/65024 of the largest in its block; a block with a NaN or an infinity has NaN as its scale. Enqueued on `stream`
    (default: the current one of x's device).
    Raises ShapeError, DTypeError; nothing is enqueued then.
    """
    source = as_tensor(x, name="quantize: x", dtype=FLOATS)
    if source.ndim != 2 or source.shape[1] % _BLOCK or source.strides[1] != 1:
        raise ShapeError(
            f"quantize: x must be [m, k], k a multiple of {_BLOCK}, its last axis contiguous; "
            f"it is {list(source.shape)} with strides {list(source.strides)}."
        )
    (rows, k), device = source.shape, source.device
    codes = unify.empty((rows, k // _BLOCK, 2, _BLOCK), dtype=unify.int8, device=device)
    scales = unify.empty((rows, k // _BLOCK), dtype=unify.float32, device=device)
    sums = unify.empty((rows, k // _BLOCK), dtype=unify.int32, device=device)
    quantize_kernel[(rows,)](source, codes, scales, sums, k, source.strides[0], BLOCKS=2)
    return QuantizedActivations(codes, scales, sums)
