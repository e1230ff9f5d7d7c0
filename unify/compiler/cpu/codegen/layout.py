"""Operations that only move elements: here they are index arithmetic and, inside a register, shuffles."""

from __future__ import annotations

import numpy as np

from unify.compiler import mlir
from unify.compiler.cpu.codegen.emitter import BYTES, ZERO, Index, Val
from unify.compiler.cpu.codegen.values import Kernel, inline, linear_pieces, row_major, shape_of

Position = tuple[Index, ...]
Block = tuple[int, ...]


def _lanes(block: Block) -> int:
    return int(np.prod(block, dtype=np.int64)) if block else 1


@inline("tt.splat", "tt.unsplat")
def splat(k: Kernel, op: mlir.Operation, _: int, at: Position, block: Block) -> Val:
    return k.em.splat(k.scalar(op.operands[0]), _lanes(block))


@inline("tt.make_range")
def make_range(k: Kernel, op: mlir.Operation, _: int, at: Position, block: Block) -> Val:
    em, start, lanes = k.em, op.integer("start"), block[0]
    if not at[0].terms:
        return em.const_vector("i32", [start + at[0].constant + lane for lane in range(lanes)])
    first = k.number(at[0] + start)
    narrow = Val("i32", 1, em.assign(f"trunc nsw i64 {em.text(first)} to i32"))
    if lanes == 1:
        return narrow
    steps = em.const_vector("i32", list(range(lanes)))
    return em.op("i32", lanes, f"add nsw {em.typed(em.splat(narrow, lanes))}, {em.text(steps)}")


@inline("tt.expand_dims")
def expand_dims(k: Kernel, op: mlir.Operation, _: int, at: Position, block: Block) -> Val:
    axis = op.integer("axis")
    return k.block(op.operands[0], at[:axis] + at[axis + 1 :], block[:axis] + block[axis + 1 :])


@inline("tt.broadcast")
def broadcast(k: Kernel, op: mlir.Operation, _: int, at: Position, block: Block) -> Val:
    source, shape = shape_of(op.operands[0]), shape_of(op.results[0])
    inner_at = tuple(a if s == t else ZERO for a, s, t in zip(at, source, shape))
    inner = tuple(b if s == t else 1 for b, s, t in zip(block, source, shape))
    value = k.block(op.operands[0], inner_at, inner)
    if value.lanes == 1:
        return k.em.splat(value, _lanes(block))
    mask = np.broadcast_to(np.arange(value.lanes).reshape(inner), block).ravel()
    if (mask.reshape(-1, value.lanes) == np.arange(value.lanes)).all():
        return repeat(k, value, len(mask) // value.lanes)
    return k.em.shuffle(value, [int(m) for m in mask])


def repeat(k: Kernel, value: Val, times: int) -> Val:
    """The whole register several times over; a few bytes repeat as one integer, which loads can do by themselves."""
    em, bits = k.em, 8 * BYTES[value.element] * value.lanes
    if value.repeats is not None:
        return em.splat(value.repeats, value.lanes * times)
    if value.element in ("i1", "ptr") or bits not in (16, 32, 64):
        return em.shuffle(value, [lane % value.lanes for lane in range(value.lanes * times)])
    word = em.op(f"i{bits}", 1, f"bitcast {em.typed(value)} to i{bits}")
    words = em.splat(word, times)
    lanes = value.lanes * times
    return em.op(value.element, lanes, f"bitcast {em.typed(words)} to <{lanes} x {value.element}>")


@inline("tt.trans")
def trans(k: Kernel, op: mlir.Operation, _: int, at: Position, block: Block) -> Val:
    order = op.integers("order") or ()
    inner_at, inner = [ZERO] * len(order), [1] * len(order)
    for target, source in enumerate(order):
        inner_at[source], inner[source] = at[target], block[target]
    value = k.block(op.operands[0], tuple(inner_at), tuple(inner))
    mask = np.arange(_lanes(block)).reshape(inner).transpose(order).ravel()
    return k.em.shuffle(value, [int(m) for m in mask])


@inline("tt.reshape")
def reshape(k: Kernel, op: mlir.Operation, _: int, at: Position, block: Block) -> Val:
    """Runs of consecutive elements stay runs under any row-major reshape of powers of two."""
    source, shape = shape_of(op.operands[0]), shape_of(op.results[0])
    parts = []
    for offset, lanes in linear_pieces(shape, block):
        linear = k.combine([a + o for a, o in zip(at, offset)], row_major(shape))
        parts.append(_linear_block(k, op.operands[0], source, linear, lanes))
    return k.em.concat(parts)


def _linear_block(k: Kernel, value: mlir.Value, shape: tuple[int, ...], linear: Index, lanes: int) -> Val:
    at = tuple(k.divide(linear, stride, extent) for stride, extent in zip(row_major(shape), shape))
    block, room = [1] * len(shape), lanes
    for axis in reversed(range(len(shape))):
        block[axis] = min(room, shape[axis])
        room //= block[axis]
    return k.block(value, at, tuple(block))


@inline("tt.join")
def join(k: Kernel, op: mlir.Operation, _: int, at: Position, block: Block) -> Val:
    left, right = op.operands
    if block[-1] == 2:
        a, b = k.block(left, at[:-1], block[:-1]), k.block(right, at[:-1], block[:-1])
        return k.em.shuffle(a, [i // 2 + (i % 2) * a.lanes for i in range(2 * a.lanes)], b)
    if not at[-1].terms:
        return k.block((left, right)[at[-1].constant], at[:-1], block[:-1])
    a, b = k.block(left, at[:-1], block[:-1]), k.block(right, at[:-1], block[:-1])
    first = k.em.assign(f"icmp eq i64 {k.em.text(k.number(at[-1]))}, 0")
    return k.em.op(a.element, a.lanes, f"select i1 {first}, {k.em.typed(a)}, {k.em.typed(b)}")


@inline("tt.split")
def split(k: Kernel, op: mlir.Operation, which: int, at: Position, block: Block) -> Val:
    both = k.block(op.operands[0], (*at, ZERO), (*block, 2))
    return k.em.shuffle(both, list(range(which, both.lanes, 2)))


@inline("tt.cat")
def cat(k: Kernel, op: mlir.Operation, _: int, at: Position, block: Block) -> Val:
    left, right = op.operands
    extent = shape_of(left)[0]
    if block[0] > extent:
        return k.em.concat(
            [
                k.block(left, (ZERO, *at[1:]), (extent, *block[1:])),
                k.block(right, (ZERO, *at[1:]), (extent, *block[1:])),
            ]
        )
    if not at[0].terms:
        side, index = (left, at[0]) if at[0].constant < extent else (right, at[0] + -extent)
        return k.block(side, (index, *at[1:]), block)
    inside = k.divide(at[0], 1, extent)
    if k.combine([at[0]], [1]).constant >= extent and all(f * k.em.counters[c].stop <= extent for c, f in at[0].terms):
        return k.block(right, (inside, *at[1:]), block)
    a, b = k.block(left, (inside, *at[1:]), block), k.block(right, (inside, *at[1:]), block)
    first = k.em.assign(f"icmp ult i64 {k.em.text(k.number(at[0]))}, {extent}")
    return k.em.op(a.element, a.lanes, f"select i1 {first}, {k.em.typed(a)}, {k.em.typed(b)}")
