"""A mixture of experts: each token through the experts that a router chose for it, and their results together."""

from __future__ import annotations

from typing import Any

import triton.language as tl

import unify
from unify._errors import ShapeError
from unify._tensor import as_tensor, wrap_like

from .grouped_linear import CODES, as_experts, grouped_product, rows_contiguous
from .op import FLOATS, op
from .quant import QuantizedActivations, activations_kind, as_codes
from .routing import sort

_BLOCK = 1024  # features that a program combines
_FEW_TOKENS = 2  # up to here few tokens share an expert, and each assignment reads its own weights


# One program BLOCK features of a token, in the order of its slots. places below `rows` count; IN_ORDER: they say only
# that, and what they would name is where they are.
@unify.jit
def combine_kernel(
    y, places, weights, residual, out, rows, columns, y_row, r_row,
    SLOTS: tl.constexpr, IN_ORDER: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    token = tl.program_id(0)
    column = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    inside = column < columns
    total = tl.zeros([BLOCK], dtype=tl.float32)
    for slot in range(SLOTS):
        row = token * SLOTS + slot
        weight = tl.load(weights + row)
        place = tl.load(places + row)
        if (place >= 0) & (place < rows):
            if not IN_ORDER:
                row = place
            total += tl.load(y + row.to(tl.int64) * y_row + column, mask=inside, other=0.0).to(tl.float32) * weight
    if residual is not None:
        total += tl.load(residual + token.to(tl.int64) * r_row + column, mask=inside, other=0.0).to(tl.float32)
    tl.store(out + token.to(tl.int64) * columns + column, total, mask=inside)


@op
def combine(y: Any, places: Any, weights: Any, *, residual: Any = None, stream: Any = None) -> Any:
    """Adds up what a token's experts gave: out[t] = Σ weights[t, s] · y[places[t, s]], plus `residual` if given.

    y: [rows, d] float16, bfloat16 or float32, the rows of a `Permutation` through their experts; places: int32 [t, k],
    as it has them, where a place that y does not have, as -1, adds nothing; weights: float32 [t, k]; residual: [t, d]
    of y's dtype. Sums in float32, in the order of the slots: equal inputs give equal results.
    Returns [t, d] of y's dtype and kind, enqueued on `stream` (default: the current one of y's device).
    Raises ShapeError, DTypeError, DeviceMismatchError; nothing is enqueued then.

    >>> y = np.array([[1.0], [10.0]], np.float32)
    >>> ops.combine(y, np.array([[1, 0]], np.int32), np.array([[0.5, 2.0]], np.float32))
    array([[7.]], dtype=float32)
    """
    values = as_tensor(y, name="combine: y", dtype=FLOATS)
    table = as_tensor(places, name="combine: places", dtype=unify.int32, device=values.device, contiguous=True)
    if values.ndim != 2 or table.ndim != 2:
        raise ShapeError(
            "combine: y must be [rows, d] and places [tokens, k]; "
            f"they are {list(values.shape)} and {list(table.shape)}."
        )
    amounts, added = _per_token("combine", weights, residual, table.shape, values)
    result = unify.empty((table.shape[0], values.shape[1]), dtype=values.dtype, device=values.device)
    _combine(values, table, values.shape[0], amounts, added, result)
    return wrap_like(result, y)


@op
def moe(
    x: Any, weights: Any, ids: Any, gate_up: Any, down: Any, *, residual: Any = None, activations: str | None = None,
    stream: Any = None,
) -> Any:  # fmt: skip
    """A layer of experts: Σ weights[t, s] · down[e] · (silu(gate[e] · x[t]) · (up[e] · x[t])) with e = ids[t, s], plus
    `residual` if given (Shazeer et al. 2017, eq. 1; experts as in Shazeer 2020, eq. 6).

    x: [t, d] float16, bfloat16 or float32; weights: float32 [t, k] and ids: int32 [t, k], as `route` gives them; an
    expert that does not exist adds nothing. gate_up: [experts, 2f, d], the gate's features first; down: [experts, d,
    f]; both of x's dtype or a QuantizedMatrix, which stays quantised and is multiplied as in `linear`. residual: [t, d]
    of x's dtype.
    For one or two tokens each of their experts' weights are read for them alone; for more tokens the assignments are
    sorted by expert first, and x is read where it is. Sums in float32; what an expert gives, and what its gate gives,
    is rounded to x's dtype. Equal inputs give equal results.
    activations: "int8" or "fp8": what is multiplied with gate_up, and then with down, becomes such codes first, as in
    `grouped_linear`; both have to be weights that these go with. Or x is QuantizedActivations [t, d] of one of them,
    and what the gates give becomes codes of the same kind.
    Returns [t, d] of x's dtype and kind, of QuantizedActivations a unify.Tensor, enqueued on `stream` (default: the
    current one of x's device).
    Raises ShapeError, DTypeError, DeviceMismatchError, InvalidArgument; nothing is enqueued then.

    >>> x, gate_up, down = (np.ones(shape, np.float32) for shape in ((1, 1), (2, 2, 1), (2, 1, 1)))
    >>> ops.moe(x, np.array([[2.0]], np.float32), np.array([[1]], np.int32), gate_up, down)
    array([[1.4621172]], dtype=float32)
    """
    is_quantized = isinstance(x, QuantizedActivations)
    source = x if is_quantized else as_tensor(x, name="moe: x", dtype=FLOATS)
    dtype, device = source.dtype, source.device
    chosen = as_tensor(ids, name="moe: ids", dtype=unify.int32, device=device, contiguous=True)
    first = as_experts(gate_up, "moe: gate_up", source)
    second = as_experts(down, "moe: down", source)
    if len(source.shape) != 2 or chosen.ndim != 2 or chosen.shape[0] != source.shape[0]:
        raise ShapeError(
            f"moe: x must be [tokens, d] and ids [tokens, k]; they are {list(source.shape)} and {list(chosen.shape)}."
        )
    (tokens, d), slots = source.shape, chosen.shape[1]
    if len(second.shape) != 3 or second.shape[1] != d or first.shape != (second.shape[0], 2 * second.shape[2], d):
        raise ShapeError(
            f"moe: gate_up must be [experts, 2f, {d}] and down [experts, {d}, f]; "
            f"they are {list(first.shape)} and {list(second.shape)}."
        )
    experts, _, f = second.shape
    if experts == 0:
        raise ShapeError("moe: there must be an expert; down is of none.")
    amounts, added = _per_token("moe", weights, residual, chosen.shape, source)
    outer = activations_kind("moe", source, first, activations, what="gate_up", known=CODES)
    asked = x.kind if isinstance(x, QuantizedActivations) else activations
    inner = activations_kind("moe", None, second, asked, what="down")
    values = as_codes(rows_contiguous(source), outer)
    result = unify.empty((tokens, d), dtype=dtype, device=device)
    hidden = unify.empty((tokens * slots, f), dtype=dtype, device=device)
    parts = unify.empty((tokens * slots, d), dtype=dtype, device=device)
    if tokens <= _FEW_TOKENS:
        flat = chosen.reshape(tokens * slots)
        grouped_product(values, first, hidden, True, ids=flat, per_gather=slots)
        grouped_product(as_codes(hidden, inner), second, parts, False, ids=flat)
        _combine(parts, flat, experts, amounts, added, result, in_order=True)
    else:
        order = sort(chosen, experts)
        grouped_product(values, first, hidden, True, offsets=order.offsets, gather=order.tokens, per_gather=slots)
        grouped_product(as_codes(hidden, inner), second, parts, False, offsets=order.offsets)
        _combine(parts, order.places, tokens * slots, amounts, added, result)
    return result if is_quantized else wrap_like(result, x)


def _per_token(name: str, weights: Any, residual: Any, shape: tuple[int, ...], values: Any) -> tuple[Any, Any]:
    """weights of the shape of ids, and a residual of values' dtype and width or none, as tensors."""
    device = values.device
    amounts = as_tensor(weights, name=f"{name}: weights", dtype=unify.float32, device=device, contiguous=True)
    if amounts.shape != shape:
        raise ShapeError(
            f"{name}: weights must be {list(shape)}, as the experts' numbers; they are {list(amounts.shape)}."
        )
    added = None
    if residual is not None:
        added = as_tensor(residual, name=f"{name}: residual", dtype=values.dtype, device=device)
        if added.shape != (shape[0], values.shape[1]):
            raise ShapeError(f"{name}: residual must be {[shape[0], values.shape[1]]}; it is {list(added.shape)}.")
        added = added if added.strides[1] == 1 else added.contiguous()
    return amounts, added


def _combine(
    y: Any, places: Any, rows: int, weights: Any, residual: Any, out: Any, *, in_order: bool = False
) -> None:  # fmt: skip
    (tokens, columns), (_, slots) = out.shape, weights.shape
    y = y if y.strides[1] == 1 else y.contiguous()
    combine_kernel[(tokens, -(-columns // _BLOCK))](
        y, places, weights, residual, out, rows, columns, y.strides[0],
        0 if residual is None else residual.strides[0], SLOTS=slots, IN_ORDER=in_order, BLOCK=_BLOCK,
    )  # fmt: skip
