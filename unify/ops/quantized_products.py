"""What products with quantised weights are made of, for one matrix and for one among experts: see quant.py's layouts.

Each function is given pointers to the matrix's own beginning, so a kernel over experts adds an expert's place first.
Rows of x are pointers, so that they may be gathered.
"""

from __future__ import annotations

import triton.language as tl

import unify

from .e4m3 import from_finite_e4m3


@unify.jit
def _add_group(
    codes, high, low, upper, lower, block, g, COLUMNS: tl.constexpr, BITS: tl.constexpr, WIDE: tl.constexpr
):  # fmt: skip
    """The sums of high and low bytes with the products of the g-th lane of a block's codes."""
    code = tl.load(codes + (block * BITS + g) * (COLUMNS * 4))
    place = block * (64 if WIDE else 32) + g * 4
    first = (code & 15 if BITS == 4 else code).to(tl.int32)
    upper += tl.sum(first * tl.load(high + place).to(tl.int32), axis=2)
    if WIDE:
        lower += tl.sum(first * tl.load(low + place).to(tl.int32), axis=2)
    if BITS == 4:
        second = (code >> 4).to(tl.int32)
        upper += tl.sum(second * tl.load(high + place + 16).to(tl.int32), axis=2)
        if WIDE:
            lower += tl.sum(second * tl.load(low + place + 16).to(tl.int32), axis=2)
    return upper, lower


