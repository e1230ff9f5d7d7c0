"""How large a program's part of a matrix product, of an attention or of a row is, and how many warps share it."""

from __future__ import annotations

import functools
import itertools
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from unify._tensor import float32

from .tile import Tile
from .tuning import choose, near, size_class, tiles_near


def _tile(m: int, n: int, k: int, num_warps: int, num_stages: int) -> Tile:
    return Tile(m, n, k, {"num_warps": num_warps, "num_stages": num_stages})


# By target kind. Large ones on a CPU: what is packed for a tile serves all its rows and columns.
# On Ascend as much of the sums as leaves half of a cube's L0C free, of 128 KiB.
_PRODUCT = {"cpu": Tile(512, 512, 64), "ascend": Tile(128, 128, 64)}
_PRODUCT_ELSEWHERE = Tile(64, 64, 32)
_SIZES = (16, 32, 64, 128, 256, 512)  # of what is tried while tuning
# Queries and keys a program takes at a time; on a CPU they, the scores and the sums stay in the second-level cache.
# On Ascend the most that a vector core's 192 KiB hold with heads of 128.
_ATTENTION = {"cpu": (256, 128), "ascend": (64, 64)}
_ATTENTION_ELSEWHERE = (64, 32)

# Heads and keys of a latent attention. On Ascend 32 sums of 512 take half of a cube's L0C.
_LATENT = {"cpu": Tile(128, 64, 0), "ascend": Tile(32, 32, 0), "cuda": _tile(64, 32, 0, 8, 2)}
_LATENT_ELSEWHERE = Tile(16, 32, 0)

# On CUDA by the chip's family, for elements of 16 bits; float32 is multiplied by plain arithmetic ("ieee"), for which
# the tiles of elsewhere are. Shared memory of a program: 163 KiB on 80 and 87, 227 on 90 and 100, 99 on 86, 89 and 120
# (CUDA C++ programming guide, technical specifications per compute capability). tests/ops/test_tiles.py compiles them.
#
# Products, the largest first: a smaller one where multiprocessors would idle. Shapes, warps and stages are those of
# Triton's tutorial 03-matrix-multiplication (get_cuda_autotune_config); 64 deep with 128×256 and 128×128 on 90 and 100
# as in its tutorial 09-persistent-matmul, since wgmma and tcgen05 take 64 rows or more.
_CUDA_PRODUCT = {
    80: (_tile(128, 256, 64, 8, 3), _tile(128, 128, 32, 4, 4), _tile(64, 128, 32, 4, 4), _tile(64, 64, 32, 4, 4)),
    86: (_tile(128, 128, 32, 4, 4), _tile(64, 128, 32, 4, 4), _tile(64, 64, 32, 4, 4)),
    90: (_tile(128, 256, 64, 8, 3), _tile(128, 128, 64, 4, 4), _tile(64, 128, 64, 4, 4), _tile(64, 64, 64, 4, 4)),
    100: (_tile(128, 256, 64, 8, 3), _tile(128, 128, 64, 4, 4), _tile(64, 128, 64, 4, 4), _tile(64, 64, 64, 4, 4)),
    120: (_tile(128, 128, 32, 4, 4), _tile(64, 128, 32, 4, 4), _tile(64, 64, 32, 4, 4)),
}
# Attention by the widest head that a row is for: the largest of tutorial 06-fused-attention's configurations
# (128 queries, 32 to 128 keys, 4 or 8 warps, 2 to 4 stages) that fits and does not spill. Eight warps on 90 only with
# 128 keys or more, as the tutorial prunes them. FlashAttention 2 also takes fewer keys for heads of 128 on 86 and 89.
_CUDA_ATTENTION = {
    80: {64: _tile(128, 64, 64, 4, 3), 128: _tile(128, 64, 128, 8, 3)},
    86: {64: _tile(128, 64, 64, 4, 3), 128: _tile(128, 32, 128, 8, 3)},
    90: {64: _tile(128, 128, 64, 8, 3), 128: _tile(128, 128, 128, 8, 2)},
    100: {64: _tile(128, 128, 64, 8, 3), 128: _tile(128, 128, 128, 8, 2)},
    120: {64: _tile(128, 64, 64, 8, 3), 128: _tile(128, 32, 128, 8, 3)},
}


