"""x · weight[e]ᵀ, with another weight for each group of rows: the layers of experts."""

from __future__ import annotations

import functools
from typing import Any

import triton.language as tl

import unify
from unify._errors import InvalidArgument, ShapeError
from unify._tensor import as_tensor, wrap_like

from .few_products import as_words, few_products
from .groups import find_few_rows, find_program, find_tile, grid_of_few_rows, silu, source_rows
from .op import FLOATS, op
from .quant import QuantizedActivations, QuantizedMatrix, activations_kind, as_codes
from .quantized_grouped_linear import quantized_grouped_product, quantized_masked_product
from .tile import Tile
from .tiles import grouped_tile
from .tuning import choose, tiles_near

CODES = ("int8", "fp8")  # of 16 bits are not multiplied in tiles
# Rows, features and inputs whose products are summed in registers, and how many times that many features a program
# goes through. On a CPU one feature at a time: memory is read in one run. Elsewhere matrix units take few rows as well.
_FEW_ROWS = {"cpu": (Tile(2, 1, 32), 16)}
_ONE_ROW = {"cpu": (Tile(1, 1, 32), 16)}
_ONE_ROW_ELSEWHERE = (Tile(1, 32, 64), 1)
# Rows of a group, on the average, up to which that is faster than tiles, whose products of bfloat16 are pairs at once.
_FEW, _FEW_OF_BFLOAT16 = 8, 2


# One program a tile of M rows of one group and N features, features first: a group's rows stay in the cache while its
# weight passes by. GATED: the weight has the n rows of a gate and then n others, and the result is silu(gate) · other
# (Shazeer 2020, eq. 6). counts: a group's rows are the first of `capacity`, and there are no offsets.
@unify.jit
def grouped_kernel(
    x, gather, weight, offsets, counts, out, groups, rows, x_rows, per_gather, n, k, x_row, w_group, w_row, o_row,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, STEPS: tl.constexpr, GATED: tl.constexpr, EVEN_K: tl.constexpr,
):  # fmt: skip
    group, first, last, end = find_tile(offsets, counts, tl.program_id(1), groups, rows, M, STEPS)
    if first < end:
        column = tl.program_id(0) * N + tl.arange(0, N)
        inner = tl.arange(0, K)
        row = first + tl.arange(0, M)
        row_inside = (row < last)[:, None]
        column_inside = (column < n)[None, :]
        source = source_rows(gather, tl.minimum(row, tl.maximum(last - 1, 0)), x_rows, per_gather)
        x_place = x + source.to(tl.int64)[:, None] * x_row
        w_place = weight + tl.minimum(group, groups - 1).to(tl.int64) * w_group
        w_place += column.to(tl.int64)[None, :] * w_row
        total = tl.zeros([M, N], dtype=tl.float32)
        gate = tl.zeros([M, N], dtype=tl.float32)
        # Rows of no group, and those behind a group's count, are zeros.
        length = tl.where((group < groups) & (first < last), k, 0)
        for start in range(0, length, K):
            step = start + inner
            x_inside = row_inside
            w_inside = column_inside
            if not EVEN_K:
                x_inside = x_inside & (step < k)[None, :]
                w_inside = w_inside & (step < k)[:, None]
            left = tl.load(x_place + step[None, :], mask=x_inside, other=0.0)
            if GATED:
                gate = tl.dot(
                    left, tl.load(w_place + step[:, None], mask=w_inside, other=0.0), gate, input_precision="ieee"
                )
                right = tl.load(w_place + (tl.cast(n, tl.int64) * w_row + step)[:, None], mask=w_inside, other=0.0)
            else:
                right = tl.load(w_place + step[:, None], mask=w_inside, other=0.0)
            total = tl.dot(left, right, total, input_precision="ieee")
        if GATED:
            total = silu(gate) * total
        tl.store(
            out + row.to(tl.int64)[:, None] * o_row + column[None, :], total, mask=(row < end)[:, None] & column_inside
        )


