"""linalg.generic as loops: vectors along a parallel axis, sums in registers, each sum in the order of the text."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

from unify.compiler import mlir
from unify.compiler.cpu.codegen.emitter import Val
from unify.compiler.cpu.codegen.values import ELEMENTWISE, Unsupported

from . import buffers
from .buffers import Buffer, Size
from .program import Program, statement

# Sums that one pass over the reduced axes computes at a time: rows times vectors, the first count that divides them.
_ROWS = 4
_VECTORS = {16: (3, 2), 32: (4, 3, 2)}  # by the number of registers
# An axis this short is written out.
_UNROLLED = 8


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


@statement("linalg.generic")
def generic(p: Program, op: mlir.Operation) -> None:
    """Writes one linalg.generic on buffers."""
    if op in p.memory.melted.readers:
        return
    nest = _nest_of(p, op)
    if nest is None:
        return
    _merge_axes(nest)
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
    _merge_axes(nest)
    with p.em.nest():
        _write(p, nest)


# ---------------------------------------------------------------- reading the operation


def _nest_of(p: Program, op: mlir.Operation) -> Nest | None:
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
    inner = _nest_of(p, writer)
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


def _merge_axes(nest: Nest) -> None:
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


# ---------------------------------------------------------------- choosing the loops


def _write(p: Program, nest: Nest) -> None:
    reduced = [a for a in nest.axes if not a.is_parallel]
    parallel = [a for a in nest.axes if a.is_parallel]
    can_vectorise = all(op.name in ELEMENTWISE or op.name in _LANEWISE for op in nest.body.operations[:-1])
    # Two positions may be one place of the caller's memory: what changes it goes through them in the order of the text.
    can_vectorise = can_vectorise and not any(_changes(nest, a) for a in nest.outs)
    if any(access.stride(axis) != 0 for access in nest.outs for axis in reduced):
        raise Unsupported("a reduction into places that move with the reduced axes")
    vector = _vector_axis(nest, parallel) if can_vectorise else None
    rest = [a for a in parallel if a is not vector]
    if not reduced:
        with _outer(p, rest) as at:
            _along(
                p, vector, p.lanes, 2, lambda index, lanes, count: _elements(p, nest, at, vector, index, lanes, count)
            )
        return
    combining = _combining(p, nest) if can_vectorise and vector is None else None
    rows = _row_axis(nest, rest) if vector is not None else None
    with _outer(p, [a for a in rest if a is not rows]) as at:
        if combining is not None and _is_worth_lanes(p, reduced[-1]):
            _reduce_in_lanes(p, nest, at, reduced, combining)
            return
        for first, count in _split(rows.extent if rows is not None else 1, _ROWS if vector is not None else 1):
            _rows(p, nest, at, rows, first, count, vector, reduced)


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


def _split(extent: Size, block: int) -> Iterator[tuple[tuple[int, int], int]]:
    """Ranges [start, stop) and how many to take at a time there."""
    assert isinstance(extent, int)
    whole = extent // block * block
    if whole:
        yield (0, whole), block
    if whole < extent:
        yield (whole, extent), 1 if block > 1 and extent - whole > 2 else extent - whole


# ---------------------------------------------------------------- loops


@contextmanager
def _outer(p: Program, axes: Sequence[Axis]) -> Iterator[Position]:
    """A loop for each axis; short ones at the end too, so that code stays small."""
    at: Position = {}
    if not axes:
        yield at
        return
    axis = axes[0]
    with p.loop(axis.extent) as counter, _outer(p, axes[1:]) as inner:
        yield {axis: counter, **inner}


def _along(
    p: Program, axis: Axis | None, lanes: int, unroll: int, write: Callable[[Size, int, int], None]
) -> None:  # fmt: skip
    """Calls write(index, lanes, count) for pieces of the axis: `count` registers of `lanes` elements, then the rest."""
    if axis is None:
        write(0, 1, 1)
        return
    extent = axis.extent
    if isinstance(extent, int):
        start = 0
        for width, count in ((lanes, unroll), (lanes, 1), *((lanes >> i, 1) for i in range(1, lanes.bit_length()))):
            step = width * count
            rounds = (extent - start) // step
            if rounds == 0:
                continue
            _steps(p, start, rounds, step, lambda at, w=width, c=count: write(at, w, c))  # type: ignore[misc]
            start += rounds * step
        return
    whole = p.em.assign(f"and i64 {extent}, {-lanes}")
    with p.loop(whole, lanes) as counter:
        write(counter, lanes, 1)
    with p.loop(extent, 1, start=whole) as counter:
        write(counter, 1, 1)


def _steps(p: Program, start: int, rounds: int, step: int, write: Callable[[Size], None]) -> None:
    if rounds == 1:
        write(start)
        return
    with p.loop(rounds * step, step) as counter:
        write(buffers.add(p, counter, start))


# ---------------------------------------------------------------- elements


_LANEWISE = frozenset(["linalg.index", "memref.load"])


def _elements(
    p: Program, nest: Nest, at: Position, vector: Axis | None, index: Size, lanes: int, count: int
) -> None:  # fmt: skip
    """Positions without a reduction: read, compute, write."""
    for i in range(count):
        here = dict(at)
        if vector is not None:
            here[vector] = buffers.add(p, index, i * lanes)
        olds = [None] * len(nest.outs)
        results = _body(p, nest, here, vector, lanes, olds)
        for access, value in zip(nest.outs, results, strict=True):
            buffers.store(p, p.em.splat(value, lanes), access.buffer, _place(p, access, here), access.stride(vector))


def _place(p: Program, access: Access, at: Position) -> Size:
    total = access.start
    for axis, index in at.items():
        total = buffers.add(p, total, buffers.multiply(p, index, access.stride(axis)))
    return total


def _read(p: Program, access: Access, at: Position, vector: Axis | None, lanes: int) -> Val:
    """The operand's elements here; one element if it does not move along the vector."""
    stride = access.stride(vector)
    place = _place(p, access, at)
    count = 1 if stride == 0 else lanes
    key = ("element", access, place, count)
    found = p.em.find(key)
    if found is None:
        with p.em.at_depth(p.writer.depth_of_names(place)):
            found = buffers.load(p, access.buffer, place, count, stride)
            p.em.remember(key, found)
    return found  # type: ignore[return-value]


