"""Rotary position embedding, and its frequencies for contexts longer than those trained on."""

from __future__ import annotations

import functools
import math
from typing import Any

import triton.language as tl

import unify
from unify._errors import InvalidArgument, ShapeError
from unify._tensor import as_tensor, wrap_like

from .op import FLOATS, op


# One program a token and head. Pairs are (2i, 2i+1) when interleaved, else (i, i + d/2).
@unify.jit
def rope_kernel(
    x, positions, frequencies, magnitude, out, heads, token_stride, head_stride,
    HALF: tl.constexpr, BLOCK: tl.constexpr, INTERLEAVED: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0)
    token = tl.program_id(1)
    i = tl.arange(0, BLOCK)
    inside = i < HALF
    angle = tl.load(positions + token).to(tl.float32) * tl.load(frequencies + i, mask=inside, other=0.0).to(tl.float32)
    cosine, sine = tl.cos(angle) * magnitude, tl.sin(angle) * magnitude
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


def yarn_mscale(factor: float, mscale: float = 1.0) -> float:
    """0.1 · mscale · ln(factor) + 1, or 1 for a factor up to 1: how much longer contexts sharpen attention (YaRN, eq.
    22). A softmax's scale grows by its square; DeepSeek-V3 takes its `mscale_all_dim` for mscale there."""
    return 0.1 * mscale * math.log(factor) + 1.0 if factor > 1.0 else 1.0


def yarn_frequencies(
    width: int, base: float, factor: float, original_context: int, *, beta_fast: float = 32.0, beta_slow: float = 1.0,
    mscale: float | None = None, mscale_all_dim: float | None = None, truncate: bool = True, device: Any = None,
) -> tuple[Any, float]:  # fmt: skip
    """Frequencies for `rope` in a context that is `factor` times the original one (YaRN: Peng et al. 2023, 3.2).

    width: features that are turned, even. Pairs that turn more than beta_fast times in the original context keep their
    frequency, those that turn less than beta_slow times have it divided by the factor, and between it is blended.
    truncate: the blend begins and ends at whole pairs, as in most models.
    Returns float32 [width / 2] on `device` (default: the default device), and the number by which to multiply what is
    turned, q and k: yarn_mscale(factor), or the quotient of those of mscale and mscale_all_dim (DeepSeek-V3: 1).
    Raises InvalidArgument for numbers that make no frequencies.
    """
    if width < 2 or width % 2:
        raise InvalidArgument(f"yarn_frequencies: width must be even and at least 2; it is {width}.")
    numbers = {"base": base, "factor": factor, "original_context": original_context}
    numbers |= {"beta_fast": beta_fast, "beta_slow": beta_slow}
    for name, number in numbers.items():
        least = 1.0 if name == "base" else 0.0
        if not least < number < math.inf:
            raise InvalidArgument(f"yarn_frequencies: {name} must be a number above {least:g}; it is {number}.")
    for name, factor_of in (("mscale", mscale), ("mscale_all_dim", mscale_all_dim)):
        if factor_of is not None and not 0.0 <= factor_of < math.inf:
            raise InvalidArgument(f"yarn_frequencies: {name} must be a finite number from 0; it is {factor_of}.")

    def pair_of(turns: float) -> float:
        return width * math.log(original_context / (turns * 2 * math.pi)) / (2 * math.log(base))

    low, high = pair_of(beta_fast), pair_of(beta_slow)
    if truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, width - 1)
    if low == high:
        high += 0.001  # as in the authors' code: no division by 0
    frequencies = []
    for i in range(width // 2):
        kept = 1.0 - min(max((i - low) / (high - low), 0.0), 1.0)
        plain = base ** (-2 * i / width)
        frequencies.append(plain * kept + plain / factor * (1.0 - kept))
    scale = yarn_mscale(factor)
    if mscale and mscale_all_dim:
        scale = yarn_mscale(factor, mscale) / yarn_mscale(factor, mscale_all_dim)
    return unify.asarray(frequencies, dtype=unify.float32, device=device), scale


@op
def rope(
    x: Any, positions: Any, *, base: float = 10000.0, frequencies: Any = None, interleaved: bool = True,
    magnitude: float = 1.0, stream: Any = None,
) -> Any:  # fmt: skip
    """Rotates pairs of features by the token's position: angle = position · base^(-2i/d) (Su et al. 2021, eq. 15).

    x: [t, h, d] float16, bfloat16 or float32, d even, last axis contiguous; positions: [t] int32, same device.
    frequencies: [d/2] float16, bfloat16 or float32 in place of base^(-2i/d), for positions that are scaled.
    interleaved: pairs are (2i, 2i+1), as in the paper and in GGUF's llama; else (i, i + d/2), as in GPT-NeoX.
    magnitude: a finite number that the result is multiplied with, as `yarn_frequencies` gives it.
    Returns a contiguous array like x, enqueued on `stream` (default: the current one of x's device).
    Raises ShapeError, DTypeError, DeviceMismatchError, InvalidArgument; nothing is enqueued then.

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
    if not math.isfinite(magnitude):
        raise InvalidArgument(f"rope: magnitude must be a finite number; it is {magnitude}.")
    half = width // 2
    if not 0.0 < base < math.inf:
        raise InvalidArgument(f"rope: base must be a number above 0; it is {base}.")
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
        source, where, turns, float(magnitude), result, heads, *source.strides[:2],
        HALF=half, BLOCK=max(16, 1 << (half - 1).bit_length()), INTERLEAVED=interleaved,
    )  # fmt: skip
    return wrap_like(result, x)
