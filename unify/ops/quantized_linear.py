"""x · weightᵀ with a quantised weight: exact sums of codes, or for many rows on some processors, of floats."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

import triton.language as tl

import unify
from unify._errors import ShapeError

from .quant import BLOCK, COLUMNS, QuantizedMatrix, quantize
from .tiles import product_tile

_ROWS = {"cpu": 4, "ascend": 4}  # the vendor's compiler takes 25 s for 16
_ROWS_ELSEWHERE = 16
_MANY_ROWS = 64  # from here on weights may become floats for all of them


# One program N features of ROWS rows. Codes are exact integers, so a block of 32 inputs is summed without rounding:
# Σ w·x = scale · x_scale · (Σ code · x_code - offset · Σ x_code) + minimum · x_scale · Σ x_code.
@unify.jit
def quantized_linear_kernel(
    x_codes, x_scales, x_sums, codes, scales, minimums, residual, out, m, n, k, r_row, o_row,
    ROWS: tl.constexpr, N: tl.constexpr, COLUMNS: tl.constexpr, BITS: tl.constexpr, OFFSET: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    PARTS: tl.constexpr = COLUMNS // N
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    if not EVEN:
        row = tl.minimum(row, m - 1)
    part = tl.program_id(1)
    feature = tl.arange(0, N)
    byte = tl.arange(0, 4)
    group = (part // PARTS).to(tl.int64)
    shift = (part % PARTS) * N
    codes += group * (k * COLUMNS * BITS // 8) + (shift + feature)[None, :, None] * 4 + byte[None, None, :]
    scales += group * (k // 32) * COLUMNS + shift + feature
    if minimums is not None:
        minimums += group * (k // 32) * COLUMNS + shift + feature
    high = x_codes + row[:, None, None] * (2 * k) + byte[None, None, :]
    low = high + 32
    total = tl.zeros([ROWS, N], dtype=tl.float32)
    for block in range(k // 32):
        upper = tl.zeros([ROWS, N], dtype=tl.int32)
        lower = tl.zeros([ROWS, N], dtype=tl.int32)
        if BITS == 4:
            for g in tl.static_range(4):
                code = tl.load(codes + (block * 4 + g) * (COLUMNS * 4))
                first = (code & 15).to(tl.int32)
                second = (code >> 4).to(tl.int32)
                place = block * 64 + g * 4
                upper += tl.sum(first * tl.load(high + place).to(tl.int32), axis=2)
                lower += tl.sum(first * tl.load(low + place).to(tl.int32), axis=2)
                upper += tl.sum(second * tl.load(high + place + 16).to(tl.int32), axis=2)
                lower += tl.sum(second * tl.load(low + place + 16).to(tl.int32), axis=2)
        else:
            for g in tl.static_range(8):
                code = tl.load(codes + (block * 8 + g) * (COLUMNS * 4)).to(tl.int32)
                place = block * 64 + g * 4
                upper += tl.sum(code * tl.load(high + place).to(tl.int32), axis=2)
                lower += tl.sum(code * tl.load(low + place).to(tl.int32), axis=2)
        x_scale = tl.load(x_scales + row * (k // 32) + block)
        x_sum = tl.load(x_sums + row * (k // 32) + block)
        exact = upper * 256 + lower - (x_sum * OFFSET)[:, None]
        scale = tl.load(scales + block * COLUMNS).to(tl.float32)
        total += exact.to(tl.float32) * (scale[None, :] * x_scale[:, None])
        if minimums is not None:
            minimum = tl.load(minimums + block * COLUMNS).to(tl.float32)
            total += minimum[None, :] * (x_scale * x_sum.to(tl.float32))[:, None]
    column = part * N + feature
    inside = (tl.program_id(0) * ROWS + tl.arange(0, ROWS) < m)[:, None] & (column < n)[None, :]
    if residual is not None:
        total += tl.load(residual + row[:, None] * r_row + column[None, :], mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row[:, None] * o_row + column[None, :], total, mask=inside)


# One program a tile of M rows and N features: its weights become float32 once for all its rows.
@unify.jit
def dequantized_linear_kernel(
    x, codes, scales, minimums, residual, out, m, n, k, x_row, r_row, o_row,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, COLUMNS: tl.constexpr, BITS: tl.constexpr, OFFSET: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * M + tl.arange(0, M)
    feature = tl.program_id(1) * N + tl.arange(0, N)
    inner = tl.arange(0, K)
    row_inside = (row < m)[:, None]
    column_inside = (feature < n)[None, :]
    x += row.to(tl.int64)[:, None] * x_row
    # Where an input's code is among a block's: the lane of 32 bits, and the byte and nibble in it.
    LANES: tl.constexpr = 16 if BITS == 4 else 32
    lane = (inner // 32) * BITS + inner % LANES // 4
    group = (feature // COLUMNS).to(tl.int64) * (k // 32)
    column = feature % COLUMNS
    codes += (group * (BITS * COLUMNS * 4) + column * 4)[None, :] + (lane * (COLUMNS * 4) + inner % 4)[:, None]
    scale_place = (group * COLUMNS + column)[None, :] + (inner // 32 * COLUMNS)[:, None]
    total = tl.zeros([M, N], dtype=tl.float32)
    for start in range(0, k, K):
        block = start // 32
        code = tl.load(codes + block * (BITS * COLUMNS * 4), mask=column_inside, other=0)
        if BITS == 4:
            code = (code >> (inner % 32 // 16 * 4)[:, None].to(tl.uint8)) & 15
        scale = tl.load(scales + block * COLUMNS + scale_place, mask=column_inside, other=0.0).to(tl.float32)
        weight = (code.to(tl.float32) - OFFSET) * scale
        if minimums is not None:
            weight += tl.load(minimums + block * COLUMNS + scale_place, mask=column_inside, other=0.0).to(tl.float32)
        value = tl.load(x + (start + inner)[None, :], mask=row_inside, other=0.0).to(tl.float32)
        total = tl.dot(value, weight, total, input_precision="ieee")
    inside = row_inside & column_inside
    if residual is not None:
        total += tl.load(residual + row.to(tl.int64)[:, None] * r_row + feature[None, :], mask=inside, other=0.0).to(
            tl.float32
        )
    tl.store(out + row.to(tl.int64)[:, None] * o_row + feature[None, :], total, mask=inside)


@functools.cache
def _has_byte_products() -> bool:
    """Whether this processor multiplies and adds bytes faster than floats: AVX's VNNI, ARM's dot products."""
    flags = re.search(r"^(flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return flags is not None and not {"avx512_vnni", "avx_vnni", "asimddp"}.isdisjoint(flags.group(2).split())


def quantized_linear(x: Any, weight: QuantizedMatrix, residual: Any, out: Any) -> None:
    """out = x · weightᵀ + residual, enqueued on the current stream. x: [m, k]; residual, if any, and out: [m, n]."""
    (m, k), n = x.shape, weight.shape[0]
    if k % BLOCK:
        raise ShapeError(f"linear: a quantised weight's k must be a multiple of {BLOCK}; it is {k}.")
    if m >= _MANY_ROWS and x.device.kind == "cpu" and not _has_byte_products():
        tile = product_tile(x.device, m, n)
        dequantized_linear_kernel[(-(-m // tile.m), -(-n // tile.n))](
            x, weight.codes, weight.scales, weight.minimums, residual, out, m, n, k, x.strides[0],
            0 if residual is None else residual.strides[0], out.strides[0], M=tile.m, N=tile.n,
            K=64 if k % 64 == 0 else BLOCK, COLUMNS=COLUMNS, BITS=weight.format.bits, OFFSET=weight.format.offset,
        )  # fmt: skip
        return
    values = quantize(x)
    rows = 1 if m == 1 else _ROWS.get(x.device.kind, _ROWS_ELSEWHERE)
    columns = COLUMNS if rows == 1 else COLUMNS // 4  # as many sums as registers hold
    quantized_linear_kernel[(-(-m // rows), -(-n // columns))](
        values.codes, values.scales, values.sums, weight.codes, weight.scales, weight.minimums, residual, out,
        m, n, k, 0 if residual is None else residual.strides[0], out.strides[0],
        ROWS=rows, N=columns, COLUMNS=COLUMNS, BITS=weight.format.bits, OFFSET=weight.format.offset,
        EVEN=m % rows == 0,
    )  # fmt: skip
