"""Operands of tt.dot_scaled: small floats times a power of two for each group along k, as one float tensor.

Formats: OCP Microscaling Formats (MX) 1.0, sections 5 and 6.
"""

from __future__ import annotations

import numpy as np

from unify.compiler import mlir
from unify.compiler.cpu.codegen import float8
from unify.compiler.cpu.codegen.convert import cast, widened
from unify.compiler.cpu.codegen.emitter import Index, Val
from unify.compiler.cpu.codegen.values import Kernel, Unsupported, inline, shape_of

Position = tuple[Index, ...]
Block = tuple[int, ...]

_E2M1 = float8.Format(mantissa=1, bias=1, nan=0x100, largest=6.0)  # no code is a NaN
# Triton's ScaleDotElemType numbers.
_FP8, _FP4, _WIDE = (0, 1), 4, (5, 6)


def operand(k: Kernel, op: mlir.Operation, side: int) -> mlir.Value:
    """Side 0 or 1 of the product as a float tensor, by an operation that nobody wrote: unify.scaled."""
    key = ("scaled", op, side)
    if key in k.state:
        return k.state[key]  # type: ignore[no-any-return]
    sizes = op.integers("operandSegmentSizes") or (1, 1, 1, len(op.operands) > 3, len(op.operands) > 4)
    scales = [op.operands[3] if sizes[3] else None, op.operands[-1] if sizes[4] else None]
    data, scale = op.operands[side], scales[side]
    format_ = op.integer("b_elem_type" if side else "a_elem_type")
    if format_ not in (*_FP8, _FP4, *_WIDE):
        raise Unsupported("a 6-bit float format", "use e2m1, e4m3, e5m2, bf16 or fp16")
    rank = len(shape_of(data))
    axis = rank - 2 if side else rank - 1  # of k
    packed = axis if op.boolean("rhs_k_pack" if side else "lhs_k_pack", True) else 2 * rank - 3 - axis
    shape = tuple(e * (2 if format_ == _FP4 and a == packed else 1) for a, e in enumerate(shape_of(data)))
    made = mlir.Operation("unify.scaled", [data, *([scale] if scale is not None else [])], location=op.location)
    made.results = [mlir.Value("scaled", mlir.Tensor(shape, mlir.Scalar("f32")), made)]
    k.state["scaled", made] = (format_, axis, packed)
    k.state[key] = made.results[0]
    return made.results[0]


@inline("unify.scaled")
def scaled(k: Kernel, op: mlir.Operation, _: int, at: Position, block: Block) -> Val:
    format_, axis, packed = k.state["scaled", op]
    value = _elements(k, op, at, block, packed) if format_ == _FP4 else k.block(op.operands[0], at, block)
    known = _E2M1 if format_ == _FP4 else float8.format_of(op.operands[0].type)
    number = float8.decoded(k, value, known) if known else widened(k, value)
    if len(op.operands) == 1:
        return number
    factor = _factors(k, op, at, block, axis)
    return k.em.op("float", number.lanes, f"fmul {k.em.typed(number)}, {k.em.text(factor)}")


def _elements(k: Kernel, op: mlir.Operation, at: Position, block: Block, packed: int) -> Val:
    """4-bit codes, two a byte along the axis `packed`, spread to where 8-bit formats have sign and magnitude."""
    em, source = k.em, op.operands[0]
    extent = shape_of(source)[packed]
    where = tuple(k.divide(index, 2, extent) if a == packed else index for a, index in enumerate(at))
    bytes_ = k.block(source, where, tuple(max(1, e // 2) if a == packed else e for a, e in enumerate(block)))
    if block[packed] == 1:
        nibble = k.number(k.divide(at[packed], 1, 2))
        shift = em.splat(cast(k, "trunc", em.op("i64", 1, f"shl {em.typed(nibble)}, 2"), "i8"), bytes_.lanes)
        codes = em.op("i8", bytes_.lanes, f"lshr {em.typed(bytes_)}, {em.text(shift)}")
    else:
        upper = em.op("i8", bytes_.lanes, f"lshr {em.typed(bytes_)}, {_number(k, 4, bytes_.lanes)}")
        half = np.arange(bytes_.lanes).reshape([max(1, e // 2) if a == packed else e for a, e in enumerate(block)])
        both = np.stack([half, half + bytes_.lanes], axis=packed + 1).reshape(block)
        codes = em.shuffle(bytes_, [int(lane) for lane in both.ravel()], upper)
    magnitude = em.op("i8", codes.lanes, f"and {em.typed(codes)}, {_number(k, 7, codes.lanes)}")
    sign = em.op("i8", codes.lanes, f"and {em.typed(codes)}, {_number(k, 8, codes.lanes)}")
    moved = em.op("i8", codes.lanes, f"shl {em.typed(sign)}, {_number(k, 4, codes.lanes)}")
    return em.op("i8", codes.lanes, f"or {em.typed(magnitude)}, {em.text(moved)}")


def _number(k: Kernel, value: int, lanes: int, element: str = "i8") -> str:
    return k.em.text(k.em.splat(Val(element, 1, str(value)), lanes))


def _factors(k: Kernel, op: mlir.Operation, at: Position, block: Block, axis: int) -> Val:
    """The scale of each lane. Scales are [rows, k / group] for both sides."""
    em, scale = k.em, op.operands[1]
    rank, other = len(block), 2 * len(block) - 3 - axis
    shape = shape_of(scale)
    group = shape_of(op.results[0])[axis] // shape[-1]
    along = max(1, block[axis] // group)
    order = [*range(rank - 2), other, axis]
    where = [at[a] if a != axis else k.divide(at[axis], group, shape[-1]) for a in order]
    inner = [block[a] if a != axis else along for a in order]
    value = k.block(scale, tuple(where), tuple(inner))
    grid = np.indices(block).reshape(rank, -1)
    lanes = np.ravel_multi_index([grid[a] if a != axis else grid[a] // group for a in order], inner)
    return em.shuffle(_power(k, value, float8.format_of(scale.type)), [int(lane) for lane in lanes])


def _power(k: Kernel, value: Val, known: float8.Format | None) -> Val:
    """A scale as float: an 8-bit float, or E8M0, the exponent alone (255: not a number)."""
    if known:
        return float8.decoded(k, value, known)
    em, lanes = k.em, value.lanes
    code = cast(k, "zext", value, "i32")
    bits = em.op("i32", lanes, f"shl {em.typed(code)}, {_number(k, 23, lanes, 'i32')}")
    least = em.op("i1", lanes, f"icmp eq {em.typed(code)}, {_number(k, 0, lanes, 'i32')}")
    smallest = em.splat(Val("i32", 1, str(1 << 22)), lanes)  # 2^-127 is subnormal
    bits = em.op("i32", lanes, f"select {em.typed(least)}, {em.typed(smallest)}, {em.typed(bits)}")
    nan = em.op("i1", lanes, f"icmp eq {em.typed(code)}, {_number(k, 255, lanes, 'i32')}")
    quiet = em.splat(Val("i32", 1, str(0x7FC00000)), lanes)
    bits = em.op("i32", lanes, f"select {em.typed(nan)}, {em.typed(quiet)}, {em.typed(bits)}")
    return cast(k, "bitcast", bits, "float")
