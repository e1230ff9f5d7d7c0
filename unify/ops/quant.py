"""Weights in GGUF's block formats, and the activations that meet them.

A quantised matrix keeps its codes as the file has them, only in another order: COLUMNS output features side by side,
four inputs a 32-bit lane, so that one vector load feeds one integer dot product of as many lanes:

    q4: codes[n / COLUMNS, k / 8, COLUMNS, 4] uint8   low nibble: inputs 32b + 4g + j, high nibble: 32b + 16 + 4g + j
    q8: codes[n / COLUMNS, k / 4, COLUMNS, 4] uint8   inputs 32b + 4g + j, plus 128
    scales, minimums: [n / COLUMNS, k / 32, COLUMNS] float16

with b the block of 32 inputs, g the group in it and j the byte. Features are padded with zeros to whole COLUMNS.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import triton.language as tl

import unify
from unify._errors import DTypeError, ShapeError
from unify._tensor import as_tensor

from .op import FLOATS, op

COLUMNS = 64  # output features that lie side by side
BLOCK = 32  # inputs that share a scale, in every format here


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


@dataclass(frozen=True)
class QuantizedMatrix:
    """An [n, k] weight matrix in a block format: weight = scale · (code - offset) + minimum.

    Made by `from_gguf`; used by `linear` and `embedding` in place of a tensor. Stays quantised in memory.
    """

    kind: str
    shape: tuple[int, int]
    codes: Any
    scales: Any
    minimums: Any | None

    @property
    def format(self) -> _Format:
        """Bits, offset and so on of the kind."""
        return FORMATS[self.kind]

    @property
    def device(self) -> Any:
        """The device that holds it."""
        return self.codes.device

    @property
    def nbytes(self) -> int:
        """Bytes of device memory, padding included."""
        minimums = 0 if self.minimums is None else self.minimums.nbytes
        return int(self.codes.nbytes + self.scales.nbytes + minimums)

    def dequantize(self) -> Any:
        """Returns the [n, k] float32 tensor, enqueued on the device's current stream."""
        from .embedding import embedding

        return embedding(unify.arange(self.shape[0], dtype=unify.int32, device=self.device), self)


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


# One program a row of x, in steps of BLOCKS blocks. 16 bits as two signed bytes: code = 256 · high + low, so that byte
# dot products give sums that are exact in the codes. 32512 = 127 · 256 keeps `high` inside int8. A block's high bytes
# and its low ones share a cache line.
@unify.jit
def quantize_kernel(x, codes, scales, sums, k, x_row, BLOCKS: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    for first in range(0, k // 32, BLOCKS):
        block = first + tl.arange(0, BLOCKS)
        inside = block < k // 32
        column = block[:, None] * 32 + tl.arange(0, 32)[None, :]
        value = tl.load(x + row * x_row + column, mask=inside[:, None], other=0.0).to(tl.float32)
        largest = tl.max(tl.abs(value), axis=1)
        inverse = tl.where(largest > 1.0e-30, 32512.0 / largest, 0.0)
        code = tl.floor(value * inverse[:, None] + 0.5).to(tl.int32)
        upper = (code + 128) >> 8
        place = codes + row * 2 * k + block[:, None] * 64 + tl.arange(0, 32)[None, :]
        tl.store(place, upper.to(tl.int8), mask=inside[:, None])
        tl.store(place + 32, (code - upper * 256).to(tl.int8), mask=inside[:, None])
        tl.store(scales + row * (k // 32) + block, largest * (1.0 / 32512.0), mask=inside)
        tl.store(sums + row * (k // 32) + block, tl.sum(code, axis=1), mask=inside)


@dataclass(frozen=True)
class QuantizedActivations:
    """[m, k] activations as 16-bit codes with a scale a block of 32.

    codes: int8 [m, k / 32, 2, 32], each block's high bytes and then its low ones; scales, sums: [m, k / 32].
    """

    codes: Any
    scales: Any
    sums: Any


@op
def quantize(x: Any, *, stream: Any = None) -> QuantizedActivations:
    """Turns activations into 16-bit codes, a scale for each 32: what the integer dot products of `linear` eat.

    x: [m, k] float16, bfloat16 or float32, k a multiple of 32, last axis contiguous. The error of a value is at most
    1/65024 of the largest in its block. Enqueued on `stream` (default: the current one of x's device).
    Raises ShapeError, DTypeError; nothing is enqueued then.
    """
    source = as_tensor(x, name="quantize: x", dtype=FLOATS)
    if source.ndim != 2 or source.shape[1] % BLOCK or source.strides[1] != 1:
        raise ShapeError(
            f"quantize: x must be [m, k], k a multiple of {BLOCK}, its last axis contiguous; "
            f"it is {list(source.shape)} with strides {list(source.strides)}."
        )
    (rows, k), device = source.shape, source.device
    codes = unify.empty((rows, k // BLOCK, 2, BLOCK), dtype=unify.int8, device=device)
    scales = unify.empty((rows, k // BLOCK), dtype=unify.float32, device=device)
    sums = unify.empty((rows, k // BLOCK), dtype=unify.int32, device=device)
    quantize_kernel[(rows,)](source, codes, scales, sums, k, source.strides[0], BLOCKS=2)
    return QuantizedActivations(codes, scales, sums)
