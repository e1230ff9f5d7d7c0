"""Attention over a paged cache of keys and values (Kwon et al. 2023), and writing to it.

A cache is [blocks, block_size, kv_heads, d] by shape; its strides are free. Keys are read fastest when block_size is
the axis that is contiguous in memory, values when d is.
"""

from __future__ import annotations

import math
from typing import Any

import triton.language as tl

import unify
from unify._errors import DTypeError, ShapeError
from unify._tensor import as_tensor, wrap_like

from .attention import attend

# Queries a tile of a prefill, by target kind.
_PREFILL_QUERIES = {"cpu": 64}
_PREFILL_QUERIES_ELSEWHERE = 64


# One program takes a part of one sequence's keys, for the query heads that share a key head.
@unify.jit
def paged_attention_kernel(
    q, k, v, table, context_lens, out, partial, partial_top, partial_mass, group, scale_log2,
    q_batch, q_head, k_block, k_token, k_head, k_dim, v_block, v_token, v_head, table_row, o_batch, o_head,
    GROUP: tl.constexpr, BLOCK_N: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    kv_head = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    split = tl.program_id(2)
    keys = tl.load(context_lens + batch)
    blocks = (keys + BLOCK_N - 1) // BLOCK_N
    share = (blocks + SPLITS - 1) // SPLITS * BLOCK_N
    first = split * share
    last = tl.minimum(first + share, keys)
    whole = tl.maximum(last // BLOCK_N * BLOCK_N, first)
    member = tl.arange(0, GROUP)
    d = tl.arange(0, BLOCK_D)
    inside_d = d < WIDTH
    inside = (member < group)[:, None] & inside_d[None, :]
    head = kv_head * group + member
    q_tile = tl.load(q + batch * q_batch + head[:, None] * q_head + d[None, :], mask=inside, other=0.0)
    total = tl.zeros([GROUP, BLOCK_D], dtype=tl.float32)
    top = tl.full([GROUP], -1.0e30, dtype=tl.float32)
    mass = tl.zeros([GROUP], dtype=tl.float32)
    k += kv_head * k_head
    v += kv_head * v_head
    table += batch * table_row
    total, top, mass = attend(
        total, top, mass, q_tile, k, v, table, first, whole, keys, member, 0, scale_log2, d, inside_d,
        k_token, k_dim, v_token, k_block, v_block, BLOCK_N, False, False, True,
    )  # fmt: skip
    total, top, mass = attend(
        total, top, mass, q_tile, k, v, table, whole, last, keys, member, 0, scale_log2, d, inside_d,
        k_token, k_dim, v_token, k_block, v_block, BLOCK_N, True, False, True,
    )  # fmt: skip
    if SPLITS == 1:
        tl.store(out + batch * o_batch + head[:, None] * o_head + d[None, :], total / mass[:, None], mask=inside)
    else:
        slot = (batch * tl.num_programs(0) * group + head) * SPLITS + split
        tl.store(partial + slot[:, None] * WIDTH + d[None, :], total, mask=inside)
        tl.store(partial_top + slot, top, mask=member < group)
        tl.store(partial_mass + slot, mass, mask=member < group)


# One program merges the parts of one head: each part's sum is shrunk to the common maximum.
@unify.jit
def merge_kernel(
    partial, partial_top, partial_mass, out, o_batch, o_head,
    SPLITS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    slot = (batch * tl.num_programs(0) + head) * SPLITS + tl.arange(0, SPLITS)
    d = tl.arange(0, BLOCK_D)
    inside_d = d < WIDTH
    top = tl.load(partial_top + slot)
    shrink = tl.exp2(top - tl.max(top, axis=0))
    mass = tl.sum(tl.load(partial_mass + slot) * shrink, axis=0)
    parts = tl.load(partial + slot[:, None] * WIDTH + d[None, :], mask=inside_d[None, :], other=0.0)
    tl.store(out + batch * o_batch + head * o_head + d, tl.sum(parts * shrink[:, None], axis=0) / mass, mask=inside_d)


@unify.jit
def paged_prefill_kernel(
    q, k, v, table, out, queries, before, group, scale_log2,
    q_token, q_head, k_block, k_token, k_head, k_dim, v_block, v_token, v_head, o_token, o_head,
    BLOCK_M: tl.constexpr, BLOCK_N: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    tile = tl.program_id(0)
    head = tl.program_id(1)
    row = tile * BLOCK_M + tl.arange(0, BLOCK_M)
    d = tl.arange(0, BLOCK_D)
    inside_d = d < WIDTH
    inside = (row < queries)[:, None] & inside_d[None, :]
    k += (head // group) * k_head
    v += (head // group) * v_head
    q_tile = tl.load(q + head * q_head + row[:, None] * q_token + d[None, :], mask=inside, other=0.0)
    total = tl.zeros([BLOCK_M, BLOCK_D], dtype=tl.float32)
    top = tl.full([BLOCK_M], -1.0e30, dtype=tl.float32)
    mass = tl.zeros([BLOCK_M], dtype=tl.float32)
    keys = before + queries
    whole = tl.minimum(tile * BLOCK_M + before + 1, keys) // BLOCK_N * BLOCK_N
    last = tl.minimum(tile * BLOCK_M + BLOCK_M + before, keys)
    total, top, mass = attend(
        total, top, mass, q_tile, k, v, table, 0, whole, keys, row, before, scale_log2, d, inside_d,
        k_token, k_dim, v_token, k_block, v_block, BLOCK_N, False, True, True,
    )  # fmt: skip
    total, top, mass = attend(
        total, top, mass, q_tile, k, v, table, whole, last, keys, row, before, scale_log2, d, inside_d,
        k_token, k_dim, v_token, k_block, v_block, BLOCK_N, True, True, True,
    )  # fmt: skip
    tl.store(out + head * o_head + row[:, None] * o_token + d[None, :], total / mass[:, None], mask=inside)


# One program a token and key head.
@unify.jit
def kv_write_kernel(
    k, v, k_cache, v_cache, slots, block_size, k_row, k_head, v_row, v_head,
    kc_block, kc_token, kc_head, kc_dim, vc_block, vc_token, vc_head,
    WIDTH: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0)
    token = tl.program_id(1).to(tl.int64)
    slot = tl.load(slots + token)
    if slot >= 0:
        block = (slot // block_size).to(tl.int64)
        inner = slot % block_size
        d = tl.arange(0, BLOCK_D)
        inside = d < WIDTH
        key = tl.load(k + token * k_row + head * k_head + d, mask=inside, other=0.0)
        value = tl.load(v + token * v_row + head * v_head + d, mask=inside, other=0.0)
        tl.store(k_cache + block * kc_block + inner * kc_token + head * kc_head + d * kc_dim, key, mask=inside)
        tl.store(v_cache + block * vc_block + inner * vc_token + head * vc_head + d, value, mask=inside)


def _caches(op: str, k_cache: Any, v_cache: Any, width: int) -> tuple[Any, Any]:
    k, v = as_tensor(k_cache, name=f"{op}: k_cache"), as_tensor(v_cache, name=f"{op}: v_cache")
    if k.ndim != 4 or k.shape != v.shape or k.shape[3] != width or v.strides[3] != 1:
        raise ShapeError(
            f"{op}: the caches must be [blocks, block_size, kv_heads, {width}], v_cache with its last axis contiguous; "
            f"k_cache is {list(k.shape)}, v_cache is {list(v.shape)} with strides {list(v.strides)}."
        )
    size = k.shape[1]
    if size & (size - 1) or size < 16:
        raise ShapeError(f"{op}: block_size must be a power of two of at least 16; it is {size}.")
    return k, v


def _grouped(op: str, heads: int, kv_heads: int) -> int:
    if kv_heads == 0 or heads % kv_heads:
        raise ShapeError(f"{op}: heads must be a multiple of kv_heads; {heads} heads, {kv_heads} kv_heads.")
    return heads // kv_heads


def _block_d(width: int) -> int:
    return max(16, 1 << (width - 1).bit_length())


def _factor(scale: float | None, width: int) -> float:
    return (1.0 / math.sqrt(width) if scale is None else scale) * math.log2(math.e)


def paged_attention(
    q: Any, k_cache: Any, v_cache: Any, block_table: Any, context_lens: Any, *, scale: float | None = None,
    splits: int | None = None, stream: Any = None,
) -> Any:  # fmt: skip
    """Attention of one new query a sequence over its cached keys (Kwon et al. 2023, section 4.1).

    q: [b, h, d]; k_cache, v_cache: [blocks, block_size, kv_heads, d] of q's dtype, block_size a power of two from 16;
    block_table: [b, max_blocks] int32, the blocks of each sequence in order; context_lens: [b] int32, keys to see, at
    least 1. scale: 1/sqrt(d) by default. A sequence is cut into `splits` parts (a power of two; by default enough to
    keep the device's cores busy) that are merged afterwards, so that one long sequence uses the whole device.
    Returns an array like q, enqueued on `stream` (default: the current one of q's device).
    Raises ShapeError, DTypeError; nothing is enqueued then.
    """
    query = as_tensor(q, name="paged_attention: q")
    if query.ndim != 3:
        raise ShapeError(f"paged_attention: q must be [batch, heads, d]; it is {list(query.shape)}.")
    if query.strides[2] != 1:
        query = query.contiguous()
    batch, heads, width = query.shape
    keys, values = _caches("paged_attention", k_cache, v_cache, width)
    if not query.dtype == keys.dtype == values.dtype:
        raise DTypeError(
            f"paged_attention: q and the caches must have one dtype; {query.dtype}, {keys.dtype}, {values.dtype}."
        )
    table = as_tensor(block_table, name="paged_attention: block_table", dtype=unify.int32)
    lengths = as_tensor(context_lens, name="paged_attention: context_lens", dtype=unify.int32, contiguous=True)
    if table.ndim != 2 or table.shape[0] != batch or lengths.shape != (batch,) or table.strides[1] != 1:
        raise ShapeError(
            f"paged_attention: block_table must be [{batch}, max_blocks] and context_lens [{batch}]; "
            f"they are {list(table.shape)} and {list(lengths.shape)}."
        )
    kv_heads = keys.shape[2]
    group = _grouped("paged_attention", heads, kv_heads)
    if splits is None:
        wanted = -(-2 * query.device.properties["cores"] // max(1, batch * kv_heads))
        splits = 1 << max(0, min(wanted, table.shape[1]) - 1).bit_length()
    if splits < 1 or splits & (splits - 1):
        raise ShapeError(f"paged_attention: splits must be a power of two; it is {splits}.")
    result = unify.empty(query.shape, dtype=query.dtype, device=query.device)
    partial = top = mass = None
    if splits > 1:
        partial = unify.empty((batch, heads, splits, width), dtype=unify.float32, device=query.device)
        top = unify.empty((batch, heads, splits), dtype=unify.float32, device=query.device)
        mass = unify.empty((batch, heads, splits), dtype=unify.float32, device=query.device)
    paged_attention_kernel[(kv_heads, batch, splits)](
        query, keys, values, table, lengths, result, partial, top, mass, group, _factor(scale, width),
        *query.strides[:2], *keys.strides, *values.strides[:3], table.strides[0], *result.strides[:2],
        GROUP=1 << (group - 1).bit_length(), BLOCK_N=keys.shape[1], WIDTH=width, BLOCK_D=_block_d(width), SPLITS=splits,
        stream=stream,
    )  # fmt: skip
    if splits > 1:
        merge_kernel[(heads, batch)](
            partial, top, mass, result, *result.strides[:2],
            SPLITS=splits, WIDTH=width, BLOCK_D=_block_d(width), stream=stream,
        )  # fmt: skip
    return wrap_like(result, q)


def paged_prefill(
    q: Any, k_cache: Any, v_cache: Any, block_table: Any, context_len_before: int, *, scale: float | None = None,
    stream: Any = None,
) -> Any:  # fmt: skip
    """Causal attention of one sequence's new queries over its cached keys, the new ones included.

    q: [t, h, d], the tokens at positions context_len_before … + t - 1, whose keys are in the cache already;
    k_cache, v_cache: [blocks, block_size, kv_heads, d] of q's dtype; block_table: [max_blocks] int32.
    Returns an array like q, enqueued on `stream` (default: the current one of q's device).
    Raises ShapeError, DTypeError; nothing is enqueued then.
    """
    query = as_tensor(q, name="paged_prefill: q")
    if query.ndim != 3:
        raise ShapeError(f"paged_prefill: q must be [tokens, heads, d]; it is {list(query.shape)}.")
    if query.strides[2] != 1:
        query = query.contiguous()
    tokens, heads, width = query.shape
    keys, values = _caches("paged_prefill", k_cache, v_cache, width)
    if not query.dtype == keys.dtype == values.dtype:
        raise DTypeError(
            f"paged_prefill: q and the caches must have one dtype; {query.dtype}, {keys.dtype}, {values.dtype}."
        )
    table = as_tensor(block_table, name="paged_prefill: block_table", dtype=unify.int32, contiguous=True)
    capacity = table.size * keys.shape[1]
    if table.ndim != 1 or context_len_before < 0 or context_len_before + tokens > capacity:
        raise ShapeError(
            f"paged_prefill: block_table must be [max_blocks] with room for {context_len_before} + {tokens} tokens; "
            f"it is {list(table.shape)}, room for {capacity}."
        )
    group = _grouped("paged_prefill", heads, keys.shape[2])
    result = unify.empty(query.shape, dtype=query.dtype, device=query.device)
    block_m = _PREFILL_QUERIES.get(query.device.kind, _PREFILL_QUERIES_ELSEWHERE)
    block_m = min(block_m, max(16, 1 << (tokens - 1).bit_length()))
    paged_prefill_kernel[(-(-tokens // block_m), heads)](
        query, keys, values, table, result, tokens, context_len_before, group, _factor(scale, width),
        *query.strides[:2], *keys.strides, *values.strides[:3], *result.strides[:2],
        BLOCK_M=block_m, BLOCK_N=keys.shape[1], WIDTH=width, BLOCK_D=_block_d(width), stream=stream,
    )  # fmt: skip
    return wrap_like(result, q)


def kv_write(k: Any, v: Any, k_cache: Any, v_cache: Any, slots: Any, *, stream: Any = None) -> None:
    """Writes new keys and values to their slots of a paged cache.

    k, v: [t, kv_heads, d] of the caches' dtype; slots: [t] int32, block · block_size + place in the block; a negative
    slot is skipped. A slot beyond the cache is undefined.
    Enqueued on `stream` (default: the current one of the cache's device). Raises ShapeError, DTypeError.
    """
    key, value = as_tensor(k, name="kv_write: k"), as_tensor(v, name="kv_write: v")
    where = as_tensor(slots, name="kv_write: slots", dtype=unify.int32, contiguous=True)
    if key.ndim != 3 or key.shape != value.shape or where.shape != key.shape[:1]:
        raise ShapeError(
            f"kv_write: k and v must be [tokens, kv_heads, d] and slots [tokens]; "
            f"they are {list(key.shape)}, {list(value.shape)}, {list(where.shape)}."
        )
    tokens, kv_heads, width = key.shape
    keys, values = _caches("kv_write", k_cache, v_cache, width)
    if keys.shape[2] != kv_heads:
        raise ShapeError(f"kv_write: k has {kv_heads} heads, the cache {keys.shape[2]}.")
    if not key.dtype == value.dtype == keys.dtype == values.dtype:
        raise DTypeError(
            "kv_write: k, v and the caches must have one dtype; "
            f"{', '.join(str(t.dtype) for t in (key, value, keys, values))}."
        )
    key, value = (t if t.strides[2] == 1 else t.contiguous() for t in (key, value))
    kv_write_kernel[(kv_heads, tokens)](
        key, value, keys, values, where, keys.shape[1], *key.strides[:2], *value.strides[:2],
        *keys.strides, *values.strides[:3], WIDTH=width, BLOCK_D=_block_d(width), stream=stream,
    )  # fmt: skip
