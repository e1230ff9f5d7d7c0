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
    """The highest key from `cut` on whose logits have the part top_p of the probability; `cut` itself for 1."""
    lowest = cut
    wanted = _mass(logits, vocabulary, cut, top, inverse_temperature, BLOCK) * top_p
    high = tl.full([], 2147483647, dtype=tl.int64)
    for _ in range(32):
        middle = (cut + high + 1) >> 1
        enough = _mass(logits, vocabulary, middle, top, inverse_temperature, BLOCK) >= wanted
        cut = tl.where(enough, middle, cut)
        high = tl.where(enough, high, middle - 1)
    return tl.where(top_p < 1.0, cut, lowest)


# One program a row. The token is the argmax of logit / temperature + Gumbel noise over what the cuts leave: a draw from
# the softmax (Gumbel 1954; Maddison et al. 2014). Philox (Salmon et al. 2011) makes the noise: the seed is its key, and
# token, row and step its counter, so that no two draws have noise in common. With PER_ROW all settings are arrays; with
# OWN_SEEDS the row is left out of the counter.
@unify.jit
def sample_kernel(
    logits, out, step, vocabulary, row_stride, temperature, top_k, top_p, min_p, seed,
    TOP_K: tl.constexpr, TOP_P: tl.constexpr, MIN_P: tl.constexpr, PER_ROW: tl.constexpr, OWN_SEEDS: tl.constexpr,
    BLOCK: tl.constexpr,
):  # fmt: skip
    row = tl.program_id(0).to(tl.int64)
    logits += row * row_stride
    is_greedy = False
    if PER_ROW:
        temperature = tl.load(temperature + row).to(tl.float32)
        is_greedy = (temperature > 2.9387359e-39) == 0  # its inverse is infinite; or it is a NaN
        temperature = tl.where(is_greedy, 1.0, temperature)
        top_k = tl.load(top_k + row)
        top_k = tl.where(top_k > 0, top_k, vocabulary)
        top_p = tl.maximum(tl.load(top_p + row).to(tl.float32), 1.0e-6)
        min_p = tl.minimum(tl.load(min_p + row).to(tl.float32), 1.0)
        seed = tl.load(seed + row).to(tl.int64)
    inverse_temperature = 1.0 / temperature
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
    own = 0 if OWN_SEEDS else tl.program_id(0)
    best = tl.full([BLOCK], float("-inf"), dtype=tl.float32)
    index = tl.zeros([BLOCK], dtype=tl.int32)
    for start in range(0, vocabulary, BLOCK):
        token = start + lane
        value = _load(logits, token, vocabulary)
        bits, _, _, _ = tl.philox(seed, token, own, draw.to(tl.int32), (draw >> 32).to(tl.int32))
        uniform = tl.maximum(tl.uint_to_uniform_float(bits), 1.0e-20)
        below = _scaled(value, top, inverse_temperature)
        noisy = below - tl.log(-tl.log(uniform))
        if PER_ROW:
            noisy = tl.where(is_greedy, below, noisy)
        better = (token < vocabulary) & (_ordered(value) >= cut) & (noisy > best)
        if MIN_P:
            better = better & (below >= tl.where(min_p > 0.0, tl.log(min_p), float("-inf")))
        best = tl.where(better, noisy, best)
        index = tl.where(better, token, index)
    tl.store(out + row, _argmax(best, index))