# One program `parts` times N features of M rows of one group, groups before features: what is read of a weight serves
# all rows of its group. ids: each row has the group that is written there, there are no offsets, and features come
# before rows: a weight is read in one run.
@unify.jit
def grouped_few_rows_kernel(
    x, gather, weight, offsets, ids, out, groups, rows, x_rows, per_gather, n, k, x_row, w_group, w_row, o_row, parts,
    M: tl.constexpr, N: tl.constexpr, K: tl.constexpr, STEPS: tl.constexpr, GATED: tl.constexpr, EVEN: tl.constexpr,
):  # fmt: skip
    tile, start_part = find_program(ids)
    group, first, last = find_few_rows(offsets, ids, tile, groups, rows, M, STEPS)
    if first < last:
        row = first + tl.arange(0, M)
        source = source_rows(gather, tl.minimum(row, last - 1), x_rows, per_gather)
        x_place = x + source.to(tl.int64)[:, None] * x_row
        w_place = weight + tl.minimum(group, groups - 1).to(tl.int64) * w_group
        length = tl.where(group < groups, k, 0)  # rows of no group are zeros
        for part in range(parts):
            feature = (start_part * parts + part) * N + tl.arange(0, N)
            w_rows = w_place + tl.minimum(feature, n - 1).to(tl.int64)[:, None] * w_row
            result = few_products(x_place, w_rows, length, M, N, K, EVEN)
            if GATED:
                result = silu(result) * few_products(
                    x_place, w_rows + tl.cast(n, tl.int64) * w_row, length, M, N, K, EVEN
                )  # fmt: skip
            place = out + row.to(tl.int64)[:, None] * o_row + feature[None, :]
            tl.store(place, result, mask=(row < last)[:, None] & (feature < n)[None, :])


