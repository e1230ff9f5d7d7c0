"""What each kernel of the ops is compiled for when a language model runs it: types and constants, a row a kernel.

For those who compile all of them without a device: `unify compile --shipped`, and tests of a target. The shapes are
those of a model of 8 · 10⁹ parameters in float16: 4,096 features, 32 heads of 128, 8 of them for keys, 16 keys a block.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any

from unify._copy import TURNED, copy_kernel

from .activation import _BLOCK as ACTIVATION_BLOCK, swiglu_kernel
from .attend import Widths, block_d
from .attention import attention_kernel
from .embedding import embedding_kernel, quantized_embedding_kernel
from .kv_write import kv_write_kernel
from .linear import (
    _FEW_ROWS as LINEAR_FEW_ROWS,
    _FEW_ROWS_ELSEWHERE as LINEAR_FEW_ROWS_ELSEWHERE,
    few_rows_kernel,
    matmul_kernel,
)
from .merge_states import merge_kernel
from .mla_attention import latent_read_kernel, latent_write_kernel, mla_attention_kernel
from .norm import rms_norm_kernel
from .paged_attention import paged_attention_kernel
from .quant import COLUMNS, FORMATS, quantize_kernel
from .quantized_linear import (
    _ROWS as QUANTIZED_LINEAR_ROWS,
    _ROWS_ELSEWHERE as QUANTIZED_LINEAR_ROWS_ELSEWHERE,
    dequantized_linear_kernel,
    quantized_linear_kernel,
)
from .rope import rope_kernel
from .sampling import _BLOCK as SAMPLING_BLOCK, greedy_kernel, repetition_penalty_kernel, sample_kernel
from .tiles import attention_tile, column_block, latent_tile, paged_keys, prefill_queries, product_tile, row_tile

_FEATURES, _TOKENS, _HEADS, _WIDTH, _PAGE = 4096, 2048, 32, 128, 16
_LATENT = {"RANK": 512, "BLOCK_R": 512, "ROPE": 64, "BLOCK_P": 64}  # DeepSeek-V3's
_ARRAY, _FLOATS, _INTS, _BYTES, _CODES = "*fp16:16", "*fp32:16", "*i32:16", "*u8:16", "*i8:16"
_SIZE = "i32:16"  # a number of features, or a stride


@dataclass(frozen=True)
class Signature:
    """A kernel and what to give unify.compile for it: options are num_warps and num_stages."""

    kernel: Any
    types: dict[str, str]
    constants: dict[str, Any] = field(default_factory=dict)
    options: dict[str, Any] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The kernel's."""
        return str(self.kernel.fn.__name__)


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
    return [*_rows(chip), *_products(chip), *_attentions(chip), *_sampling(), _transposition()]


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
            _types("x weight out", _ARRAY) | {"columns": _SIZE, "eps": "fp32"},
            {"BLOCK": row.k, "EVEN": True},
            {**row.launch},
        ),
        Signature(
            rope_kernel,
            _types("x out", _ARRAY)
            | {"positions": _INTS, "frequencies": _FLOATS}
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
            quantize_kernel,
            {"x": _ARRAY, "codes": _CODES, "scales": _FLOATS, "sums": _INTS} | _types("k x_row", _SIZE),
            {"BLOCKS": 2},
        ),
    ]


def _format(kind: str) -> dict[str, Any]:
    layout = FORMATS[kind]
    return {"BITS": layout.bits, "OFFSET": layout.offset, "COLUMNS": COLUMNS}


def _products(chip: Any) -> list[Signature]:
    tile = product_tile(chip, _TOKENS, _FEATURES, itemsize=2)
    floats = product_tile(chip, _TOKENS, _FEATURES)
    few = LINEAR_FEW_ROWS.get(chip.kind, LINEAR_FEW_ROWS_ELSEWHERE)
    sizes = _types("m n k r_row o_row", _SIZE)
    one = dict.fromkeys(("a_batch", "b_batch", "o_batch"))
    few_rows = product_tile(chip, 16, _FEATURES, itemsize=2)
    rows = QUANTIZED_LINEAR_ROWS.get(chip.kind, QUANTIZED_LINEAR_ROWS_ELSEWHERE)
    weight = {"codes": _BYTES, "scales": _ARRAY}
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
        ),
        Signature(
            few_rows_kernel,
            _types("x weight residual out", _ARRAY) | _types("n k x_row w_row r_row o_row", _SIZE),
            {"N": few.n, "K": few.k, "EVEN": True},
        ),
        Signature(
            quantized_linear_kernel,
            {"x_codes": _CODES, "x_scales": _FLOATS, "x_sums": _INTS, **weight, "residual": _ARRAY, "out": _ARRAY}
            | sizes,
            {"minimums": None, "ROWS": rows, "N": COLUMNS // 4, "EVEN": True, **_format("q4_0")},
        ),
        Signature(
            dequantized_linear_kernel,
            {"x": _ARRAY, **weight, "out": _ARRAY, "x_row": _SIZE} | sizes,
            {"minimums": None, "residual": None, "M": floats.m, "N": floats.n, "K": 64, **_format("q4_0")},
        ),
    ]