def _body(
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


# ---------------------------------------------------------------- reductions


def _rows(
    p: Program, nest: Nest, at: Position, rows: Axis | None, span: tuple[int, int], count: int, vector: Axis | None,
    reduced: Sequence[Axis],
) -> None:  # fmt: skip
    def several(first: Size) -> None:
        def along(index: Size, lanes: int, vectors: int) -> None:
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

        _along(p, vector, p.lanes, _vectors(p, vector), along)

    _steps(p, span[0], (span[1] - span[0]) // count, count, several)


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
            found += (p.em.splat(v, lanes) for v in _body(p, nest, {**at, **inner}, vector, lanes, olds))
        return found

    totals = iter(_over(p, reduced, starts, step))
    for at in places:
        for access in nest.outs:
            value = p.em.splat(next(totals), lanes)
            buffers.store(p, value, access.buffer, _place(p, access, at), access.stride(vector))


def _read_old(p: Program, access: Access, at: Position, vector: Axis | None, lanes: int) -> Val:
    return p.em.splat(buffers.load(p, access.buffer, _place(p, access, at), lanes, access.stride(vector)), lanes)


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
    place = _place(p, access, at)
    old = buffers.load(p, access.buffer, place)
    idempotent = combining.name in _IDEMPOTENT
    neutral = old if idempotent else p.literal(_IDENTITY[combining.name], old.element)
    lanes = p.lanes

    def through(count: int, start: Val, span: Size, first: Size) -> Val:
        def step(inner: Position, sums: Sequence[Val]) -> list[Val]:
            here = {**at, **inner, last: buffers.add(p, inner[last], first)}
            return [em.splat(v, count) for v in _body(p, nest, here, last, count, sums)]

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
    for operand, value in zip(op.operands, (a, b)):
        p.values[operand] = value
    p.run(op)
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
