"""Reading ahead: what the next round of a loop will pack for a product is fetched in this round.

Packing takes a few lines each of many rows, too short runs for what a processor fetches by itself. Where rows are many
enough, lines are asked for while multiplying, a few at a time: while packing, all of them would wait for memory.

Of as many bytes as a line has the last is asked for: where memory begins amid a line, as NumPy's does, they reach into
the next one, and this round has read the first.
"""

from __future__ import annotations

from dataclasses import dataclass

from unify.compiler import mlir
from unify.compiler.cpu.axis import Polynomial, poly_add
from unify.compiler.cpu.codegen import memory
from unify.compiler.cpu.codegen.emitter import BYTES, ZERO, Index, Val
from unify.compiler.cpu.codegen.values import Kernel, element_of, is_tensor, shape_of

_SAME_PLACES = frozenset(["arith.extf", "arith.extsi", "tt.fp_to_fp"])
_INTO_SECOND_LEVEL = 2  # llvm.prefetch's locality
_LINE = 64


@dataclass(frozen=True)
class Ahead:
    """The pointers of a load, and how many elements further the next round reads."""

    pointers: mlir.Value
    distance: Val


def look(k: Kernel, op: mlir.Operation, source: mlir.Value, *, while_multiplying: bool) -> None:
    """Notes what `op`, in a loop, will read in the next round where it reads `source` now, if that is known.

    while_multiplying: the source is [.., k, n], and asked for by `share` if it runs on along k; else by `fetch`.
    """
    loop = op.parent.parent.parent if op.parent is not None and op.parent.parent is not None else None
    owner = source.owner
    while isinstance(owner, mlir.Operation) and owner.name in _SAME_PLACES:
        owner = owner.operands[0].owner
    if loop is None or loop.name != "scf.for" or not isinstance(owner, mlir.Operation) or owner.name != "tt.load":
        return
    linear = k.plan.axes.linear(owner.operands[0])
    if linear.base is None or not is_tensor(owner.operands[0]) or k.origins is not None:
        return
    counter, step, round_ = loop.regions[0].entry.arguments[0], loop.operands[2], k.plan.rounds.get(loop)
    distance: Polynomial = {}
    for atoms, factor in linear.offset.items():
        if atoms.count(counter) == 1:
            rest = [atom for atom in atoms if atom is not counter]
            distance = poly_add(distance, {tuple(sorted([*rest, step], key=id)): factor})
        elif round_ is not None and atoms.count(round_) == 1:
            distance = poly_add(distance, {tuple(atom for atom in atoms if atom is not round_): factor})
    if distance:
        with k.em.nest():  # between statements nothing that is written may be found again elsewhere
            pointers = owner.operands[0]
            runs_along_k = len(shape_of(pointers)) - 2 in k.plan.axes.neighbours(pointers)
            k.ahead[op if while_multiplying and runs_along_k else source] = Ahead(
                pointers, memory.polynomial(k, distance)
            )


def fetch(k: Kernel, source: mlir.Value, at: tuple[Index, ...], block: tuple[int, ...]) -> None:
    """Asks for what the next round reads in this place of `source`, if that was noted. block: a run."""
    if source in k.ahead:
        _fetch(k, k.ahead[source], tuple(index + (size - 1) for index, size in zip(at, block)))


def share(k: Kernel, op: mlir.Operation, at: tuple[Index, ...], columns: int, counter: str, rounds: int) -> None:
    """Asks, in each of so many rounds of a loop over k, for a part of the lines of `columns` columns from `at` on.

    at: [.., n]; counter: of the loop, which goes up to k's words; all sizes are powers of two.
    """
    if op not in k.ahead:
        return
    ahead, em = k.ahead[op], k.em
    depth, size = shape_of(ahead.pointers)[-2], BYTES[element_of(memory.pointee(ahead.pointers))]
    stop = em.counters[counter].stop
    step = stop // rounds
    lines = max(1, depth * size // _LINE)
    end = min(depth, _LINE // size) - 1
    *outer, column = at
    if stop >= columns:  # so many counts for each column
        counts = stop // columns
        across = em.derived(counter, f"lshr i64 {counter}, {counts.bit_length() - 1}", max(1, step // counts), columns)
        along = em.derived(counter, f"and i64 {counter}, {counts - 1}", min(step, counts), counts)
        along *= depth // counts
    else:
        across, along = Index(((counter, columns // stop),)), ZERO
    for line in range(columns * lines // rounds):
        place = along + (line % lines * (_LINE // size) + end)
        _fetch(k, ahead, (*outer, place, column + across + line // lines))


def _fetch(k: Kernel, ahead: Ahead, at: tuple[Index, ...]) -> None:
    em = k.em
    access = memory.Access(k, ahead.pointers, at, (1,) * len(at))
    place = em.assign(f"getelementptr {access.stored}, ptr {access.base}, i64 {em.text(ahead.distance)}")
    em.declare("@llvm.prefetch.p0", "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
    em.line(f"call void @llvm.prefetch.p0(ptr {place}, i32 0, i32 {_INTO_SECOND_LEVEL}, i32 1)")
