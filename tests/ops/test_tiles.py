"""Tiles of products: they fit the shape, and leave no core without work."""

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


def test_other_kinds_of_devices_have_tiles_of_their_own() -> None:
    class Chip:
        kind = "chip"

    assert tiles.product_tile(Chip(), 4096, 4096).m < tiles.product_tile(CPU, 4096, 4096).m
