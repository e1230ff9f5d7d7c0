"""Attention of many queries over many keys."""

from __future__ import annotations

from typing import Any

import triton.language as tl

import unify
from unify._errors import InvalidArgument, ShapeError
from unify._tensor import wrap_like

from .attend import (
    Layout,
    Scores,
    Widths,
    add_sink,
    attend_all,
    halvings,
    packed_starts,
    packed_tiles,
    scale_of,
    sequence_of,
)
from .op import op
from .tiles import attention_tile


# One program takes BLOCK_M queries of one head: first the keys that all of them see, then the diagonal with masks.
# Sequences are a batch, or packed: then starts are those of their queries, and key_starts or lengths those of their
# keys, in a row or in pages that `table` has. k_batch and v_batch are the strides of a batch or of a page.
@unify.jit(do_not_specialize=["sequences", "steps", "blocks", "max_blocks", "window"])
def attention_kernel(
    q, k, v, out, lse, starts, key_starts, lengths, table, sinks, alibi, k_scale, v_scale,
    queries, keys, sequences, steps, blocks, max_blocks, group, scale, cap, window,
    q_batch, q_token, q_head, k_batch, k_token, k_head, k_dim, v_batch, v_token, v_head, o_batch, o_token, o_head,
    table_row,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, TAIL: tl.constexpr,
    VALUE: tl.constexpr, BLOCK_V: tl.constexpr, CAUSAL: tl.constexpr, PAGE: tl.constexpr,
):  # fmt: skip
    LOG2_E: tl.constexpr = 1.4426950408889634
    tile = tl.program_id(0)
    head = tl.program_id(1)
    batch = tl.program_id(2).to(tl.int64)
    q += head * q_head
    out += head * o_head
    k += (head // group) * k_head
    v += (head // group) * v_head
    if starts is None:
        first_row = batch * queries
        q += batch * q_batch
        out += batch * o_batch
        k += batch * k_batch
        v += batch * v_batch
    else:
        # What starts and lengths say beyond the arrays is not read.
        sequence, tile = sequence_of(tile, starts, sequences, steps, BLOCK_M)
        first = tl.minimum(tl.maximum(tl.load(starts + sequence), 0), queries)
        queries = tl.minimum(tl.maximum(tl.load(starts + sequence + 1), first), queries) - first
        first_row = first.to(tl.int64)
        q += first_row * q_token
        out += first_row * o_token
        if PAGE > 0:
            table += sequence.to(tl.int64) * table_row
            keys = tl.minimum(tl.maximum(tl.load(lengths + sequence), 0), max_blocks * PAGE)
        else:
            first = tl.minimum(tl.maximum(tl.load(key_starts + sequence), 0), keys)
            keys = tl.minimum(tl.maximum(tl.load(key_starts + sequence + 1), first), keys) - first
            k += first.to(tl.int64) * k_token
            v += first.to(tl.int64) * v_token
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    e = tl.arange(0, BLOCK_V)
    inside = row < queries
    q_tile = tl.load(q + row[:, None] * q_token + d[None, :], mask=inside[:, None] & (d < WIDTH)[None, :], other=0.0)
    q_tail = None
    if TAIL > 0:
        tail = BLOCK_D + tl.arange(0, TAIL)
        tail_inside = inside[:, None] & (tail < WIDTH)[None, :]
        q_tail = tl.load(q + row[:, None] * q_token + tail[None, :], mask=tail_inside, other=0.0)
    slope = None
    if alibi is not None:
        slope = tl.full([BLOCK_M], 0.0, dtype=tl.float32) + tl.load(alibi + head).to(tl.float32) * LOG2_E
    total = tl.zeros([BLOCK_M, BLOCK_V], dtype=tl.float32)
    top = tl.full([BLOCK_M], -1.0e30, dtype=tl.float32)
    mass = tl.zeros([BLOCK_M], dtype=tl.float32)
    # Positions are those of keys: the last query's is the last key's.
    lowest = tile * BLOCK_M + keys - queries
    position = lowest + tl.arange(0, BLOCK_M)
    whole = keys
    last = keys
    if CAUSAL:
        whole = tl.minimum(lowest + 1, keys)
        last = tl.minimum(lowest + BLOCK_M, keys)
    whole = whole // BLOCK_N * BLOCK_N
    first_key = 0
    clear = 0
    seen = 0
    if starts is not None:  # a tile may be beyond its sequence's end, and a query before its first key
        last = tl.where(tile * BLOCK_M < queries, last, 0)
        whole = tl.maximum(tl.minimum(whole, last), 0)
    if window is not None:
        seen = tl.maximum(lowest + 1 - window, 0)
        first_key = seen // BLOCK_N * BLOCK_N
        clear = (tl.maximum(lowest + BLOCK_M - window, 0) + BLOCK_N - 1) // BLOCK_N * BLOCK_N
        whole = tl.maximum(whole, first_key)
        clear = tl.minimum(clear, whole)
    scale *= scale_of(k_scale, head // group, k.dtype.element_ty)
    total, top, mass = attend_all(
        total, top, mass, q_tile, q_tail, k, v, table, first_key, clear, whole, last, keys, position,
        scale, cap, window, seen, slope, k_token, k_dim, v_token, k_batch, v_batch, blocks,
        BLOCK_N, CAUSAL, PAGE, WIDTH, BLOCK_D, TAIL, VALUE, BLOCK_V,
    )  # fmt: skip
    if CAUSAL and starts is not None:
        total = tl.where((position >= 0)[:, None], total, 0.0)
        mass = tl.where(position >= 0, mass, 0.0)
    if sinks is not None:
        total, top, mass = add_sink(total, top, mass, tl.load(sinks + head).to(tl.float32) * LOG2_E)
    o_inside = inside[:, None] & (e < VALUE)[None, :]
    result = total / tl.where(mass == 0.0, 1.0, mass)[:, None]  # 0 where no key is seen
    result *= scale_of(v_scale, head // group, v.dtype.element_ty)
    tl.store(out + row[:, None] * o_token + e[None, :], result, mask=o_inside)
    if lse is not None:
        place = (first_row + row) * tl.num_programs(1) + head
        tl.store(lse + place, (top + tl.log2(mass)) / LOG2_E, mask=inside)


_LAYOUT = Layout(
    ("attention: q", "attention: k", "attention: v"),
    ((3, 3), (4, 4)),
    "q must be [tokens, heads, d], k [keys, kv_heads, d] and v [keys, kv_heads, dv], or all with a batch in front",
)


@op
def attention(
    q: Any, k: Any, v: Any, *, causal: bool = True, scale: float | None = None, cu_seqlens: Any = None,
    cu_seqlens_k: Any = None, window: int | None = None, soft_cap: float | None = None, sinks: Any = None,
    alibi: Any = None, return_lse: bool = False, stream: Any = None,
) -> Any:  # fmt: skip
    """Softmax attention, softmax(q·kᵀ·scale)·v, without storing the scores (Dao et al. 2022).

    q: [t, h, d] or [b, t, h, d]; k: [s, kv_heads, d] or [b, s, kv_heads, d]; v: as k, of any width dv; h a multiple of
    kv_heads (grouped heads share keys, Ainslie et al. 2023). float16, bfloat16 or float32, last axis contiguous, others
    strided at will. causal: query i sees keys up to i + s - t. scale: 1/sqrt(d) by default. Sums in float32.

    cu_seqlens: [b + 1] int32, where each of b packed sequences of q [t, h, d] begins, and the last one ends;
    cu_seqlens_k: the same for k and v (default: cu_seqlens). They are read on the device. A query that sees no key
    becomes 0.
    window: of the keys up to i + s - t, only so many are seen (Jiang et al. 2023, section 2); without causal it limits
    what lies behind a query, not what lies ahead. soft_cap: scores become soft_cap · tanh(scores / soft_cap) (Gemma
    Team 2024, section 2). sinks: [h], a score for each head that takes part in the softmax's sum and has no value
    (OpenAI 2025, gpt-oss). alibi: [h] slopes; scores lose slope · distance (Press et al. 2022).

    A NaN or an infinity among a key's values may reach queries of its sequence that stand near those that see it, since
    0 · NaN is NaN; in torch it reaches them all.

    Returns an array like q of width dv, contiguous, enqueued on `stream` (default: the current one of q's device); with
    return_lse also the logarithm of the sum of the scores' exponentials, sinks included, float32 [t, h] or [b, t, h]:
    -inf where there are no scores.
    Raises ShapeError, DTypeError, DeviceMismatchError, InvalidArgument; nothing is enqueued then.

    >>> q, k = np.ones((5, 8, 64), np.float32), np.ones((5, 2, 64), np.float32)
    >>> ops.attention(q, k, k).shape
    (5, 8, 64)
    """
    query, key, value = _LAYOUT.tensors(q, k, v)
    scores = Scores.of("attention", query, scale, window, soft_cap, sinks=sinks, alibi=alibi)
    qs, ks, vs = (t if t.ndim == 4 else t.reshape(1, *t.shape) for t in (query, key, value))
    batch, queries, heads, width = qs.shape
    keys, kv_heads = ks.shape[1:3]
    if ks.shape[0] != batch:
        raise ShapeError(f"attention: q, k and v must have one batch; q is {list(qs.shape)}, k is {list(ks.shape)}.")
    starts, key_starts = _starts(query, cu_seqlens, cu_seqlens_k)
    if causal and keys < queries and starts is None:
        raise ShapeError(
            f"attention: causal needs at least as many keys as queries; {keys} keys, {queries} queries. "
            "Use causal=False."
        )
    qs, ks, vs = (t if t.strides[3] == 1 else t.contiguous() for t in (qs, ks, vs))
    widths = Widths.of(width, vs.shape[3])
    result = unify.empty((batch, queries, heads, widths.VALUE), dtype=qs.dtype, device=qs.device)
    lse = unify.empty(query.shape[:-1], dtype=unify.float32, device=qs.device) if return_lse else None
    sequences, longest = batch, queries
    if starts is not None:
        sequences = starts.shape[0] - 1
        longest = -(-queries // max(1, sequences))  # as long as they are on average
    tile = attention_tile(
        qs.device, longest, sequences * heads, causal=causal, width=width, dtype=qs.dtype, plain=scores.is_plain
    )
    tiles = -(-queries // tile.m) if starts is None else packed_tiles(queries, sequences, tile.m)
    attention_kernel[(tiles, heads, batch)](
        qs, ks, vs, result, lse, starts, key_starts, None, None, scores.sinks, scores.alibi, None, None,
        queries, keys, sequences, halvings(sequences), 0, 0, heads // kv_heads,
        scores.scale, scores.cap, scores.window, *qs.strides[:3], *ks.strides, *vs.strides[:3], *result.strides[:3], 0,
        BLOCK_M=tile.m, BLOCK_N=tile.n, **vars(widths), CAUSAL=causal, PAGE=0, **tile.launch,
    )  # fmt: skip
    found = wrap_like(result if query.ndim == 4 else result.reshape(result.shape[1:]), q)
    return found if lse is None else (found, wrap_like(lse, q))


def _starts(query: Any, cu_seqlens: Any, cu_seqlens_k: Any) -> tuple[Any, Any]:
    """Where packed sequences of queries and of keys begin, or None for both."""
    if cu_seqlens is None:
        if cu_seqlens_k is not None:
            raise InvalidArgument("attention: cu_seqlens_k needs cu_seqlens, where the queries' sequences begin.")
        return None, None
    if query.ndim != 3:
        raise ShapeError(f"attention: with cu_seqlens q must be [tokens, heads, d]; it is {list(query.shape)}.")
    starts = packed_starts("attention: cu_seqlens", cu_seqlens, query.device)
    if cu_seqlens_k is None:
        return starts, starts
    key_starts = packed_starts("attention: cu_seqlens_k", cu_seqlens_k, query.device)
    if starts.shape != key_starts.shape:
        raise ShapeError(
            f"attention: cu_seqlens and cu_seqlens_k must be as long as each other; "
            f"they are {list(starts.shape)} and {list(key_starts.shape)}."
        )
    return starts, key_starts
