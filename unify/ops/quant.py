"""Quantised weights: GGUF's block formats, int8 and int4 that are laid out like them, and DeepSeek's fp8.

A matrix in blocks has its codes in an order of its own: COLUMNS output features side by side, four inputs a 32-bit
lane, so that one vector load feeds one integer dot product of as many lanes:

    q4: codes[n / COLUMNS, k / 8, COLUMNS, 4] uint8   low nibble: inputs 32b + 4g + j, high nibble: 32b + 16 + 4g + j
    q8: codes[n / COLUMNS, k / 4, COLUMNS, 4] uint8   inputs 32b + 4g + j, plus 128
    scales, minimums: [n / COLUMNS, k / 32, COLUMNS] float16

with b the block of 32 inputs, g the group in it and j the byte. Features are padded with zeros to whole COLUMNS. int4
is q4_0, int8 is q8_0.

fp8 is kept as DeepSeek-V3 ships it (its `weight` and `weight_scale_inv`), whatever n and k are:

    codes: [n, k] uint8, the bits of float8_e4m3; scales: [⌈n / 128⌉, ⌈k / 128⌉] float32

A matrix for each expert is the same with experts in front.
"""

from __future__ import annotations

import operator
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import triton.language as tl

import unify
from unify._errors import DTypeError, InvalidArgument, ShapeError
from unify._tensor import as_tensor

from .e4m3 import is_nan, to_e4m3
from .op import FLOATS, op
from .quantized_activations import (
    ACTIVATIONS,
    BLOCK,
    FP8_BLOCK,
    QuantizedActivations,
    numbers,
    quantize,
    spoilt,
)

__all__ = [
    "ACTIVATIONS",
    "BLOCK",
    "COLUMNS",
    "FORMATS",
    "FP8_BLOCK",
    "KINDS",
    "QuantizedActivations",
    "QuantizedMatrix",
    "from_fp8_blocks",
    "from_gguf",
    "quantize",
    "quantize_weight",
]

COLUMNS = 64  # output features that lie side by side


@dataclass(frozen=True)
class _Format:
    bits: int
    has_minimum: bool
    offset: int  # what is subtracted from a stored code
    row_bytes: int  # of one block in the file


# ggml's block formats (ggml-common.h): q4_0 {d, 16 nibble pairs}, q4_1 {d, m, 16 nibble pairs}, q8_0 {d, 32 int8}.
FORMATS = {
    "q4_0": _Format(bits=4, has_minimum=False, offset=8, row_bytes=18),
    "q4_1": _Format(bits=4, has_minimum=True, offset=0, row_bytes=20),
    "q8_0": _Format(bits=8, has_minimum=False, offset=128, row_bytes=34),
}


_LAYOUTS = {**FORMATS, "int8": FORMATS["q8_0"], "int4": FORMATS["q4_0"]}
KINDS = ("int8", "int4", "fp8")  # that quantize_weight makes