@functools.cache
def cores_of(device: Any) -> int:
    return int(device.properties["cores"]) if device.kind in ("cpu", "cuda", "ascend") else 1


@functools.cache
def _cuda_family(device: Any) -> int | None:
    """The row of the tables for a CUDA device, None where there is none: before 80, or no CUDA device."""
    if device.kind != "cuda":
        return None
    arch = str(device.properties["target"]).partition(":")[2]
    capability = int(arch) if arch.isdecimal() else 0
    if capability == 87:  # Orin has 80's shared memory
        return 80
    return next((family for family in sorted(_CUDA_PRODUCT, reverse=True) if family <= capability), None)


def product_tile(device: Any, m: int, n: int, dtype: Any = float32) -> Tile:
    """The tile for a product [m, n] of this type: the one that was measured, else the kind's."""
    default = default_product_tile(device, m, n, dtype.itemsize)
    key = (_rows_of(1 << 31, m), n, dtype.name)
    return choose("product", device, key, default, lambda: [*_products(device, m, n)])


def _products(device: Any, m: int, n: int) -> Iterator[Tile]:
    """What a product could take."""
    if (family := _cuda_family(device)) is not None:
        yield from (_cut(tile, m) for tile in _CUDA_PRODUCT[family])
    most = _PRODUCT.get(device.kind, _PRODUCT_ELSEWHERE)
    rows, columns = (sorted({_rows_of(size, count) for size in _SIZES if size <= 2 * top})
                     for top, count in ((most.m, m), (most.n, n)))  # fmt: skip
    for tile in itertools.product(rows, columns, (32, 64, 128)):
        yield Tile(*tile)


