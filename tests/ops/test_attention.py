"""Attention against its formula and against torch's own, in float64."""

from __future__ import annotations

import itertools

import pytest
import torch
from hypothesis import given, settings, strategies as st

import unify as un

from .plain_attention import DTYPES, assert_attends, plain_attention


def random(generator: torch.Generator, dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=generator).to(dtype)


def starts(lengths: list[int]) -> torch.Tensor:
    return torch.tensor([0, *itertools.accumulate(lengths)], dtype=torch.int32)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize(
    ("queries", "keys", "heads", "kv_heads", "width", "value", "causal"),
    [
        (1, 1, 1, 1, 64, 64, True),
        (64, 64, 2, 2, 64, 64, True),
        (70, 70, 6, 2, 64, 64, True),
        (33, 97, 6, 3, 64, 64, True),
        (128, 200, 4, 1, 128, 128, True),
        (40, 50, 4, 2, 64, 64, False),
        (65, 130, 2, 1, 80, 80, False),
        (70, 90, 4, 2, 192, 128, True),
        (20, 33, 2, 1, 24, 100, False),
    ],
)
def test_matches_the_formula(
    queries: int, keys: int, heads: int, kv_heads: int, width: int, value: int, causal: bool, dtype: torch.dtype
) -> None:
    generator = torch.Generator().manual_seed(queries * keys)
    q = random(generator, dtype, queries, heads, width)
    k, v = random(generator, dtype, keys, kv_heads, width), random(generator, dtype, keys, kv_heads, value)
    result, lse = un.ops.attention(q, k, v, causal=causal, return_lse=True)
    assert_attends(result, q, k, v, causal, lse=lse)


def torchs(q: torch.Tensor, k: torch.Tensor, v: torch.Tensor, mask: torch.Tensor | None = None) -> torch.Tensor:
    heads_first = [x.double().transpose(-3, -2) for x in (q, k, v)]
    found = torch.nn.functional.scaled_dot_product_attention(*heads_first, attn_mask=mask, enable_gqa=True)
    return found.transpose(-3, -2)


def test_matches_torch() -> None:
    generator = torch.Generator().manual_seed(3)
    q = random(generator, torch.float32, 2, 60, 6, 64)
    k, v = (random(generator, torch.float32, 2, 75, 2, 64) for _ in range(2))
    mask = torch.arange(75)[None] <= torch.arange(60)[:, None] + 15
    for causal in (True, False):
        expected = torchs(q, k, v, mask if causal else None)
        torch.testing.assert_close(un.ops.attention(q, k, v, causal=causal).double(), expected, rtol=1e-5, atol=1e-5)


def test_batches_and_strided_views() -> None:
    generator = torch.Generator().manual_seed(7)
    packed = random(generator, torch.float32, 2, 50, 8, 64)
    q, k, v = packed[:, :, :4], packed[:, :, 4:6], packed[:, :, 6:]
    result, lse = un.ops.attention(q, k, v, scale=0.3, return_lse=True)
    for i in range(2):
        assert_attends(result[i], q[i], k[i], v[i], True, 0.3, lse=lse[i])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("causal", [True, False])
def test_packed_sequences_see_only_themselves(causal: bool, dtype: torch.dtype) -> None:
    lengths = [5, 0, 130, 1, 64, 300]
    generator = torch.Generator().manual_seed(1)
    q, k, v = (random(generator, dtype, sum(lengths), heads, 64) for heads in (4, 2, 2))
    result, lse = un.ops.attention(q, k, v, causal=causal, cu_seqlens=starts(lengths), return_lse=True)
    rows = [x.split(lengths) for x in (result, q, k, v, lse)]
    for got, own_q, own_k, own_v, own_lse in zip(*rows, strict=True):
        if len(own_q):
            assert_attends(got, own_q, own_k, own_v, causal, lse=own_lse)


