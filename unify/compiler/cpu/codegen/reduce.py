"""tt.reduce: vector accumulators along the walk, then a tree that folds many rows at once."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from unify.compiler import mlir
from unify.compiler.cpu.codegen.emitter import ZERO, Index, Val
from unify.compiler.cpu.codegen.values import ELEMENTWISE, Kernel, Tile, element_of, shape_of, statement

if TYPE_CHECKING:
    from unify.compiler.cpu.codegen.nest import Root, Walk

# Independent accumulators hide the latency of the combining operation.
_ACCUMULATORS = 4
_IDENTITY = {
    "arith.addf": "-0.0", "arith.addi": "0", "arith.ori": "0", "arith.xori": "0", "arith.andi": "-1", "arith.muli": "1",
    "arith.mulf": "1.0", "arith.maxui": "0", "arith.minui": "-1",
}  # fmt: skip


@statement("tt.reduce")
def reduce(k: Kernel, op: mlir.Operation) -> None:
    from unify.compiler.cpu.codegen import nest

    if op in k.plan.byte_dots:
        if op.results[0] in k.plan.stored:
            nest.store_value(k, op.results[0])
        return
    nest.add(k, nest.Root(shape_of(op.operands[0]), list(op.operands), op=op))


def combine(k: Kernel, op: mlir.Operation, a: list[Val], b: list[Val]) -> list[Val]:
    """Runs the operation's region on two sets of accumulators."""
    block = op.regions[0].entry
    values: dict[mlir.Value, Val] = dict(zip(block.arguments, [*a, *b]))
    lanes = a[0].lanes
    for inner in block.operations[:-1]:
        function = ELEMENTWISE.get(inner.name)
        if inner.name == "arith.constant":
            values[inner.results[0]] = k.em.splat(k.scalar(inner.results[0]), lanes)
            continue
        if function is None:
            raise k.error(inner, f"{inner.name} inside a {op.name[3:]} is not supported by the CPU target")
        operands = [values[v] if v in values else k.em.splat(k.scalar(v), lanes) for v in inner.operands]
        values[inner.results[0]] = function(k, inner, operands)
    return [values[v] if v in values else k.em.splat(k.scalar(v), lanes) for v in block.operations[-1].operands]


def identity(op: mlir.Operation) -> str | None:
    """What leaves the other operand unchanged, if the region is one well-known operation."""
    operations = op.regions[0].entry.operations
    if len(operations) != 2 or set(operations[0].operands) != set(op.regions[0].entry.arguments):
        return None
    return _IDENTITY.get(operations[0].name)


def run(k: Kernel, group: list[Root], walk: Walk) -> None:
    """One walk for all reductions and stored values of the group."""
    axis = next(r.op.integer("axis") for r in group if r.op is not None and r.kind == "tt.reduce")
    if walk.axis == axis:
        _along(k, group, walk, axis)
    else:
        _across(k, group, walk, axis)


def _accumulate(k: Kernel, group: list[Root], walk: Walk, axis: int, fixed: list[Index]) -> list[list[Val]]:
    """Walks `axis` with the other indices fixed; returns, for each reduction, accumulators of the block's lanes."""
    from unify.compiler.cpu.codegen import nest

    reductions = [r.op for r in group if r.op is not None and r.kind == "tt.reduce"]
    step = walk.block[axis]
    count = walk.shape[axis] // step
    width = min(count, _ACCUMULATORS)

    def values_at(index: Index) -> list[list[Val]]:
        at = tuple(index if a == axis else fixed[a] for a in range(len(walk.shape)))
        nest.visit(k, group, at, walk.block)
        return [[k.block(v, at, walk.block) for v in op.operands] for op in reductions]

    # The first round either starts from identities or is written out in front of the loop.
    accumulators: list[list[list[Val]]] = []
    start = 0
    identities = [identity(op) for op in reductions]
    if count <= 8 or any(i is None for i in identities):
        accumulators = [values_at(Index((), i * step)) for i in range(width)]
        start = width
    else:
        row = [[_filled(k, op, text, walk.lanes) for _ in op.operands] for op, text in zip(reductions, identities)]
        accumulators = [[list(r) for r in row] for _ in range(width)]

    def round_(index: Index) -> None:
        for i in range(width):
            fresh = values_at(index + i * step)
            accumulators[i] = [combine(k, op, acc, new) for op, acc, new in zip(reductions, accumulators[i], fresh)]

    rounds = (count - start) // width
    if count <= 8:
        for i in range(rounds):
            round_(Index((), (start + i * width) * step))
    elif rounds:
        flat = [value for acc in accumulators for row in acc for value in row]
        with k.em.loop(rounds * width * step, width * step, flat) as loop:
            carried = iter(loop.carried)
            accumulators = [[[next(carried) for _ in row] for row in acc] for acc in accumulators]
            index = loop.index
            if start:
                moved = f"add nuw nsw i64 {loop.counter}, {start * step}"
                index = k.em.derived(loop.counter, moved, width * step, walk.shape[axis])
            round_(index)
            loop.next = [value for acc in accumulators for row in acc for value in row]
        results = iter(loop.results)
        accumulators = [[[next(results) for _ in row] for row in acc] for acc in accumulators]
    while len(accumulators) > 1:
        half = len(accumulators) // 2
        accumulators = [
            [combine(k, op, x, y) for op, x, y in zip(reductions, accumulators[i], accumulators[i + half])]
            for i in range(half)
        ]
    return accumulators[0]


