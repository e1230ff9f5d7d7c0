"""Sums of four products of bytes: NEON's sdot and udot or AVX-512's vpdpbusd where the processor has them, else AVX2's
vpmaddubsw, whose 16-bit sums are kept as long as they cannot overflow.
"""

from __future__ import annotations

from functools import partial

from unify.compiler import mlir
from unify.compiler.cpu.codegen import products
from unify.compiler.cpu.codegen.convert import cast
from unify.compiler.cpu.codegen.emitter import ZERO, Index, Val
from unify.compiler.cpu.codegen.values import Kernel, inline

Position = tuple[Index, ...]
Block = tuple[int, ...]

# By bits of a register: u8 · s8 summed in pairs as i16, saturating; i16 · i16 summed in pairs as i32.
_BYTE_PAIRS = {
    128: "@llvm.x86.ssse3.pmadd.ub.sw.128",
    256: "@llvm.x86.avx2.pmadd.ub.sw",
    512: "@llvm.x86.avx512.pmaddubs.w.512",
}
_WORD_PAIRS = {128: "@llvm.x86.sse2.pmadd.wd", 256: "@llvm.x86.avx2.pmadd.wd", 512: "@llvm.x86.avx512.pmaddw.d.512"}


@inline("tt.reduce")
def byte_dot(k: Kernel, op: mlir.Operation, _: int, at: Position, block: Block) -> Val:
    lanes = 1
    for extent in block:
        lanes *= extent
    return _accumulate(k, [op], k.em.splat(Val("i32", 1, "0"), lanes), at, block)


@inline("arith.addi")
def add(k: Kernel, op: mlir.Operation, _: int, at: Position, block: Block) -> Val:
    """A sum whose one side is a byte dot (`Plan.accumulations`); all others are elementwise."""
    dots, start = _chain(k, op)
    return _accumulate(k, dots, k.block(start, at, block), at, block)


def _chain(k: Kernel, op: mlir.Operation) -> tuple[list[mlir.Operation], mlir.Value]:
    """The byte dots that end in `op` one after another, each sum used once, and what they are added to."""
    dot, start = k.plan.accumulations[op]
    dots, owner = [dot], start.owner
    while (
        isinstance(owner, mlir.Operation)
        and owner in k.plan.accumulations
        and start not in k.bindings
        and len(k.plan.uses[start]) == 1
    ):
        dot, start = k.plan.accumulations[owner]
        dots, owner = [dot, *dots], start.owner
    return dots, start


def _accumulate(k: Kernel, dots: list[mlir.Operation], start: Val, at: Position, block: Block) -> Val:
    if products.has(k, "i8", "i8", start.lanes):
        one = _of_one_sign
    elif products.has(k, "u8", "i8", start.lanes):
        one = _unsigned_by_signed
    elif start.lanes in (4, 8, 16) and k.features.has("avx2"):
        return _with_word_sums(k, dots, start, at, block)
    else:
        one = _plainly
    for dot in dots:
        start = one(k, dot, start, at, block)
    return start


def _bytes_of(k: Kernel, dot: mlir.Operation, at: Position, block: Block) -> tuple[Val, Val]:
    a, b = (k.block(v, (*at, ZERO), (*block, 4)) for v in k.plan.byte_dots[dot].operands)
    return a, b


def _ranges(k: Kernel, dot: mlir.Operation) -> list[tuple[int, int]]:
    """Of both sides, as what the program takes their bytes for."""
    known = k.plan.byte_dots[dot]
    ranges = [k.plan.bounds.of(v) for v in known.operands]
    return [(0, 255) if unsigned and low < 0 else (low, high) for (low, high), unsigned in zip(ranges, known.unsigned)]


# ---------------------------------------------------------------- sdot, udot


def _of_one_sign(k: Kernel, dot: mlir.Operation, start: Val, at: Position, block: Block) -> Val:
    a, b = _bytes_of(k, dot, at, block)
    (a_low, a_high), (b_low, b_high) = _ranges(k, dot)
    if a_high <= 127 and b_high <= 127:
        return products.add(k, ("i8", "i8"), start, a, b)
    if a_low >= 0 and b_low >= 0:
        return products.add(k, ("u8", "u8"), start, a, b)
    if b_high > 127:
        a, b = b, a
    if products.has(k, "u8", "i8", start.lanes):
        return products.add(k, ("u8", "i8"), start, a, b)
    # (a - 128) · b + 128 · b
    moved, least = _with_bytes(k, "xor", a, -128), k.em.splat(Val("i8", 1, "-128"), a.lanes)
    zero = k.em.splat(Val("i32", 1, "0"), start.lanes)
    times_128 = products.add(k, ("i8", "i8"), zero, least, b)
    return _sum(k, "sub", products.add(k, ("i8", "i8"), start, moved, b), times_128)


# ---------------------------------------------------------------- vpdpbusd


def _unsigned_by_signed(k: Kernel, dot: mlir.Operation, start: Val, at: Position, block: Block) -> Val:
    a, b = _bytes_of(k, dot, at, block)
    (a_low, a_high), (b_low, b_high) = _ranges(k, dot)
    add = partial(products.add, k, ("u8", "i8"))
    if a_low >= 0 and b_high <= 127:
        return add(start, a, b)
    if b_low >= 0 and a_high <= 127:
        return add(start, b, a)
    zero = k.em.splat(Val("i32", 1, "0"), start.lanes)
    if a_low < 0:  # both signed: (a + 128) · b - 128 · b
        moved = _with_bytes(k, "xor", a, -128)
        all_128 = k.em.splat(Val("i8", 1, "-128"), a.lanes)
        return _sum(k, "sub", add(start, moved, b), add(zero, all_128, b))
    # Both unsigned: a is its low seven bits, and twice its top bit taken as 64.
    low = _with_bytes(k, "and", a, 127)
    top = add(zero, b, _with_bytes(k, "and", _with_bytes(k, "lshr", a, 1), 64))
    return _sum(k, "add", add(start, b, low), _sum(k, "add", top, top))


