"""Root-mean-square norm."""

from __future__ import annotations

from typing import Any

import triton.language as tl

import unify
from unify._errors import ShapeError
from unify._tensor import as_tensor, wrap_like

from .op import FLOATS, check_overlap, op, written
from .tiles import row_tile


# One program a row, in steps of BLOCK columns: the row stays in the nearest cache for the second pass.
@unify.jit
def rms_norm_kernel(x, weight, out, columns, eps, BLOCK: tl.constexpr, EVEN: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    x += row * columns
    out += row * columns
    offsets = tl.arange(0, BLOCK)
    squares = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, columns, BLOCK):
        column = start + offsets
        if EVEN:
            value = tl.load(x + column).to(tl.float32)
        else:
            value = tl.load(x + column, mask=column < columns, other=0.0).to(tl.float32)
        squares += value * value
    scale = 1.0 / tl.sqrt(tl.sum(squares, axis=0) / columns + eps)
    for start in range(0, columns, BLOCK):
        column = start + offsets
        if EVEN:
            value = tl.load(x + column).to(tl.float32) * scale * tl.load(weight + column).to(tl.float32)
            tl.store(out + column, value)
        else:
            inside = column < columns
            value = tl.load(x + column, mask=inside, other=0.0).to(tl.float32) * scale
            value *= tl.load(weight + column, mask=inside, other=0.0).to(tl.float32)
            tl.store(out + column, value, mask=inside)


@op
def rms_norm(x: Any, weight: Any, *, eps: float = 1e-6, out: Any = None, stream: Any = None) -> Any:
    """Root-mean-square norm over the last axis: x / sqrt(mean(x²) + eps) · weight (Zhang & Sennrich 2019, eq. 4).

    x: [..., d] float16, bfloat16 or float32, contiguous; weight: [d], one of these too; out: like x, contiguous, x
    itself or memory of its own; all on one device. Sums in float32.
    Returns an array like x (or `out`), enqueued on `stream` (default: the current one of x's device).
    Raises ShapeError if weight is not [d], LayoutError, DTypeError, DeviceMismatchError; nothing is enqueued then.

    >>> ops.rms_norm(np.array([[3.0, 4.0]], np.float32), np.ones(2, np.float32)).round(2)
    array([[0.85, 1.13]], dtype=float32)
    """
    source = as_tensor(x, name="rms_norm: x", dtype=FLOATS, contiguous=True)
    scale = as_tensor(weight, name="rms_norm: weight", dtype=FLOATS, device=source.device, contiguous=True)
    if source.ndim == 0:
        raise ShapeError("rms_norm: x must be [..., d]; it is [].")
    columns = source.shape[-1]
    if scale.shape != (columns,):
        raise ShapeError(f"rms_norm: weight must be [{columns}], x's last axis; it is {list(scale.shape)}.")
    if out is None:
        result = unify.empty_like(source)
    else:
        result = as_tensor(out, name="rms_norm: out", dtype=source.dtype, device=source.device, contiguous=True)
        if result.shape != source.shape:
            raise ShapeError(f"rms_norm: out must be {list(source.shape)}, as x; it is {list(result.shape)}.")
        check_overlap("rms_norm", result, x=source, weight=scale)
    tile = row_tile(source.device, columns)
    rows = source.size // columns if columns else 0
    even = columns % tile.k == 0
    rms_norm_kernel[(rows,)](source, scale, result, columns, eps, BLOCK=tile.k, EVEN=even, **tile.launch)
    return wrap_like(result, x) if out is None else written(result, out)
