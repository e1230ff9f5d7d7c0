"""Paged attention against torch's attention over the same keys laid out in a row."""

from __future__ import annotations

import pytest
import torch

import unify as un

from .test_attention import DTYPES, assert_close


def make_cache(blocks: int, size: int, heads: int, width: int, dtype: torch.dtype) -> tuple[torch.Tensor, torch.Tensor]:
    # Unwritten places are NaN: reading one shows.
    keys = torch.full((blocks, heads, width, size), float("nan"), dtype=dtype).permute(0, 3, 1, 2)
    return keys, torch.full((blocks, size, heads, width), float("nan"), dtype=dtype)


def fill(
    keys: torch.Tensor, values: torch.Tensor, lengths: list[int], generator: torch.Generator
) -> tuple[torch.Tensor, list[torch.Tensor], list[torch.Tensor]]:
    blocks, size, heads, width = keys.shape
    order = torch.randperm(blocks, generator=generator).int()
    per_sequence = blocks // len(lengths)
    table = order[: per_sequence * len(lengths)].reshape(len(lengths), per_sequence).contiguous()
    all_k, all_v = [], []
    for row, length in zip(table, lengths, strict=True):
        k, v = (torch.randn(length, heads, width, generator=generator).to(keys.dtype) for _ in range(2))
        place = torch.arange(length)
        slots = (row[place // size] * size + place % size).int()
        un.ops.kv_write(k, v, keys, values, slots)
        all_k.append(k)
        all_v.append(v)
    return table, all_k, all_v


@pytest.mark.parametrize("splits", [None, 1, 2, 8])
@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("size", [16, 64])
def test_decode_matches_torch(size: int, dtype: torch.dtype, splits: int | None) -> None:
    generator = torch.Generator().manual_seed(size)
    keys, values = make_cache(12, size, 2, 64, dtype)
    lengths = [1, 57, 4 * size]
    table, all_k, all_v = fill(keys, values, lengths, generator)
    q = torch.randn(3, 6, 64, generator=generator).to(dtype)
    result = un.ops.paged_attention(q, keys, values, table, torch.tensor(lengths, dtype=torch.int32), splits=splits)
    for row in range(3):
        assert_close(result[row : row + 1], q[row : row + 1], all_k[row], all_v[row], False)


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("before", [0, 5, 64, 100])
@pytest.mark.parametrize("tokens", [1, 20, 70])
def test_prefill_continues_a_sequence(before: int, tokens: int, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(before + tokens)
    keys, values = make_cache(16, 16, 1, 64, dtype)
    table, all_k, all_v = fill(keys, values, [before + tokens], generator)
    q = torch.randn(tokens, 3, 64, generator=generator).to(dtype)
    assert_close(un.ops.paged_prefill(q, keys, values, table[0], before), q, all_k[0], all_v[0], True)


def test_a_slot_outside_of_the_cache_is_skipped() -> None:
    keys, values = make_cache(4, 16, 1, 64, torch.float32)
    slots = torch.tensor([-1, 19, 32, 50, -(2**31)], dtype=torch.int32)
    un.ops.kv_write(torch.ones(5, 1, 64), torch.ones(5, 1, 64), keys[:2], values[:2], slots)
    for cache in (keys, values):
        written = ~torch.isnan(cache[..., 0, 0].flatten())
        assert written.nonzero().flatten().tolist() == [19]


@pytest.mark.parametrize("splits", [1, 4])
def test_what_lies_outside_of_the_table_and_the_cache_is_not_read(splits: int) -> None:
    # The cache of two blocks and the table of two columns are the beginnings of larger ones, full of NaN.
    generator = torch.Generator().manual_seed(1)
    keys, values = make_cache(6, 16, 1, 64, torch.float32)
    table, all_k, all_v = fill(keys[:2], values[:2], [32], generator)
    q = torch.randn(1, 2, 64, generator=generator)
    wide = torch.cat([table, torch.full((1, 2), 4, dtype=torch.int32)], dim=1)
    lengths = torch.tensor([64], dtype=torch.int32)
    result = un.ops.paged_attention(q, keys[:2], values[:2], wide[:, :2], lengths, splits=splits)
    assert_close(result, q, all_k[0], all_v[0], False)
    for strange in (2, 5, 2**31 - 1, -1, -(2**31)):
        table[0, 1] = strange
        result = un.ops.paged_attention(q, keys[:2], values[:2], table, lengths // 2, splits=splits)
        assert torch.isfinite(result).all()
        assert torch.isfinite(un.ops.paged_prefill(q, keys[:2], values[:2], table[0], 31)).all()


def test_a_cache_without_blocks_is_refused() -> None:
    cache = torch.zeros(0, 16, 1, 64)
    with pytest.raises(un.errors.ShapeError, match="need a block"):
        un.ops.paged_prefill(torch.ones(1, 1, 64), cache, cache, torch.zeros(1, dtype=torch.int32), 0)


def test_values_of_a_strided_head_are_refused() -> None:
    cache = torch.zeros(2, 16, 1, 128)
    with pytest.raises(un.errors.LayoutError, match="v_cache's last axis"):
        un.ops.paged_prefill(
            torch.ones(1, 1, 64), cache[..., ::2], cache[..., ::2], torch.zeros(1, dtype=torch.int32), 0
        )


def test_a_table_too_short_for_the_tokens_is_refused() -> None:
    keys, values = make_cache(2, 16, 1, 64, torch.float32)
    table = torch.zeros(1, dtype=torch.int32)
    with pytest.raises(un.errors.ShapeError, match="room for 16"):
        un.ops.paged_prefill(torch.ones(10, 1, 64), keys, values, table, 8)


def test_a_block_size_that_is_no_power_of_two_is_refused() -> None:
    cache = torch.zeros(2, 24, 1, 64)
    with pytest.raises(un.errors.ShapeError, match="power of two"):
        un.ops.paged_attention(
            torch.ones(1, 1, 64), cache, cache, torch.zeros(1, 2, dtype=torch.int32), torch.ones(1, dtype=torch.int32)
        )
