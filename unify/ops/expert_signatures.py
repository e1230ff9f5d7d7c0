"""Rows of the kernels that route tokens to experts and multiply groups of rows: see signatures.py.

Experts are those of DeepSeek-V3: 256 in 8 groups, of which 4 groups and 8 experts are chosen.
"""

from __future__ import annotations

from typing import Any

import triton.language as tl

from unify._tensor import bfloat16, float16, float32

from .grouped_linear import (
    _ONE_ROW as GROUPED_ONE_ROW,
    _ONE_ROW_ELSEWHERE as GROUPED_ONE_ROW_ELSEWHERE,
    grouped_few_rows_kernel,
    grouped_kernel,
)
from .moe import _BLOCK as MOE_BLOCK, combine_kernel
from .quant import COLUMNS
from .quantized_grouped_linear import (
    few_rows_tile,
    quantized_grouped_few_rows_kernel,
    quantized_grouped_kernel,
    quantized_tile,
)
from .routing import count_kernel, offsets_kernel, place_kernel, route_kernel, sort_tile
from .signature import ARRAY, BYTES, CODES, FEATURES, FLOATS, INTS, SIZE, TOKENS, Signature, blocks, row, types
from .tiles import grouped_tile

_BLOCKS = {"int4": "q4_0", "int8": "q8_0"}


def experts(chip: Any) -> list[Signature]:
    """Of weights as dense as activations, and what brings tokens to them and back."""
    count, groups, slots = 256, 8, 8
    block, parts = sort_tile(chip, count)
    tile = grouped_tile(chip, TOKENS * slots // count, FEATURES, float16, gated=True)
    few, _ = GROUPED_ONE_ROW.get(chip.kind, GROUPED_ONE_ROW_ELSEWHERE)
    product = types("x weight out", ARRAY) | types("n k x_row w_row o_row", SIZE) | {"w_group": SIZE}
    product |= types("groups rows x_rows per_gather", "i32")
    sorting = {"size": "i32", "experts": "i32", "capacity": "i32"}
    return [
        Signature(
            route_kernel,
            {"logits": ARRAY, "row_stride": SIZE, "scale": "fp32", "ids": INTS} | types("bias weights", FLOATS),
            {
                "GROUPS": groups,
                "SIZE": count // groups,
                "GROUP_LANES": groups,
                "LANES": count // groups,
                "TOP_K": slots,
                "TOP_GROUPS": 4,
                "SLOTS": slots,
                "SIGMOID": True,
                "NORMALIZE": True,
            },
        ),
        Signature(
            count_kernel,
            types("ids counts", INTS) | {"size": "i32"},
            {"BLOCK": block, "EXPERTS": count},
        ),
        Signature(
            offsets_kernel,
            types("counts loads offsets", INTS) | types("blocks experts capacity", "i32"),
            {"PARTS": parts, "EXPERTS": count},
        ),
        Signature(
            place_kernel,
            types("ids before offsets tokens places", INTS) | sorting,
            {"BLOCK": block, "EXPERTS": count},
        ),
        Signature(
            grouped_kernel,
            product | types("gather offsets", INTS),
            {
                "counts": None,
                "M": tile.m,
                "N": tile.n,
                "K": tile.k,
                "STEPS": count.bit_length(),
                "GATED": True,
                "EVEN_K": True,
            },
            {**tile.launch},
        ),
        Signature(
            grouped_few_rows_kernel,
            product | {"ids": INTS, "parts": "i32"},
            {
                "gather": None,
                "offsets": None,
                "M": few.m,
                "N": few.n,
                "K": few.k,
                "STEPS": count.bit_length(),
                "GATED": True,
                "EVEN": True,
            },
        ),
        Signature(
            combine_kernel,
            types("y residual out", ARRAY)
            | {"places": INTS, "weights": FLOATS, "rows": "i32"}
            | types("columns y_row r_row", SIZE),
            {"SLOTS": slots, "IN_ORDER": False, "BLOCK": MOE_BLOCK},
        ),
    ]


def quantized_experts(chip: Any) -> list[Signature]:
    """Of fp8 as DeepSeek-V3 has them, and of blocks; for many tokens, and for one, whose experts are written. Each with
    activations that are floats, for few rows and blocks codes of 16 bits, and with such of 8 bits."""
    return [
        *_quantized(chip, "fp8", None),
        *_quantized(chip, "int4", None),
        *_quantized(chip, "fp8", "fp8"),
        *_quantized(chip, "int8", "int8"),
    ]


def _quantized(chip: Any, kind: str, activations: str | None) -> list[Signature]:
    is_fp8, count, rows = kind == "fp8", 256, TOKENS * 8 // 256
    wide = float32 if chip.kind == "cpu" else float16
    narrow = bfloat16 if chip.kind == "cpu" else float16
    dtype = {None: wide, "fp8": narrow, "int8": float32}[activations]
    multiplied = {float32: tl.float32, bfloat16: tl.bfloat16, float16: tl.float16}[dtype]
    of_codes = activations is not None
    tile = quantized_tile(chip, rows, kind, FEATURES, dtype, gated=True, of_codes=of_codes)
    few = few_rows_tile(chip, 1, kind, FEATURES, gated=True)
    no_codes = {"x": ARRAY, "x_scales": None, "x_sums": None}
    codes = {"x": BYTES, "x_scales": FLOATS, "x_sums": None}
    if not is_fp8:
        codes = {"x": CODES, "x_scales": FLOATS, "x_sums": INTS}
    both = {
        "out": ARRAY,
        "codes": BYTES,
        "scales": FLOATS if is_fp8 else ARRAY,
        **types("groups rows x_rows per_gather scale_row", "i32"),
        **types("n k x_row c_group s_group o_row", SIZE),
        "minimums": None,
        "GATED": True,
        "STEPS": count.bit_length(),
        **({"BITS": 0, "OFFSET": 0, "COLUMNS": COLUMNS} if is_fp8 else blocks(_BLOCKS[kind])),
    }
    many = {"gather": INTS, "offsets": INTS, "counts": None, "M": tile.m, "N": tile.n, "K": tile.k}
    many |= {"ONE_SCALE": True, "EVEN_K": True, "TYPE": tl.int8 if activations == "int8" else multiplied}
    many |= codes if of_codes else no_codes
    one = {"ids": INTS, "gather": None, "offsets": None, "parts": "i32", "M": few.m, "N": few.n, "K": few.k}
    one |= {"WIDE": not is_fp8 and not of_codes, "EVEN": True}
    one |= codes if of_codes or not is_fp8 else no_codes
    form = f"{kind}-{activations}" if of_codes else kind
    return [
        row(quantized_grouped_kernel, {**both, **many}, tile.launch, form=form),
        row(quantized_grouped_few_rows_kernel, {**both, **one}, form=form),
    ]
