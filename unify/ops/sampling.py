"""Choosing the next token from logits."""

from __future__ import annotations

import numbers
import operator
from typing import Any

import triton.language as tl

import unify
from unify._errors import InvalidArgument, ShapeError
from unify._tensor import as_tensor, wrap_like

from .op import FLOATS, op

_BLOCK = 512
_LARGEST = 3.4028234663852886e38  # of float32


@unify.jit
def _ordered(value):
    # float32 → int32 in the same order; a NaN counts as the smallest.
    bits = tl.where(value == value, value, float("-inf")).to(tl.int32, bitcast=True)
    return bits ^ ((bits >> 31) & 0x7FFFFFFF)


@unify.jit
def _argmax(best, index):
    # Of equal values the first token wins.
    top = tl.max(best, axis=0)
    return tl.min(tl.where(best == top, index, 2147483647), axis=0)


@unify.jit
def greedy_kernel(logits, out, vocabulary, row_stride, BLOCK: tl.constexpr):
    row = tl.program_id(0).to(tl.int64)
    logits += row * row_stride
    lane = tl.arange(0, BLOCK)
    best = tl.full([BLOCK], -2147483648, dtype=tl.int32)
    index = tl.zeros([BLOCK], dtype=tl.int32)
    for start in range(0, vocabulary, BLOCK):
        token = start + lane
        key = _ordered(_load(logits, token, vocabulary))
        better = (token < vocabulary) & (key > best)
        best = tl.where(better, key, best)
        index = tl.where(better, token, index)
    tl.store(out + row, _argmax(best, index))


@unify.jit
def _load(logits, token, vocabulary):
    return tl.load(logits + token, mask=token < vocabulary, other=float("-inf")).to(tl.float32)


@unify.jit
def _scaled(value, top, inverse_temperature):
    # (value - top) / temperature. Infinite logits have no difference: the largest are at 0. A NaN is never drawn.
    below = tl.where(value == top, 0.0, (value - top) * inverse_temperature)
    return tl.where(value == value, below, float("-inf"))


# The cuts are found by bisection over the 2³² ordered values, so nothing is sorted.
@unify.jit
def _top_k_cut(logits, vocabulary, top_k, BLOCK: tl.constexpr):
    """The highest key that top_k logits reach."""
    lane = tl.arange(0, BLOCK)
    cut = tl.full([], -2147483648, dtype=tl.int64)
    high = tl.full([], 2147483647, dtype=tl.int64)
    for _ in range(32):
        middle = (cut + high + 1) >> 1
        count = tl.zeros([BLOCK], dtype=tl.int32)
        for start in range(0, vocabulary, BLOCK):
            token = start + lane
            key = _ordered(_load(logits, token, vocabulary))
            count += ((token < vocabulary) & (key >= middle)).to(tl.int32)
        enough = tl.sum(count, axis=0) >= top_k
        cut = tl.where(enough, middle, cut)
        high = tl.where(enough, high, middle - 1)
    return cut


@unify.jit
def _mass(logits, vocabulary, cut, top, inverse_temperature, BLOCK: tl.constexpr):
    """The probability, not normalised, of the logits from the key `cut` on."""
    kept = tl.zeros([BLOCK], dtype=tl.float32)
    for start in range(0, vocabulary, BLOCK):
        value = _load(logits, start + tl.arange(0, BLOCK), vocabulary)
        kept += tl.where(_ordered(value) >= cut, tl.exp(_scaled(value, top, inverse_temperature)), 0.0)
    return tl.sum(kept, axis=0)


@unify.jit
def _top_p_cut(logits, vocabulary, cut, top, inverse_temperature, top_p, BLOCK: tl.constexpr):
    """The highest key from `cut` on whose logits have the part top_p of the probability."""
    wanted = _mass(logits, vocabulary, cut, top, inverse_temperature, BLOCK) * top_p
    high = tl.full([], 2147483647, dtype=tl.int64)
    for _ in range(32):
        middle = (cut + high + 1) >> 1
        enough = _mass(logits, vocabulary, middle, top, inverse_temperature, BLOCK) >= wanted
        cut = tl.where(enough, middle, cut)
        high = tl.where(enough, high, middle - 1)
    return cut


