"""What each kernel of the ops is compiled for when a language model runs it: types and constants, a row a kernel.

For those who compile all of them without a device: `unify compile --shipped`, and tests of a target. The shapes are
those of a model of 8 · 10⁹ parameters in float16: 4,096 features, 32 heads of 128, 8 of them for keys, 16 keys a block.
Experts are those of DeepSeek-V3: 256 in 8 groups, of which 4 groups and 8 experts are chosen.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

import triton.language as tl

from unify._copy import TURNED, copy_kernel
from unify._tensor import float16, float32

from .activation import _BLOCK as ACTIVATION_BLOCK, swiglu_kernel
from .attend import Widths, block_d
from .attention import attention_kernel
from .embedding import embedding_kernel, fp8_embedding_kernel, quantized_embedding_kernel
from .grouped_linear import (
    _ONE_ROW as GROUPED_ONE_ROW,
    _ONE_ROW_ELSEWHERE as GROUPED_ONE_ROW_ELSEWHERE,
    grouped_few_rows_kernel,
    grouped_kernel,
)
from .kv_write import kv_write_kernel
from .linear import few_rows_kernel, few_rows_tile, matmul_kernel
from .merge_states import merge_kernel
from .mla_attention import latent_read_kernel, latent_write_kernel, mla_attention_kernel
from .moe import _BLOCK as MOE_BLOCK, combine_kernel
from .norm import _SUMMED_COLUMNS as SUMMED_COLUMNS, rms_norm_codes_kernel, rms_norm_kernel
from .paged_attention import paged_attention_kernel
from .penalties import (
    _BLOCK as PENALTIES_BLOCK,
    _IDS as PENALTIES_IDS,
    count_tokens_kernel,
    logit_bias_kernel,
    penalize_kernel,
)
from .quant import COLUMNS, FORMATS, quantize_blocks_kernel, quantize_fp8_blocks_kernel
from .quantized_activations import blocks_at_a_time, quantize_fp8_kernel, quantize_int8_kernel, quantize_kernel
from .quantized_grouped_linear import (
    few_rows_tile as grouped_few_rows_tile,
    quantized_grouped_few_rows_kernel,
    quantized_grouped_kernel,
    quantized_tile,
)
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
from .routing import (
    count_kernel,
    offsets_kernel,
    place_kernel,
    route_kernel,
    sort_tile,
)
from .sampling import _BLOCK as SAMPLING_BLOCK, greedy_kernel, repetition_penalty_kernel, sample_kernel
from .tiles import (
    attention_tile,
    column_block,
    grouped_tile,
    latent_tile,
    paged_keys,
    prefill_tile,
    product_tile,
    row_tile,
)

_FEATURES, _TOKENS, _HEADS, _WIDTH, _PAGE = 4096, 2048, 32, 128, 16
_LATENT = {"RANK": 512, "BLOCK_R": 512, "ROPE": 64, "BLOCK_P": 64}  # DeepSeek-V3's
_ARRAY, _FLOATS, _INTS, _BYTES, _CODES = "*fp16:16", "*fp32:16", "*i32:16", "*u8:16", "*i8:16"
_SIZE = "i32:16"  # a number of features, or a stride


@dataclass(frozen=True)
class Signature:
    """A kernel and what to give unify.compile for it: options are num_warps and num_stages.

    form: which of several, where a kernel has more than one row.
    """

    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)
    form: str = ""

    @property
    def name(self) -> str:
        """The kernel's."""
        return str(self.kernel.fn.__name__)

    @property
    def title(self) -> str:
        """The kernel's name and its form, which no other row has."""
        return f"{self.name}:{self.form}" if self.form else self.name


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
        *_attentions(chip),
        *_experts(chip),
        *_quantized_experts(chip),
        *_sampling(),
        _transposition(),
    ]


def _types(names: str, type_name: str) -> dict[str, str]:
    return dict.fromkeys(names.split(), type_name)


