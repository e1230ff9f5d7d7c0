"""Attention of many queries over many keys."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import triton.language as tl

import unify
from unify._errors import ShapeError
from unify._tensor import as_tensor, wrap_like

from .op import FLOATS, op
from .tiles import attention_tile


@unify.jit
def attend(
    total, top, mass, q, k, v, table, first_key, last_key, keys, row, offset, scale_log2, d, inside_d,
    k_token, k_dim, v_token, k_block, v_block, blocks,
    BLOCK_N: tl.constexpr, MASKED: tl.constexpr, CAUSAL: tl.constexpr, PAGED: tl.constexpr,
):  # fmt: skip
    """Online softmax of queries q over keys [first_key, last_key) (Dao et al. 2022, algorithm 1), in powers of two.

    first_key is a multiple of BLOCK_N. PAGED: keys lie in blocks of BLOCK_N, found through `table`; a block outside of
    the cache's `blocks` is taken as the nearest one, so that nothing else is read.
    """
    inner = tl.arange(0, BLOCK_N)
    for start in range(first_key, last_key, BLOCK_N):
        column = start + inner
        if PAGED:
            block = tl.load(table + start // BLOCK_N)
            block = tl.minimum(tl.maximum(block, 0), blocks - 1).to(tl.int64)
            k_start = k + block * k_block
            v_start = v + block * v_block
        else:
            k_start = k + tl.cast(start, tl.int64) * k_token
            v_start = v + tl.cast(start, tl.int64) * v_token
        k_inside = inside_d[:, None]
        v_inside = inside_d[None, :]
        if MASKED:
            k_inside = k_inside & (column < keys)[None, :]
            v_inside = v_inside & (column < keys)[:, None]
        k_tile = tl.load(k_start + inner[None, :] * k_token + d[:, None] * k_dim, mask=k_inside, other=0.0)
        scores = tl.dot(q, k_tile, input_precision="ieee") * scale_log2
        if MASKED:
            visible = (column < keys)[None, :]
            if CAUSAL:
                visible = visible & (column[None, :] <= row[:, None] + offset)
            scores = tl.where(visible, scores, -1.0e30)
        new_top = tl.maximum(top, tl.max(scores, axis=1))
        weights = tl.exp2(scores - new_top[:, None])
        shrink = tl.exp2(top - new_top)
        mass = mass * shrink + tl.sum(weights, axis=1)
        v_tile = tl.load(v_start + inner[:, None] * v_token + d[None, :], mask=v_inside, other=0.0)
        total = tl.dot(weights.to(v_tile.dtype), v_tile, total * shrink[:, None], input_precision="ieee")
        top = new_top
    return total, top, mass


# One program takes BLOCK_M queries of one head: first the keys that all of them see, then the diagonal with masks.
@unify.jit
def attention_kernel(
    q, k, v, out, queries, keys, group, scale_log2,
    q_batch, q_token, q_head, k_batch, k_token, k_head, v_batch, v_token, v_head, o_batch, o_token, o_head,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, CAUSAL: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    inside_d = d < WIDTH
    inside = (row < queries)[:, None] & inside_d[None, :]
    q += batch * q_batch + head * q_head
    k += batch * k_batch + (head // group) * k_head
    v += batch * v_batch + (head // group) * v_head
    q_tile = tl.load(q + row[:, None] * q_token + d[None, :], mask=inside, other=0.0)
    total = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    top = tl.full([BLOCK_M], -1.0e30, dtype=tl.float32)
    mass = tl.zeros([BLOCK_M], dtype=tl.float32)
    offset = keys - queries
    if CAUSAL:
        whole = tl.minimum(tile * BLOCK_M + offset + 1, keys) // BLOCK_N * BLOCK_N
        last = tl.minimum(tile * BLOCK_M + BLOCK_M + offset, keys)
    else:
        whole = keys // BLOCK_N * BLOCK_N
        last = keys
    total, top, mass = attend(
        total, top, mass, q_tile, k, v, None, 0, whole, keys, row, offset, scale_log2, d, inside_d,
        k_token, 1, v_token, 0, 0, 0, BLOCK_N, False, CAUSAL, False,
    )  # fmt: skip
    total, top, mass = attend(
        total, top, mass, q_tile, k, v, None, whole, last, keys, row, offset, scale_log2, d, inside_d,
        k_token, 1, v_token, 0, 0, 0, BLOCK_N, True, CAUSAL, False,
    )  # fmt: skip
    out += batch * o_batch + head * o_head
    tl.store(out + row[:, None] * o_token + d[None, :], total / mass[:, None], mask=inside)


@dataclass(frozen=True)
class Layout:
    """What an attention takes as queries, keys and values."""

    names: tuple[str, str, str]  # "op: argument"
    ranks: tuple[tuple[int, int], ...]  # axes of the queries and of keys and values that go together
    shapes: str  # the same in words

    def tensors(self, q: Any, k: Any, v: Any) -> tuple[Any, Any, Any]:
        """The arrays as tensors of one dtype, device and width, or the error that says what does not fit."""
        query = as_tensor(q, name=self.names[0], dtype=FLOATS)
        dtype, device = query.dtype, query.device
        key = as_tensor(k, name=self.names[1], dtype=dtype, device=device)
        value = as_tensor(v, name=self.names[2], dtype=dtype, device=device)
        ranks, shape = (query.ndim, key.ndim), key.shape
        if ranks not in self.ranks or shape != value.shape or shape[-1] != query.shape[-1] or shape[-1] == 0:
            raise self._error(f"{self.shapes}, with one d of at least 1", query, key, value)
        if shape[-2] == 0 or query.shape[-2] % shape[-2]:
            raise self._error("heads must be a multiple of kv_heads", query, key, value)
        return query, key, value

    def _error(self, what: str, *tensors: Any) -> ShapeError:
        op = self.names[0].partition(":")[0]
        found = ", ".join(
            f"{name.partition(': ')[2]} is {list(tensor.shape)}"
            for name, tensor in zip(self.names, tensors, strict=True)
        )
        return ShapeError(f"{op}: {what}; {found}.")


def block_d(width: int) -> int:
    """The tile that holds a head."""
    return max(16, 1 << (width - 1).bit_length())


def log2_scale(scale: float | None, width: int) -> float:
    """What scores are multiplied with, for powers of two in place of e."""
    return (1.0 / math.sqrt(width) if scale is None else scale) * math.log2(math.e)


_LAYOUT = Layout(
    ("attention: q", "attention: k", "attention: v"),
    ((3, 3), (4, 4)),
    "q must be [tokens, heads, d], k and v [keys, kv_heads, d], or all with a batch in front",
)


@op
def attention(q: Any, k: Any, v: Any, *, causal: bool = True, scale: float | None = None, stream: Any = None) -> Any:
    """Softmax attention, softmax(q·kᵀ·scale)·v, without storing the scores (Dao et al. 2022).

    q: [t, h, d] or [b, t, h, d]; k, v: [s, kv_heads, d] or [b, s, kv_heads, d]; h a multiple of kv_heads (grouped
    heads share keys, Ainslie et al. 2023). float16, bfloat16 or float32, last axis contiguous, others strided at
    will. causal: query i sees keys up to i + s - t. scale: 1/sqrt(d) by default. Sums in float32.
    Returns an array like q, contiguous, enqueued on `stream` (default: the current one of q's device).
    Raises ShapeError, DTypeError, DeviceMismatchError; nothing is enqueued then.

    >>> q, k = np.ones((5, 8, 64), np.float32), np.ones((5, 2, 64), np.float32)
    >>> ops.attention(q, k, k).shape
    (5, 8, 64)
    """
    query, key, value = _LAYOUT.tensors(q, k, v)
    qs, ks, vs = (t if t.ndim == 4 else t.reshape(1, *t.shape) for t in (query, key, value))
    batch, queries, heads, width = qs.shape
    keys, kv_heads = ks.shape[1:3]
    if ks.shape[0] != batch:
        raise ShapeError(f"attention: q, k and v must have one batch; q is {list(qs.shape)}, k is {list(ks.shape)}.")
    if causal and keys < queries:
        raise ShapeError(
            f"attention: causal needs at least as many keys as queries; {keys} keys, {queries} queries. "
            "Use causal=False."
        )
    qs, ks, vs = (t if t.strides[3] == 1 else t.contiguous() for t in (qs, ks, vs))
    result = unify.empty(qs.shape, dtype=qs.dtype, device=qs.device)
    tile = attention_tile(qs.device, queries, batch * heads, causal=causal, width=width, itemsize=qs.itemsize)
    attention_kernel[(-(-queries // tile.m), heads, batch)](
        qs, ks, vs, result, queries, keys, heads // kv_heads, log2_scale(scale, width),
        *qs.strides[:3], *ks.strides[:3], *vs.strides[:3], *result.strides[:3],
        BLOCK_M=tile.m, BLOCK_N=tile.n, WIDTH=width, BLOCK_D=block_d(width), CAUSAL=causal, **tile.launch,
    )  # fmt: skip
    return wrap_like(result if query.ndim == 4 else result.reshape(query.shape), q)