# Codes are exact integers, so a block of 32 inputs is summed without rounding:
# Σ w·x = scale · x_scale · (Σ code · x_code - offset · Σ x_code) + minimum · x_scale · Σ x_code.
@unify.jit
def byte_products(
    x_codes, x_scales, x_sums, row, codes, scales, minimums, part, k,
    ROWS: tl.constexpr, N: tl.constexpr, COLUMNS: tl.constexpr, BITS: tl.constexpr, OFFSET: tl.constexpr,
    WIDE: tl.constexpr,
):  # fmt: skip
    """[ROWS, N] float32: rows `row` of quantised activations times the `part`-th N features of a matrix in blocks.

    WIDE: activations of 16 bits; else of 8, with one scale for a row.
    """
    PARTS: tl.constexpr = COLUMNS // N
    feature = tl.arange(0, N)
    byte = tl.arange(0, 4)
    group = (part // PARTS).to(tl.int64)
    shift = (part % PARTS) * N
    codes += group * (k * COLUMNS * BITS // 8) + (shift + feature)[None, :, None] * 4 + byte[None, None, :]
    scales += group * (k // 32) * COLUMNS + shift + feature
    if minimums is not None:
        minimums += group * (k // 32) * COLUMNS + shift + feature
    high = x_codes + row[:, None, None] * (2 * k if WIDE else k) + byte[None, None, :]
    low = high + 32
    total = tl.zeros([ROWS, N], dtype=tl.float32)
    for block in range(k // 32):
        upper = tl.zeros([ROWS, N], dtype=tl.int32)
        lower = tl.zeros([ROWS, N], dtype=tl.int32)
        # A loop for one row: of an unrolled one the CPU takes every fourth line of memory first, then others, and
        # is half as fast. More rows have their sums in registers only if it is unrolled.
        if ROWS == 1:
            for g in range(BITS):
                upper, lower = _add_group(codes, high, low, upper, lower, block, g, COLUMNS, BITS, WIDE)
        else:
            for g in tl.static_range(BITS):
                upper, lower = _add_group(codes, high, low, upper, lower, block, g, COLUMNS, BITS, WIDE)
        x_sum = tl.load(x_sums + row * (k // 32) + block)
        exact = (upper * 256 + lower if WIDE else upper) - (x_sum * OFFSET)[:, None]
        scale = tl.load(scales + block * COLUMNS).to(tl.float32)[None, :]
        minimum = x_sum.to(tl.float32)
        if WIDE:
            x_scale = tl.load(x_scales + row * (k // 32) + block)
            scale *= x_scale[:, None]
            minimum *= x_scale
        total += exact.to(tl.float32) * scale
        if minimums is not None:
            total += tl.load(minimums + block * COLUMNS).to(tl.float32)[None, :] * minimum[:, None]
    if not WIDE:
        total *= tl.load(x_scales + row)[:, None]
    return total


@unify.jit
def _of_rows(place, inside):
    """What lies there of rows, 0 of those that are not inside. None: all are."""
    return tl.load(place) if inside is None else tl.load(place, mask=inside, other=0)


# Activations are floats, or codes of 8 bits, which are multiplied with codes and summed as integers, a block at a time.
@unify.jit
def block_products(
    x, x_scales, x_sums, row_inside, codes, scales, minimums, feature, column_inside, k,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, COLUMNS: tl.constexpr, BITS: tl.constexpr, OFFSET: tl.constexpr,
    TYPE: tl.constexpr,
):  # fmt: skip
    """[M, N] float32: rows x [M, 1] times features of a matrix in blocks, whose weights become TYPE once for all rows.

    TYPE int8: x are codes, with a scale each row and a sum each block, x_scales and x_sums [M, 1]. row_inside: [M, 1],
    or None where all can be read. K divides k and is a multiple of 32, for int8 32.
    """
    inner = tl.arange(0, K)
    # Where an input's code is among a block's: the lane of 32 bits, and the byte and nibble in it.
    LANES: tl.constexpr = 16 if BITS == 4 else 32
    lane = (inner // 32) * BITS + inner % LANES // 4
    group = (feature // COLUMNS).to(tl.int64) * (k // 32)
    column = feature % COLUMNS
    codes += (group * (BITS * COLUMNS * 4) + column * 4)[None, :] + (lane * (COLUMNS * 4) + inner % 4)[:, None]
    place = (group * COLUMNS + column)[None, :]
    if tl.int8 != TYPE:
        place += (inner // 32 * COLUMNS)[:, None]
    total = tl.zeros([M, N], dtype=tl.float32)
    for start in range(0, k, K):
        block = start // 32
        code = tl.load(codes + block * (BITS * COLUMNS * 4), mask=column_inside, other=0)
        if BITS == 4:
            code = (code >> (inner % 32 // 16 * 4)[:, None].to(tl.uint8)) & 15
        scale = tl.load(scales + block * COLUMNS + place, mask=column_inside, other=0.0).to(tl.float32)
        value = _of_rows(x + (start + inner)[None, :], row_inside)
        if tl.int8 == TYPE:
            weight = (code.to(tl.int32) - OFFSET).to(tl.int8)
            total += tl.dot(value, weight, out_dtype=tl.int32).to(tl.float32) * scale
            if minimums is not None:
                minimum = tl.load(minimums + block * COLUMNS + place, mask=column_inside, other=0.0).to(tl.float32)
                total += minimum * _of_rows(x_sums + block, row_inside).to(tl.float32)
        else:
            weight = (code.to(tl.float32) - OFFSET) * scale
            if minimums is not None:
                weight += tl.load(minimums + block * COLUMNS + place, mask=column_inside, other=0.0).to(tl.float32)
            total = tl.dot(value.to(TYPE), weight.to(TYPE), total, input_precision="ieee")
    if tl.int8 == TYPE:
        total *= _of_rows(x_scales, row_inside)
    return total


# In fp8 activations are floats, or codes as well, with a scale for each 128 values: x_scales [M, 1], else None.
@unify.jit
def fp8_few_products(
    x, x_scales, row_inside, codes, scales, first, n, k, scale_row,
    ROWS: tl.constexpr, N: tl.constexpr, K: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """[ROWS, N] float32: rows x [ROWS, 1] times the N features from `first` on of a matrix in fp8, lane by lane.

    scales: in rows of `scale_row`; N and K divide 128, N divides `first`. EVEN: N divides n, and 128 divides k.
    """
    feature = first + tl.arange(0, N)
    inner = tl.arange(0, K)
    codes += feature.to(tl.int64)[:, None] * k
    scales += first // 128 * scale_row
    total = tl.zeros([ROWS, N, K], dtype=tl.float32)
    for block in range(tl.cdiv(k, 128)):
        scale = tl.load(scales + block) * 256.0
        if x_scales is not None:
            scale = tl.load(x_scales + block, mask=row_inside, other=0.0) * (scale * 256.0)
        for part in tl.static_range(128 // K):
            step = block * 128 + part * K + inner
            if EVEN:
                value = tl.load(x + step[None, :], mask=row_inside, other=0)
                code = tl.load(codes + step[None, :])
            else:
                value = tl.load(x + step[None, :], mask=row_inside & (step < k)[None, :], other=0)
                code = tl.load(codes + step[None, :], mask=(feature < n)[:, None] & (step < k)[None, :], other=0)
            if x_scales is not None:
                value = from_finite_e4m3(value)
            value = value.to(tl.float32) * scale
            total += from_finite_e4m3(code).to(tl.float32)[None, :, :] * value[:, None, :]
    return tl.sum(total, axis=2)


@unify.jit
def fp8_products(
    x, x_scales, row_inside, codes, scales, first, n, k, scale_row,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, ONE_SCALE: tl.constexpr, EVEN_K: tl.constexpr,
    TYPE: tl.constexpr,
):  # fmt: skip
    """[M, N] float32: rows x [M, 1] times the N features from `first` on of a matrix in fp8, summed in TYPE's dot and
    scaled after 128 inputs.

    scales: in rows of `scale_row`; N is a power of two, K divides 128. ONE_SCALE: no bound of 128 features lies among
    the N. EVEN_K: 128 divides k.
    """
    feature = first + tl.arange(0, N)
    inner = tl.arange(0, K)
    codes += feature.to(tl.int64)[None, :] * k
    if ONE_SCALE:
        scales += first // 128 * scale_row
    else:
        scales += feature // 128 * scale_row
    total = tl.zeros([M, N], dtype=tl.float32)
    for block in range(tl.cdiv(k, 128)):
        partial = tl.zeros([M, N], dtype=tl.float32)
        for part in tl.static_range(128 // K):
            step = block * 128 + part * K + inner
            x_inside = row_inside
            code_inside = (feature < n)[None, :]
            if not EVEN_K:
                x_inside = x_inside & (step < k)[None, :]
                code_inside = code_inside & (step < k)[:, None]
            value = tl.load(x + step[None, :], mask=x_inside, other=0)
            if x_scales is not None:
                value = from_finite_e4m3(value)
                if tl.bfloat16 == TYPE:
                    value = value.to(tl.float32)
            weight = from_finite_e4m3(tl.load(codes + step[:, None], mask=code_inside, other=0))
            if tl.bfloat16 == TYPE:
                weight = weight.to(tl.float32)
            partial = tl.dot(value.to(TYPE), weight.to(TYPE), partial, input_precision="ieee")
        if ONE_SCALE:
            scale = tl.load(scales + block) * 256.0
        else:
            scale = (tl.load(scales + block, mask=feature < n, other=0.0) * 256.0)[None, :]
        if x_scales is not None:
            scale = tl.load(x_scales + block, mask=row_inside, other=0.0) * (scale * 256.0)
        total += partial * scale
    return total
