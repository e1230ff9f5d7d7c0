"""A linalg.generic as its loops and operands, with what is melted into it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

from unify.compiler import mlir
from unify.compiler.cpu.codegen.emitter import Val
from unify.compiler.cpu.codegen.values import Unsupported

from . import buffers
from .buffers import Buffer, Size
from .program import Program


@dataclass(eq=False)
class Axis:
    extent: Size
    is_parallel: bool
    numbers: list[int]  # of the loops that it stands for, the slowest first


@dataclass(eq=False)
class Access:
    """An operand of linalg.generic: its element for a position of the loops."""

    buffer: Buffer
    start: Size
    strides: dict[Axis, Size]

    def stride(self, axis: Axis | None) -> Size:
        return self.strides.get(axis, 0) if axis is not None else 0


@dataclass(eq=False)
class Melted:
    """An operand that is computed where it is read (melting.py)."""

    body: mlir.Block
    ins: list[Operand]

    @property
    def accesses(self) -> list[Access]:
        return _accesses(self.ins)


Operand = Access | Val | Melted


def _accesses(operands: Sequence[Operand]) -> list[Access]:
    found: list[Access] = []
    for operand in operands:
        found += operand.accesses if isinstance(operand, Melted) else [operand] if isinstance(operand, Access) else []
    return found


@dataclass(eq=False)
class Nest:
    """One linalg.generic while it is written."""

    op: mlir.Operation
    axes: list[Axis]
    ins: list[Operand]
    outs: list[Access]
    body: mlir.Block
    indexed: set[int] = field(default_factory=set)  # loops whose counter the body reads

    @property
    def yields(self) -> list[mlir.Value]:
        return self.body.operations[-1].operands

    @property
    def accesses(self) -> list[Access]:
        return _accesses(self.ins) + self.outs


Position = dict[Axis, Size]


# ---------------------------------------------------------------- reading the operation


def nest_of(p: Program, op: mlir.Operation) -> Nest | None:
    kinds, maps = op.attributes.get("iterator_types"), op.attributes.get("indexing_maps")
    if not isinstance(kinds, list) or not isinstance(maps, list):
        raise Unsupported("a linalg.generic without maps")
    inputs, outputs = buffers.segments(op)
    extents: list[Size | None] = [None] * len(kinds)
    found: list[tuple[Buffer | Val, list[buffers.Linear]]] = []
    for operand, text in zip([*inputs, *outputs], maps, strict=True):
        bound, (_, results) = p.values[operand], buffers.affine_map(p.alias(text))
        found.append((bound, results))
        if isinstance(bound, Val):
            continue
        for axis, result in enumerate(results):
            if list(result.terms.values()) == [1] and result.constant == 0:
                (loop,) = result.terms
                known = extents[loop]
                extents[loop] = bound.shape[axis] if not isinstance(known, int) else known
    if None in extents:
        raise Unsupported("a loop whose length no operand tells")
    axes = [
        Axis(extent, "parallel" in (kind.text if isinstance(kind, mlir.Raw) else str(kind)), [i])
        for i, (extent, kind) in enumerate(zip(extents, kinds))
        if extent is not None
    ]
    if any(axis.extent == 0 for axis in axes):
        return None
    operands: list[Operand] = []
    for number, (bound, results) in enumerate(found):
        melted = p.memory.melted.inputs.get((op, number))
        if melted is not None and isinstance(bound, Buffer):
            operands.append(_melted(p, melted, bound, results, axes))
        else:
            operands.append(bound if isinstance(bound, Val) else _access(p, bound, results, axes))
    outs = [a for a in operands[len(inputs) :] if isinstance(a, Access)]
    body = op.regions[0].entry
    indexed = {o.integer("dim") for o in mlir.walk(op) if o.name == "linalg.index"}
    return Nest(op, axes, operands[: len(inputs)], outs, body, indexed)


def _melted(
    p: Program, writer: mlir.Operation, buffer: Buffer, results: Sequence[buffers.Linear], axes: Sequence[Axis]
) -> Melted:  # fmt: skip
    """What `writer` would have put into `buffer`, by the axes of its reader: those of more than one element agree."""
    inner = nest_of(p, writer)
    assert inner is not None
    ours = [axes[next(iter(r.terms))] for r, extent in zip(results, buffer.shape) if extent != 1]
    theirs = dict(zip([axis for axis in inner.axes if axis.extent != 1], ours, strict=True))
    for access in _accesses(inner.ins):
        access.strides = {theirs[axis]: stride for axis, stride in access.strides.items() if axis in theirs}
    return Melted(inner.body, inner.ins)


def _access(p: Program, buffer: Buffer, results: Sequence[buffers.Linear], axes: Sequence[Axis]) -> Access:
    start, strides = buffer.offset, dict[Axis, Size]()
    for result, stride in zip(results, buffer.strides, strict=True):
        start = buffers.add(p, start, buffers.multiply(p, stride, result.constant))
        for loop, factor in result.terms.items():
            more = buffers.multiply(p, stride, factor)
            strides[axes[loop]] = buffers.add(p, strides.get(axes[loop], 0), more)
    return Access(buffer, start, strides)


def merge_axes(nest: Nest) -> None:
    """Axes of extent 1 go; two become one where every operand walks through both with one stride."""
    axes = [a for a in nest.axes if a.extent != 1 or nest.indexed.intersection(a.numbers)]
    merged: list[Axis] = []
    for axis in axes:
        before = merged[-1] if merged else None
        if before is None or not _is_one_walk(nest, before, axis):
            merged.append(axis)
            continue
        assert isinstance(before.extent, int)
        assert isinstance(axis.extent, int)
        both = Axis(before.extent * axis.extent, axis.is_parallel, [*before.numbers, *axis.numbers])
        merged[-1] = both
        for access in nest.accesses:
            access.strides[both] = access.stride(axis)
    nest.axes = merged


def _is_one_walk(nest: Nest, outer: Axis, inner: Axis) -> bool:
    if outer.is_parallel != inner.is_parallel or not isinstance(outer.extent, int) or not isinstance(inner.extent, int):
        return False
    if nest.indexed.intersection([*outer.numbers, *inner.numbers]):
        return False
    for access in nest.accesses:
        step, far = access.stride(inner), access.stride(outer)
        if not isinstance(step, int) or far != step * inner.extent:
            return False
    return True
