"""Loop nests: tensors written to memory, stores and reductions that share a shape become one walk over it."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from math import prod

from unify.compiler import mlir
from unify.compiler.cpu.codegen import ahead, memory, reduce, streaming, whole
from unify.compiler.cpu.codegen.emitter import BYTES, ZERO, Index, Val
from unify.compiler.cpu.codegen.values import (
    INLINE,
    REGISTERS,
    Kernel,
    Tile,
    Unsupported,
    element_of,
    is_tensor,
    shape_of,
)

# Blocks that are written out without a loop, and per round of a loop.
_UNROLLED, _PER_ROUND = REGISTERS, 4


@dataclass(eq=False)
class Root:
    """One reason for a nest: fill a tile with a value, or run a store or reduction."""

    shape: tuple[int, ...]
    values: list[mlir.Value]
    tile: Tile | None = None
    op: mlir.Operation | None = None

    @property
    def kind(self) -> str:
        return "tile" if self.op is None else self.op.name


@dataclass
class Walk:
    """How a nest goes over its shape: `block` elements at a time, contiguous along `axis`."""

    shape: tuple[int, ...]
    block: tuple[int, ...]
    axis: int
    order: list[int] = field(default_factory=list)

    @property
    def lanes(self) -> int:
        return prod(self.block)


# ---------------------------------------------------------------- collecting


def fill(k: Kernel, value: mlir.Value, tile: Tile) -> None:
    """Asks for `value` to be written to `tile`; the nest may wait to be joined with others."""
    add(k, Root(shape_of(value), [value], tile=tile))


def fill_together(k: Kernel, pairs: Sequence[tuple[mlir.Value, Tile]]) -> None:
    """Writes values of one shape to tiles that they read only at the position that is being computed."""
    group = [Root(tile.shape, [value], tile=tile) for value, tile in pairs]
    k.pending.append(group)
    flush(k, group)


def store_value(k: Kernel, value: mlir.Value) -> None:
    """Keeps a tensor in memory from here on."""
    tile = k.allocate_for(value)
    fill(k, value, tile)
    k.bindings[value] = tile


def add(k: Kernel, root: Root) -> None:
    """Puts a root into the pending nest of its shape, after running what it waits for."""
    group = next((g for g in k.pending if g[0].shape == root.shape and _fits(g, root)), None)
    for value, pointwise in sources(k, root.values):
        for other in list(k.pending):
            if _produces(k, other, value) and not (other is group and pointwise and _is_filling(k, other, value)):
                flush(k, other)
                group = None if other is group else group
    if root.kind == "tt.store":
        for other in list(k.pending):
            if other is not group or _meets(k, other, root):
                flush(k, other)
                group = None if other is group else group
    if group is None:
        group = []
        k.pending.append(group)
    group.append(root)


def _meets(k: Kernel, group: list[Root], store: Root) -> bool:
    """Whether a block of the group may load or store where `store` writes in the round of another block."""
    assert store.op is not None
    pointers = store.op.operands[0]
    accesses = [(load.operands[0], pointwise) for root in group for load, pointwise in _loads(k, root)]
    accesses += [(root.op.operands[0], True) for root in group if root.op is not None and root.kind == "tt.store"]
    return any(k.plan.aliasing.may_meet(other, pointers, pointwise) for other, pointwise in accesses)


def _loads(k: Kernel, root: Root) -> list[tuple[mlir.Operation, bool]]:
    """The loads that a root does block by block, and whether only at the position that is being computed."""
    return [(op, pointwise) for op, pointwise in _computed(k, root) if op.name == "tt.load"]


def _computed(k: Kernel, root: Root) -> list[tuple[mlir.Operation, bool]]:
    """The operations that a root does block by block, as far as the loads, and whether only at this position."""
    found: list[tuple[mlir.Operation, bool]] = []
    seen: set[tuple[mlir.Value, bool]] = set()
    work = [(value, True) for value in root.values]
    while work:
        value, pointwise = work.pop()
        op = value.owner
        is_here = value not in k.bindings or (root.tile is not None and value is root.values[0])
        if (value, pointwise) in seen or not is_here or not isinstance(op, mlir.Operation) or not is_tensor(value):
            continue
        seen.add((value, pointwise))
        found.append((op, pointwise))
        if op.name != "tt.load":
            pointwise = pointwise and (op.name not in INLINE or op in k.plan.accumulations)
        work += [(operand, pointwise) for operand in op.operands]
    return found


def _fits(group: list[Root], root: Root) -> bool:
    axes = {r.op.integer("axis") for r in [*group, root] if r.op is not None and r.kind == "tt.reduce"}
    return len(axes) < 2


def _produces(k: Kernel, group: list[Root], value: mlir.Value) -> bool:
    return any(
        (r.op is not None and value in r.op.results) or k.bindings.get(value) is r.tile is not None for r in group
    )


def _is_filling(k: Kernel, group: list[Root], value: mlir.Value) -> bool:
    return any(r.tile is not None and r.values[0] is value for r in group)


def sources(k: Kernel, values: Sequence[mlir.Value]) -> list[tuple[mlir.Value, bool]]:
    """What the values read that is bound or pending, and whether only at the position that is being computed."""
    found: dict[mlir.Value, bool] = {}
    seen: set[tuple[mlir.Value, bool]] = set()
    work = [(value, True) for value in values]
    while work:
        value, pointwise = work.pop()
        if (value, pointwise) in seen:
            continue
        seen.add((value, pointwise))
        op = value.owner
        if value in k.bindings or not isinstance(op, mlir.Operation) or is_pending(k, value):
            found[value] = found.get(value, True) and pointwise
            continue
        same = (pointwise and (op.name not in INLINE or op in k.plan.accumulations)) or op.name in (
            "tt.load",
            "tt.splat",
            "arith.constant",
        )
        work += [(operand, same) for operand in op.operands]
    return list(found.items())


def is_pending(k: Kernel, value: mlir.Value) -> bool:
    return any(r.op is not None and value in r.op.results for group in k.pending for r in group)


def settle(k: Kernel, values: Sequence[mlir.Value]) -> None:
    """Runs the nests that these values wait for."""
    if not k.pending:
        return
    for value, _ in sources(k, values):
        for group in list(k.pending):
            if _produces(k, group, value):
                flush(k, group)


def flush_all(k: Kernel) -> None:
    while k.pending:
        flush(k, k.pending[0])


def flush_stores(k: Kernel) -> None:
    for group in list(k.pending):
        if any(r.kind == "tt.store" for r in group):
            flush(k, group)


# ---------------------------------------------------------------- running


def flush(k: Kernel, group: list[Root]) -> None:
    if group not in k.pending:
        return
    k.pending.remove(group)
    shape = group[0].shape
    reductions = [r for r in group if r.kind == "tt.reduce"]
    filled = [r.values[0] for r in group if r.tile is not None and k.bindings.get(r.values[0]) is r.tile]
    k.evaluating.update(filled)
    with k.em.nest():
        walk = choose(k, group, shape)
        if reductions:
            results = reduce.Results(k, [r.op for r in reductions if r.op is not None])
            inside = whole.look(k, masks_of(k, group))
            whole.in_versions(k, inside, lambda _: reduce.run(k, group, walk, results))
            results.bind(k)
        else:
            _run_versions(k, group, walk)
    k.evaluating.difference_update(filled)


def _run_versions(k: Kernel, group: list[Root], walk: Walk) -> None:
    """The nest for tiles that are whole, also with stores past the caches, and for those at an edge."""
    inside = whole.look(k, masks_of(k, group))
    past = streaming.look(k, _streams(k, group), walk)

    def write(is_edge: bool) -> None:
        if is_edge or past is None:
            _run_pointwise(k, group, walk, 1 if is_edge else _PER_ROUND)
            return
        with k.em.conditional(past, otherwise=lambda: _run_pointwise(k, group, walk)):
            k.is_streaming = True
            _run_pointwise(k, group, walk, 1)
            k.is_streaming = False

    whole.in_versions(k, inside, write)


def _streams(k: Kernel, group: list[Root]) -> list[mlir.Operation]:
    """The group's stores; none where it also loads what it writes, which is in the cache then."""
    stores = [root.op for root in group if root.op is not None and root.kind == "tt.store"]
    read = [load.operands[0] for root in group for load, _ in _loads(k, root)]
    may_share = k.plan.aliasing.may_share
    return [] if any(may_share(op.operands[0], pointer) for op in stores for pointer in read) else stores


