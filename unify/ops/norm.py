"""Root-mean-square norm, also of a sum, and with codes as its result."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import triton.language as tl

import unify
from unify._errors import InvalidArgument, ShapeError
from unify._tensor import as_tensor, wrap_like

from .op import FLOATS, check_overlap, op, written
from .quantized_activations import (
    BLOCK,
    FP8_BLOCK,
    blocks_at_a_time,
    empty_activations,
    numbers,
    spoilt,
    store_fp8,
    store_int8,
    store_int16,
)
from .tiles import row_tile

_SUMMED_COLUMNS = {"ascend": 2048}  # at most: twice as many arrays share a core's memory


@unify.jit
def _row(x, residual, place, inside):
    """float32 x, or x + residual as it is rounded to their type. inside: a mask, or None."""
    value = tl.load(x + place) if inside is None else tl.load(x + place, mask=inside, other=0.0)
    if residual is not None:
        added = tl.load(residual + place) if inside is None else tl.load(residual + place, mask=inside, other=0.0)
        value = (value.to(tl.float32) + added.to(tl.float32)).to(value.dtype)
    return value.to(tl.float32)


# One program a row, in steps of BLOCK columns: the row stays in the nearest cache for the second pass, which adds
# again, since on a GPU other threads may not see yet what was stored in `total`.
@unify.jit
def rms_norm_kernel(x, residual, weight, total, out, columns, eps, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    x += row * columns
    out += row * columns
    if residual is not None:
        residual += row * columns
        total += row * columns
    offsets = tl.arange(0, BLOCK)
    squares = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, columns, BLOCK):
        column = start + offsets
        value = _row(x, residual, column, None) if EVEN else _row(x, residual, column, column < columns)
        if residual is not None:
            tl.store(total + column, value, mask=column < columns)
        squares += value * value
    scale = 1.0 / tl.sqrt(tl.sum(squares, axis=0) / columns + eps)
    for start in range(0, columns, BLOCK):
        column = start + offsets
        if EVEN:
            value = _row(x, residual, column, None) * scale * tl.load(weight + column).to(tl.float32)
            tl.store(out + column, value)
        else:
            inside = column < columns
            value = _row(x, residual, column, inside) * scale
            value *= tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
            tl.store(out + column, value, mask=inside)


# As above, with codes as the result: the row in BLOCKS of WIDTH columns at a time.
@unify.jit
def rms_norm_codes_kernel(
    x, residual, weight, total, codes, scales, sums, columns, eps,
    KIND: tl.constexpr, WIDTH: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    x += row * columns
    if residual is not None:
        residual += row * columns
        total += row * columns
    lanes = tl.arange(0, BLOCKS)[:, None] * WIDTH + tl.arange(0, WIDTH)[None, :]
    squares = tl.zeros([BLOCKS, WIDTH], dtype=tl.float32)
    for start in range(0, columns, BLOCKS * WIDTH):
        place = start + lanes
        value = _row(x, residual, place, place < columns)
        if residual is not None:
            tl.store(total + place, value, mask=place < columns)
        squares += value * value
    scale = 1.0 / tl.sqrt(tl.sum(tl.sum(squares, axis=1), axis=0) / columns + eps)
    inverse = 0.0
    if KIND == "int8":
        broken = tl.zeros([BLOCKS], dtype=tl.int32)
        largest = tl.zeros([BLOCKS], dtype=tl.float32)
        for start in range(0, columns, BLOCKS * WIDTH):
            place = start + lanes
            factor = tl.load(weight + place, mask=place < columns, other=0.0).to(tl.float32)
            value = _row(x, residual, place, place < columns) * scale * factor
            broken += spoilt(value)
            largest = tl.maximum(largest, tl.max(tl.abs(numbers(value)), axis=1))
        top = tl.max(largest, axis=0)
        inverse = tl.where(top > 1.0e-30, 127.0 / top, 0.0)
        tl.store(scales + row, tl.where(tl.max(broken, axis=0) > 0, float("nan"), top * (1.0 / 127.0)))
    for start in range(0, columns, BLOCKS * WIDTH):
        place = start + lanes
        factor = tl.load(weight + place, mask=place < columns, other=0.0).to(tl.float32)
        value = _row(x, residual, place, place < columns) * scale * factor
        block = start // WIDTH + tl.arange(0, BLOCKS)
        if KIND == "int16":
            first = row * (columns // 32)
            store_int16(value, block, codes + row * 2 * columns, scales + first, sums + first, columns)
        elif KIND == "int8":
            store_int8(value, block, inverse, codes + row * columns, sums + row * (columns // 32), columns)
        else:
            store_fp8(value, block, codes + row * columns, scales + row * tl.cdiv(columns, 128), columns)


@op
def rms_norm(
    x: Any, weight: Any, *, residual: Any = None, eps: float = 1e-6, out: Any = None, quantize: str | None = None,
    stream: Any = None,
) -> Any:  # fmt: skip
    """Root-mean-square norm over the last axis: x / sqrt(mean(x²) + eps) · weight (Zhang & Sennrich 2019, eq. 4).

    x: [..., d] float16, bfloat16 or float32, contiguous; weight: [d], one of these too; out: like x, contiguous, x
    itself or memory of its own; all on one device. Sums in float32.
    residual: like x, contiguous. Then the norm is that of x + residual, rounded to x's dtype.
    quantize: "int16", "int8" or "fp8", for the norm as codes without another pass, see `quant.quantize`.
    Returns an array like x (or `out`), enqueued on `stream` (default: the current one of x's device); with `quantize`
    a QuantizedActivations of as many rows in its place; with `residual` a tuple of it and of x + residual, a new array.
    Raises ShapeError if weight is not [d], LayoutError, DTypeError, DeviceMismatchError, InvalidArgument; nothing is
    enqueued then.

    >>> ops.rms_norm(np.array([[3.0, 4.0]], np.float32), np.ones(2, np.float32)).round(2)
    array([[0.85, 1.13]], dtype=float32)
    """
    source = as_tensor(x, name="rms_norm: x", dtype=FLOATS, contiguous=True)
    dtype, device = source.dtype, source.device
    scale = as_tensor(weight, name="rms_norm: weight", dtype=FLOATS, device=device, contiguous=True)
    if source.ndim == 0:
        raise ShapeError("rms_norm: x must be [..., d]; it is [].")
    columns = source.shape[-1]
    if scale.shape != (columns,):
        raise ShapeError(f"rms_norm: weight must be [{columns}], x's last axis; it is {list(scale.shape)}.")
    read, added, total = {"x": source, "weight": scale}, None, None
    if residual is not None:
        added = as_tensor(residual, name="rms_norm: residual", dtype=dtype, device=device, contiguous=True)
        if added.shape != source.shape:
            raise ShapeError(f"rms_norm: residual must be {list(source.shape)}, as x; it is {list(added.shape)}.")
        read["residual"] = added
        total = unify.empty_like(source)
    rows = math.prod(source.shape[:-1]) if columns else 0
    if quantize is not None:
        if out is not None:
            raise InvalidArgument("rms_norm: codes have memory of their own: leave out either `out` or `quantize`.")
        made = empty_activations(quantize, rows, columns, source, name="rms_norm")
        codes = made.codes.view(unify.uint8) if quantize == "fp8" else made.codes
        rms_norm_codes_kernel[(rows,)](
            source, added, scale, total, codes, made.scales, made.sums, columns, eps, KIND=quantize,
            WIDTH=FP8_BLOCK if quantize == "fp8" else BLOCK, BLOCKS=blocks_at_a_time(device, quantize, columns),
        )  # fmt: skip
        return made if total is None else (made, wrap_like(total, x))
    if out is None:
        result = unify.empty_like(source)
    else:
        result = as_tensor(out, name="rms_norm: out", dtype=dtype, device=device, contiguous=True)
        if result.shape != source.shape:
            raise ShapeError(f"rms_norm: out must be {list(source.shape)}, as x; it is {list(result.shape)}.")
        check_overlap("rms_norm", result, **read)
    tile = row_tile(device, columns)
    if added is not None:
        tile = replace(tile, k=min(tile.k, _SUMMED_COLUMNS.get(device.kind, tile.k)))
    even = columns % tile.k == 0
    rms_norm_kernel[(rows,)](source, added, scale, total, result, columns, eps, BLOCK=tile.k, EVEN=even, **tile.launch)
    normed = wrap_like(result, x) if out is None else written(result, out)
    return normed if total is None else (normed, wrap_like(total, x))
