"""What all attentions share, each option alone and all together: dense, packed, and over a cache."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

import unify as un
from unify.ops.attend import Widths

from .plain_attention import DTYPES, assert_attends
from .test_paged_attention import fill, ints, make_cache, starts

HEADS, KV_HEADS, WIDTH = 6, 2, 32
SLOPES = torch.tensor([0.5, 0.25, 0.0, 0.1, 1.0, 0.03])
SINKS = torch.tensor([0.0, 3.0, -2.0, 50.0, -torch.inf, 1.0])
ALONE: dict[str, dict[str, Any]] = {
    "window": {"window": 20},
    "narrow window": {"window": 1},
    "soft cap": {"soft_cap": 1.5},
    "sinks": {"sinks": SINKS},
    "ALiBi": {"alibi": SLOPES},
    "all": {"window": 40, "soft_cap": 2.0, "sinks": SINKS, "alibi": SLOPES},
}
each_option = pytest.mark.parametrize("options", ALONE.values(), ids=ALONE)


def random(dtype: torch.dtype, *shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(sum(shape))).to(dtype)


def assert_each_attends(results: tuple[Any, Any], q: Any, k: Any, v: Any, causal: bool, **options: Any) -> None:
    """results: packed, as q; k and v: a list of each sequence's."""
    lengths = [len(x) for x in q]
    for got, lse, *own in zip(*(x.split(lengths) for x in results), q, k, v, strict=True):
        if len(got):
            assert_attends(got, *own, causal, lse=lse, **options)


@each_option
@pytest.mark.parametrize("causal", [True, False])
def test_dense(causal: bool, options: dict[str, Any]) -> None:
    q, k, v = (random(torch.float32, n, heads, WIDTH) for n, heads in ((150, HEADS), (180, KV_HEADS), (180, KV_HEADS)))
    result, lse = un.ops.attention(q, k, v, causal=causal, return_lse=True, **options)
    assert_attends(result, q, k, v, causal, lse=lse, **options)


@pytest.mark.parametrize("dtype", DTYPES)
def test_packed(dtype: torch.dtype) -> None:
    queries, keys = [3, 70, 20, 0, 1], [3, 140, 11, 5, 70]
    q, k, v = (
        random(dtype, sum(n), heads, WIDTH) for n, heads in ((queries, HEADS), (keys, KV_HEADS), (keys, KV_HEADS))
    )
    results = un.ops.attention(
        q, k, v, cu_seqlens=starts(queries), cu_seqlens_k=starts(keys), return_lse=True, **ALONE["all"]
    )
    assert_each_attends(results, q.split(queries), k.split(keys), v.split(keys), True, **ALONE["all"])


@each_option
@pytest.mark.parametrize("splits", [1, 4])
def test_decode(splits: int, options: dict[str, Any]) -> None:
    keys, values = make_cache(20, 16, KV_HEADS, WIDTH, torch.float32)
    lengths = [1, 57, 80, 0]
    table, all_k, all_v = fill(keys, values, lengths, torch.Generator().manual_seed(1))
    q = random(torch.float32, 4, HEADS, WIDTH)
    results = un.ops.paged_attention(q, keys, values, table, ints(*lengths), splits=splits, return_lse=True, **options)
    assert_each_attends(results, q.split(1), all_k, all_v, True, **options)


@each_option
def test_prefill_over_a_cache(options: dict[str, Any]) -> None:
    keys, values = make_cache(40, 16, KV_HEADS, WIDTH, torch.float32)
    tokens, lengths = [20, 1, 0, 70], [20, 57, 30, 150]
    table, all_k, all_v = fill(keys, values, lengths, torch.Generator().manual_seed(1))
    q = random(torch.float32, sum(tokens), HEADS, WIDTH)
    results = un.ops.paged_prefill(q, keys, values, table, ints(*lengths), starts(tokens), return_lse=True, **options)
    assert_each_attends(results, q.split(tokens), all_k, all_v, True, **options)


@settings(max_examples=30, deadline=None, derandomize=True)
@given(
    window=st.integers(1, 200), tokens=st.lists(st.integers(0, 60), min_size=1, max_size=3), before=st.integers(0, 90)
)
def test_any_window(window: int, tokens: list[int], before: int) -> None:
    keys, values = make_cache(30, 16, 1, WIDTH, torch.float32)
    lengths = [n + before for n in tokens]
    table, all_k, all_v = fill(keys, values, lengths, torch.Generator().manual_seed(1))
    q = random(torch.float32, sum(tokens), 2, WIDTH)
    results = un.ops.paged_prefill(
        q, keys, values, table, ints(*lengths), starts(tokens), window=window, return_lse=True
    )
    assert_each_attends(results, q.split(tokens), all_k, all_v, True, window=window)
    if all(lengths):
        last = torch.stack([random(torch.float32, 2, WIDTH)] * len(tokens))
        results = un.ops.paged_attention(
            last, keys, values, table, ints(*lengths), window=window, splits=2, return_lse=True
        )
        assert_each_attends(results, last.split(1), all_k, all_v, True, window=window)


@pytest.mark.parametrize("size", [5, 10, 16, 48])
@pytest.mark.parametrize("splits", [1, 2])
def test_keys_behind_the_window_may_be_gone(splits: int, size: int) -> None:
    # A cache gives back the blocks of keys that no window reaches any more, and another sequence may write NaN there.
    keys, values = make_cache(30, size, 1, WIDTH, torch.float32)
    table, (k,), (v,) = fill(keys, values, [100], torch.Generator().manual_seed(1))
    q = random(torch.float32, 3, 2, WIDTH)
    table[0, : 68 // size] = table[0, -1]  # which is not written
    result = un.ops.paged_attention(q[2:], keys, values, table, ints(100), window=30, splits=splits)
    assert_attends(result, q[2:], k, v, window=30)
    result = un.ops.paged_prefill(q, keys, values, table, ints(100), starts([3]), window=30)
    assert_attends(result, q, k, v, window=30)


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"window": 0}, un.errors.InvalidArgument, "window must be at least 1"),
        ({"soft_cap": 0.0}, un.errors.InvalidArgument, "soft_cap must be a number above 0"),
        ({"soft_cap": float("nan")}, un.errors.InvalidArgument, "soft_cap must be a number above 0"),
        ({"sinks": SINKS[:2]}, un.errors.ShapeError, r"sinks must be \[6\]"),
        ({"alibi": SLOPES.reshape(2, 3)}, un.errors.ShapeError, r"alibi must be \[6\]"),
        ({"alibi": SLOPES.double()}, un.errors.DTypeError, "alibi"),
    ],
)
def test_options_that_do_not_fit_are_refused(options: dict[str, Any], error: type[Exception], words: str) -> None:
    q, k = torch.ones(4, HEADS, WIDTH), torch.ones(4, KV_HEADS, WIDTH)
    with pytest.raises(error, match=f"attention.*{words}"):
        un.ops.attention(q, k, k, **options)


@pytest.mark.parametrize(
    ("width", "tiles"),
    [(64, (64, 0)), (8, (16, 0)), (80, (64, 16)), (96, (64, 32)), (100, (128, 0)), (192, (128, 64)), (576, (512, 64))],
)
def test_a_width_is_cut_where_that_leaves_less_unused(width: int, tiles: tuple[int, int]) -> None:
    widths = Widths.of(width, 64)
    assert tiles == (widths.BLOCK_D, widths.TAIL)
