"""Reductions: sums in registers, each in the order of the text unless the order cannot be seen."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from unify.compiler import mlir
from unify.compiler.cpu.codegen.emitter import Val

from . import buffers
from .buffers import Size
from .elements import body_values, place_of
from .nests import Access, Axis, Nest, Position
from .program import Program
from .walks import along, split, steps

# Sums that one pass over the reduced axes computes at a time: rows times vectors, the first count that divides them.
_ROWS = 4
_VECTORS = {16: (3, 2), 32: (4, 3, 2)}  # by the number of registers
# An axis this short is written out.
_UNROLLED = 8


def reduce(
    p: Program, nest: Nest, at: Position, rows: Axis | None, vector: Axis | None, reduced: Sequence[Axis],
    may_vectorise: bool,
) -> None:  # fmt: skip
    """Writes the reduction of all rows at a position; `rows` are taken some at a time, `vector` by whole registers."""
    combining = _combining(p, nest) if may_vectorise and vector is None else None
    if combining is not None and _is_worth_lanes(p, reduced[-1]):
        _reduce_in_lanes(p, nest, at, reduced, combining)
        return
    for span, count in split(rows.extent if rows is not None else 1, _ROWS if vector is not None else 1):
        _rows(p, nest, at, rows, span, count, vector, reduced)


def _rows(
    p: Program, nest: Nest, at: Position, rows: Axis | None, span: tuple[int, int], count: int, vector: Axis | None,
    reduced: Sequence[Axis],
) -> None:  # fmt: skip
    def several(first: Size) -> None:
        def piece(index: Size, lanes: int, vectors: int) -> None:
            places: list[Position] = []
            for i in range(count):
                for j in range(vectors):
                    here = dict(at)
                    if rows is not None:
                        here[rows] = buffers.add(p, first, i)
                    if vector is not None:
                        here[vector] = buffers.add(p, index, j * lanes)
                    places.append(here)
            _sums(p, nest, places, vector, lanes, reduced)

        along(p, vector, p.lanes, _vectors(p, vector), piece)

    steps(p, span[0], (span[1] - span[0]) // count, count, several)


def _vectors(p: Program, vector: Axis | None) -> int:
    """How many registers to take at a time: no more than there are, and such that none is left over."""
    if vector is None or not isinstance(vector.extent, int):
        return 1
    total = vector.extent // p.lanes
    return next((n for n in _VECTORS[p.features.vector_registers] if total % n == 0 and total), 1)


def _sums(
    p: Program, nest: Nest, places: Sequence[Position], vector: Axis | None, lanes: int, reduced: Sequence[Axis]
) -> None:  # fmt: skip
    """Accumulates for all places at once, in registers, over the reduced axes in their order."""
    starts = [_read_old(p, access, at, vector, lanes) for at in places for access in nest.outs]
    outs = len(nest.outs)

    def step(inner: Position, sums: Sequence[Val]) -> list[Val]:
        found: list[Val] = []
        for i, at in enumerate(places):
            olds = sums[i * outs : (i + 1) * outs]
            found += (p.em.splat(v, lanes) for v in body_values(p, nest, {**at, **inner}, vector, lanes, olds))
        return found

    totals = iter(_over(p, reduced, starts, step))
    for at in places:
        for access in nest.outs:
            value = p.em.splat(next(totals), lanes)
            buffers.store(p, value, access.buffer, place_of(p, access, at), access.stride(vector))


def _read_old(p: Program, access: Access, at: Position, vector: Axis | None, lanes: int) -> Val:
    return p.em.splat(buffers.load(p, access.buffer, place_of(p, access, at), lanes, access.stride(vector)), lanes)


def _over(
    p: Program, axes: Sequence[Axis], starts: Sequence[Val], step: Callable[[Position, Sequence[Val]], list[Val]]
) -> list[Val]:  # fmt: skip
    """Runs through the axes, the first outermost, with values that go from step to step."""
    if not axes:
        return step({}, starts)
    axis, rest = axes[0], axes[1:]

    def inside(index: Size, carried: Sequence[Val]) -> list[Val]:
        return _over(p, rest, carried, lambda inner, values: step({axis: index, **inner}, values))

    if isinstance(axis.extent, int) and axis.extent <= _UNROLLED:
        values = list(starts)
        for i in range(axis.extent):
            values = inside(i, values)
        return values
    with p.carrying(axis.extent, starts) as body:
        body.next = inside(body.counter, body.carried)
    return body.results


# ---------------------------------------------------------------- reductions whose order does not matter

_IDENTITY = {
    "arith.addi": 0, "arith.ori": 0, "arith.xori": 0, "arith.andi": -1, "arith.muli": 1,
    "arith.addf": -0.0, "arith.mulf": 1.0,
}  # fmt: skip
_IDEMPOTENT = frozenset([
    "arith.maxsi", "arith.minsi", "arith.maxui", "arith.minui", "arith.maxnumf", "arith.minnumf", "arith.maximumf",
    "arith.minimumf", "arith.ori", "arith.andi",
])  # fmt: skip


def _combining(p: Program, nest: Nest) -> mlir.Operation | None:
    """The one operation that joins a value with what there is, if it gives the same in any order."""
    if len(nest.outs) != 1:
        return None
    old, (result,) = nest.body.arguments[-1], nest.yields
    users = [op for op in nest.body.operations if old in op.operands]
    op = result.owner
    if not isinstance(op, mlir.Operation) or users != [op] or op.operands.count(old) != 1:
        return None
    exact = op.name in _IDEMPOTENT or op.name in ("arith.addi", "arith.xori", "arith.muli")
    return op if exact or (op.name in _IDENTITY and not p.strict) else None


def _is_worth_lanes(p: Program, axis: Axis) -> bool:
    return not isinstance(axis.extent, int) or axis.extent >= p.lanes


def _reduce_in_lanes(
    p: Program, nest: Nest, at: Position, reduced: Sequence[Axis], combining: mlir.Operation
) -> None:  # fmt: skip
    """Each lane reduces its share of the last axis; then halves are joined with halves."""
    (access,), last, em = nest.outs, reduced[-1], p.em
    place = place_of(p, access, at)
    old = buffers.load(p, access.buffer, place)
    idempotent = combining.name in _IDEMPOTENT
    neutral = old if idempotent else p.literal(_IDENTITY[combining.name], old.element)
    lanes = p.lanes

    def through(count: int, start: Val, span: Size, first: Size) -> Val:
        def step(inner: Position, sums: Sequence[Val]) -> list[Val]:
            here = {**at, **inner, last: buffers.add(p, inner[last], first)}
            return [em.splat(v, count) for v in body_values(p, nest, here, last, count, sums)]

        axes = [*reduced[:-1], last]
        (total,) = _strided(p, axes, span, count, [em.splat(start, count)], step)
        return total

    if isinstance(last.extent, int):
        whole: Size = last.extent // lanes * lanes
        left: Size = last.extent - last.extent // lanes * lanes
    else:
        whole = em.assign(f"and i64 {last.extent}, {-lanes}")
        left = em.assign(f"sub i64 {last.extent}, {whole}")
    total = through(lanes, neutral, whole, 0)
    while total.lanes > 1:
        half = total.lanes // 2
        total = _joined(p, combining, em.slice(total, 0, half), em.slice(total, half, half))
    if left != 0:
        total = through(1, total, left, whole)
    buffers.store(p, total if idempotent else _joined(p, combining, total, old), access.buffer, place)


def _joined(p: Program, op: mlir.Operation, a: Val, b: Val) -> Val:
    kept = {operand: p.values[operand] for operand in op.operands if operand in p.values}
    p.values.update(zip(op.operands, (a, b)))
    p.run(op)
    p.values.update(kept)
    return p.value(op.results[0])


def _strided(
    p: Program, axes: Sequence[Axis], span: Size, step_by: int, starts: Sequence[Val],
    step: Callable[[Position, Sequence[Val]], list[Val]],
) -> list[Val]:  # fmt: skip
    """As _over, with the last axis only so far, and by so much."""
    axis, rest = axes[0], axes[1:]
    extent, by = (axis.extent, 1) if rest else (span, step_by)
    with p.carrying(extent, starts, by) as body:
        if rest:
            body.next = _strided(
                p, rest, span, step_by, body.carried, lambda inner, v: step({axis: body.counter, **inner}, v)
            )
        else:
            body.next = step({axis: body.counter}, body.carried)
    return body.results
