"""linalg.generic and memref.copy as loops: vectors along a parallel axis, chosen by how the operands lie."""

from __future__ import annotations

from collections.abc import Sequence

from unify.compiler import mlir
from unify.compiler.cpu.codegen.values import ELEMENTWISE, Unsupported

from . import buffers
from .buffers import Buffer, Size
from .elements import LANEWISE, body_values, place_of
from .nests import Access, Axis, Nest, Position, merge_axes, nest_of
from .program import Program, statement
from .reductions import reduce
from .walks import along, outer


@statement("linalg.generic")
def generic(p: Program, op: mlir.Operation) -> None:
    """Writes one linalg.generic on buffers."""
    if op in p.memory.melted.readers:
        return
    nest = nest_of(p, op)
    if nest is None:
        return
    merge_axes(nest)
    with p.em.nest():
        _write(p, nest)


@statement("memref.copy")
def copy_buffer(p: Program, op: mlir.Operation) -> None:
    """Writes memref.copy."""
    copy(p, p.buffer(op.operands[0]), p.buffer(op.operands[1]))


def copy(p: Program, source: Buffer, target: Buffer) -> None:
    """Writes a copy between buffers of one shape that share nothing."""
    if 0 in target.shape or source.is_same_place(target):
        return
    shape = [t if isinstance(t, int) else s for s, t in zip(source.shape, target.shape)]
    axes = [Axis(extent, True, [i]) for i, extent in enumerate(shape)]
    accesses = [Access(b, b.offset, dict(zip(axes, b.strides))) for b in (source, target)]
    value = mlir.Value("%copied", mlir.Scalar(source.element))
    block = mlir.Block(arguments=[value, mlir.Value("%old", value.type)])
    block.operations = [mlir.Operation("linalg.yield", [value])]
    nest = Nest(block.operations[0], axes, [accesses[0]], [accesses[1]], block)
    merge_axes(nest)
    with p.em.nest():
        _write(p, nest)


# ---------------------------------------------------------------- choosing the loops


def _write(p: Program, nest: Nest) -> None:
    reduced = [a for a in nest.axes if not a.is_parallel]
    parallel = [a for a in nest.axes if a.is_parallel]
    can_vectorise = all(op.name in ELEMENTWISE or op.name in LANEWISE for op in nest.body.operations[:-1])
    # Two positions may be one place of the caller's memory: what changes it goes through them in the order of the text.
    can_vectorise = can_vectorise and not any(_changes(nest, a) for a in nest.outs)
    if any(access.stride(axis) != 0 for access in nest.outs for axis in reduced):
        raise Unsupported("a reduction into places that move with the reduced axes")
    vector = _vector_axis(nest, parallel) if can_vectorise else None
    rest = [a for a in parallel if a is not vector]
    if not reduced:
        with outer(p, rest) as at:
            along(
                p, vector, p.lanes, 2, lambda index, lanes, count: _elements(p, nest, at, vector, index, lanes, count)
            )
        return
    rows = _row_axis(nest, rest) if vector is not None else None
    with outer(p, [a for a in rest if a is not rows]) as at:
        reduce(p, nest, at, rows, vector, reduced, can_vectorise)


def _changes(nest: Nest, access: Access) -> bool:
    """Whether the caller's memory is read and written."""
    return not access.buffer.is_ours and any(
        isinstance(a, Access) and a.buffer.base == access.buffer.base for a in nest.ins
    )


def _vector_axis(nest: Nest, parallel: Sequence[Axis]) -> Axis | None:
    """The axis along which most operands have their elements side by side; results count twice."""

    def score(axis: Axis) -> tuple[int, int]:
        total = 0
        for access in nest.accesses:
            weight = 4 if access in nest.outs else 3
            stride = access.stride(axis)
            total += weight if stride == 1 else 0 if stride == 0 else -weight
        return total, nest.axes.index(axis)

    long = [a for a in parallel if not isinstance(a.extent, int) or a.extent >= 2]
    return max(long, key=score, default=None)


def _row_axis(nest: Nest, parallel: Sequence[Axis]) -> Axis | None:
    """An axis to compute several positions of at a time: some operand is the same for all of them."""
    for axis in reversed(parallel):
        shared = any(a.stride(axis) == 0 for a in nest.ins if isinstance(a, Access))
        if shared and isinstance(axis.extent, int):
            return axis
    return None


def _elements(
    p: Program, nest: Nest, at: Position, vector: Axis | None, index: Size, lanes: int, count: int
) -> None:  # fmt: skip
    """Positions without a reduction: read, compute, write."""
    for i in range(count):
        here = dict(at)
        if vector is not None:
            here[vector] = buffers.add(p, index, i * lanes)
        olds = [None] * len(nest.outs)
        results = body_values(p, nest, here, vector, lanes, olds)
        for access, value in zip(nest.outs, results, strict=True):
            buffers.store(p, p.em.splat(value, lanes), access.buffer, place_of(p, access, here), access.stride(vector))
