"""tt.gather and tt.histogram: element by element through memory."""

from __future__ import annotations

from unify.compiler import mlir
from unify.compiler.cpu.codegen import nest
from unify.compiler.cpu.codegen.convert import cast
from unify.compiler.cpu.codegen.emitter import BYTES, Index, Val
from unify.compiler.cpu.codegen.values import Kernel, Tile, element_of, inline, shape_of, statement

Position = tuple[Index, ...]
Block = tuple[int, ...]


@statement("tt.gather")
def gather(k: Kernel, op: mlir.Operation) -> None:
    source = op.operands[0]
    nest.settle(k, [source])
    nest.flush_all(k)
    tile = k.bindings.get(source)
    if not isinstance(tile, Tile):  # a copy for this gather alone: in a loop its memory is free again afterwards
        tile = k.allocate(shape_of(source), element_of(source.type))
        nest.fill(k, source, tile)
        nest.flush_all(k)
    k.state["gathered", op] = tile
    nest.store_value(k, op.results[0])
    nest.flush_all(k)


@inline("tt.gather")
def gathered(k: Kernel, op: mlir.Operation, _: int, at: Position, block: Block) -> Val:
    """source[…, index, …], an index a lane."""
    em, tile = k.em, k.state["gathered", op]
    axis, strides = op.integer("axis"), tile.strides
    where = k.block(op.operands[1], at, block)
    parts = []
    for lane, offset in enumerate(_positions(block)):
        fixed = [index + o for a, (index, o) in enumerate(zip(at, offset)) if a != axis]
        rest = k.combine(fixed, [stride for a, stride in enumerate(strides) if a != axis])
        along = cast(k, "zext", em.extract(where, lane), "i64")
        scaled = em.assign(f"mul i64 {em.text(along)}, {strides[axis]}")
        number = Val("i64", 1, em.assign(f"add i64 {scaled}, {em.text(k.number(rest))}"))
        address = k.tile_address(tile, number)
        text = f"load {tile.stored}, ptr {address}, align {BYTES[tile.element]}"
        parts.append(k.from_stored(em.op(tile.stored, 1, text), tile.element))
    return em.concat(parts)


def _positions(block: Block) -> list[tuple[int, ...]]:
    import numpy as np

    return list(np.ndindex(*block))


@statement("tt.histogram")
def histogram(k: Kernel, op: mlir.Operation) -> None:
    """Counts; values outside of the bins are the caller's mistake and are left out."""
    em, source = k.em, op.operands[0]
    mask = op.operands[1] if len(op.operands) > 1 else None
    element, (bins,) = element_of(op.results[0].type), shape_of(op.results[0])
    tile = k.allocate((bins,), element)
    nest.settle(k, op.operands)
    nest.flush_all(k)
    em.declare("@llvm.memset.p0.i64", "declare void @llvm.memset.p0.i64(ptr, i8, i64, i1)")
    em.line(f"call void @llvm.memset.p0.i64(ptr align 64 {k.tile_address(tile)}, i8 0, i64 {tile.bytes}, i1 false)")

    def body(at: list[Index]) -> None:
        value = k.block(source, tuple(at), (1,))
        inside = em.op("i1", 1, f"icmp ult {em.typed(value)}, {bins}")
        if mask is not None:
            both = f"and {em.typed(inside)}, {em.text(k.block(mask, tuple(at), (1,)))}"
            inside = em.op("i1", 1, both)
        with em.conditional(inside):
            address = k.tile_address(tile, cast(k, "zext", value, "i64"))
            before = em.assign(f"load {element}, ptr {address}")
            em.line(f"store {element} {em.assign(f'add {element} {before}, 1')}, ptr {address}")

    with em.nest():
        nest.for_each(k, [(shape_of(source)[0], 1)], body, unrolled=1)
    k.bindings[op.results[0]] = tile
