"""Tiles of products and attentions: they fit the shape, and leave no core without work."""

from __future__ import annotations

import pytest
from hypothesis import given, strategies as st

import unify as un
from unify.ops import tiles

CPU = un.device("cpu")


@pytest.mark.parametrize("cores", [1, 2, 64])
@given(m=st.integers(1, 5000), n=st.integers(1, 5000))
def test_each_core_has_work_where_there_is_enough_and_few_columns_are_wasted(cores: int, m: int, n: int) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tiles, "_cores", lambda _: cores)
        tile = tiles.product_tile(CPU, m, n)
    assert tile.m & (tile.m - 1) == tile.n & (tile.n - 1) == 0  # powers of two
    assert tile.m < 2 * max(16, m)
    assert tile.n <= 64 or -n % tile.n * 16 <= n
    assert -(-m // tile.m) * -(-n // tile.n) >= cores or max(tile.m, tile.n) <= 64


@pytest.mark.parametrize("cores", [1, 2, 64])
@given(queries=st.integers(1, 5000), heads=st.integers(1, 100), causal=st.booleans())
def test_an_attention_leaves_no_core_without_work(cores: int, queries: int, heads: int, causal: bool) -> None:
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(tiles, "_cores", lambda _: cores)
        rows, keys = tiles.attention_tile(CPU, queries, heads, causal=causal)
    assert rows & (rows - 1) == keys & (keys - 1) == 0  # powers of two
    assert 16 <= rows < 2 * max(16, queries)
    assert -(-queries // rows) * heads >= cores or rows <= 32


def test_other_kinds_of_devices_have_tiles_of_their_own() -> None:
    class Chip:
        kind = "chip"

    assert tiles.attention_tile(Chip(), 4096, 8, causal=False) < tiles.attention_tile(CPU, 4096, 8, causal=False)
    assert tiles.product_tile(Chip(), 4096, 4096).m < tiles.product_tile(CPU, 4096, 4096).m
