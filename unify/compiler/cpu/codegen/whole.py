"""Tiles that lie inside their arrays need no masks: a nest is written with and without them.

One comparison a tile chooses. It is made of the masks themselves at the tile's corners, so that integers which wrap
around are seen as the program computes them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from unify.compiler import mlir
from unify.compiler.cpu.codegen import nest
from unify.compiler.cpu.codegen.emitter import BYTES, Index, Val
from unify.compiler.cpu.codegen.values import Kernel, element_of, is_tensor, shape_of

# arith.cmpi's predicates: less, less or equal; greater, greater or equal; each signed, then unsigned.
_LESS, _GREATER, _UNSIGNED = frozenset([2, 3, 6, 7]), frozenset([4, 5, 8, 9]), 6
_NAMES = {2: "slt", 3: "sle", 4: "sgt", 5: "sge", 6: "ult", 7: "ule", 8: "ugt", 9: "uge"}
_SWAPPED = {2: 4, 3: 5, 4: 2, 5: 3, 6: 8, 7: 9, 8: 6, 9: 7}
_SAME_ELEMENTS = frozenset(["tt.broadcast", "tt.expand_dims", "tt.trans", "tt.reshape"])


@dataclass(frozen=True)
class Whole:
    """Masks of which `condition`, an i1, tells that they hold for all elements; no condition: nothing is known."""

    masks: frozenset[mlir.Value] = frozenset()
    condition: Val | None = None


def look(k: Kernel, masks: Iterable[mlir.Value]) -> Whole:
    """Compares what can be compared, in front of the nests that need it."""
    if k.origins is not None:
        return Whole()  # each access is looked at by itself
    open_ = [mask for mask in dict.fromkeys(masks) if not k.plan.bounds.is_always_true(mask)]
    with k.em.nest():
        known = {mask: condition for mask in open_ if (condition := holds(k, mask)) is not None}
        implied = frozenset(value for mask in known for value in _implied(mask))
        return Whole(implied, _all(k, known.values())) if known else Whole()


def in_versions(k: Kernel, whole: Whole, write: Callable[[bool], None]) -> None:
    """Has `write` write what it does without the masks that hold and, for the other case, with them.

    write: told whether what it writes is the version for tiles at an edge.
    """
    if whole.condition is None:
        write(False)
        return
    top = k.scratch_top

    def edge() -> None:
        k.scratch_top = top  # what the other version needed on its way
        write(True)

    with k.em.conditional(whole.condition, otherwise=edge):
        kept, k.whole = k.whole, k.whole | whole.masks
        write(False)
        k.whole = kept


def holds(k: Kernel, mask: mlir.Value) -> Val | None:
    """An i1 that is true only if the mask holds everywhere; None if that takes more than a look at its corners."""
    op = mask.owner
    if not is_tensor(mask):
        return None if nest.is_pending(k, mask) else k.scalar(mask)
    if not isinstance(op, mlir.Operation):
        return None
    if op.name == "arith.andi":
        both = [holds(k, v) for v in op.operands]
        return None if None in both else _all(k, [v for v in both if v is not None])
    if op.name == "tt.splat" or op.name in _SAME_ELEMENTS:
        return holds(k, op.operands[0])
    return _comparison(k, op) if op.name == "arith.cmpi" else None


def _implied(mask: mlir.Value) -> Iterator[mlir.Value]:
    """The mask, and what it is made of, which hold wherever it holds."""
    yield mask
    if isinstance(mask.owner, mlir.Operation) and mask.owner.name in ("arith.andi", *_SAME_ELEMENTS):
        for operand in mask.owner.operands:
            yield from _implied(operand)


def _all(k: Kernel, conditions: Iterable[Val]) -> Val:
    first, *others = conditions
    for other in others:
        first = k.em.op("i1", 1, f"and {k.em.typed(first)}, {k.em.text(other)}")
    return first


def _comparison(k: Kernel, op: mlir.Operation) -> Val | None:
    predicate, (run, bound) = op.integer("predicate"), op.operands
    spans = [_span(k, run), _span(k, bound)]
    if predicate not in _NAMES or None in spans or any(nest.is_pending(k, v) for v, _ in nest.sources(k, op.operands)):
        return None
    if spans[1]:
        run, bound, spans, predicate = bound, run, spans[::-1], _SWAPPED[predicate]
    if spans[1]:
        return None  # both vary
    low, high = _corners(k, run)
    corner = high if predicate in _LESS else low
    limit = k.block(bound, (Index(),) * len(shape_of(bound)), (1,) * len(shape_of(bound)))
    fits = k.em.op("i1", 1, f"icmp {_NAMES[predicate]} {k.em.typed(corner)}, {k.em.text(limit)}")
    if not spans[0]:
        return fits
    order = "ule" if predicate >= _UNSIGNED else "sle"
    return _all(k, [fits, k.em.op("i1", 1, f"icmp {order} {k.em.typed(low)}, {k.em.text(high)}")])


def _span(k: Kernel, value: mlir.Value) -> int | None:
    """The largest less the smallest element; None if unknown, or so much that it may wrap around to the same order.

    It may have been 32 bits wide before it was extended.
    """
    linear = k.plan.axes.linear(value)
    if any(axis is not None for term in linear.terms for axis in term.axes):
        return None
    span = 0
    for stride, extent in zip(linear.strides, shape_of(value)):
        if set(stride) - {()}:
            return None
        span += abs(stride.get((), 0)) * (extent - 1)
    return span if span < 1 << min(31, 8 * BYTES[element_of(value.type)] - 1) else None


def _corners(k: Kernel, value: mlir.Value) -> tuple[Val, Val]:
    """The smallest and the largest element."""
    strides = [stride.get((), 0) for stride in k.plan.axes.linear(value).strides]
    ones = (1,) * len(strides)
    low, high = (
        tuple(Index((), extent - 1 if (stride > 0) is last else 0) for stride, extent in zip(strides, shape_of(value)))
        for last in (False, True)
    )
    return k.block(value, low, ones), k.block(value, high, ones)
