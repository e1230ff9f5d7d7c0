"""Looking rows up in a table of embeddings."""

from __future__ import annotations

from typing import Any

import triton.language as tl

import unify
from unify._errors import ShapeError
from unify._tensor import as_tensor, wrap_like

from .norm import column_block
from .quant import COLUMNS, QuantizedMatrix


# One program a token.
@unify.jit
def embedding_kernel(ids, table, out, columns, row_stride, BLOCK: tl.constexpr):
    token = tl.program_id(0).to(tl.int64)
    row = tl.load(ids + token).to(tl.int64)
    lane = tl.arange(0, BLOCK)
    for start in range(0, columns, BLOCK):
        column = start + lane
        inside = column < columns
        value = tl.load(table + row * row_stride + column, mask=inside, other=0.0)
        tl.store(out + token * columns + column, value.to(tl.float32), mask=inside)


# One program a token; the layout is that of quant.py.
@unify.jit
def quantized_embedding_kernel(
    ids, codes, scales, minimums, out, k,
    BITS: tl.constexpr, OFFSET: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    row = tl.load(ids + token)
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
        tl.store(out + token * k + block * 32 + i, value)


def embedding(ids: Any, weight: Any, *, stream: Any = None) -> Any:
    """The rows of a table: out[i] = weight[ids[i]].

    ids: [t] int32; weight: [n, d] float16, bfloat16 or float32, or a QuantizedMatrix. An id outside [0, n) is
    undefined: check ids where they come from.
    Returns float32 [t, d] of the kind of ids, enqueued on `stream` (default: the current one of the weight's device).
    Raises ShapeError.

    >>> ops.embedding(np.array([2, 0], np.int32), np.eye(3, dtype=np.float32))
    array([[0., 0., 1.],
           [1., 0., 0.]], dtype=float32)
    """
    rows = as_tensor(ids, name="embedding: ids", dtype=unify.int32, contiguous=True)
    if rows.ndim != 1:
        raise ShapeError(f"embedding: ids must be [tokens]; it is {list(rows.shape)}.")
    tokens = rows.shape[0]
    if isinstance(weight, QuantizedMatrix):
        k = weight.shape[1]
        result = unify.empty((tokens, k), dtype=unify.float32, device=weight.device)
        quantized_embedding_kernel[(tokens,)](
            rows, weight.codes, weight.scales, weight.minimums, result, k,
            BITS=weight.format.bits, OFFSET=weight.format.offset, COLUMNS=COLUMNS, stream=stream,
        )  # fmt: skip
        return wrap_like(result, ids)
    table = as_tensor(weight, name="embedding: weight")
    if table.ndim != 2 or table.strides[1] != 1:
        raise ShapeError(f"embedding: weight must be [n, d] with contiguous rows; it is {list(table.shape)}.")
    columns = table.shape[1]
    result = unify.empty((tokens, columns), dtype=unify.float32, device=table.device)
    embedding_kernel[(tokens,)](
        rows, table, result, columns, table.strides[0], BLOCK=column_block(columns), stream=stream
    )
    return wrap_like(result, ids)
