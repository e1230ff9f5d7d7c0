"""Attention against torch's own, in float64."""

from __future__ import annotations

import pytest
import torch

import unify as un

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


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


def assert_close(
    result: torch.Tensor, q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, causal: bool, scale: float | None = None
) -> None:
    # The weights of the values are rounded to the dtype once, and so is the result: half an ulp each of the weighted
    # sum of |v|. The float32 sums, of d products for a score and of the keys for the result, err by some sqrt(n) ulp.
    assert result.dtype == q.dtype
    depth = q.shape[-1] + k.shape[-3]
    relative = torch.finfo(q.dtype).eps + torch.finfo(torch.float32).eps * 4 * depth**0.5
    error = (result.double() - expected(q, k, v, causal, scale)).abs()
    assert (error <= relative * expected(q, k, v.abs(), causal, scale)).all(), error.max()


@pytest.mark.parametrize("dtype", DTYPES)
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
    assert_close(un.ops.attention(q, k, v, causal=causal), q, k, v, causal)


def test_batches_and_strided_views() -> None:
    generator = torch.Generator().manual_seed(7)
    packed = torch.randn(2, 50, 8, 64, generator=generator)
    q, k, v = packed[:, :, :4], packed[:, :, 4:6], packed[:, :, 6:]
    assert_close(un.ops.attention(q, k, v, scale=0.3), q, k, v, True, 0.3)


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
    with pytest.raises(un.errors.DTypeError, match="k: must be float32, not bfloat16"):
        un.ops.attention(torch.ones(8, 1, 64), half, half)


@pytest.mark.parametrize(
    ("q", "k", "v"),
    [
        ((8, 1, 64), (2, 8, 1, 64), (2, 8, 1, 64)),
        ((8, 1, 64), (8, 1, 64), (9, 1, 64)),
        ((8, 1, 64), (8, 1, 32), (8, 1, 32)),
        ((8, 1, 0), (8, 1, 0), (8, 1, 0)),
        ((2, 8, 1, 64), (3, 8, 1, 64), (3, 8, 1, 64)),
        ((8, 64), (8, 64), (8, 64)),
    ],
)
def test_shapes_that_do_not_meet_are_refused(q: tuple[int, ...], k: tuple[int, ...], v: tuple[int, ...]) -> None:
    with pytest.raises(un.errors.ShapeError, match=rf"attention.*q is \[{q[0]}, .* k is \[{k[0]}, "):
        un.ops.attention(torch.ones(q), torch.ones(k), torch.ones(v))


def test_causal_needs_keys_for_each_query() -> None:
    with pytest.raises(un.errors.ShapeError, match="causal=False"):
        un.ops.attention(torch.ones(8, 1, 64), torch.ones(4, 1, 64), torch.ones(4, 1, 64))