@op
def grouped_linear(
    x: Any, weight: Any, offsets: Any = None, *, counts: Any = None, gather: Any = None, per_gather: int = 1,
    gated: bool = False, activations: str | None = None, stream: Any = None,
) -> Any:  # fmt: skip
    """Multiplies each group of rows with its own weight: x[rows of e] · weight[e]ᵀ.

    x: float16, bfloat16 or float32; weight: [groups, n, k] of its dtype, or a QuantizedMatrix of that shape, which
    stays quantised and is multiplied as in `linear`. Sums in float32.
    offsets: int32 [groups + 1], from 0 on and falling nowhere: x is [rows, k], and the rows of group e are offsets[e]
    to offsets[e + 1]. gather: int32 [rows], then row r is x[gather[r] // per_gather], so that x need not be in order:
    with the tokens of a `Permutation` and per_gather its k, x are the tokens.
    counts: int32 [groups], instead of offsets: x is [groups, capacity, k], and group e has the first counts[e] rows of
    x[e], all where that is more than there are. Rows of no group are zeros. What points outside of x is read at its
    nearest end.
    gated: weight is [groups, 2n, k], and the result silu(gate) · up, the gate being the first n features and up the
    others (Shazeer 2020, eq. 6).
    activations: "int8" for a weight in blocks of 32, "fp8" for one in fp8: x becomes such codes first, as in `linear`;
    or x is QuantizedActivations of one of them, [rows, k], or with counts [groups · capacity, k].
    Returns [rows, n] or [groups, capacity, n], of x's dtype and kind, of QuantizedActivations a unify.Tensor, enqueued
    on `stream` (default: the current one of x's device).
    Raises ShapeError, DTypeError, DeviceMismatchError, InvalidArgument; nothing is enqueued then.

    >>> weight = np.array([[[1.0]], [[10.0]]], np.float32)
    >>> ops.grouped_linear(np.ones((3, 1), np.float32), weight, np.array([0, 1, 3], np.int32))
    array([[ 1.],
           [10.],
           [10.]], dtype=float32)
    """
    if (offsets is None) == (counts is None):
        raise InvalidArgument(
            f"grouped_linear: {'neither' if offsets is None else 'both'} offsets and counts given. offsets "
            "[groups + 1]: where the rows of each group begin in x [rows, k]; counts [groups]: how many rows of x[e] "
            "count in x [groups, capacity, k]. Give one of them."
        )
    is_quantized = isinstance(x, QuantizedActivations)
    source = x if is_quantized else as_tensor(x, name="grouped_linear: x", dtype=FLOATS)
    device = source.device
    matrix = as_experts(weight, "grouped_linear: weight", source)
    is_masked = counts is not None
    wanted = 3 if is_masked and not is_quantized else 2
    if len(matrix.shape) != 3 or len(source.shape) != wanted or source.shape[-1] != matrix.shape[2]:
        raise ShapeError(
            "grouped_linear: weight must be [groups, n, k] and x [rows, k], or with counts [groups, capacity, k]; "
            f"they are {list(matrix.shape)} and {list(source.shape)}."
        )
    groups = matrix.shape[0]
    if groups == 0 or (gated and matrix.shape[1] % 2):
        raise ShapeError(
            f"grouped_linear: weight must have a group and, gated, an even n; it is {list(matrix.shape)}, {gated=}."
        )
    if (is_masked and gather is not None) or per_gather < 1 or (gather is None and per_gather > 1):
        raise InvalidArgument(
            "grouped_linear: gather goes with offsets, and per_gather is at least 1, and 1 without gather; "
            f"{per_gather=}."
        )
    n = matrix.shape[1] // 2 if gated else matrix.shape[1]
    kind = activations_kind("grouped_linear", source, matrix, activations, known=CODES)
    if is_masked:
        if source.shape[0] != groups and (not is_quantized or source.shape[0] % groups):
            size = f"[{groups} · capacity, k]" if is_quantized else f"[{groups}, capacity, k]"
            raise ShapeError(f"grouped_linear: x must be {size}; it is {list(source.shape)}.")
        numbers = _indices("counts", counts, groups, device)
        capacity = source.shape[0] // groups if is_quantized else source.shape[1]
        flat = source if is_quantized else source.reshape(groups * capacity, source.shape[2])
        result = unify.empty((groups, capacity, n), dtype=source.dtype, device=device)
        masked_product(
            as_codes(rows_contiguous(flat), kind), matrix, numbers, result.reshape(groups * capacity, n), gated
        )
        return result if is_quantized else wrap_like(result, x)
    bounds = _indices("offsets", offsets, groups + 1, device)
    table = None if gather is None else _indices("gather", gather, None, device)
    rows = source.shape[0] if table is None else table.shape[0]
    if rows > 0 and source.shape[0] == 0:
        raise ShapeError(f"grouped_linear: x has no rows that the {rows} of gather could name.")
    result = unify.empty((rows, n), dtype=source.dtype, device=device)
    values = as_codes(rows_contiguous(source), kind)
    grouped_product(values, matrix, result, gated, offsets=bounds, gather=table, per_gather=per_gather)
    return result if is_quantized else wrap_like(result, x)


def as_experts(weight: Any, name: str, x: Any) -> Any:
    """A weight on x's device: a tensor of x's dtype, or quantised."""
    if isinstance(weight, QuantizedMatrix):
        as_tensor(weight.codes, name=name, device=x.device)
        return weight
    return as_tensor(weight, name=name, dtype=x.dtype, device=x.device)


def _indices(name: str, array: Any, size: int | None, device: Any) -> Any:
    tensor = as_tensor(array, name=f"grouped_linear: {name}", dtype=unify.int32, device=device, contiguous=True)
    if tensor.ndim != 1 or (size is not None and tensor.shape[0] != size):
        raise ShapeError(
            f"grouped_linear: {name} must be [{'rows' if size is None else size}]; it is {list(tensor.shape)}."
        )
    return tensor


