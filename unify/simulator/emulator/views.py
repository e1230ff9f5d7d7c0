"""Views of buffers: no code, only other places, shapes and strides."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from unify.compiler import mlir
from unify.compiler.cpu.codegen.arith import literal
from unify.compiler.cpu.codegen.emitter import STORED, Val
from unify.compiler.cpu.codegen.values import Unsupported, element_of, row_major

from . import buffers
from .buffers import Buffer, Size, buffer_type, multiply, offset_of
from .program import Program, statement


def _mixed(p: Program, op: mlir.Operation, static: str, dynamic: Sequence[mlir.Value]) -> list[Size]:
    """What an operation is given partly as numbers, partly as operands."""
    rest = iter(dynamic)
    return [p.size(next(rest)) if n == mlir.DYNAMIC else n for n in op.integers(static) or ()]


@statement("memref.alloc", "memref.alloca")
def allocate(p: Program, op: mlir.Operation) -> None:
    type_ = buffer_type(op.results[0])
    assert type_ is not None
    p.values[op.results[0]] = buffers.whole(p.place(op), type_)


# A barrier is for the parts of a core, which are one here.
@statement("memref.dealloc", "annotation.mark", "memref.assume_alignment", "memref.global", "gpu.barrier")
def ignored(p: Program, op: mlir.Operation) -> None:
    pass


@statement("memref.reinterpret_cast")
def reinterpret(p: Program, op: mlir.Operation) -> None:
    source = p.buffer(op.operands[0])
    _, offsets, sizes, strides = buffers.segments(op)
    (offset,) = _mixed(p, op, "static_offsets", offsets)
    shape, steps = _mixed(p, op, "static_sizes", sizes), _mixed(p, op, "static_strides", strides)
    # The new offset counts from where the source's memory begins, not from its own offset.
    p.values[op.results[0]] = replace(source, shape=tuple(shape), strides=tuple(steps), offset=offset)


@statement("memref.subview")
def subview(p: Program, op: mlir.Operation) -> None:
    """A part of a buffer, every n-th element along each axis; axes of one element may be left out of the result."""
    source = p.buffer(op.operands[0])
    _, offsets, sizes, strides = buffers.segments(op)
    offset = offset_of(p, source, _mixed(p, op, "static_offsets", offsets))
    shape = _mixed(p, op, "static_sizes", sizes)
    steps = [multiply(p, s, o) for s, o in zip(source.strides, _mixed(p, op, "static_strides", strides))]
    type_ = buffer_type(op.results[0])
    assert type_ is not None
    kept = _kept_axes(shape, steps, type_)
    p.values[op.results[0]] = replace(
        source, shape=tuple(shape[a] for a in kept), strides=tuple(steps[a] for a in kept), offset=offset
    )


def _kept_axes(shape: Sequence[Size], strides: Sequence[Size], type_: mlir.Buffer) -> list[int]:
    """Which axes the result's type has: those dropped have extent 1, and the strides tell which of these."""
    rank, kept = len(type_.shape), list[int]()
    layout = type_.strides or row_major(type_.shape)
    for axis, (extent, stride) in enumerate(zip(shape, strides)):
        wanted, left = len(kept), len(shape) - axis
        may_drop = extent == 1 and left > rank - wanted
        fits = wanted < rank and type_.shape[wanted] == (extent if isinstance(extent, int) else mlir.DYNAMIC)
        fits = fits and (layout[wanted] == mlir.DYNAMIC or not isinstance(stride, int) or layout[wanted] == stride)
        if fits or not may_drop:
            kept.append(axis)
    if len(kept) != rank:
        raise Unsupported("a view that drops axes in an unknown way")
    return kept


def _groups(op: mlir.Operation) -> list[list[int]]:
    """`reassociation`: [[0, 1], [2]]."""
    found = op.attributes.get("reassociation")
    assert isinstance(found, list)
    return [[int(n.value) for n in group if isinstance(n, mlir.Typed)] for group in found if isinstance(group, list)]


@statement("memref.expand_shape")
def expand(p: Program, op: mlir.Operation) -> None:
    source, type_ = p.buffer(op.operands[0]), buffer_type(op.results[0])
    assert type_ is not None
    shape: list[Size] = []
    strides: list[Size] = []
    for axis, group in enumerate(_groups(op)):
        unknown = [a for a in group if type_.shape[a] == mlir.DYNAMIC]
        if len(unknown) > 1 or (unknown and any(type_.shape[a] not in (1, mlir.DYNAMIC) for a in group)):
            raise Unsupported("an axis split into parts of unknown size")
        step = source.strides[axis]
        parts: list[Size] = []
        for a in reversed(group):
            extent = source.shape[axis] if a in unknown else type_.shape[a]
            shape.insert(len(shape) - len(parts), extent)
            parts.insert(0, step)
            step = multiply(p, step, extent)
        strides += parts
    p.values[op.results[0]] = replace(source, shape=tuple(shape), strides=tuple(strides))