@dataclass(frozen=True)
class QuantizedMatrix:
    """An [n, k] weight matrix that stays quantised in memory, or [experts, n, k].

    Made by `quantize_weight`, `from_fp8_blocks` and `from_gguf`; `linear` and `embedding` take one in place of a
    tensor. Its weights are scale · (code - offset) + minimum in blocks of 32, scale · code in fp8, where the scale of a
    block is NaN if one of its codes is. activations: what rows become that are multiplied with it where a call does not
    say so, as `linear` takes it.
    """

    kind: str
    shape: tuple[int, ...]
    codes: Any
    scales: Any
    minimums: Any | None = None
    activations: str | None = None

    @classmethod
    def empty(cls, kind: str, shape: tuple[int, ...], *, device: Any = None) -> QuantizedMatrix:
        """Memory for a matrix, for `quantize_weight` to write.

        kind: "int8", "int4" or "fp8"; shape: [n, k] or [experts, n, k], k a multiple of 32 for int8 and int4; device:
        default: the default device. Raises InvalidArgument, ShapeError.
        """
        _check_kind("QuantizedMatrix.empty: shape", kind, shape)
        *experts, n, k = shape
        if kind == "fp8":
            codes = unify.empty(shape, dtype=unify.uint8, device=device)
            scales = unify.empty(_scale_shape(shape), dtype=unify.float32, device=device)
            return cls(kind, shape, codes, scales)
        parts, blocks = -(-n // COLUMNS), k // BLOCK
        codes = unify.empty(
            (*experts, parts, blocks * _LAYOUTS[kind].bits, COLUMNS, 4), dtype=unify.uint8, device=device
        )
        scales = unify.empty((*experts, parts, blocks, COLUMNS), dtype=unify.float16, device=device)
        return cls(kind, shape, codes, scales)

    @property
    def format(self) -> _Format:
        """Bits, offset and so on of a kind that has blocks of 32."""
        return _LAYOUTS[self.kind]

    @property
    def device(self) -> Any:
        """The device that holds it."""
        return self.codes.device

    @property
    def nbytes(self) -> int:
        """Bytes of device memory, padding included."""
        minimums = 0 if self.minimums is None else self.minimums.nbytes
        return int(self.codes.nbytes + self.scales.nbytes + minimums)

    def __len__(self) -> int:
        return self.shape[0]

    def __getitem__(self, expert: int) -> QuantizedMatrix:
        """The matrix of one expert, over the same memory. Raises ShapeError if there are no experts, IndexError."""
        expert = operator.index(expert)
        if len(self.shape) != 3:
            raise ShapeError(f"QuantizedMatrix: only one with experts, [experts, n, k], has parts; it is {self.shape}.")
        minimums = None if self.minimums is None else self.minimums[expert]
        return replace(
            self, shape=self.shape[1:], codes=self.codes[expert], scales=self.scales[expert], minimums=minimums
        )

    def rows(self, first: int, count: int) -> QuantizedMatrix:
        """Some of an [n, k] matrix's rows, over the same memory.

        first is a multiple of 64, in fp8 of 128; so is count, where they do not reach to the end. Raises ShapeError.
        """
        together = FP8_BLOCK if self.kind == "fp8" else COLUMNS
        end, n = first + count, self.shape[0]
        is_whole = first % together == 0 and (end % together == 0 or end == n)
        if len(self.shape) != 2 or not (0 <= first <= end <= n and is_whole):
            raise ShapeError(
                f"QuantizedMatrix: rows {first} to {end} of {list(self.shape)} are no part of it: {together} of a "
                f"{self.kind} matrix lie together."
            )
        groups = slice(first // together, -(-end // together))
        codes = self.codes[first:end] if self.kind == "fp8" else self.codes[groups]
        minimums = None if self.minimums is None else self.minimums[groups]
        return replace(self, shape=(count, self.shape[1]), codes=codes, scales=self.scales[groups], minimums=minimums)

    def dequantize(self) -> Any:
        """Returns the float32 tensor of its shape, enqueued on the device's current stream."""
        from .embedding import embedding

        if len(self.shape) == 2 and len(self) > 0:
            return embedding(unify.arange(self.shape[0], dtype=unify.int32, device=self.device), self)
        result = unify.empty(self.shape, dtype=unify.float32, device=self.device)
        for part in range(len(self)):
            result[part].copy_(self[part].dequantize())
        return result


def _check_kind(name: str, kind: str, shape: Sequence[int]) -> None:
    if kind not in KINDS:
        raise InvalidArgument(f"{name.partition(':')[0]}: no kind {kind!r}. Known: {', '.join(KINDS)}.")
    if len(shape) not in (2, 3) or (kind != "fp8" and shape[-1] % BLOCK):
        needed = "" if kind == "fp8" else f", k a multiple of {BLOCK}"
        raise ShapeError(f"{name} must be [n, k] or [experts, n, k]{needed}; it is {list(shape)}.")


def activations_kind(
    name: str, x: Any, weight: Any, kind: str | None, *, what: str = "weight", known: Sequence[str] = ACTIVATIONS
) -> str | None:
    """What rows x are, or become, for a product with the weight `what`: a kind of codes, or None for floats.

    x: a tensor or QuantizedActivations; kind: what the caller asks for; known: codes that the op takes. Raises
    InvalidArgument where they do not agree, or where the weight is none that such codes can be multiplied with.
    """
    is_quantized = isinstance(x, QuantizedActivations)
    if isinstance(x, QuantizedActivations):
        x.check(name)
    has = weight.kind if isinstance(weight, QuantizedMatrix) else "dense"
    if (kind is not None and kind not in ("int8", "fp8")) or (is_quantized and kind not in (None, x.kind)):
        raise InvalidArgument(
            f"{name}: activations must be 'int8', 'fp8' or None, and x's kind if it is quantised; it is {kind!r}."
        )
    wanted: str | None = x.kind if is_quantized else kind
    if wanted is None and isinstance(weight, QuantizedMatrix):
        wanted = weight.activations
    if wanted is None:
        return None
    if wanted not in known:
        raise InvalidArgument(f"{name}: x has activations in {wanted}; known are {', '.join(known)}.")
    if has == "dense" or (wanted == "fp8") != (has == "fp8"):
        needed = "in fp8" if wanted == "fp8" else f"in blocks of {BLOCK}, as int8 or int4"
        raise InvalidArgument(f"{name}: activations in {wanted} go with a {what} {needed}; {what} is {has}.")
    return wanted


def as_codes(x: Any, kind: str | None) -> Any:
    """Rows x, a tensor [m, k] or QuantizedActivations, as what activations_kind gave for them."""
    return x if kind is None or isinstance(x, QuantizedActivations) else quantize(x, kind)


def from_gguf(kind: str, raw: Any, *, device: Any = None) -> QuantizedMatrix:
    """Makes a matrix of a GGUF tensor's bytes.

    kind: "q4_0", "q4_1" or "q8_0"; raw: NumPy uint8 [n, k / 32 · bytes of a block], as in the file.
    The order is changed on the host, then copied to `device` (default: the default device).
    Raises DTypeError for another kind, ShapeError for rows that are not whole blocks.
    """
    import numpy as np

    layout = FORMATS.get(kind)
    if layout is None:
        raise DTypeError(f"from_gguf: no format {kind!r}. Known: {', '.join(FORMATS)}. Dequantise it to float32 first.")
    if raw.dtype != np.uint8 or raw.ndim != 2 or raw.shape[1] % layout.row_bytes:
        raise ShapeError(
            f"from_gguf: raw must be uint8 [n, blocks · {layout.row_bytes}] for {kind}; it is {raw.dtype} {raw.shape}."
        )
    rows, blocks = raw.shape[0], raw.shape[1] // layout.row_bytes
    parts = -(-rows // COLUMNS)
    lanes = np.zeros((parts, blocks * layout.bits, COLUMNS), np.uint32)  # 32 inputs are `bits` lanes
    scales = np.zeros((parts, blocks, COLUMNS), np.float16)
    minimums = np.zeros_like(scales) if layout.has_minimum else None
    head = 4 if layout.has_minimum else 2
    for part in range(parts):
        fields = raw[part * COLUMNS : (part + 1) * COLUMNS].reshape(-1, blocks, layout.row_bytes)
        here = slice(0, fields.shape[0])
        halves = np.ascontiguousarray(fields[:, :, :head]).view(np.float16)
        scales[part, :, here] = halves[:, :, 0].T
        if minimums is not None:
            minimums[part, :, here] = halves[:, :, 1].T
        words = np.ascontiguousarray(fields[:, :, head:]).view(np.uint32)
        lanes[part, :, here] = words.reshape(words.shape[0], -1).T
    if layout.bits == 8:
        lanes ^= np.uint32(0x80808080)  # int8 → uint8 plus 128
    codes = lanes.view(np.uint8).reshape(*lanes.shape, 4)
    return QuantizedMatrix(
        kind,
        (rows, blocks * BLOCK),
        unify.asarray(codes, device=device),
        unify.asarray(scales, device=device),
        None if minimums is None else unify.asarray(minimums, device=device),
    )


def from_fp8_blocks(codes: Any, scales: Any) -> QuantizedMatrix:
    """Makes a matrix of a float8_e4m3 weight with a scale for each 128 × 128 block, over the memory of its codes.

    codes: [n, k] or [experts, n, k] float8_e4m3, or its bits as uint8; scales: [⌈n / 128⌉, ⌈k / 128⌉] float32, or
    [experts, …]; both contiguous and on one device. A weight is code · scale (DeepSeek-V3's `weight` and
    `weight_scale_inv`, section 3.3 of its report). Codes are read once, on the current stream of their device: where
    one is no number, all of its block are none, so that no product has to look for it. One that is written later is not
    noticed.
    Raises ShapeError, DTypeError, LayoutError, DeviceMismatchError.
    """
    bits = as_tensor(codes, name="from_fp8_blocks: codes", dtype=(unify.float8_e4m3, unify.uint8), contiguous=True)
    factors = as_tensor(
        scales, name="from_fp8_blocks: scales", dtype=unify.float32, device=bits.device, contiguous=True
    )
    if bits.ndim not in (2, 3) or factors.shape != _scale_shape(bits.shape):
        wanted = f"{list(_scale_shape(bits.shape))}" if bits.ndim in (2, 3) else "[⌈n / 128⌉, ⌈k / 128⌉]"
        raise ShapeError(
            f"from_fp8_blocks: codes must be [n, k] or [experts, n, k] and scales {wanted}; "
            f"they are {list(bits.shape)} and {list(factors.shape)}."
        )
    bits, known = bits.view(unify.uint8), unify.empty(factors.shape, dtype=unify.float32, device=bits.device)
    grid = factors.shape[::-1]
    spoil_fp8_scales_kernel[grid](bits, factors, known, *bits.shape[-2:], ROWS=16)
    return QuantizedMatrix("fp8", bits.shape, bits, known)


# One program a block of 128 × 128, ROWS features at a time: its scale, NaN where one of its codes is.
@unify.jit
def spoil_fp8_scales_kernel(codes, scales, out, n, k, ROWS: tl.constexpr):
    inputs = tl.program_id(0) * 128 + tl.arange(0, 128)
    first = tl.program_id(1) * 128
    expert = tl.program_id(2).to(tl.int64)
    codes += expert * n * k + inputs[None, :]
    broken = tl.zeros([ROWS], dtype=tl.int32)
    for step in range(0, 128, ROWS):
        row = first + step + tl.arange(0, ROWS)
        inside = (row < n)[:, None] & (inputs < k)[None, :]
        code = tl.load(codes + row.to(tl.int64)[:, None] * k, mask=inside, other=0)
        broken += tl.max(is_nan(code).to(tl.int32), axis=1)
    place = (expert * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(0) + tl.program_id(0)
    scale = tl.load(scales + place)
    tl.store(out + place, tl.where(tl.max(broken, axis=0) > 0, float("nan"), scale))


def _scale_shape(shape: tuple[int, ...]) -> tuple[int, ...]:
    *experts, n, k = shape
    return (*experts, -(-n // FP8_BLOCK), -(-k // FP8_BLOCK))


# One program COLUMNS features of one block of 32 inputs. lanes: the codes as words of four.
@unify.jit
def quantize_blocks_kernel(
    weight, lanes, scales, n, k, expert_stride, row_stride, parts,
    COLUMNS: tl.constexpr, BITS: tl.constexpr,
):  # fmt: skip
    block = tl.program_id(0)
    part = tl.program_id(1)
    expert = tl.program_id(2).to(tl.int64)
    feature = tl.arange(0, COLUMNS)
    row = part * COLUMNS + feature
    inside = (row < n)[:, None, None]
    g = tl.arange(0, BITS)
    byte = tl.arange(0, 4)
    weight += expert * expert_stride + block * 32 + row.to(tl.int64)[:, None, None] * row_stride
    weight += g[None, :, None] * 4 + byte[None, None, :]
    value = tl.load(weight, mask=inside, other=0.0).to(tl.float32)
    finite = tl.abs(value) <= 3.4028234663852886e38
    broken = tl.sum(tl.sum(tl.where(finite, 0, 1), axis=2), axis=1)
    value = tl.where(finite, value, 0.0)
    high = tl.max(tl.max(value, axis=2), axis=1)
    low = tl.min(tl.min(value, axis=2), axis=1)
    if BITS == 4:
        second = tl.load(weight + 16, mask=inside, other=0.0).to(tl.float32)
        finite = tl.abs(second) <= 3.4028234663852886e38
        broken += tl.sum(tl.sum(tl.where(finite, 0, 1), axis=2), axis=1)
        second = tl.where(finite, second, 0.0)
        high = tl.maximum(high, tl.max(tl.max(second, axis=2), axis=1))
        low = tl.minimum(low, tl.min(tl.min(second, axis=2), axis=1))
        # ggml's q4_0: the largest in magnitude becomes code 0, which is -8.
        scale = tl.where(high > -low, high, low) / -8.0
        step = tl.where(scale != 0.0, scale, 1.0)[:, None, None]
        code = tl.minimum((value / step + 8.5).to(tl.int32), 15)
        code |= tl.minimum((second / step + 8.5).to(tl.int32), 15) << 4
    else:
        scale = tl.maximum(high, -low) / 127.0
        code = (value / tl.where(scale != 0.0, scale, 1.0)[:, None, None] + 128.5).to(tl.int32)
    word = tl.sum(code << (byte * 8)[None, None, :], axis=2)
    group = expert * parts + part
    place = (group * (k // 32) + block) * (BITS * COLUMNS)
    tl.store(lanes + place + g[None, :] * COLUMNS + feature[:, None], word)
    scale = tl.where(broken > 0, float("nan"), scale)
    tl.store(scales + (group * (k // 32) + block) * COLUMNS + feature, scale)


# One program a block of 128 × 128, ROWS features at a time.
@unify.jit
def quantize_fp8_blocks_kernel(
    weight, codes, scales, n, k, expert_stride, row_stride, ROWS: tl.constexpr, EVEN: tl.constexpr
):  # fmt: skip
    inputs = tl.program_id(0) * 128 + tl.arange(0, 128)
    first = tl.program_id(1) * 128
    expert = tl.program_id(2).to(tl.int64)
    weight += expert * expert_stride + inputs[None, :]
    codes += expert * n * k + inputs[None, :]
    largest = tl.zeros([ROWS], dtype=tl.float32)
    broken = tl.zeros([ROWS], dtype=tl.int32)
    for step in range(0, 128, ROWS):
        row = first + step + tl.arange(0, ROWS)
        inside = (row < n)[:, None]
        if not EVEN:
            inside = inside & (inputs < k)[None, :]
        value = tl.load(weight + row.to(tl.int64)[:, None] * row_stride, mask=inside, other=0.0).to(tl.float32)
        broken += spoilt(value)
        largest = tl.maximum(largest, tl.max(tl.abs(numbers(value)), axis=1))
    scale = tl.max(largest, axis=0) / 448.0
    scale = tl.where(scale > 1.0e-37, scale, 1.0)
    for step in range(0, 128, ROWS):
        row = first + step + tl.arange(0, ROWS)
        inside = (row < n)[:, None]
        if not EVEN:
            inside = inside & (inputs < k)[None, :]
        value = tl.load(weight + row.to(tl.int64)[:, None] * row_stride, mask=inside, other=0.0).to(tl.float32)
        value = numbers(value) / scale
        value = tl.minimum(tl.maximum(value, -448.0), 448.0)
        tl.store(codes + row.to(tl.int64)[:, None] * k, to_e4m3(value), mask=inside)
    place = (expert * tl.num_programs(1) + tl.program_id(1)) * tl.num_programs(0) + tl.program_id(0)
    tl.store(scales + place, tl.where(tl.max(broken, axis=0) > 0, float("nan"), scale))


@op
def quantize_weight(
    w: Any, kind: str, *, out: QuantizedMatrix | None = None, stream: Any = None
) -> QuantizedMatrix:  # fmt: skip
    """Quantises a dense weight to nearest: "int8" and "int4" with a scale for 32 inputs, "fp8" with one for 128 × 128.

    w: [n, k] or [experts, n, k] float16, bfloat16 or float32; k is a multiple of 32 for int8 and int4. Codes are those
    that ggml's q8_0 and q4_0 have, and for fp8 w / scale in float8_e4m3 with the block's largest at 448. A scale is NaN
    where a weight of its block is none or infinite.
    out: a matrix of this kind and w's shape to write, as `QuantizedMatrix.empty` or a part of one (`rows`, an expert),
    so that what is larger than the memory beside it is quantised piece by piece.
    Returns the matrix on w's device, enqueued on `stream` (default: the current one of w's device).
    Raises ShapeError, DTypeError, DeviceMismatchError, InvalidArgument for another kind; nothing is enqueued then.
    """
    dense = as_tensor(w, name="quantize_weight: w", dtype=FLOATS)
    _check_kind("quantize_weight: w", kind, dense.shape)
    if out is None:
        out = QuantizedMatrix.empty(kind, dense.shape, device=dense.device)
    elif (out.kind, out.shape) != (kind, dense.shape):
        raise ShapeError(
            f"quantize_weight: out must be {kind} {list(dense.shape)}; it is {out.kind} {list(out.shape)}."
        )
    codes = as_tensor(out.codes, name="quantize_weight: out", device=dense.device, contiguous=True)
    if dense.strides[-1] != 1:
        dense = dense.contiguous()
    n, k = dense.shape[-2:]
    many, expert_stride = (dense.shape[0], dense.strides[0]) if dense.ndim == 3 else (1, 0)
    row_stride = dense.strides[-2]
    if kind == "fp8":
        quantize_fp8_blocks_kernel[(out.scales.shape[-1], out.scales.shape[-2], many)](
            dense, codes, out.scales, n, k, expert_stride, row_stride, ROWS=16, EVEN=k % FP8_BLOCK == 0
        )
        return out
    parts, blocks = out.scales.shape[-3:-1]
    quantize_blocks_kernel[(blocks, parts, many)](
        dense, codes.view(unify.int32), out.scales, n, k, expert_stride, row_stride, parts,
        COLUMNS=COLUMNS, BITS=out.format.bits,
    )  # fmt: skip
    return out
