"""Attention against torch's own, in float64."""

from __future__ import annotations

import pytest
import torch

import unify as un

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2, torch.float16: 3e-3}


def expected(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float | None) -> torch.Tensor:
    group = q.shape[-2] // k.shape[-2]
    heads_first = [x.double().transpose(-3, -2) for x in (q, k, v)]
    wide_k, wide_v = (x.repeat_interleave(group, dim=-3) for x in heads_first[1:])
    queries, keys = q.shape[-3], k.shape[-3]
    mask = None
    if causal:
        mask = torch.arange(keys)[None] <= torch.arange(queries)[:, None] + keys - queries
    result = torch.nn.functional.scaled_dot_product_attention(
        heads_first[0], wide_k, wide_v, attn_mask=mask, scale=scale
    )
    return result.transpose(-3, -2)


@pytest.mark.parametrize("dtype", list(TOLERANCE))
@pytest.mark.parametrize(
    ("queries", "keys", "heads", "kv_heads", "width", "causal"),
    [
        (1, 1, 1, 1, 64, True),
        (64, 64, 2, 2, 64, True),
        (70, 70, 6, 2, 64, True),
        (33, 97, 6, 3, 64, True),
        (128, 200, 4, 1, 128, True),
        (40, 50, 4, 2, 64, False),
        (65, 130, 2, 1, 80, False),
    ],
)
def test_matches_torch(
    queries: int, keys: int, heads: int, kv_heads: int, width: int, causal: bool, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(queries * keys)
    q = torch.randn(queries, heads, width, generator=generator).to(dtype)
    k, v = (torch.randn(keys, kv_heads, width, generator=generator).to(dtype) for _ in range(2))
    result = un.ops.attention(q, k, v, causal=causal)
    assert result.dtype == dtype
    bound = TOLERANCE[dtype]
    torch.testing.assert_close(result.double(), expected(q, k, v, causal, None), rtol=bound, atol=bound)


def test_batches_and_strided_views() -> None:
    generator = torch.Generator().manual_seed(7)
    packed = torch.randn(2, 50, 8, 64, generator=generator)
    q, k, v = packed[:, :, :4], packed[:, :, 4:6], packed[:, :, 6:]
    result = un.ops.attention(q, k, v, scale=0.3)
    torch.testing.assert_close(result.double(), expected(q, k, v, True, 0.3), rtol=1e-5, atol=1e-5)


def test_large_scores_do_not_overflow() -> None:
    q = torch.full((4, 1, 64), 50.0)
    k = torch.randn(4, 1, 64) * 50
    v = torch.randn(4, 1, 64)
    torch.testing.assert_close(un.ops.attention(q, k, v).double(), expected(q, k, v, True, None), rtol=1e-4, atol=1e-4)


def test_heads_must_divide() -> None:
    with pytest.raises(un.errors.ShapeError, match="multiple of kv_heads"):
        un.ops.attention(torch.ones(8, 6, 64), torch.ones(8, 4, 64), torch.ones(8, 4, 64))


def test_one_dtype_is_needed() -> None:
    half = torch.ones(8, 1, 64, dtype=torch.bfloat16)
    with pytest.raises(un.errors.DTypeError, match="one dtype"):
        un.ops.attention(torch.ones(8, 1, 64), half, half)


def test_causal_needs_keys_for_each_query() -> None:
    with pytest.raises(un.errors.ShapeError, match="causal=False"):
        un.ops.attention(torch.ones(8, 1, 64), torch.ones(4, 1, 64), torch.ones(4, 1, 64))