def _filled(k: Kernel, op: mlir.Operation, text: str | None, lanes: int) -> Val:
    element = element_of(op.operands[0].type)
    assert text is not None
    return k.em.splat(Val(element, 1, text), lanes)


def _fold(k: Kernel, op: mlir.Operation, values: list[Val]) -> list[Val]:
    """All lanes of one accumulator into a scalar."""
    lanes = values[0].lanes
    while lanes > 1:
        half = lanes // 2
        low = [k.em.slice(v, 0, half) for v in values]
        high = [k.em.slice(v, half, half) for v in values]
        values, lanes = combine(k, op, low, high), half
    return values


# ---------------------------------------------------------------- the vector axis is the one that disappears


def _along(k: Kernel, group: list[Root], walk: Walk, axis: int) -> None:
    from unify.compiler.cpu.codegen import nest

    reductions = [r.op for r in group if r.op is not None and r.kind == "tt.reduce"]
    shape = walk.shape
    others = [a for a in range(len(shape)) if a != axis]
    rows = prod(shape[a] for a in others)
    results = [[_result(k, op, i) for i in range(len(op.operands))] for op in reductions]
    if rows == 1:
        accumulators = _accumulate(k, group, walk, axis, [ZERO] * len(shape))
        for op, acc, targets in zip(reductions, accumulators, results):
            _finish(k, op, targets, (ZERO,) * len(others), (1,) * len(others), _fold(k, op, acc))
        return
    # A register holds `high` rows with block[axis] partial results of each; `registers` of them fold into one.
    high = walk.block[others[-1]]
    registers = min(shape[others[-1]] // high, walk.block[axis], 16)
    together = registers * high
    steps = [(shape[a], together if a == others[-1] else 1) for a in others]
    partial = [[k.allocate((registers, walk.lanes), element_of(v.type)) for v in op.operands] for op in reductions]

    def body(position: list[Index]) -> None:
        with k.em.loop(together, high, tag="rows") as loop:
            inner = [*position[:-1], Index((*position[-1].terms, (loop.counter, 1)), position[-1].constant)]
            fixed = [ZERO] * len(shape)
            for a, index in zip(others, inner):
                fixed[a] = index
            for tiles, acc in zip(partial, _accumulate(k, group, walk, axis, fixed)):
                for tile, value in zip(tiles, acc):
                    k.tile_store(tile, (k.divide(loop.index, high, registers), ZERO), (1, walk.lanes), value)
        block = tuple(together if a == others[-1] else 1 for a in others)
        for op, tiles, targets in zip(reductions, partial, results):
            rows_ = [
                [k.tile_block(tile, (Index((), r), ZERO), (1, walk.lanes)) for tile in tiles] for r in range(registers)
            ]
            _finish(k, op, targets, tuple(position), block, _fold_rows(k, op, rows_, walk.block[axis]))

    nest.for_each(k, steps, body, unrolled=1)


def _fold_rows(k: Kernel, op: mlir.Operation, rows: list[list[Val]], partials: int) -> list[Val]:
    """Registers with `partials` lanes of each row: two of them merge into one until a lane is a row."""
    lanes = rows[0][0].lanes
    while len(rows) > 1:
        half = partials // 2
        held = lanes // partials  # rows in one register
        low = [r * partials + i for r in range(held) for i in range(half)]
        low += [lanes + lane for lane in low]
        high = [lane + half for lane in low]
        merged = []
        for a, b in zip(rows[::2], rows[1::2]):
            first = [k.em.shuffle(x, low, y) for x, y in zip(a, b)]
            second = [k.em.shuffle(x, high, y) for x, y in zip(a, b)]
            merged.append(combine(k, op, first, second))
        rows, partials = merged, half
    values = rows[0]
    while partials > 1:
        half, held = partials // 2, values[0].lanes // partials
        low = [r * partials + i for r in range(held) for i in range(half)]
        first = [k.em.shuffle(v, low) for v in values]
        values = combine(k, op, first, [k.em.shuffle(v, [lane + half for lane in low]) for v in values])
        partials = half
    return values


# ---------------------------------------------------------------- another axis disappears: lanes stay


def _across(k: Kernel, group: list[Root], walk: Walk, axis: int) -> None:
    from unify.compiler.cpu.codegen import nest

    reductions = [r.op for r in group if r.op is not None and r.kind == "tt.reduce"]
    shape = walk.shape
    others = [a for a in range(len(shape)) if a != axis]
    results = [[_result(k, op, i) for i in range(len(op.operands))] for op in reductions]

    def body(position: list[Index]) -> None:
        fixed = [ZERO] * len(shape)
        for a, index in zip(others, position):
            fixed[a] = index
        block = tuple(walk.block[a] for a in others)
        for op, acc, targets in zip(reductions, _accumulate(k, group, walk, axis, fixed), results):
            _finish(k, op, targets, tuple(position), block, acc)

    nest.for_each(k, [(shape[a], walk.block[a]) for a in others], body, unrolled=1)


def _result(k: Kernel, op: mlir.Operation, i: int) -> Tile | None:
    value = op.results[i]
    if not isinstance(value.type, mlir.Tensor):
        return None
    tile = k.allocate(shape_of(value), element_of(value.type))
    k.bindings[value] = tile
    return tile


def _finish(
    k: Kernel,
    op: mlir.Operation,
    targets: list[Tile | None],
    at: tuple[Index, ...],
    block: tuple[int, ...],
    acc: list[Val],
) -> None:
    for i, (tile, value) in enumerate(zip(targets, acc)):
        if tile is None:
            k.em.text(value)
            k.bindings[op.results[i]] = value
        else:
            k.tile_store(tile, at, block, value)
