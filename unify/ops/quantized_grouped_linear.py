"""x · weight[e]ᵀ for groups of rows, with quantised weights: codes are decoded where they are multiplied."""

from __future__ import annotations

import functools
from dataclasses import replace
from typing import Any

import triton.language as tl

import unify

from .groups import find_few_rows, find_program, find_tile, grid_of_few_rows, silu, source_rows
from .quant import BLOCK, COLUMNS, FP8_BLOCK, QuantizedActivations, QuantizedMatrix, quantize
from .quantized_linear import arrays_of, features_of_two_sums, fp8_few_tile, multiplies_blocks, product_type
from .quantized_products import block_products, byte_products, fp8_few_products, fp8_products
from .tile import Tile
from .tiles import default_grouped_tile
from .tuning import choose, size_class, tiles_near

_FP8_FEW_ROWS = 2  # of a group, on the average, up to which nothing is packed for tl.dot on a CPU
_PARTS = {"cpu": 8}  # times that many features a program goes through: most groups of few rows have none


# BITS: of a code in blocks of 32; 0: fp8.
@unify.jit
def _tile_products(
    x, x_scales, x_sums, row_inside, codes, scales, minimums, first, n, k, scale_row,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, COLUMNS: tl.constexpr, BITS: tl.constexpr, OFFSET: tl.constexpr,
    ONE_SCALE: tl.constexpr, EVEN_K: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    """[M, N] float32: rows x times N features from `first` on, of a matrix of n."""
    if BITS == 0:
        total = fp8_products(
            x, x_scales, row_inside, codes, scales, first, n, k, scale_row, M, N, K, ONE_SCALE, EVEN_K, TYPE
        )  # fmt: skip
    else:
        feature = first + tl.arange(0, N)
        # Rows of codes are all there: the 950's compiler crashes at gathered bytes with a mask before a product.
        total = block_products(
            x, x_scales, x_sums, row_inside if x_scales is None else None, codes, scales, minimums, feature,
            (feature < n)[None, :], k, M, N, K, COLUMNS, BITS, OFFSET, TYPE,
        )  # fmt: skip
    return total


# One program a tile of M rows of one group and N features, as grouped_kernel: of a gated one first the gate's. Rows are
# floats, or codes of int8 or fp8 with their scales, and of int8 sums.
@unify.jit
def quantized_grouped_kernel(
    x, x_scales, x_sums, gather, codes, scales, minimums, offsets, counts, out, groups, rows, x_rows, per_gather, n, k,
    x_row, c_group, s_group, scale_row, o_row,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, COLUMNS: tl.constexpr, BITS: tl.constexpr, OFFSET: tl.constexpr,
    STEPS: tl.constexpr, GATED: tl.constexpr, ONE_SCALE: tl.constexpr, EVEN_K: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    group, first, last, end = find_tile(offsets, counts, tl.program_id(1), groups, rows, M, STEPS)
    row = first + tl.arange(0, M)
    column = tl.program_id(0) * N + tl.arange(0, N)
    place = out + row.to(tl.int64)[:, None] * o_row + column[None, :]
    column_inside = (column < n)[None, :]
    if (group < groups) & (first < last):
        row_inside = (row < last)[:, None]
        source = source_rows(gather, tl.minimum(row, last - 1), x_rows, per_gather)
        x_place = x + source.to(tl.int64)[:, None] * x_row
        c_place = codes + group.to(tl.int64) * c_group
        s_place = scales + group.to(tl.int64) * s_group
        m_place = minimums if minimums is None else minimums + group.to(tl.int64) * s_group
        xs_place = x_scales
        sums_place = x_sums
        if BITS == 0 and x_scales is not None:
            xs_place = x_scales + source[:, None] * tl.cdiv(k, 128)
        if BITS > 0 and x_scales is not None:
            xs_place = x_scales + source[:, None]
            sums_place = x_sums + source[:, None] * (k // 32)
        total = _tile_products(
            x_place, xs_place, sums_place, row_inside, c_place, s_place, m_place, tl.program_id(0) * N, n, k, scale_row,
            M, N, K, COLUMNS, BITS, OFFSET, ONE_SCALE, EVEN_K, TYPE,
        )  # fmt: skip
        if GATED:
            total = silu(total) * _tile_products(
                x_place, xs_place, sums_place, row_inside, c_place, s_place, m_place, n + tl.program_id(0) * N, 2 * n,
                k, scale_row, M, N, K, COLUMNS, BITS, OFFSET, ONE_SCALE, EVEN_K, TYPE,
            )  # fmt: skip
        tl.store(place, total, mask=row_inside & column_inside)
    # Rows of no group, and those behind a group's count, are zeros.
    behind = tl.where(group < groups, last, first)
    if tl.maximum(first, behind) < end:
        nothing = tl.zeros([M, N], dtype=tl.float32)
        tl.store(place, nothing, mask=((row >= behind) & (row < end))[:, None] & column_inside)


@unify.jit
def _few_products(
    x, x_scales, x_sums, source, x_row, row_inside, codes, scales, minimums, first, n, k, scale_row,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, COLUMNS: tl.constexpr, BITS: tl.constexpr, OFFSET: tl.constexpr,
    WIDE: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    """[M, N] float32: rows `source` of x times N features from `first` on, of a matrix of n; N divides first."""
    if BITS == 0:
        x_place = x + source[:, None] * x_row
        xs_place = x_scales if x_scales is None else x_scales + source[:, None] * tl.cdiv(k, 128)
        total = fp8_few_products(x_place, xs_place, row_inside, codes, scales, first, n, k, scale_row, M, N, K, EVEN)
    else:
        total = byte_products(
            x, x_scales, x_sums, source, codes, scales, minimums, first // N, k, M, N, COLUMNS, BITS, OFFSET, WIDE
        )
    return total


# One program `parts` times N features of M rows of one group, groups before features, as grouped_few_rows_kernel. In
# blocks of 32, x are codes of 16 bits, WIDE, or of 8, with scales and sums; in fp8 floats, or codes with scales. ids:
# each row has the group that is written there.
@unify.jit
def quantized_grouped_few_rows_kernel(
    x, x_scales, x_sums, gather, codes, scales, minimums, offsets, ids, out, groups, rows, x_rows, per_gather, n, k,
    x_row, c_group, s_group, scale_row, o_row, parts,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, COLUMNS: tl.constexpr, BITS: tl.constexpr, OFFSET: tl.constexpr,
    STEPS: tl.constexpr, GATED: tl.constexpr, WIDE: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    tile, start_part = find_program(ids)
    group, first, last = find_few_rows(offsets, ids, tile, groups, rows, M, STEPS)
    if first < last:
        row = first + tl.arange(0, M)
        source = source_rows(gather, tl.minimum(row, last - 1), x_rows, per_gather).to(tl.int64)
        row_inside = (row < last)[:, None]
        expert = tl.minimum(group, groups - 1).to(tl.int64)
        c_place = codes + expert * c_group
        s_place = scales + expert * s_group
        m_place = minimums if minimums is None else minimums + expert * s_group
        for part in range(parts):
            feature = (start_part * parts + part) * N
            if feature < n:
                total = _few_products(
                    x, x_scales, x_sums, source, x_row, row_inside, c_place, s_place, m_place, feature, n, k, scale_row,
                    M, N, K, COLUMNS, BITS, OFFSET, WIDE, EVEN,
                )  # fmt: skip
                if GATED:
                    total = silu(total) * _few_products(
                        x, x_scales, x_sums, source, x_row, row_inside, c_place, s_place, m_place, n + feature, 2 * n,
                        k, scale_row, M, N, K, COLUMNS, BITS, OFFSET, WIDE, EVEN,
                    )  # fmt: skip
                total = tl.where(group < groups, total, 0.0)  # rows of no group are zeros
                column = feature + tl.arange(0, N)
                place = out + row.to(tl.int64)[:, None] * o_row + column[None, :]
                tl.store(place, total, mask=row_inside & (column < n)[None, :])


def quantized_tile(
    device: Any, rows: int, kind: str, k: int, dtype: Any, *, gated: bool, of_codes: bool = False
) -> Tile:
    """The tile for groups of `rows` rows on the average, whose products are of dtype, or of codes: as deep as a scale
    reaches."""
    tile = default_grouped_tile(device, rows, dtype, gated=gated)
    if kind != "fp8" and of_codes:
        return replace(tile, n=min(tile.n, features_of_two_sums(device)), k=BLOCK)
    if kind != "fp8":
        return replace(tile, k=64 if k % 64 == 0 else BLOCK)
    return replace(tile, n=min(tile.n, features_of_two_sums(device)), k=FP8_BLOCK if device.kind == "cpu" else 64)


def few_rows_tile(device: Any, rows: int, kind: str, n: int, *, gated: bool) -> Tile:
    """The tile for up to 4 rows of groups of `rows` on the average; gated, whole ones are filled by the gate's."""
    few = fp8_few_tile(device, rows)
    if kind != "fp8":
        few = Tile(few.m, COLUMNS if few.m == 1 else COLUMNS // 4, BLOCK)
    return replace(few, n=min(few.n, n & -n)) if gated and n else few


def _measured_tile(x: Any, rows: int, n: int, weight: QuantizedMatrix, gated: bool) -> Tile:
    """The tile that was measured for groups of `rows` rows on the average, else that of quantized_tile."""
    device, kind, of_codes = x.device, weight.kind, isinstance(x, QuantizedActivations)
    default = quantized_tile(device, rows, kind, weight.shape[2], _dtype(x), gated=gated, of_codes=of_codes)
    widest = features_of_two_sums(device) if (kind == "fp8" or of_codes) and device.kind != "cpu" else 512
    deepest = FP8_BLOCK if kind == "fp8" else default.k  # which divides k
    others = functools.partial(tiles_near, default, (16, 16, BLOCK), (512, widest, deepest))
    key = (size_class(rows), n, default.k, kind, x.kind if of_codes else x.dtype.name, gated)
    return choose("quantised grouped product", device, key, default, others)


def _measured_few_tile(x: Any, rows: int, n: int, kind: str, gated: bool, *, is_one: bool) -> Tile:
    """The tile that was measured for groups of few rows, or of one, else that of few_rows_tile.

    Features are no more than the table's, as those of a gated one have to divide n, and codes lie in so many columns.
    """
    device = x.device
    default = few_rows_tile(device, rows, kind, n, gated=gated)
    # Without codes x becomes those of int16 for a weight in blocks, whatever it was.
    taken = (x.kind,) if isinstance(x, QuantizedActivations) else (x.dtype.name,) if kind == "fp8" else ()
    shallowest, deepest = (16, FP8_BLOCK) if kind == "fp8" else (BLOCK, BLOCK)
    least = (1, min(16, default.n), shallowest)
    most = (1 if is_one else 4, default.n, deepest)
    others = functools.partial(tiles_near, default, least, most)
    return choose("quantised grouped few rows", device, (is_one, default.m, n, kind, gated, *taken), default, others)


def _layout(weight: QuantizedMatrix) -> dict[str, int]:
    bits, offset = (0, 0) if weight.kind == "fp8" else (weight.format.bits, weight.format.offset)
    return {"COLUMNS": COLUMNS, "BITS": bits, "OFFSET": offset}


def _sizes(weight: QuantizedMatrix, n: int, x_row: int) -> tuple[int, ...]:
    return (n, weight.shape[2], x_row, weight.codes.strides[0], weight.scales.strides[0], weight.scales.shape[-1], n)


def quantized_grouped_product(
    x: Any, weight: QuantizedMatrix, out: Any, gated: bool, *, offsets: Any = None, ids: Any = None,
    gather: Any = None, per_gather: int = 1,
) -> None:  # fmt: skip
    """Writes out = x · weight[group]ᵀ as `grouped_linear.grouped_product` does. x: rows contiguous, or codes."""
    groups, n_stored, k = weight.shape
    rows, n = out.shape
    device = x.device
    average = -(-rows // groups)
    if ids is None and not _takes_few(x, weight.kind, average):
        tile = _measured_tile(x, average, n, weight, gated)
        tiles = rows // tile.m + groups + 1
        _launch(x, weight, out, gated, tile, tiles, groups, rows, offsets=offsets, gather=gather, per_gather=per_gather)
        return
    few = _measured_few_tile(x, 1 if ids is not None else average, n, weight.kind, gated, is_one=ids is not None)
    if weight.kind != "fp8" and not isinstance(x, QuantizedActivations):
        x = quantize(x)
    values, scales, sums = arrays_of(x)
    is_wide = sums is not None and x.kind == "int16"
    parts = _PARTS.get(device.kind, 1)
    tiles = rows if ids is not None else rows // few.m + groups + 1
    quantized_grouped_few_rows_kernel[grid_of_few_rows(ids, tiles, -(-n // (few.n * parts)))](
        values, scales, sums, gather, weight.codes, weight.scales, weight.minimums, offsets, ids, out, groups, rows,
        values.shape[0], per_gather, *_sizes(weight, n, values.strides[0]), parts, M=few.m, N=few.n, K=few.k,
        STEPS=groups.bit_length(), GATED=gated, WIDE=is_wide,
        EVEN=k % FP8_BLOCK == 0 and n_stored % few.n == 0 and n % few.n == 0, **_layout(weight),
    )  # fmt: skip


def _takes_few(x: Any, kind: str, rows: int) -> bool:
    """Whether groups of `rows` rows on the average take few rows at a time; matrix units would take them as well."""
    return x.device.kind == "cpu" and (rows <= _FP8_FEW_ROWS if kind == "fp8" else not multiplies_blocks(x, rows))


def quantized_masked_product(x: Any, weight: QuantizedMatrix, counts: Any, out: Any, gated: bool) -> None:
    """Writes out = x · weight[group]ᵀ as `grouped_linear.masked_product` does. x: rows contiguous, or codes."""
    groups = weight.shape[0]
    rows = out.shape[0] // groups
    tile = _measured_tile(x, rows, out.shape[1], weight, gated)
    _launch(x, weight, out, gated, tile, groups * -(-rows // tile.m), groups, rows, counts=counts)


def _dtype(x: Any) -> Any:
    """That of what is multiplied, of codes of int8 float32: they have the same tiles."""
    return {tl.bfloat16: unify.bfloat16, tl.float16: unify.float16}.get(product_type(x), unify.float32)


def _launch(
    x: Any, weight: QuantizedMatrix, out: Any, gated: bool, tile: Tile, tiles: int, groups: int, rows: int, *,
    offsets: Any = None, counts: Any = None, gather: Any = None, per_gather: int = 1,
) -> None:  # fmt: skip
    n, k = out.shape[1], weight.shape[2]
    values, scales, sums = arrays_of(x)
    quantized_grouped_kernel[(-(-n // tile.n), tiles)](
        values, scales, sums, gather, weight.codes, weight.scales, weight.minimums, offsets, counts, out, groups, rows,
        values.shape[0], per_gather, *_sizes(weight, n, values.strides[0]), M=tile.m, N=tile.n, K=tile.k,
        STEPS=0 if offsets is None else groups.bit_length(), GATED=gated,
        ONE_SCALE=tile.n <= FP8_BLOCK and not (gated and n % tile.n), EVEN_K=k % FP8_BLOCK == 0,
        TYPE=product_type(x), **_layout(weight), **tile.launch,
    )  # fmt: skip
