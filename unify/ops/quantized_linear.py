"""x · weightᵀ with a quantised weight: exact sums of codes, or for many rows on some processors, of floats."""

from __future__ import annotations

import functools
import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import triton.language as tl

import unify
from unify._errors import ShapeError

from .quant import BLOCK, COLUMNS, FP8_BLOCK, QuantizedMatrix, quantize
from .quantized_products import block_products, byte_products, fp8_few_products, fp8_products
from .tile import Tile
from .tiles import default_product_tile
from .tuning import choose, size_class, tiles_near

_ROWS = {"cpu": 4, "ascend": 4}  # the vendor's compiler takes 25 s for 16
_ROWS_ELSEWHERE = 16
_MANY_ROWS = 64  # from here on weights become floats for all of them, where 16 bits or floats are multiplied faster
_FP8_FEW_ROWS = 4  # up to here nothing is packed for tl.dot
_FP8_FEW = {"cpu": {1: Tile(1, 16, 16), 2: Tile(2, 8, 16), 4: Tile(4, 8, 16)}}  # their sums stay in registers
_FP8_FEW_ELSEWHERE = {1: Tile(1, 16, 128), 2: Tile(2, 16, 128), 4: Tile(4, 16, 128)}
_FP8_FEATURES = {"ascend": 64, "cuda": FP8_BLOCK}  # at most; two sums of a tile lie in a core's memory, or in registers