@op
def sample(
    logits: Any, *, temperature: Any = 0.0, top_k: Any = 0, top_p: Any = 1.0, min_p: Any = 0.0, seed: Any = 0,
    step: Any = 0, stream: Any = None,
) -> Any:  # fmt: skip
    """Chooses a token for each row of logits.

    logits: [b, vocabulary] float16, bfloat16 or float32. temperature 0, or one so small that its inverse is infinite,
    takes the largest logit (the first of equals); else a draw from softmax(logits / temperature), restricted to the
    top_k largest (0: all), then to the fewest whose probabilities reach top_p (Holtzman et al. 2020, section 3.1), and
    to those at least min_p times as probable as the likeliest (Nguyen et al. 2024, section 3).
    Logits equal to the last one kept are kept too. A NaN is never chosen over a number.
    seed, step: whole numbers of 64 bits. The draw depends on both and on the row's number, and is independent of all
    others; count step up for each token of a text. step may be an int32 or int64 array [b] on the logits' device, so
    that a captured graph can count it there.
    temperature, top_p and min_p may be arrays [b] of floats, top_k an int32 one, seed one of int32 or int64, on the
    logits' device: each row has its own then. Nothing looks at their values: what is out of range counts as the nearest
    in it. With an array of seeds a row's draw depends on its logits, settings, seed and step, not on its number.
    Returns int32 [b] of the caller's kind, enqueued on `stream` (default: the current one of the logits' device).
    Raises ShapeError, DTypeError, DeviceMismatchError, InvalidArgument; nothing is enqueued then.

    >>> ops.sample(np.array([[0.0, 5.0, 1.0]], np.float32))
    array([1], dtype=int32)
    """
    scores = as_tensor(logits, name="sample: logits", dtype=FLOATS)
    if scores.ndim != 2 or scores.shape[1] == 0:
        raise ShapeError(f"sample: logits must be [batch, vocabulary], not empty; they are {list(scores.shape)}.")
    settings = {"temperature": temperature, "top_k": top_k, "top_p": top_p, "min_p": min_p}
    are_numbers = {name: isinstance(x, numbers.Real) for name, x in settings.items()}
    if not (
        (not are_numbers["temperature"] or 0.0 <= temperature < float("inf"))
        and (not are_numbers["top_k"] or top_k >= 0)
        and (not are_numbers["top_p"] or 0.0 < top_p <= 1.0)
        and (not are_numbers["min_p"] or 0.0 <= min_p <= 1.0)
    ):
        given = ", ".join(f"{name}={x}" for name, x in settings.items() if are_numbers[name])
        raise InvalidArgument(
            "sample: a finite temperature >= 0, top_k >= 0, 0 < top_p <= 1 and 0 <= min_p <= 1 are needed; "
            f"they are {given}."
        )
    is_greedy = are_numbers["temperature"] and (temperature == 0.0 or 1.0 / temperature > _LARGEST)
    if scores.strides[1] != 1:
        scores = scores.contiguous()
    rows, vocabulary = scores.shape
    result = unify.empty((rows,), dtype=unify.int32, device=scores.device)
    if is_greedy:
        greedy_kernel[(rows,)](scores, result, vocabulary, scores.strides[0], BLOCK=_BLOCK)
        return wrap_like(result, logits)
    steps = _array("step", step, scores, unify.int64, unify.int32)
    has_seeds = not isinstance(seed, numbers.Integral)
    is_per_row = has_seeds or not all(are_numbers.values())
    chosen: tuple[Any, ...]
    if is_per_row:
        floats = (unify.float32, unify.float16, unify.bfloat16)
        dtypes = (floats, (unify.int32,), floats, floats)
        arrays = (_array(name, x, scores, *of) for (name, x), of in zip(settings.items(), dtypes, strict=True))
        chosen = (*arrays, _array("seed", seed, scores, unify.int64, unify.int32))
    else:
        chosen = (temperature, min(top_k, vocabulary), top_p, min_p, operator.index(seed))
    sample_kernel[(rows,)](
        scores, result, steps, vocabulary, scores.strides[0], *chosen,
        TOP_K=not are_numbers["top_k"] or 0 < top_k < vocabulary, TOP_P=not are_numbers["top_p"] or top_p < 1.0,
        MIN_P=not are_numbers["min_p"] or min_p > 0.0,
        PER_ROW=is_per_row, OWN_SEEDS=has_seeds, BLOCK=_BLOCK,
    )  # fmt: skip
    return wrap_like(result, logits)


def _array(name: str, setting: Any, scores: Any, *dtypes: Any) -> Any:
    """A setting of each row, in the first of `dtypes` where it is a number."""
    rows, device = scores.shape[0], scores.device
    is_whole = dtypes[0] in (unify.int32, unify.int64)
    if isinstance(setting, numbers.Integral if is_whole else numbers.Real):
        number = operator.index(setting) if is_whole else float(setting)  # type: ignore[arg-type]
        if dtypes[0] == unify.int32:
            number = min(number, 2**31 - 1)
        return unify.full((rows,), number, dtype=dtypes[0], device=device)
    array = as_tensor(setting, name=f"sample: {name}", dtype=dtypes, device=device, contiguous=True)
    if array.shape != (rows,):
        raise ShapeError(f"sample: {name} must be a number or [{rows}], one for each row; it is {list(array.shape)}.")
    return array
