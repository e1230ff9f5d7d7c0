"""A buffer (MLIR's memref) while code is written: where it begins, how far apart its elements are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass

from unify.compiler import mlir
from unify.compiler.cpu.codegen.emitter import BYTES, STORED, Val
from unify.compiler.cpu.codegen.values import Kernel, Unsupported, element_of, row_major

# A number, or the name of an i64.
Size = int | str
# Elements so far apart are read with what lies between them.
_NEAR = 4
# Behind each temporary: what such a read may touch beyond its end.
SLACK = 64


@dataclass(frozen=True, eq=False)
class Buffer:
    """Element (i, j, …) is at base + (offset + i · strides[0] + j · strides[1] + …) elements."""

    base: str
    element: str
    shape: tuple[Size, ...]
    strides: tuple[Size, ...]
    offset: Size = 0
    is_ours: bool = False  # a temporary: nobody else reads or writes it

    @property
    def stored(self) -> str:
        return STORED.get(self.element, self.element)

    def is_same_place(self, other: Buffer) -> bool:
        return (self.base, self.offset, self.strides) == (other.base, other.offset, other.strides)


def buffer_type(value: mlir.Value) -> mlir.Buffer | None:
    """The layout of a buffer, or of a tensor at the edge of a call, which is one by now."""
    if isinstance(value.type, mlir.Tensor):
        return mlir.Buffer(value.type.shape, value.type.element)
    return value.type if isinstance(value.type, mlir.Buffer) else None


def whole(base: str, type_: mlir.Buffer) -> Buffer:
    """A buffer of known shape, row-major."""
    if mlir.DYNAMIC in type_.shape:
        raise Unsupported(f"a temporary of unknown size, {type_}")
    return Buffer(base, element_of(type_.element), type_.shape, row_major(type_.shape), is_ours=True)


def bytes_of(type_: mlir.Buffer) -> int:
    total = BYTES[element_of(type_.element)]
    for extent in type_.shape:
        if extent == mlir.DYNAMIC:
            raise Unsupported(f"a temporary of unknown size, {type_}")
        total *= extent
    return total


# ---------------------------------------------------------------- sums and products of sizes


def add(k: Kernel, a: Size, b: Size) -> Size:
    if isinstance(a, int) and isinstance(b, int):
        return a + b
    if a == 0 or b == 0:
        return b if a == 0 else a
    return k.em.assign(f"add i64 {a}, {b}")


def multiply(k: Kernel, a: Size, b: Size) -> Size:
    if isinstance(a, int) and isinstance(b, int):
        return a * b
    if a == 0 or b == 0:
        return 0
    if a == 1 or b == 1:
        return b if a == 1 else a
    return k.em.assign(f"mul i64 {a}, {b}")


def offset_of(k: Kernel, buffer: Buffer, at: Sequence[Size]) -> Size:
    total = buffer.offset
    for index, stride in zip(at, buffer.strides, strict=True):
        total = add(k, total, multiply(k, index, stride))
    return total


# ---------------------------------------------------------------- elements


def address(k: Kernel, buffer: Buffer, offset: Size) -> str:
    if offset == 0:
        return buffer.base
    return k.em.assign(f"getelementptr {buffer.stored}, ptr {buffer.base}, i64 {offset}")


def load(k: Kernel, buffer: Buffer, offset: Size, lanes: int = 1, stride: Size = 1) -> Val:
    """`lanes` elements, `stride` apart; one of them, repeated, if they are at one place."""
    stored, em = buffer.stored, k.em
    if lanes == 1 or stride == 0:
        one = em.op(stored, 1, f"load {stored}, ptr {address(k, buffer, offset)}, align {BYTES[buffer.element]}")
        return em.splat(k.from_stored(one, buffer.element), lanes)
    if stride == 1:
        place = address(k, buffer, offset)
        many = em.op(stored, lanes, f"load <{lanes} x {stored}>, ptr {place}, align {BYTES[buffer.element]}")
        return k.from_stored(many, buffer.element)
    if buffer.is_ours and isinstance(stride, int) and 1 < stride <= _NEAR:
        # All that lies between is read too, and beyond the last element: SLACK.
        place, count = address(k, buffer, offset), lanes * stride
        many = em.op(stored, count, f"load <{count} x {stored}>, ptr {place}, align {BYTES[buffer.element]}")
        return k.from_stored(em.shuffle(many, range(0, count, stride)), buffer.element)
    parts = []
    for lane in range(lanes):
        place = address(k, buffer, add(k, offset, multiply(k, lane, stride)))
        parts.append(em.op(stored, 1, f"load {stored}, ptr {place}, align {BYTES[buffer.element]}"))
    return k.from_stored(em.concat(parts), buffer.element)


def store(k: Kernel, value: Val, buffer: Buffer, offset: Size, stride: Size = 1) -> None:
    stored, em = k.to_stored(value), k.em
    if stored.lanes == 1 or stride == 1:
        place = address(k, buffer, offset)
        em.line(f"store {em.typed(stored)}, ptr {place}, align {BYTES[buffer.element]}")
        return
    for lane in range(stored.lanes):
        place = address(k, buffer, add(k, offset, multiply(k, lane, stride)))
        em.line(f"store {em.typed(em.extract(stored, lane))}, ptr {place}, align {BYTES[buffer.element]}")


def segments(op: mlir.Operation) -> list[list[mlir.Value]]:
    """The operands in the groups that the operation declares."""
    found, start = [], 0
    for count in op.integers("operandSegmentSizes") or (len(op.operands),):
        found.append(op.operands[start : start + count])
        start += count
    return found


# ---------------------------------------------------------------- affine maps

_FORM = re.compile(r"affine_map<\((?P<dims>[^)]*)\)(?:\[(?P<symbols>[^\]]*)\])? -> \((?P<results>.*)\)>")


@dataclass(frozen=True)
class Linear:
    """constant + the sum of coefficient · input; inputs are numbered, dimensions first, then symbols."""

    terms: dict[int, int]
    constant: int = 0


def affine_map(text: str) -> tuple[int, list[Linear]]:
    """How many inputs a map has, and its results. Raises Unsupported where one is not linear."""
    found = _FORM.fullmatch(text)
    if found is None:
        raise Unsupported(f"the map {text}")
    names = [n.strip() for part in (found["dims"], found["symbols"] or "") for n in part.split(",") if n.strip()]
    results = [r.strip() for r in found["results"].split(",") if r.strip()]
    return len(names), [_linear(r, names) for r in results]


def _linear(text: str, names: Sequence[str]) -> Linear:
    terms: dict[int, int] = {}
    constant, sign = 0, 1
    for part in re.split(r"\s+([+-])\s+", text):
        if part in ("+", "-"):
            sign = 1 if part == "+" else -1
            continue
        factor = re.fullmatch(r"(-?)([a-z]\w*)(?: \* (-?\d+))?", part)
        if factor is not None and factor[2] in names:
            index = names.index(factor[2])
            scale = int(factor[3] or 1) * (-1 if factor[1] else 1)
            terms[index] = terms.get(index, 0) + sign * scale
        elif re.fullmatch(r"-?\d+", part):
            constant += sign * int(part)
        else:
            raise Unsupported(f"the index {text}")
    return Linear(terms, constant)
