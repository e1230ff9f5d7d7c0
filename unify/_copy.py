"""Copies within a device whose memory the host cannot see, where no single call of its backend makes them."""

from __future__ import annotations

import triton
import triton.language as tl

from ._core import Stream, Tensor
from ._errors import CompileError, TargetError, UnsupportedError
from ._kernel import jit
from ._tensor import (
    bfloat16,
    bool_,
    float16,
    float32,
    float64,
    int8,
    int16,
    int32,
    int64,
    uint8,
    uint16,
    uint32,
    uint64,
)
from .compiler import Target

# Elements are moved as integers of their size.
_REFUSED: set[tuple[str, object, object]] = set()  # targets and dtypes that a compiler or a driver did not take
BITS = {1: uint8, 2: uint16, 4: uint32, 8: uint64}
SMALL = (bool_, int8, uint8, int16, uint16)
INTEGERS = (*SMALL, int32, uint32, int64, uint64)
# Between which dtypes a kernel converts: those where one rounding, or none, is all there is to it.
CASTS = {
    *((a, b) for a in (float16, bfloat16, float32) for b in (float16, bfloat16, float32)),
    *((a, b) for a in INTEGERS for b in INTEGERS if b is not bool_),
    *((a, b) for a in SMALL for b in (float16, bfloat16)),
    *((a, b) for a in (*SMALL, int32, uint32) for b in (float32, float64)),
    (float32, float64),
    (float64, float32),
}
# Few, since each is a kernel to compile: rows and columns, by how many columns there are.
TILES = ((64, 32), (8, 256), (1, 2048))
TURNED = (32, 64)
MOST_AXES = 5


# Tiles of `rows` and `columns`, the axes along which `src` and `dst` lie in memory: where those differ the tile is
# turned on the chip, so that both sides are read and written whole lines at a time.
@jit(do_not_specialize=["rows", "columns", "n1", "n2", "d1", "d2", "d3", "s1", "s2", "s3"])
def copy_kernel(
    dst, src, rows, columns, n1, n2,
    d_row, d_column, d1, d2, d3, s_row, s_column, s1, s2, s3,
    ROWS: tl.constexpr, COLUMNS: tl.constexpr,
):  # fmt: skip
    program = tl.program_id(0).to(tl.int64)
    tile_columns = tl.cdiv(columns, COLUMNS)
    tile_rows = tl.cdiv(rows, ROWS)
    column = (program % tile_columns) * COLUMNS + tl.arange(0, COLUMNS)[None, :]
    program = program // tile_columns
    row = (program % tile_rows) * ROWS + tl.arange(0, ROWS)[:, None]
    program = program // tile_rows
    i1, program = program % n1, program // n1
    i2, i3 = program % n2, program // n2
    inside = (row < rows) & (column < columns)
    value = tl.load(src + i3 * s3 + i2 * s2 + i1 * s1 + row * s_row + column * s_column, mask=inside)
    tl.store(dst + i3 * d3 + i2 * d2 + i1 * d1 + row * d_row + column * d_column, value, mask=inside)


def copy_strided(dst: Tensor, src: Tensor, stream: Stream) -> bool:
    """dst[...] = src by a kernel, for tensors of one shape and device that do not overlap, enqueued on `stream`.

    False where none does it: the device has no compiler, its compiler refuses a dtype or its driver the binary, the
    dtypes need more than one rounding, or more than five axes are left. Nothing is enqueued then.
    """
    if dst.ndim > MOST_AXES or (dst.dtype != src.dtype and (src.dtype, dst.dtype) not in CASTS):
        return False
    target = dst.device.properties["target"]
    if (target, dst.dtype, src.dtype) in _REFUSED:
        return False
    try:
        Target.parse(target)
    except TargetError:
        return False
    key = target, dst.dtype, src.dtype
    if dst.dtype == src.dtype:
        dst, src = dst.view(BITS[dst.dtype.itemsize]), src.view(BITS[src.dtype.itemsize])
    elif src.dtype == bool_:
        src = src.view(uint8)
    axes = sorted(zip(dst.shape, dst.strides, src.strides, strict=True), key=lambda axis: abs(axis[1]))
    axes += [(1, 0, 0)] * (MOST_AXES - len(axes))
    columns = axes.pop(0)
    # A stride of 0 repeats what is read: nothing is gained along it.
    rows = axes.pop(min(range(len(axes)), key=lambda i: (axes[i][0] == 1, abs(axes[i][2]) or 1 << 62)))
    (n1, d1, s1), (n2, d2, s2), (n3, d3, s3) = axes
    is_turned = abs(rows[2]) == 1 and rows[0] > 1
    tile_rows, tile_columns = TURNED if is_turned else next(t for t in TILES if t[1] >= min(columns[0], TILES[-1][1]))
    programs = triton.cdiv(columns[0], tile_columns) * triton.cdiv(rows[0], tile_rows) * n1 * n2 * n3
    try:
        copy_kernel[(programs,)](
            dst, src, rows[0], columns[0], n1, n2,
            rows[1], columns[1], d1, d2, d3, rows[2], columns[2], s1, s2, s3,
            ROWS=tile_rows, COLUMNS=tile_columns, stream=stream,
        )  # fmt: skip
    except (CompileError, UnsupportedError):
        _REFUSED.add(key)
        return False
    return True