def grouped_product(
    x: Any, weight: Any, out: Any, gated: bool, *, offsets: Any = None, ids: Any = None, gather: Any = None,
    per_gather: int = 1,
) -> None:  # fmt: skip
    """Writes out = x · weight[group]ᵀ, enqueued on the current stream.

    The groups of rows begin at offsets, or row r has the group ids[r]. Row r is x[gather[r] // per_gather], without
    gather x[r // per_gather]. x: [.., k], or codes of it; weight: [groups, n or 2n, k]; out: [rows, n], contiguous.
    """
    x = rows_contiguous(x)
    if isinstance(weight, QuantizedMatrix):
        quantized_grouped_product(x, weight, out, gated, offsets=offsets, ids=ids, gather=gather, per_gather=per_gather)
        return
    weight = rows_contiguous(weight)
    groups, (rows, n) = weight.shape[0], out.shape
    few_rows = groups * (_FEW_OF_BFLOAT16 if x.dtype == unify.bfloat16 else _FEW)
    if ids is not None or (x.device.kind in _FEW_ROWS and rows <= few_rows):
        few, parts = _few_rows_tile(x.device, n, x.dtype, gated, is_one=ids is not None)
        x, weight = as_words(x, weight)
        tiles = rows if ids is not None else rows // few.m + groups + 1
        grouped_few_rows_kernel[grid_of_few_rows(ids, tiles, -(-n // (few.n * parts)))](
            x, gather, weight, offsets, ids, out, *_sizes(x, weight, rows, n, per_gather), parts, M=few.m, N=few.n,
            K=few.k, STEPS=groups.bit_length(), GATED=gated, EVEN=weight.shape[2] % few.k == 0, **few.launch,
        )  # fmt: skip
        return
    tile = grouped_tile(x.device, -(-rows // groups), n, x.dtype, gated=gated)
    grouped_kernel[(-(-n // tile.n), rows // tile.m + groups + 1)](
        x, gather, weight, offsets, None, out, *_sizes(x, weight, rows, n, per_gather), M=tile.m, N=tile.n, K=tile.k,
        STEPS=groups.bit_length(), GATED=gated, EVEN_K=weight.shape[2] % tile.k == 0, **tile.launch,
    )  # fmt: skip


def _sizes(x: Any, weight: Any, rows: int, n: int, per_gather: int) -> tuple[int, ...]:
    groups, _, k = weight.shape
    return (groups, rows, x.shape[0], per_gather, n, k, x.strides[0], weight.strides[0], weight.strides[1], n)


def _few_rows_tile(device: Any, n: int, dtype: Any, gated: bool, *, is_one: bool) -> tuple[Tile, int]:
    """The tile for groups of few rows, or of one, the one that was measured or the kind's, and how many a program has.

    That is as many that a program's features stay the same: they decide how well cores share the work.
    """
    default, parts = _ONE_ROW.get(device.kind, _ONE_ROW_ELSEWHERE) if is_one else _FEW_ROWS[device.kind]
    most = 1 if is_one else 4
    others = functools.partial(tiles_near, default, (1, 1, 16), (most, 64, 256))
    few = choose("grouped few rows", device, (is_one, n, dtype.name, gated), default, others)
    return few, max(1, parts * default.n // few.n)


def masked_product(x: Any, weight: Any, counts: Any, out: Any, gated: bool) -> None:
    """Writes out = x · weight[group]ᵀ for the first rows of each group, enqueued on the current stream.

    x: [groups · capacity, k], or codes of it; weight: [groups, n or 2n, k]; out: [groups · capacity, n], contiguous.
    """
    x = rows_contiguous(x)
    if isinstance(weight, QuantizedMatrix):
        quantized_masked_product(x, weight, counts, out, gated)
        return
    weight = rows_contiguous(weight)
    groups, _, k = weight.shape
    rows, n = out.shape[0] // groups, out.shape[1]
    tile = grouped_tile(x.device, rows, n, x.dtype, gated=gated)
    grouped_kernel[(-(-n // tile.n), groups * -(-rows // tile.m))](
        x, None, weight, None, counts, out, *_sizes(x, weight, rows, n, 1), M=tile.m, N=tile.n, K=tile.k, STEPS=0,
        GATED=gated, EVEN_K=k % tile.k == 0, **tile.launch,
    )  # fmt: skip


def rows_contiguous(x: Any) -> Any:
    """Rows as kernels read them: a tensor whose last axis is contiguous, or codes, which are made so."""
    return x if isinstance(x, QuantizedActivations) or x.strides[-1] == 1 else x.contiguous()
