"""Atomic loads, stores, read-modify-write, compare-and-swap and polls, lane by lane: x86 has no vector form."""

from __future__ import annotations

from collections.abc import Callable

from unify.compiler import mlir
from unify.compiler.cpu.codegen import nest
from unify.compiler.cpu.codegen.convert import narrowed, widened
from unify.compiler.cpu.codegen.emitter import BYTES, Index, Val
from unify.compiler.cpu.codegen.guard import guard
from unify.compiler.cpu.codegen.values import Kernel, Unsupported, element_of, is_tensor, shape_of, statement

# Triton's atomic_rmw_op numbers (TritonAttrDefs.td).
_OPERATION = {1: "and", 2: "or", 3: "xor", 4: "add", 5: "fadd", 6: "max", 7: "min", 8: "umax", 9: "umin", 10: "xchg"}
_CLOCK_MONOTONIC = 1  # Linux
_ORDER = {1: "monotonic", 2: "acquire", 3: "release", 4: "acq_rel"}


@statement("tt.atomic_rmw")
def read_modify_write(k: Kernel, op: mlir.Operation) -> None:
    kind = _OPERATION.get(op.integer("atomic_rmw_op"))
    element = element_of(op.operands[1].type)
    if kind is None:
        raise Unsupported("this atomic operation")
    order = _ORDER.get(op.integer("sem", 4), "acq_rel")

    def one(pointer: Val, operands: list[Val]) -> Val:
        if element in ("half", "bfloat") and kind == "fadd":
            return _add_narrow(k, pointer, operands[0], order)
        instruction = (
            f"atomicrmw {kind} ptr {k.em.text(pointer)}, {k.em.typed(operands[0])} {order}, align {BYTES[element]}"
        )
        return k.em.op(element, 1, instruction)

    _each_lane(k, op, op.operands[1:2], op.operands[2] if len(op.operands) > 2 else None, one)


def _add_narrow(k: Kernel, pointer: Val, value: Val, order: str) -> Val:
    """16-bit floats: the sum is formed in float, and tried until nobody came in between."""
    em, element = k.em, value.element
    failure = "monotonic" if order in ("monotonic", "release") else "acquire"
    slot, head, done = em.name("seen"), em.label("try"), em.label("added")
    em.allocas.append(f"  {slot} = alloca i16")
    wide = widened(k, value)
    address = em.text(pointer)
    em.line(f"store i16 {em.assign(f'load atomic i16, ptr {address} monotonic, align 2')}, ptr {slot}")
    em.branch(head)
    em.start(head)
    before = em.op("i16", 1, f"load i16, ptr {slot}")
    total = em.op("float", 1, f"fadd {em.typed(_float_of(k, before, element))}, {em.text(wide)}")
    bits = em.assign(f"bitcast {em.typed(narrowed(k, total, element))} to i16")
    pair = em.assign(f"cmpxchg ptr {address}, i16 {before.text}, i16 {bits} {order} {failure}, align 2")
    em.line(f"store i16 {em.assign(f'extractvalue {{ i16, i1 }} {pair}, 0')}, ptr {slot}")
    em.line(f"br i1 {em.assign(f'extractvalue {{ i16, i1 }} {pair}, 1')}, label %{done}, label %{head}")
    em.start(done)
    return em.op(element, 1, f"bitcast i16 {before.text} to {element}")


def _float_of(k: Kernel, bits: Val, element: str) -> Val:
    return widened(k, k.em.op(element, 1, f"bitcast i16 {k.em.text(bits)} to {element}"))


@statement("tt.atomic_cas")
def compare_and_swap(k: Kernel, op: mlir.Operation) -> None:
    element = element_of(op.operands[1].type)
    order = _ORDER.get(op.integer("sem", 4), "acq_rel")
    failure = {"monotonic": "monotonic", "acquire": "acquire", "release": "monotonic", "acq_rel": "acquire"}[order]
    bits = f"i{8 * BYTES[element]}"

    def one(pointer: Val, operands: list[Val]) -> Val:
        em = k.em
        expected, new = (
            em.text(v) if element == bits else em.assign(f"bitcast {em.typed(v)} to {bits}") for v in operands
        )
        pair = em.assign(
            f"cmpxchg ptr {em.text(pointer)}, {bits} {expected}, {bits} {new} {order} {failure}, align {BYTES[element]}"
        )
        old = em.op(bits, 1, f"extractvalue {{ {bits}, i1 }} {pair}, 0")
        return old if element == bits else em.op(element, 1, f"bitcast {em.typed(old)} to {element}")

    _each_lane(k, op, op.operands[1:3], None, one)


@statement("tt.atomic_load")
def load(k: Kernel, op: mlir.Operation) -> None:
    element = element_of(op.results[0].type)
    order = _ORDER.get(op.integer("sem", 2), "acquire")

    def one(pointer: Val, _: list[Val]) -> Val:
        return k.em.op(element, 1, f"load atomic {element}, ptr {k.em.text(pointer)} {order}, align {BYTES[element]}")

    _each_lane(k, op, [], op.operands[1], one)


