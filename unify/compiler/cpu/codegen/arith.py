"""arith.*: one LLVM instruction each, on scalars and registers alike."""

from __future__ import annotations

import struct

from unify.compiler import mlir
from unify.compiler.cpu.codegen import convert, float8
from unify.compiler.cpu.codegen.emitter import BYTES, FLOATS, STORED, Index, Val
from unify.compiler.cpu.codegen.values import (
    ELEMENTWISE,
    Elementwise,
    Kernel,
    Unsupported,
    element_of,
    elementwise,
    inline,
    linear_pieces,
    row_major,
    shape_of,
)

# Triton fuses products and sums (enable_fp_fusion); nothing else may be reordered.
_FAST = "contract "


def literal(value: int | float | bool, element: str) -> str:
    """A number as LLVM writes it: floats by their exact bits."""
    if element == "ptr":
        return "null"
    if element not in FLOATS:
        return str(int(value))
    if element == "double" or element == "float":
        number = float(value)
        if element == "float" and (abs(number) < 3.5e38 or number != number):
            number = struct.unpack("<f", struct.pack("<f", number))[0]
        return "0x" + struct.pack(">d", number).hex().upper()
    if element == "half":
        return "0xH" + struct.pack(">e", float(value)).hex().upper()
    bits = struct.unpack("<I", struct.pack("<f", float(value)))[0]
    if value == value:
        bits += 0x7FFF + (bits >> 16 & 1)
    return f"0xR{bits >> 16:04X}"


def constant_of(op: mlir.Operation) -> tuple[tuple[int | float | bool, ...], str]:
    value = op.attributes.get("value")
    element = element_of(op.results[0].type)
    values: tuple[int | float | bool, ...] | None = None
    if isinstance(value, mlir.Dense):
        values = value.values
    elif isinstance(value, mlir.Typed):
        values = (value.value,)
    elif isinstance(value, bool):
        values = (value,)
    how = float8.format_of(op.results[0].type)
    if values is not None:
        return tuple(float8.code_of(float(v), how) for v in values) if how else values, element
    raise Unsupported("a constant of this kind")


@inline("arith.constant")
def constant(k: Kernel, op: mlir.Operation, _: int, at: tuple[Index, ...], block: tuple[int, ...]) -> Val:
    values, element = constant_of(op)
    lanes = 1
    for extent in block:
        lanes *= extent
    if len(values) == 1:
        return k.em.splat(Val(element, 1, literal(values[0], element)), lanes)
    # A table: read like a tile, from the image.
    key = ("table", op)
    if key not in k.state:
        stored = STORED.get(element, element)
        body = "[" + ", ".join(f"{stored} {_stored_literal(v, element)}" for v in values) + "]"
        k.state[key] = k.em.constant_array(f"[{len(values)} x {stored}]", body)
    shape, stored, parts = shape_of(op.results[0]), STORED.get(element, element), []
    for offset, run in linear_pieces(shape, block):
        index = k.combine([a + o for a, o in zip(at, offset)], row_major(shape))
        address = k.em.assign(f"getelementptr {stored}, ptr {k.state[key]}, i64 {k.em.text(k.number(index))}")
        type_ = stored if run == 1 else f"<{run} x {stored}>"
        parts.append(k.em.op(stored, run, f"load {type_}, ptr {address}, align 1"))
    return k.from_stored(k.em.concat(parts), element)


def _stored_literal(value: int | float | bool, element: str) -> str:
    text = literal(value, element)
    return str(int(text[3:], 16)) if element in ("half", "bfloat") else text


def _integer(instruction: str) -> Elementwise:
    def emit(k: Kernel, op: mlir.Operation, v: list[Val]) -> Val:
        return k.em.op(v[0].element, v[0].lanes, f"{instruction} {k.em.typed(v[0])}, {k.em.text(v[1])}")

    return emit


for _name, _instruction in {
    "addi": "add", "subi": "sub", "muli": "mul", "andi": "and", "ori": "or", "xori": "xor", "shli": "shl",
    "shrsi": "ashr",
    "shrui": "lshr",
}.items():  # fmt: skip
    ELEMENTWISE[f"arith.{_name}"] = _integer(_instruction)


