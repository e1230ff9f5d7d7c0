"""Activations that become codes, of 16 bits for exact products of bytes, or of 8 bits for each token, int8 or fp8."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import triton.language as tl

import unify
from unify._errors import InvalidArgument, ShapeError
from unify._tensor import as_tensor

from .e4m3 import to_e4m3
from .op import FLOATS, op
from .tiles import row_tile

BLOCK = 32  # values that share a scale in int16, and a sum in int8
FP8_BLOCK = 128  # values that share a scale in fp8
ACTIVATIONS = ("int16", "int8", "fp8")
_ASCEND_COLUMNS = 1024


@unify.jit
def spoilt(value):
    """Per row of a tile, how many of its values are no numbers or infinite."""
    return tl.sum(tl.where(tl.abs(value) <= 3.4028234663852886e38, 0, 1), axis=1)


@unify.jit
def numbers(value):
    """value, with 0 for what is no number or infinite, which is not to become a code."""
    return tl.where(tl.abs(value) <= 3.4028234663852886e38, value, 0.0)


@unify.jit
def store_int16(value, block, codes, scales, sums, k):
    """Blocks [B, 32] of a row as codes. 16 bits as two signed bytes: code = 256 · high + low, so that byte dot products
    give sums that are exact in the codes. 32512 = 127 · 256 keeps `high` inside int8. A block's high bytes and its low
    ones share a cache line."""
    inside = block < k // 32
    broken = spoilt(value)
    value = numbers(value)
    largest = tl.max(tl.abs(value), axis=1)
    inverse = tl.where(largest > 1.0e-30, 32512.0 / largest, 0.0)
    code = tl.floor(value * inverse[:, None] + 0.5).to(tl.int32)
    upper = (code + 128) >> 8
    place = codes + block[:, None] * 64 + tl.arange(0, 32)[None, :]
    tl.store(place, upper.to(tl.int8), mask=inside[:, None])
    tl.store(place + 32, (code - upper * 256).to(tl.int8), mask=inside[:, None])
    tl.store(scales + block, tl.where(broken > 0, float("nan"), largest * (1.0 / 32512.0)), mask=inside)
    tl.store(sums + block, tl.sum(code, axis=1), mask=inside)


@unify.jit
def store_int8(value, block, inverse, codes, sums, k):
    """Blocks [B, 32] of a row as codes: value · inverse."""
    inside = block < k // 32
    code = tl.floor(numbers(value) * inverse + 0.5).to(tl.int32)
    tl.store(codes + block[:, None] * 32 + tl.arange(0, 32)[None, :], code.to(tl.int8), mask=inside[:, None])
    tl.store(sums + block, tl.sum(code, axis=1), mask=inside)


@unify.jit
def store_fp8(value, block, codes, scales, k):
    """Blocks [B, 128] of a row as codes, each with a scale that makes its largest value 448."""
    column = block[:, None] * 128 + tl.arange(0, 128)[None, :]
    broken = spoilt(value)
    value = numbers(value)
    scale = tl.max(tl.abs(value), axis=1) / 448.0
    scale = tl.where(scale > 1.0e-37, scale, 1.0)
    code = to_e4m3(value / scale[:, None])
    tl.store(codes + column, code, mask=column < k)
    tl.store(scales + block, tl.where(broken > 0, float("nan"), scale), mask=block < tl.cdiv(k, 128))


# One program a row, BLOCKS blocks of it at a time.
@unify.jit
def quantize_kernel(x, codes, scales, sums, k, x_row, BLOCKS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    for first in range(0, k // 32, BLOCKS):
        block = first + tl.arange(0, BLOCKS)
        column = block[:, None] * 32 + tl.arange(0, 32)[None, :]
        value = tl.load(x + row * x_row + column, mask=(block < k // 32)[:, None], other=0.0).to(tl.float32)
        store_int16(value, block, codes + row * 2 * k, scales + row * (k // 32), sums + row * (k // 32), k)


@unify.jit
def quantize_int8_kernel(x, codes, scales, sums, k, x_row, BLOCKS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    x += row * x_row
    broken = tl.zeros([BLOCKS], dtype=tl.int32)
    largest = tl.zeros([BLOCKS], dtype=tl.float32)
    for first in range(0, k // 32, BLOCKS):
        block = first + tl.arange(0, BLOCKS)
        column = block[:, None] * 32 + tl.arange(0, 32)[None, :]
        value = tl.load(x + column, mask=(block < k // 32)[:, None], other=0.0).to(tl.float32)
        broken += spoilt(value)
        largest = tl.maximum(largest, tl.max(tl.abs(numbers(value)), axis=1))
    top = tl.max(largest, axis=0)
    inverse = tl.where(top > 1.0e-30, 127.0 / top, 0.0)
    tl.store(scales + row, tl.where(tl.max(broken, axis=0) > 0, float("nan"), top * (1.0 / 127.0)))
    for first in range(0, k // 32, BLOCKS):
        block = first + tl.arange(0, BLOCKS)
        column = block[:, None] * 32 + tl.arange(0, 32)[None, :]
        value = tl.load(x + column, mask=(block < k // 32)[:, None], other=0.0).to(tl.float32)
        store_int8(value, block, inverse, codes + row * k, sums + row * (k // 32), k)


@unify.jit
def quantize_fp8_kernel(x, codes, scales, k, x_row, BLOCKS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    blocks = tl.cdiv(k, 128)
    for first in range(0, blocks, BLOCKS):
        block = first + tl.arange(0, BLOCKS)
        column = block[:, None] * 128 + tl.arange(0, 128)[None, :]
        value = tl.load(x + row * x_row + column, mask=column < k, other=0.0).to(tl.float32)
        store_fp8(value, block, codes + row * k, scales + row * blocks, k)


@dataclass(frozen=True)
class QuantizedActivations:
    """[m, k] activations as codes; a value is code · scale.

    int16: codes int8 [m, k / 32, 2, 32], each block's high bytes and then its low ones (a code is 256 · high + low),
    with scales and sums of codes [m, k / 32]. int8: codes [m, k], scales [m], sums [m, k / 32]. fp8: codes float8_e4m3
    [m, k], scales [m, ⌈k / 128⌉], no sums. Scales are float32, sums int32. dtype: of what was quantised,
    and of its products.
    """

    codes: Any
    scales: Any
    sums: Any
    kind: str = "int16"
    dtype: Any = unify.float32

    @property
    def shape(self) -> tuple[int, ...]:
        """[m, k]."""
        rows, *columns = self.codes.shape
        return rows, math.prod(columns) // (2 if self.kind == "int16" else 1)

    @property
    def device(self) -> Any:
        """The device that holds the codes."""
        return self.codes.device

    def check(self, name: str) -> None:
        """Raises InvalidArgument, which names the op, for arrays that are not those of their kind."""
        if self.kind not in ACTIVATIONS:
            raise InvalidArgument(f"{name}: x has activations in {self.kind!r}; known are {', '.join(ACTIVATIONS)}.")
        for part, (dtype, shape) in _arrays(self.kind, *self.shape).items():
            array = getattr(self, part)
            has = None if array is None else (array.dtype, array.shape, array.is_contiguous, array.device)
            if has != (dtype, shape, True, self.device):
                given = "none" if array is None else f"{array.dtype.name} {list(array.shape)} on {array.device}"
                raise InvalidArgument(
                    f"{name}: x's {part} for activations in {self.kind} must be {dtype.name} {list(shape)} on "
                    f"{self.device}, contiguous; they are {given}. `ops.quant.quantize` makes them."
                )


def _arrays(kind: str, rows: int, k: int) -> dict[str, tuple[Any, tuple[int, ...]]]:
    """Dtype and shape of the arrays that a kind has."""
    if kind == "fp8":
        return {"codes": (unify.float8_e4m3, (rows, k)), "scales": (unify.float32, (rows, -(-k // FP8_BLOCK)))}
    blocks = (rows, k // BLOCK)
    is_wide = kind == "int16"
    return {
        "codes": (unify.int8, (*blocks, 2, BLOCK) if is_wide else (rows, k)),
        "scales": (unify.float32, blocks if is_wide else (rows,)),
        "sums": (unify.int32, blocks),
    }


def empty_activations(kind: str, rows: int, k: int, like: Any, *, name: str) -> QuantizedActivations:
    """Memory for codes of a kind, of what is of like's dtype and on its device.

    Raises InvalidArgument and ShapeError that name the op.
    """
    device = like.device
    if kind not in ACTIVATIONS:
        raise InvalidArgument(f"{name}: activations are quantised to {', '.join(ACTIVATIONS)}, not to {kind!r}.")
    if kind != "fp8" and k % BLOCK:
        raise ShapeError(f"{name}: for {kind} the last axis must be a multiple of {BLOCK}; it is {k}.")
    arrays = _arrays(kind, rows, k)
    made = {part: unify.empty(shape, dtype=dtype, device=device) for part, (dtype, shape) in arrays.items()}
    return QuantizedActivations(made["codes"], made["scales"], made.get("sums"), kind, like.dtype)


def blocks_at_a_time(device: Any, kind: str, k: int) -> int:
    """Blocks of a row that a program of the kind takes at a time; on Ascend no whole row, for its memory's sake."""
    columns = row_tile(device, k).k if device.kind != "ascend" else _ASCEND_COLUMNS
    return max(1, columns // (FP8_BLOCK if kind == "fp8" else BLOCK))


@op
def quantize(x: Any, kind: str = "int16", *, stream: Any = None) -> QuantizedActivations:
    """Turns activations into codes: "int16" with a scale for each 32 values, for the integer products of `linear`;
    "int8" with one for each token; "fp8", float8_e4m3, with one for each 128 values (DeepSeek-V3's report, 3.3.2).

    x: [m, k] float16, bfloat16 or float32, last axis contiguous, k a multiple of 32 but for fp8. The error of a value
    is at most 1/65024 of the largest in its block for int16, 1/254 of the token's largest for int8. What has a NaN or
    an infinity among the values of a scale has NaN for that scale.
    Returns codes on x's device, enqueued on `stream` (default: the current one of x's device).
    Raises ShapeError, DTypeError, InvalidArgument; nothing is enqueued then.
    """
    source = as_tensor(x, name="quantize: x", dtype=FLOATS)
    if source.ndim != 2 or source.strides[1] != 1:
        raise ShapeError(
            "quantize: x must be [m, k], its last axis contiguous; "
            f"it is {list(source.shape)} with strides {list(source.strides)}."
        )
    (rows, k), device = source.shape, source.device
    made = empty_activations(kind, rows, k, source, name="quantize")
    arrays, x_row = (source, made.codes, made.scales), source.strides[0]
    if kind == "int16":
        quantize_kernel[(rows,)](*arrays, made.sums, k, x_row, BLOCKS=2)
    elif kind == "int8":
        quantize_int8_kernel[(rows,)](*arrays, made.sums, k, x_row, BLOCKS=blocks_at_a_time(device, kind, k))
    else:
        codes = made.codes.view(unify.uint8)
        quantize_fp8_kernel[(rows,)](source, codes, made.scales, k, x_row, BLOCKS=blocks_at_a_time(device, kind, k))
    return made
