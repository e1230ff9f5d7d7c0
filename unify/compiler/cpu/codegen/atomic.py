"""Atomic read-modify-write and compare-and-swap, lane by lane: x86 has no vector form."""

from __future__ import annotations

from unify.compiler import mlir
from unify.compiler.cpu.codegen import nest
from unify.compiler.cpu.codegen.convert import narrowed, widened
from unify.compiler.cpu.codegen.emitter import BYTES, Index, Val
from unify.compiler.cpu.codegen.guard import guard
from unify.compiler.cpu.codegen.values import Kernel, Tile, Unsupported, element_of, is_tensor, shape_of, statement

# Triton's atomic_rmw_op numbers (TritonAttrDefs.td).
_OPERATION = {1: "and", 2: "or", 3: "xor", 4: "add", 5: "fadd", 6: "max", 7: "min", 8: "umax", 9: "umin", 10: "xchg"}
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


def _each_lane(k: Kernel, op: mlir.Operation, operands: list[mlir.Value], mask: mlir.Value | None, one: object) -> None:
    em, result = k.em, op.results[0]
    element = element_of(result.type)
    nest.flush_all(k)
    shape = shape_of(op.operands[0])
    tile = k.allocate(shape, element) if is_tensor(result) else None
    slot = em.name("old")
    em.allocas.append(f"  {slot} = alloca {element}")

    def body(at: list[Index]) -> None:
        here, ones = tuple(at), (1,) * len(shape)
        pointer = k.block(op.operands[0], here, ones)
        values = [k.block(v, here, ones) for v in operands]
        if mask is None or k.plan.bounds.is_always_true(mask):
            guard(k, op, pointer, None)
            _keep(k, tile, here, ones, op, one(pointer, values))  # type: ignore[operator]
            return
        condition = k.block(mask, here, ones)
        guard(k, op, pointer, condition)
        for v in (pointer, *values):
            em.text(v)
        em.line(f"store {element} {'null' if element == 'ptr' else 'zeroinitializer'}, ptr {slot}")
        with em.conditional(condition):
            em.line(f"store {em.typed(one(pointer, values))}, ptr {slot}")  # type: ignore[operator]
        old = em.op(element, 1, f"load {element}, ptr {slot}")
        _keep(k, tile, here, ones, op, old)

    with em.nest():
        nest.for_each(k, [(extent, 1) for extent in shape], body, unrolled=1)
    if tile is not None:
        k.bindings[result] = tile


def _keep(
    k: Kernel, tile: Tile | None, at: tuple[Index, ...], ones: tuple[int, ...], op: mlir.Operation, old: Val
) -> None:
    if tile is None:
        k.bindings[op.results[0]] = old
    else:
        k.tile_store(tile, at, ones, old)
