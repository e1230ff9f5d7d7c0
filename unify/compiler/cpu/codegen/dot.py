"""tt.dot: a register-blocked kernel over operands packed into the arena.

Both operands are read as words along k: a float, a double, or two 16-bit numbers or four bytes that one instruction
multiplies and adds. A is row-major [m][words], B is [words][n]: each step broadcasts `rows` words of A against
`columns` registers of B. The accumulators of a block stay in registers over the whole of k; where the result replaces
its own third operand, that one's tile is updated in place.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from functools import partial

from unify.compiler import mlir
from unify.compiler.cpu import demand
from unify.compiler.cpu.codegen import ahead, float8, nest, products, scaled, whole
from unify.compiler.cpu.codegen.arith import intrinsic_call
from unify.compiler.cpu.codegen.convert import cast, narrowed, widened
from unify.compiler.cpu.codegen.emitter import BYTES, ZERO, Index, Val
from unify.compiler.cpu.codegen.values import (
    Kernel,
    Tile,
    Unsupported,
    element_of,
    is_tensor,
    shape_of,
    statement,
)

_ROWS_TO_READ_AHEAD = 32  # of a tile, during whose first products what the next round packs is fetched


@dataclass(frozen=True)
class Scheme:
    """How a product is formed: the element stored for A and B, and how many share a word."""

    element: str
    group: int
    accumulator: str


def scheme(k: Kernel, op: mlir.Operation) -> Scheme:
    if op.name == "tt.dot_scaled":
        return Scheme("float", 1, "float")
    a, b, c = (element_of(v.type) for v in op.operands[:3])
    depth = shape_of(op.operands[0])[-1]
    if a == b == "bfloat" and c == "float" and products.has(k, a, b) and depth % 2 == 0:
        return Scheme("bfloat", 2, "float")
    floats = [e in ("half", "bfloat", "float") or float8.format_of(v.type) for e, v in zip((a, b), op.operands)]
    if all(floats) and c in ("half", "float", "bfloat"):
        return Scheme("float", 1, "float")
    if c == "double" and a == b and a in ("float", "double"):
        return Scheme("double", 1, "double")
    if a == b == "i8" and c == "i32" and not any(floats):
        if depth % 4 == 0 and products.has(k, "i8", "i8", min(4, shape_of(op.results[0])[-1])):
            return Scheme("i8", 4, "i32")
        return Scheme("i16", 2, "i32") if depth % 2 == 0 else Scheme("i32", 1, "i32")
    raise Unsupported(f"tt.dot of {a} and {b} into {c}", "cast the operands to float32 or the accumulator's type")


# ---------------------------------------------------------------- packing


def pack(k: Kernel, op: mlir.Operation, side: int) -> Tile:
    """Operand 0 or 1 of a dot as the kernel reads it; kept for later dots and rounds of a loop around it."""
    how, value = scheme(k, op), _operand(k, op, side)
    layout = f"{how.element}×{how.group if side else 1}"
    key = (value, layout)
    found = k.packed.get(key)
    if found is not None:
        return found
    bound = k.bindings.get(value)
    is_in_order = isinstance(bound, Tile) and bound.element == how.element and bound.fastest is None
    if isinstance(bound, Tile) and is_in_order and (side == 0 or how.group == 1):
        k.packed[key] = bound
        return bound
    tile = k.allocate(shape_of(value), how.element, how.group if side else 1)
    source = _converted(k, value, how.element)
    nest.settle(k, [source])
    has_rows = shape_of(op.results[0])[-2] >= _ROWS_TO_READ_AHEAD
    ahead.look(k, op, source, while_multiplying=side == 1 and has_rows)
    if tile.group > 1:
        inside = whole.look(k, nest.masks_of(k, [nest.Root(shape_of(source), [source])]))
        whole.in_versions(k, inside, lambda _: _pack_words(k, source, tile))
    else:
        nest.flush_all(k)  # one walk over two operands as large as each other would gather the one that runs across
        nest.fill(k, source, tile)
    k.packed[key] = tile
    return tile


def _operand(k: Kernel, op: mlir.Operation, side: int) -> mlir.Value:
    return scaled.operand(k, op, side) if op.name == "tt.dot_scaled" else op.operands[side]


def _converted(k: Kernel, value: mlir.Value, element: str) -> mlir.Value:
    """The value in the element type of the scheme, as an operation that nobody wrote."""
    narrow = float8.format_of(value.type)
    if element_of(value.type) == element and not narrow:
        return value
    names = {"bfloat": "bf16", "float": "f32", "double": "f64"}
    type_ = mlir.Tensor(shape_of(value), mlir.Scalar(names.get(element, element)))
    name = "arith.extsi" if element[0] == "i" else "tt.fp_to_fp" if narrow else "arith.extf"
    op = mlir.Operation(name, [value])
    op.results = [mlir.Value("converted", type_, op)]
    owner = value.owner
    op.location = owner.location if isinstance(owner, mlir.Operation) else op.location
    return op.results[0]


def _pack_words(k: Kernel, source: mlir.Value, tile: Tile) -> None:
    """[…][k][n] → […][k / group][n][group]."""
    *batch, depth, columns = tile.shape
    group, depth = tile.group, depth // tile.group
    probe = nest.choose(k, [nest.Root(tile.shape, [source], tile=tile)], tile.shape)
    side = min(16, columns, depth)
    words = replace(tile, shape=(*batch, depth, columns), element="i32", group=1)
    with k.em.nest():
        if probe.axis == len(batch) and side > 1:
            _pack_words_turned(k, source, words, group, side)
            return
        lanes = min(16, columns)

        def body(position: list[Index]) -> None:
            *outer, row, column = position
            block = (*(1 for _ in outer), 1, lanes)
            first = row * group
            rows = [k.block(source, (*outer, first + i, column), block) for i in range(group)]
            k.tile_store(words, position, block, _word(k, rows))

        nest.for_each(k, [*((extent, 1) for extent in batch), (depth, 1), (columns, lanes)], body)


def _word(k: Kernel, rows: list[Val]) -> Val:
    """Numbers of each column side by side, the first in the lowest bits."""
    bits, lanes = 32 // len(rows), rows[0].lanes
    word, *others = [cast(k, "zext", cast(k, "bitcast", v, f"i{bits}"), "i32") for v in rows]
    for i, other in enumerate(others, 1):
        place = k.em.text(k.em.splat(Val("i32", 1, str(i * bits)), lanes))
        shifted = k.em.op("i32", lanes, f"shl {k.em.typed(other)}, {place}")
        word = k.em.op("i32", lanes, f"or {k.em.typed(word)}, {k.em.text(shifted)}")
    return word


def _pack_words_turned(k: Kernel, source: mlir.Value, words: Tile, group: int, side: int) -> None:
    """The source runs on along k: what is there are words already, squares of words are turned."""
    *batch, depth, width = words.shape
    ones = tuple(1 for _ in batch)

    def body(position: list[Index]) -> None:
        *outer, row, column = position
        first = row * group
        columns = []
        for j in range(side):
            here = (*outer, first, column + j)
            run = (*ones, group * side, 1)
            value = k.block(source, here, run)
            ahead.fetch(k, source, here, run)
            columns.append(k.em.op("i32", side, f"bitcast {k.em.typed(value)} to <{side} x i32>"))
        for i, turned in enumerate(nest.transpose(k, columns)):
            k.tile_store(words, (*outer, row + i, column), (*ones, 1, side), turned)

    nest.for_each(k, [*((extent, 1) for extent in batch), (depth, side), (width, side)], body, unrolled=1)


# ---------------------------------------------------------------- the kernel


@statement("tt.dot", "tt.dot_scaled")
def dot(k: Kernel, op: mlir.Operation) -> None:
    how = scheme(k, op)
    kept = dict(k.packed)
    a, b = pack(k, op, 0), pack(k, op, 1)
    nest.settle(k, op.operands[2:3])
    nest.flush_all(k)
    target = _target(k, op, (a, b))
    _multiply(k, op, how, a, b, target)
    k.bindings[op.results[0]] = target
    k.packed = kept if _loop_of(op) is not None else k.packed


def _loop_of(op: mlir.Operation) -> mlir.Operation | None:
    block = op.parent
    return block.parent.parent if block is not None and block.parent is not None else None


def _target(k: Kernel, op: mlir.Operation, read: tuple[Tile, Tile]) -> Tile:
    """Where the result goes: over the third operand if this is its last use and each element only needs itself.

    read: the other two operands, of which other elements are still needed.
    """
    accumulator = op.operands[2]
    element = element_of(op.results[0].type)
    for value, pointwise in nest.sources(k, [accumulator]):
        tile = k.bindings.get(value)
        if (
            not isinstance(tile, Tile)
            or not pointwise
            or tile.shape != shape_of(op.results[0])
            or tile.element != element
            or tile.fastest is not None
            or tile in read
        ):
            continue
        if _dies_at(k, value, op):
            return tile
    return k.allocate(shape_of(op.results[0]), element)


def _dies_at(k: Kernel, value: mlir.Value, op: mlir.Operation) -> bool:
    """Nobody reads `value` after `op`: the loop that `op` stands in carries it, and all its readers come before."""
    block = value.owner
    if isinstance(block, mlir.Operation):
        block = block.parent
    if block is not op.parent or block is None:
        return False
    if isinstance(value.owner, mlir.Block) and (
        block.parent is None or block.parent.parent is None or block.parent.parent.name == "tt.func"
    ):
        return False
    order = {o: i for i, o in enumerate(block.operations)}
    here, work, seen = order[op], [value], set()
    while work:
        for user in k.plan.uses.get(work.pop(), ()):
            if user is op or user in seen:
                continue
            seen.add(user)
            place = _ancestor(user, block)
            if place is None:
                return False
            if user.name in ("scf.yield", "tt.store") or user.regions or place is not user:
                return False
            if user.name in ("tt.dot", "tt.dot_scaled", "tt.reduce"):
                if order[place] > here:
                    return False
                continue
            if any(r in k.bindings for r in user.results):
                continue  # computed already
            if order[place] > here:
                return False
            work += user.results
    return True


def _ancestor(op: mlir.Operation, block: mlir.Block) -> mlir.Operation | None:
    here: mlir.Operation | None = op
    while here is not None and here.parent is not block:
        here = here.parent.parent.parent if here.parent is not None and here.parent.parent is not None else None
    return here


def _blocks(k: Kernel, accumulator: mlir.Value, m: int, n: int, lanes: int) -> tuple[int, list[tuple[int, int]]]:
    """Registers across, and (rows of a block, blocks) that make up m.

    16 of 32 registers accumulate, or 12 of AVX2's 16; the rest hold B and one of A. As m is a power of two,
    blocks of six rows leave some of four. Six rows have no bits of their own, so that a reshaped accumulator, whose
    indices are cut by bits, has to do with four.
    """
    if k.features.vector_registers == 32:
        across = min(4, n // lanes)
        rows = min(m, 16 // across)
        return across, [(rows, m // rows)]
    across = min(2, n // lanes)
    if across == 2 and m >= 16 and not _is_reshaped(k, accumulator):
        sixes = m // 12 * 2
        return across, [(6, sixes), (4, (m - 6 * sixes) // 4)]
    rows = min(m, 8 // across)
    return across, [(rows, m // rows)]


def _is_reshaped(k: Kernel, value: mlir.Value) -> bool:
    op = value.owner
    if value in k.bindings or not isinstance(op, mlir.Operation) or not is_tensor(value):
        return False
    return op.name in ("tt.reshape", "tt.join", "tt.split", "tt.cat") or any(_is_reshaped(k, v) for v in op.operands)


def _multiply(k: Kernel, op: mlir.Operation, how: Scheme, a: Tile, b: Tile, target: Tile) -> None:
    em = k.em
    *batch, m, n = target.shape
    words = a.shape[-1] // how.group
    lanes = min(n, k.features.vector_bytes // BYTES[how.accumulator])
    across, blocks = _blocks(k, op.operands[2], m, n, lanes)
    word = "i32" if how.group > 1 else how.element
    a_words = replace(a, shape=(*batch, m, words), element=word, group=1, gap=a.gap // how.group)
    b_words = replace(b, shape=(*batch, words, n), element=word, group=1)
    accumulator = op.operands[2]
    ones = tuple(1 for _ in batch)
    wide, single = (*ones, 1, lanes), (*ones, 1, 1)

    def block(height: int, first: int, parts: int, at: list[Index], down: list[Index]) -> None:
        *outer, column = at
        row = down[0] + first
        acc = []
        for r in range(height):
            for c in range(across):
                acc.append(widened(k, k.block(accumulator, (*outer, row + r, column + c * lanes), wide)))
        # LLVM would add the products of several steps to each other first, for which there are no registers.
        is_integer = how.accumulator == "i32" and not products.in_one(k, how.element, how.element, lanes)
        unroll = 1 if is_integer else min(4, words)

        def step(index: Index, acc: list[Val]) -> list[Val]:
            across_b = [k.tile_block(b_words, (*outer, index, column + c * lanes), wide) for c in range(across)]
            out = []
            for r in range(height):
                x = em.splat(k.tile_block(a_words, (*outer, row + r, index), single), lanes)
                out += [_fma(k, how, x, across_b[c], acc[r * across + c]) for c in range(across)]
            return out

        if words <= 4:
            for i in range(words):
                acc = step(Index((), i), acc)
        else:
            with em.loop(words, unroll, acc, tag="k") as loop:
                inner = loop.carried
                if parts:
                    share = width // parts
                    here = (*outer, column + down[0] * (share // height))
                    ahead.share(k, op, here, share, loop.counter, words // unroll)
                for i in range(unroll):
                    inner = step(loop.index + i, inner)
                loop.next = inner
            acc = loop.results
        for r in range(height):
            for c in range(across):
                value = acc[r * across + c]
                if value.element != target.element:
                    value = narrowed(k, value, target.element)
                k.tile_store(target, (*outer, row + r, column + c * lanes), wide, value)

    width = across * lanes
    turns = _reading_ahead(blocks, width) if op in k.ahead else [(height, count, 0) for height, count in blocks]
    rows = _wanted(k, op, 0) if m > blocks[0][0] else None
    columns = _wanted(k, op, 1) if n > width else None

    def block_if_wanted(height: int, first: int, parts: int, at: list[Index], down: list[Index]) -> None:
        with _if_any(k, rows, [down[0] + (first + r) for r in range(height)]):
            block(height, first, parts, at, down)

    def column_of_blocks(at: list[Index]) -> None:
        with _if_any(k, columns, [at[-1] + c for c in range(width)]):
            first = 0
            for height, count, parts in turns:
                here = partial(block_if_wanted, height, first, parts, at)
                nest.for_each(k, [(height * count, height)], here, unrolled=1)
                first += height * count

    with em.nest():
        nest.for_each(k, [*((extent, 1) for extent in batch), (n, width)], column_of_blocks, unrolled=1)


def _reading_ahead(blocks: list[tuple[int, int]], width: int) -> list[tuple[int, int, int]]:
    """Blocks of rows, and in how many parts the first of them ask for what the next round packs, else 0.

    In two, where rows divide their columns; so the lines come about as fast as memory gives them.
    """
    (height, count), *others = blocks
    parts = 2 if count > 1 and width // 2 % height == 0 else 1
    turns = [(height, parts, parts), (height, count - parts, 0), *((height, count, 0) for height, count in others)]
    return [turn for turn in turns if turn[1]]


def _wanted(k: Kernel, op: mlir.Operation, axis: int) -> mlir.Value | None:
    """A mask of rows or columns that can be looked at here, without which nobody stores what the product gives."""
    return next((mask for mask in demand.masks(op, axis, k.plan.uses) if _is_at_hand(k, mask)), None)


def _is_at_hand(k: Kernel, value: mlir.Value) -> bool:
    """Whether an element of `value` is a few instructions on what is computed already."""
    op = value.owner
    if value in k.bindings or not isinstance(op, mlir.Operation):
        return value in k.bindings
    is_pure = op.name.startswith("arith.") or op.name in ("tt.make_range", "tt.splat", "tt.broadcast", "tt.expand_dims")
    return is_pure and value not in k.plan.stored and all(_is_at_hand(k, v) for v in op.operands)


def _if_any(k: Kernel, mask: mlir.Value | None, places: list[Index]) -> AbstractContextManager[None]:
    """Under the condition that the mask, along its only axis longer than one, is true in any of these places."""
    if mask is None:
        return nullcontext()
    shape = shape_of(mask)
    positions = [tuple(place if extent > 1 else ZERO for extent in shape) for place in places]
    first, *others = (k.block(mask, position, (1,) * len(shape)) for position in positions)
    for other in others:
        first = k.em.op("i1", 1, f"or {k.em.typed(first)}, {k.em.text(other)}")
    return k.em.conditional(first)


def _fma(k: Kernel, how: Scheme, x: Val, y: Val, acc: Val) -> Val:
    em, lanes = k.em, acc.lanes
    if how.group == 1 and how.accumulator == "i32":
        product = em.op("i32", lanes, f"mul {em.typed(x)}, {em.text(y)}")
        return em.op("i32", lanes, f"add {em.typed(acc)}, {em.text(product)}")
    if how.group == 1:
        return intrinsic_call(k, "fma", [x, y, acc])
    if products.has(k, how.element, how.element, lanes):
        return products.add(k, (how.element, how.element), acc, x, y)
    return _wide_pairs(k, x, y, acc) if how.element == "bfloat" else _integer_pairs(k, x, y, acc)


def _wide_pairs(k: Kernel, x: Val, y: Val, acc: Val) -> Val:
    """Few columns: the two halves of each word as floats."""
    em, lanes = k.em, acc.lanes
    sixteen = em.text(em.splat(Val("i32", 1, "16"), lanes))
    mask = em.text(em.splat(Val("i32", 1, "-65536"), lanes))
    for shift in (True, False):
        parts = []
        for v in (x, y):
            bits = em.op("i32", lanes, f"shl {em.typed(v)}, {sixteen}" if shift else f"and {em.typed(v)}, {mask}")
            parts.append(cast(k, "bitcast", bits, "float"))
        acc = intrinsic_call(k, "fma", [*parts, acc])
    return acc


def _integer_pairs(k: Kernel, x: Val, y: Val, acc: Val) -> Val:
    em, lanes = k.em, acc.lanes
    sixteen = em.text(em.splat(Val("i32", 1, "16"), lanes))
    for high in (False, True):
        parts = []
        for v in (x, y):
            raised = v if high else em.op("i32", lanes, f"shl {em.typed(v)}, {sixteen}")
            parts.append(em.op("i32", lanes, f"ashr {em.typed(raised)}, {sixteen}"))
        product = em.op("i32", lanes, f"mul {em.typed(parts[0])}, {em.text(parts[1])}")
        acc = em.op("i32", lanes, f"add {em.typed(acc)}, {em.text(product)}")
    return acc
