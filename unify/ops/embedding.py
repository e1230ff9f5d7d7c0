"""Looking rows up in a table of embeddings."""

from __future__ import annotations

from typing import Any

import triton.language as tl

import unify
from unify._errors import ShapeError
from unify._tensor import as_tensor, wrap_like

from .e4m3 import from_finite_e4m3
from .op import FLOATS, op
from .quant import COLUMNS, QuantizedMatrix
from .tiles import column_block


# One program a token. A row that is not there is read as the first one and becomes zeros.
@unify.jit
def embedding_kernel(ids, table, out, rows, columns, row_stride, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    row = tl.load(ids + token).to(tl.int64)
    exists = (row >= 0) & (row < rows)
    row = tl.where(exists, row, 0)
    lane = tl.arange(0, BLOCK)
    for start in range(0, columns, BLOCK):
        column = start + lane
        inside = column < columns
        value = tl.load(table + row * row_stride + column, mask=inside, other=0.0)
        tl.store(out + token * columns + column, tl.where(exists, value.to(tl.float32), 0.0), mask=inside)


# One program a token; the layout is that of quant.py.
@unify.jit
def quantized_embedding_kernel(
    ids, codes, scales, minimums, out, rows, k,
    BITS: tl.constexpr, OFFSET: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    row = tl.load(ids + token)
    exists = (row >= 0) & (row < rows)
    row = tl.where(exists, row, 0)
    group = (row // COLUMNS).to(tl.int64)
    column = row % COLUMNS
    i = tl.arange(0, 32)
    for block in range(k // 32):
        lane = group * (k // 8) + block * 4 + (i % 16) // 4
        if BITS == 8:
            lane = group * (k // 4) + block * 8 + i // 4
        code = tl.load(codes + (lane * COLUMNS + column) * 4 + i % 4).to(tl.int32)
        if BITS == 4:
            code = (code >> (i // 16) * 4) & 15
        place = (group * (k // 32) + block) * COLUMNS + column
        value = (code - OFFSET).to(tl.float32) * tl.load(scales + place).to(tl.float32)
        if minimums is not None:
            value += tl.load(minimums + place).to(tl.float32)
        tl.store(out + token * k + block * 32 + i, tl.where(exists, value, 0.0))


# One program a token, in steps of the 128 inputs that share a scale.
@unify.jit
def fp8_embedding_kernel(ids, codes, scales, out, rows, k, scale_row):
    token = tl.program_id(0).to(tl.int64)
    row = tl.load(ids + token)
    exists = (row >= 0) & (row < rows)
    row = tl.where(exists, row, 0).to(tl.int64)
    for block in range(tl.cdiv(k, 128)):
        column = block * 128 + tl.arange(0, 128)
        inside = column < k
        value = from_finite_e4m3(tl.load(codes + row * k + column, mask=inside, other=0)).to(tl.float32)
        value *= tl.load(scales + row // 128 * scale_row + block) * 256.0
        tl.store(out + token * k + column, tl.where(exists, value, 0.0), mask=inside)


@op
def embedding(ids: Any, weight: Any, *, stream: Any = None) -> Any:
    """The rows of a table: out[i] = weight[ids[i]].

    ids: [t] int32 or int64; weight: [n, d] float16, bfloat16 or float32, or a QuantizedMatrix [n, d], on the same
    device, n at least 1.
    An id outside [0, n) gives zeros: nothing looks at ids on a device.
    Returns float32 [t, d] of the kind of ids, enqueued on `stream` (default: the current one of their device).
    Raises ShapeError, DTypeError, DeviceMismatchError; nothing is enqueued then.

    >>> ops.embedding(np.array([2, 0], np.int32), np.eye(3, dtype=np.float32))
    array([[0., 0., 1.],
           [1., 0., 0.]], dtype=float32)
    """
    wanted = as_tensor(ids, name="embedding: ids", dtype=(unify.int32, unify.int64), contiguous=True)
    if wanted.ndim != 1:
        raise ShapeError(f"embedding: ids must be [tokens]; it is {list(wanted.shape)}.")
    if isinstance(weight, QuantizedMatrix):
        result = _quantized(wanted, weight)
    else:
        table = as_tensor(weight, name="embedding: weight", dtype=FLOATS, device=wanted.device)
        if table.ndim != 2 or table.shape[0] == 0 or table.strides[1] != 1:
            raise ShapeError(
                "embedding: weight must be [n, d] with at least one row, rows contiguous; "
                f"it is {list(table.shape)} with strides {list(table.strides)}."
            )
        tokens, (rows, columns) = wanted.shape[0], table.shape
        result = unify.empty((tokens, columns), dtype=unify.float32, device=table.device)
        embedding_kernel[(tokens,)](wanted, table, result, rows, columns, table.strides[0], BLOCK=column_block(columns))
    return wrap_like(result, ids)


def _quantized(ids: Any, weight: QuantizedMatrix) -> Any:
    as_tensor(weight.codes, name="embedding: weight", device=ids.device)
    if len(weight.shape) != 2 or weight.shape[0] == 0:
        raise ShapeError(f"embedding: weight must be [n, d] with at least one row; it is {list(weight.shape)}.")
    tokens, (rows, k) = ids.shape[0], weight.shape
    result = unify.empty((tokens, k), dtype=unify.float32, device=ids.device)
    if weight.kind == "fp8":
        fp8_embedding_kernel[(tokens,)](ids, weight.codes, weight.scales, result, rows, k, weight.scales.shape[1])
        return result
    quantized_embedding_kernel[(tokens,)](
        ids, weight.codes, weight.scales, weight.minimums, result, rows, k,
        BITS=weight.format.bits, OFFSET=weight.format.offset, COLUMNS=COLUMNS,
    )  # fmt: skip
    return result