# One program N features of ROWS rows.
@unify.jit
def quantized_linear_kernel(
    x_codes, x_scales, x_sums, codes, scales, minimums, residual, out, m, n, k, r_row, o_row,
    ROWS: tl.constexpr, N: tl.constexpr, COLUMNS: tl.constexpr, BITS: tl.constexpr, OFFSET: tl.constexpr,
    EVEN: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    if not EVEN:
        row = tl.minimum(row, m - 1)
    part = tl.program_id(1)
    total = byte_products(
        x_codes, x_scales, x_sums, row, codes, scales, minimums, part, k, ROWS, N, COLUMNS, BITS, OFFSET
    )
    column = part * N + tl.arange(0, N)
    inside = (tl.program_id(0) * ROWS + tl.arange(0, ROWS) < m)[:, None] & (column < n)[None, :]
    if residual is not None:
        total += tl.load(residual + row[:, None] * r_row + column[None, :], mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row[:, None] * o_row + column[None, :], total, mask=inside)


# One program a tile of M rows and N features.
@unify.jit
def dequantized_linear_kernel(
    x, codes, scales, minimums, residual, out, m, n, k, x_row, r_row, o_row,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, COLUMNS: tl.constexpr, BITS: tl.constexpr, OFFSET: tl.constexpr,
    TYPE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * M + tl.arange(0, M)
    feature = tl.program_id(1) * N + tl.arange(0, N)
    row_inside = (row < m)[:, None]
    column_inside = (feature < n)[None, :]
    total = block_products(
        x + row.to(tl.int64)[:, None] * x_row, row_inside, codes, scales, minimums, feature, column_inside, k,
        M, N, K, COLUMNS, BITS, OFFSET, TYPE,
    )  # fmt: skip
    inside = row_inside & column_inside
    if residual is not None:
        total += tl.load(residual + row.to(tl.int64)[:, None] * r_row + feature[None, :], mask=inside, other=0.0).to(
            tl.float32
        )
    tl.store(out + row.to(tl.int64)[:, None] * o_row + feature[None, :], total, mask=inside)


# One program N features of ROWS rows.
@unify.jit
def fp8_few_rows_kernel(
    x, codes, scales, residual, out, m, n, k, x_row, scale_row, r_row, o_row,
    ROWS: tl.constexpr, N: tl.constexpr, K: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    feature = tl.program_id(0) * N + tl.arange(0, N)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    row_inside = (row < m)[:, None]
    total = fp8_few_products(
        x + row[:, None] * x_row, row_inside, codes, scales, tl.program_id(0) * N, n, k, scale_row, ROWS, N, K, EVEN
    )
    inside = row_inside & (feature < n)[None, :]
    if residual is not None:
        total += tl.load(residual + row[:, None] * r_row + feature[None, :], mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row[:, None] * o_row + feature[None, :], total, mask=inside)


# One program a tile of M rows and N features.
@unify.jit
def fp8_linear_kernel(
    x, codes, scales, residual, out, m, n, k, x_row, scale_row, r_row, o_row,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, EVEN_K: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * M + tl.arange(0, M)
    feature = tl.program_id(1) * N + tl.arange(0, N)
    row_inside = (row < m)[:, None]
    total = fp8_products(
        x + row.to(tl.int64)[:, None] * x_row, row_inside, codes, scales, tl.program_id(1) * N, n, k, scale_row,
        M, N, K, N <= 128, EVEN_K, TYPE,
    )  # fmt: skip
    inside = row_inside & (feature < n)[None, :]
    if residual is not None:
        total += tl.load(residual + row.to(tl.int64)[:, None] * r_row + feature[None, :], mask=inside, other=0.0).to(
            tl.float32
        )
    tl.store(out + row.to(tl.int64)[:, None] * o_row + feature[None, :], total, mask=inside)


@functools.cache
def _processor_flags() -> frozenset[str]:
    found = re.search(r"^(flags|Features)\s*:(.*)$", Path("/proc/cpuinfo").read_text(), re.MULTILINE)
    return frozenset(found.group(2).split() if found else ())


def _has_byte_products() -> bool:
    """Whether this processor multiplies and adds bytes faster than floats: AVX's VNNI, ARM's dot products."""
    return not _processor_flags().isdisjoint({"avx512_vnni", "avx_vnni", "asimddp"})


def _has_bfloat16_products() -> bool:
    """Whether this processor multiplies and adds pairs of bfloat16, which is twice as fast as floats."""
    return not _processor_flags().isdisjoint({"avx512_bf16", "bf16"})


def product_type(x: Any) -> Any:
    """The type in which rows x, many of them, are multiplied by weights that become floats: x's own, if it is fast."""
    if x.device.kind == "cpu" and (x.dtype != unify.bfloat16 or not _has_bfloat16_products()):
        return tl.float32
    return {unify.bfloat16: tl.bfloat16, unify.float16: tl.float16}.get(x.dtype, tl.float32)


def multiplies_bytes(x: Any, m: int) -> bool:
    """Whether `m` rows of x become codes, for products with a weight in blocks of 32 that are of bytes."""
    bytes_are_fast = x.device.kind != "cpu" or _has_byte_products()
    return m < _MANY_ROWS or (product_type(x) == tl.float32 and bytes_are_fast)


def fp8_few_tile(device: Any, m: int) -> Tile:
    """The tile for `m` rows, 1 to 4, of a product with a weight in fp8."""
    tiles = _FP8_FEW.get(device.kind, _FP8_FEW_ELSEWHERE)
    return tiles[min(4, size_class(m))]


def fp8_tile(device: Any, m: int, n: int, *, itemsize: int = 4) -> Tile:
    """The tile for a product [m, n] with a weight in fp8: on a CPU as deep as a scale reaches."""
    tile = default_product_tile(device, m, n, itemsize)
    if device.kind == "cpu":
        return replace(tile, k=FP8_BLOCK)
    return replace(tile, n=min(tile.n, fp8_features(device)), k=64)


def _measured(
    name: str, x: Any, n: int, kind: str, default: Tile, least: tuple[int, int, int], most: tuple[int, int, int]
) -> Tile:
    """The tile that was measured for x [m, k] times a weight of n features and of that kind, else the default."""
    others = functools.partial(tiles_near, default, least, most)
    return choose(name, x.device, (size_class(x.shape[0]), n, kind, x.dtype.itemsize), default, others)


def fp8_features(device: Any) -> int:
    """Features that a product with a weight in fp8 takes at most, where this is no CPU."""
    return _FP8_FEATURES.get(device.kind, FP8_BLOCK)


def quantized_linear(x: Any, weight: QuantizedMatrix, residual: Any, out: Any) -> None:
    """out = x · weightᵀ + residual, enqueued on the current stream. x: [m, k]; residual, if any, and out: [m, n]."""
    if weight.kind == "fp8":
        _fp8_linear(x, weight, residual, out)
        return
    (m, k), n = x.shape, weight.shape[0]
    if k % BLOCK:
        raise ShapeError(f"linear: a quantised weight's k must be a multiple of {BLOCK}; it is {k}.")
    layout = {"COLUMNS": COLUMNS, "BITS": weight.format.bits, "OFFSET": weight.format.offset}
    if not multiplies_bytes(x, m):
        tile = default_product_tile(x.device, m, n, 4)
        tile = replace(tile, k=64 if k % 64 == 0 else BLOCK)
        tile = _measured("product with codes", x, n, weight.kind, tile, (16, 16, BLOCK), (512, 512, tile.k))
        dequantized_linear_kernel[(-(-m // tile.m), -(-n // tile.n))](
            x, weight.codes, weight.scales, weight.minimums, residual, out, m, n, k, x.strides[0],
            0 if residual is None else residual.strides[0], out.strides[0], M=tile.m, N=tile.n,
            K=tile.k, TYPE=product_type(x), **layout,
        )  # fmt: skip
        return
    values = quantize(x)
    rows = 1 if m == 1 else _ROWS.get(x.device.kind, _ROWS_ELSEWHERE)
    tile = Tile(rows, COLUMNS if rows == 1 else COLUMNS // 4, BLOCK)  # as many sums as registers hold
    most = (min(size_class(m), 4 if x.device.kind == "ascend" else 16), COLUMNS, BLOCK)
    tile = _measured("product of codes", x, n, weight.kind, tile, (1, 16, BLOCK), most)
    quantized_linear_kernel[(-(-m // tile.m), -(-n // tile.n))](
        values.codes, values.scales, values.sums, weight.codes, weight.scales, weight.minimums, residual, out,
        m, n, k, 0 if residual is None else residual.strides[0], out.strides[0],
        ROWS=tile.m, N=tile.n, EVEN=m % tile.m == 0, **layout,
    )  # fmt: skip


def _fp8_linear(x: Any, weight: QuantizedMatrix, residual: Any, out: Any) -> None:
    (m, k), n = x.shape, weight.shape[0]
    arrays = (x, weight.codes, weight.scales, residual, out)
    sizes = (
        m, n, k, x.strides[0], weight.scales.shape[-1], 0 if residual is None else residual.strides[0], out.strides[0]
    )  # fmt: skip
    if m <= _FP8_FEW_ROWS:
        few = fp8_few_tile(x.device, m)
        few = _measured("fp8 few rows", x, n, "fp8", few, (few.m, 1, 16), (few.m, 64, FP8_BLOCK))
        fp8_few_rows_kernel[(-(-n // few.n), -(-m // few.m))](
            *arrays, *sizes, ROWS=few.m, N=few.n, K=few.k, EVEN=k % FP8_BLOCK == 0 and n % few.n == 0
        )
        return
    tile = fp8_tile(x.device, m, n, itemsize=x.dtype.itemsize)
    most = (512, 512 if x.device.kind == "cpu" else fp8_features(x.device), FP8_BLOCK)
    tile = _measured("fp8 product", x, n, "fp8", tile, (16, 16, 16), most)
    fp8_linear_kernel[(-(-m // tile.m), -(-n // tile.n))](
        *arrays, *sizes, M=tile.m, N=tile.n, K=tile.k, EVEN_K=k % FP8_BLOCK == 0, TYPE=product_type(x), **tile.launch
    )
