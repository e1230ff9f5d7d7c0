"""Attentions over parts of the keys, joined."""

from __future__ import annotations

from typing import Any

import triton.language as tl

import unify
from unify._errors import ShapeError
from unify._tensor import as_tensor, wrap_like

from .attend import block_d
from .op import FLOATS, op


# One program a row and head: each part weighs as much as the exponentials of its scores do.
@unify.jit
def merge_kernel(
    outs, lses, out, lse, parts, o_part, o_row, o_head, l_part, l_row, l_head, out_row, out_head,
    PARTS: tl.constexpr, WIDTH: tl.constexpr, BLOCK_D: tl.constexpr,
):  # fmt: skip
    head = tl.program_id(0)
    row = tl.program_id(1).to(tl.int64)
    part = tl.arange(0, PARTS)
    d = tl.arange(0, BLOCK_D)
    outs += row * o_row + head * o_head
    lses += row * l_row + head * l_head
    logarithms = tl.load(lses + part * l_part, mask=part < parts, other=-float("inf"))
    top = tl.max(logarithms, axis=0)
    top = tl.where(top == -float("inf"), 0.0, top)
    mass = tl.sum(tl.exp(logarithms - top), axis=0)
    total = tl.zeros([BLOCK_D], dtype=tl.float32)
    for i in range(parts):
        logarithm = tl.load(lses + i * l_part)
        value = tl.load(outs + i * o_part + d, mask=d < WIDTH, other=0.0).to(tl.float32)
        total += tl.where(logarithm == -float("inf"), 0.0, tl.exp(logarithm - top) * value)
    result = total / tl.where(mass == 0.0, 1.0, mass)
    tl.store(out + row * out_row + head * out_head + d, result, mask=d < WIDTH)
    if lse is not None:
        tl.store(lse + row * tl.num_programs(0) + head, top + tl.log(mass))


def merge(outs: Any, lses: Any, out: Any, lse: Any) -> None:
    """Joins outs [parts, t, h, d] and float32 lses [parts, t, h] to out [t, h, d] and, if there is one, lse [t, h]."""
    parts, rows, heads, width = outs.shape
    merge_kernel[(heads, rows)](
        outs, lses, out, lse, parts, *outs.strides[:3], *lses.strides, *out.strides[:2],
        PARTS=1 << max(0, parts - 1).bit_length(), WIDTH=width, BLOCK_D=block_d(width),
    )  # fmt: skip


@op
def merge_states(outs: Any, lses: Any, *, stream: Any = None) -> tuple[Any, Any]:
    """Joins attentions of the same queries over different keys (Ye et al. 2025, section 2.2).

    outs: [parts, t, h, d] float16, bfloat16 or float32, a result of attention for each part of the keys; lses: [parts,
    t, h] float32, the logarithms that `return_lse` gives. A part with -inf has no keys; its result is not looked at.
    Sinks belong to one part only. Sums in float32.
    Returns what attention over all of the keys gives, [t, h, d] and its logarithm [t, h], both as outs, enqueued on
    `stream` (default: the current one of outs' device).
    Raises ShapeError, DTypeError, DeviceMismatchError; nothing is enqueued then.
    """
    parts = as_tensor(outs, name="merge_states: outs", dtype=FLOATS)
    logarithms = as_tensor(lses, name="merge_states: lses", dtype=unify.float32, device=parts.device)
    if parts.ndim != 4 or parts.shape[:3] != logarithms.shape or parts.shape[0] == 0 or parts.shape[3] == 0:
        raise ShapeError(
            f"merge_states: outs must be [parts, t, h, d] and lses [parts, t, h], with a part and a d of at least 1; "
            f"they are {list(parts.shape)} and {list(logarithms.shape)}."
        )
    parts = parts if parts.strides[3] == 1 else parts.contiguous()
    result = unify.empty(parts.shape[1:], dtype=parts.dtype, device=parts.device)
    lse = unify.empty(parts.shape[1:3], dtype=unify.float32, device=parts.device)
    merge(parts, logarithms, result, lse)
    return wrap_like(result, outs), wrap_like(lse, outs)
