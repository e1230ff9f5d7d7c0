"""Paged attention against attention's formula over the same keys laid out in a row."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from hypothesis import given, settings, strategies as st

import unify as un

from .plain_attention import DTYPES, assert_attends


def make_cache(
    blocks: int, size: int, heads: int, width: int, dtype: torch.dtype, value: int | None = None
) -> tuple[torch.Tensor, torch.Tensor]:
    # Unwritten places are NaN: reading one shows.
    keys = torch.full((blocks, heads, width, size), float("nan"), dtype=dtype).permute(0, 3, 1, 2)
    return keys, torch.full((blocks, size, heads, value or width), float("nan"), dtype=dtype)


def fill(
    keys: torch.Tensor, values: torch.Tensor, lengths: list[int], generator: torch.Generator
) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    blocks, size, heads, width = keys.shape
    order = torch.randperm(blocks, generator=generator).int()
    per_sequence = blocks // len(lengths)
    table = order[: per_sequence * len(lengths)].reshape(len(lengths), per_sequence).contiguous()
    all_k, all_v = [], []
    for row, length in zip(table, lengths, strict=True):
        k, v = (torch.randn(length, heads, n, generator=generator).to(keys.dtype) for n in (width, values.shape[3]))
        place = torch.arange(length)
        slots = (row[place // size] * size + place % size).int()
        un.ops.kv_write(k, v, keys, values, slots)
        all_k.append(k)
        all_v.append(v)
    return table, all_k, all_v


def ints(*numbers: int) -> torch.Tensor:
    return torch.tensor(numbers, dtype=torch.int32)


def starts(lengths: list[int]) -> torch.Tensor:
    return ints(0, *itertools.accumulate(lengths))


@pytest.mark.parametrize("splits", [None, 1, 2, 8])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [16, 64])
def test_decode_matches_the_formula(size: int, dtype: torch.dtype, splits: int | None) -> None:
    generator = torch.Generator().manual_seed(size)
    keys, values = make_cache(12, size, 2, 64, dtype)
    lengths = [1, 57, 4 * size]
    table, all_k, all_v = fill(keys, values, lengths, generator)
    q = torch.randn(3, 6, 64, generator=generator).to(dtype)
    result, lse = un.ops.paged_attention(q, keys, values, table, ints(*lengths), splits=splits, return_lse=True)
    for row in range(3):
        one = slice(row, row + 1)
        assert_attends(result[one], q[one], all_k[row], all_v[row], False, lse=lse[one])


@pytest.mark.parametrize("splits", [1, 4])
def test_a_sequence_without_keys_gives_nothing(splits: int) -> None:
    generator = torch.Generator().manual_seed(4)
    keys, values = make_cache(6, 16, 1, 64, torch.float32)
    table, all_k, all_v = fill(keys, values, [20, 0], generator)
    q = torch.randn(2, 2, 64, generator=generator)
    result, lse = un.ops.paged_attention(q, keys, values, table, ints(20, 0), splits=splits, return_lse=True)
    assert_attends(result[:1], q[:1], all_k[0], all_v[0], False, lse=lse[:1])
    assert (result[1] == 0).all()
    assert torch.isneginf(lse[1]).all()
    none = un.ops.paged_attention(q[:0], keys, values, table[:0], ints(), splits=splits)
    assert none.shape == (0, 2, 64)


@pytest.mark.parametrize("dtype", DTYPES)
def test_prefill_continues_sequences(dtype: torch.dtype) -> None:
    before, tokens = [0, 5, 64, 100, 33, 7], [20, 70, 1, 1, 0, 65]
    lengths = [a + b for a, b in zip(before, tokens, strict=True)]
    generator = torch.Generator().manual_seed(3)
    keys, values = make_cache(60, 16, 1, 64, dtype)
    table, all_k, all_v = fill(keys, values, lengths, generator)
    q = torch.randn(sum(tokens), 3, 64, generator=generator).to(dtype)
    result, lse = un.ops.paged_prefill(q, keys, values, table, ints(*lengths), starts(tokens), return_lse=True)
    for got, own_q, own_lse, k, v in zip(*(x.split(tokens) for x in (result, q, lse)), all_k, all_v, strict=True):
        if len(own_q):
            assert_attends(got, own_q, k, v, lse=own_lse)


def test_keys_and_values_of_different_widths() -> None:
    generator = torch.Generator().manual_seed(8)
    keys, values = make_cache(8, 16, 2, 80, torch.float32, 32)
    table, all_k, all_v = fill(keys, values, [40, 60], generator)
    q = torch.randn(2, 4, 80, generator=generator)
    result = un.ops.paged_attention(q, keys, values, table, ints(40, 60))
    for row in range(2):
        assert_attends(result[row : row + 1], q[row : row + 1], all_k[row], all_v[row], False)
    result = un.ops.paged_prefill(q, keys, values, table, ints(40, 60), starts([1, 1]))
    for row in range(2):
        assert_attends(result[row : row + 1], q[row : row + 1], all_k[row], all_v[row])


@pytest.mark.parametrize("splits", [1, 4])
def test_what_lies_outside_of_the_table_and_the_cache_is_not_read(splits: int) -> None:
    # The cache of two blocks and the table of two columns are the beginnings of larger ones, full of NaN.
    generator = torch.Generator().manual_seed(1)
    keys, values = make_cache(6, 16, 1, 64, torch.float32)
    table, all_k, all_v = fill(keys[:2], values[:2], [32], generator)
    q = torch.randn(1, 2, 64, generator=generator)
    wide = torch.cat([table, torch.full((1, 2), 4, dtype=torch.int32)], dim=1)
    result = un.ops.paged_attention(q, keys[:2], values[:2], wide[:, :2], ints(64), splits=splits)
    assert_attends(result, q, all_k[0], all_v[0], False)
    for length in (64, 2**31 - 1):
        result = un.ops.paged_prefill(q, keys[:2], values[:2], wide[:, :2], ints(length), starts([1]))
        assert_attends(result, q, all_k[0], all_v[0])
    for strange in (2, 5, 2**31 - 1, -1, -(2**31)):
        table[0, 1] = strange
        result = un.ops.paged_attention(q, keys[:2], values[:2], table, ints(32), splits=splits)
        assert torch.isfinite(result).all()
        assert torch.isfinite(un.ops.paged_prefill(q, keys[:2], values[:2], table, ints(32), starts([1]))).all()


def test_a_cache_without_blocks_is_refused() -> None:
    cache = torch.zeros(0, 16, 1, 64)
    with pytest.raises(un.errors.ShapeError, match="need a block"):
        un.ops.paged_prefill(torch.ones(1, 1, 64), cache, cache, ints(0)[None], ints(1), starts([1]))


def test_values_of_a_strided_head_are_refused() -> None:
    cache = torch.zeros(2, 16, 1, 128)[..., ::2]
    with pytest.raises(un.errors.LayoutError, match="v_cache's last axis"):
        un.ops.paged_prefill(torch.ones(1, 1, 64), cache, cache, ints(0)[None], ints(1), starts([1]))


@pytest.mark.parametrize("splits", [0, -2, 3, 2.0, "4"])
def test_splits_that_are_no_power_of_two_are_named(splits: Any) -> None:
    cache, q = torch.zeros(2, 16, 1, 64), torch.ones(1, 1, 64)
    with pytest.raises(
        un.errors.InvalidArgument, match=f"paged_attention: splits must be .*; it is {splits!r}"
    ) as told:
        un.ops.paged_attention(q, cache, cache, ints(0, 1)[None], ints(1), splits=splits)
    assert not isinstance(told.value, un.errors.ShapeError)


@pytest.mark.parametrize(
    ("table", "lengths", "words"),
    [
        (ints(0, 1), ints(1), "block_table must be"),
        (ints(0, 1)[None], ints(1, 2), "context_lens must be"),
        (ints(0, 1)[:, None], ints(1, 2), "block_table must be"),
    ],
)
def test_tables_that_do_not_fit_are_refused(table: torch.Tensor, lengths: torch.Tensor, words: str) -> None:
    cache, q = torch.zeros(2, 16, 1, 64), torch.ones(1, 1, 64)
    with pytest.raises(un.errors.ShapeError, match=f"paged_attention: {words}"):
        un.ops.paged_attention(q, cache, cache, table, lengths)
    with pytest.raises(un.errors.ShapeError, match=f"paged_prefill: {words}"):
        un.ops.paged_prefill(q, cache, cache, table, lengths, starts([1]))


@pytest.mark.parametrize(
    ("size", "dtype"), [(1, torch.float32), (10, torch.bfloat16), (48, torch.float32), (128, torch.float32)]
)
def test_any_page_size(size: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(size)
    lengths, tokens = [150, 1, 37], [20, 1, 30]
    keys, values = make_cache(3 * -(-150 // size), size, 2, 64, dtype)
    table, all_k, all_v = fill(keys, values, lengths, generator)
    q = torch.randn(51, 4, 64, generator=generator).to(dtype)
    for splits in (1, 4):
        result = un.ops.paged_attention(q[:3], keys, values, table, ints(*lengths), splits=splits)
        for row in range(3):
            one = slice(row, row + 1)
            assert_attends(result[one], q[one], all_k[row], all_v[row])
    result = un.ops.paged_prefill(q, keys, values, table, ints(*lengths), starts(tokens), window=33)
    for got, own, k, v in zip(result.split(tokens), q.split(tokens), all_k, all_v, strict=True):
        assert_attends(got, own, k, v, window=33)


@pytest.mark.parametrize(
    ("codes", "dtype", "by_head"),
    [
        (torch.int8, torch.float32, True),
        (torch.int8, torch.bfloat16, False),
        (torch.float8_e4m3fn, torch.float16, True),
        (torch.float8_e4m3fn, torch.float32, False),
        (torch.float8_e4m3fn, torch.bfloat16, False),
    ],
)
def test_quantised_caches(codes: torch.dtype, dtype: torch.dtype, by_head: bool) -> None:
    # What the codes stand for is read back by torch, so that only the attention's own error is left.
    generator = torch.Generator().manual_seed(4)
    lengths, tokens = [57, 1, 90], [7, 1, 40]
    step = 0.08 if codes == torch.int8 else 0.02
    k_scale, v_scale = (torch.tensor([a, b]) if by_head else a for a, b in ((step, 2 * step), (0.5 * step, step)))
    keys, values = (torch.zeros(30, 16, 2, width, dtype=codes) for width in (64, 32))
    table = torch.randperm(30, generator=generator).int().reshape(3, 10)
    all_k, all_v = [], []
    for row, length in zip(table, lengths, strict=True):
        place = torch.arange(length)
        slots = (row[place // 16] * 16 + place % 16).int()
        k, v = (torch.randn(length, 2, width, generator=generator).to(dtype) for width in (64, 32))
        un.ops.kv_write(k, v, keys, values, slots, k_scale=k_scale, v_scale=v_scale)
        for cache, scale, source, found in ((keys, k_scale, k, all_k), (values, v_scale, v, all_v)):
            unit = torch.as_tensor(scale).reshape(-1, 1)
            read = cache.reshape(-1, 2, cache.shape[3])[slots.long()].float() * unit
            error = unit / 2 if codes == torch.int8 else torch.maximum(source.float().abs() / 16, unit / 1024)
            assert ((read - source.float()).abs() <= error * (1 + 1e-5)).all()
            found.append(read)
    q = torch.randn(sum(tokens), 6, 64, generator=generator).to(dtype)
    scales = {"k_scale": k_scale, "v_scale": v_scale}
    for splits in (1, 4):
        result = un.ops.paged_attention(q[:3], keys, values, table, ints(*lengths), splits=splits, **scales)
        for row in range(3):
            one = slice(row, row + 1)
            assert_attends(result[one], q[one], all_k[row], all_v[row])
    result = un.ops.paged_prefill(q, keys, values, table, ints(*lengths), starts(tokens), **scales)
    for got, own, k, v in zip(result.split(tokens), q.split(tokens), all_k, all_v, strict=True):
        assert_attends(got, own, k, v)


def test_a_nan_stays_one_in_a_cache_of_fp8() -> None:
    keys, values = (torch.zeros(2, 16, 1, 64, dtype=torch.uint8).view(torch.float8_e4m3fn) for _ in range(2))
    x = torch.ones(4, 1, 64)
    x[2, 0, 5] = torch.nan
    un.ops.kv_write(x, torch.ones(4, 1, 64), keys, values, ints(0, 1, 2, 3))
    q = torch.ones(1, 1, 64)
    assert torch.isfinite(un.ops.paged_attention(q, keys, values, ints(0)[None], ints(2))).all()
    assert torch.isnan(un.ops.paged_attention(q, keys, values, ints(0)[None], ints(4))).all()


@pytest.mark.parametrize(
    ("cache", "scale", "error", "words"),
    [
        (
            torch.float32,
            0.5,
            un.errors.InvalidArgument,
            "k_scale is for a cache of int8 or float8_e4m3, not of float32",
        ),
        (torch.int8, torch.ones(3), un.errors.ShapeError, r"k_scale must be a number or \[1\]"),
        (torch.int8, torch.ones(1).double(), un.errors.DTypeError, "k_scale"),
        (torch.uint8, None, un.errors.DTypeError, "k_cache: must be float32, int8 or float8_e4m3, not uint8"),
    ],
)
def test_codes_and_scales_that_do_not_fit_are_refused(
    cache: torch.dtype, scale: object, error: type[Exception], words: str
) -> None:
    keys, q = torch.zeros(2, 16, 1, 64, dtype=cache), torch.ones(1, 1, 64)
    with pytest.raises(error, match=words):
        un.ops.paged_attention(q, keys, keys, ints(0)[None], ints(1), k_scale=scale)
    with pytest.raises(error, match=words):
        un.ops.kv_write(q, q, keys, keys, ints(0), k_scale=scale)


@settings(max_examples=15, deadline=None, derandomize=True)
@given(
    size=st.sampled_from([10, 16]), splits=st.sampled_from([1, 4]), shared=st.integers(0, 2),
    behind=st.lists(st.integers(0, 40), min_size=3, max_size=3),
    new=st.lists(st.integers(0, 3), min_size=3, max_size=3),
    unused=st.sampled_from([-1, -(2**31), 2**31 - 1, 8]),
)  # fmt: skip
def test_sequences_share_pages_and_tables_have_holes(
    size: int, splits: int, shared: int, behind: list[int], new: list[int], unused: int
) -> None:
    # The first pages are those of all; what a table has behind a sequence's last page is no block.
    generator = torch.Generator().manual_seed(1)
    keys, values = (torch.randn(24, size, 1, 32, generator=generator) for _ in range(2))
    lengths = [max(shared * size + a, b) for a, b in zip(behind, new, strict=True)]
    table = torch.full((3, 8), unused, dtype=torch.int32)
    for row, length in zip(table, lengths, strict=True):
        pages = -(-length // size)
        row[:pages] = torch.randperm(22, generator=generator)[:pages]
        row[: min(shared, pages)] = torch.tensor([22, 23])[: min(shared, pages)]
    blocks = [row[: -(-length // size)].long() for row, length in zip(table, lengths, strict=True)]
    all_k, all_v = ([x[own].flatten(0, 1)[:n] for own, n in zip(blocks, lengths, strict=True)] for x in (keys, values))
    q = torch.randn(sum(new), 2, 32, generator=generator)
    result, lse = un.ops.paged_prefill(q, keys, values, table, ints(*lengths), starts(new), return_lse=True)
    for got, own_q, own_lse, k, v in zip(*(x.split(new) for x in (result, q, lse)), all_k, all_v, strict=True):
        if len(own_q):
            assert_attends(got, own_q, k, v, lse=own_lse)
    last = torch.randn(3, 2, 32, generator=generator)
    result, lse = un.ops.paged_attention(last, keys, values, table, ints(*lengths), splits=splits, return_lse=True)
    for row, (k, v) in enumerate(zip(all_k, all_v, strict=True)):
        one = slice(row, row + 1)
        assert_attends(result[one], last[one], k, v, lse=lse[one])


@pytest.mark.parametrize("splits", [1, 4])
def test_a_nan_stays_with_its_sequence(splits: int) -> None:
    generator = torch.Generator().manual_seed(6)
    keys, values = make_cache(9, 10, 1, 32, torch.float32)
    table, all_k, all_v = fill(keys, values, [25, 25, 25], generator)
    values[table[1, 2], 4] = torch.nan
    q = torch.randn(6, 2, 32, generator=generator)
    q[0, 0] = torch.nan
    decoded = un.ops.paged_attention(q[:3], keys, values, table, ints(25, 25, 25), splits=splits)
    prefilled = un.ops.paged_prefill(q, keys, values, table, ints(25, 25, 25), starts([2, 2, 2]))
    assert decoded[0, 0].isnan().all()
    assert decoded[1].isnan().all()
    assert_attends(decoded[2:], q[2:3], all_k[2], all_v[2])
    assert prefilled[0, 0].isnan().all()
    assert prefilled[0, 1].isfinite().all()
    assert_attends(prefilled[1:2], q[1:2], all_k[0], all_v[0])
    assert prefilled[3].isnan().all()
    assert_attends(prefilled[4:], q[4:], all_k[2], all_v[2])