# One program a row. The token is the argmax of logit / temperature + Gumbel noise over what the cuts leave: a draw from
# the softmax (Gumbel 1954; Maddison et al. 2014). Philox (Salmon et al. 2011) makes the noise: the seed is its key, and
# token, row and step its counter, so that no two draws have noise in common.
@unify.jit
def sample_kernel(
    logits, out, step, vocabulary, row_stride, inverse_temperature, top_k, top_p, seed,
    TOP_K: tl.constexpr, TOP_P: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits += row * row_stride
    lane = tl.arange(0, BLOCK)
    largest = tl.full([BLOCK], float("-inf"), dtype=tl.float32)
    for start in range(0, vocabulary, BLOCK):
        largest = tl.maximum(largest, _load(logits, start + lane, vocabulary))
    top = tl.max(largest, axis=0)
    cut = tl.full([], -2147483648, dtype=tl.int64)
    if TOP_K:
        cut = _top_k_cut(logits, vocabulary, top_k, BLOCK)
    if TOP_P:
        cut = _top_p_cut(logits, vocabulary, cut, top, inverse_temperature, top_p, BLOCK)
    draw = tl.load(step + row).to(tl.int64)
    best = tl.full([BLOCK], float("-inf"), dtype=tl.float32)
    index = tl.zeros([BLOCK], dtype=tl.int32)
    for start in range(0, vocabulary, BLOCK):
        token = start + lane
        value = _load(logits, token, vocabulary)
        bits, _, _, _ = tl.philox(seed, token, tl.program_id(0), draw.to(tl.int32), (draw >> 32).to(tl.int32))
        uniform = tl.maximum(tl.uint_to_uniform_float(bits), 1.0e-20)
        noisy = _scaled(value, top, inverse_temperature) - tl.log(-tl.log(uniform))
        better = (token < vocabulary) & (_ordered(value) >= cut) & (noisy > best)
        best = tl.where(better, noisy, best)
        index = tl.where(better, token, index)
    tl.store(out + row, _argmax(best, index))


@op
def sample(
    logits: Any, *, temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0, seed: int = 0, step: Any = 0,
    stream: Any = None,
) -> Any:  # fmt: skip
    """Chooses a token for each row of logits.

    logits: [b, vocabulary] float16, bfloat16 or float32. temperature 0, or one so small that its inverse is infinite,
    takes the largest logit (the first of equals); else a draw from softmax(logits / temperature), restricted to the
    top_k largest (0: all) and then to the fewest whose probabilities reach top_p (Holtzman et al. 2020, section 3.1).
    Logits equal to the last one kept are kept too. A NaN is never chosen over a number.
    seed, step: whole numbers of 64 bits. The draw depends on both and on the row's number, and is independent of all
    others; count step up for each token of a text. step may be an int32 or int64 array [b] on the logits' device, so
    that a captured graph can count it there.
    Returns int32 [b] of the caller's kind, enqueued on `stream` (default: the current one of the logits' device).
    Raises ShapeError, DTypeError, DeviceMismatchError, InvalidArgument; nothing is enqueued then.

    >>> ops.sample(np.array([[0.0, 5.0, 1.0]], np.float32))
    array([1], dtype=int32)
    """
    scores = as_tensor(logits, name="sample: logits", dtype=FLOATS)
    if scores.ndim != 2 or scores.shape[1] == 0:
        raise ShapeError(f"sample: logits must be [batch, vocabulary], not empty; they are {list(scores.shape)}.")
    if not (0.0 <= temperature < float("inf") and top_k >= 0 and 0.0 < top_p <= 1.0):
        raise InvalidArgument(
            "sample: a finite temperature >= 0, top_k >= 0 and 0 < top_p <= 1 are needed; "
            f"{temperature=}, {top_k=}, {top_p=}."
        )
    is_greedy = temperature == 0.0 or 1.0 / temperature > _LARGEST
    steps = None if is_greedy else _steps(step, scores)
    if scores.strides[1] != 1:
        scores = scores.contiguous()
    rows, vocabulary = scores.shape
    result = unify.empty((rows,), dtype=unify.int32, device=scores.device)
    if is_greedy:
        greedy_kernel[(rows,)](scores, result, vocabulary, scores.strides[0], BLOCK=_BLOCK)
        return wrap_like(result, logits)
    sample_kernel[(rows,)](
        scores, result, steps, vocabulary, scores.strides[0], 1.0 / temperature, min(top_k, vocabulary), top_p,
        operator.index(seed),
        TOP_K=0 < top_k < vocabulary, TOP_P=top_p < 1.0, BLOCK=_BLOCK,
    )  # fmt: skip
    return wrap_like(result, logits)


def _steps(step: Any, scores: Any) -> Any:
    rows, device = scores.shape[0], scores.device
    if isinstance(step, numbers.Integral):
        return unify.full((rows,), operator.index(step), dtype=unify.int64, device=device)
    steps = as_tensor(step, name="sample: step", dtype=(unify.int32, unify.int64), device=device, contiguous=True)
    if steps.shape != (rows,):
        raise ShapeError(f"sample: step must be a number or [{rows}], one for each row; it is {list(steps.shape)}.")
    return steps


# One program a row: its logits at `ids`, from the untouched input, so that a token that comes twice is changed once.
@unify.jit
def repetition_penalty_kernel(
    logits, ids, out, penalty, vocabulary, count, logits_row, ids_row, out_row, BLOCK: tl.constexpr
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    for start in range(0, count, BLOCK):
        place = start + tl.arange(0, BLOCK)
        token = tl.load(ids + row * ids_row + place, mask=place < count, other=-1)
        inside = (token >= 0) & (token < vocabulary)
        token = tl.where(inside, token, 0)  # where a chip reads what a mask leaves out
        value = tl.load(logits + row * logits_row + token, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + row * out_row + token, tl.where(value < 0, value * penalty, value / penalty), mask=inside)


@op
def repetition_penalty(logits: Any, ids: Any, penalty: float, *, stream: Any = None) -> Any:
    """Makes tokens that were written already less likely: logit / penalty, or · penalty below 0 (Keskar et al. 2019,
    section 4.1, as in transformers).

    logits: [b, vocabulary] float16, bfloat16 or float32; ids: [b, n] int32, those outside the vocabulary count as none;
    both contiguous and on one device.
    Returns a new array like logits, enqueued on `stream` (default: the current one of the logits' device).
    Raises ShapeError, DTypeError, DeviceMismatchError, InvalidArgument for a penalty that is not above 0.
    """
    scores = as_tensor(logits, name="repetition_penalty: logits", dtype=FLOATS, contiguous=True)
    device = scores.device
    tokens = as_tensor(ids, name="repetition_penalty: ids", dtype=unify.int32, device=device, contiguous=True)
    if scores.ndim != 2 or tokens.ndim != 2 or tokens.shape[0] != scores.shape[0]:
        raise ShapeError(
            f"repetition_penalty: logits must be [batch, vocabulary] and ids [batch, n]; "
            f"they are {list(scores.shape)} and {list(tokens.shape)}."
        )
    if not 0.0 < penalty < float("inf"):
        raise InvalidArgument(f"repetition_penalty: a penalty above 0 is needed, 1 changes nothing; {penalty=}.")
    result = unify.empty(scores.shape, dtype=scores.dtype, device=device)
    result.copy_(scores)
    repetition_penalty_kernel[(scores.shape[0],)](
        scores, tokens, result, penalty, scores.shape[1], tokens.shape[1], scores.strides[0], tokens.strides[0],
        result.strides[0], BLOCK=64,
    )  # fmt: skip
    return wrap_like(result, logits)
