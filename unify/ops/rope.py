"""Rotary position embedding."""

from __future__ import annotations

import functools
from typing import Any

import triton.language as tl

import unify
from unify._errors import ShapeError
from unify._tensor import as_tensor, wrap_like

from .op import FLOATS, op


# One program a token and head. Pairs are (2i, 2i+1) when interleaved, else (i, i + d/2).
@unify.jit
def rope_kernel(
    x, positions, frequencies, out, heads, token_stride, head_stride,
    HALF: tl.constexpr, BLOCK: tl.constexpr, INTERLEAVED: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0)
    token = tl.program_id(1)
    i = tl.arange(0, BLOCK)
    inside = i < HALF
    angle = tl.load(positions + token).to(tl.float32) * tl.load(frequencies + i, mask=inside, other=0.0).to(tl.float32)
    cosine, sine = tl.cos(angle), tl.sin(angle)
    if INTERLEAVED:
        first = 2 * i
        second = 2 * i + 1
    else:
        first = i
        second = i + HALF
    x += token.to(tl.int64) * token_stride + head * head_stride
    out += (token.to(tl.int64) * heads + head) * (2 * HALF)
    a = tl.load(x + first, mask=inside, other=0.0).to(tl.float32)
    b = tl.load(x + second, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + first, a * cosine - b * sine, mask=inside)
    tl.store(out + second, a * sine + b * cosine, mask=inside)


@functools.lru_cache(maxsize=64)
def _frequencies(device: str, half: int, base: float) -> Any:
    # In double, rounded once: the angle's error is then that of one float32 product.
    return unify.asarray([base ** (-i / half) for i in range(half)], dtype=unify.float32, device=device)


@op
def rope(
    x: Any, positions: Any, *, base: float = 10000.0, frequencies: Any = None, interleaved: bool = True,
    stream: Any = None,
) -> Any:  # fmt: skip
    """Rotates pairs of features by the token's position: angle = position · base^(-2i/d) (Su et al. 2021, eq. 15).

    x: [t, h, d] float16, bfloat16 or float32, d even, last axis contiguous; positions: [t] int32, same device.
    frequencies: [d/2] float16, bfloat16 or float32 in place of base^(-2i/d), for positions that are scaled.
    interleaved: pairs are (2i, 2i+1), as in the paper and in GGUF's llama; else (i, i + d/2), as in GPT-NeoX.
    Returns a contiguous array like x, enqueued on `stream` (default: the current one of x's device).
    Raises ShapeError, DTypeError, DeviceMismatchError; nothing is enqueued then.

    >>> ops.rope(np.array([[[1.0, 0.0]]], np.float32), np.array([1], np.int32)).round(2)  # cos 1, sin 1
    array([[[0.54, 0.84]]], dtype=float32)
    """
    source = as_tensor(x, name="rope: x", dtype=FLOATS)
    where = as_tensor(positions, name="rope: positions", dtype=unify.int32, device=source.device, contiguous=True)
    if source.ndim != 3 or source.shape[2] % 2:
        raise ShapeError(f"rope: x must be [tokens, heads, d] with an even d; it is {list(source.shape)}.")
    tokens, heads, width = source.shape
    if where.shape != (tokens,):
        raise ShapeError(f"rope: positions must be [{tokens}], one for each token; it is {list(where.shape)}.")
    half = width // 2
    if frequencies is None:
        turns = _frequencies(str(source.device), half, base)
    else:
        turns = as_tensor(frequencies, name="rope: frequencies", dtype=FLOATS, device=source.device, contiguous=True)
        if turns.shape != (half,):
            raise ShapeError(f"rope: frequencies must be [{half}], one for each pair; it is {list(turns.shape)}.")
    if source.strides[2] != 1:
        source = source.contiguous()
    result = unify.empty(source.shape, dtype=source.dtype, device=source.device)
    rope_kernel[(heads, tokens)](
        source, where, turns, result, heads, *source.strides[:2],
        HALF=half, BLOCK=max(16, 1 << (half - 1).bit_length()), INTERLEAVED=interleaved,
    )  # fmt: skip
    return wrap_like(result, x)