@elementwise("arith.divsi", "arith.divui", "arith.remsi", "arith.remui")
def divide(k: Kernel, op: mlir.Operation, v: list[Val]) -> Val:
    """Vectors have no integer division: 32 bits go exactly through double, 64 bits lane by lane."""
    em, kind = k.em, op.name[6:]
    instruction = {"divsi": "sdiv", "divui": "udiv", "remsi": "srem", "remui": "urem"}[kind]
    low, high = k.plan.bounds.of(op.operands[1])
    if kind in ("divsi", "remsi") and k.plan.bounds.is_non_negative(op.operands[0]) and low > 0:
        instruction = {"divsi": "udiv", "remsi": "urem"}[kind]
    if v[0].lanes == 1 or v[0].element not in ("i32", "i16", "i8") or low == high:
        divisor = v[1] if low > 0 or high < -1 else _untrapping(k, instruction, v[0], v[1])
        return em.op(v[0].element, v[0].lanes, f"{instruction} {em.typed(v[0])}, {em.text(divisor)}")
    signed, lanes, element = instruction[0] == "s", v[0].lanes, v[0].element
    to, back = ("sitofp", "fptosi") if signed else ("uitofp", "fptoui")
    a = em.assign(f"{to} {em.typed(v[0])} to <{lanes} x double>")
    b = em.assign(f"{to} {em.typed(v[1])} to <{lanes} x double>")
    # |a| < 2^32 and a nonzero distance to the next integer of at least 1 / b: truncation is exact.
    wide = em.assign(f"fdiv <{lanes} x double> {a}, {b}")
    quotient = em.op("i32", lanes, f"{back} <{lanes} x double> {wide} to <{lanes} x i32>")
    if element != "i32":  # in two steps, so that the least by -1 wraps
        quotient = em.op(element, lanes, f"trunc {em.typed(quotient)} to <{lanes} x {element}>")
    if kind.startswith("div"):
        return quotient
    product = em.op(element, lanes, f"mul {em.typed(quotient)}, {em.text(v[1])}")
    return em.op(element, lanes, f"sub {em.typed(v[0])}, {em.text(product)}")


def _untrapping(k: Kernel, instruction: str, a: Val, b: Val) -> Val:
    """The divisor, or 1 where x86 would trap: lanes that a mask switches off may divide by 0, or the least by -1."""
    em, lanes = k.em, b.lanes

    def equals(value: Val, number: int) -> Val:
        return em.op(
            "i1", lanes, f"icmp eq {em.typed(value)}, {em.text(em.splat(em.integer(number, b.element), lanes))}"
        )

    traps = equals(b, 0)
    if instruction[0] == "s":
        least = equals(a, -1 << (8 * BYTES[b.element] - 1))
        both = em.op("i1", lanes, f"and {em.typed(equals(b, -1))}, {em.text(least)}")
        traps = em.op("i1", lanes, f"or {em.typed(traps)}, {em.text(both)}")
    one = em.splat(em.integer(1, b.element), lanes)
    return em.op(b.element, lanes, f"select {em.typed(traps)}, {em.typed(one)}, {em.typed(b)}")


@elementwise("arith.ceildivsi", "arith.floordivsi", "arith.ceildivui")
def rounding_divide(k: Kernel, op: mlir.Operation, v: list[Val]) -> Val:
    raise Unsupported("this rounding", "use // or tl.cdiv")


def _call(intrinsic: str) -> Elementwise:
    def emit(k: Kernel, op: mlir.Operation, v: list[Val]) -> Val:
        return intrinsic_call(k, intrinsic, v)

    return emit


def intrinsic_call(k: Kernel, intrinsic: str, v: list[Val], extra: str = "", result: str = "") -> Val:
    """llvm.<intrinsic> on operands of one type."""
    em, element = k.em, v[0].element
    suffix = {"half": "f16", "bfloat": "bf16", "float": "f32", "double": "f64"}.get(element, element)
    lanes = v[0].lanes
    name = f"@llvm.{intrinsic}." + (f"v{lanes}" if lanes > 1 else "") + suffix
    em.declare(name, f"declare {v[0].type} {name}({', '.join(x.type for x in v)}{', i1' if extra else ''})")
    return em.op(element, lanes, f"call {v[0].type} {name}({', '.join(em.typed(x) for x in v)}{extra})")


for _name, _intrinsic in {"minsi": "smin", "maxsi": "smax", "minui": "umin", "maxui": "umax"}.items():
    ELEMENTWISE[f"arith.{_name}"] = _call(_intrinsic)


def _floating(instruction: str) -> Elementwise:
    def emit(k: Kernel, op: mlir.Operation, v: list[Val]) -> Val:
        a, b = convert.widened(k, v[0]), convert.widened(k, v[1])
        out = k.em.op(a.element, a.lanes, f"{instruction} {k.em.typed(a)}, {k.em.text(b)}")
        return convert.narrowed(k, out, v[0].element)

    return emit


for _name, _instruction in {
    "addf": f"fadd {_FAST}", "subf": f"fsub {_FAST}", "mulf": f"fmul {_FAST}", "divf": "fdiv ", "remf": "frem ",
}.items():  # fmt: skip
    ELEMENTWISE[f"arith.{_name}"] = _floating(_instruction)
ELEMENTWISE["tt.precise_divf"] = ELEMENTWISE["tt.approx_divf"] = _floating("fdiv ")


@elementwise("arith.negf")
def negate(k: Kernel, op: mlir.Operation, v: list[Val]) -> Val:
    a = convert.widened(k, v[0])
    return convert.narrowed(k, k.em.op(a.element, a.lanes, f"fneg {k.em.typed(a)}"), v[0].element)


