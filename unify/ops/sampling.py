"""Choosing the next token from logits."""

from __future__ import annotations

from typing import Any

import triton.language as tl

import unify
from unify._errors import InvalidArgument, ShapeError
from unify._tensor import as_tensor, wrap_like

_BLOCK = 512


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
        inside = token < vocabulary
        key = _ordered(tl.load(logits + token, mask=inside, other=float("-inf")).to(tl.float32))
        better = inside & (key > best)
        best = tl.where(better, key, best)
        index = tl.where(better, token, index)
    tl.store(out + row, _argmax(best, index))


# One program a row. A cut is found by bisection over the 2³² ordered values, so nothing is sorted; the token is then
# the argmax of logit / temperature + Gumbel noise: a draw from the softmax (Gumbel 1954; Maddison et al. 2014).
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
        token = start + lane
        largest = tl.maximum(
            largest, tl.load(logits + token, mask=token < vocabulary, other=float("-inf")).to(tl.float32)
        )
    top = tl.max(largest, axis=0)
    cut = tl.full([], -2147483648, dtype=tl.int64)
    if TOP_K:
        high = tl.full([], 2147483647, dtype=tl.int64)
        for _ in range(32):
            middle = (cut + high + 1) >> 1
            count = tl.zeros([BLOCK], dtype=tl.int32)
            for start in range(0, vocabulary, BLOCK):
                token = start + lane
                inside = token < vocabulary
                key = _ordered(tl.load(logits + token, mask=inside, other=float("-inf")).to(tl.float32))
                count += (inside & (key >= middle)).to(tl.int32)
            enough = tl.sum(count, axis=0) >= top_k
            cut = tl.where(enough, middle, cut)
            high = tl.where(enough, high, middle - 1)
    if TOP_P:
        kept = tl.zeros([BLOCK], dtype=tl.float32)
        for start in range(0, vocabulary, BLOCK):
            token = start + lane
            value = tl.load(logits + token, mask=token < vocabulary, other=float("-inf")).to(tl.float32)
            kept += tl.where(_ordered(value) >= cut, tl.exp((value - top) * inverse_temperature), 0.0)
        wanted = tl.sum(kept, axis=0) * top_p
        high = tl.full([], 2147483647, dtype=tl.int64)
        for _ in range(32):
            middle = (cut + high + 1) >> 1
            kept = tl.zeros([BLOCK], dtype=tl.float32)
            for start in range(0, vocabulary, BLOCK):
                token = start + lane
                value = tl.load(logits + token, mask=token < vocabulary, other=float("-inf")).to(tl.float32)
                kept += tl.where(_ordered(value) >= middle, tl.exp((value - top) * inverse_temperature), 0.0)
            enough = tl.sum(kept, axis=0) >= wanted
            cut = tl.where(enough, middle, cut)
            high = tl.where(enough, high, middle - 1)
    stream = seed + (tl.load(step + row) * tl.num_programs(0) + row) * 1000003
    best = tl.full([BLOCK], float("-inf"), dtype=tl.float32)
    index = tl.zeros([BLOCK], dtype=tl.int32)
    for start in range(0, vocabulary, BLOCK):
        token = start + lane
        inside = token < vocabulary
        value = tl.load(logits + token, mask=inside, other=float("-inf")).to(tl.float32)
        uniform = tl.maximum(tl.rand(stream, token), 1.0e-20)
        noisy = (value - top) * inverse_temperature - tl.log(-tl.log(uniform))
        better = inside & (_ordered(value) >= cut) & (noisy > best)
        best = tl.where(better, noisy, best)
        index = tl.where(better, token, index)
    tl.store(out + row, _argmax(best, index))


