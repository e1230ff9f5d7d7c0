"""Which rows are whose in products of groups of rows, and what gates them."""

from __future__ import annotations

from typing import Any

import triton.language as tl

import unify


# Tile t belongs to the last group i with offsets[i] // M + i <= t: the bound grows by one more than a group fills, so
# that no sum over groups is needed. Behind the last group come the rows of none. Offsets that are no offsets lead to no
# place outside. One number at a time: the 950's compiler takes no vectors of a reduction beside a product.
@unify.jit
def find_rows(offsets, tile, groups, rows, M: tl.constexpr, STEPS: tl.constexpr):
    """The group of a tile of M rows, the first row, and where the group's rows end."""
    low = tile * 0
    high = groups
    for _ in range(STEPS):
        middle = (low + high + 1) // 2
        begun = tl.load(offsets + middle) // M + middle <= tile
        low = tl.where(begun, middle, low)
        high = tl.where(begun, high, tl.maximum(middle - 1, 0))
    first = tl.minimum(tl.maximum(tl.load(offsets + low), 0), rows)
    last = tl.minimum(tl.load(offsets + tl.minimum(low + 1, groups)), rows)
    last = tl.where(low == groups, rows, last)
    return low, first + tl.maximum(tile - first // M - low, 0) * M, last


@unify.jit
def source_rows(gather, row, x_rows, per_gather):
    """The rows of x that the rows of a result are made of: those themselves, or what a table says."""
    if gather is not None:
        row = tl.load(gather + row)
    return tl.minimum(tl.maximum(row // per_gather, 0), x_rows - 1)


@unify.jit
def find_tile(offsets, counts, tile, groups, rows, M: tl.constexpr, STEPS: tl.constexpr):
    """The group of a tile of M rows, the first row, where the group's rows end, and where those that are written do.

    counts: a group's rows are the first of `rows`, and there are no offsets.
    """
    if counts is not None:
        tiles = tl.cdiv(rows, M)
        group = tile // tiles
        first = group * rows + tile % tiles * M
        last = group * rows + tl.minimum(tl.maximum(tl.load(counts + group), 0), rows)
        end = (group + 1) * rows
    else:
        group, first, last = find_rows(offsets, tile, groups, rows, M, STEPS)
        end = last
    return group, first, last, end


def grid_of_few_rows(ids: Any, tiles: int, parts: int) -> tuple[int, int]:
    """The grid of tiles of few rows, and parts of their features, in the order of `find_program`."""
    return (tiles, parts) if ids is None else (parts, tiles)


@unify.jit
def find_program(ids):
    """A program's tile and part of the features, of which the first comes first, or where ids say each row's group, the
    second: then no other row has its weight."""
    if ids is not None:
        tile = tl.program_id(1)
        part = tl.program_id(0)
    else:
        tile = tl.program_id(0)
        part = tl.program_id(1)
    return tile, part


@unify.jit
def find_few_rows(offsets, ids, tile, groups, rows, M: tl.constexpr, STEPS: tl.constexpr):
    """As find_rows, or where ids say each row's group, the row `tile`; one that is negative is the group `groups`."""
    if ids is not None:
        group = tl.load(ids + tile)
        group = tl.where(group < 0, groups, group)
        first = tile
        last = tile + 1
    else:
        group, first, last = find_rows(offsets, tile, groups, rows, M, STEPS)
    return group, first, last


@unify.jit
def silu(x):
    return x / (1.0 + tl.exp(-x))
