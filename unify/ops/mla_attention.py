"""Multi-head latent attention (DeepSeek-AI 2024, DeepSeek-V2, section 2.1): decode in its absorbed form, and its cache.

A cache is [blocks, block_size, rank + rope], last axis contiguous: of each token the latent vector, which all heads'
keys and values are made of, and the key's part that is rotated by the position, which all heads share.
"""

from __future__ import annotations

from typing import Any

import triton.language as tl

import unify
from unify._errors import InvalidArgument, LayoutError, ShapeError
from unify._tensor import as_tensor, wrap_like

from .attend import block_d, halvings, last_before, log2_scale, packed_starts, place_of
from .merge_states import merge
from .op import FLOATS, op, written
from .paged_attention import check_splits, paged_lengths, paged_table
from .tiles import latent_tile


@unify.jit
def attend_latent(
    total, top, mass, q, q_rope, cache, table, first_key, last_key, keys, scale, c_block, c_token, blocks,
    BLOCK_N: tl.constexpr, MASKED: tl.constexpr, PAGE: tl.constexpr,
    RANK: tl.constexpr, BLOCK_R: tl.constexpr, ROPE: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    """As attend, where values are the first RANK features of the keys: a row is loaded once for both."""
    inner = tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_R)
    rope = tl.arange(0, BLOCK_P)
    for start in range(first_key, last_key, BLOCK_N):
        block, place = place_of(table, start, keys, blocks, BLOCK_N, PAGE)
        rows = cache + block * c_block + place * c_token
        inside = (d < RANK)[None, :]
        rope_inside = (rope < ROPE)[None, :]
        if MASKED:
            inside = inside & (start + inner < keys)[:, None]
            rope_inside = rope_inside & (start + inner < keys)[:, None]
        latent = tl.load(rows[:, None] + d[None, :], mask=inside, other=0.0)
        rotated = tl.load(rows[:, None] + RANK + rope[None, :], mask=rope_inside, other=0.0)
        scores = tl.dot(q, tl.trans(latent), input_precision="ieee")
        scores = tl.dot(q_rope, tl.trans(rotated), scores, input_precision="ieee") * scale
        if MASKED:
            scores = tl.where((start + inner < keys)[None, :], scores, -1.0e30)
        new_top = tl.maximum(top, tl.max(scores, axis=1))
        weights = tl.exp2(scores - new_top[:, None])
        shrink = tl.exp2(top - new_top)
        mass = mass * shrink + tl.sum(weights, axis=1)
        total = tl.dot(weights.to(latent.dtype), latent, total * shrink[:, None], input_precision="ieee")
        top = new_top
    return total, top, mass