# ---------------------------------------------------------------- vpmaddubsw


def _with_word_sums(k: Kernel, dots: list[mlir.Operation], start: Val, at: Position, block: Block) -> Val:
    """Sums of 16 bits by their weight; they are widened before they could exceed what 16 bits hold."""
    sums: dict[int, tuple[Val, int]] = {}
    for dot in dots:
        for weight, unsigned, signed, largest in _products(k, dot, at, block):
            product = _pairs(k, _BYTE_PAIRS, "i16", unsigned, signed)
            if weight in sums and sums[weight][1] + largest > 0x7FFF:
                start = _widened(k, start, sums.pop(weight)[0], weight)
            if weight in sums:
                product, largest = _sum(k, "add", sums[weight][0], product), sums[weight][1] + largest
            sums[weight] = product, largest
    for weight, (product, _) in sums.items():
        start = _widened(k, start, product, weight)
    return start


def _products(k: Kernel, dot: mlir.Operation, at: Position, block: Block) -> list[tuple[int, Val, Val, int]]:
    """(weight, unsigned side, signed side, the most that a pair sums to), none of which saturates."""
    a, b = _bytes_of(k, dot, at, block)
    a_range, b_range = _ranges(k, dot)
    if a_range[0] < 0 <= b_range[0] or (b_range[0] >= 0 and a_range[1] <= 127 < b_range[1]):
        a, b, a_range, b_range = b, a, b_range, a_range
    largest = max(map(abs, b_range))
    if a_range[0] < 0:  # both signed: a = low + 16 · high - 128
        moved = _with_bytes(k, "xor", a, -128)
        eight = k.em.splat(Val("i8", 1, "8"), a.lanes)
        nibbles = [(1, _with_bytes(k, "and", moved, 15)), (16, _with_bytes(k, "lshr", moved, 4))]
        return [(weight, half, b, 30 * largest) for weight, half in nibbles] + [(-16, eight, b, 16 * largest)]
    if b_range[1] > 127:  # both unsigned
        nibbles = [(1, _with_bytes(k, "and", b, 15)), (16, _with_bytes(k, "lshr", b, 4))]
        return [(weight, a, half, 30 * a_range[1]) for weight, half in nibbles]
    if 2 * a_range[1] * largest <= 0x7FFF:
        return [(1, a, b, 2 * a_range[1] * largest)]
    nibbles = [(1, _with_bytes(k, "and", a, 15)), (16, _with_bytes(k, "lshr", a, 4))]
    return [(weight, half, b, 30 * largest) for weight, half in nibbles]


def _widened(k: Kernel, start: Val, words: Val, weight: int) -> Val:
    """start + weight · (sums of neighbouring words)."""
    factor = k.em.splat(Val("i16", 1, str(weight)), words.lanes)
    return _sum(k, "add", start, _pairs(k, _WORD_PAIRS, "i32", words, factor))


def _pairs(k: Kernel, names: dict[int, str], element: str, a: Val, b: Val) -> Val:
    """Half as many lanes of twice the width, in registers that the processor has."""
    em, size = k.em, 1 if element == "i16" else 2
    most = k.features.vector_bytes // size if k.features.has("avx512bw") else 32 // size
    if a.lanes > most:
        halves = [[em.slice(v, first, a.lanes // 2) for v in (a, b)] for first in (0, a.lanes // 2)]
        return em.concat([_pairs(k, names, element, *half) for half in halves])
    name, lanes = names[a.lanes * size * 8], a.lanes // 2
    em.declare(name, f"declare <{lanes} x {element}> {name}({a.type}, {a.type})")
    return em.op(element, lanes, f"call <{lanes} x {element}> {name}({em.typed(a)}, {em.typed(b)})")


# ---------------------------------------------------------------- neither


def _plainly(k: Kernel, dot: mlir.Operation, start: Val, at: Position, block: Block) -> Val:
    """32-bit products, each fourth lane summed."""
    a, b = _bytes_of(k, dot, at, block)
    unsigned = k.plan.byte_dots[dot].unsigned
    wide = [cast(k, "zext" if u else "sext", v, "i32") for v, u in zip((a, b), unsigned)]
    product = k.em.op("i32", a.lanes, f"mul {k.em.typed(wide[0])}, {k.em.text(wide[1])}")
    for byte in range(4):
        start = _sum(k, "add", start, k.em.shuffle(product, list(range(byte, a.lanes, 4))))
    return start


def _with_bytes(k: Kernel, name: str, value: Val, byte: int) -> Val:
    every = k.em.splat(Val("i8", 1, str(byte)), value.lanes)
    return k.em.op("i8", value.lanes, f"{name} {k.em.typed(value)}, {k.em.text(every)}")


def _sum(k: Kernel, name: str, a: Val, b: Val) -> Val:
    return k.em.op(a.element, a.lanes, f"{name} {k.em.typed(a)}, {k.em.text(b)}")
