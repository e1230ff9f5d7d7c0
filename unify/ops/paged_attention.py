"""Attention over a paged cache of keys and values (Kwon et al. 2023), and writing to it.

A cache is [blocks, block_size, kv_heads, d] by shape; its strides are free. Keys are read fastest when block_size is
the axis that is contiguous in memory, values when d is.
"""

from __future__ import annotations

from typing import Any

import triton.language as tl

import unify
from unify._errors import LayoutError, ShapeError
from unify._tensor import as_tensor, wrap_like

from .attention import Layout, attend, block_d, log2_scale
from .op import op, written

# Queries a tile of a prefill, by target kind.
_PREFILL_QUERIES = {"cpu": 64}
_PREFILL_QUERIES_ELSEWHERE = 64


# One program takes a part of one sequence's keys, for the query heads that share a key head.
@unify.jit(do_not_specialize=["blocks", "max_blocks"])
def paged_attention_kernel(
    q, k, v, table, context_lens, out, partial, partial_top, partial_mass, blocks, max_blocks, group, scale_log2,
    q_batch, q_head, k_block, k_token, k_head, k_dim, v_block, v_token, v_head, table_row, o_batch, o_head,
    GROUP: tl.constexpr, BLOCK_N: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, SPLITS: tl.constexpr,
):  # fmt: skip
    kv_head = tl.program_id(0)
    batch = tl.program_id(1).to(tl.int64)
    split = tl.program_id(2)
    keys = tl.minimum(tl.maximum(tl.load(context_lens + batch), 0), max_blocks * BLOCK_N)
    share = ((keys + BLOCK_N - 1) // BLOCK_N + SPLITS - 1) // SPLITS * BLOCK_N
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
        k_token, k_dim, v_token, k_block, v_block, blocks, BLOCK_N, False, False, True,
    )  # fmt: skip
    total, top, mass = attend(
        total, top, mass, q_tile, k, v, table, whole, last, keys, member, 0, scale_log2, d, inside_d,
        k_token, k_dim, v_token, k_block, v_block, blocks, BLOCK_N, True, False, True,
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


@unify.jit(do_not_specialize=["blocks"])
def paged_prefill_kernel(
    q, k, v, table, out, blocks, queries, before, group, scale_log2,
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
        k_token, k_dim, v_token, k_block, v_block, blocks, BLOCK_N, False, True, True,
    )  # fmt: skip
    total, top, mass = attend(
        total, top, mass, q_tile, k, v, table, whole, last, keys, row, before, scale_log2, d, inside_d,
        k_token, k_dim, v_token, k_block, v_block, blocks, BLOCK_N, True, True, True,
    )  # fmt: skip
    tl.store(out + head * o_head + row[:, None] * o_token + d[None, :], total / mass[:, None], mask=inside)


# One program a token and key head.
@unify.jit(do_not_specialize=["blocks"])
def kv_write_kernel(
    k, v, k_cache, v_cache, slots, blocks, block_size, k_row, k_head, v_row, v_head,
    kc_block, kc_token, kc_head, kc_dim, vc_block, vc_token, vc_head,
    WIDTH: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0)
    token = tl.program_id(1).to(tl.int64)
    slot = tl.load(slots + token)
    if (slot >= 0) & (slot // block_size < blocks):
        block = (slot // block_size).to(tl.int64)
        inner = slot % block_size
        d = tl.arange(0, BLOCK_D)
        inside = d < WIDTH
        key = tl.load(k + token * k_row + head * k_head + d, mask=inside, other=0.0)
        value = tl.load(v + token * v_row + head * v_head + d, mask=inside, other=0.0)
        tl.store(k_cache + block * kc_block + inner * kc_token + head * kc_head + d * kc_dim, key, mask=inside)
        tl.store(v_cache + block * vc_block + inner * vc_token + head * vc_head + d, value, mask=inside)


_CACHES = "and the caches [blocks, block_size, kv_heads, d]"
_DECODE, _PREFILL, _WRITE = (
    Layout((f"{op}: {array}", f"{op}: k_cache", f"{op}: v_cache"), ((3, 4),), f"{array} must be [{axes}] {_CACHES}")
    for op, array, axes in (
        ("paged_attention", "q", "batch, heads, d"),
        ("paged_prefill", "q", "tokens, heads, d"),
        ("kv_write", "k", "tokens, kv_heads, d"),
    )
)


def _check_blocks(op: str, keys: Any, values: Any) -> None:
    blocks, size = keys.shape[:2]
    if blocks == 0 or size & (size - 1) or size < 16:
        raise ShapeError(
            f"{op}: the caches need a block, and a block_size that is a power of two of at least 16; "
            f"they are {list(keys.shape)}."
        )
    if values.strides[3] != 1:
        raise LayoutError(f"{op}: v_cache's last axis must be contiguous; its strides are {list(values.strides)}.")


def _splits(query: Any, kv_heads: int, max_blocks: int) -> int:
    wanted = -(-2 * query.device.properties["cores"] // max(1, query.shape[0] * kv_heads))
    parts: int = min(wanted, max_blocks)
    return 1 << max(0, parts - 1).bit_length()


@op
def paged_attention(
    q: Any, k_cache: Any, v_cache: Any, block_table: Any, context_lens: Any, *, scale: float | None = None,
    splits: int | None = None, stream: Any = None,
) -> Any:  # fmt: skip
    """Attention of one new query a sequence over its cached keys (Kwon et al. 2023, section 4.1).

    q: [b, h, d] float16, bfloat16 or float32; k_cache, v_cache: [blocks, block_size, kv_heads, d] of q's dtype,
    block_size a power of two from 16; block_table: [b, max_blocks] int32, the blocks of each sequence in order;
    context_lens: [b] int32, keys to see, at least 1. What they say beyond the table or the caches is not read.
    scale: 1/sqrt(d) by default. A sequence is cut into `splits` parts (a power of two; by default enough to keep the
    device's cores busy) that are merged afterwards, so that one long sequence uses the whole device.
    Returns an array like q, enqueued on `stream` (default: the current one of q's device).
    Raises ShapeError, LayoutError, DTypeError, DeviceMismatchError; nothing is enqueued then.
    """
    query, keys, values = _DECODE.tensors(q, k_cache, v_cache)
    _check_blocks("paged_attention", keys, values)
    device = query.device
    table = as_tensor(block_table, name="paged_attention: block_table", dtype=unify.int32, device=device)
    lengths = as_tensor(
        context_lens, name="paged_attention: context_lens", dtype=unify.int32, device=device, contiguous=True
    )
    (batch, heads, width), (blocks, size, kv_heads, _) = query.shape, keys.shape
    if table.ndim != 2 or table.shape[0] != batch or lengths.shape != (batch,):
        raise ShapeError(
            f"paged_attention: block_table must be [{batch}, max_blocks] and context_lens [{batch}]; "
            f"they are {list(table.shape)} and {list(lengths.shape)}."
        )
    splits = _splits(query, kv_heads, table.shape[1]) if splits is None else splits
    if splits < 1 or splits & (splits - 1):
        raise ShapeError(f"paged_attention: splits must be a power of two; it is {splits}.")
    query = query if query.strides[2] == 1 else query.contiguous()
    table = table if table.strides[1] == 1 else table.contiguous()
    result = unify.empty(query.shape, dtype=query.dtype, device=device)
    partial = top = mass = None
    if splits > 1:
        partial = unify.empty((batch, heads, splits, width), dtype=unify.float32, device=device)
        top = unify.empty((batch, heads, splits), dtype=unify.float32, device=device)
        mass = unify.empty((batch, heads, splits), dtype=unify.float32, device=device)
    group = heads // kv_heads
    paged_attention_kernel[(kv_heads, batch, splits)](
        query, keys, values, table, lengths, result, partial, top, mass, blocks, table.shape[1], group,
        log2_scale(scale, width),
        *query.strides[:2], *keys.strides, *values.strides[:3], table.strides[0], *result.strides[:2],
        GROUP=1 << (group - 1).bit_length(), BLOCK_N=size, WIDTH=width, BLOCK_D=block_d(width), SPLITS=splits,
    )  # fmt: skip
    if splits > 1:
        merge_kernel[(heads, batch)](
            partial, top, mass, result, *result.strides[:2], SPLITS=splits, WIDTH=width, BLOCK_D=block_d(width)
        )
    return wrap_like(result, q)


@op
def paged_prefill(
    q: Any, k_cache: Any, v_cache: Any, block_table: Any, context_len_before: int, *, scale: float | None = None,
    stream: Any = None,
) -> Any:  # fmt: skip
    """Causal attention of one sequence's new queries over its cached keys, the new ones included.

    q: [t, h, d] float16, bfloat16 or float32, the tokens at positions context_len_before … + t - 1, whose keys are in
    the cache already; k_cache, v_cache: [blocks, block_size, kv_heads, d] of q's dtype; block_table: [max_blocks]
    int32. A block that the caches do not have is not read.
    Returns an array like q, enqueued on `stream` (default: the current one of q's device).
    Raises ShapeError, LayoutError, DTypeError, DeviceMismatchError; nothing is enqueued then.
    """
    query, keys, values = _PREFILL.tensors(q, k_cache, v_cache)
    _check_blocks("paged_prefill", keys, values)
    table = as_tensor(
        block_table, name="paged_prefill: block_table", dtype=unify.int32, device=query.device, contiguous=True
    )
    (tokens, heads, width), (blocks, size, kv_heads, _) = query.shape, keys.shape
    capacity = table.size * size
    if table.ndim != 1 or context_len_before < 0 or context_len_before + tokens > capacity:
        raise ShapeError(
            f"paged_prefill: block_table must be [max_blocks] with room for {context_len_before} + {tokens} tokens; "
            f"it is {list(table.shape)}, room for {capacity}."
        )
    query = query if query.strides[2] == 1 else query.contiguous()
    result = unify.empty(query.shape, dtype=query.dtype, device=query.device)
    block_m = _PREFILL_QUERIES.get(query.device.kind, _PREFILL_QUERIES_ELSEWHERE)
    block_m = min(block_m, max(16, 1 << (tokens - 1).bit_length()))
    paged_prefill_kernel[(-(-tokens // block_m), heads)](
        query, keys, values, table, result, blocks, tokens, context_len_before, heads // kv_heads,
        log2_scale(scale, width), *query.strides[:2], *keys.strides, *values.strides[:3], *result.strides[:2],
        BLOCK_M=block_m, BLOCK_N=size, WIDTH=width, BLOCK_D=block_d(width),
    )  # fmt: skip
    return wrap_like(result, q)


@op
def kv_write(k: Any, v: Any, k_cache: Any, v_cache: Any, slots: Any, *, stream: Any = None) -> None:
    """Writes new keys and values to their slots of a paged cache.

    k, v: [t, kv_heads, d] float16, bfloat16 or float32; k_cache, v_cache: [blocks, block_size, kv_heads, d] of their
    dtype; slots: [t] int32, block · block_size + place in the block; a slot outside the cache is skipped.
    Enqueued on `stream` (default: the current one of the cache's device).
    Raises ShapeError, LayoutError, DTypeError, DeviceMismatchError; nothing is enqueued then.
    """
    key, keys, values = _WRITE.tensors(k, k_cache, v_cache)
    _check_blocks("kv_write", keys, values)
    value = as_tensor(v, name="kv_write: v", dtype=key.dtype, device=key.device)
    where = as_tensor(slots, name="kv_write: slots", dtype=unify.int32, device=key.device, contiguous=True)
    if key.shape != value.shape or where.shape != key.shape[:1]:
        raise ShapeError(
            f"kv_write: k and v must be [tokens, kv_heads, d] and slots [tokens]; "
            f"they are {list(key.shape)}, {list(value.shape)}, {list(where.shape)}."
        )
    tokens, kv_heads, width = key.shape
    if keys.shape[2] != kv_heads:
        raise ShapeError(f"kv_write: k has {kv_heads} heads, the cache {keys.shape[2]}.")
    key, value = (t if t.strides[2] == 1 else t.contiguous() for t in (key, value))
    kv_write_kernel[(kv_heads, tokens)](
        key, value, keys, values, where, *keys.shape[:2], *key.strides[:2], *value.strides[:2],
        *keys.strides, *values.strides[:3], WIDTH=width, BLOCK_D=block_d(width),
    )  # fmt: skip
    written(keys, k_cache)
    written(values, v_cache)
