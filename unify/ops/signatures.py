"""What each kernel of the ops is compiled for when a language model runs it: types and constants, a row a kernel.

For those who compile all of them without a device: `unify compile --shipped`, and tests of a target. The shapes are
those of a model of 8 · 10⁹ parameters in float16: 4,096 features, 32 heads of 128, 8 of them for keys, 16 keys a block.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import triton.language as tl

from unify._copy import TURNED, copy_kernel

from .activation import _BLOCK as ACTIVATION_BLOCK, swiglu_kernel
from .attention import attention_kernel, block_d
from .embedding import embedding_kernel, fp8_embedding_kernel, quantized_embedding_kernel
from .linear import few_rows_kernel, few_rows_tile, matmul_kernel
from .norm import _SUMMED_COLUMNS as SUMMED_COLUMNS, rms_norm_codes_kernel, rms_norm_kernel
from .paged_attention import (
    _PREFILL_QUERIES as PAGED_ATTENTION_PREFILL_QUERIES,
    _PREFILL_QUERIES_ELSEWHERE as PAGED_ATTENTION_PREFILL_QUERIES_ELSEWHERE,
    kv_write_kernel,
    merge_kernel,
    paged_attention_kernel,
    paged_prefill_kernel,
)
from .penalties import (
    _BLOCK as PENALTIES_BLOCK,
    _IDS as PENALTIES_IDS,
    count_tokens_kernel,
    logit_bias_kernel,
    penalize_kernel,
)
from .quant import COLUMNS, FORMATS, quantize_blocks_kernel, quantize_fp8_blocks_kernel
from .quantized_activations import blocks_at_a_time, quantize_fp8_kernel, quantize_int8_kernel, quantize_kernel
from .quantized_linear import (
    _ROWS as QUANTIZED_LINEAR_ROWS,
    _ROWS_ELSEWHERE as QUANTIZED_LINEAR_ROWS_ELSEWHERE,
    dequantized_linear_kernel,
    fp8_few_rows_kernel,
    fp8_few_tile,
    fp8_linear_kernel,
    fp8_tile,
    quantized_linear_kernel,
)
from .rope import rope_kernel
from .sampling import _BLOCK as SAMPLING_BLOCK, greedy_kernel, repetition_penalty_kernel, sample_kernel
from .tiles import attention_tile, column_block, product_tile, row_tile

_FEATURES, _TOKENS, _HEADS, _WIDTH, _PAGE = 4096, 2048, 32, 128, 16
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
    return [*_rows(chip), *_weights(), *_products(chip), *_attentions(chip), *_sampling(), _transposition()]


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
    few = few_rows_tile(chip, 4)
    sizes = _types("m n k r_row o_row", _SIZE)
    rows = QUANTIZED_LINEAR_ROWS.get(chip.kind, QUANTIZED_LINEAR_ROWS_ELSEWHERE)
    weight = {"codes": _BYTES, "scales": _ARRAY}
    fp8 = _types("x residual out", _ARRAY) | {"codes": _BYTES, "scales": _FLOATS, "scale_row": "i32", "x_row": _SIZE}
    fp8_few = fp8_few_tile(chip, 4)
    large = fp8_tile(chip, _TOKENS, _FEATURES, itemsize=2)
    multiplied = tl.float32 if chip.kind == "cpu" else tl.float16
    return [
        Signature(
            matmul_kernel,
            _types("a b out", _ARRAY) | sizes | _types("a_row b_n", _SIZE),
            {"residual": None, "b_k": 1, "M": tile.m, "N": tile.n, "K": tile.k, "EVEN_K": True},
            {**tile.launch},
        ),
        Signature(
            few_rows_kernel,
            _types("x weight residual out", _ARRAY) | {"m": "i32"} | _types("n k x_row w_row r_row o_row", _SIZE),
            {"ROWS": few.m, "N": few.n, "K": few.k, "EVEN": True},
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
            {
                "minimums": None,
                "residual": None,
                "M": floats.m,
                "N": floats.n,
                "K": 64,
                "TYPE": multiplied,
                **_format("q4_0"),
            },
        ),
        Signature(
            fp8_few_rows_kernel,
            fp8 | sizes,
            {"ROWS": fp8_few.m, "N": fp8_few.n, "K": fp8_few.k, "EVEN": True},
        ),
        Signature(
            fp8_linear_kernel,
            fp8 | sizes,
            {"M": large.m, "N": large.n, "K": large.k, "EVEN_K": True, "TYPE": multiplied},
            {**large.launch},
        ),
    ]


def _attentions(chip: Any) -> list[Signature]:
    tile = attention_tile(chip, _TOKENS, _HEADS, causal=True, width=_WIDTH, itemsize=2)
    head = {"WIDTH": _WIDTH, "BLOCK_D": block_d(_WIDTH)}
    cache = _types("k_block k_head k_dim v_block v_token v_head", _SIZE)  # keys with block_size as the fastest axis
    parts = _types("partial partial_top partial_mass", _FLOATS)
    numbers = {"group": "i32", "scale_log2": "fp32"}
    page = 32 if chip.target.startswith("ascend:950") else _PAGE  # its compiler crashes at 16
    prefill = PAGED_ATTENTION_PREFILL_QUERIES.get(chip.kind, PAGED_ATTENTION_PREFILL_QUERIES_ELSEWHERE)
    return [
        Signature(
            attention_kernel,
            _types("q k v out", _ARRAY)
            | _types("queries keys", "i32")
            | numbers
            | {f"{array}_{axis}": _SIZE for array in "qkvo" for axis in ("batch", "token", "head")},
            {"BLOCK_M": tile.m, "BLOCK_N": tile.n, **head, "CAUSAL": True},
            {**tile.launch},
        ),
        Signature(
            paged_attention_kernel,
            _types("q k v out", _ARRAY)
            | _types("table context_lens", _INTS)
            | parts
            | _types("blocks max_blocks", "i32")
            | numbers
            | cache
            | _types("q_batch q_head table_row o_batch o_head", _SIZE),
            {"k_token": 1, "GROUP": 4, "BLOCK_N": page, **head, "SPLITS": 8},
        ),
        Signature(
            merge_kernel,
            parts | {"out": _ARRAY} | _types("o_batch o_head", _SIZE),
            {"SPLITS": 8, **head},
        ),
        Signature(
            paged_prefill_kernel,
            _types("q k v out", _ARRAY)
            | {"table": _INTS}
            | _types("blocks queries before", "i32")
            | numbers
            | cache
            | _types("q_token q_head o_token o_head", _SIZE),
            {"k_token": 1, "BLOCK_M": prefill, "BLOCK_N": page, **head},
        ),
        Signature(
            kv_write_kernel,
            _types("k v k_cache v_cache", _ARRAY)
            | {"slots": _INTS, "blocks": "i32"}
            | _types("block_size k_row k_head v_row v_head kc_block kc_head kc_dim vc_block vc_token vc_head", _SIZE),
            {"kc_token": 1, **head},
        ),
    ]


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
            logits | {"counts": _INTS, "out": _ARRAY, "logits_row": _SIZE} | _types("frequency presence", _FLOATS),
            {"PER_ROW": True, "BLOCK": PENALTIES_BLOCK},
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
