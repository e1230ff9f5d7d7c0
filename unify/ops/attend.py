"""What all attentions share: the loop over keys, the search for a packed sequence, and how scores are made."""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass
from typing import Any

import triton.language as tl

import unify
from unify._errors import InvalidArgument, ShapeError
from unify._tensor import as_tensor

from .e4m3 import from_e4m3
from .op import FLOATS

LOG2_E = math.log2(math.e)


@unify.jit
def last_before(end, starts, sequences, steps, SPACE: tl.constexpr):
    """The last sequence that begins before `end` if SPACE lies between two, by `steps` halvings of `sequences`."""
    low = 0
    high = sequences
    for _ in range(steps):
        middle = (low + high) // 2
        is_before = tl.load(starts + middle) + middle * SPACE < end
        low = tl.where(is_before, middle, low)
        high = tl.where(is_before, high, middle)
    return low


@unify.jit
def sequence_of(tile, starts, sequences, steps, BLOCK_M: tl.constexpr):
    """The packed sequence that a tile of BLOCK_M rows belongs to, and the tile's number in it.

    Sequence i begins at row starts[i]; its tiles from number starts[i] // BLOCK_M + i on, which leaves it enough of
    them wherever it begins.
    """
    sequence = last_before((tile + 1) * BLOCK_M, starts, sequences, steps, BLOCK_M)
    return sequence, tile - (tl.load(starts + sequence) // BLOCK_M + sequence)


@unify.jit
def place_of(table, start, keys, blocks, BLOCK_N: tl.constexpr, PAGE: tl.constexpr):
    """The block, and the places in it, of BLOCK_N cached keys from `start` on: one for all, or for each key its own.

    A block outside of the cache's `blocks` is taken as the nearest one, so that nothing else is read.
    """
    column = start + tl.arange(0, BLOCK_N)
    if PAGE % BLOCK_N == 0:
        block = tl.load(table + start // PAGE)
        place = start % PAGE + tl.arange(0, BLOCK_N)
    else:
        block = tl.load(table + column // PAGE, mask=column < keys, other=0)
        place = column % PAGE
    return tl.minimum(tl.maximum(block, 0), blocks - 1).to(tl.int64), place


@unify.jit
def numbers_of(codes, dtype: tl.constexpr):
    """Codes of a quantised cache as numbers of a dtype, those of float8_e4m3 as 2⁻⁸ of what they are: see scale_of."""
    if codes.dtype == tl.uint8:
        return from_e4m3(codes).to(dtype)
    elif codes.dtype == tl.int8:
        return codes.to(dtype)
    else:
        return codes


@unify.jit
def scale_of(scale, head, dtype: tl.constexpr):
    """What a head's numbers of codes of a dtype are multiplied with: 1 without a scale, a number, or the head's own."""
    unit = 256.0 if dtype == tl.uint8 else 1.0
    if scale is None:
        return unit
    elif scale.dtype.is_ptr():
        return tl.load(scale + head) * unit
    else:
        return scale * unit


@unify.jit
def attend(
    total, top, mass, q, q_tail, k, v, table, first_key, last_key, keys, position, scale, cap, window, seen, slope,
    k_token, k_dim, v_token, k_block, v_block, blocks,
    BLOCK_N: tl.constexpr, MASKED: tl.constexpr, CAUSAL: tl.constexpr, PAGE: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, TAIL: tl.constexpr, VALUE: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Online softmax of queries q over keys [first_key, last_key) (Dao et al. 2022, algorithm 1), in powers of two.

    first_key is a multiple of BLOCK_N. A query sees keys up to its position if CAUSAL, those of them that are less
    than `window` behind it if there is one; MASKED says that some may be out of sight. Values before the key `seen`,
    the first that a window reaches, are not read: they may be another sequence's by now, and 0 times its NaN is NaN.
    q_tail: the TAIL features of the queries behind the first BLOCK_D. PAGE: keys lie in blocks of as many, found
    through `table`.
    """
    inner = tl.arange(0, BLOCK_N)
    d = tl.arange(0, BLOCK_D)
    e = tl.arange(0, BLOCK_V)
    for start in range(first_key, last_key, BLOCK_N):
        column = start + inner
        if PAGE == 0:
            k_rows = k + tl.cast(start, tl.int64) * k_token + inner * k_token
            v_rows = v + tl.cast(start, tl.int64) * v_token + inner * v_token
        else:
            block, place = place_of(table, start, keys, blocks, BLOCK_N, PAGE)
            k_rows = k + block * k_block + place * k_token
            v_rows = v + block * v_block + place * v_token
        k_inside = (d < WIDTH)[:, None]
        v_inside = (e < VALUE)[None, :]
        if MASKED:
            k_inside = k_inside & (column < keys)[None, :]
            v_inside = v_inside & (column < keys)[:, None]
            if window is not None:
                v_inside = v_inside & (column >= seen)[:, None]
        k_tile = tl.load(k_rows[None, :] + d[:, None] * k_dim, mask=k_inside, other=0)
        scores = tl.dot(q, numbers_of(k_tile, q.dtype), input_precision="ieee")
        if TAIL > 0:
            tail = BLOCK_D + tl.arange(0, TAIL)
            tail_inside = (tail < WIDTH)[:, None]
            if MASKED:
                tail_inside = tail_inside & (column < keys)[None, :]
            k_tail = tl.load(k_rows[None, :] + tail[:, None] * k_dim, mask=tail_inside, other=0)
            scores = tl.dot(q_tail, numbers_of(k_tail, q.dtype), scores, input_precision="ieee")
        scores = scores * scale
        if cap is not None:  # cap · tanh(scores / cap), of which scores come as the exponent of tanh
            scores = cap - 2.0 * cap / (tl.exp2(scores) + 1.0)
        if slope is not None:
            scores -= slope[:, None] * tl.abs(position[:, None] - column[None, :]).to(tl.float32)
        if MASKED:
            visible = (column < keys)[None, :]
            if CAUSAL:
                visible = visible & (column[None, :] <= position[:, None])
            if window is not None:
                visible = visible & (column[None, :] > position[:, None] - window)
            scores = tl.where(visible, scores, -1.0e30)
        new_top = tl.maximum(top, tl.max(scores, axis=1))
        weights = tl.exp2(scores - new_top[:, None])
        shrink = tl.exp2(top - new_top)
        mass = mass * shrink + tl.sum(weights, axis=1)
        v_tile = numbers_of(tl.load(v_rows[:, None] + e[None, :], mask=v_inside, other=0), q.dtype)
        total = tl.dot(weights.to(v_tile.dtype), v_tile, total * shrink[:, None], input_precision="ieee")
        top = new_top
    return total, top, mass


@unify.jit
def attend_all(
    total, top, mass, q, q_tail, k, v, table, first, clear, whole, last, keys, position, scale, cap, window, seen,
    slope, k_token, k_dim, v_token, k_block, v_block, blocks,
    BLOCK_N: tl.constexpr, CAUSAL: tl.constexpr, PAGE: tl.constexpr,
    WIDTH: tl.constexpr, BLOCK_D: tl.constexpr, TAIL: tl.constexpr, VALUE: tl.constexpr, BLOCK_V: tl.constexpr,
):  # fmt: skip
    """Keys [first, last): without masks those of [clear, whole), which each query sees.

    A query whose first tiles are out of its sight weighs them as if they were equal; the first key that it sees makes
    nothing of that.
    """
    if window is not None:
        total, top, mass = attend(
            total, top, mass, q, q_tail, k, v, table, first, clear, keys, position, scale, cap, window, seen, slope,
            k_token, k_dim, v_token, k_block, v_block, blocks,
            BLOCK_N, True, CAUSAL, PAGE, WIDTH, BLOCK_D, TAIL, VALUE, BLOCK_V,
        )  # fmt: skip
    total, top, mass = attend(
        total, top, mass, q, q_tail, k, v, table, clear, whole, keys, position, scale, cap, window, seen, slope,
        k_token, k_dim, v_token, k_block, v_block, blocks,
        BLOCK_N, False, CAUSAL, PAGE, WIDTH, BLOCK_D, TAIL, VALUE, BLOCK_V,
    )  # fmt: skip
    total, top, mass = attend(
        total, top, mass, q, q_tail, k, v, table, whole, last, keys, position, scale, cap, window, seen, slope,
        k_token, k_dim, v_token, k_block, v_block, blocks,
        BLOCK_N, True, CAUSAL, PAGE, WIDTH, BLOCK_D, TAIL, VALUE, BLOCK_V,
    )  # fmt: skip
    return total, top, mass


def packed_starts(name: str, array: Any, device: Any) -> Any:
    """Where packed sequences begin and the last one ends, [b + 1] int32, or the error that calls it `name`."""
    starts = as_tensor(array, name=name, dtype=unify.int32, device=device, contiguous=True)
    if starts.ndim != 1 or starts.size == 0:
        raise ShapeError(f"{name} must be [sequences + 1]; it is {list(starts.shape)}.")
    return starts


def packed_tiles(rows: int, sequences: int, tile_rows: int) -> int:
    """How many tiles packed sequences have at most, as `sequence_of` numbers them."""
    return rows // tile_rows + sequences if sequences else 0


def halvings(sequences: int) -> int:
    """The steps that `last_before` takes to find one of them."""
    return max(0, sequences - 1).bit_length()


@unify.jit
def add_sink(total, top, mass, sink):
    """A score, in powers of two as they are, that has a share in the sum and no value."""
    new_top = tl.maximum(top, sink)
    shrink = tl.exp2(top - new_top)
    return total * shrink[:, None], new_top, mass * shrink + tl.exp2(sink - new_top)


@dataclass(frozen=True)
class Widths:
    """How a head's features are cut into tiles, whose sizes are powers of two: constants of a kernel.

    Keys take BLOCK_D and TAIL, 128 and 64 for 192, or one tile where two would be as large; values one of BLOCK_V.
    """

    WIDTH: int
    BLOCK_D: int
    TAIL: int
    VALUE: int
    BLOCK_V: int

    @staticmethod
    @functools.cache
    def of(width: int, value: int) -> Widths:
        """For keys of `width` and values of `value` features."""
        whole, head = block_d(width), 1 << (width.bit_length() - 1)
        tail = block_d(width - head) if width > head else 0
        if tail == 0 or head < 16 or head + tail >= whole:
            head, tail = whole, 0
        return Widths(width, head, tail, value, block_d(value))


def block_d(width: int) -> int:
    """The tile that holds a head."""
    return max(16, 1 << (width - 1).bit_length())


@dataclass(frozen=True)
class Scores:
    """What scores are made with besides queries and keys: arguments of a kernel, None where one is off."""

    sinks: Any
    alibi: Any
    scale: float
    cap: float | None
    window: int | None

    @property
    def is_plain(self) -> bool:
        """Whether a tile of scores is scaled only."""
        return self.alibi is None and self.cap is None and self.window is None

    @staticmethod
    def of(op: str, query: Any, scale: float | None, window: int | None, cap: float | None, **heads: Any) -> Scores:
        """Checks the options of `op` for queries [..., heads, d]; heads: `sinks` and `alibi`, a number for each."""
        if window is not None and window < 1:
            raise InvalidArgument(f"{op}: window must be at least 1, a query's own key; it is {window}.")
        if cap is not None and not 0.0 < cap < math.inf:
            raise InvalidArgument(f"{op}: soft_cap must be a number above 0; it is {cap}.")
        arrays = {name: _of_heads(op, name, array, query) for name, array in heads.items()}
        factor = log2_scale(scale, query.shape[-1])
        if cap is None:
            return Scores(**arrays, scale=factor, cap=None, window=window)
        # tanh(x) = 1 - 2 / (2 ** (2 · log2(e) · x) + 1)
        return Scores(**arrays, scale=2.0 * factor / cap, cap=cap * LOG2_E, window=window)


def _of_heads(op: str, name: str, array: Any, query: Any) -> Any:
    if array is None:
        return None
    tensor = as_tensor(array, name=f"{op}: {name}", dtype=FLOATS, device=query.device, contiguous=True)
    if tensor.shape != (query.shape[-2],):
        raise ShapeError(f"{op}: {name} must be [{query.shape[-2]}], one for each head; it is {list(tensor.shape)}.")
    return tensor


CODES = (unify.int8, unify.float8_e4m3)


def code_scale(name: str, scale: Any, codes: Any) -> Any:
    """A scale of a cache [blocks, block_size, kv_heads, d] as a kernel takes it: None, a number, or an array."""
    if scale is None:
        return None
    if codes.dtype not in (unify.int8, unify.uint8):
        raise InvalidArgument(f"{name} is for a cache of int8 or float8_e4m3, not of {codes.dtype.name}.")
    if isinstance(scale, int | float):
        return float(scale)
    tensor = as_tensor(scale, name=name, dtype=unify.float32, device=codes.device, contiguous=True)
    if tensor.shape != codes.shape[2:3]:
        raise ShapeError(f"{name} must be a number or [{codes.shape[2]}], one a key head; it is {list(tensor.shape)}.")
    return tensor


def log2_scale(scale: float | None, width: int) -> float:
    """What scores are multiplied with, for powers of two in place of e."""
    return (1.0 / math.sqrt(width) if scale is None else scale) * LOG2_E


@dataclass(frozen=True)
class Layout:
    """What an attention takes as queries, keys and values."""

    names: tuple[str, str, str]  # "op: argument"
    ranks: tuple[tuple[int, int], ...]  # axes of the queries and of keys and values that go together
    shapes: str  # the same in words
    codes: tuple[Any, ...] = ()  # dtypes that keys and values may have besides that of the queries

    def tensors(self, q: Any, k: Any, v: Any) -> tuple[Any, Any, Any]:
        """The arrays as tensors of one dtype and device that fit each other, or the error that says what does not."""
        query = as_tensor(q, name=self.names[0], dtype=FLOATS)
        dtype, device = query.dtype, query.device
        key = as_tensor(k, name=self.names[1], dtype=(dtype, *self.codes), device=device)
        value = as_tensor(v, name=self.names[2], dtype=key.dtype, device=device)
        ranks, rows = (query.ndim, key.ndim), key.shape[:-1]
        if ranks not in self.ranks or rows != value.shape[:-1] or key.shape[-1:] != query.shape[-1:]:
            raise self._error(self.shapes, query, key, value)
        if key.shape[-1] == 0 or value.shape[-1] == 0:
            raise self._error("a head needs a feature", query, key, value)
        if key.shape[-2] == 0 or query.shape[-2] % key.shape[-2]:
            raise self._error("heads must be a multiple of kv_heads", query, key, value)
        if key.dtype == unify.float8_e4m3:
            key, value = key.view(unify.uint8), value.view(unify.uint8)
        return query, key, value

    def _error(self, what: str, *tensors: Any) -> ShapeError:
        op = self.names[0].partition(":")[0]
        found = ", ".join(
            f"{name.partition(': ')[2]} is {list(tensor.shape)}"
            for name, tensor in zip(self.names, tensors, strict=True)
        )
        return ShapeError(f"{op}: {what}; {found}.")
