"""tt.assert: a failed assertion ends the program and says where. tt.print: a line an element, on standard output."""

from __future__ import annotations

from unify.compiler import mlir
from unify.compiler.cpu.codegen import nest
from unify.compiler.cpu.codegen.convert import cast, widened
from unify.compiler.cpu.codegen.emitter import BYTES, FLOATS, Index, Val
from unify.compiler.cpu.codegen.fault import report, string
from unify.compiler.cpu.codegen.values import Kernel, is_tensor, shape_of, statement


@statement("tt.assert")
def assert_(k: Kernel, op: mlir.Operation) -> None:
    em, condition = k.em, op.operands[0]
    nest.flush_all(k)
    if k.plan.bounds.is_always_true(condition):
        return
    with em.nest():
        if not is_tensor(condition):
            holds = k.scalar(condition)
        else:
            slot = em.name("holds")
            em.allocas.append(f"  {slot} = alloca i1")
            em.line(f"store i1 true, ptr {slot}")
            shape = shape_of(condition)

            def body(at: list[Index]) -> None:
                value = k.block(condition, tuple(at), (1,) * len(shape))
                before = em.assign(f"load i1, ptr {slot}")
                em.line(f"store i1 {em.assign(f'and i1 {before}, {em.text(value)}')}, ptr {slot}")

            nest.for_each(k, [(extent, 1) for extent in shape], body, unrolled=1)
            holds = Val("i1", 1, em.assign(f"load i1, ptr {slot}"))
    end_unless(k, op, holds, op.string("message"))


def end_unless(k: Kernel, op: mlir.Operation, holds: Val, message: str) -> None:
    """Ends the program with the assertion's message where a lane of `holds` is false."""
    em = k.em
    if holds.lanes > 1:
        bits = f"i{holds.lanes}"
        holds = Val("i1", 1, em.assign(f"icmp eq {bits} {em.assign(f'bitcast {em.typed(holds)} to {bits}')}, -1"))
    good, bad = em.label("holds"), em.label("fails")
    em.line(f"br i1 {em.text(holds)}, label %{good}, label %{bad}")
    em.start(bad)
    report(k, op, kind=1, message=message)
    em.line("ret i32 1")
    em.start(good)


# ---------------------------------------------------------------- printing


@statement("tt.print")
def print_(k: Kernel, op: mlir.Operation) -> None:
    """Lines as on Triton's other targets: pid (x, y, z) idx (i, …) prefix (operand n) value."""
    nest.settle(k, op.operands)
    nest.flush_all(k)
    signed = op.integers("isSigned") or ()
    for i, value in enumerate(op.operands):
        which = f"(operand {i}) " if len(op.operands) > 1 else ""
        _print_operand(k, op, value, which, not signed or bool(signed[i]))
    if not op.operands:
        printf(k, literal(op.string("prefix")) + "\n", [], [])


def _print_operand(k: Kernel, op: mlir.Operation, value: mlir.Value, which: str, signed: bool) -> None:
    shape = shape_of(value)
    widths = [max(1, len(str(extent - 1))) for extent in shape]
    label = literal(op.string("prefix")) + which

    def body(at: list[Index]) -> None:
        places = [k.number(index) for index in at]
        scalar = k.block(value, tuple(at), (1,) * len(shape))
        format_, shown = format_of(k, scalar, op.boolean("hex"), signed)
        idx = "idx (" + ", ".join(f"%{width}lld" for width in widths) + ")" if shape else "idx ()"
        printf(k, f"{idx}{label}{format_}\n", places, [shown])

    with k.em.nest():
        nest.for_each(k, [(extent, 1) for extent in shape], body, unrolled=1)


def literal(text: str) -> str:
    """The user's text in a format of printf."""
    return text.replace("%", "%%")


def format_of(k: Kernel, value: Val, as_hex: bool, signed: bool) -> tuple[str, Val]:
    """How printf shows a scalar, and what to give it."""
    if value.element == "ptr":
        return "%p", value
    if value.element in FLOATS:
        return "%a" if as_hex else "%f", cast(k, "fpext", widened(k, value), "double")
    if as_hex:
        size = BYTES[value.element]
        return f"0x%0{2 * size}llx", cast(k, "zext", value, "i64")
    wide = cast(k, "sext" if signed and value.element != "i1" else "zext", value, "i64")
    return ("%lld" if signed else "%llu"), wide


def printf(k: Kernel, text: str, places: list[Val], values: list[Val]) -> None:
    """Writes a line that begins with the program's place in the grid."""
    k.em.declare("@printf", "declare i32 @printf(ptr, ...)")
    format_ = string(k, "pid (%d, %d, %d) " + text)
    arguments = ["i32 %pid0", "i32 %pid1", "i32 %pid2", *(k.em.typed(v) for v in [*places, *values])]
    k.em.line(f"call i32 (ptr, ...) @printf(ptr {format_}, {', '.join(arguments)})")
