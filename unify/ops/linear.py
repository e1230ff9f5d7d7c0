"""Matrix products: x · weightᵀ with dense or quantised weights, and a · b."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any

import triton.language as tl

import unify
from unify._errors import ShapeError
from unify._tensor import as_tensor, wrap_like

from .op import FLOATS, as_rows, op
from .quant import BLOCK, COLUMNS, QuantizedMatrix, quantize


@dataclass(frozen=True)
class _Tile:
    m: int
    n: int
    k: int


# Tiles by target kind. Large ones on a CPU: what is packed for a tile serves all its rows and columns. The sums of a
# few rows stay in registers.
_MATMUL = {"cpu": _Tile(256, 256, 64)}
_MATMUL_ELSEWHERE = _Tile(64, 64, 32)
_FEW_ROWS = {"cpu": _Tile(1, 8, 16)}
_FEW_ROWS_ELSEWHERE = _Tile(1, 32, 64)
_QUANTIZED_ROWS = {"cpu": 4}
_QUANTIZED_ROWS_ELSEWHERE = 16


# One program a tile of the result. b is [k, n] by strides, so that a weight [n, k] needs no transposing copy.
@unify.jit
def matmul_kernel(
    a, b, residual, out, m, n, k, a_row, b_k, b_n, r_row, o_row,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, EVEN_K: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * M + tl.arange(0, M)
    column = tl.program_id(1) * N + tl.arange(0, N)
    inner = tl.arange(0, K)
    row_inside = (row < m)[:, None]
    column_inside = (column < n)[None, :]
    a += row.to(tl.int64)[:, None] * a_row
    b += column.to(tl.int64)[None, :] * b_n
    total = tl.zeros([M, N], dtype=tl.float32)
    for start in range(0, k, K):
        step = start + inner
        a_inside = row_inside
        b_inside = column_inside
        if not EVEN_K:
            a_inside = a_inside & (step < k)[None, :]
            b_inside = b_inside & (step < k)[:, None]
        left = tl.load(a + step[None, :], mask=a_inside, other=0.0)
        right = tl.load(b + step.to(tl.int64)[:, None] * b_k, mask=b_inside, other=0.0)
        total = tl.dot(left, right, total, input_precision="ieee")
    inside = row_inside & column_inside
    if residual is not None:
        total += tl.load(residual + row.to(tl.int64)[:, None] * r_row + column[None, :], mask=inside, other=0.0).to(
            tl.float32
        )
    tl.store(out + row.to(tl.int64)[:, None] * o_row + column[None, :], total, mask=inside)


# One program N features of one row: products are summed lane by lane and folded once at the end.
@unify.jit
def few_rows_kernel(
    x, weight, residual, out, n, k, x_row, w_row, r_row, o_row,
    N: tl.constexpr, K: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    feature = tl.program_id(0) * N + tl.arange(0, N)
    row = tl.program_id(1).to(tl.int64)
    inner = tl.arange(0, K)
    inside = feature < n
    weight += feature.to(tl.int64)[:, None] * w_row
    total = tl.zeros([N, K], dtype=tl.float32)
    for start in range(0, k, K):
        step = start + inner
        if EVEN:
            value = tl.load(x + row * x_row + step).to(tl.float32)
            total += tl.load(weight + step[None, :]).to(tl.float32) * value[None, :]
        else:
            value = tl.load(x + row * x_row + step, mask=step < k, other=0.0).to(tl.float32)
            both = inside[:, None] & (step < k)[None, :]
            total += tl.load(weight + step[None, :], mask=both, other=0.0).to(tl.float32) * value[None, :]
    result = tl.sum(total, axis=1)
    if residual is not None:
        result += tl.load(residual + row * r_row + feature, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * o_row + feature, result, mask=inside)


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


@op
def linear(x: Any, weight: Any, *, residual: Any = None, stream: Any = None) -> Any:
    """x · weightᵀ, plus `residual` if given.

    x: [..., k] float16, bfloat16 or float32; weight: [n, k] of x's dtype, or a QuantizedMatrix, which stays quantised:
    x then becomes 16-bit codes (see `quant.quantize`) and the products are exact integers. residual: [..., n] of x's
    dtype. Sums in float32.
    Returns [..., n] of x's dtype and kind, enqueued on `stream` (default: the current one of x's device).
    Raises ShapeError, DTypeError, DeviceMismatchError; nothing is enqueued then.

    >>> ops.linear(np.ones((1, 2), np.float32), np.array([[1.0, 2.0], [3.0, 4.0]], np.float32))
    array([[3., 7.]], dtype=float32)
    """
    source = as_tensor(x, name="linear: x", dtype=FLOATS)
    dtype, device = source.dtype, source.device
    matrix: Any = weight
    if isinstance(weight, QuantizedMatrix):
        as_tensor(weight.codes, name="linear: weight", device=device)
    else:
        matrix = as_tensor(weight, name="linear: weight", dtype=dtype, device=device)
    if len(matrix.shape) != 2 or source.ndim < 1 or source.shape[-1] != matrix.shape[1]:
        raise ShapeError(
            f"linear: x must be [..., k] and weight [n, k]; they are {list(source.shape)} and {list(matrix.shape)}."
        )
    n, k = matrix.shape
    shape = (*source.shape[:-1], n)
    added = None
    if residual is not None:
        added = as_tensor(residual, name="linear: residual", dtype=dtype, device=device)
        if added.shape != shape:
            raise ShapeError(f"linear: residual must be {list(shape)}; it is {list(added.shape)}.")
        added = as_rows(added, n)
    rows = as_rows(source, k)
    result = unify.empty((rows.shape[0], n), dtype=dtype, device=device)
    if isinstance(matrix, QuantizedMatrix):
        _quantized(rows, matrix, added, result)
    elif rows.shape[0] <= 4 and matrix.strides[1] == 1:
        _few_rows(rows, matrix, added, result)
    else:
        _matmul(rows, matrix.permute(1, 0), added, result)
    return wrap_like(result.reshape(shape), x)


@op
def matmul(a: Any, b: Any, *, stream: Any = None) -> Any:
    """The matrix product a · b.

    a: [m, k], b: [k, n], of one dtype: float16, bfloat16 or float32; b may be strided at will. Sums in float32.
    Returns [m, n] of a's dtype and kind, enqueued on `stream` (default: the current one of a's device).
    Raises ShapeError, DTypeError, DeviceMismatchError; nothing is enqueued then.

    >>> ops.matmul(np.ones((1, 2), np.float32), np.array([[1.0, 2.0], [3.0, 4.0]], np.float32))
    array([[4., 6.]], dtype=float32)
    """
    left = as_tensor(a, name="matmul: a", dtype=FLOATS)
    right = as_tensor(b, name="matmul: b", dtype=left.dtype, device=left.device)
    if left.ndim != 2 or right.ndim != 2 or left.shape[1] != right.shape[0]:
        raise ShapeError(f"matmul: a must be [m, k] and b [k, n]; they are {list(left.shape)} and {list(right.shape)}.")
    result = unify.empty((left.shape[0], right.shape[1]), dtype=left.dtype, device=left.device)
    _matmul(as_rows(left, left.shape[1]), right, None, result)
    return wrap_like(result, a)


def _matmul(a: Any, b: Any, residual: Any, out: Any) -> None:
    (m, k), n = a.shape, b.shape[1]
    tile = _matmul_tile(a.device, m, n)
    inner = tile.k if k % (2 * tile.k) else 2 * tile.k  # sums are read and written once for so much of k
    matmul_kernel[(-(-m // tile.m), -(-n // tile.n))](
        a, b, residual, out, m, n, k, a.strides[0], *b.strides, 0 if residual is None else residual.strides[0],
        out.strides[0], M=tile.m, N=tile.n, K=inner, EVEN_K=k % inner == 0,
    )  # fmt: skip


@functools.cache
def _cores(device: Any) -> int:
    return int(device.properties["cores"]) if device.kind == "cpu" else 1


def _matmul_tile(device: Any, m: int, n: int) -> _Tile:
    """The kind's tile, narrower where columns would be wasted, smaller where cores would have none."""
    tile = _MATMUL.get(device.kind, _MATMUL_ELSEWHERE)
    rows, columns = min(tile.m, max(16, 1 << max(0, m - 1).bit_length())), tile.n
    if -n % columns * 8 > n:
        columns //= 2
    while -(-m // rows) * -(-n // columns) < _cores(device) and max(rows, columns) > 64:
        rows, columns = (rows // 2, columns) if rows >= columns else (rows, columns // 2)
    return _Tile(rows, columns, tile.k)


def _few_rows(x: Any, weight: Any, residual: Any, out: Any) -> None:
    n, k = weight.shape
    tile = _FEW_ROWS.get(x.device.kind, _FEW_ROWS_ELSEWHERE)
    few_rows_kernel[(-(-n // tile.n), x.shape[0])](
        x, weight, residual, out, n, k, x.strides[0], weight.strides[0],
        0 if residual is None else residual.strides[0], out.strides[0],
        N=tile.n, K=tile.k, EVEN=k % tile.k == 0 and n % tile.n == 0,
    )  # fmt: skip


def _quantized(x: Any, weight: QuantizedMatrix, residual: Any, out: Any) -> None:
    (m, k), n = x.shape, weight.shape[0]
    if k % BLOCK:
        raise ShapeError(f"linear: a quantised weight's k must be a multiple of {BLOCK}; it is {k}.")
    values = quantize(x)
    rows = 1 if m == 1 else _QUANTIZED_ROWS.get(x.device.kind, _QUANTIZED_ROWS_ELSEWHERE)
    columns = COLUMNS if rows == 1 else COLUMNS // 4  # as many sums as registers hold
    quantized_linear_kernel[(-(-m // rows), -(-n // columns))](
        values.codes, values.scales, values.sums, weight.codes, weight.scales, weight.minimums, residual, out,
        m, n, k, 0 if residual is None else residual.strides[0], out.strides[0],
        ROWS=rows, N=columns, COLUMNS=COLUMNS, BITS=weight.format.bits, OFFSET=weight.format.offset,
        EVEN=m % rows == 0,
    )  # fmt: skip