@statement("memref.collapse_shape")
def collapse(p: Program, op: mlir.Operation) -> None:
    source = p.buffer(op.operands[0])
    shape: list[Size] = []
    strides: list[Size] = []
    for group in _groups(op):
        total: Size = 1
        for a in group:
            total = multiply(p, total, source.shape[a])
        large = [a for a in group if source.shape[a] != 1]
        shape.append(total)
        strides.append(source.strides[large[-1] if large else group[-1]])
    p.values[op.results[0]] = replace(source, shape=tuple(shape), strides=tuple(strides))


@statement("memref.reshape")
def reshape(p: Program, op: mlir.Operation) -> None:
    source, type_ = p.buffer(op.operands[0]), buffer_type(op.results[0])
    assert type_ is not None
    if mlir.DYNAMIC in type_.shape:
        raise Unsupported("a reshape to an unknown shape")
    # Only row-major buffers are reshaped (MLIR, memref.reshape).
    p.values[op.results[0]] = replace(source, shape=type_.shape, strides=row_major(type_.shape))


@statement("memref.transpose")
def transpose(p: Program, op: mlir.Operation) -> None:
    source = p.buffer(op.operands[0])
    _, results = buffers.affine_map(p.alias(op.attributes["permutation"]))
    order = [next(iter(r.terms)) for r in results]
    p.values[op.results[0]] = replace(
        source, shape=tuple(source.shape[a] for a in order), strides=tuple(source.strides[a] for a in order)
    )


@statement(
    "memref.cast", "memref.memory_space_cast", "bufferization.to_tensor", "bufferization.to_memref",
    "builtin.unrealized_conversion_cast",
)  # fmt: skip
def same(p: Program, op: mlir.Operation) -> None:
    p.values[op.results[0]] = p.buffer(op.operands[0])


@statement("memref.dim")
def extent(p: Program, op: mlir.Operation) -> None:
    axis = p.size(op.operands[1])
    if not isinstance(axis, int):
        raise Unsupported("the extent of an unknown axis")
    p.values[op.results[0]] = Val("i64", 1, str(p.buffer(op.operands[0]).shape[axis]))


@statement("hivm.hir.pointer_cast")
def pointer(p: Program, op: mlir.Operation) -> None:
    """A number as the address of a buffer."""
    type_ = buffer_type(op.results[0])
    assert type_ is not None
    addresses, sizes = buffers.segments(op) if "operandSegmentSizes" in op.attributes else (op.operands[:1], [])
    if len(addresses) != 1:
        raise Unsupported("a buffer at several addresses")
    base = p.em.assign(f"inttoptr {p.em.typed(p.value(addresses[0]))} to ptr")
    rest = iter(sizes)
    shape = tuple(p.size(next(rest)) if n == mlir.DYNAMIC else n for n in type_.shape)
    strides: list[Size] = []
    for n in reversed(shape[1:]):
        strides.insert(0, multiply(p, strides[0] if strides else 1, n))
    p.values[op.results[0]] = Buffer(base, element_of(type_.element), shape, (*strides, 1) if shape else ())


# ---------------------------------------------------------------- single elements


@statement("memref.load")
def load(p: Program, op: mlir.Operation) -> None:
    source = p.buffer(op.operands[0])
    p.values[op.results[0]] = buffers.load(p, source, offset_of(p, source, [p.size(v) for v in op.operands[1:]]))


@statement("memref.store")
def store(p: Program, op: mlir.Operation) -> None:
    value, target, *at = op.operands
    buffer = p.buffer(target)
    buffers.store(p, p.value(value), buffer, offset_of(p, buffer, [p.size(v) for v in at]))


# ---------------------------------------------------------------- constants


@statement("memref.get_global")
def constant(p: Program, op: mlir.Operation) -> None:
    name, type_ = op.string("name").lstrip("@"), buffer_type(op.results[0])
    assert type_ is not None
    value = p.globals[name].attributes.get("initial_value")
    if not isinstance(value, mlir.Dense):
        raise Unsupported("a buffer of the module without a value")
    buffer = replace(buffers.whole("", type_), is_ours=False)
    count = 1
    for n in type_.shape:
        count *= n
    values = value.values * count if value.is_splat else value.values
    stored = STORED.get(buffer.element, buffer.element)
    body = ", ".join(f"{stored} {_stored(v, buffer.element)}" for v in values)
    p.values[op.results[0]] = replace(buffer, base=p.em.constant_array(f"[{count} x {stored}]", f"[{body}]"))


def _stored(value: float | bool, element: str) -> str:
    text = literal(value, element)
    return str(int(text[3:], 16)) if element in ("half", "bfloat") else text