def default_product_tile(device: Any, m: int, n: int, itemsize: int) -> Tile:
    """Narrower where columns would be wasted, smaller where cores would idle."""
    if (family := _cuda_family(device)) is not None and itemsize == 2:
        return _cuda_product_tile(_CUDA_PRODUCT[family], cores_of(device), m, n)
    tile = _PRODUCT.get(device.kind, _PRODUCT_ELSEWHERE)
    rows, columns = _rows_of(tile.m, m), tile.n
    while -n % columns * 16 > n and columns > 64:
        columns //= 2
    enough = 1 if (cores := cores_of(device)) == 1 else 2 * cores
    while -(-m // rows) * -(-n // columns) < enough and max(rows, columns) > 64:
        rows, columns = (rows // 2, columns) if rows >= columns else (rows, columns // 2)
    return Tile(rows, columns, tile.k)


def _rows_of(most: int, rows: int) -> int:
    """As many rows as there are, rounded up to a power of two from 16, at most `most`."""
    return min(most, max(16, 1 << max(0, rows - 1).bit_length()))


def _cuda_product_tile(tiles: tuple[Tile, ...], cores: int, m: int, n: int) -> Tile:
    """The first tile that wastes few columns and gives each multiprocessor a program, else the last."""

    def fits(tile: Tile) -> bool:
        return -n % tile.n * 16 <= n and -(-m // tile.m) * -(-n // tile.n) >= cores

    return _cut(next(filter(fits, tiles), tiles[-1]), m)


def _cut(tile: Tile, rows: int) -> Tile:
    """The tile with no more rows than there are; up to 64 of them are too few for eight warps."""
    taken = _rows_of(tile.m, rows)
    return tile if taken == tile.m else replace(tile, m=taken, launch={**tile.launch, "num_warps": 4})


def grouped_tile(device: Any, rows: int, n: int, dtype: Any, *, gated: bool) -> Tile:
    """The tile for products of n features of groups of `rows` rows on the average: measured, or else the kind's.

    gated: each program has two sums, of a gate and of what it gates.
    """
    default = default_grouped_tile(device, rows, dtype, gated=gated)
    key = (size_class(rows), n, dtype.name, gated)
    return choose("grouped product", device, key, default, lambda: [*_grouped_products(device, rows, default, gated)])


def _grouped_products(device: Any, rows: int, default: Tile, gated: bool) -> Iterator[Tile]:
    """What a product of groups could take."""
    if default.launch and (family := _cuda_family(device)) is not None:
        for tile in _CUDA_PRODUCT[family]:
            yield _cut(replace(tile, n=min(tile.n, 64)) if gated else tile, rows)
    yield from tiles_near(default, (16, 16, 16), (512, 512, 512))


def default_grouped_tile(device: Any, rows: int, dtype: Any, *, gated: bool) -> Tile:
    """The kind's tile for products of groups."""
    if device.kind == "cpu":
        # Most groups fill one tile, so that their weight is packed once; rows that are not there cost nothing. Of a
        # weight as much at a time as the first-level cache holds, or for many rows the second-level one.
        taken = min(512, _rows_of(512, 2 * rows))
        return Tile(taken, 64, 64 if taken == 16 else 128) if taken < 512 else Tile(taken, 256, 128)
    if (family := _cuda_family(device)) is not None and dtype.itemsize == 2:
        tile = _CUDA_PRODUCT[family][-2]
    else:
        tile = _PRODUCT.get(device.kind, _PRODUCT_ELSEWHERE)
    if gated:
        tile = replace(tile, n=min(tile.n, 64))
    return _cut(tile, rows) if tile.launch else replace(tile, m=_rows_of(tile.m, rows))


def attention_tile(
    device: Any, queries: int, heads: int, *, causal: bool, width: int = 128, dtype: Any = float32, plain: bool = True
) -> Tile:
    """Queries and keys, those that were measured, else the kind's.

    width: of a head; plain: scores are scaled only, which takes less room.
    """
    default = _attention_tile(device, queries, heads, causal=causal, width=width, itemsize=dtype.itemsize, plain=plain)
    key = (_rows_of(1 << 31, queries), heads, causal, width, dtype.name, plain)
    return choose("attention", device, key, default, lambda: [*_attentions(device, queries, width)])


def _attentions(device: Any, queries: int, width: int) -> Iterator[Tile]:
    """What an attention could take."""
    if (family := _cuda_family(device)) is not None and width <= 128:
        yield from (replace(_cut(tile, queries), k=width) for tile in _CUDA_ATTENTION[family].values())
    rows, keys = _ATTENTION.get(device.kind, _ATTENTION_ELSEWHERE)
    for m, n in itertools.product(sorted({_rows_of(size, queries) for size in _SIZES if size <= rows}), _SIZES):
        if n <= 2 * keys:
            yield Tile(m, n, width)


def _attention_tile(
    device: Any, queries: int, heads: int, *, causal: bool, width: int, itemsize: int, plain: bool
) -> Tile:
    """Fewer queries where masks would hide much of a tile, or where cores would idle."""
    if (family := _cuda_family(device)) is not None and itemsize == 2 and width <= 128:
        tile = _CUDA_ATTENTION[family][64 if width <= 64 else 128]
        return replace(_cut(tile, queries), k=width)
    rows, keys = _ATTENTION.get(device.kind, _ATTENTION_ELSEWHERE)
    if device.kind == "ascend" and (width > 128 or not plain):
        rows, keys = rows // (2 if plain else 4), keys // 2
    rows = _rows_of(rows, queries)
    while rows > 128 and causal and queries < 8 * rows:
        rows //= 2
    enough = 1 if device.kind != "cpu" or (cores := cores_of(device)) == 1 else 2 * cores
    while -(-queries // rows) * heads < enough and rows > 32:
        rows //= 2
    return Tile(rows, keys, width)


def prefill_tile(device: Any, queries: int, page: int, *, width: int, types: str, plain: bool = True) -> Tile:
    """Queries and keys of a prefill over pages, for sequences of `queries` on the average, those that were measured.

    Else 64 queries, or on Ascend half of them where scores are not plain. types: names those of queries and cache.
    """
    rows = _rows_of(32 if device.kind == "ascend" and not plain else 64, queries)
    default = Tile(rows, paged_keys(device, page), width)
    key = (size_class(queries), page, width, types, plain)
    return choose("paged prefill", device, key, default, lambda: [*_prefills(device, queries, page, default)])


def _prefills(device: Any, queries: int, page: int, default: Tile) -> Iterator[Tile]:
    """What a prefill over pages could take."""
    rows = (size for size in near(default.m, 16, 256) if size <= _rows_of(256, queries))
    for m, n in itertools.product(rows, _key_counts(device, page, default.n)):
        yield replace(default, m=m, n=n)


def _key_counts(device: Any, page: int, default: int) -> list[int]:
    """Keys that an attention over pages could take at a time.

    Only on CUDA more than a page has, as there each key's place may be its own. On Ascend no fewer: see paged_keys.
    """
    most = 256 if device.kind == "cuda" else max(default, min(256, page & -page))
    return near(default, default if device.kind == "ascend" else 16, most)


def decode_tile(
    device: Any, programs: int, page: int, max_blocks: int, *, splits: int | None, width: int, types: str
) -> Tile:
    """Keys and parts of a sequence for one query of each over pages, those that were measured, else the kind's.

    programs: for each part; splits: the parts that the caller wants; types: names those of queries and cache.
    """
    default = Tile(1, paged_keys(device, page), splits or split_count(device, programs, max_blocks))
    key = (size_class(programs), page, size_class(max_blocks), splits or 0, width, types)

    def others() -> list[Tile]:
        counts = _key_counts(device, page, default.n)
        parts = (default.k,) if splits else _split_counts(default.k, max_blocks)
        return [Tile(1, n, k) for n, k in itertools.product(counts, parts)]

    return choose("paged attention", device, key, default, others)


def split_count(device: Any, programs: int, max_blocks: int) -> int:
    """Parts of a sequence, a power of two: enough that `programs` for each keep the device's cores busy."""
    return size_class(min(-(-2 * cores_of(device) // max(1, programs)), max_blocks))


def _split_counts(default: int, max_blocks: int) -> list[int]:
    return sorted({1, default, *near(default, 1, size_class(max_blocks))})


def paged_keys(device: Any, page: int) -> int:
    """Keys that an attention over pages of `page` takes at a time: a part of one page where it has room for 16.

    On CUDA 64 of several pages: a thread follows the table for each key, and its rows are wide enough to be read alone.
    On Ascend, where each element would be fetched alone then, as on a CPU, whose vectors hold neighbours.
    """
    if device.kind == "cuda":
        return max(64, min(128, page & -page))
    if device.kind == "ascend":  # the 950's compiler crashes at 16
        return max(32 if str(device.properties["target"]).startswith("ascend:950") else 16, min(32, page & -page))
    return max(16, min(256, page & -page))


def latent_tile(
    device: Any, batch: int, heads: int, page: int, max_blocks: int, *, splits: int | None = None, width: int = 576,
    types: str,
) -> Tile:  # fmt: skip
    """Query heads, keys and parts of a sequence for a latent attention, those that were measured, else the kind's.

    The kind's are all heads where the sums of rows some 576 wide fit. splits: the parts that the caller wants.
    types: names that of queries and cache.
    """
    tile = _LATENT.get(device.kind, _LATENT_ELSEWHERE)
    m, n = _rows_of(tile.m, heads), min(tile.n, paged_keys(device, page))

    def parts_for(m: int) -> int:
        return splits or split_count(device, batch * -(-heads // m), max_blocks)

    def others() -> list[Tile]:
        counts = _key_counts(device, page, n)
        return [
            replace(tile, m=rows, n=keys, k=parts)
            for rows, keys in itertools.product(near(m, 16, m), counts)
            for parts in ((splits,) if splits else _split_counts(parts_for(rows), max_blocks))
        ]

    key = (size_class(batch), heads, page, size_class(max_blocks), splits or 0, width, types)
    return choose("latent attention", device, key, replace(tile, m=m, n=n, k=parts_for(m)), others)


def row_tile(device: Any, columns: int) -> Tile:
    """The part of a row, `k` columns, that a program which sums or scales rows takes at a time.

    On a CPU what divides the row, 16 to 256 columns. On CUDA and Ascend the row at once, up to 8,192 columns; on CUDA
    with a warp for each 256 of them and at most 8 (Triton's tutorial 05-layer-norm).
    """
    if device.kind not in ("cuda", "ascend"):
        return Tile(1, 1, column_block(columns))
    block = min(8192, _rows_of(8192, columns))
    return Tile(1, 1, block, {"num_warps": min(8, max(1, block // 256))})


def column_block(columns: int, largest: int = 256) -> int:
    """The largest power of two, 16 to `largest`, that divides `columns`; `largest` where only a smaller one does."""
    divisor = columns & -columns
    return min(divisor, largest) if divisor >= 16 else largest