@statement("tt.atomic_store")
def store(k: Kernel, op: mlir.Operation) -> None:
    order = _ORDER.get(op.integer("sem", 3), "release")

    def one(pointer: Val, operands: list[Val]) -> None:
        address, size = k.em.text(pointer), BYTES[operands[0].element]
        k.em.line(f"store atomic {k.em.typed(operands[0])}, ptr {address} {order}, align {size}")

    _each_lane(k, op, op.operands[1:2], op.operands[2], one)


@statement("tt.atomic_poll")
def poll(k: Kernel, op: mlir.Operation) -> None:
    """Loads until the expected number is there or the time is over; other threads may have the core in between."""
    em, order = k.em, _ORDER.get(op.integer("sem", 2), "acquire")
    em.declare("@sched_yield", "declare i32 @sched_yield()")
    deadline = None
    if len(op.operands) > 2:
        nest.flush_all(k)
        limit = em.text(k.scalar(op.operands[2]))
        deadline = em.assign(f"call i64 @llvm.uadd.sat.i64(i64 {_nanoseconds(k)}, i64 {limit})")
        em.declare("@llvm.uadd.sat.i64", "declare i64 @llvm.uadd.sat.i64(i64, i64)")

    def one(pointer: Val, operands: list[Val]) -> Val:
        address, expected, element = em.text(pointer), em.typed(operands[0]), operands[0].element
        head, again, done = em.label("poll"), em.label("again"), em.label("polled")
        em.branch(head)
        em.start(head)
        seen = em.assign(f"load atomic {element}, ptr {address} {order}, align {BYTES[element]}")
        is_there = em.assign(f"icmp eq {expected}, {seen}")
        em.line(f"br i1 {is_there}, label %{done}, label %{again}")
        em.start(again)
        em.line("call i32 @sched_yield()")
        if deadline is None:
            em.branch(head)
        else:
            em.line(f"br i1 {em.assign(f'icmp ult i64 {_nanoseconds(k)}, {deadline}')}, label %{head}, label %{done}")
        em.start(done)
        return Val("i1", 1, is_there)

    _each_lane(k, op, op.operands[1:2], None, one)


def _nanoseconds(k: Kernel) -> str:
    em, slot = k.em, k.em.name("now")
    em.declare("@clock_gettime", "declare i32 @clock_gettime(i32, ptr)")
    em.allocas.append(f"  {slot} = alloca {{ i64, i64 }}")
    em.line(f"call i32 @clock_gettime(i32 {_CLOCK_MONOTONIC}, ptr {slot})")
    now = em.assign(f"load {{ i64, i64 }}, ptr {slot}")
    seconds, rest = (em.assign(f"extractvalue {{ i64, i64 }} {now}, {i}") for i in (0, 1))
    return em.assign(f"add i64 {em.assign(f'mul i64 {seconds}, 1000000000')}, {rest}")


def _each_lane(
    k: Kernel, op: mlir.Operation, operands: list[mlir.Value], mask: mlir.Value | None, one: Callable[..., Val | None]
) -> None:
    """`one(pointer, values)` for each element that the mask lets through; its result, if any, is the operation's."""
    result = op.results[0] if op.results else None
    nest.flush_all(k)
    shape = shape_of(op.operands[0])
    tile = k.allocate(shape, element_of(result.type)) if result is not None and is_tensor(result) else None

    def body(at: list[Index]) -> None:
        here, ones = tuple(at), (1,) * len(shape)
        pointer = k.block(op.operands[0], here, ones)
        values = [k.block(v, here, ones) for v in operands]
        if mask is None or k.plan.bounds.is_always_true(mask):
            guard(k, op, pointer, None)
            old = one(pointer, values)
        else:
            condition = k.block(mask, here, ones)
            guard(k, op, pointer, condition)
            for v in (pointer, *values):
                k.em.text(v)
            old = _if(k, condition, result, lambda: one(pointer, values))
        if tile is not None and old is not None:
            k.tile_store(tile, here, ones, old)
        elif result is not None and old is not None:
            k.bindings[result] = old

    with k.em.nest():
        nest.for_each(k, [(extent, 1) for extent in shape], body, unrolled=1)
    if tile is not None and result is not None:
        k.bindings[result] = tile


def _if(k: Kernel, condition: Val, result: mlir.Value | None, action: Callable[[], Val | None]) -> Val | None:
    """What the action gives under the condition, else zero."""
    em = k.em
    if result is None:
        with em.conditional(condition):
            action()
        return None
    element, slot = element_of(result.type), em.name("old")
    em.allocas.append(f"  {slot} = alloca {element}")
    em.line(f"store {element} {'null' if element == 'ptr' else 'zeroinitializer'}, ptr {slot}")
    with em.conditional(condition):
        old = action()
        assert old is not None
        em.line(f"store {em.typed(old)}, ptr {slot}")
    return em.op(element, 1, f"load {element}, ptr {slot}")
