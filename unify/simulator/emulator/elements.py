"""The elements of a nest at one position, or at as many as a register has lanes."""

from __future__ import annotations

from collections.abc import Sequence

from unify.compiler import mlir
from unify.compiler.cpu.codegen.emitter import Val

from . import buffers
from .buffers import Size
from .nests import Access, Axis, Melted, Nest, Operand, Position
from .program import Program

# What a body may hold besides elementwise operations, to be computed for several positions at a time.
LANEWISE = frozenset(["linalg.index", "memref.load"])


def place_of(p: Program, access: Access, at: Position) -> Size:
    total = access.start
    for axis, index in at.items():
        total = buffers.add(p, total, buffers.multiply(p, index, access.stride(axis)))
    return total


def _read(p: Program, access: Access, at: Position, vector: Axis | None, lanes: int) -> Val:
    """The operand's elements here; one element if it does not move along the vector."""
    stride = access.stride(vector)
    place = place_of(p, access, at)
    count = 1 if stride == 0 else lanes
    key = ("element", access, place, count)
    found = p.em.find(key)
    if found is None:
        with p.em.at_depth(p.writer.depth_of_names(place)):
            found = buffers.load(p, access.buffer, place, count, stride)
            p.em.remember(key, found)
    return found  # type: ignore[return-value]


def body_values(
    p: Program, nest: Nest, at: Position, vector: Axis | None, lanes: int, olds: Sequence[Val | None]
) -> list[Val]:  # fmt: skip
    """The values yielded for a position. An old value of None is read where the body wants it."""
    p.exact |= _exact_products(nest)
    arguments = nest.body.arguments
    for argument, access, old in zip(arguments[len(nest.ins) :], nest.outs, olds):
        if _is_used(argument, nest.body):
            p.values[argument] = old if old is not None else _read(p, access, at, vector, lanes)
    _bind(p, nest.body, nest.ins, at, vector, lanes)
    for op in nest.body.operations[:-1]:
        if op.name == "linalg.index":
            p.values[op.results[0]] = _index(p, nest, op.integer("dim"), at, vector, lanes)
        elif op.name == "memref.load":
            p.values[op.results[0]] = _gathered(p, op)
        else:
            p.run(op)
    return [p.value(v) for v in nest.yields]


def _bind(
    p: Program, body: mlir.Block, ins: Sequence[Operand], at: Position, vector: Axis | None, lanes: int
) -> None:  # fmt: skip
    for argument, operand in zip(body.arguments, ins):
        if not _is_used(argument, body):
            continue
        if isinstance(operand, Melted):
            _bind(p, operand.body, operand.ins, at, vector, lanes)
            p.run_block(operand.body)
            p.values[argument] = p.value(operand.body.operations[-1].operands[0])
        else:
            p.values[argument] = operand if isinstance(operand, Val) else _read(p, operand, at, vector, lanes)


def _is_used(argument: mlir.Value, body: mlir.Block) -> bool:
    return any(argument in inner.operands for op in body.operations for inner in mlir.walk(op))


def _exact_products(nest: Nest) -> set[mlir.Operation]:
    """Products of two float16 in float32 and what adds them: rounding once or twice gives the same."""
    found = set[mlir.Operation]()
    for op in nest.body.operations:
        factors = [v.owner for v in op.operands]
        halves = all(
            isinstance(f, mlir.Operation) and f.name == "arith.extf" and str(f.operands[0].type) == "f16"
            for f in factors
        )
        if op.name == "arith.mulf" and str(op.results[0].type) == "f32" and halves:
            users = [user for user in nest.body.operations if op.results[0] in user.operands]
            if all(user.name == "arith.addf" for user in users):
                found |= {op, *users}
    return found


def _index(p: Program, nest: Nest, number: int, at: Position, vector: Axis | None, lanes: int) -> Val:
    axis = next((a for a in nest.axes if number in a.numbers), None)
    if axis is None:
        return p.em.integer(0)
    first = Val("i64", 1, str(at.get(axis, 0)))
    if axis is not vector or lanes == 1:
        return first
    steps = p.em.const_vector("i64", range(lanes))
    return p.em.op("i64", lanes, f"add {p.em.typed(p.em.splat(first, lanes))}, {p.em.text(steps)}")


def _gathered(p: Program, op: mlir.Operation) -> Val:
    source = p.buffer(op.operands[0])
    at = [p.value(v) for v in op.operands[1:]]
    lanes = max((v.lanes for v in at), default=1)
    parts = []
    for lane in range(lanes):
        places: list[Size] = [p.em.text(p.em.extract(v, lane)) for v in at]
        parts.append(buffers.load(p, source, buffers.offset_of(p, source, places)))
    return p.em.concat(parts)