def _rows(chip: Any) -> list[Signature]:
    """One program a row, or a part of one."""
    row = row_tile(chip, _FEATURES)
    return [
        Signature(
            swiglu_kernel,
            _types("gate up out", _ARRAY) | _types("columns gate_stride up_stride", _SIZE),
            {"BLOCK": ACTIVATION_BLOCK},
        ),
        Signature(
            rms_norm_kernel,
            _types("x residual weight total out", _ARRAY) | {"columns": _SIZE, "eps": "fp32"},
            {"BLOCK": min(row.k, SUMMED_COLUMNS.get(chip.kind, row.k)), "EVEN": True},
            {**row.launch},
        ),
        Signature(
            rms_norm_codes_kernel,
            _types("x residual weight total", _ARRAY)
            | {"codes": _CODES, "scales": _FLOATS, "sums": _INTS, "columns": _SIZE, "eps": "fp32"},
            {"KIND": "int8", "WIDTH": 32, "BLOCKS": blocks_at_a_time(chip, "int8", _FEATURES)},
        ),
        Signature(
            rope_kernel,
            _types("x out", _ARRAY)
            | {"positions": _INTS, "frequencies": _FLOATS, "magnitude": "fp32"}
            | _types("heads token_stride head_stride", _SIZE),
            {"HALF": _WIDTH // 2, "BLOCK": _WIDTH // 2, "INTERLEAVED": True},
        ),
        Signature(
            embedding_kernel,
            {"ids": _INTS, "table": _ARRAY, "out": _FLOATS} | _types("rows columns row_stride", _SIZE),
            {"BLOCK": column_block(_FEATURES)},
        ),
        Signature(
            quantized_embedding_kernel,
            {"ids": _INTS, "codes": _BYTES, "scales": _ARRAY, "out": _FLOATS} | _types("rows k", _SIZE),
            {"minimums": None, **_format("q4_0")},
        ),
        Signature(
            fp8_embedding_kernel,
            {"ids": _INTS, "codes": _BYTES, "scales": _FLOATS, "out": _FLOATS}
            | _types("rows k", _SIZE)
            | {"scale_row": "i32"},
        ),
        Signature(
            quantize_kernel,
            {"x": _ARRAY, "codes": _CODES, "scales": _FLOATS, "sums": _INTS} | _types("k x_row", _SIZE),
            {"BLOCKS": 2},
        ),
        Signature(
            quantize_int8_kernel,
            {"x": _ARRAY, "codes": _CODES, "scales": _FLOATS, "sums": _INTS} | _types("k x_row", _SIZE),
            {"BLOCKS": blocks_at_a_time(chip, "int8", _FEATURES)},
        ),
        Signature(
            quantize_fp8_kernel,
            {"x": _ARRAY, "codes": _BYTES, "scales": _FLOATS} | _types("k x_row", _SIZE),
            {"BLOCKS": blocks_at_a_time(chip, "fp8", _FEATURES)},
        ),
    ]


def _format(kind: str) -> dict[str, Any]:
    layout = FORMATS[kind]
    return {"BITS": layout.bits, "OFFSET": layout.offset, "COLUMNS": COLUMNS}


def _weights() -> list[Signature]:
    """What quantises a weight, once."""
    sizes = _types("n k expert_stride row_stride", _SIZE)
    return [
        Signature(
            quantize_blocks_kernel,
            {"weight": _ARRAY, "lanes": _INTS, "scales": _ARRAY, "parts": "i32"} | sizes,
            {"COLUMNS": COLUMNS, "BITS": 4},
        ),
        Signature(
            quantize_fp8_blocks_kernel,
            {"weight": _ARRAY, "codes": _BYTES, "scales": _FLOATS} | sizes,
            {"ROWS": 16, "EVEN": True},
        ),
    ]


def _products(chip: Any) -> list[Signature]:
    tile = product_tile(chip, _TOKENS, _FEATURES, itemsize=2)
    floats = product_tile(chip, _TOKENS, _FEATURES)
    few = few_rows_tile(chip, 4, _FEATURES, itemsize=2)
    sizes = _types("m n k r_row o_row", _SIZE)
    one = dict.fromkeys(("a_batch", "b_batch", "o_batch"))
    few_rows = product_tile(chip, 16, _FEATURES, itemsize=2)
    rows = QUANTIZED_LINEAR_ROWS.get(chip.kind, QUANTIZED_LINEAR_ROWS_ELSEWHERE)
    weight = {"codes": _BYTES, "scales": _ARRAY}
    fp8 = _types("x residual out", _ARRAY) | {"codes": _BYTES, "scales": _FLOATS, "scale_row": "i32", "x_row": _SIZE}
    fp8_few = fp8_few_tile(chip, 4)
    large = fp8_tile(chip, _TOKENS, _FEATURES, itemsize=2)
    multiplied = tl.float32 if chip.kind == "cpu" else tl.float16
    narrow = tl.bfloat16 if chip.kind == "cpu" else tl.float16
    fp8 |= sizes
    few_fp8 = {"ROWS": fp8_few.m, "N": fp8_few.n, "K": fp8_few.k, "EVEN": True}
    many_fp8 = {"M": large.m, "N": large.n, "K": large.k, "EVEN_K": True}
    codes = {"x": _CODES, "x_scales": _FLOATS, "x_sums": _INTS, "N": min(floats.n, features_of_two_sums(chip))}
    no_codes = {"x_scales": None, "x_sums": None}
    exact: dict[str, Any] = {
        "x_codes": _CODES,
        "x_scales": _FLOATS,
        "x_sums": _INTS,
        **weight,
        **_types("residual out", _ARRAY),
        **sizes,
    }
    exact |= {"minimums": None, "ROWS": rows, "N": COLUMNS // 4, "EVEN": True}
    tiled: dict[str, Any] = {**weight, "out": _ARRAY, "x_row": _SIZE, **sizes, "minimums": None, "residual": None}
    tiled |= {"M": floats.m, "N": floats.n, **_format("q4_0")}
    return [
        Signature(
            matmul_kernel,
            _types("a b out", _ARRAY) | sizes | _types("a_row b_n", _SIZE),
            {"residual": None, "b_k": 1, "M": tile.m, "N": tile.n, "K": tile.k, "EVEN_K": True, **one},
            {**tile.launch},
        ),
        Signature(
            matmul_kernel,
            _types("a b out", _ARRAY) | sizes | _types("a_row b_k a_batch b_batch o_batch", _SIZE),
            {"residual": None, "b_n": 1, "M": 16, "N": few_rows.n, "K": few_rows.k, "EVEN_K": True},
            {**few_rows.launch},
            form="batch",
        ),
        Signature(
            few_rows_kernel,
            _types("x weight residual out", _ARRAY) | {"m": "i32"} | _types("n k x_row w_row r_row o_row", _SIZE),
            {"ROWS": few.m, "N": few.n, "K": few.k, "EVEN": True},
        ),
        _row(quantized_linear_kernel, {**exact, "WIDE": True, **_format("q4_0")}),
        _row(quantized_linear_kernel, {**exact, "WIDE": False, **_format("q8_0")}, form="int8"),
        _row(dequantized_linear_kernel, {**tiled, "x": _ARRAY, "K": 64, "TYPE": multiplied} | no_codes),
        _row(dequantized_linear_kernel, {**tiled, **codes, "K": 32, "TYPE": tl.int8}, form="int8"),
        _row(fp8_few_rows_kernel, {**fp8, **few_fp8, "x_scales": None}),
        _row(fp8_few_rows_kernel, {**fp8, **few_fp8, "x": _BYTES, "x_scales": _FLOATS}, form="fp8"),
        _row(fp8_linear_kernel, {**fp8, **many_fp8, "x_scales": None, "TYPE": multiplied}, large.launch),
        _row(
            fp8_linear_kernel,
            {**fp8, **many_fp8, "x": _BYTES, "x_scales": _FLOATS, "TYPE": narrow},
            large.launch,
            form="fp8",
        ),
    ]


def _attentions(chip: Any) -> list[Signature]:
    tile = attention_tile(chip, _TOKENS, _HEADS, causal=True, width=_WIDTH, itemsize=2)
    page = 32 if chip.target.startswith("ascend:950") else _PAGE  # its compiler crashes at 16
    keys = paged_keys(chip, page)
    prefill = prefill_tile(chip, _TOKENS, page, width=_WIDTH, itemsize=2).m
    widths = vars(Widths.of(_WIDTH, _WIDTH))
    latent = latent_tile(chip, 1, 128, 64, 64, itemsize=2)
    wide = attention_tile(chip, _TOKENS, _HEADS, causal=True, width=192, itemsize=2)
    two_widths = {**vars(Widths.of(192, 128)), "BLOCK_M": wide.m, "BLOCK_N": wide.n}  # of DeepSeek-V3's heads
    every_option: dict[str, Any] = {"cap": "fp32", "window": "i32", "lse": _FLOATS, "sinks": _ARRAY, "alibi": _FLOATS}
    no_option = dict.fromkeys((*every_option, "k_scale", "v_scale"))
    every_option |= {"k_scale": None, "v_scale": None}
    halved = attention_tile(chip, _TOKENS, _HEADS, causal=True, width=_WIDTH, itemsize=2, plain=False)
    few_queries = prefill_tile(chip, _TOKENS, page, width=_WIDTH, itemsize=2, plain=False).m
    quantized = {"k": _CODES, "v": _CODES, "k_scale": _FLOATS, "v_scale": _FLOATS}
    bytes_ = {"k": _BYTES, "v": _BYTES, "k_scale": "fp32", "v_scale": "fp32"}
    both = {
        **_types("q k v out", _ARRAY),
        **_types("q_head k_head v_token v_head o_head table_row", _SIZE),
        "group": "i32",
        "scale": "fp32",
        "blocks": "i32",
        "max_blocks": "i32",
    }
    many = {
        **both,
        **_types("q_batch q_token k_batch k_token v_batch o_batch o_token", _SIZE),
        **_types("queries keys sequences steps", "i32"),
        "BLOCK_M": tile.m,
        "BLOCK_N": tile.n,
        "CAUSAL": True,
        "k_dim": 1,
        "PAGE": 0,
        **dict.fromkeys(("starts", "key_starts", "lengths", "table")),
    }
    packed = {"starts": _INTS, "key_starts": _INTS}
    small = {**widths, "BLOCK_M": halved.m, "BLOCK_N": halved.n}
    # Keys of a cache with block_size as the fastest axis.
    paged = {"k_token": 1, "k_dim": _SIZE, "BLOCK_N": keys, "PAGE": page, "table": _INTS}
    many_paged = {**many, **paged, "BLOCK_M": prefill, "starts": _INTS, "lengths": _INTS}
    one = {
        **both,
        **_types("q_batch k_block v_block o_split o_batch", _SIZE),
        "context_lens": _INTS,
        "GROUP": 4,
        **paged,
    }
    writing = {
        **_types("k v k_cache v_cache", _ARRAY),
        **_types("block_size k_row k_head v_row v_head kc_block kc_head kc_dim vc_block vc_token vc_head", _SIZE),
        "slots": _INTS,
        "blocks": "i32",
        "kc_token": 1,
        "k_scale": None,
        "v_scale": None,
        "WIDTH": _WIDTH,
        "BLOCK_D": block_d(_WIDTH),
        "VALUE": _WIDTH,
        "BLOCK_V": block_d(_WIDTH),
    }
    return [
        _row(attention_kernel, {**many, **no_option, **widths}, tile.launch),
        _row(attention_kernel, {**many, **packed, **every_option, **small}, halved.launch, "packed-options"),
        _row(attention_kernel, {**many, **packed, **no_option, **two_widths}, wide.launch, "packed-192"),
        _row(attention_kernel, {**many_paged, **no_option, **widths}, form="paged"),
        _row(attention_kernel, {**many_paged, **every_option, **widths, "BLOCK_M": few_queries}, form="paged-options"),
        _row(attention_kernel, {**many_paged, **no_option, **widths, **quantized}, form="paged-int8"),
        _row(paged_attention_kernel, {**one, **no_option, **widths, "lse": _FLOATS}),
        _row(paged_attention_kernel, {**one, **every_option, **widths}, form="options"),
        _row(paged_attention_kernel, {**one, **no_option, **widths, **quantized}, form="int8"),
        _row(paged_attention_kernel, {**one, **no_option, **widths, **bytes_, "lse": _FLOATS}, form="fp8"),
        _row(
            mla_attention_kernel,
            {
                **_types("q cache out", _ARRAY),
                **_types("q_batch q_head c_block c_token table_row o_split o_batch o_head", _SIZE),
                "table": _INTS,
                "context_lens": _INTS,
                "lse": _FLOATS,
                "blocks": "i32",
                "max_blocks": "i32",
                "heads": _SIZE,
                "scale": "fp32",
                "HEADS": latent.m,
                "BLOCK_N": latent.n,
                "PAGE": 64,
                **_LATENT,
            },
            latent.launch,
        ),
        _row(
            latent_write_kernel,
            {
                **_types("latent rope_key cache", _ARRAY),
                **_types("block_size l_row r_row c_block c_token", _SIZE),
                "slots": _INTS,
                "blocks": "i32",
                **_LATENT,
            },
        ),
        _row(
            latent_read_kernel,
            {
                **_types("cache out", _ARRAY),
                **_types("table starts", _INTS),
                **_types("blocks max_blocks sequences steps", "i32"),
                **_types("c_block c_token table_row", _SIZE),
                "PAGE": 64,
                "WIDTH": 576,
                "BLOCK_D": block_d(576),
            },
        ),
        _row(
            merge_kernel,
            {
                **_types("outs lses lse", _FLOATS),
                **_types("o_part o_row o_head l_part l_row out_row out_head", _SIZE),
                "out": _ARRAY,
                "parts": "i32",
                "l_head": 1,
                "PARTS": 8,
                "WIDTH": _WIDTH,
                "BLOCK_D": block_d(_WIDTH),
            },
        ),
        _row(kv_write_kernel, writing),
        _row(
            kv_write_kernel,
            {**writing, "k_cache": _CODES, "v_cache": _CODES, "k_scale": _FLOATS, "v_scale": _FLOATS},
            form="int8",
        ),
        _row(
            kv_write_kernel,
            {**writing, "k_cache": _BYTES, "v_cache": _BYTES, "k_scale": "fp32", "v_scale": "fp32"},
            form="fp8",
        ),
    ]


def _experts(chip: Any) -> list[Signature]:
    experts, groups, slots = 256, 8, 8
    block, parts = sort_tile(chip, experts)
    tile = grouped_tile(chip, _TOKENS * slots // experts, _FEATURES, float16, gated=True)
    few, _ = GROUPED_ONE_ROW.get(chip.kind, GROUPED_ONE_ROW_ELSEWHERE)
    product = _types("x weight out", _ARRAY) | _types("n k x_row w_row o_row", _SIZE) | {"w_group": _SIZE}
    product |= _types("groups rows x_rows per_gather", "i32")
    sorting = {"size": "i32", "experts": "i32", "capacity": "i32"}
    return [
        Signature(
            route_kernel,
            {"logits": _ARRAY, "row_stride": _SIZE, "scale": "fp32", "ids": _INTS} | _types("bias weights", _FLOATS),
            {
                "GROUPS": groups,
                "SIZE": experts // groups,
                "GROUP_LANES": groups,
                "LANES": experts // groups,
                "TOP_K": slots,
                "TOP_GROUPS": 4,
                "SLOTS": slots,
                "SIGMOID": True,
                "NORMALIZE": True,
            },
        ),
        Signature(
            count_kernel,
            _types("ids counts", _INTS) | {"size": "i32"},
            {"BLOCK": block, "EXPERTS": experts},
        ),
        Signature(
            offsets_kernel,
            _types("counts loads offsets", _INTS) | _types("blocks experts capacity", "i32"),
            {"PARTS": parts, "EXPERTS": experts},
        ),
        Signature(
            place_kernel,
            _types("ids before offsets tokens places", _INTS) | sorting,
            {"BLOCK": block, "EXPERTS": experts},
        ),
        Signature(
            grouped_kernel,
            product | _types("gather offsets", _INTS),
            {
                "counts": None,
                "M": tile.m,
                "N": tile.n,
                "K": tile.k,
                "STEPS": experts.bit_length(),
                "GATED": True,
                "EVEN_K": True,
            },
            {**tile.launch},
        ),
        Signature(
            grouped_few_rows_kernel,
            product | {"ids": _INTS, "parts": "i32"},
            {
                "gather": None,
                "offsets": None,
                "M": few.m,
                "N": few.n,
                "K": few.k,
                "STEPS": experts.bit_length(),
                "GATED": True,
                "EVEN": True,
            },
        ),
        Signature(
            combine_kernel,
            _types("y residual out", _ARRAY)
            | {"places": _INTS, "weights": _FLOATS, "rows": "i32"}
            | _types("columns y_row r_row", _SIZE),
            {"SLOTS": slots, "IN_ORDER": False, "BLOCK": MOE_BLOCK},
        ),
    ]


def _quantized_experts(chip: Any) -> list[Signature]:
    """Of fp8 as DeepSeek-V3 has them, and of blocks; for many tokens, and for one, whose experts are written."""
    experts, rows = 256, _TOKENS * 8 // 256
    multiplied = tl.float32 if chip.kind == "cpu" else tl.float16
    result = []
    for kind, layout in (("fp8", {"BITS": 0, "OFFSET": 0, "COLUMNS": COLUMNS}), ("int4", _format("q4_0"))):
        tile = quantized_tile(chip, rows, kind, _FEATURES, float32 if chip.kind == "cpu" else float16, gated=True)
        few = grouped_few_rows_tile(chip, 1, kind, _FEATURES, gated=True)
        both = {
            **_types("x out", _ARRAY),
            "codes": _BYTES,
            "scales": _FLOATS if kind == "fp8" else _ARRAY,
            **_types("groups rows x_rows per_gather scale_row", "i32"),
            **_types("n k x_row c_group s_group o_row", _SIZE),
            "minimums": None,
            "GATED": True,
            "STEPS": experts.bit_length(),
            **layout,
        }
        many = {"gather": _INTS, "offsets": _INTS, "counts": None, "M": tile.m, "N": tile.n, "K": tile.k}
        many |= {"ONE_SCALE": True, "EVEN_K": True, "TYPE": multiplied}
        one = {"ids": _INTS, "gather": None, "offsets": None, "parts": "i32", "M": few.m, "N": few.n, "K": few.k}
        is_fp8 = kind == "fp8"
        values: dict[str, Any] = {} if is_fp8 else {"x": _CODES}
        values |= {"x_scales": None if is_fp8 else _FLOATS, "x_sums": None if is_fp8 else _INTS, "EVEN": True}
        result += [
            _row(quantized_grouped_kernel, {**both, **many}, tile.launch, form=kind),
            _row(quantized_grouped_few_rows_kernel, {**both, **one, **values}, form=kind),
        ]
    return result


def _row(
    kernel: Any, parameters: dict[str, Any], launch: Mapping[str, int] = MappingProxyType({}), form: str = ""
) -> Signature:
    """A row of parameters by name: a text is a type, anything else a constant."""
    types = {name: value for name, value in parameters.items() if isinstance(value, str)}
    constants = {name: value for name, value in parameters.items() if name not in types}
    return Signature(kernel, types, constants, dict(launch), form)


def _sampling() -> list[Signature]:
    logits = {"logits": _ARRAY, "vocabulary": _SIZE}
    ids = {"ids": _INTS, "count": "i32"}
    return [
        Signature(greedy_kernel, logits | {"out": _INTS, "row_stride": _SIZE}, {"BLOCK": SAMPLING_BLOCK}),
        Signature(
            sample_kernel,
            logits
            | _types("out top_k", _INTS)
            | _types("step seed", "*i64:16")
            | _types("temperature top_p min_p", _FLOATS)
            | {"row_stride": _SIZE},
            {**dict.fromkeys(("TOP_K", "TOP_P", "MIN_P", "PER_ROW", "OWN_SEEDS"), True), "BLOCK": SAMPLING_BLOCK},
        ),
        Signature(
            repetition_penalty_kernel,
            logits | ids | {"out": _ARRAY, "penalty": "fp32"} | _types("logits_row ids_row out_row", _SIZE),
            {"PER_ROW": False, "BLOCK": 64},
        ),
        Signature(
            penalize_kernel,
            logits
            | _types("counts prompt", _INTS)
            | {"out": _ARRAY, "logits_row": _SIZE}
            | _types("frequency presence repetition", _FLOATS),
            {"PER_ROW": True, "PROMPT": True, "BLOCK": PENALTIES_BLOCK},
        ),
        Signature(logit_bias_kernel, logits | ids | {"bias": _FLOATS, "out": _ARRAY}, {"BLOCK": PENALTIES_IDS}),
        Signature(count_tokens_kernel, ids | {"counts": _INTS, "vocabulary": _SIZE}, {"BLOCK": PENALTIES_IDS}),
    ]


def _transposition() -> Signature:
    """Of a matrix, as `x.T.contiguous()` makes it where the host cannot see the memory."""
    return Signature(
        copy_kernel,
        _types("dst src", "*u16:16")
        | _types("rows columns n1 n2 d1 d2 d3 s1 s2 s3", "i32")
        | _types("d_row s_column", _SIZE),
        {"d_column": 1, "s_row": 1, "ROWS": TURNED[0], "COLUMNS": TURNED[1]},
    )
