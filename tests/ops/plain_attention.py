"""Attention as its formula is written, in float64: what the kernels are compared with."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


@dataclass(frozen=True)
class Plain:
    """out [t, h, dv] and lse [t, h]; spread: the weighted sum of |v|, largest: the largest of |scores|."""

    out: torch.Tensor
    lse: torch.Tensor
    spread: torch.Tensor
    largest: float


def plain_attention(
    q: torch.Tensor,
    k: torch.Tensor,
    v: torch.Tensor,
    causal: bool = True,
    scale: float | None = None,
    window: int | None = None,
    soft_cap: float | None = None,
    sinks: torch.Tensor | None = None,
    alibi: torch.Tensor | None = None,
) -> Plain:
    """q [t, h, d] over k [s, kv_heads, d] and v [s, kv_heads, dv], as ops.attention describes it."""
    group = q.shape[1] // k.shape[1]
    q, k, v = q.double(), k.double().repeat_interleave(group, 1), v.double().repeat_interleave(group, 1)
    scores = torch.einsum("qhd,khd->hqk", q, k) * (1 / math.sqrt(q.shape[2]) if scale is None else scale)
    if soft_cap is not None:
        scores = soft_cap * torch.tanh(scores / soft_cap)
    distance = torch.arange(len(q))[:, None] + len(k) - len(q) - torch.arange(len(k))[None]
    if alibi is not None:
        scores = scores - alibi.double()[:, None, None] * distance.abs()
    hidden = torch.zeros_like(distance, dtype=torch.bool)
    if causal:
        hidden |= distance < 0
    if window is not None:
        hidden |= distance >= window
    masked = scores.masked_fill(hidden, -torch.inf)
    if sinks is not None:
        masked = torch.cat([masked, sinks.double()[:, None, None].expand(-1, len(q), 1)], dim=2)
    lse = masked.logsumexp(2)
    weights = torch.exp(masked - lse[:, :, None])[:, :, : len(k)]
    weights = weights.masked_fill(torch.isneginf(lse)[:, :, None], 0.0)  # a query that sees no key
    out, spread = (torch.einsum("hqk,khd->qhd", weights, x) for x in (v, v.abs()))
    visible = scores[~hidden.expand_as(scores)]
    return Plain(out, lse.T, spread, float(visible.abs().max()) if len(visible) else 0.0)


def assert_attends(
    result: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool = True,
    scale: float | None = None, *, lse: torch.Tensor | None = None, dtype: torch.dtype | None = None, **options: object,
) -> None:  # fmt: skip
    # The weights of the values are rounded to the dtype once, and so is the result: half an ulp each of the weighted
    # sum of |v|. The float32 sums, of d products for a score and of the keys for the result, err by some sqrt(n) ulp,
    # and a score by a few ulp of its own.
    wanted = plain_attention(q, k, v, causal, scale, **options)  # type: ignore[arg-type]
    assert result.dtype == q.dtype
    assert result.shape == wanted.out.shape
    depth = q.shape[-1] + k.shape[-3]
    single = torch.finfo(torch.float32).eps
    scores = single * 4 * (depth**0.5 + wanted.largest)
    error = (result.double() - wanted.out).abs()
    kind = torch.finfo(q.dtype)
    assert (error <= (kind.eps + scores) * wanted.spread + kind.smallest_normal * kind.eps).all(), error.max()
    if lse is not None:
        assert lse.dtype == torch.float32
        torch.testing.assert_close(lse.double(), wanted.lse, rtol=4 * single, atol=scores)
