"""Functions that the vendor's compiler leaves to its library: scans, gathers, printing and assertions."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from unify.compiler import mlir
from unify.compiler.cpu.codegen.convert import cast
from unify.compiler.cpu.codegen.debug import end_unless, format_of, literal, printf
from unify.compiler.cpu.codegen.emitter import FLOATS, Val
from unify.compiler.cpu.codegen.values import ELEMENTWISE, Unsupported

from . import buffers
from .buffers import Buffer, Size
from .program import Program, statement

_NUMBERED = re.compile(r"_\d+$")
_SCANS = {"triton_cumsum": ("addf", "addi"), "triton_cumprod": ("mulf", "muli")}


@statement("func.call")
def call(p: Program, op: mlir.Operation) -> None:
    name = op.string("callee").lstrip("@")
    kind = _NUMBERED.sub("", name)
    if kind in _SCANS:
        _scan(p, op, _SCANS[kind])
    elif kind == "triton_gather":
        _gather(p, op)
    elif kind == "triton_print":
        _print(p, op, p.functions[name])
    elif kind == "triton_assert":
        _assert(p, op, p.functions[name].string("msg"))
    else:
        raise Unsupported(f"the library function {name}")


def _result(p: Program, op: mlir.Operation) -> Buffer:
    type_ = buffers.buffer_type(op.results[0])
    assert type_ is not None
    made = buffers.whole(p.place(op), type_)
    p.values[op.results[0]] = made
    return made


def _number(value: mlir.Value) -> int:
    """A constant argument."""
    owner = value.owner
    if not isinstance(owner, mlir.Operation) or owner.name != "arith.constant":
        raise Unsupported("an axis or direction that is no constant")
    return owner.integer("value")


def _scan(p: Program, op: mlir.Operation, names: tuple[str, str]) -> None:
    """Sums or products of all elements up to each one along an axis, in their order."""
    source, axis, reverse = p.buffer(op.operands[0]), _number(op.operands[1]), bool(_number(op.operands[2]))
    target = _result(p, op)
    is_float = source.element in FLOATS
    join = ELEMENTWISE["arith." + names[0 if is_float else 1]]
    extent = source.shape[axis]
    assert isinstance(extent, int)

    def along(at: list[Size]) -> None:
        def place(buffer: Buffer, index: Size) -> Size:
            whole = [*at[:axis], index, *at[axis:]]
            return buffers.offset_of(p, buffer, whole)

        first = buffers.load(p, source, place(source, extent - 1 if reverse else 0))
        buffers.store(p, first, target, place(target, extent - 1 if reverse else 0))
        if extent == 1:
            return
        with p.carrying(extent - 1, [first]) as body:
            index = body.counter
            index = p.em.assign(f"sub i64 {extent - 2}, {index}" if reverse else f"add i64 {index}, 1")
            total = join(p, op, [body.carried[0], buffers.load(p, source, place(source, index))])
            buffers.store(p, total, target, place(target, index))
            body.next = [total]

    with p.em.nest():
        _each(p, [n for i, n in enumerate(source.shape) if i != axis], [], along)


def _each(p: Program, shape: Sequence[Size], at: list[Size], body: Callable[[list[Size]], None]) -> None:
    """Calls body with the position, inside a loop for each axis."""
    if not shape:
        body(at)
        return
    with p.loop(shape[0]) as counter:
        _each(p, shape[1:], [*at, counter], body)


def _gather(p: Program, op: mlir.Operation) -> None:
    """result[i, …] = source with the position along an axis replaced by indices[i, …]."""
    source, indices, axis = p.buffer(op.operands[0]), p.buffer(op.operands[1]), _number(op.operands[2])
    target = _result(p, op)

    def one(at: list[Size]) -> None:
        index = buffers.load(p, indices, buffers.offset_of(p, indices, at))
        wide = p.em.text(cast(p, "sext", index, "i64"))
        where: list[Size] = [*at[:axis], wide, *at[axis + 1 :]]
        value = buffers.load(p, source, buffers.offset_of(p, source, where))
        buffers.store(p, value, target, buffers.offset_of(p, target, at))

    with p.em.nest():
        _each(p, list(indices.shape), [], one)


def _assert(p: Program, op: mlir.Operation, message: str) -> None:
    """Ends the program where one of the conditions does not hold."""
    (operand,) = op.operands
    bound = p.values[operand]
    end_unless(p, op, bound if isinstance(bound, Val) else _all(p, bound), message)


def _all(p: Program, buffer: Buffer) -> Val:
    em, slot = p.em, p.em.name("holds")
    em.allocas.append(f"  {slot} = alloca i1")
    em.line(f"store i1 true, ptr {slot}")

    def one(at: list[Size]) -> None:
        value = buffers.load(p, buffer, buffers.offset_of(p, buffer, at))
        before = em.assign(f"load i1, ptr {slot}")
        em.line(f"store i1 {em.assign(f'and i1 {before}, {em.text(value)}')}, ptr {slot}")

    with em.nest():
        _each(p, list(buffer.shape), [], one)
    return Val("i1", 1, em.assign(f"load i1, ptr {slot}"))


def _print(p: Program, op: mlir.Operation, declaration: mlir.Operation) -> None:
    """Lines as on Triton's other targets: pid (x, y, z) idx (i, …) prefix (operand n) value. Integers count as signed:
    the vendor's compiler does not hand on which they are."""
    prefix, as_hex = literal(declaration.string("prefix")), declaration.boolean("hex")
    for i, operand in enumerate(op.operands):
        which = f"(operand {i}) " if len(op.operands) > 1 else ""
        bound = p.values[operand]
        shape = list(bound.shape) if isinstance(bound, Buffer) else []
        widths = [max(1, len(str(int(extent) - 1))) for extent in shape]

        def line(at: list[Size], bound: Buffer | Val = bound, widths: list[int] = widths, which: str = which) -> None:
            value = buffers.load(p, bound, buffers.offset_of(p, bound, at)) if isinstance(bound, Buffer) else bound
            format_, shown = format_of(p, value, as_hex, True)
            index = "idx (" + ", ".join(f"%{width}lld" for width in widths) + ")"
            places = [Val("i64", 1, str(n)) for n in at]
            printf(p, f"{index}{prefix}{which}{format_}\n", places, [shown])

        with p.em.nest():
            _each(p, shape, [], line)
    if not op.operands:
        printf(p, prefix + "\n", [], [])
