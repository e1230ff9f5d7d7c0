"""Rows of the kernels of attention, and of the caches that it reads: see signatures.py.

Heads are of 128 features, 32 of them and 8 of keys; DeepSeek-V3's latent ones are 128 over rows of 512 + 64.
"""

from __future__ import annotations

from typing import Any

from unify._tensor import float16

from .attend import Widths, block_d
from .attention import attention_kernel
from .kv_write import kv_write_kernel
from .merge_states import merge_kernel
from .mla_attention import latent_read_kernel, latent_write_kernel, mla_attention_kernel
from .paged_attention import paged_attention_kernel
from .signature import ARRAY, BYTES, CODES, FLOATS, INTS, SIZE, TOKENS, Signature, row, types
from .tiles import attention_tile, latent_tile, paged_keys, prefill_tile

_HEADS, _WIDTH = 32, 128
_WIDTHS = vars(Widths.of(_WIDTH, _WIDTH))
_LATENT = {"RANK": 512, "BLOCK_R": 512, "ROPE": 64, "BLOCK_P": 64}
_LATENT_PAGE = 64

_NO_SCALES = {"k_scale": None, "v_scale": None}
_INT8 = {"k": CODES, "v": CODES, "k_scale": FLOATS, "v_scale": FLOATS}
_FP8 = {"k": BYTES, "v": BYTES, "k_scale": "fp32", "v_scale": "fp32"}
_OPTIONS = {"cap": "fp32", "window": "i32", "lse": FLOATS, "sinks": ARRAY, "alibi": FLOATS}
_EVERY_OPTION = {**_OPTIONS, **_NO_SCALES}
_NO_OPTION = dict.fromkeys(_EVERY_OPTION)
_ANY_QUERIES: dict[str, Any] = {
    **types("q k v out", ARRAY),
    **types("q_head k_head v_token v_head o_head table_row", SIZE),
    **types("group blocks max_blocks", "i32"),
    "scale": "fp32",
}


def attentions(chip: Any) -> list[Signature]:
    """Of many queries and of one a sequence, over arrays and pages, and what writes and joins them."""
    return [*_many_queries(chip), *_one_query(chip), *_latent(chip), _merging(), *_writing()]


def _paged(chip: Any) -> dict[str, Any]:
    """A cache with block_size as the fastest axis."""
    page = 32 if chip.target.startswith("ascend:950") else 16  # its compiler crashes at 16
    return {"k_token": 1, "k_dim": SIZE, "BLOCK_N": paged_keys(chip, page), "PAGE": page, "table": INTS}


def _many_queries(chip: Any) -> list[Signature]:
    def tile(width: int = _WIDTH, plain: bool = True) -> Any:
        return attention_tile(chip, TOKENS, _HEADS, causal=True, width=width, dtype=float16, plain=plain)

    def rows(plain: bool = True) -> dict[str, int]:
        return {"BLOCK_M": prefill_tile(chip, TOKENS, paged["PAGE"], width=_WIDTH, types="float16", plain=plain).m}

    def sizes(of: Any) -> dict[str, int]:
        return {"BLOCK_M": of.m, "BLOCK_N": of.n}

    paged, plain, halved, wide = _paged(chip), tile(), tile(plain=False), tile(192)
    many = {
        **_ANY_QUERIES,
        **types("q_batch q_token k_batch k_token v_batch o_batch o_token", SIZE),
        **types("queries keys sequences steps", "i32"),
        **dict.fromkeys(("starts", "key_starts", "lengths", "table")),
        "k_dim": 1,
        "PAGE": 0,
        "CAUSAL": True,
        **_WIDTHS,
    }
    packed = {**many, "starts": INTS, "key_starts": INTS}
    of_pages = {**many, **paged, "starts": INTS, "lengths": INTS}
    two_widths = vars(Widths.of(192, 128))  # DeepSeek-V3's, expanded
    return [
        row(attention_kernel, {**many, **_NO_OPTION, **sizes(plain)}, plain.launch),
        row(attention_kernel, {**packed, **_EVERY_OPTION, **sizes(halved)}, halved.launch, "packed-options"),
        row(attention_kernel, {**packed, **_NO_OPTION, **two_widths, **sizes(wide)}, wide.launch, "packed-192"),
        row(attention_kernel, {**of_pages, **_NO_OPTION, **rows()}, form="paged"),
        row(attention_kernel, {**of_pages, **_EVERY_OPTION, **rows(plain=False)}, form="paged-options"),
        row(attention_kernel, {**of_pages, **_NO_OPTION, **_INT8, **rows()}, form="paged-int8"),
    ]