def masks_of(k: Kernel, group: list[Root]) -> Iterator[mlir.Value]:
    """The masks of what a group loads and stores block by block, and those by which it keeps or drops a value."""
    operations = [op for root in group for op, _ in _computed(k, root)]
    operations += [root.op for root in group if root.op is not None and root.kind == "tt.store"]
    for op in operations:
        if op.name == "arith.select" and _is_mask(k, op.operands[0]):
            yield op.operands[0]
        mask = memory.mask_of(op) if op.name in ("tt.load", "tt.store") else None
        if mask is not None:
            yield mask


def _is_mask(k: Kernel, condition: mlir.Value) -> bool:
    users = k.plan.uses.get(condition, ())
    return is_tensor(condition) and any(op.name in ("tt.load", "tt.store") for op in users)


def _run_pointwise(k: Kernel, group: list[Root], walk: Walk, per_round: int = _PER_ROUND) -> None:
    other = _turned_to(group, walk)
    if other is not None:
        run_transposed(k, group, walk, other)
        return
    order = [a for a in range(len(walk.shape)) if a != walk.axis]
    if walk.shape:
        # With a few rows, what belongs to a column is computed once for all of them.
        few = prod(walk.shape[a] // walk.block[a] for a in order) <= _PER_ROUND
        order = [walk.axis, *order] if few else [*order, walk.axis]
    steps = [(walk.shape[a], walk.block[a]) for a in order]

    def body(position: list[Index]) -> None:
        at = [ZERO] * len(order)
        for axis, index in zip(order, position):
            at[axis] = index
        visit(k, group, tuple(at), walk.block)

    for_each(k, steps, body, per_round=per_round)


def visit(k: Kernel, group: list[Root], at: tuple[Index, ...], block: tuple[int, ...]) -> None:
    """Computes one block for every root that writes memory, then writes all of them."""
    writes: list[Callable[[], None]] = []
    for root in group:
        if root.tile is not None:
            value = k.block(root.values[0], at, block)
            writes.append(partial(k.tile_store, root.tile, at, block, value))
        elif root.op is not None and root.kind == "tt.store":
            writes.append(memory.prepare_store(k, root.op, at, block))
    for write in writes:
        write()


def for_each(
    k: Kernel,
    steps: Sequence[tuple[int, int]],
    body: Callable[[list[Index]], None],
    unrolled: int = _UNROLLED,
    per_round: int = _PER_ROUND,
) -> None:
    """Nested loops over range(0, stop, step) for each pair, outermost first; short ones are written out."""
    counts = [stop // step for stop, step in steps]
    _for_each(k, list(steps), counts, [], body, unrolled, per_round)


def _for_each(
    k: Kernel,
    steps: list[tuple[int, int]],
    counts: list[int],
    position: list[Index],
    body: Callable[[list[Index]], None],
    unrolled: int,
    most: int,
) -> None:
    if not steps:
        body(position)
        return
    (stop, step), rest = steps[0], prod(counts[1:])
    if counts[0] * rest <= unrolled or counts[0] == 1:
        for i in range(counts[0]):
            _for_each(k, steps[1:], counts[1:], [*position, Index((), i * step)], body, unrolled, most)
        return
    per_round = min(counts[0], max(1, min(most, unrolled) // rest))
    with k.em.loop(stop, step * per_round) as loop:
        for i in range(per_round):
            _for_each(
                k, steps[1:], counts[1:], [*position, loop.index + i * step], body, unrolled // per_round or 1, most
            )


# ---------------------------------------------------------------- transposing on the way


def _turned_to(group: list[Root], walk: Walk) -> int | None:
    """The other axis, if the group only fills tiles and some of them run along another axis than their sources."""
    tiles = [root.tile for root in group if root.tile is not None]
    others = {tile.order[-1] for tile in tiles if tile.shape} - {walk.axis}
    other = others.pop() if len(others) == 1 and len(tiles) == len(group) else None
    return other if other is not None and walk.shape[other] > 1 and len(walk.shape) > 1 else None


def run_transposed(k: Kernel, group: list[Root], walk: Walk, other: int) -> None:
    """Fills tiles that run along `other` from sources that run along the walk's axis: registers turn them.

    Squares of registers are done together as far as they share cache lines, on both sides: rows a power of two apart
    evict each other before the next square would come to the rest of a line.
    """
    shape = walk.shape
    side = min(walk.block[walk.axis], shape[other])
    block = tuple(side if a == walk.axis else 1 for a in range(len(shape)))
    turned = tuple(side if a == other else 1 for a in range(len(shape)))
    line = max(64 // BYTES[root.tile.element] for root in group if root.tile is not None)
    order = [*(a for a in range(len(shape)) if a not in (other, walk.axis)), other, walk.axis]
    steps = [(shape[a], max(side, min(line, shape[a])) if a in (walk.axis, other) else 1) for a in order]

    def square(at: tuple[Index, ...]) -> None:
        across = [tuple(index + j if a == other else index for a, index in enumerate(at)) for j in range(side)]
        along = [tuple(index + i if a == walk.axis else index for a, index in enumerate(at)) for i in range(side)]
        squares = [[k.block(root.values[0], here, block) for here in across] for root in group]
        for root in group:
            for here in across:
                ahead.fetch(k, root.values[0], here, block)
        for root, columns in zip(group, squares):
            assert root.tile is not None
            is_turned = root.tile.order[-1] != walk.axis
            rows = zip(along, transpose(k, columns)) if is_turned else zip(across, columns)
            for here, row in rows:
                k.tile_store(root.tile, here, turned if is_turned else block, row)

    def body(position: list[Index]) -> None:
        at = dict(zip(order, position))
        for right in range(0, steps[-2][1], side):
            for down in range(0, steps[-1][1], side):
                moved = {**at, other: at[other] + right, walk.axis: at[walk.axis] + down}
                square(tuple(moved[a] for a in range(len(shape))))

    for_each(k, steps, body, unrolled=1)


def transpose(k: Kernel, rows: list[Val]) -> list[Val]:
    """Turns an n × n square, a row per register, in log2(n) rounds of exchanging ever larger sub-squares."""
    side, rows = len(rows), list(rows)
    half = 1
    while half < side:
        upper = [lane if not lane & half else side + lane - half for lane in range(side)]
        lower = [lane + half if not lane & half else side + lane for lane in range(side)]
        for i in range(side):
            if not i & half:
                a, b = rows[i], rows[i + half]
                rows[i], rows[i + half] = k.em.shuffle(a, upper, b), k.em.shuffle(a, lower, b)
        half *= 2
    return rows


# ---------------------------------------------------------------- choosing axis and block


def choose(k: Kernel, group: list[Root], shape: tuple[int, ...]) -> Walk:
    votes = [0] * len(shape)
    widest = 1
    for root in group:
        if root.op is not None and root.kind == "tt.store":
            _vote_pointer(k, root.op.operands[0], list(range(len(shape))), votes, 3)
            widest = max(widest, BYTES[element_of(root.op.operands[1].type)])
        if root.tile is not None and root.tile.fastest is not None:
            votes[root.tile.fastest] += 1
        for value in root.values if root.kind != "tt.store" else root.values[1:]:
            widest = max(widest, _vote(k, value, list(range(len(shape))), votes, {}))
    axis = len(shape) - 1
    if shape and max(votes) > votes[axis]:
        axis = votes.index(max(votes))
    lanes = max(1, k.features.vector_bytes // widest)
    block = [1] * len(shape)
    room = lanes
    for a in [axis] + ([b for b in reversed(range(len(shape))) if b != axis] if axis == len(shape) - 1 else []):
        if not shape or room == 1:
            break
        block[a] = min(room, shape[a])
        room //= block[a]
        if block[a] != shape[a]:
            break
    reductions = [r.op.integer("axis") for r in group if r.op is not None and r.kind == "tt.reduce"]
    if reductions and axis != reductions[0]:
        # Rows that end inside a block may not be mixed with the axis that is summed.
        block = [b if a == axis or a > reductions[0] else 1 for a, b in enumerate(block)]
    elif reductions:
        whole = block[axis] == shape[axis] and axis == len(shape) - 1
        block = [b if a == axis or (whole and a == axis - 1) else 1 for a, b in enumerate(block)]
    return Walk(shape, tuple(block), axis)


def _vote_pointer(k: Kernel, pointer: mlir.Value, axes: list[int | None], votes: list[int], weight: int) -> None:
    if not is_tensor(pointer):
        return
    for axis in k.plan.axes.neighbours(pointer):
        target = axes[axis]
        if target is not None:
            votes[target] += weight


def _vote(k: Kernel, value: mlir.Value, axes: list[int | None], votes: list[int], seen: dict[mlir.Value, int]) -> int:
    """Adds up which axis of the nest the loads behind `value` are contiguous along; returns the widest element."""
    if value in seen:
        return seen[value]
    seen[value] = 1
    if not is_tensor(value):
        return 1
    op = value.owner
    width = BYTES[element_of(value.type)] if element_of(value.type) not in ("i1", "ptr") else 1
    bound = k.bindings.get(value)
    if bound is not None and value not in k.evaluating:
        if isinstance(bound, Tile) and axes:
            target = axes[bound.order[-1]]
            if target is not None and bound.shape[bound.order[-1]] > 1:
                votes[target] += 1
        seen[value] = width
        return width
    if isinstance(op, mlir.Operation):
        if op.name == "tt.load":
            _vote_pointer(k, op.operands[0], axes, votes, 2)
            if len(op.operands) > 2:
                _vote(k, op.operands[2], axes, votes, seen)
        elif op.name == "tt.expand_dims":
            axis = op.integer("axis")
            width = max(width, _vote(k, op.operands[0], axes[:axis] + axes[axis + 1 :], votes, seen))
        elif op.name == "tt.broadcast":
            source = shape_of(op.operands[0])
            inner: list[int | None] = [a if s == t else None for a, s, t in zip(axes, source, shape_of(value))]
            width = max(width, _vote(k, op.operands[0], inner, votes, seen))
        elif op.name == "tt.trans":
            order = op.integers("order") or ()
            inner = [None] * len(order)
            for target, source_axis in enumerate(order):
                inner[source_axis] = axes[target]
            width = max(width, _vote(k, op.operands[0], inner, votes, seen))
        elif op.name not in ("arith.cmpi", "tt.addptr", "tt.reshape", "tt.join", "tt.split", "tt.cat", "tt.make_range"):
            for operand in op.operands:
                if shape_of(operand) == shape_of(value):
                    width = max(width, _vote(k, operand, axes, votes, seen))
        elif op.name in ("tt.reshape", "tt.join", "tt.split", "tt.cat"):
            for operand in op.operands:
                inner = [*[None] * (len(shape_of(operand)) - 1), axes[-1] if axes else None]
                width = max(width, _vote(k, operand, inner[: len(shape_of(operand))], votes, seen))
    seen[value] = width
    return width


def require(condition: bool, what: str) -> None:
    if not condition:
        raise Unsupported(what)
