"""tt.map_elementwise: a region of scalar code, with any control flow, run for each element."""

from __future__ import annotations

from unify.compiler import mlir
from unify.compiler.cpu.codegen import control, nest
from unify.compiler.cpu.codegen.emitter import Index, Val
from unify.compiler.cpu.codegen.values import Kernel, element_of, inline, shape_of, statement


@statement("tt.map_elementwise")
def map_elementwise(k: Kernel, op: mlir.Operation) -> None:
    """`pack` neighbours at a time: the region takes them operand by operand, and yields them result by result."""
    pack, shape, region = op.integer("pack", 1), shape_of(op.operands[0]), op.regions[0]
    nest.settle(k, op.operands)
    nest.flush_all(k)
    tiles = [k.allocate(shape, element_of(v.type)) for v in op.results]
    ones = (1,) * len(shape)

    def body(at: list[Index]) -> None:
        places = [(*at[:-1], at[-1] + i) for i in range(pack)]
        given = [k.block(v, place, ones) for v in op.operands for place in places]
        for argument, value in zip(region.entry.arguments, given):
            k.bindings[argument] = Val(value.element, 1, k.em.text(value))
        k.state["mapped"] = (tiles, places, k.em.label("mapped"))
        control.run_blocks(k, region)
        k.em.start(k.state["mapped"][2])

    with k.em.nest():
        steps = [*((extent, 1) for extent in shape[:-1]), (shape[-1], pack)]
        nest.for_each(k, steps, body, unrolled=1)
    for value, tile in zip(op.results, tiles):
        k.bindings[value] = tile


@statement("tt.map_elementwise.return")
def mapped(k: Kernel, op: mlir.Operation) -> None:
    tiles, places, after = k.state["mapped"]
    for i, value in enumerate(op.operands):
        tile, place = tiles[i // len(places)], places[i % len(places)]
        k.tile_store(tile, place, (1,) * len(place), k.scalar(value))
    k.em.branch(after)


@inline("ub.poison")
def poison(k: Kernel, op: mlir.Operation, _: int, at: tuple[Index, ...], block: tuple[int, ...]) -> Val:
    """Nobody may look at it, so any value does."""
    from unify.compiler.cpu.codegen.arith import literal

    lanes = 1
    for extent in block:
        lanes *= extent
    element = element_of(op.results[0].type)
    return k.em.splat(Val(element, 1, literal(0, element)), lanes)
