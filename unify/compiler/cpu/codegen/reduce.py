"""tt.reduce: vector accumulators along the walk, then a tree that folds many rows at once."""

from __future__ import annotations

from math import prod
from typing import TYPE_CHECKING

from unify.compiler import mlir
from unify.compiler.cpu.codegen import debug
from unify.compiler.cpu.codegen.emitter import ZERO, Index, Val
from unify.compiler.cpu.codegen.values import (
    ELEMENTWISE,
    REGISTERS,
    Kernel,
    Slot,
    Tile,
    element_of,
    shape_of,
    statement,
)

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
        if inner.name == "tt.assert":
            debug.end_unless(k, inner, values[inner.operands[0]], inner.string("message"))
            continue
        if function is None:
            what = f"{inner.name} inside a {op.name[3:]} is not supported by the CPU target"
            raise k.error(inner, what, "write its combine function with elementwise operations and tl.where")
        operands = [values[v] if v in values else k.em.splat(k.scalar(v), lanes) for v in inner.operands]
        values[inner.results[0]] = function(k, inner, operands)
    return [values[v] if v in values else k.em.splat(k.scalar(v), lanes) for v in block.operations[-1].operands]


def identity(op: mlir.Operation) -> str | None:
    """What leaves the other operand unchanged, if the region is one well-known operation."""
    operations = op.regions[0].entry.operations
    if len(operations) != 2 or set(operations[0].operands) != set(op.regions[0].entry.arguments):
        return None
    return _IDENTITY.get(operations[0].name)


class Results:
    """Where the results of reductions go: tensors into tiles, scalars into slots, which LLVM keeps in registers."""

    def __init__(self, k: Kernel, ops: list[mlir.Operation]) -> None:
        self.ops = ops
        self.places: dict[mlir.Value, Tile | Slot] = {}
        for value in (result for op in ops for result in op.results):
            if isinstance(value.type, mlir.Tensor):
                self.places[value] = k.bindings[value] = k.allocate(shape_of(value), element_of(value.type))
            else:
                self.places[value] = Slot(k, value.type)

    def put(self, k: Kernel, op: mlir.Operation, at: tuple[Index, ...], block: tuple[int, ...], acc: list[Val]) -> None:
        """Keeps a block of the results of one reduction."""
        for value, part in zip(op.results, acc, strict=True):
            place = self.places[value]
            if isinstance(place, Tile):
                k.tile_store(place, at, block, part)
            else:
                place.put(k, part)

    def bind(self, k: Kernel) -> None:
        """Makes the scalars known; to be called where all ways have met."""
        for value, place in self.places.items():
            if not isinstance(place, Tile):
                k.bindings[value] = place.get(k)


def run(k: Kernel, group: list[Root], walk: Walk, results: Results) -> None:
    """One walk for all reductions and stored values of the group."""
    axis = results.ops[0].integer("axis")
    if walk.axis == axis:
        _along(k, group, walk, axis, results)
    else:
        _across(k, group, walk, axis, results)


def _accumulate(
    k: Kernel, group: list[Root], walk: Walk, axis: int, reductions: list[mlir.Operation], fixed: list[Index]
) -> list[list[Val]]:
    """Walks `axis` with the other indices fixed; returns, for each reduction, accumulators of the block's lanes."""
    from unify.compiler.cpu.codegen import nest

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


def _along(k: Kernel, group: list[Root], walk: Walk, axis: int, results: Results) -> None:
    from unify.compiler.cpu.codegen import nest

    shape = walk.shape
    others = [a for a in range(len(shape)) if a != axis]
    rows = prod(shape[a] for a in others)
    if rows == 1:
        accumulators = _accumulate(k, group, walk, axis, results.ops, [ZERO] * len(shape))
        for op, acc in zip(results.ops, accumulators):
            results.put(k, op, (ZERO,) * len(others), (1,) * len(others), _fold(k, op, acc))
        return
    # A register holds `high` rows with block[axis] partial results of each; `registers` of them fold into one.
    high = walk.block[others[-1]]
    registers = min(shape[others[-1]] // high, walk.block[axis], 16)
    together = registers * high
    steps = [(shape[a], together if a == others[-1] else 1) for a in others]
    partial = [[k.allocate((registers, walk.lanes), element_of(v.type)) for v in op.operands] for op in results.ops]

    # Without a loop over its rows what fits the registers never needs to be in memory.
    is_small = prod(shape) <= walk.lanes * REGISTERS

    def rows_at(position: list[Index], row: Index) -> None:
        last = position[-1]
        inner = [*position[:-1], Index((*last.terms, *row.terms), last.constant + row.constant)]
        fixed = [ZERO] * len(shape)
        for a, index in zip(others, inner):
            fixed[a] = index
        for tiles, acc in zip(partial, _accumulate(k, group, walk, axis, results.ops, fixed)):
            for tile, value in zip(tiles, acc):
                k.tile_store(tile, (k.divide(row, high, registers), ZERO), (1, walk.lanes), value)

    def body(position: list[Index]) -> None:
        if is_small:
            for row in range(0, together, high):
                rows_at(position, Index((), row))
        else:
            with k.em.loop(together, high, tag="rows") as loop:
                rows_at(position, loop.index)
        block = tuple(together if a == others[-1] else 1 for a in others)
        for op, tiles in zip(results.ops, partial):
            rows_ = [
                [k.tile_block(tile, (Index((), r), ZERO), (1, walk.lanes)) for tile in tiles] for r in range(registers)
            ]
            results.put(k, op, tuple(position), block, _fold_rows(k, op, rows_, walk.block[axis]))

    nest.for_each(k, steps, body, unrolled=REGISTERS if is_small else 1)


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


def _across(k: Kernel, group: list[Root], walk: Walk, axis: int, results: Results) -> None:
    from unify.compiler.cpu.codegen import nest

    shape = walk.shape
    others = [a for a in range(len(shape)) if a != axis]

    def body(position: list[Index]) -> None:
        fixed = [ZERO] * len(shape)
        for a, index in zip(others, position):
            fixed[a] = index
        block = tuple(walk.block[a] for a in others)
        for op, acc in zip(results.ops, _accumulate(k, group, walk, axis, results.ops, fixed)):
            results.put(k, op, tuple(position), block, acc)

    nest.for_each(k, [(shape[a], walk.block[a]) for a in others], body, unrolled=1)
