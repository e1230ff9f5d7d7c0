"""The paged cache: what it reserves, how sequences grow and give back, and what it refuses."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings, strategies as st

import unify
from unify.models.kv_cache import BLOCK_SIZE, KVCache, Pages, key_value_pages


def cache(capacity: int, *, kv_heads: int = 3, width: int = 16, **options: int) -> KVCache:
    def make(blocks: int) -> list[Pages]:
        return [key_value_pages(blocks, kv_heads, width, dtype=unify.float32, device="cpu") for _ in range(2)]

    return KVCache(make, capacity=capacity, device="cpu", **options)


@pytest.mark.parametrize(("capacity", "blocks"), [(1, 1), (BLOCK_SIZE, 1), (BLOCK_SIZE + 1, 2), (10 * BLOCK_SIZE, 10)])
def test_blocks_are_whole_and_the_capacity_is_what_was_asked(capacity: int, blocks: int) -> None:
    made = cache(capacity)
    assert (made.capacity, made.length, made.free_blocks) == (capacity, 0, blocks)
    for pages in made.pages:
        assert [tensor.shape for tensor in pages] == [(blocks, BLOCK_SIZE, 3, 16)] * 2
    assert made.nbytes == 2 * 2 * blocks * BLOCK_SIZE * 3 * 16 * 4
    made.grow(capacity)
    assert made.block_table.numpy().tolist() == [list(range(blocks))]


def test_tokens_written_at_their_positions_are_read_back_across_blocks() -> None:
    made = cache(3 * BLOCK_SIZE)
    tokens = 2 * BLOCK_SIZE + 5
    k = unify.arange(tokens * 3 * 16, dtype=unify.int32).to(dtype=unify.float32).reshape(tokens, 3, 16)
    slots = unify.arange(tokens, dtype=unify.int32)
    unify.ops.kv_write(k, k, *made.pages[1], slots)
    for pages in made.pages[1]:
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


def test_a_sequence_waits_for_blocks_that_others_hold() -> None:
    made = cache(4 * BLOCK_SIZE, sequences=2, blocks=5)
    made.grow(3 * BLOCK_SIZE, 0)
    assert made.room(2 * BLOCK_SIZE, 1)
    assert not made.room(2 * BLOCK_SIZE + 1, 1)
    with pytest.raises(unify.errors.InvalidArgument, match=r"129 more need more than the 2 free blocks of 5"):
        made.grow(2 * BLOCK_SIZE + 1, 1)
    made.truncate(BLOCK_SIZE, 0)
    assert made.grow(2 * BLOCK_SIZE + 1, 1) == 0


@settings(max_examples=50)
@given(moves=st.lists(st.tuples(st.integers(0, 2), st.sampled_from([-300, -64, -1, 0, 1, 5, 64, 130])), max_size=40))
def test_no_two_tokens_share_a_slot_and_no_block_is_lost(moves: list[tuple[int, int]]) -> None:
    made = cache(300, kv_heads=1, sequences=3, blocks=8)
    for row, by in moves:
        before = made.lengths[row]
        if by < 0:
            made.truncate(max(0, before + by), row)
        elif made.room(by, row):
            assert made.grow(by, row) == before
        slots = [made.slots(0, length, row) for row, length in enumerate(made.lengths)]
        taken = np.concatenate(slots)
        assert len(set(taken.tolist())) == taken.size == sum(made.lengths)
        assert ((taken >= 0) & (taken < 8 * BLOCK_SIZE)).all()
        assert made.free_blocks == 8 - sum(-(-length // BLOCK_SIZE) for length in made.lengths)
        table = made.block_table.numpy()
        for row, length in enumerate(made.lengths):
            position = np.arange(length)
            held = table[row][position // BLOCK_SIZE] * BLOCK_SIZE + position % BLOCK_SIZE
            assert (held == slots[row]).all()


def test_a_single_sequence_lies_in_order_whatever_it_forgot() -> None:
    made = cache(10 * BLOCK_SIZE)
    for length in (300, 10, 640, 65, 0, 200):
        made.truncate(length)
        made.grow(length - made.length)
        assert made.slots(0, length).tolist() == list(range(length))


@pytest.mark.parametrize("options", [{"capacity": 0}, {"capacity": -1}, {"capacity": 1, "sequences": 0}])
def test_a_capacity_for_nothing_is_refused(options: dict[str, int]) -> None:
    with pytest.raises(unify.errors.InvalidArgument, match=f"its capacity is {options['capacity']}"):
        cache(**options)


def test_more_than_the_memory_is_out_of_memory_and_nothing_is_kept() -> None:
    before = unify.memory_statistics("cpu").allocated_bytes
    with pytest.raises(unify.errors.OutOfMemory):
        cache(2**31, kv_heads=64, width=128)
    assert unify.memory_statistics("cpu").allocated_bytes == before
