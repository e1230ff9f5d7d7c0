"""Sums of four products of bytes: one vpdpbusd a register, accumulating in place."""

from __future__ import annotations

from unify.compiler import mlir
from unify.compiler.cpu.codegen.convert import cast
from unify.compiler.cpu.codegen.emitter import ZERO, Index, Val
from unify.compiler.cpu.codegen.values import Kernel, inline

Position = tuple[Index, ...]
Block = tuple[int, ...]


@inline("tt.reduce")
def byte_dot(k: Kernel, op: mlir.Operation, _: int, at: Position, block: Block) -> Val:
    lanes = 1
    for extent in block:
        lanes *= extent
    return accumulate(k, op, k.em.splat(Val("i32", 1, "0"), lanes), at, block)


@inline("arith.addi")
def add(k: Kernel, op: mlir.Operation, _: int, at: Position, block: Block) -> Val:
    """A sum whose one side is a byte dot (`Plan.accumulations`); all others are elementwise."""
    dot, other = k.plan.accumulations[op]
    return accumulate(k, dot, k.block(other, at, block), at, block)


def accumulate(k: Kernel, op: mlir.Operation, start: Val, at: Position, block: Block) -> Val:
    known = k.plan.byte_dots[op]
    a, b = (k.block(v, (*at, ZERO), (*block, 4)) for v in known.operands)
    a_unsigned, b_unsigned = (
        unsigned or k.plan.bounds.is_non_negative(v) for v, unsigned in zip(known.operands, known.unsigned)
    )
    # A side that is never negative is both signed and unsigned.
    a_signed, b_signed = (
        not unsigned or k.plan.bounds.is_non_negative(v) for v, unsigned in zip(known.operands, known.unsigned)
    )
    if start.lanes not in (4, 8, 16) or not (k.features.has("avx512vnni") or k.features.has("avxvnni")):
        return _plainly(k, start, a, b, known.unsigned)
    if start.lanes == 16 and not k.features.has("avx512vnni"):
        return _plainly(k, start, a, b, known.unsigned)
    if a_unsigned and b_signed:
        return _instruction(k, start, a, b)
    if b_unsigned and a_signed:
        return _instruction(k, start, b, a)
    zero = k.em.splat(Val("i32", 1, "0"), start.lanes)
    if a_signed:  # both signed: (a + 128) · b - 128 · b
        flip = _bytes(k, a.lanes, -128)
        moved = k.em.op("i8", a.lanes, f"xor {k.em.typed(a)}, {flip}")
        wrong = _instruction(k, start, moved, b)
        return k.em.op(
            "i32",
            start.lanes,
            f"sub {k.em.typed(wrong)}, {k.em.text(_instruction(k, zero, Val('i8', a.lanes, flip), b))}",
        )
    # Both unsigned: a is its low seven bits, and twice its top bit taken as 64.
    low = k.em.op("i8", a.lanes, f"and {k.em.typed(a)}, {_bytes(k, a.lanes, 127)}")
    half = k.em.op("i8", a.lanes, f"lshr {k.em.typed(a)}, {_bytes(k, a.lanes, 1)}")
    top = _instruction(k, zero, b, k.em.op("i8", a.lanes, f"and {k.em.typed(half)}, {_bytes(k, a.lanes, 64)}"))
    twice = k.em.op("i32", start.lanes, f"add {k.em.typed(top)}, {k.em.text(top)}")
    return k.em.op("i32", start.lanes, f"add {k.em.typed(_instruction(k, start, b, low))}, {k.em.text(twice)}")


def _bytes(k: Kernel, lanes: int, value: int) -> str:
    return k.em.text(k.em.splat(Val("i8", 1, str(value)), lanes))


def _instruction(k: Kernel, start: Val, unsigned: Val, signed: Val) -> Val:
    em, lanes = k.em, start.lanes
    name, type_ = f"@llvm.x86.avx512.vpdpbusd.{lanes * 32}", f"<{4 * lanes} x i8>"
    em.declare(name, f"declare {start.type} {name}({start.type}, {type_}, {type_})")
    call = f"call {start.type} {name}({em.typed(start)}, {em.typed(unsigned)}, {em.typed(signed)})"
    return em.op("i32", lanes, call)


def _plainly(k: Kernel, start: Val, a: Val, b: Val, unsigned: tuple[bool, bool]) -> Val:
    """Without the instruction: 32-bit products, each fourth lane summed."""
    wide = [cast(k, "zext" if u else "sext", v, "i32") for v, u in zip((a, b), unsigned)]
    product = k.em.op("i32", a.lanes, f"mul {k.em.typed(wide[0])}, {k.em.text(wide[1])}")
    for byte in range(4):
        part = k.em.shuffle(product, list(range(byte, a.lanes, 4)))
        start = k.em.op("i32", start.lanes, f"add {k.em.typed(start)}, {k.em.text(part)}")
    return start