@elementwise("arith.maxnumf", "arith.minnumf", "arith.maximumf", "arith.minimumf")
def extremum(k: Kernel, op: mlir.Operation, v: list[Val]) -> Val:
    a, b = convert.widened(k, v[0]), convert.widened(k, v[1])
    keeps_nan = "imum" in op.name
    return convert.narrowed(k, larger(k, a, b, keeps_nan, smaller=op.name.startswith("arith.min")), v[0].element)


def larger(k: Kernel, a: Val, b: Val, keeps_nan: bool, smaller: bool = False) -> Val:
    """The larger (or smaller) of two floats. A NaN on one side wins or loses; llvm.maxnum may end in calls of fmaxf."""
    em = k.em
    chosen = em.op("i1", a.lanes, f"fcmp {'olt' if smaller else 'ogt'} {em.typed(a)}, {em.text(b)}")
    value = em.op(a.element, a.lanes, f"select {em.typed(chosen)}, {em.typed(a)}, {em.typed(b)}")  # b if unordered
    suspect = a if keeps_nan else b
    nan = em.op("i1", a.lanes, f"fcmp uno {em.typed(suspect)}, {em.text(suspect)}")
    return em.op(a.element, a.lanes, f"select {em.typed(nan)}, {em.typed(a)}, {em.typed(value)}")


_ICMP = ("eq", "ne", "slt", "sle", "sgt", "sge", "ult", "ule", "ugt", "uge")
_FCMP = (
    "false", "oeq", "ogt", "oge", "olt", "ole", "one", "ord", "ueq", "ugt", "uge", "ult", "ule", "une", "uno", "true",
)  # fmt: skip


@elementwise("arith.cmpi")
def compare(k: Kernel, op: mlir.Operation, v: list[Val]) -> Val:
    predicate = _ICMP[op.integer("predicate")]
    return k.em.op("i1", v[0].lanes, f"icmp {predicate} {k.em.typed(v[0])}, {k.em.text(v[1])}")


@elementwise("arith.cmpf")
def compare_floats(k: Kernel, op: mlir.Operation, v: list[Val]) -> Val:
    a, b = convert.widened(k, v[0]), convert.widened(k, v[1])
    return k.em.op("i1", a.lanes, f"fcmp {_FCMP[op.integer('predicate')]} {k.em.typed(a)}, {k.em.text(b)}")


@elementwise("arith.select")
def select(k: Kernel, op: mlir.Operation, v: list[Val]) -> Val:
    condition = v[0]
    if condition.repeats is not None:
        condition = condition.repeats
    return k.em.op(v[1].element, v[1].lanes, f"select {k.em.typed(condition)}, {k.em.typed(v[1])}, {k.em.typed(v[2])}")


@elementwise("tt.mulhiui")
def high_product(k: Kernel, op: mlir.Operation, v: list[Val]) -> Val:
    em, lanes = k.em, v[0].lanes
    bits = int(v[0].element[1:])
    wide = f"i{2 * bits}" if lanes == 1 else f"<{lanes} x i{2 * bits}>"
    a = em.assign(f"zext {em.typed(v[0])} to {wide}")
    b = em.assign(f"zext {em.typed(v[1])} to {wide}")
    product = em.assign(f"mul nuw {wide} {a}, {b}")
    shift = str(bits) if lanes == 1 else f"splat (i{2 * bits} {bits})"
    return em.op(v[0].element, lanes, f"trunc {wide} {em.assign(f'lshr {wide} {product}, {shift}')} to {v[0].type}")


@elementwise("tt.clampf")
def clamp(k: Kernel, op: mlir.Operation, v: list[Val]) -> Val:
    """min(max(x, low), high); a NaN stays only if the program asked for it."""
    x, low, high = (convert.widened(k, value) for value in v)
    keeps = op.integer("propagateNan") != 0
    lower = larger(k, x, low, keeps)
    return convert.narrowed(k, larger(k, lower, high, keeps, smaller=True), v[0].element)


@elementwise("tt.addptr")
def add_pointer(k: Kernel, op: mlir.Operation, v: list[Val]) -> Val:
    type_ = op.operands[0].type
    pointer = type_.element if isinstance(type_, mlir.Tensor) else type_
    assert isinstance(pointer, mlir.Pointer)
    element = element_of(pointer.pointee)
    offset = v[1]
    if offset.element != "i64":
        to = "i64" if offset.lanes == 1 else f"<{offset.lanes} x i64>"
        offset = k.em.op("i64", offset.lanes, f"sext {k.em.typed(offset)} to {to}")
    stored = "i8" if element == "i1" else element
    return k.em.op("ptr", v[0].lanes, f"getelementptr {stored}, {k.em.typed(v[0])}, {k.em.typed(offset)}")
