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

from .quant import BLOCK, COLUMNS, FP8_BLOCK, QuantizedActivations, QuantizedMatrix, quantize
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
# At most, where a block's sum stands beside that over all: both lie in a core's memory, or in registers.
_FEATURES_OF_TWO_SUMS = {"ascend": 64}


# One program N features of ROWS rows.
@unify.jit
def quantized_linear_kernel(
    x_codes, x_scales, x_sums, codes, scales, minimums, residual, out, m, n, k, r_row, o_row,
    ROWS: tl.constexpr, N: tl.constexpr, COLUMNS: tl.constexpr, BITS: tl.constexpr, OFFSET: tl.constexpr,
    WIDE: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * ROWS + tl.arange(0, ROWS)
    if not EVEN:
        row = tl.minimum(row, m - 1)
    part = tl.program_id(1)
    total = byte_products(
        x_codes, x_scales, x_sums, row, codes, scales, minimums, part, k, ROWS, N, COLUMNS, BITS, OFFSET, WIDE
    )
    column = part * N + tl.arange(0, N)
    inside = (tl.program_id(0) * ROWS + tl.arange(0, ROWS) < m)[:, None] & (column < n)[None, :]
    if residual is not None:
        total += tl.load(residual + row[:, None] * r_row + column[None, :], mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row[:, None] * o_row + column[None, :], total, mask=inside)


# One program a tile of M rows and N features. TYPE int8: x are codes, which are multiplied with codes.
@unify.jit
def dequantized_linear_kernel(
    x, x_scales, x_sums, codes, scales, minimums, residual, out, m, n, k, x_row, r_row, o_row,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, COLUMNS: tl.constexpr, BITS: tl.constexpr, OFFSET: tl.constexpr,
    TYPE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * M + tl.arange(0, M)
    feature = tl.program_id(1) * N + tl.arange(0, N)
    row_inside = (row < m)[:, None]
    column_inside = (feature < n)[None, :]
    if tl.int8 == TYPE:
        x_scales += row[:, None]
        x_sums += row[:, None] * (k // 32)
    total = block_products(
        x + row.to(tl.int64)[:, None] * x_row, x_scales, x_sums, row_inside, codes, scales, minimums, feature,
        column_inside, k, M, N, K, COLUMNS, BITS, OFFSET, TYPE,
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
    x, x_scales, codes, scales, residual, out, m, n, k, x_row, scale_row, r_row, o_row,
    ROWS: tl.constexpr, N: tl.constexpr, K: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    feature = tl.program_id(0) * N + tl.arange(0, N)
    row = tl.program_id(1) * ROWS + tl.arange(0, ROWS)
    row_inside = (row < m)[:, None]
    if x_scales is not None:
        x_scales += row[:, None] * tl.cdiv(k, 128)
    total = fp8_few_products(
        x + row[:, None] * x_row, x_scales, row_inside, codes, scales, tl.program_id(0) * N, n, k, scale_row,
        ROWS, N, K, EVEN,
    )  # fmt: skip
    inside = row_inside & (feature < n)[None, :]
    if residual is not None:
        total += tl.load(residual + row[:, None] * r_row + feature[None, :], mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row[:, None] * o_row + feature[None, :], total, mask=inside)


# One program a tile of M rows and N features.
@unify.jit
def fp8_linear_kernel(
    x, x_scales, codes, scales, residual, out, m, n, k, x_row, scale_row, r_row, o_row,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, EVEN_K: tl.constexpr, TYPE: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0) * M + tl.arange(0, M)
    feature = tl.program_id(1) * N + tl.arange(0, N)
    row_inside = (row < m)[:, None]
    if x_scales is not None:
        x_scales += row[:, None] * tl.cdiv(k, 128)
    total = fp8_products(
        x + row.to(tl.int64)[:, None] * x_row, x_scales, row_inside, codes, scales, tl.program_id(1) * N, n, k,
        scale_row, M, N, K, N <= 128, EVEN_K, TYPE,
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
    """The type in which many rows x are multiplied: x's own, if it is fast, with weights that become floats."""
    if isinstance(x, QuantizedActivations):
        if x.kind == "int8":
            return tl.int8
        # What fp8 stands for is exact in all of them.
        return tl.float16 if x.device.kind != "cpu" else tl.bfloat16 if _has_bfloat16_products() else tl.float32
    if x.device.kind == "cpu" and (x.dtype != unify.bfloat16 or not _has_bfloat16_products()):
        return tl.float32
    return {unify.bfloat16: tl.bfloat16, unify.float16: tl.float16}.get(x.dtype, tl.float32)


def multiplies_blocks(x: Any, m: int) -> bool:
    """Whether `m` rows x, for products with a weight in blocks of 32, are multiplied as they are, in tiles of many.

    Else they are codes or become some, and products are sums of bytes.
    """
    bytes_are_fast = x.device.kind != "cpu" or _has_byte_products()
    if isinstance(x, QuantizedActivations):
        return x.kind == "int8" and m >= _MANY_ROWS and not (x.device.kind == "cpu" and bytes_are_fast)
    return m >= _MANY_ROWS and not (product_type(x) == tl.float32 and bytes_are_fast)


def block_depth(x: Any, k: int) -> int:
    """Inputs that a tile of many rows takes at a time, of a weight in blocks of 32: sums of codes end with a block."""
    return 64 if k % 64 == 0 and not isinstance(x, QuantizedActivations) else BLOCK


def block_tile(x: Any, m: int, n: int, k: int) -> Tile:
    """The tile for a product [m, n] of k inputs with a weight in blocks of 32."""
    tile = replace(default_product_tile(x.device, m, n, 4), k=block_depth(x, k))
    if isinstance(x, QuantizedActivations):
        return replace(tile, n=min(tile.n, features_of_two_sums(x.device)))
    return tile


def arrays_of(x: Any) -> tuple[Any, Any, Any]:
    """What a kernel is given for rows: the array, or codes, their scales and, where there are some, their sums."""
    if not isinstance(x, QuantizedActivations):
        return x, None, None
    return (x.codes.view(unify.uint8) if x.kind == "fp8" else x.codes), x.scales, x.sums


def fp8_few_tile(device: Any, m: int) -> Tile:
    """The tile for `m` rows, 1 to 4, of a product with a weight in fp8."""
    tiles = _FP8_FEW.get(device.kind, _FP8_FEW_ELSEWHERE)
    return tiles[min(4, size_class(m))]


def fp8_tile(device: Any, m: int, n: int, *, itemsize: int = 4) -> Tile:
    """The tile for a product [m, n] with a weight in fp8: on a CPU as deep as a scale reaches."""
    tile = default_product_tile(device, m, n, itemsize)
    if device.kind == "cpu":
        return replace(tile, k=FP8_BLOCK)
    return replace(tile, n=min(tile.n, features_of_two_sums(device)), k=64)


def features_of_two_sums(device: Any) -> int:
    """Features that a product takes at most which sums each block of inputs on its own."""
    return _FEATURES_OF_TWO_SUMS.get(device.kind, FP8_BLOCK)


def _measured(
    name: str, x: Any, n: int, kind: str, default: Tile, least: tuple[int, int, int], most: tuple[int, int, int]
) -> Tile:
    """The tile that was measured for x [m, k] times a weight of n features and of that kind, else the default.

    x: an array or codes, for which other tiles are the best. A tile is no deeper than the default, which is as deep as
    k allows.
    """
    others = functools.partial(tiles_near, default, least, most)
    taken = x.kind if isinstance(x, QuantizedActivations) else x.dtype.name
    return choose(name, x.device, (size_class(x.shape[0]), n, default.k, kind, taken), default, others)


def quantized_linear(x: Any, weight: QuantizedMatrix, residual: Any, out: Any) -> None:
    """out = x · weightᵀ + residual, enqueued on the current stream.

    x: [m, k], or codes that the weight can be multiplied with; residual, if any, and out: [m, n].
    """
    if weight.kind == "fp8":
        _fp8_linear(x, weight, residual, out)
        return
    (m, k), n = x.shape, weight.shape[0]
    if k % BLOCK:
        raise ShapeError(f"linear: a quantised weight's k must be a multiple of {BLOCK}; it is {k}.")
    layout = {"COLUMNS": COLUMNS, "BITS": weight.format.bits, "OFFSET": weight.format.offset}
    if multiplies_blocks(x, m):
        values, scales, sums = arrays_of(x)
        tile = block_tile(x, m, n, k)
        most = (512, tile.n if isinstance(x, QuantizedActivations) else 512, tile.k)
        tile = _measured("product with codes", x, n, weight.kind, tile, (16, 16, BLOCK), most)
        dequantized_linear_kernel[(-(-m // tile.m), -(-n // tile.n))](
            values, scales, sums, weight.codes, weight.scales, weight.minimums, residual, out, m, n, k,
            values.strides[0], 0 if residual is None else residual.strides[0], out.strides[0], M=tile.m, N=tile.n,
            K=tile.k, TYPE=product_type(x), **layout,
        )  # fmt: skip
        return
    codes = x if isinstance(x, QuantizedActivations) else quantize(x)
    is_wide = codes.kind == "int16"
    rows = 1 if m == 1 else _ROWS.get(x.device.kind, _ROWS_ELSEWHERE)
    tile = Tile(rows, COLUMNS if rows == 1 else COLUMNS // 4, BLOCK)  # as many sums as registers hold
    most = (min(size_class(m), 4 if x.device.kind == "ascend" else 16), COLUMNS, BLOCK)
    tile = _measured("product of codes", codes, n, weight.kind, tile, (1, 16, BLOCK), most)
    quantized_linear_kernel[(-(-m // tile.m), -(-n // tile.n))](
        codes.codes, codes.scales, codes.sums, weight.codes, weight.scales, weight.minimums, residual, out,
        m, n, k, 0 if residual is None else residual.strides[0], out.strides[0],
        ROWS=tile.m, N=tile.n, WIDE=is_wide, EVEN=m % tile.m == 0, **layout,
    )  # fmt: skip


def _fp8_linear(x: Any, weight: QuantizedMatrix, residual: Any, out: Any) -> None:
    (m, k), n = x.shape, weight.shape[0]
    values, x_scales, _ = arrays_of(x)
    arrays = (values, x_scales, weight.codes, weight.scales, residual, out)
    sizes = (
        m, n, k, values.strides[0], weight.scales.shape[-1], 0 if residual is None else residual.strides[0],
        out.strides[0],
    )  # fmt: skip
    if m <= _FP8_FEW_ROWS:
        few = fp8_few_tile(x.device, m)
        few = _measured("fp8 few rows", x, n, "fp8", few, (few.m, 1, 16), (few.m, 64, FP8_BLOCK))
        fp8_few_rows_kernel[(-(-n // few.n), -(-m // few.m))](
            *arrays, *sizes, ROWS=few.m, N=few.n, K=few.k, EVEN=k % FP8_BLOCK == 0 and n % few.n == 0
        )
        return
    tile = fp8_tile(x.device, m, n, itemsize=x.dtype.itemsize)
    most = (512, 512 if x.device.kind == "cpu" else features_of_two_sums(x.device), FP8_BLOCK)
    tile = _measured("fp8 product", x, n, "fp8", tile, (16, 16, 16), most)
    fp8_linear_kernel[(-(-m // tile.m), -(-n // tile.n))](
        *arrays, *sizes, M=tile.m, N=tile.n, K=tile.k, EVEN_K=k % FP8_BLOCK == 0, TYPE=product_type(x), **tile.launch
    )
