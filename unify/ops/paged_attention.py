"""Attention over a paged cache of keys and values (Kwon et al. 2023).

A cache is [blocks, block_size, kv_heads, d] by shape; its strides are free. On a CPU keys are read fastest when
block_size is the axis that is contiguous in memory, elsewhere when d is; values when d is.
"""

from __future__ import annotations

import numbers
from typing import Any

import triton.language as tl

import unify
from unify._errors import InvalidArgument, LayoutError, ShapeError
from unify._tensor import as_tensor, wrap_like

from .attend import (
    CODES,
    Layout,
    Scores,
    Widths,
    add_sink,
    attend_all,
    code_scale,
    halvings,
    packed_starts,
    packed_tiles,
    scale_of,
)
from .attention import attention_kernel
from .merge_states import merge
from .op import op
from .tiles import decode_tile, prefill_tile


# One program takes a part of one sequence's keys, for the query heads that share a key head.
@unify.jit(do_not_specialize=["blocks", "max_blocks", "window"])
def paged_attention_kernel(
    q, k, v, table, context_lens, out, lse, sinks, alibi, k_scale, v_scale,
    blocks, max_blocks, group, scale, cap, window,
    q_batch, q_head, k_block, k_token, k_head, k_dim, v_block, v_token, v_head, table_row, o_split, o_batch, o_head,
    GROUP: tl.constexpr, BLOCK_N: tl.constexpr, PAGE: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr,
    TAIL: tl.constexpr, VALUE: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    LOG2_E: tl.constexpr = 1.4426950408889634
    kv_head = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    split = tl.program_id(2)
    splits = tl.num_programs(2)
    keys = tl.minimum(tl.maximum(tl.load(context_lens + batch), 0), max_blocks * PAGE)
    seen = 0  # the first key in sight
    if window is not None:
        seen = tl.maximum(keys - window, 0)
    first_tile = seen // BLOCK_N
    share = ((keys + BLOCK_N - 1) // BLOCK_N - first_tile + splits - 1) // splits * BLOCK_N
    first = first_tile * BLOCK_N + split * share
    last = tl.minimum(first + share, keys)
    whole = tl.maximum(last // BLOCK_N * BLOCK_N, first)
    clear = first
    if window is not None:
        clear = tl.minimum(tl.maximum((seen + BLOCK_N - 1) // BLOCK_N * BLOCK_N, first), whole)
    member = tl.arange(0, GROUP)
    d = tl.arange(0, BLOCK_D)
    e = tl.arange(0, BLOCK_V)
    is_member = member < group
    head = kv_head * group + member
    q += batch * q_batch
    q_inside = is_member[:, None] & (d < WIDTH)[None, :]
    q_tile = tl.load(q + head[:, None] * q_head + d[None, :], mask=q_inside, other=0.0)
    q_tail = None
    if TAIL > 0:
        tail = BLOCK_D + tl.arange(0, TAIL)
        tail_inside = is_member[:, None] & (tail < WIDTH)[None, :]
        q_tail = tl.load(q + head[:, None] * q_head + tail[None, :], mask=tail_inside, other=0.0)
    slope = None
    if alibi is not None:
        slope = tl.load(alibi + head, mask=is_member, other=0.0).to(tl.float32) * LOG2_E
    total = tl.zeros([GROUP, BLOCK_V], dtype=tl.float32)
    top = tl.full([GROUP], -1.0e30, dtype=tl.float32)
    mass = tl.zeros([GROUP], dtype=tl.float32)
    position = tl.full([GROUP], 0, dtype=tl.int32) + (keys - 1)
    scale *= scale_of(k_scale, kv_head, k.dtype.element_ty)
    total, top, mass = attend_all(
        total, top, mass, q_tile, q_tail, k + kv_head * k_head, v + kv_head * v_head, table + batch * table_row,
        first, clear, whole, last, keys, position, scale, cap, window, seen, slope,
        k_token, k_dim, v_token, k_block, v_block, blocks,
        BLOCK_N, False, PAGE, WIDTH, BLOCK_D, TAIL, VALUE, BLOCK_V,
    )  # fmt: skip
    if sinks is not None:  # in one part only
        sink = tl.load(sinks + head, mask=is_member, other=0.0).to(tl.float32) * LOG2_E
        total, top, mass = add_sink(total, top, mass, tl.where(split == 0, sink, -float("inf")))
    inside = is_member[:, None] & (e < VALUE)[None, :]
    out += split.to(tl.int64) * o_split + batch * o_batch
    result = total / tl.where(mass == 0.0, 1.0, mass)[:, None]  # 0 without keys
    result *= scale_of(v_scale, kv_head, v.dtype.element_ty)
    tl.store(out + head[:, None] * o_head + e[None, :], result, mask=inside)
    if lse is not None:
        row = (split * tl.num_programs(1) + batch) * tl.num_programs(0) * group
        tl.store(lse + row + head, (top + tl.log2(mass)) / LOG2_E, mask=is_member)


_CACHES = "k_cache [blocks, block_size, kv_heads, d] and v_cache [blocks, block_size, kv_heads, dv]"
_DECODE, _PREFILL = (
    Layout(
        (f"{op}: q", f"{op}: k_cache", f"{op}: v_cache"), ((3, 4),), f"q must be [{axes}, heads, d], {_CACHES}", CODES
    )
    for op, axes in (("paged_attention", "batch"), ("paged_prefill", "tokens"))
)


def paged_table(op: str, device: Any, block_table: Any, sequences: int) -> Any:
    """The table as a tensor [sequences, max_blocks] with contiguous rows, or the error of `op`."""
    table = as_tensor(block_table, name=f"{op}: block_table", dtype=unify.int32, device=device)
    if table.ndim != 2 or table.shape[0] != sequences:
        raise ShapeError(f"{op}: block_table must be [{sequences}, max_blocks]; it is {list(table.shape)}.")
    return table if table.strides[1] == 1 else table.contiguous()


def paged_lengths(op: str, device: Any, context_lens: Any, sequences: int) -> Any:
    """The lengths as a tensor [sequences], or the error of `op`."""
    lengths = as_tensor(context_lens, name=f"{op}: context_lens", dtype=unify.int32, device=device, contiguous=True)
    if lengths.shape != (sequences,):
        raise ShapeError(f"{op}: context_lens must be [{sequences}]; it is {list(lengths.shape)}.")
    return lengths


def _check_caches(op: str, keys: Any, values: Any, k_scale: Any, v_scale: Any) -> tuple[Any, Any]:
    """Returns the scales as a kernel takes them."""
    if 0 in keys.shape[:2]:
        raise ShapeError(f"{op}: the caches need a block, and a block a key; they are {list(keys.shape)}.")
    if values.strides[3] != 1:
        raise LayoutError(f"{op}: v_cache's last axis must be contiguous; its strides are {list(values.strides)}.")
    return code_scale(f"{op}: k_scale", k_scale, keys), code_scale(f"{op}: v_scale", v_scale, values)


def check_splits(op: str, splits: int | None) -> None:
    """Raises InvalidArgument where the caller wants parts of a sequence, and they are no power of two."""
    is_power = isinstance(splits, numbers.Integral) and splits > 0 and not splits & (splits - 1)
    if splits is not None and not is_power:
        raise InvalidArgument(f"{op}: splits must be a power of two (1, 2, 4, …), or None; it is {splits!r:.80}.")


@op
def paged_attention(
    q: Any, k_cache: Any, v_cache: Any, block_table: Any, context_lens: Any, *, scale: float | None = None,
    window: int | None = None, soft_cap: float | None = None, sinks: Any = None, alibi: Any = None,
    k_scale: Any = None, v_scale: Any = None, return_lse: bool = False, splits: int | None = None, stream: Any = None,
) -> Any:  # fmt: skip
    """Attention of one new query a sequence over its cached keys (Kwon et al. 2023, section 4.1).

    q: [b, h, d] float16, bfloat16 or float32; k_cache: [blocks, block_size, kv_heads, d] of q's dtype, v_cache: the
    same of any width dv; block_table: [b, max_blocks] int32, the blocks of each sequence in order; context_lens: [b]
    int32, keys to see, of which the query's own is the last. What they say beyond the table or the caches is not read.
    Any block_size; one that is a multiple of 16 is read by rows.
    The caches may hold codes, int8 or float8_e4m3, that k_scale and v_scale make numbers of: as kv_write does.
    scale, window, soft_cap, sinks, alibi, return_lse: as in attention. A sequence is cut into `splits` parts (a power
    of two; by default enough to keep the device's cores busy) that are merged afterwards, so that one long sequence
    uses the whole device.
    Returns an array like q of width dv, 0 where context_lens is 0, enqueued on `stream` (default: the current one of
    q's device); with return_lse also a float32 [b, h].
    Raises ShapeError, LayoutError, DTypeError, DeviceMismatchError, InvalidArgument; nothing is enqueued then.
    """
    query, keys, values = _DECODE.tensors(q, k_cache, v_cache)
    scores = Scores.of("paged_attention", query, scale, window, soft_cap, sinks=sinks, alibi=alibi)
    factors = _check_caches("paged_attention", keys, values, k_scale, v_scale)
    device = query.device
    (batch, heads, width), (blocks, size, kv_heads, _) = query.shape, keys.shape
    table = paged_table("paged_attention", device, block_table, batch)
    lengths = paged_lengths("paged_attention", device, context_lens, batch)
    query = query if query.strides[2] == 1 else query.contiguous()
    check_splits("paged_attention", splits)
    tile = decode_tile(
        device, batch * kv_heads, size, table.shape[1], splits=splits, width=width, types=_types(query, keys)
    )
    splits = tile.k
    widths = Widths.of(width, values.shape[3])
    result = unify.empty((batch, heads, widths.VALUE), dtype=query.dtype, device=device)
    lse = unify.empty((batch, heads), dtype=unify.float32, device=device) if return_lse else None
    parts, part_lses = result.reshape(1, *result.shape), lse
    if splits > 1:
        parts = unify.empty((splits, *result.shape), dtype=unify.float32, device=device)
        part_lses = unify.empty((splits, batch, heads), dtype=unify.float32, device=device)
    group = heads // kv_heads
    paged_attention_kernel[(kv_heads, batch, splits)](
        query, keys, values, table, lengths, parts, part_lses, scores.sinks, scores.alibi, *factors,
        blocks, table.shape[1], group, scores.scale, scores.cap, scores.window,
        *query.strides[:2], *keys.strides, *values.strides[:3], table.strides[0], *parts.strides[:3],
        GROUP=1 << (group - 1).bit_length(), BLOCK_N=tile.n, PAGE=size, **vars(widths),
    )  # fmt: skip
    if splits > 1:
        merge(parts, part_lses, result, lse)
    found = wrap_like(result, q)
    return found if lse is None else (found, wrap_like(lse, q))


@op
def paged_prefill(
    q: Any, k_cache: Any, v_cache: Any, block_table: Any, context_lens: Any, cu_seqlens: Any, *,
    scale: float | None = None, window: int | None = None, soft_cap: float | None = None, sinks: Any = None,
    alibi: Any = None, k_scale: Any = None, v_scale: Any = None, return_lse: bool = False, stream: Any = None,
) -> Any:  # fmt: skip
    """Causal attention of some new queries of each sequence over its cached keys, the new ones included.

    q: [t, h, d] float16, bfloat16 or float32, the queries of all sequences behind each other; cu_seqlens: [b + 1]
    int32, where each sequence's begin, and the last one's end; context_lens: [b] int32, a sequence's keys, whose last
    ones are the queries' own: query i of n is at position context_len - n + i. k_cache, v_cache, block_table, k_scale,
    v_scale: as in paged_attention; what is said of places beyond the arrays is not read.
    scale, window, soft_cap, sinks, alibi, return_lse: as in attention.
    Returns an array like q of width dv, enqueued on `stream` (default: the current one of q's device); with return_lse
    also a float32 [t, h].
    Raises ShapeError, LayoutError, DTypeError, DeviceMismatchError, InvalidArgument; nothing is enqueued then.
    """
    query, keys, values = _PREFILL.tensors(q, k_cache, v_cache)
    scores = Scores.of("paged_prefill", query, scale, window, soft_cap, sinks=sinks, alibi=alibi)
    factors = _check_caches("paged_prefill", keys, values, k_scale, v_scale)
    device = query.device
    starts = packed_starts("paged_prefill: cu_seqlens", cu_seqlens, device)
    (tokens, heads, width), (blocks, size, kv_heads, _) = query.shape, keys.shape
    sequences = starts.shape[0] - 1
    table = paged_table("paged_prefill", device, block_table, sequences)
    lengths = paged_lengths("paged_prefill", device, context_lens, sequences)
    query = query if query.strides[2] == 1 else query.contiguous()
    widths = Widths.of(width, values.shape[3])
    result = unify.empty((tokens, heads, widths.VALUE), dtype=query.dtype, device=device)
    lse = unify.empty((tokens, heads), dtype=unify.float32, device=device) if return_lse else None
    average = -(-tokens // max(1, sequences))
    tile = prefill_tile(device, average, size, width=width, types=_types(query, keys), plain=scores.is_plain)
    attention_kernel[(packed_tiles(tokens, sequences, tile.m), heads, 1)](
        query, keys, values, result, lse, starts, None, lengths, table, scores.sinks, scores.alibi, *factors,
        tokens, 0, sequences, halvings(sequences), blocks, table.shape[1], heads // kv_heads,
        scores.scale, scores.cap, scores.window,
        0, *query.strides[:2], *keys.strides, *values.strides[:3], 0, *result.strides[:2], table.strides[0],
        BLOCK_M=tile.m, BLOCK_N=tile.n, **vars(widths), CAUSAL=True, PAGE=size,
    )  # fmt: skip
    found = wrap_like(result, q)
    return found if lse is None else (found, wrap_like(lse, q))


def _types(query: Any, keys: Any) -> str:
    """What a tile's key has of them: codes of one size are not read equally fast."""
    return query.dtype.name if query.dtype == keys.dtype else f"{query.dtype.name} over {keys.dtype.name}"
