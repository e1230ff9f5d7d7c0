"""Changing logits by what was written already, and by what a request asks for."""

from __future__ import annotations

import math
import numbers
from typing import Any

import triton.language as tl

import unify
from unify._errors import InvalidArgument, ShapeError
from unify._tensor import as_tensor, wrap_like

from .op import FLOATS, op, written

_BLOCK = 512
_IDS = 64  # that a program of a bias takes


# One program BLOCK tokens of a row. prompt is read with PROMPT only.
@unify.jit
def penalize_kernel(
    logits, counts, prompt, out, frequency, presence, repetition, vocabulary, logits_row,
    PER_ROW: tl.constexpr, PROMPT: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(1).to(tl.int64)
    token = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    inside = token < vocabulary
    if PER_ROW:
        frequency = tl.load(frequency + row).to(tl.float32)
        presence = tl.load(presence + row).to(tl.float32)
        repetition = tl.load(repetition + row).to(tl.float32)
    value = tl.load(logits + row * logits_row + token, mask=inside, other=0.0).to(tl.float32)
    count = tl.load(counts + row * vocabulary + token, mask=inside, other=0)
    seen = count
    if PROMPT:
        seen += tl.load(prompt + row * vocabulary + token, mask=inside, other=0)
    repeated = tl.where(value < 0, value * repetition, value / repetition)
    value = tl.where(seen > 0, repeated, value)
    value -= count.to(tl.float32) * frequency + tl.where(count > 0, presence, 0.0)
    tl.store(out + row * vocabulary + token, value, mask=inside)


@op
def penalize(
    logits: Any, counts: Any, *, frequency: Any = 0.0, presence: Any = 0.0, repetition: Any = 1.0, prompt: Any = None,
    stream: Any = None,
) -> Any:  # fmt: skip
    """Makes tokens less likely that were written already: logit / repetition, or · repetition below 0, of those in the
    text or its prompt (Keskar et al. 2019, section 4.1, as in transformers); then
    logit - count · frequency - (count > 0) · presence (OpenAI's API reference, frequency and presence penalties).

    logits: [b, vocabulary] float16, bfloat16 or float32; counts: int32 [b, vocabulary], how often each token was
    written, contiguous; prompt: the same of the prompt, or None for none; frequency, presence: finite numbers,
    repetition: one above 0, or arrays [b] of floats; all on one device.
    Returns a new array like logits, enqueued on `stream` (default: the current one of the logits' device).
    Raises ShapeError, DTypeError, DeviceMismatchError, InvalidArgument; nothing is enqueued then.

    >>> ops.penalize(np.zeros((1, 3), np.float32), np.array([[0, 1, 3]], np.int32), frequency=0.5, presence=1.0)
    array([[ 0. , -1.5, -2.5]], dtype=float32)
    """
    scores = as_tensor(logits, name="penalize: logits", dtype=FLOATS)
    device = scores.device
    told = as_tensor(counts, name="penalize: counts", dtype=unify.int32, device=device, contiguous=True)
    before = told
    if prompt is not None:
        before = as_tensor(prompt, name="penalize: prompt", dtype=unify.int32, device=device, contiguous=True)
    if scores.ndim != 2 or told.shape != scores.shape or before.shape != scores.shape:
        raise ShapeError(
            f"penalize: logits, counts and prompt must be [batch, vocabulary]; they are {list(scores.shape)}, "
            f"{list(told.shape)} and {None if prompt is None else list(before.shape)}."
        )
    rows, vocabulary = scores.shape
    settings = {"frequency": frequency, "presence": presence, "repetition": repetition}
    is_per_row = not all(isinstance(x, numbers.Real) for x in settings.values())
    chosen = [_penalty(name, x, rows, device, is_per_row) for name, x in settings.items()]
    if scores.strides[1] != 1:
        scores = scores.contiguous()
    result = unify.empty((rows, vocabulary), dtype=scores.dtype, device=device)
    penalize_kernel[(-(-vocabulary // _BLOCK), rows)](
        scores, told, before, result, *chosen, vocabulary, scores.strides[0],
        PER_ROW=is_per_row, PROMPT=prompt is not None, BLOCK=_BLOCK,
    )  # fmt: skip
    return wrap_like(result, logits)


def _penalty(name: str, penalty: Any, rows: int, device: Any, is_per_row: bool) -> Any:
    if isinstance(penalty, numbers.Real):
        number = float(penalty)
        if not math.isfinite(number) or (name == "repetition" and number <= 0.0):
            needed = "a repetition above 0" if name == "repetition" else f"a finite {name}"
            raise InvalidArgument(f"penalize: {needed} is needed; it is {number}.")
        return unify.full((rows,), number, dtype=unify.float32, device=device) if is_per_row else number
    array = as_tensor(penalty, name=f"penalize: {name}", dtype=FLOATS, device=device, contiguous=True)
    if array.shape != (rows,):
        raise ShapeError(f"penalize: {name} must be a number or [{rows}], one for each row; it is {list(array.shape)}.")
    return array


# One program BLOCK of a row's biases, in a copy of the logits, read from the untouched ones.
@unify.jit
def logit_bias_kernel(logits, ids, bias, out, vocabulary, count, BLOCK: tl.constexpr):
    row = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    token = tl.load(ids + row * count + place, mask=place < count, other=-1)
    added = tl.load(bias + row * count + place, mask=place < count, other=0.0).to(tl.float32)
    inside = (token >= 0) & (token < vocabulary)
    token = tl.where(inside, token, 0)  # where a chip reads what a mask leaves out
    value = tl.load(logits + row * vocabulary + token, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + row * vocabulary + token, value + added, mask=inside)


@op
def logit_bias(logits: Any, ids: Any, bias: Any, *, stream: Any = None) -> Any:
    """Adds to the logits of some tokens: logit[ids] + bias, with -inf for one that must not come.

    logits: [b, vocabulary] float16, bfloat16 or float32; ids: [b, n] int32, a row's are different, those outside of the
    vocabulary count as none (-1 fills shorter rows up); bias: [b, n] floats; all contiguous and on one device.
    Returns a new array like logits, enqueued on `stream` (default: the current one of the logits' device).
    Raises ShapeError, DTypeError, DeviceMismatchError; nothing is enqueued then.

    >>> ops.logit_bias(np.zeros((1, 3), np.float32), np.array([[2, -1]], np.int32), np.ones((1, 2), np.float32))
    array([[0., 0., 1.]], dtype=float32)
    """
    scores = as_tensor(logits, name="logit_bias: logits", dtype=FLOATS, contiguous=True)
    device = scores.device
    tokens = as_tensor(ids, name="logit_bias: ids", dtype=unify.int32, device=device, contiguous=True)
    added = as_tensor(bias, name="logit_bias: bias", dtype=FLOATS, device=device, contiguous=True)
    if scores.ndim != 2 or tokens.ndim != 2 or tokens.shape[0] != scores.shape[0] or added.shape != tokens.shape:
        raise ShapeError(
            "logit_bias: logits must be [batch, vocabulary], ids and bias [batch, n]; "
            f"they are {list(scores.shape)}, {list(tokens.shape)} and {list(added.shape)}."
        )
    (rows, vocabulary), count = scores.shape, tokens.shape[1]
    result = unify.empty(scores.shape, dtype=scores.dtype, device=device)
    result.copy_(scores)
    logit_bias_kernel[(-(-count // _IDS), rows)](scores, tokens, added, result, vocabulary, count, BLOCK=_IDS)
    return wrap_like(result, logits)


# One program 64 of a row's tokens. Sums of whole numbers are the same in any order.
@unify.jit
def count_tokens_kernel(ids, counts, vocabulary, count, BLOCK: tl.constexpr):
    row = tl.program_id(1).to(tl.int64)
    place = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    token = tl.load(ids + row * count + place, mask=place < count, other=-1)
    inside = (token >= 0) & (token < vocabulary)
    token = tl.where(inside, token, 0)
    tl.atomic_add(counts + row * vocabulary + token, tl.where(inside, 1, 0), mask=inside)


@op
def count_tokens(ids: Any, vocabulary: int, *, add_to: Any = None, stream: Any = None) -> Any:
    """How often each token comes in each row, as `penalize` takes it.

    ids: [b, n] int32, contiguous; those outside of the vocabulary count as none.
    add_to: int32 [b, vocabulary], contiguous, of the tokens before these: is written and returned.
    Returns int32 [b, vocabulary] of the caller's kind, enqueued on `stream` (default: the current one of ids' device).
    Raises ShapeError, DTypeError, DeviceMismatchError; nothing is enqueued then.

    >>> ops.count_tokens(np.array([[2, 0, 2, -1]], np.int32), 3)
    array([[1, 0, 2]], dtype=int32)
    """
    tokens = as_tensor(ids, name="count_tokens: ids", dtype=unify.int32, contiguous=True)
    if tokens.ndim != 2 or vocabulary < 1:
        raise ShapeError(
            f"count_tokens: ids must be [batch, n] and vocabulary at least 1; they are {list(tokens.shape)} and "
            f"{vocabulary}."
        )
    rows, count = tokens.shape
    if add_to is None:
        counts = unify.zeros((rows, vocabulary), dtype=unify.int32, device=tokens.device)
    else:
        counts = as_tensor(
            add_to, name="count_tokens: add_to", dtype=unify.int32, device=tokens.device, contiguous=True
        )
        if counts.shape != (rows, vocabulary):
            raise ShapeError(f"count_tokens: add_to must be [{rows}, {vocabulary}]; it is {list(counts.shape)}.")
    count_tokens_kernel[(-(-count // _IDS), rows)](tokens, counts, vocabulary, count, BLOCK=_IDS)
    return wrap_like(counts, ids) if add_to is None else written(counts, add_to)
