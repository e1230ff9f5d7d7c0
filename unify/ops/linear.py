"""Matrix products: x · weightᵀ with dense or quantised weights, and a · b."""

from __future__ import annotations

import functools
from typing import Any

import triton.language as tl

import unify
from unify._errors import ShapeError
from unify._tensor import as_tensor, wrap_like

from .few_products import as_words, few_products, few_tile
from .op import FLOATS, as_rows, op
from .quant import QuantizedActivations, QuantizedMatrix, activations_kind, as_codes
from .quantized_linear import quantized_linear
from .tile import Tile
from .tiles import product_tile
from .tuning import choose, tiles_near

_FEW_ROWS = 4  # up to here nothing is packed for tl.dot
_PROGRAM_FEATURES = 8  # at least: one's beginning takes as long as a short row


# One program a tile of a result, of which there may be a batch. b is [k, n] by strides, so that a weight [n, k] needs
# no transposing copy.
@unify.jit
def matmul_kernel(
    a, b, residual, out, m, n, k, a_batch, a_row, b_batch, b_k, b_n, r_row, o_batch, o_row,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, EVEN_K: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * M + tl.arange(0, M)
    column = tl.program_id(1) * N + tl.arange(0, N)
    inner = tl.arange(0, K)
    if a_batch is not None:
        batch = tl.program_id(2).to(tl.int64)
        a += batch * a_batch
        b += batch * b_batch
        out += batch * o_batch
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


# One program `parts` times N features of ROWS rows.
@unify.jit
def few_rows_kernel(
    x, weight, residual, out, m, n, k, x_row, w_row, r_row, o_row, parts,
    ROWS: tl.constexpr, N: tl.constexpr, K: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    row = tl.arange(0, ROWS)
    x += tl.minimum(row, m - 1).to(tl.int64)[:, None] * x_row
    for part in range(parts):
        feature = (tl.program_id(0) * parts + part) * N + tl.arange(0, N)
        w_rows = weight + tl.minimum(feature, n - 1).to(tl.int64)[:, None] * w_row
        result = few_products(x, w_rows, k, ROWS, N, K, EVEN)
        inside = (row < m)[:, None] & (feature < n)[None, :]
        if residual is not None:
            place = residual + row.to(tl.int64)[:, None] * r_row + feature[None, :]
            result += tl.load(place, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + row.to(tl.int64)[:, None] * o_row + feature[None, :], result, mask=inside)


@op
def linear(
    x: Any, weight: Any, *, residual: Any = None, activations: str | None = None, stream: Any = None
) -> Any:  # fmt: skip
    """x · weightᵀ, plus `residual` if given.

    x: [..., k] float16, bfloat16 or float32; weight: [n, k] of x's dtype, or a QuantizedMatrix [n, k], which stays
    quantised. With blocks of 32 x becomes 16-bit codes (see `quant.quantize`) and products are exact integers, or with
    many rows of 16 bits, where these are multiplied faster, weights are rounded to x's dtype; with fp8 codes are
    multiplied as they are and scaled. residual: [..., n] of x's dtype. Sums in float32.
    activations: "int8" or "fp8", for x to become such codes first, see `quant.quantize`; or x is QuantizedActivations
    [m, k], whose dtype is what was quantised. Codes of int8 and int16 go with a weight in blocks of 32: their products
    are summed as integers, then scaled. Those of fp8 go with one in fp8 (DeepSeek-V3's report, 3.3.2). By default what
    the matrix asks for, `QuantizedMatrix.activations`.
    Returns [..., n] of x's dtype and kind, of QuantizedActivations a unify.Tensor, enqueued on `stream` (default: the
    current one of x's device).
    Raises ShapeError, DTypeError, DeviceMismatchError, InvalidArgument; nothing is enqueued then.

    >>> ops.linear(np.ones((1, 2), np.float32), np.array([[1.0, 2.0], [3.0, 4.0]], np.float32))
    array([[3., 7.]], dtype=float32)
    """
    is_quantized = isinstance(x, QuantizedActivations)
    source = x if is_quantized else as_tensor(x, name="linear: x", dtype=FLOATS)
    dtype, device = source.dtype, source.device
    matrix: Any = weight
    if isinstance(weight, QuantizedMatrix):
        as_tensor(weight.codes, name="linear: weight", device=device)
    else:
        matrix = as_tensor(weight, name="linear: weight", dtype=dtype, device=device)
    if len(matrix.shape) != 2 or len(source.shape) < 1 or source.shape[-1] != matrix.shape[1]:
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
    codes = activations_kind("linear", source, matrix, activations)
    rows = as_codes(source if is_quantized else as_rows(source, k), codes)
    result = unify.empty((rows.shape[0], n), dtype=dtype, device=device)
    if isinstance(matrix, QuantizedMatrix):
        quantized_linear(rows, matrix, added, result)
    elif rows.shape[0] <= _FEW_ROWS and matrix.strides[1] == 1:
        _few_rows(rows, matrix, added, result)
    else:
        _matmul(rows, matrix.permute(1, 0), added, result)
    return result if is_quantized else wrap_like(result.reshape(shape), x)


@op
def matmul(a: Any, b: Any, *, stream: Any = None) -> Any:
    """The matrix product a · b, or a batch of them.

    a: [m, k] and b: [k, n], or [batch, m, k] and [batch, k, n], of one dtype: float16, bfloat16 or float32; b may be
    strided at will. Sums in float32.
    Returns [m, n] or [batch, m, n] of a's dtype and kind, enqueued on `stream` (default: the current one of a's
    device).
    Raises ShapeError, DTypeError, DeviceMismatchError; nothing is enqueued then.

    >>> ops.matmul(np.ones((1, 2), np.float32), np.array([[1.0, 2.0], [3.0, 4.0]], np.float32))
    array([[4., 6.]], dtype=float32)
    """
    left = as_tensor(a, name="matmul: a", dtype=FLOATS)
    right = as_tensor(b, name="matmul: b", dtype=left.dtype, device=left.device)
    ranks, batch = (left.ndim, right.ndim), left.shape[:-2]
    if ranks not in ((2, 2), (3, 3)) or left.shape[-1] != right.shape[-2] or batch != right.shape[:-2]:
        raise ShapeError(
            f"matmul: a must be [m, k] and b [k, n], or both with a batch in front; "
            f"they are {list(left.shape)} and {list(right.shape)}."
        )
    result = unify.empty((*left.shape[:-1], right.shape[-1]), dtype=left.dtype, device=left.device)
    _matmul(left if left.strides[-1] == 1 else left.contiguous(), right, None, result)
    return wrap_like(result, a)


def _matmul(a: Any, b: Any, residual: Any, out: Any) -> None:
    (m, k), n = a.shape[-2:], b.shape[-1]
    tile = product_tile(a.device, m, n, a.dtype)
    batches, a_batch, b_batch, o_batch = (
        (1, None, None, None) if a.ndim == 2 else (a.shape[0], a.strides[0], b.strides[0], out.strides[0])
    )
    matmul_kernel[(-(-m // tile.m), -(-n // tile.n), batches)](
        a, b, residual, out, m, n, k, a_batch, a.strides[-2], b_batch, *b.strides[-2:],
        0 if residual is None else residual.strides[0], o_batch, out.strides[-2],
        M=tile.m, N=tile.n, K=tile.k, EVEN_K=k % tile.k == 0, **tile.launch,
    )  # fmt: skip


def _few_rows(x: Any, weight: Any, residual: Any, out: Any) -> None:
    tile = few_rows_tile(x.device, x.shape[0], weight.shape[0], x.shape[1], x.dtype)
    x, weight = as_words(x, weight)
    (m, k), n = x.shape, weight.shape[0]
    parts = max(1, _PROGRAM_FEATURES // tile.n)
    few_rows_kernel[(-(-n // (tile.n * parts)), min(m, 1))](
        x, weight, residual, out, m, n, k, x.strides[0], weight.strides[0],
        0 if residual is None else residual.strides[0], out.strides[0], parts,
        ROWS=tile.m, N=tile.n, K=tile.k, EVEN=k % tile.k == 0, **tile.launch,
    )  # fmt: skip


def few_rows_tile(device: Any, m: int, n: int, k: int, dtype: Any) -> Tile:
    """The tile for up to _FEW_ROWS rows of k inputs: the one that was measured, else that of few_tile."""
    rows = 1 if m <= 1 else 2 if m == 2 else 4
    default = few_tile(device, rows, k * dtype.itemsize)
    others = functools.partial(tiles_near, default, (rows, 1, 16), (rows, 128, 256))
    return choose("few rows", device, (rows, n, k, dtype.name), default, others)
