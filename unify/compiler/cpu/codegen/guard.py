"""UNIFY_CHECK_BOUNDS: whether each access stays within the memory that its pointer's argument belongs to.

A pointer that was read from memory, or made of a number, is not checked: nobody knows what it may reach.
"""

from __future__ import annotations

from unify.compiler import mlir
from unify.compiler.cpu.codegen.convert import cast
from unify.compiler.cpu.codegen.emitter import BYTES, Val
from unify.compiler.cpu.codegen.fault import report
from unify.compiler.cpu.codegen.values import Kernel, element_of
from unify.compiler.effects import UNKNOWN


def guard(k: Kernel, op: mlir.Operation, pointers: Val, mask: Val | None) -> None:
    """Ends the program, with a report, if a lane of `op` that is switched on would leave its argument's memory."""
    origins = sorted(k.origins[op.operands[0]]) if k.origins is not None else []
    if not origins or UNKNOWN in origins:
        return
    em, lanes = k.em, pointers.lanes
    size = _size(op)
    addresses = cast(k, "ptrtoint", pointers, "i64")
    outside = None
    for number in origins:
        begin, places = _memory(k, number, size)
        offset = em.op("i64", lanes, f"sub {em.typed(addresses)}, {em.text(em.splat(begin, lanes))}")
        beyond = em.op("i1", lanes, f"icmp uge {em.typed(offset)}, {em.text(em.splat(places, lanes))}")
        outside = beyond if outside is None else em.op("i1", lanes, f"and {em.typed(outside)}, {em.text(beyond)}")
    assert outside is not None
    if mask is not None:
        outside = em.op("i1", lanes, f"and {em.typed(outside)}, {em.text(mask)}")
    bits = outside if lanes == 1 else em.op(f"i{lanes}", 1, f"bitcast {em.typed(outside)} to i{lanes}")
    any_ = em.assign(f"icmp ne {em.typed(bits)}, {'false' if lanes == 1 else 0}")
    good, bad = em.label("inside"), em.label("outside")
    em.line(f"br i1 {any_}, label %{bad}, label %{good}")
    em.start(bad)
    _report(k, op, addresses, bits, origins, size)
    em.line("ret i32 1")
    em.start(good)


def _size(op: mlir.Operation) -> int:
    pointer = op.operands[0].type
    element = pointer.element if isinstance(pointer, mlir.Tensor) else pointer
    assert isinstance(element, mlir.Pointer)
    return BYTES[element_of(element.pointee)]


def _memory(k: Kernel, number: int, size: int) -> tuple[Val, Val]:
    """Where the argument's memory begins, and at how many bytes from there an access of `size` bytes may start."""
    em = k.em
    begin = Val("i64", 1, f"%low{number}")
    em.declare("@llvm.usub.sat.i64", "declare i64 @llvm.usub.sat.i64(i64, i64)")
    extent = em.assign(f"sub i64 %high{number}, %low{number}")
    return begin, em.op("i64", 1, f"call i64 @llvm.usub.sat.i64(i64 {extent}, i64 {size - 1})")


def _report(k: Kernel, op: mlir.Operation, addresses: Val, bits: Val, origins: list[int], size: int) -> None:
    em = k.em
    address = em.text(addresses)
    if addresses.lanes > 1:
        width, first = bits.element, f"@llvm.cttz.{bits.element}"
        em.declare(first, f"declare {width} {first}({width}, i1)")
        lane = em.assign(f"call {width} {first}({em.typed(bits)}, i1 true)")
        address = em.assign(f"extractelement {em.typed(addresses)}, {width} {lane}")
    names = {number: argument.name.lstrip("%") for argument, number in k.arguments.items()}
    start = em.assign(f"ptrtoint ptr %arg{origins[0]} to i64")
    offset = em.assign(f"sub i64 {address}, {start}")
    what = "a store" if op.name == "tt.store" else "a load" if op.name == "tt.load" else "an atomic access"
    through = " or ".join(f"'{names[number]}'" for number in origins)
    report(k, op, kind=2, argument=origins[0], offset=offset, message=f"{what} of {size} bytes through {through}")
