"""What each kernel of the ops is compiled for when a language model runs it: types and constants, a row a kernel.

For those who compile all of them without a device: `unify compile --shipped`, and tests of a target. The shapes are
those of a model of 8 · 10⁹ parameters in float16: 4,096 features, 32 heads of 128, 8 of them for keys, 16 keys a block.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import triton.language as tl

from unify._copy import TURNED, copy_kernel
from unify._tensor import float16

from .activation import _BLOCK as ACTIVATION_BLOCK, swiglu_kernel
from .attention_signatures import attentions
from .embedding import embedding_kernel, fp8_embedding_kernel, quantized_embedding_kernel
from .expert_signatures import experts, quantized_experts
from .linear import few_rows_kernel, few_rows_tile, matmul_kernel
from .norm import _SUMMED_COLUMNS as SUMMED_COLUMNS, rms_norm_codes_kernel, rms_norm_kernel
from .penalties import (
    _BLOCK as PENALTIES_BLOCK,
    _IDS as PENALTIES_IDS,
    count_tokens_kernel,
    logit_bias_kernel,
    penalize_kernel,
)
from .quant import COLUMNS, quantize_blocks_kernel, quantize_fp8_blocks_kernel, spoil_fp8_scales_kernel
from .quantized_activations import blocks_at_a_time, quantize_fp8_kernel, quantize_int8_kernel, quantize_kernel
from .quantized_linear import (
    _ROWS as QUANTIZED_LINEAR_ROWS,
    _ROWS_ELSEWHERE as QUANTIZED_LINEAR_ROWS_ELSEWHERE,
    dequantized_linear_kernel,
    features_of_two_sums,
    fp8_few_rows_kernel,
    fp8_few_tile,
    fp8_linear_kernel,
    fp8_tile,
    quantized_linear_kernel,
)
from .rope import rope_kernel
from .sampling import _BLOCK as SAMPLING_BLOCK, greedy_kernel, sample_kernel
from .signature import ARRAY, BYTES, CODES, FEATURES, FLOATS, INTS, SIZE, TOKENS, Signature, blocks, row, types
from .tiles import column_block, product_tile, row_tile

_HEAD = 128


@dataclass(frozen=True)
class _Chip:
    """As much of a device as tiles are chosen by, with one core: none of them is made smaller to occupy more."""

    target: str

    @property
    def kind(self) -> str:
        return self.target.partition(":")[0]

    @property
    def properties(self) -> dict[str, Any]:
        return {"cores": 1, "target": self.target}


def signatures(target: str) -> list[Signature]:
    """A row for each kernel, with the tiles that a target has: "cpu", "cuda:90"."""
    chip = _Chip(target)
    return [
        *_rows(chip),
        *_weights(),
        *_products(chip),
        *attentions(chip),
        *experts(chip),
        *quantized_experts(chip),
        *_sampling(),
        _transposition(),
    ]


def _rows(chip: Any) -> list[Signature]:
    """One program a row, or a part of one."""
    tile = row_tile(chip, FEATURES)
    return [
        Signature(
            swiglu_kernel,
            types("gate up out", ARRAY) | types("columns gate_stride up_stride", SIZE),
            {"BLOCK": ACTIVATION_BLOCK},
        ),
        Signature(
            rms_norm_kernel,
            types("x residual weight total out", ARRAY) | {"columns": SIZE, "eps": "fp32"},
            {"BLOCK": min(tile.k, SUMMED_COLUMNS.get(chip.kind, tile.k)), "EVEN": True},
            {**tile.launch},
        ),
        Signature(
            rms_norm_codes_kernel,
            types("x residual weight total", ARRAY)
            | {"codes": CODES, "scales": FLOATS, "sums": INTS, "columns": SIZE, "eps": "fp32"},
            {"KIND": "int8", "WIDTH": 32, "BLOCKS": blocks_at_a_time(chip, "int8", FEATURES)},
        ),
        Signature(
            rope_kernel,
            types("x out", ARRAY)
            | {"positions": INTS, "frequencies": FLOATS, "magnitude": "fp32"}
            | types("heads token_stride head_stride", SIZE),
            {"HALF": _HEAD // 2, "BLOCK": _HEAD // 2, "INTERLEAVED": True},
        ),
        Signature(
            embedding_kernel,
            {"ids": INTS, "table": ARRAY, "out": FLOATS} | types("rows columns row_stride", SIZE),
            {"BLOCK": column_block(FEATURES)},
        ),
        Signature(
            quantized_embedding_kernel,
            {"ids": INTS, "codes": BYTES, "scales": ARRAY, "out": FLOATS} | types("rows k", SIZE),
            {"minimums": None, **blocks("q4_0")},
        ),
        Signature(
            fp8_embedding_kernel,
            {"ids": INTS, "codes": BYTES, "scales": FLOATS, "out": FLOATS}
            | types("rows k", SIZE)
            | {"scale_row": "i32"},
        ),
        Signature(
            quantize_kernel,
            {"x": ARRAY, "codes": CODES, "scales": FLOATS, "sums": INTS} | types("k x_row", SIZE),
            {"BLOCKS": 2},
        ),
        Signature(
            quantize_int8_kernel,
            {"x": ARRAY, "codes": CODES, "scales": FLOATS, "sums": INTS} | types("k x_row", SIZE),
            {"BLOCKS": blocks_at_a_time(chip, "int8", FEATURES)},
        ),
        Signature(
            quantize_fp8_kernel,
            {"x": ARRAY, "codes": BYTES, "scales": FLOATS} | types("k x_row", SIZE),
            {"BLOCKS": blocks_at_a_time(chip, "fp8", FEATURES)},
        ),
    ]


def _weights() -> list[Signature]:
    """What quantises a weight, once."""
    sizes = types("n k expert_stride row_stride", SIZE)
    return [
        Signature(
            quantize_blocks_kernel,
            {"weight": ARRAY, "lanes": INTS, "scales": ARRAY, "parts": "i32"} | sizes,
            {"COLUMNS": COLUMNS, "BITS": 4},
        ),
        Signature(
            quantize_fp8_blocks_kernel,
            {"weight": ARRAY, "codes": BYTES, "scales": FLOATS} | sizes,
            {"ROWS": 16, "EVEN": True},
        ),
        Signature(
            spoil_fp8_scales_kernel,
            {"codes": BYTES, **types("scales out", FLOATS), **types("n k", SIZE)},
            {"ROWS": 16},
        ),
    ]


def _products(chip: Any) -> list[Signature]:
    tile = product_tile(chip, TOKENS, FEATURES, float16)
    floats = product_tile(chip, TOKENS, FEATURES)
    few = few_rows_tile(chip, 4, FEATURES, FEATURES, float16)
    sizes = types("m n k r_row o_row", SIZE)
    one = dict.fromkeys(("a_batch", "b_batch", "o_batch"))
    few_rows = product_tile(chip, 16, FEATURES, float16)
    rows = QUANTIZED_LINEAR_ROWS.get(chip.kind, QUANTIZED_LINEAR_ROWS_ELSEWHERE)
    weight = {"codes": BYTES, "scales": ARRAY}
    fp8 = types("x residual out", ARRAY) | {"codes": BYTES, "scales": FLOATS, "scale_row": "i32", "x_row": SIZE}
    fp8_few = fp8_few_tile(chip, 4)
    large = fp8_tile(chip, TOKENS, FEATURES, itemsize=2)
    multiplied = tl.float32 if chip.kind == "cpu" else tl.float16
    narrow = tl.bfloat16 if chip.kind == "cpu" else tl.float16
    fp8 |= sizes
    few_fp8 = {"ROWS": fp8_few.m, "N": fp8_few.n, "K": fp8_few.k, "EVEN": True}
    many_fp8 = {"M": large.m, "N": large.n, "K": large.k, "EVEN_K": True}
    codes = {"x": CODES, "x_scales": FLOATS, "x_sums": INTS, "N": min(floats.n, features_of_two_sums(chip))}
    no_codes = {"x_scales": None, "x_sums": None}
    exact: dict[str, Any] = {
        "x_codes": CODES,
        "x_scales": FLOATS,
        "x_sums": INTS,
        **weight,
        **types("residual out", ARRAY),
        **sizes,
    }
    exact |= {"minimums": None, "ROWS": rows, "N": COLUMNS // 4, "EVEN": True}
    tiled: dict[str, Any] = {**weight, "out": ARRAY, "x_row": SIZE, **sizes, "minimums": None, "residual": None}
    tiled |= {"M": floats.m, "N": floats.n, **blocks("q4_0")}
    return [
        Signature(
            matmul_kernel,
            types("a b out", ARRAY) | sizes | types("a_row b_n", SIZE),
            {"residual": None, "b_k": 1, "M": tile.m, "N": tile.n, "K": tile.k, "EVEN_K": True, **one},
            {**tile.launch},
        ),
        Signature(
            matmul_kernel,
            types("a b out", ARRAY) | sizes | types("a_row b_k a_batch b_batch o_batch", SIZE),
            {"residual": None, "b_n": 1, "M": 16, "N": few_rows.n, "K": few_rows.k, "EVEN_K": True},
            {**few_rows.launch},
            form="batch",
        ),
        Signature(
            few_rows_kernel,
            types("x weight residual out", ARRAY)
            | types("m parts", "i32")
            | types("n k x_row w_row r_row o_row", SIZE),
            {"ROWS": few.m, "N": few.n, "K": few.k, "EVEN": True},
        ),
        row(quantized_linear_kernel, {**exact, "WIDE": True, **blocks("q4_0")}),
        row(quantized_linear_kernel, {**exact, "WIDE": False, **blocks("q8_0")}, form="int8"),
        row(dequantized_linear_kernel, {**tiled, "x": ARRAY, "K": 64, "TYPE": multiplied} | no_codes),
        row(dequantized_linear_kernel, {**tiled, **codes, "K": 32, "TYPE": tl.int8}, form="int8"),
        row(fp8_few_rows_kernel, {**fp8, **few_fp8, "x_scales": None}),
        row(fp8_few_rows_kernel, {**fp8, **few_fp8, "x": BYTES, "x_scales": FLOATS}, form="fp8"),
        row(fp8_linear_kernel, {**fp8, **many_fp8, "x_scales": None, "TYPE": multiplied}, large.launch),
        row(
            fp8_linear_kernel,
            {**fp8, **many_fp8, "x": BYTES, "x_scales": FLOATS, "TYPE": narrow},
            large.launch,
            form="fp8",
        ),
    ]


def _sampling() -> list[Signature]:
    logits = {"logits": ARRAY, "vocabulary": SIZE}
    ids = {"ids": INTS, "count": "i32"}
    return [
        Signature(greedy_kernel, logits | {"out": INTS, "row_stride": SIZE}, {"BLOCK": SAMPLING_BLOCK}),
        Signature(
            sample_kernel,
            logits
            | types("out top_k", INTS)
            | types("step seed", "*i64:16")
            | types("temperature top_p min_p", FLOATS)
            | {"row_stride": SIZE},
            {**dict.fromkeys(("TOP_K", "TOP_P", "MIN_P", "PER_ROW", "OWN_SEEDS"), True), "BLOCK": SAMPLING_BLOCK},
        ),
        Signature(
            penalize_kernel,
            logits
            | types("counts prompt", INTS)
            | {"out": ARRAY, "logits_row": SIZE}
            | types("frequency presence repetition", FLOATS),
            {"PER_ROW": True, "PROMPT": True, "BLOCK": PENALTIES_BLOCK},
        ),
        Signature(logit_bias_kernel, logits | ids | {"bias": FLOATS, "out": ARRAY}, {"BLOCK": PENALTIES_IDS}),
        Signature(count_tokens_kernel, ids | {"counts": INTS, "vocabulary": SIZE}, {"BLOCK": PENALTIES_IDS}),
    ]


def _transposition() -> Signature:
    """Of a matrix, as `x.T.contiguous()` makes it where the host cannot see the memory."""
    return Signature(
        copy_kernel,
        types("dst src", "*u16:16")
        | types("rows columns n1 n2 d1 d2 d3 s1 s2 s3", "i32")
        | types("d_row s_column", SIZE),
        {"d_column": 1, "s_row": 1, "ROWS": TURNED[0], "COLUMNS": TURNED[1]},
    )
