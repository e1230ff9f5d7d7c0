"""Loops and branches. What they hand on lies in slots, which LLVM makes registers of; temporaries are copied."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from unify.compiler import mlir
from unify.compiler.cpu.codegen.emitter import BYTES, Val
from unify.compiler.cpu.codegen.values import element_of

from . import buffers, loops
from .buffers import Buffer, Size
from .memory import Carry, handed_by, starts_of
from .program import Program, statement

Bound = Val | Buffer


class Slot:
    """A value that several ways through the program leave for what comes behind."""

    def __init__(self, p: Program, value: mlir.Value) -> None:
        self.p, self.value = p, value
        self.type = buffers.buffer_type(value)
        if self.type is None:
            self.parts = [self._part(element_of(value.type))]
            return
        layout = self.type.strides or ()
        unknown = [self.type.offset, *self.type.shape, *layout].count(mlir.DYNAMIC)
        self.parts = [self._part("ptr"), *(self._part("i64") for _ in range(unknown))]

    def _part(self, element: str) -> tuple[str, str]:
        name = self.p.em.name("slot")
        self.p.em.allocas.append(f"  {name} = alloca {element}, align {BYTES[element]}")
        return name, element

    def put(self, bound: Bound) -> None:
        em = self.p.em
        if isinstance(bound, Val):
            em.line(f"store {em.typed(bound)}, ptr {self.parts[0][0]}")
            return
        assert self.type is not None
        known = [self.type.offset, *self.type.shape, *(self.type.strides or ())]
        actual: list[Size] = [bound.offset, *bound.shape, *bound.strides]
        handed = [bound.base, *(a for a, n in zip(actual, known) if n == mlir.DYNAMIC)]
        for (name, element), size in zip(self.parts, handed, strict=True):
            em.line(f"store {element} {size}, ptr {name}")

    def get(self) -> Bound:
        loaded = [self.p.em.assign(f"load {element}, ptr {name}") for name, element in self.parts]
        if self.type is None:
            return Val(self.parts[0][1], 1, loaded[0])
        rest = iter(loaded[1:])
        offset = next(rest) if self.type.offset == mlir.DYNAMIC else self.type.offset
        shape = tuple(next(rest) if n == mlir.DYNAMIC else n for n in self.type.shape)
        strides: tuple[Size, ...]
        if self.type.strides is None:
            strides = _row_major(self.p, shape)
        else:
            strides = tuple(next(rest) if n == mlir.DYNAMIC else n for n in self.type.strides)
        return Buffer(loaded[0], element_of(self.type.element), shape, strides, offset)


def _row_major(p: Program, shape: Sequence[Size]) -> tuple[Size, ...]:
    strides: list[Size] = []
    step: Size = 1
    for extent in reversed(shape):
        strides.insert(0, step)
        step = buffers.multiply(p, step, extent)
    return tuple(strides)


class Carried:
    """The values that a loop hands from one iteration to the next."""

    def __init__(self, p: Program, loop: mlir.Operation, arguments: Sequence[mlir.Value]) -> None:
        self.p, self.loop, self.arguments = p, loop, arguments
        self.places: dict[int, Buffer] = {}
        self.slots: dict[int, Slot] = {}
        for i, argument in enumerate(arguments):
            type_ = buffers.buffer_type(argument)
            if type_ is not None and p.memory.is_carried(loop, i):
                self.places[i] = buffers.whole(p.place(Carry(loop, i)), type_)
            else:
                self.slots[i] = Slot(p, argument)

    def put(self, bounds: Sequence[Bound]) -> None:
        """Hands over: nothing is overwritten that is still to be handed over itself."""
        p = self.p
        for i, slot in self.slots.items():
            slot.put(bounds[i])
        copies = []
        for i, place in self.places.items():
            source = bounds[i]
            assert isinstance(source, Buffer)
            spare = Carry(self.loop, i, is_spare=True)
            if spare in p.memory.places and not source.is_same_place(place):
                kept = replace(place, base=p.place(spare))
                loops.copy(p, source, kept)
                source = kept
            copies.append((source, place))
        for source, place in copies:
            loops.copy(p, source, place)

    def get(self) -> list[Bound]:
        return [self.places[i] if i in self.places else self.slots[i].get() for i in range(len(self.arguments))]


def _bounds(p: Program, values: Sequence[mlir.Value]) -> list[Bound]:
    return [p.values[v] for v in values]


@statement("scf.for")
def for_(p: Program, op: mlir.Operation) -> None:
    em, (lower, upper, step) = p.em, (p.value(v) for v in op.operands[:3])
    body, element = op.regions[0].entry, element_of(op.operands[0].type)
    counter, carried = Slot(p, body.arguments[0]), Carried(p, op, body.arguments[1:])
    counter.put(lower)
    carried.put(_bounds(p, starts_of(op)))
    head, inside, after = em.label("for"), em.label("do"), em.label("done")
    em.branch(head)
    em.start(head)
    current = counter.get()
    assert isinstance(current, Val)
    order = "ult" if op.boolean("unsignedCmp") else "slt"
    more = em.assign(f"icmp {order} {element} {em.text(current)}, {em.text(upper)}")
    em.line(f"br i1 {more}, label %{inside}, label %{after}")
    em.start(inside)
    p.values[body.arguments[0]] = current
    p.values.update(zip(body.arguments[1:], carried.get()))
    p.run_block(body)
    carried.put(_bounds(p, handed_by(op)))
    counter.put(Val(element, 1, em.assign(f"add {element} {em.text(current)}, {em.text(step)}")))
    em.branch(head)
    em.start(after)
    p.values.update(zip(op.results, carried.get()))


@statement("scf.while")
def while_(p: Program, op: mlir.Operation) -> None:
    em, (before, after) = p.em, (region.entry for region in op.regions)
    carried = Carried(p, op, before.arguments)
    carried.put(_bounds(p, starts_of(op)))
    head, inside, done = em.label("while"), em.label("do"), em.label("done")
    em.branch(head)
    em.start(head)
    p.values.update(zip(before.arguments, carried.get()))
    p.run_block(before)
    condition, *passed = before.operations[-1].operands
    bounds = _bounds(p, passed)
    em.line(f"br i1 {em.text(p.value(condition))}, label %{inside}, label %{done}")
    em.start(inside)
    p.values.update(zip(after.arguments, bounds))
    p.run_block(after)
    carried.put(_bounds(p, handed_by(op)))
    em.branch(head)
    em.start(done)
    p.values.update(zip(op.results, bounds))


@statement("scf.if")
def if_(p: Program, op: mlir.Operation) -> None:
    em, slots = p.em, [Slot(p, r) for r in op.results]
    inside, other, after = em.label("then"), em.label("else"), em.label("endif")
    em.line(f"br i1 {em.text(p.value(op.operands[0]))}, label %{inside}, label %{other}")
    for label, region in zip((inside, other), op.regions):
        em.start(label)
        if region.entry.operations:
            p.run_block(region.entry)
            for slot, bound in zip(slots, _bounds(p, region.entry.operations[-1].operands)):
                slot.put(bound)
        em.branch(after)
    em.start(after)
    p.values.update((r, _known(slot.get(), op, i, p)) for i, (r, slot) in enumerate(zip(op.results, slots)))


def _known(bound: Bound, op: mlir.Operation, number: int, p: Program) -> Bound:
    """A buffer that is a temporary of ours on each way is one."""
    if isinstance(bound, Val):
        return bound
    ways = [p.values[region.entry.operations[-1].operands[number]] for region in op.regions]
    return replace(bound, is_ours=all(isinstance(way, Buffer) and way.is_ours for way in ways))


@statement("scf.execute_region")
def region(p: Program, op: mlir.Operation) -> None:
    p.run_block(op.regions[0].entry)
    p.values.update(zip(op.results, _bounds(p, op.regions[0].entry.operations[-1].operands)))


@statement("arith.select")
def select(p: Program, op: mlir.Operation) -> None:
    """Of numbers, as the CPU compiler does it; of buffers, one of two addresses."""
    a, b = (p.values[v] for v in op.operands[1:])
    if isinstance(a, Val):
        p.compute(op)
        return
    assert isinstance(b, Buffer)
    em, condition = p.em, p.em.text(p.value(op.operands[0]))

    def either(x: Size, y: Size) -> Size:
        return x if x == y else em.assign(f"select i1 {condition}, i64 {x}, i64 {y}")

    base = em.assign(f"select i1 {condition}, ptr {a.base}, ptr {b.base}")
    shape = tuple(either(x, y) for x, y in zip(a.shape, b.shape))
    strides = tuple(either(x, y) for x, y in zip(a.strides, b.strides))
    p.values[op.results[0]] = Buffer(
        base, a.element, shape, strides, either(a.offset, b.offset), a.is_ours and b.is_ours
    )
