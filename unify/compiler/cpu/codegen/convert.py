"""Between element types: widths, integers and floats, bits. No conversion may end in a runtime library call."""

from __future__ import annotations

from unify.compiler import mlir
from unify.compiler.cpu.codegen import float8
from unify.compiler.cpu.codegen.emitter import BYTES, Val
from unify.compiler.cpu.codegen.values import Elementwise, Kernel, element_of, elementwise


def vector(element: str, lanes: int) -> str:
    return element if lanes == 1 else f"<{lanes} x {element}>"


def cast(k: Kernel, instruction: str, value: Val, element: str) -> Val:
    if value.element == element:
        return value
    return k.em.op(element, value.lanes, f"{instruction} {k.em.typed(value)} to {vector(element, value.lanes)}")


def widened(k: Kernel, value: Val) -> Val:
    """half and bfloat as float: x86 computes in neither."""
    if value.element not in ("half", "bfloat"):
        return value
    key = ("widened", value)
    found = k.em.find(key)
    if found is None:
        found = _from_bfloat(k, value) if value.element == "bfloat" else cast(k, "fpext", value, "float")
        k.em.remember(key, found)
    return found  # type: ignore[return-value]


def narrowed(k: Kernel, value: Val, element: str) -> Val:
    """Back to the type of the program, rounding to nearest even."""
    if value.element == element:
        return value
    if value.element == "double" and BYTES[element] == 2:
        value = _round_to_odd(k, value)
    if element == "bfloat" and not k.features.rounds_to_bfloat:
        return _to_bfloat(k, value)
    return cast(k, "fptrunc", value, element)


def _from_bfloat(k: Kernel, value: Val) -> Val:
    bits = cast(k, "zext", cast(k, "bitcast", value, "i16"), "i32")
    shifted = k.em.op("i32", value.lanes, f"shl {k.em.typed(bits)}, {_splat(k, 'i32', 16, value.lanes)}")
    return cast(k, "bitcast", shifted, "float")


def _splat(k: Kernel, element: str, number: int, lanes: int) -> str:
    return k.em.text(k.em.splat(Val(element, 1, str(number)), lanes))


def _to_bfloat(k: Kernel, value: Val) -> Val:
    """Upper half of the bits, rounded; a NaN stays one."""
    em, lanes = k.em, value.lanes
    bits = cast(k, "bitcast", value, "i32")
    upper = em.op("i32", lanes, f"lshr {em.typed(bits)}, {_splat(k, 'i32', 16, lanes)}")
    odd = em.op("i32", lanes, f"and {em.typed(upper)}, {_splat(k, 'i32', 1, lanes)}")
    bias = em.op("i32", lanes, f"add {em.typed(odd)}, {_splat(k, 'i32', 0x7FFF, lanes)}")
    rounded = em.op("i32", lanes, f"add {em.typed(bits)}, {em.text(bias)}")
    shifted = em.op("i32", lanes, f"lshr {em.typed(rounded)}, {_splat(k, 'i32', 16, lanes)}")
    quiet = em.op("i32", lanes, f"or {em.typed(upper)}, {_splat(k, 'i32', 64, lanes)}")
    nan = em.op("i1", lanes, f"fcmp uno {em.typed(value)}, {em.text(value)}")
    chosen = em.op("i32", lanes, f"select {em.typed(nan)}, {em.typed(quiet)}, {em.typed(shifted)}")
    return cast(k, "bitcast", cast(k, "trunc", chosen, "i16"), "bfloat")


def _round_to_odd(k: Kernel, value: Val) -> Val:
    """double → float such that rounding once more is right (Boldo & Melquiond 2008): an inexact result is made odd."""
    em, lanes = k.em, value.lanes
    near = cast(k, "fptrunc", value, "float")
    back = cast(k, "fpext", near, "double")
    inexact = em.op("i1", lanes, f"fcmp one {em.typed(back)}, {em.text(value)}")
    bits = cast(k, "bitcast", near, "i32")
    # Rounded away from zero: step back to the truncated value, then set its last bit.
    magnitude = _magnitude(k, back), _magnitude(k, value)
    above = em.op("i1", lanes, f"fcmp ogt {em.typed(magnitude[0])}, {em.text(magnitude[1])}")
    step = cast(k, "zext", above, "i32")
    truncated = em.op("i32", lanes, f"sub {em.typed(bits)}, {em.text(step)}")
    odd = em.op("i32", lanes, f"or {em.typed(truncated)}, {_splat(k, 'i32', 1, lanes)}")
    chosen = em.op("i32", lanes, f"select {em.typed(inexact)}, {em.typed(odd)}, {em.typed(bits)}")
    return cast(k, "bitcast", chosen, "float")


def _magnitude(k: Kernel, value: Val) -> Val:
    from unify.compiler.cpu.codegen.arith import intrinsic_call

    return intrinsic_call(k, "fabs", [value])