# One program takes a part of one sequence's keys, for HEADS query heads.
@unify.jit(do_not_specialize=["blocks", "max_blocks"])
def mla_attention_kernel(
    q, cache, table, context_lens, out, lse, blocks, max_blocks, heads, scale,
    q_batch, q_head, c_block, c_token, table_row, o_split, o_batch, o_head,
    HEADS: tl.constexpr, BLOCK_N: tl.constexpr, PAGE: tl.constexpr, RANK: tl.constexpr, BLOCK_R: tl.constexpr,
    ROPE: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    LOG2_E: tl.constexpr = 1.4426950408889634
    batch = tl.program_id(1).to(tl.int64)
    split = tl.program_id(2)
    splits = tl.num_programs(2)
    keys = tl.minimum(tl.maximum(tl.load(context_lens + batch), 0), max_blocks * PAGE)
    share = ((keys + BLOCK_N - 1) // BLOCK_N + splits - 1) // splits * BLOCK_N
    first = split * share
    last = tl.minimum(first + share, keys)
    whole = tl.maximum(last // BLOCK_N * BLOCK_N, first)
    head = tl.program_id(0) * HEADS + tl.arange(0, HEADS)
    d = tl.arange(0, BLOCK_R)
    rope = tl.arange(0, BLOCK_P)
    is_head = head < heads
    inside = is_head[:, None] & (d < RANK)[None, :]
    rows = q + batch * q_batch + head[:, None] * q_head
    q_tile = tl.load(rows + d[None, :], mask=inside, other=0.0)
    q_rope = tl.load(rows + RANK + rope[None, :], mask=is_head[:, None] & (rope < ROPE)[None, :], other=0.0)
    total = tl.zeros([HEADS, BLOCK_R], dtype=tl.float32)
    top = tl.full([HEADS], -1.0e30, dtype=tl.float32)
    mass = tl.zeros([HEADS], dtype=tl.float32)
    table += batch * table_row
    total, top, mass = attend_latent(
        total, top, mass, q_tile, q_rope, cache, table, first, whole, keys, scale, c_block, c_token, blocks,
        BLOCK_N, False, PAGE, RANK, BLOCK_R, ROPE, BLOCK_P,
    )  # fmt: skip
    total, top, mass = attend_latent(
        total, top, mass, q_tile, q_rope, cache, table, whole, last, keys, scale, c_block, c_token, blocks,
        BLOCK_N, True, PAGE, RANK, BLOCK_R, ROPE, BLOCK_P,
    )  # fmt: skip
    result = total / tl.where(mass == 0.0, 1.0, mass)[:, None]  # 0 without keys
    out += split.to(tl.int64) * o_split + batch * o_batch
    tl.store(out + head[:, None] * o_head + d[None, :], result, mask=inside)
    if lse is not None:
        row = (split * tl.num_programs(1) + batch) * heads
        tl.store(lse + row + head, (top + tl.log2(mass)) / LOG2_E, mask=is_head)


# One program a token.
@unify.jit(do_not_specialize=["blocks"])
def latent_write_kernel(
    latent, rope_key, cache, slots, blocks, block_size, l_row, r_row, c_block, c_token,
    RANK: tl.constexpr, BLOCK_R: tl.constexpr, ROPE: tl.constexpr, BLOCK_P: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0).to(tl.int64)
    slot = tl.load(slots + token)
    if (slot >= 0) & (slot // block_size < blocks):
        row = cache + (slot // block_size).to(tl.int64) * c_block + slot % block_size * c_token
        d = tl.arange(0, BLOCK_R)
        rope = tl.arange(0, BLOCK_P)
        tl.store(row + d, tl.load(latent + token * l_row + d, mask=d < RANK, other=0.0), mask=d < RANK)
        rotated = tl.load(rope_key + token * r_row + rope, mask=rope < ROPE, other=0.0)
        tl.store(row + RANK + rope, rotated, mask=rope < ROPE)


# One program a tile of packed rows, of which each finds its sequence, block and place in it.
@unify.jit(do_not_specialize=["blocks", "max_blocks", "sequences", "steps"])
def latent_read_kernel(
    cache, table, starts, out, blocks, max_blocks, sequences, steps, c_block, c_token, table_row,
    PAGE: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0)
    sequence = last_before(row + 1, starts, sequences, steps, 0)
    place = row - tl.load(starts + sequence)
    d = tl.arange(0, BLOCK_D)
    value = tl.zeros([BLOCK_D], dtype=cache.dtype.element_ty)
    if (place >= 0) & (row < tl.load(starts + sequence + 1)) & (place < max_blocks * PAGE):
        block = tl.load(table + tl.cast(sequence, tl.int64) * table_row + place // PAGE)
        block = tl.minimum(tl.maximum(block, 0), blocks - 1).to(tl.int64)
        value = tl.load(cache + block * c_block + place % PAGE * c_token + d, mask=d < WIDTH, other=0.0)
    tl.store(out + row.to(tl.int64) * WIDTH + d, value, mask=d < WIDTH)


def _cache_tensor(op: str, cache: Any, **like: Any) -> Any:
    tensor = as_tensor(cache, name=f"{op}: cache", **like)
    if tensor.ndim != 3 or 0 in tensor.shape:
        raise ShapeError(
            f"{op}: cache must be [blocks, block_size, rank + rope], with a block and a row; "
            f"it is {list(tensor.shape)}."
        )
    if tensor.strides[2] != 1:
        raise LayoutError(f"{op}: cache's last axis must be contiguous; its strides are {list(tensor.strides)}.")
    return tensor


@op
def mla_attention(
    q: Any, cache: Any, block_table: Any, context_lens: Any, *, rank: int, scale: float, splits: int | None = None,
    return_lse: bool = False, stream: Any = None,
) -> Any:  # fmt: skip
    """Latent attention of one new query a sequence over its cached rows (DeepSeek-AI 2024, DeepSeek-V2, section 2.1).

    q: [b, h, rank + rope] float16, bfloat16 or float32, of each head the query times its matrix of keys, and the part
    that is rotated; cache: [blocks, block_size, rank + rope] of q's dtype; block_table: [b, max_blocks] int32;
    context_lens: [b] int32, as in paged_attention. Keys are the rows, values their first `rank` features. scale: of the
    model's own heads, 1/sqrt(192) in DeepSeek-V3, before its factors for long contexts. splits: as in paged_attention.
    Returns [b, h, rank] of q's dtype and kind, to be multiplied with each head's matrix of values, enqueued on `stream`
    (default: the current one of q's device); with return_lse also the logarithm of the sum of the scores'
    exponentials, float32 [b, h].
    Raises ShapeError, LayoutError, DTypeError, DeviceMismatchError, InvalidArgument; nothing is enqueued then.
    """
    query = as_tensor(q, name="mla_attention: q", dtype=FLOATS)
    device = query.device
    rows = _cache_tensor("mla_attention", cache, dtype=query.dtype, device=device)
    if query.ndim != 3 or query.shape[2] != rows.shape[2] or query.shape[1] == 0:
        raise ShapeError(
            f"mla_attention: q must be [batch, heads, rank + rope] and cache [blocks, block_size, rank + rope]; "
            f"they are {list(query.shape)} and {list(rows.shape)}."
        )
    (batch, heads, width), (blocks, size, _) = query.shape, rows.shape
    if not 0 < rank < width:
        raise InvalidArgument(f"mla_attention: rank must be 1 to {width - 1}, less than q's last axis; it is {rank}.")
    table = paged_table("mla_attention", device, block_table, batch)
    lengths = paged_lengths("mla_attention", device, context_lens, batch)
    query = query if query.strides[2] == 1 else query.contiguous()
    check_splits("mla_attention", splits)
    tile = latent_tile(device, batch, heads, size, table.shape[1], splits=splits, width=width, types=query.dtype.name)
    parts, splits = -(-heads // tile.m), tile.k
    result = unify.empty((batch, heads, rank), dtype=query.dtype, device=device)
    lse = unify.empty((batch, heads), dtype=unify.float32, device=device) if return_lse else None
    outs, lses = result.reshape(1, *result.shape), lse
    if splits > 1:
        outs = unify.empty((splits, batch, heads, rank), dtype=unify.float32, device=device)
        lses = unify.empty((splits, batch, heads), dtype=unify.float32, device=device)
    mla_attention_kernel[(parts, batch, splits)](
        query, rows, table, lengths, outs, lses, blocks, table.shape[1], heads, log2_scale(scale, width),
        *query.strides[:2], *rows.strides[:2], table.strides[0], *outs.strides[:3],
        HEADS=tile.m, BLOCK_N=tile.n, PAGE=size, RANK=rank, BLOCK_R=block_d(rank), ROPE=width - rank,
        BLOCK_P=block_d(width - rank), **tile.launch,
    )  # fmt: skip
    if splits > 1:
        merge(outs, lses, result, lse)
    found = wrap_like(result, q)
    return found if lse is None else (found, wrap_like(lse, q))


@op
def latent_write(latent: Any, rope_key: Any, cache: Any, slots: Any, *, stream: Any = None) -> None:
    """Writes new tokens' rows to their slots of a latent cache.

    latent: [t, rank] and rope_key: [t, rope], float16, bfloat16 or float32; cache: [blocks, block_size, rank + rope] of
    their dtype; slots: [t] int32, block · block_size + place in the block; a slot outside the cache is skipped.
    Enqueued on `stream` (default: the current one of latent's device).
    Raises ShapeError, LayoutError, DTypeError, DeviceMismatchError; nothing is enqueued then.
    """
    source = as_tensor(latent, name="latent_write: latent", dtype=FLOATS)
    dtype, device = source.dtype, source.device
    rotated = as_tensor(rope_key, name="latent_write: rope_key", dtype=dtype, device=device)
    rows = _cache_tensor("latent_write", cache, dtype=dtype, device=device)
    where = as_tensor(slots, name="latent_write: slots", dtype=unify.int32, device=device, contiguous=True)
    tokens = where.shape[:1]
    if (
        not source.ndim == rotated.ndim == 2
        or not source.shape[:1] == rotated.shape[:1] == where.shape
        or source.shape[1] + rotated.shape[1] != rows.shape[2]
        or 0 in (source.shape[1], rotated.shape[1])
    ):
        raise ShapeError(
            f"latent_write: latent must be [t, rank], rope_key [t, rope], cache [blocks, block_size, rank + rope] and "
            f"slots [t]; they are {list(source.shape)}, {list(rotated.shape)}, {list(rows.shape)}, {list(where.shape)}."
        )
    source, rotated = (t if t.strides[1] == 1 else t.contiguous() for t in (source, rotated))
    rank, rope = source.shape[1], rotated.shape[1]
    latent_write_kernel[tokens](
        source, rotated, rows, where, *rows.shape[:2], source.strides[0], rotated.strides[0], *rows.strides[:2],
        RANK=rank, BLOCK_R=block_d(rank), ROPE=rope, BLOCK_P=block_d(rope),
    )  # fmt: skip
    written(rows, cache)


@op
def latent_read(cache: Any, block_table: Any, cu_seqlens: Any, total: int, *, stream: Any = None) -> Any:
    """Gathers cached rows behind each other, for what expands them to keys and values.

    cache: [blocks, block_size, width] float16, bfloat16 or float32; block_table: [b, max_blocks] int32; cu_seqlens:
    [b + 1] int32, where each sequence's rows begin in the result, and the last one's end; total: rows of the result.
    Returns [total, width] of cache's dtype and kind, enqueued on `stream` (default: the current one of cache's device).
    Rows that cu_seqlens does not give to a sequence, or that its blocks do not have, are 0.
    Raises ShapeError, LayoutError, DTypeError, DeviceMismatchError; nothing is enqueued then.
    """
    source = as_tensor(cache, name="latent_read: cache", dtype=FLOATS)
    rows = _cache_tensor("latent_read", source)
    starts = packed_starts("latent_read: cu_seqlens", cu_seqlens, rows.device)
    sequences = starts.shape[0] - 1
    table = paged_table("latent_read", rows.device, block_table, sequences)
    if total < 0:
        raise ShapeError(f"latent_read: total must be at least 0; it is {total}.")
    blocks, size, width = rows.shape
    result = unify.empty((total, width), dtype=rows.dtype, device=rows.device)
    if sequences == 0:
        return wrap_like(result.fill_(0), cache)
    latent_read_kernel[(total,)](
        rows, table, starts, result, blocks, table.shape[1], sequences, halvings(sequences),
        *rows.strides[:2], table.strides[0], PAGE=size, WIDTH=width, BLOCK_D=block_d(width),
    )  # fmt: skip
    return wrap_like(result, cache)
