"""The paged cache of one sequence: what it reserves, how it grows, and what it refuses."""

from __future__ import annotations

import pytest

import unify
from unify.models.kv_cache import BLOCK_SIZE, KVCache


def cache(capacity: int, **changes: int) -> KVCache:
    sizes = {"layers": 2, "kv_heads": 3, "width": 16, **changes}
    return KVCache(**sizes, capacity=capacity, dtype=unify.float32, device="cpu")


@pytest.mark.parametrize(("capacity", "blocks"), [(1, 1), (BLOCK_SIZE, 1), (BLOCK_SIZE + 1, 2), (10 * BLOCK_SIZE, 10)])
def test_blocks_are_whole_and_the_capacity_is_what_was_asked(capacity: int, blocks: int) -> None:
    made = cache(capacity)
    assert (made.capacity, made.length) == (capacity, 0)
    assert made.block_table.numpy().tolist() == [list(range(blocks))]
    for pages in (*made.keys, *made.values):
        assert pages.shape == (blocks, BLOCK_SIZE, 3, 16)
    assert made.nbytes == 2 * 2 * blocks * BLOCK_SIZE * 3 * 16 * 4


def test_tokens_written_at_their_positions_are_read_back_across_blocks() -> None:
    made = cache(3 * BLOCK_SIZE)
    tokens = 2 * BLOCK_SIZE + 5
    k = unify.arange(tokens * 3 * 16, dtype=unify.int32).to(dtype=unify.float32).reshape(tokens, 3, 16)
    slots = unify.arange(tokens, dtype=unify.int32)
    unify.ops.kv_write(k, k, made.keys[1], made.values[1], slots)
    for pages in (made.keys[1], made.values[1]):
        read = pages.contiguous().numpy().reshape(-1, 3, 16)[:tokens]
        assert (read == k.numpy()).all()


def test_growing_hands_out_positions_and_truncating_takes_them_back() -> None:
    made = cache(100)
    assert [made.grow(n) for n in (64, 1, 5)] == [0, 64, 65]
    made.truncate(64)
    assert made.grow(36) == 64
    made.truncate(1000)
    assert made.length == 100


def test_a_full_cache_names_its_limits_and_stays_as_it_is() -> None:
    made = cache(100)
    made.grow(90)
    with pytest.raises(
        unify.errors.InvalidArgument, match=r"90 tokens are in it, 11 more do not fit in 100\..*max_context"
    ):
        made.grow(11)
    assert made.grow(10) == 90


@pytest.mark.parametrize("capacity", [0, -1])
def test_a_capacity_for_nothing_is_refused(capacity: int) -> None:
    with pytest.raises(unify.errors.InvalidArgument, match=f"its capacity is {capacity}"):
        cache(capacity)


def test_more_than_the_memory_is_out_of_memory_and_nothing_is_kept() -> None:
    before = unify.memory_statistics("cpu").allocated_bytes
    with pytest.raises(unify.errors.OutOfMemory):
        cache(2**31, kv_heads=64, width=128)
    assert unify.memory_statistics("cpu").allocated_bytes == before
