"""Paged attention against torch's attention over the same keys laid out in a row."""

from __future__ import annotations

import pytest
import torch

import unify as un

from .test_attention import expected


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
@pytest.mark.parametrize(("dtype", "bound"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
@pytest.mark.parametrize("size", [16, 64])
def test_decode_matches_torch(size: int, dtype: torch.dtype, bound: float, splits: int | None) -> None:
    generator = torch.Generator().manual_seed(size)
    keys, values = make_cache(12, size, 2, 64, dtype)
    lengths = [1, 57, 4 * size]
    table, all_k, all_v = fill(keys, values, lengths, generator)
    q = torch.randn(3, 6, 64, generator=generator).to(dtype)
    result = un.ops.paged_attention(q, keys, values, table, torch.tensor(lengths, dtype=torch.int32), splits=splits)
    for row in range(3):
        reference = expected(q[row : row + 1], all_k[row], all_v[row], False, None)
        torch.testing.assert_close(result[row : row + 1].double(), reference, rtol=bound, atol=bound)


@pytest.mark.parametrize("before", [0, 5, 64, 100])
@pytest.mark.parametrize("tokens", [1, 20, 70])
def test_prefill_continues_a_sequence(before: int, tokens: int) -> None:
    generator = torch.Generator().manual_seed(before + tokens)
    keys, values = make_cache(16, 16, 1, 64, torch.float32)
    table, all_k, all_v = fill(keys, values, [before + tokens], generator)
    q = torch.randn(tokens, 3, 64, generator=generator)
    result = un.ops.paged_prefill(q, keys, values, table[0], before)
    torch.testing.assert_close(result.double(), expected(q, all_k[0], all_v[0], True, None), rtol=1e-5, atol=1e-5)


def test_a_negative_slot_is_skipped() -> None:
    keys, values = make_cache(1, 16, 1, 64, torch.float32)
    un.ops.kv_write(torch.ones(2, 1, 64), torch.ones(2, 1, 64), keys, values, torch.tensor([-1, 3], dtype=torch.int32))
    written = ~torch.isnan(values[0, :, 0, 0])
    assert written.nonzero().flatten().tolist() == [3]


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
