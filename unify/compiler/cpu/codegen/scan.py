"""tt.scan: running results along an axis; lanes hold the other axes where there are enough of them."""

from __future__ import annotations

from unify.compiler import mlir
from unify.compiler.cpu.codegen import nest, reduce
from unify.compiler.cpu.codegen.emitter import ZERO, Index
from unify.compiler.cpu.codegen.values import Kernel, element_of, shape_of, statement


@statement("tt.scan")
def scan(k: Kernel, op: mlir.Operation) -> None:
    nest.settle(k, op.operands)
    nest.flush_all(k)
    axis, backwards, shape = op.integer("axis"), op.boolean("reverse"), shape_of(op.operands[0])
    others = [a for a in range(len(shape)) if a != axis]
    lanes_axis = others[-1] if others else None
    lanes = min(shape[lanes_axis], k.features.vector_bytes // 4) if lanes_axis is not None else 1
    block = tuple(lanes if a == lanes_axis else 1 for a in range(len(shape)))
    tiles = [k.allocate(shape, element_of(v.type)) for v in op.results]

    def body(position: list[Index]) -> None:
        fixed = [ZERO] * len(shape)
        for a, index in zip(others, position):
            fixed[a] = index

        def place(index: Index) -> tuple[Index, ...]:
            return tuple(index if a == axis else fixed[a] for a in range(len(shape)))

        def keep(index: Index, values: list) -> None:  # type: ignore[type-arg]
            for tile, value in zip(tiles, values):
                k.tile_store(tile, place(index), block, value)

        last = shape[axis] - 1
        first = Index((), last if backwards else 0)
        running = [k.block(v, place(first), block) for v in op.operands]
        keep(first, running)
        if last == 0:
            return
        with k.em.loop(last, 1, running, tag="scan") as loop:
            moved = f"sub nuw i64 {last - 1}, {loop.counter}" if backwards else f"add nuw i64 {loop.counter}, 1"
            index = k.em.derived(loop.counter, moved, 1, shape[axis])
            fresh = [k.block(v, place(index), block) for v in op.operands]
            loop.next = reduce.combine(k, op, loop.carried, fresh)
            keep(index, loop.next)

    with k.em.nest():
        nest.for_each(k, [(shape[a], block[a]) for a in others], body, unrolled=1)
    for value, tile in zip(op.results, tiles):
        k.bindings[value] = tile