def test_packed_queries_over_other_numbers_of_keys() -> None:
    # A query before its sequence's first key, or of one without keys, sees nothing.
    queries, keys = [3, 40, 20, 7, 1], [3, 100, 11, 0, 70]
    generator = torch.Generator().manual_seed(2)
    q = random(generator, torch.float32, sum(queries), 3, 64)
    k, v = random(generator, torch.float32, sum(keys), 1, 64), random(generator, torch.float32, sum(keys), 1, 32)
    for causal in (True, False):
        result, lse = un.ops.attention(
            q, k, v, causal=causal, cu_seqlens=starts(queries), cu_seqlens_k=starts(keys), return_lse=True
        )
        of_queries, of_keys = [x.split(queries) for x in (result, q, lse)], [x.split(keys) for x in (k, v)]
        for got, own_q, own_lse, own_k, own_v in zip(*of_queries, *of_keys, strict=True):
            assert_attends(got, own_q, own_k, own_v, causal, lse=own_lse)
        assert (result[63:70] == 0).all()
        assert torch.isneginf(lse[63:70]).all()


@settings(max_examples=25, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.tuples(st.integers(0, 70), st.integers(0, 90)), min_size=1, max_size=6),
    causal=st.booleans(),
)
def test_any_lengths(lengths: list[tuple[int, int]], causal: bool) -> None:
    queries, keys = ([pair[i] for pair in lengths] for i in range(2))
    generator = torch.Generator().manual_seed(sum(queries))
    q = random(generator, torch.float32, sum(queries), 4, 24)
    k, v = (random(generator, torch.float32, sum(keys), 2, width) for width in (24, 40))
    result = un.ops.attention(q, k, v, causal=causal, cu_seqlens=starts(queries), cu_seqlens_k=starts(keys))
    rows = zip(result.split(queries), q.split(queries), k.split(keys), v.split(keys), strict=True)
    for got, own_q, own_k, own_v in rows:
        if len(own_q):
            assert_attends(got, own_q, own_k, own_v, causal)


def test_what_starts_say_beyond_the_arrays_is_not_read() -> None:
    generator = torch.Generator().manual_seed(1)
    q, k = (random(generator, torch.float32, 40, 2, 64) for _ in range(2))
    known = un.ops.attention(q[:20], k[:20], k[:20])
    wide = torch.cat([k[:20], torch.full_like(k, torch.nan)])[:20]
    for strange in (21, 1 << 30, -5, -(1 << 31)):
        cu = torch.tensor([0, 20, strange], dtype=torch.int32)
        result = un.ops.attention(q[:20], wide, wide, cu_seqlens=cu)
        torch.testing.assert_close(result, known)


def test_no_queries_and_no_sequences() -> None:
    q, k = torch.ones(0, 2, 64), torch.ones(5, 2, 64)
    assert un.ops.attention(q, k, k).shape == (0, 2, 64)
    none = torch.zeros(1, dtype=torch.int32)
    result, lse = un.ops.attention(q, q, q, cu_seqlens=none, return_lse=True)
    assert (result.shape, lse.shape) == ((0, 2, 64), (0, 2))
    result, lse = un.ops.attention(k, q, q, causal=False, return_lse=True)
    assert (result == 0).all()
    assert torch.isneginf(lse).all()


