"""What a TTIR value is in the program being written, and how a block of its elements is brought into a register.

A tensor is either kept in memory (`Tile`) or computed where it is needed: `Kernel.block` evaluates any block of it,
so that chains of elementwise operations, broadcasts and reshapes melt into the loops of whoever consumes them.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from unify._errors import CompileError
from unify.compiler import mlir
from unify.compiler.cpu.codegen.emitter import BYTES, STORED, ZERO, Counter, Emitter, Index, Val

if TYPE_CHECKING:
    from unify.compiler.cpu.codegen.ahead import Ahead
    from unify.compiler.cpu.codegen.nest import Root
    from unify.compiler.cpu.processor import Features
    from unify.compiler.cpu.tiling import Plan

_LLVM = {"f16": "half", "bf16": "bfloat", "f32": "float", "f64": "double", "index": "i64"}
# A tile larger than this would not be a tile any more; the second-level cache holds 1-2 MiB.
LARGEST_TILE = 16 << 20
# A tile of up to so many registers is a variable: what walks over it is written out, so that LLVM can take it apart.
REGISTERS = 8


@dataclass(eq=False)
class Tile:
    """A tensor in memory, row-major or along another axis; [k / group][n][group] where a dot instruction wants that.

    It lies in the scratch arena, or where a few registers hold it, in a variable that LLVM turns into these.
    """

    offset: int
    shape: tuple[int, ...]
    element: str
    group: int = 1
    gap: int = 0  # elements left out behind each row
    base: str = "%scratch"
    fastest: int | None = None  # the axis whose elements are neighbours, if not the last

    @property
    def stored(self) -> str:
        return STORED.get(self.element, self.element)

    @property
    def bytes(self) -> int:
        return int(np.prod(self.extents, dtype=np.int64)) * BYTES[self.element]

    @property
    def order(self) -> tuple[int, ...]:
        """The axes, slowest first."""
        axes = range(len(self.shape))
        return tuple(axes) if self.fastest is None else (*(a for a in axes if a != self.fastest), self.fastest)

    @property
    def extents(self) -> tuple[int, ...]:
        """The shape in memory, the slowest axis first, gaps included."""
        shape = tuple(self.shape[a] for a in self.order)
        return (*shape[:-1], shape[-1] + self.gap) if self.gap else shape

    @property
    def strides(self) -> tuple[int, ...]:
        """From element to element along each axis."""
        found = dict(zip(self.order, row_major(self.extents)))
        return tuple(found[a] for a in range(len(self.shape)))

    def lanes(self, block: Sequence[int]) -> list[int]:
        """The lanes of a register that holds a block, in the order of memory."""
        lanes = np.arange(math.prod(block)).reshape(block)
        return [int(lane) for lane in lanes.transpose(self.order).ravel()]


@dataclass(eq=False)
class Advance:
    """A loop-carried tensor that grows by `step` each round: start + round · step, never stored."""

    start: mlir.Value
    step: mlir.Value
    round: mlir.Value


Binding = Val | Tile | Advance


def element_of(type_: mlir.Type) -> str:
    """The LLVM name of a scalar's or a tensor's element type."""
    if isinstance(type_, mlir.Tensor):
        type_ = type_.element
    if isinstance(type_, mlir.Pointer):
        return "ptr"
    name = _LLVM.get(str(type_), str(type_))
    if name.startswith("f8"):
        return "i8"  # LLVM has no such type; only conversions look inside
    if name not in BYTES:
        raise Unsupported(f"the type {type_}")
    return name


def shape_of(value: mlir.Value) -> tuple[int, ...]:
    return value.type.shape if isinstance(value.type, mlir.Tensor) else ()


def is_tensor(value: mlir.Value) -> bool:
    return isinstance(value.type, mlir.Tensor)


class Unsupported(Exception):
    """What cannot be compiled, and what to write in its place; becomes a CompileError where the operation is known."""

    def __init__(self, what: str, advice: str = "") -> None:
        super().__init__(what)
        self.what, self.advice = what, advice


Inline = Callable[["Kernel", mlir.Operation, int, tuple[Index, ...], tuple[int, ...]], Val]
Elementwise = Callable[["Kernel", mlir.Operation, list[Val]], Val]
Statement = Callable[["Kernel", mlir.Operation], None]

Rule = TypeVar("Rule")

# Operation name → how it is evaluated for a block of its result; on equal blocks of its operands; as a statement.
INLINE: dict[str, Inline] = {}
ELEMENTWISE: dict[str, Elementwise] = {}
STATEMENT: dict[str, Statement] = {}


def inline(*names: str) -> Callable[[Inline], Inline]:
    """Registers the function that evaluates these operations for a block of their result."""
    return _registrar(INLINE, names)


def elementwise(*names: str) -> Callable[[Elementwise], Elementwise]:
    """Registers the function that computes these operations from equal blocks of their operands."""
    return _registrar(ELEMENTWISE, names)


def statement(*names: str) -> Callable[[Statement], Statement]:
    """Registers the function that writes these operations where they stand."""
    return _registrar(STATEMENT, names)


def _registrar(table: dict[str, Rule], names: tuple[str, ...]) -> Callable[[Rule], Rule]:
    def register(rule: Rule) -> Rule:
        table.update(dict.fromkeys(names, rule))
        return rule

    return register


@dataclass(eq=False)
class Kernel:
    """Everything known while one function is written."""

    em: Emitter
    features: Features
    plan: Plan
    bindings: dict[mlir.Value, Binding] = field(default_factory=dict)
    packed: dict[tuple[mlir.Value, str], Tile] = field(default_factory=dict)
    pending: list[list[Root]] = field(default_factory=list)
    evaluating: set[mlir.Value] = field(default_factory=set)
    arguments: dict[mlir.Value, int] = field(default_factory=dict)
    origins: dict[mlir.Value, frozenset[int]] | None = None  # of pointers, if accesses are checked (guard.py)
    whole: frozenset[mlir.Value] = frozenset()  # masks that hold everywhere in what is being written (whole.py)
    is_streaming: bool = False  # stores go past the caches (streaming.py)
    # Where the next round reads what is packed, by that or by its product (ahead.py).
    ahead: dict[mlir.Value | mlir.Operation, Ahead] = field(default_factory=dict)
    closing: str = ""  # what a call does behind its last program
    scratch_top: int = 64  # the first line takes the loads that a mask switched off
    scratch_bytes: int = 64
    state: dict[object, Any] = field(default_factory=dict)

    # ------------------------------------------------ memory

    def allocate_for(self, value: mlir.Value) -> Tile:
        """Memory for a tensor of the program."""
        return self.allocate(shape_of(value), element_of(value.type), fastest=self.plan.fastest.get(value))

    def allocate(self, shape: Sequence[int], element: str, group: int = 1, fastest: int | None = None) -> Tile:
        tile = Tile(self.scratch_top, tuple(shape), element, group, fastest=fastest)
        tile.gap = _gap(tile.extents, 4 if group > 1 else BYTES[element])
        if tile.bytes > LARGEST_TILE:
            raise Unsupported(
                f"a tile of {list(shape)} {element} ({tile.bytes >> 20} MiB; the limit is {LARGEST_TILE >> 20} MiB)",
                "use smaller block sizes",
            )
        if tile.bytes <= REGISTERS * self.features.vector_bytes:
            return replace(tile, offset=0, base=self._variable(tile))
        self.scratch_top += (tile.bytes + 63) // 64 * 64
        self.scratch_bytes = max(self.scratch_bytes, self.scratch_top)
        return tile

    def _variable(self, tile: Tile) -> str:
        name = self.em.name("tile")
        self.em.allocas.append(f"  {name} = alloca [{tile.bytes} x i8], align 64")
        return name

    def tile_address(self, tile: Tile, element: int | Val = 0) -> str:
        """A pointer to an element of the tile, by its number."""
        em, size = self.em, BYTES[tile.element]
        if isinstance(element, int):
            return em.assign(f"getelementptr i8, ptr {tile.base}, i64 {tile.offset + element * size}")
        base = em.assign(f"getelementptr i8, ptr {tile.base}, i64 {tile.offset}")
        return em.assign(f"getelementptr {tile.stored}, ptr {base}, i64 {em.text(element)}")

    # ------------------------------------------------ indices

    def number(self, index: Index) -> Val:
        """An index as an i64."""
        if not index.terms:
            return self.em.integer(index.constant)
        found = self.em.find(index)
        if found is not None:
            return found  # type: ignore[return-value]
        with self.em.at_depth(self.em.depth_of([index])):
            total = ""
            for counter, factor in index.terms:
                term = counter if factor == 1 else self.em.assign(f"mul nuw nsw i64 {counter}, {factor}")
                total = term if not total else self.em.assign(f"add nuw nsw i64 {total}, {term}")
            if index.constant:
                total = self.em.assign(f"add nsw i64 {total}, {index.constant}")
            value = Val("i64", 1, total)
            self.em.remember(index, value)
        return value

    def combine(self, at: Sequence[Index], strides: Sequence[int]) -> Index:
        """The linear index of a position."""
        terms: dict[str, int] = {}
        constant = 0
        for index, stride in zip(at, strides):
            constant += index.constant * stride
            for counter, factor in index.terms:
                terms[counter] = terms.get(counter, 0) + factor * stride
        return Index(tuple(terms.items()), constant)

    def alignment(self, index: Index) -> int:
        """A power of two that divides the index."""
        bits = index.constant | (1 << 30)
        for counter, factor in index.terms:
            bits |= factor * self.em.counters[counter].step
        return bits & -bits

    def divide(self, linear: Index, stride: int, extent: int) -> Index:
        """(linear // stride) % extent for powers of two; counters own disjoint bits of a linear index."""
        terms = []
        for counter, factor in linear.terms:
            known = self.em.counters[counter]
            if factor * known.stop <= stride or factor * known.step >= stride * extent:
                continue
            if factor % stride == 0 and factor * known.stop <= stride * extent:
                terms.append((counter, factor // stride))
            else:
                terms.append((self._bits(counter, factor, stride, extent), 1))
        return Index(tuple(terms), linear.constant // stride % extent)

    def _bits(self, counter: str, factor: int, stride: int, extent: int) -> str:
        key = ("bits", counter, factor, stride, extent)
        found = self.em.find(key)
        if found is not None:
            return str(found)
        known = self.em.counters[counter]
        with self.em.at_depth(known.depth):
            scaled = self.em.assign(f"mul nuw nsw i64 {counter}, {factor}")
            shifted = self.em.assign(f"lshr i64 {scaled}, {stride.bit_length() - 1}")
            name = self.em.assign(f"and i64 {shifted}, {extent - 1}")
            step = max(1, factor * known.step // stride)
            self.em.counters[name] = Counter(known.depth, step, min(extent, factor * known.stop // stride))
            self.em.remember(key, name)
        return name

    # ------------------------------------------------ values

    def scalar(self, value: mlir.Value) -> Val:
        """A TTIR scalar, or the only element of a tensor."""
        return self.block(value, tuple(ZERO for _ in shape_of(value)), tuple(1 for _ in shape_of(value)))

    def block(self, value: mlir.Value, at: tuple[Index, ...], block: tuple[int, ...]) -> Val:
        """The elements [at, at + block) of `value`, row-major, in one register."""
        bound = self.bindings.get(value)
        if isinstance(bound, Val):
            return bound
        if (value in self.evaluating and isinstance(bound, Tile)) or value in self.whole:
            bound = None  # the nest that fills the tile has the value itself at hand, and what holds needs no memory
        key = (value, at, block)
        found = self.em.find(key)
        if found is not None:
            return found  # type: ignore[return-value]
        with self.em.at_depth(self.em.depth_of(at)):
            if isinstance(bound, Tile):
                result = self.tile_block(bound, at, block)
            elif isinstance(bound, Advance):
                result = self._advanced(value, bound, at, block)
            else:
                result = self._inline(value, at, block)
            self.em.remember(key, result)
        return result

    def _inline(self, value: mlir.Value, at: tuple[Index, ...], block: tuple[int, ...]) -> Val:
        op = value.owner
        if not isinstance(op, mlir.Operation):
            raise AssertionError(f"{value} is not bound")
        if value in self.whole or self.plan.bounds.is_always_true(
            value
        ):  # what is left of a mask may hold for all lanes or for none
            return self.em.splat(Val("i1", 1, "true"), math.prod(block))
        simple = ELEMENTWISE.get(op.name)
        if op in self.plan.accumulations:
            simple = None
        if simple is not None:
            return self.apply(op, simple, [self.block(operand, at, block) for operand in op.operands])
        function = INLINE.get(op.name)
        if function is None:
            raise self.error(op, f"{op.name} is not supported by the CPU target")
        try:
            return function(self, op, value.index, at, block)
        except Unsupported as problem:
            raise self.error(op, problem.what, problem.advice) from None

    def apply(self, op: mlir.Operation, function: Elementwise, operands: list[Val]) -> Val:
        """An elementwise operation; on scalars if all operands only repeat one."""
        try:
            if operands and operands[0].lanes > 1 and all(v.repeats is not None for v in operands):
                scalars: list[Val] = [v.repeats for v in operands if v.repeats is not None]
                return self.em.splat(function(self, op, scalars), operands[0].lanes)
            return function(self, op, operands)
        except Unsupported as problem:
            raise self.error(op, f"{op.name}: {problem.what}", problem.advice) from None

    def _advanced(self, value: mlir.Value, bound: Advance, at: tuple[Index, ...], block: tuple[int, ...]) -> Val:
        """start + rounds · step, element by element; loads of such pointers use the linear form instead."""
        em, element = self.em, element_of(value.type)
        start, step = self.block(bound.start, at, block), self.block(bound.step, at, block)
        rounds, width = self.scalar(bound.round), element if element != "ptr" else "i64"
        if width == "i64":
            rounds = em.op("i64", 1, f"sext {em.typed(rounds)} to i64")
            if step.element != "i64":
                to = "i64" if step.lanes == 1 else f"<{step.lanes} x i64>"
                step = em.op("i64", step.lanes, f"sext {em.typed(step)} to {to}")
        moved = em.op(width, step.lanes, f"mul {em.typed(step)}, {em.text(em.splat(rounds, step.lanes))}")
        if element != "ptr":
            return em.op(element, step.lanes, f"add {em.typed(start)}, {em.text(moved)}")
        assert isinstance(value.type, mlir.Tensor)
        assert isinstance(value.type.element, mlir.Pointer)
        pointee = element_of(value.type.element.pointee)
        return em.op(
            "ptr", step.lanes, f"getelementptr {STORED.get(pointee, pointee)}, {em.typed(start)}, {em.typed(moved)}"
        )

    # ------------------------------------------------ blocks of tiles

    def tile_block(self, tile: Tile, at: Sequence[Index], block: Sequence[int]) -> Val:
        if not tile.shape:
            return self._tile_load(tile, ZERO, 1)
        strides = row_major(tile.extents)
        start, pieces = [at[a] for a in tile.order], linear_pieces(tile.extents, [block[a] for a in tile.order])
        parts = [
            self._tile_load(tile, self.combine([a + o for a, o in zip(start, offset)], strides), lanes)
            for offset, lanes in pieces
        ]
        value = self.em.concat(parts)
        return value if tile.fastest is None else self.em.shuffle(value, np.argsort(tile.lanes(block)).tolist())

    def _tile_load(self, tile: Tile, index: Index, lanes: int) -> Val:
        em = self.em
        address = self.tile_address(tile, self.number(index) if index.terms else index.constant)
        aligned = self._tile_alignment(tile, index, lanes)
        type_ = tile.stored if lanes == 1 else f"<{lanes} x {tile.stored}>"
        return self.from_stored(
            em.op(tile.stored, lanes, f"load {type_}, ptr {address}, align {aligned}"), tile.element
        )

    def from_stored(self, value: Val, element: str) -> Val:
        """A value as memory has it → as the program sees it."""
        if value.element == element:
            return value
        how = "trunc" if element == "i1" else "bitcast"
        type_ = element if value.lanes == 1 else f"<{value.lanes} x {element}>"
        return self.em.op(element, value.lanes, f"{how} {self.em.typed(value)} to {type_}")

    def to_stored(self, value: Val) -> Val:
        """The other way."""
        element = STORED.get(value.element)
        if element is None:
            return value
        how = "zext" if value.element == "i1" else "bitcast"
        type_ = element if value.lanes == 1 else f"<{value.lanes} x {element}>"
        return self.em.op(element, value.lanes, f"{how} {self.em.typed(value)} to {type_}")

    def tile_store(self, tile: Tile, at: Sequence[Index], block: Sequence[int], value: Val) -> None:
        em = self.em
        value = self.to_stored(value)
        if tile.fastest is not None:
            value = em.shuffle(value, tile.lanes(block))
        strides, start = row_major(tile.extents), 0
        first = [at[a] for a in tile.order]
        for offset, lanes in linear_pieces(tile.extents, [block[a] for a in tile.order]):
            index = self.combine([a + o for a, o in zip(first, offset)], strides)
            part = value if lanes == value.lanes else em.slice(value, start, lanes)
            start += lanes
            address = self.tile_address(tile, self.number(index) if index.terms else index.constant)
            em.line(f"store {em.typed(part)}, ptr {address}, align {self._tile_alignment(tile, index, lanes)}")

    def _tile_alignment(self, tile: Tile, index: Index, lanes: int) -> int:
        """Of an element and what follows it; a tile starts at a cache line."""
        size = BYTES[tile.element]
        return max(size, min(64, size * min(lanes, self.alignment(index))))

    # ------------------------------------------------ errors

    def error(self, op: mlir.Operation, what: str, advice: str = "") -> CompileError:
        return compile_error(op, what, advice)


def _gap(shape: Sequence[int], size: int) -> int:
    """A cache line behind each row of a deep tile whose rows are a power of two long, in elements of that size.

    Products go down a few columns at a time. Without the gap these lie in a few sets of the caches, which do not hold
    them until the next columns, or the next round, come.
    """
    is_deep = len(shape) > 1 and shape[-2] >= 32 and shape[-1] * size % 512 == 0
    return 64 // size if is_deep else 0


class Slot:
    """A scalar that several ways through the program leave for what comes behind; LLVM makes registers of it."""

    def __init__(self, k: Kernel, type_: mlir.Type) -> None:
        self.element = element_of(type_)
        self.address = k.em.name("slot")
        k.em.allocas.append(f"  {self.address} = alloca {self.element}")

    def put(self, k: Kernel, value: Val) -> None:
        k.em.line(f"store {k.em.typed(value)}, ptr {self.address}")

    def get(self, k: Kernel) -> Val:
        return Val(self.element, 1, k.em.assign(f"load {self.element}, ptr {self.address}"))


def compile_error(op: mlir.Operation, what: str, advice: str = "") -> CompileError:
    message = f"{op.location}: {what}." + (f" {advice[0].upper()}{advice[1:]}." if advice else "")
    error = CompileError(message)
    error.file, error.line, error.reason = op.location.file, op.location.line, what
    return error


def row_major(shape: Sequence[int]) -> tuple[int, ...]:
    strides, total = [], 1
    for extent in reversed(shape):
        strides.append(total)
        total *= extent
    return tuple(reversed(strides))


def linear_pieces(shape: Sequence[int], block: Sequence[int]) -> Iterator[tuple[tuple[int, ...], int]]:
    """Splits a block of a row-major array into runs of consecutive elements: (offset in the block, length)."""
    axis = len(shape)
    lanes = 1
    while axis > 0:  # trailing axes that the block covers whole, and one more
        axis -= 1
        lanes *= block[axis]
        if block[axis] != shape[axis]:
            break
    for offset in np.ndindex(*block[:axis]):
        yield (*offset, *(0 for _ in shape[axis:])), lanes
