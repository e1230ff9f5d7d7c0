"""Writing to a paged cache of keys and values."""

from __future__ import annotations

from typing import Any

import triton.language as tl

import unify
from unify._errors import LayoutError, ShapeError
from unify._tensor import as_tensor

from .attend import CODES, Layout, block_d, code_scale, scale_of
from .e4m3 import to_e4m3
from .op import op, written


@unify.jit
def codes_of(value, scale, head, dtype: tl.constexpr):
    """Numbers as elements of a cache: as they are, or divided by a scale and rounded to codes."""
    if dtype == tl.int8 or dtype == tl.uint8:
        scaled = value.to(tl.float32)
        if scale is not None:
            scaled = scaled / scale_of(scale, head, tl.int8)
        if dtype == tl.uint8:
            return to_e4m3(scaled)
        else:
            return tl.floor(tl.minimum(tl.maximum(scaled, -127.0), 127.0) + 0.5).to(tl.int8)
    else:
        return value


# One program a token and key head.
@unify.jit(do_not_specialize=["blocks"])
def kv_write_kernel(
    k, v, k_cache, v_cache, slots, k_scale, v_scale, blocks, block_size, k_row, k_head, v_row, v_head,
    kc_block, kc_token, kc_head, kc_dim, vc_block, vc_token, vc_head,
    WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, VALUE: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0)
    token = tl.program_id(1).to(tl.int64)
    slot = tl.load(slots + token)
    if (slot >= 0) & (slot // block_size < blocks):
        block = (slot // block_size).to(tl.int64)
        inner = slot % block_size
        d = tl.arange(0, BLOCK_D)
        e = tl.arange(0, BLOCK_V)
        key = tl.load(k + token * k_row + head * k_head + d, mask=d < WIDTH, other=0.0)
        value = tl.load(v + token * v_row + head * v_head + e, mask=e < VALUE, other=0.0)
        tl.store(
            k_cache + block * kc_block + inner * kc_token + head * kc_head + d * kc_dim,
            codes_of(key, k_scale, head, k_cache.dtype.element_ty),
            mask=d < WIDTH,
        )
        tl.store(
            v_cache + block * vc_block + inner * vc_token + head * vc_head + e,
            codes_of(value, v_scale, head, v_cache.dtype.element_ty),
            mask=e < VALUE,
        )


_LAYOUT = Layout(
    ("kv_write: k", "kv_write: k_cache", "kv_write: v_cache"),
    ((3, 4),),
    "k must be [tokens, kv_heads, d], k_cache [blocks, block_size, kv_heads, d] and v_cache [blocks, block_size, "
    "kv_heads, dv]",
    CODES,
)


@op
def kv_write(
    k: Any, v: Any, k_cache: Any, v_cache: Any, slots: Any, *, k_scale: Any = None, v_scale: Any = None,
    stream: Any = None,
) -> None:  # fmt: skip
    """Writes new keys and values to their slots of a paged cache.

    k: [t, kv_heads, d] and v: [t, kv_heads, dv], float16, bfloat16 or float32; k_cache: [blocks, block_size, kv_heads,
    d] and v_cache: [blocks, block_size, kv_heads, dv] of their dtype, or both int8 or both float8_e4m3; slots: [t]
    int32, block · block_size + place in the block; a slot outside the cache is skipped.
    k_scale, v_scale: a number, or [kv_heads] float32; a code is the number divided by its scale (default: 1), rounded
    to the nearest. Beyond ±127 or ±448 it is that. A NaN stays one in float8_e4m3; int8 has none.
    Enqueued on `stream` (default: the current one of the cache's device).
    Raises ShapeError, LayoutError, DTypeError, DeviceMismatchError, InvalidArgument; nothing is enqueued then.
    """
    key, keys, values = _LAYOUT.tensors(k, k_cache, v_cache)
    value = as_tensor(v, name="kv_write: v", dtype=key.dtype, device=key.device)
    where = as_tensor(slots, name="kv_write: slots", dtype=unify.int32, device=key.device, contiguous=True)
    (tokens, kv_heads, width), value_width = key.shape, values.shape[3]
    if value.shape != (tokens, kv_heads, value_width) or where.shape != (tokens,):
        raise ShapeError(
            f"kv_write: v must be [{tokens}, {kv_heads}, {value_width}] and slots [{tokens}]; "
            f"they are {list(value.shape)} and {list(where.shape)}."
        )
    if keys.shape[2] != kv_heads:
        raise ShapeError(f"kv_write: k has {kv_heads} heads, the cache {keys.shape[2]}.")
    if values.strides[3] != 1:
        raise LayoutError(f"kv_write: v_cache's last axis must be contiguous; its strides are {list(values.strides)}.")
    factors = code_scale("kv_write: k_scale", k_scale, keys), code_scale("kv_write: v_scale", v_scale, values)
    key, value = (t if t.strides[2] == 1 else t.contiguous() for t in (key, value))
    kv_write_kernel[(kv_heads, tokens)](
        key, value, keys, values, where, *factors, *keys.shape[:2], *key.strides[:2], *value.strides[:2],
        *keys.strides, *values.strides[:3],
        WIDTH=width, BLOCK_D=block_d(width), VALUE=value_width, BLOCK_V=block_d(value_width),
    )  # fmt: skip
    written(keys, k_cache)
    written(values, v_cache)