def _attentions(chip: Any) -> list[Signature]:
    tile = attention_tile(chip, _TOKENS, _HEADS, causal=True, width=_WIDTH, itemsize=2)
    page = 32 if chip.target.startswith("ascend:950") else _PAGE  # its compiler crashes at 16
    keys = paged_keys(chip, page)
    prefill = prefill_queries(chip, _TOKENS)
    widths = vars(Widths.of(_WIDTH, _WIDTH))
    latent = latent_tile(chip, 128, 64)
    wide = attention_tile(chip, _TOKENS, _HEADS, causal=True, width=192, itemsize=2)
    two_widths = {**vars(Widths.of(192, 128)), "BLOCK_M": wide.m, "BLOCK_N": wide.n}  # of DeepSeek-V3's heads
    every_option: dict[str, Any] = {"cap": "fp32", "window": "i32", "lse": _FLOATS, "sinks": _ARRAY, "alibi": _FLOATS}
    no_option = dict.fromkeys((*every_option, "k_scale", "v_scale"))
    every_option |= {"k_scale": None, "v_scale": None}
    halved = attention_tile(chip, _TOKENS, _HEADS, causal=True, width=_WIDTH, itemsize=2, plain=False)
    few_queries = prefill_queries(chip, _TOKENS, plain=False)
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
        _row(attention_kernel, {**many, **packed, **every_option, **small}, halved.launch),
        _row(attention_kernel, {**many, **packed, **no_option, **two_widths}, wide.launch),
        _row(attention_kernel, {**many_paged, **no_option, **widths}),
        _row(attention_kernel, {**many_paged, **every_option, **widths, "BLOCK_M": few_queries}),
        _row(attention_kernel, {**many_paged, **no_option, **widths, **quantized}),
        _row(paged_attention_kernel, {**one, **no_option, **widths, "lse": _FLOATS}),
        _row(paged_attention_kernel, {**one, **every_option, **widths}),
        _row(paged_attention_kernel, {**one, **no_option, **widths, **quantized}),
        _row(paged_attention_kernel, {**one, **no_option, **widths, **bytes_, "lse": _FLOATS}),
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
            kv_write_kernel, {**writing, "k_cache": _CODES, "v_cache": _CODES, "k_scale": _FLOATS, "v_scale": _FLOATS}
        ),
        _row(kv_write_kernel, {**writing, "k_cache": _BYTES, "v_cache": _BYTES, "k_scale": "fp32", "v_scale": "fp32"}),
    ]


def _row(kernel: Any, parameters: dict[str, Any], launch: Mapping[str, int] = MappingProxyType({})) -> Signature:
    """A row of parameters by name: a text is a type, anything else a constant."""
    types = {name: value for name, value in parameters.items() if isinstance(value, str)}
    constants = {name: value for name, value in parameters.items() if name not in types}
    return Signature(kernel, types, constants, dict(launch))


def _sampling() -> list[Signature]:
    logits = {"logits": _ARRAY, "vocabulary": _SIZE}
    return [
        Signature(greedy_kernel, logits | {"out": _INTS, "row_stride": _SIZE}, {"BLOCK": SAMPLING_BLOCK}),
        Signature(
            sample_kernel,
            logits
            | {"out": _INTS, "step": "*i64:16", "row_stride": _SIZE}
            | {"inverse_temperature": "fp32", "top_k": "i32", "top_p": "fp32", "seed": "i32"},
            {"TOP_K": True, "TOP_P": True, "BLOCK": SAMPLING_BLOCK},
        ),
        Signature(
            repetition_penalty_kernel,
            logits
            | {"ids": _INTS, "out": _ARRAY, "penalty": "fp32", "count": "i32"}
            | _types("logits_row ids_row out_row", _SIZE),
            {"BLOCK": 64},
        ),
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