def _resize(instruction: str) -> Elementwise:
    def emit(k: Kernel, op: mlir.Operation, v: list[Val]) -> Val:
        return cast(k, instruction, v[0], element_of(op.results[0].type))

    return emit


for _name, _instruction in {"extsi": "sext", "extui": "zext", "trunci": "trunc"}.items():
    elementwise(f"arith.{_name}")(_resize(_instruction))


@elementwise("arith.index_cast", "arith.index_castui")
def index_cast(k: Kernel, op: mlir.Operation, v: list[Val]) -> Val:
    element = element_of(op.results[0].type)
    wider = BYTES[element] > BYTES[v[0].element]
    return cast(k, ("zext" if op.name.endswith("ui") else "sext") if wider else "trunc", v[0], element)


@elementwise("arith.extf", "arith.truncf", "tt.fp_to_fp")
def convert_float(k: Kernel, op: mlir.Operation, v: list[Val]) -> Val:
    source, target = float8.format_of(op.operands[0].type), float8.format_of(op.results[0].type)
    element = element_of(op.results[0].type)
    to_zero = op.attributes.get("rounding") is not None and op.integer("rounding", 1) == 0
    value = float8.decoded(k, v[0], source) if source else v[0]
    if target:
        return float8.encoded(k, _as_float(k, value), target, to_zero)
    if BYTES[element] > BYTES[value.element]:
        return cast(k, "fpext", widened(k, value), element)
    if element == value.element:
        return value
    if BYTES[element] == BYTES[value.element]:
        value = widened(k, value)
    near = narrowed(k, value, element)
    return _towards_zero(k, value, near) if to_zero else near


def _as_float(k: Kernel, value: Val) -> Val:
    return _round_to_odd(k, value) if value.element == "double" else widened(k, value)


def _towards_zero(k: Kernel, value: Val, near: Val) -> Val:
    """What was rounded away from zero, one step back; an overflow to infinity becomes the largest number."""
    em, lanes = k.em, near.lanes
    bits = "i16" if BYTES[near.element] == 2 else "i32"
    back = cast(k, "fpext", widened(k, near), value.element)
    further = f"fcmp ogt {em.typed(_magnitude(k, back))}, {em.text(_magnitude(k, value))}"
    finite = em.op("i1", lanes, f"fcmp one {em.typed(_magnitude(k, value))}, {em.text(_infinity(k, value))}")
    step = em.op("i1", lanes, f"and {em.typed(em.op('i1', lanes, further))}, {em.text(finite)}")
    number = cast(k, "bitcast", near, bits)
    moved = em.op(bits, lanes, f"sub {em.typed(number)}, {em.text(cast(k, 'zext', step, bits))}")
    return cast(k, "bitcast", moved, near.element)


def _infinity(k: Kernel, like: Val) -> Val:
    return k.em.splat(Val(like.element, 1, "0x7FF0000000000000"), like.lanes)


@elementwise("arith.sitofp", "arith.uitofp")
def to_float(k: Kernel, op: mlir.Operation, v: list[Val]) -> Val:
    element = element_of(op.results[0].type)
    instruction = op.name[6:]
    if BYTES[element] > 2:
        return cast(k, instruction, v[0], element)
    # float holds 24 bits: from there to half is exact enough for 16-bit integers, wider ones go through double.
    through = "float" if BYTES[v[0].element] <= 2 else "double"
    return narrowed(k, cast(k, instruction, v[0], through), element)


@elementwise("arith.fptosi", "arith.fptoui")
def to_integer(k: Kernel, op: mlir.Operation, v: list[Val]) -> Val:
    element, source = element_of(op.results[0].type), widened(k, v[0])
    if BYTES[element] > 2:
        return cast(k, op.name[6:], source, element)
    # What does not fit wraps around, as in C's usual code; x86's narrowing instructions would saturate at some widths.
    return cast(k, "trunc", cast(k, "fptosi", source, "i32"), element)


@elementwise("arith.bitcast", "tt.bitcast")
def bitcast(k: Kernel, op: mlir.Operation, v: list[Val]) -> Val:
    element = element_of(op.results[0].type)
    if element == v[0].element:
        return v[0]
    if "ptr" in (element, v[0].element):
        return cast(k, "inttoptr" if element == "ptr" else "ptrtoint", v[0], element)
    if "i1" in (element, v[0].element):
        return cast(k, "trunc" if element == "i1" else "zext", v[0], element)
    return cast(k, "bitcast", v[0], element)


@elementwise("tt.int_to_ptr", "tt.ptr_to_int")
def pointer_cast(k: Kernel, op: mlir.Operation, v: list[Val]) -> Val:
    return cast(k, "inttoptr" if op.name == "tt.int_to_ptr" else "ptrtoint", v[0], element_of(op.results[0].type))