def _one_query(chip: Any) -> list[Signature]:
    one = {
        **_ANY_QUERIES,
        **types("q_batch k_block v_block o_split o_batch", SIZE),
        "context_lens": INTS,
        "GROUP": 4,
        **_paged(chip),
        **_WIDTHS,
    }
    return [
        row(paged_attention_kernel, {**one, **_NO_OPTION, "lse": FLOATS}),
        row(paged_attention_kernel, {**one, **_EVERY_OPTION}, form="options"),
        row(paged_attention_kernel, {**one, **_NO_OPTION, **_INT8}, form="int8"),
        row(paged_attention_kernel, {**one, **_NO_OPTION, **_FP8, "lse": FLOATS}, form="fp8"),
    ]


def _latent(chip: Any) -> list[Signature]:
    tile = latent_tile(chip, 1, 128, _LATENT_PAGE, 64, types="float16")
    attending = {
        **types("q cache out", ARRAY),
        **types("q_batch q_head c_block c_token table_row o_split o_batch o_head heads", SIZE),
        **types("table context_lens", INTS),
        **types("blocks max_blocks", "i32"),
        "lse": FLOATS,
        "scale": "fp32",
        "HEADS": tile.m,
        "BLOCK_N": tile.n,
        "PAGE": _LATENT_PAGE,
        **_LATENT,
    }
    writing = {
        **types("latent rope_key cache", ARRAY),
        **types("block_size l_row r_row c_block c_token", SIZE),
        "slots": INTS,
        "blocks": "i32",
        **_LATENT,
    }
    width = _LATENT["RANK"] + _LATENT["ROPE"]
    reading = {
        **types("cache out", ARRAY),
        **types("table starts", INTS),
        **types("blocks max_blocks sequences steps", "i32"),
        **types("c_block c_token table_row", SIZE),
        "PAGE": _LATENT_PAGE,
        "WIDTH": width,
        "BLOCK_D": block_d(width),
    }
    return [
        row(mla_attention_kernel, attending, tile.launch),
        row(latent_write_kernel, writing),
        row(latent_read_kernel, reading),
    ]


def _merging() -> Signature:
    parts = {
        **types("outs lses lse", FLOATS),
        **types("o_part o_row o_head l_part l_row out_row out_head", SIZE),
        "out": ARRAY,
        "parts": "i32",
        "l_head": 1,
        "PARTS": 8,
        "WIDTH": _WIDTH,
        "BLOCK_D": block_d(_WIDTH),
    }
    return row(merge_kernel, parts)


def _writing() -> list[Signature]:
    dense = {
        **types("k v k_cache v_cache", ARRAY),
        **types("block_size k_row k_head v_row v_head kc_block kc_head kc_dim vc_block vc_token vc_head", SIZE),
        **_NO_SCALES,
        "slots": INTS,
        "blocks": "i32",
        "kc_token": 1,
        "WIDTH": _WIDTH,
        "BLOCK_D": block_d(_WIDTH),
        "VALUE": _WIDTH,
        "BLOCK_V": block_d(_WIDTH),
    }

    def quantized(cache: dict[str, str]) -> dict[str, Any]:
        return {"k_cache": cache["k"], "v_cache": cache["v"], "k_scale": cache["k_scale"], "v_scale": cache["v_scale"]}

    return [
        row(kv_write_kernel, dense),
        row(kv_write_kernel, {**dense, **quantized(_INT8)}, form="int8"),
        row(kv_write_kernel, {**dense, **quantized(_FP8)}, form="fp8"),
    ]