def sample(
    logits: Any, *, temperature: float = 0.0, top_k: int = 0, top_p: float = 1.0, seed: int = 0, step: Any = 0,
    stream: Any = None,
) -> Any:  # fmt: skip
    """Chooses a token for each row of logits.

    logits: [b, vocabulary] float16, bfloat16 or float32, last axis contiguous. temperature 0 takes the largest logit
    (the first of equals); else a draw from softmax(logits / temperature), restricted to the top_k largest (0: all)
    and then to the fewest whose probabilities reach top_p (Holtzman et al. 2020, section 3.1). Logits equal to the
    last one kept are kept too. A NaN is never chosen over a number.
    seed, step: the draw depends on both and on the row; count step up for each token of a text. step may be an int32
    or int64 array [b], so that a captured graph can count it on the device.
    Returns int32 [b] of the caller's kind, enqueued on `stream` (default: the current one of the logits' device).
    Raises ShapeError, InvalidArgument.

    >>> ops.sample(np.array([[0.0, 5.0, 1.0]], np.float32))
    array([1], dtype=int32)
    """
    scores = as_tensor(logits, name="sample: logits")
    if scores.ndim != 2 or scores.shape[1] == 0:
        raise ShapeError(f"sample: logits must be [batch, vocabulary], not empty; they are {list(scores.shape)}.")
    if not (temperature >= 0.0 and top_k >= 0 and 0.0 < top_p <= 1.0):
        raise InvalidArgument(
            f"sample: temperature >= 0, top_k >= 0 and 0 < top_p <= 1 are needed; {temperature=}, {top_k=}, {top_p=}."
        )
    if scores.strides[1] != 1:
        scores = scores.contiguous()
    rows, vocabulary = scores.shape
    result = unify.empty((rows,), dtype=unify.int32, device=scores.device)
    if temperature == 0.0:
        greedy_kernel[(rows,)](scores, result, vocabulary, scores.strides[0], BLOCK=_BLOCK, stream=stream)
        return wrap_like(result, logits)
    if isinstance(step, int):
        steps = unify.full((rows,), step, dtype=unify.int64, device=scores.device)
    else:
        steps = as_tensor(step, name="sample: step", contiguous=True)
    sample_kernel[(rows,)](
        scores, result, steps, vocabulary, scores.strides[0], 1.0 / temperature, min(top_k, vocabulary), top_p, seed,
        TOP_K=0 < top_k < vocabulary, TOP_P=top_p < 1.0, BLOCK=_BLOCK, stream=stream,
    )  # fmt: skip
    return wrap_like(result, logits)


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
        value = tl.load(logits + row * logits_row + token, mask=inside, other=0.0).to(tl.float32)
        tl.store(out + row * out_row + token, tl.where(value < 0, value * penalty, value / penalty), mask=inside)


def repetition_penalty(logits: Any, ids: Any, penalty: float, *, stream: Any = None) -> Any:
    """Makes tokens that were written already less likely: logit / penalty, or · penalty below 0 (Keskar et al. 2019,
    section 4.1, as in transformers).

    logits: [b, vocabulary] float16, bfloat16 or float32; ids: [b, n] int32, those outside the vocabulary count as none.
    Returns a new array like logits, enqueued on `stream` (default: the current one of the logits' device).
    Raises ShapeError, InvalidArgument for a penalty that is not above 0.
    """
    scores = as_tensor(logits, name="repetition_penalty: logits", contiguous=True)
    tokens = as_tensor(ids, name="repetition_penalty: ids", dtype=unify.int32, contiguous=True)
    if scores.ndim != 2 or tokens.ndim != 2 or tokens.shape[0] != scores.shape[0]:
        raise ShapeError(
            f"repetition_penalty: logits must be [batch, vocabulary] and ids [batch, n]; "
            f"they are {list(scores.shape)} and {list(tokens.shape)}."
        )
    if not 0.0 < penalty < float("inf"):
        raise InvalidArgument(f"repetition_penalty: a penalty above 0 is needed, 1 changes nothing; {penalty=}.")
    result = unify.empty(scores.shape, dtype=scores.dtype, device=scores.device)
    result.copy_(scores, stream=stream)
    repetition_penalty_kernel[(scores.shape[0],)](
        scores, tokens, result, penalty, scores.shape[1], tokens.shape[1], scores.strides[0], tokens.strides[0],
        result.strides[0], BLOCK=64, stream=stream,
    )  # fmt: skip
    return wrap_like(result, logits)
