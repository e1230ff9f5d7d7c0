"""How large a program's part of a matrix product or of an attention is."""

from __future__ import annotations

import functools
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Tile:
    """Rows, columns, and the length that is summed at a time."""

    m: int
    n: int
    k: int


# By target kind. Large ones on a CPU: what is packed for a tile serves all its rows and columns.
_PRODUCT = {"cpu": Tile(512, 512, 64)}
_PRODUCT_ELSEWHERE = Tile(64, 64, 32)
# Queries and keys a program takes at a time; on a CPU they, the scores and the sums stay in the second-level cache.
_ATTENTION = {"cpu": (256, 128)}
_ATTENTION_ELSEWHERE = (64, 32)


@functools.cache
def _cores(device: Any) -> int:
    return int(device.properties["cores"]) if device.kind == "cpu" else 1


def product_tile(device: Any, m: int, n: int) -> Tile:
    """The kind's tile for a product [m, n]: narrower where columns would be wasted, smaller where cores would idle."""
    tile = _PRODUCT.get(device.kind, _PRODUCT_ELSEWHERE)
    rows, columns = min(tile.m, max(16, 1 << max(0, m - 1).bit_length())), tile.n
    while -n % columns * 16 > n and columns > 64:
        columns //= 2
    enough = 1 if (cores := _cores(device)) == 1 else 2 * cores
    while -(-m // rows) * -(-n // columns) < enough and max(rows, columns) > 64:
        rows, columns = (rows // 2, columns) if rows >= columns else (rows, columns // 2)
    return Tile(rows, columns, tile.k)


def attention_tile(device: Any, queries: int, heads: int, *, causal: bool) -> tuple[int, int]:
    """Queries and keys: fewer queries where masks would hide much of a tile, or where cores would idle."""
    rows, keys = _ATTENTION.get(device.kind, _ATTENTION_ELSEWHERE)
    rows = min(rows, max(16, 1 << max(0, queries - 1).bit_length()))
    while rows > 128 and causal and queries < 8 * rows:
        rows //= 2
    enough = 1 if (cores := _cores(device)) == 1 else 2 * cores
    while -(-queries // rows) * heads < enough and rows > 32:
        rows //= 2
    return rows, keys