def test_large_scores_do_not_overflow() -> None:
    q = torch.full((4, 1, 64), 50.0)
    generator = torch.Generator().manual_seed(0)
    k, v = (random(generator, torch.float32, 4, 1, 64) for _ in range(2))
    expected = plain_attention(q, k * 50, v).out
    torch.testing.assert_close(un.ops.attention(q, k * 50, v).double(), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("strange", [torch.nan, torch.inf, -torch.inf])
def test_strange_numbers_reach_those_who_see_them(strange: float) -> None:
    generator = torch.Generator().manual_seed(5)
    q, k, v = (random(generator, torch.float32, 40, 1, 64) for _ in range(3))
    q, k = q.abs(), k.clone()
    k[20] = strange  # a score of NaN or an infinity for queries from 20 on
    result = un.ops.attention(q, k, v)
    wanted = plain_attention(q, k, v).out
    assert torch.isfinite(wanted[:20]).all()
    assert torch.isfinite(wanted[20:]).any() == (strange == -torch.inf)
    torch.testing.assert_close(result.double(), wanted, rtol=1e-5, atol=1e-5, equal_nan=True)


@pytest.mark.parametrize("strange", [torch.nan, torch.inf])
def test_a_strange_value_reaches_no_more_than_in_torch(strange: float) -> None:
    # Queries that share a tile with one that sees it weigh it with 0, which torch's do wherever they are.
    generator = torch.Generator().manual_seed(5)
    q, k, v = (random(generator, torch.float32, 600, 1, 64) for _ in range(3))
    v[400, 0, 7] = strange
    reached = ~un.ops.attention(q, k, v)[:, 0].isfinite()
    heads_first = (x.transpose(0, 1)[None] for x in (q, k, v))
    theirs = torch.nn.functional.scaled_dot_product_attention(*heads_first, is_causal=True)[0, 0]
    assert reached[400:, 7].all()
    assert not reached[:256].any()  # no tile is larger than 128
    assert not (reached & theirs.isfinite()).any()


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    lengths=st.lists(st.integers(0, 90), min_size=2, max_size=5), causal=st.booleans(),
    strange=st.sampled_from([torch.nan, torch.inf, -torch.inf]), of=st.sampled_from(["q", "k", "v"]),
    place=st.integers(0, 449),
)  # fmt: skip
def test_strange_numbers_stay_in_their_sequence(
    lengths: list[int], causal: bool, strange: float, of: str, place: int
) -> None:
    generator = torch.Generator().manual_seed(place)
    rows = {
        name: random(generator, torch.float32, sum(lengths), heads, 24)
        for name, heads in zip("qkv", (4, 2, 2), strict=True)
    }
    sound = {name: x.clone() for name, x in rows.items()}
    if sum(lengths):
        rows[of][place % sum(lengths), 1, 5] = strange
    results = [
        un.ops.attention(*x.values(), causal=causal, cu_seqlens=starts(lengths), return_lse=True) for x in (rows, sound)
    ]
    for first, length in zip(starts(lengths).tolist()[:-1], lengths, strict=True):
        if not first <= place % max(1, sum(lengths)) < first + length:
            for ours, wanted in zip(*results, strict=True):
                assert torch.equal(ours[first : first + length], wanted[first : first + length])


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
        ((8, 1, 64), (8, 1, 64), (8, 1, 0)),
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


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"cu_seqlens_k": starts([8])}, un.errors.InvalidArgument, "cu_seqlens_k needs cu_seqlens"),
        ({"cu_seqlens": starts([4, 4]), "cu_seqlens_k": starts([8])}, un.errors.ShapeError, "as long as each other"),
        ({"cu_seqlens": starts([8])[None]}, un.errors.ShapeError, r"cu_seqlens must be \[sequences \+ 1\]"),
        ({"cu_seqlens": starts([8])[:0]}, un.errors.ShapeError, r"cu_seqlens must be \[sequences \+ 1\]"),
        ({"cu_seqlens": starts([8]).long()}, un.errors.DTypeError, "cu_seqlens"),
    ],
)
def test_starts_that_do_not_fit_are_refused(options: dict[str, object], error: type[Exception], words: str) -> None:
    x = torch.ones(8, 1, 64)
    with pytest.raises(error, match=words):
        un.ops.attention(x, x, x, **options)


def test_packed_sequences_have_no_batch() -> None:
    x = torch.ones(1, 8, 1, 64)
    with pytest.raises(un.errors.ShapeError, match=r"with cu_seqlens q must be \[tokens, heads, d\]"):
        un.ops.attention(x, x, x, cu_seqlens=starts([8]))
