"""Gated activations."""

from __future__ import annotations

from typing import Any

import triton.language as tl

import unify
from unify._errors import ShapeError
from unify._tensor import as_tensor, wrap_like

from .op import FLOATS, as_rows, op

# Elements a program: long enough to hide a launch, short enough to spread a decode step over cores.
_BLOCK = 1024


# gate and up are rows of `columns`, each with its own row stride, so that halves of one array need no copy.
@unify.jit
def swiglu_kernel(gate, up, out, columns, gate_stride, up_stride, BLOCK: tl.constexpr):
    row = tl.program_id(1).to(tl.int64)
    column = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    g = tl.load(gate + row * gate_stride + column, mask=inside, other=0.0).to(tl.float32)
    u = tl.load(up + row * up_stride + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * columns + column, g / (1.0 + tl.exp(-g)) * u, mask=inside)


@op
def swiglu(gate: Any, up: Any, *, stream: Any = None) -> Any:
    """The gated unit silu(gate) · up, silu(x) = x / (1 + exp(-x)) (Shazeer 2020, eq. 6 without its projections).

    gate, up: [..., f] of one shape and dtype (float16, bfloat16 or float32); all axes but the last are folded
    into rows, which may be strided (two halves of one array). Computes in float32.
    Returns an array like gate, contiguous, enqueued on `stream` (default: the current one of its device).
    Raises ShapeError when the shapes differ, DTypeError, DeviceMismatchError.

    >>> ops.swiglu(np.array([[0.0, 20.0]], np.float32), np.array([[5.0, 5.0]], np.float32))
    array([[  0., 100.]], dtype=float32)
    """
    left = as_tensor(gate, name="swiglu: gate", dtype=FLOATS)
    right = as_tensor(up, name="swiglu: up", dtype=left.dtype, device=left.device)
    if left.shape != right.shape or left.ndim == 0:
        raise ShapeError(
            f"swiglu: gate and up must be [..., f], of one shape; they are {list(left.shape)} and {list(right.shape)}."
        )
    columns = left.shape[-1]
    left_rows, right_rows = as_rows(left, columns), as_rows(right, columns)
    result = unify.empty(left.shape, dtype=left.dtype, device=left.device)
    grid = (-(-columns // _BLOCK), left_rows.shape[0])
    swiglu_kernel[grid](
        left_rows, right_rows, result, columns, left_rows.strides[0], right_rows.strides[0], BLOCK=_BLOCK
    )
    return wrap_like(result, gate)
