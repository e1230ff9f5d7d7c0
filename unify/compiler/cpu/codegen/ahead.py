"""Reading ahead: what the next round of a loop will pack for a product is fetched while this round multiplies.

Packing takes a few lines each of many rows, too short runs for what a processor fetches by itself.
"""

from __future__ import annotations

from dataclasses import dataclass

from unify.compiler import mlir
from unify.compiler.cpu.axis import Polynomial, poly_add
from unify.compiler.cpu.codegen import memory
from unify.compiler.cpu.codegen.emitter import Index, Val
from unify.compiler.cpu.codegen.values import Kernel, is_tensor

_SAME_PLACES = frozenset(["arith.extf", "arith.extsi", "tt.fp_to_fp"])
_INTO_SECOND_LEVEL = 2  # llvm.prefetch's locality


@dataclass(frozen=True)
class Ahead:
    """The pointers of a load, and how many elements further the next round reads."""

    pointers: mlir.Value
    distance: Val


def look(k: Kernel, op: mlir.Operation, source: mlir.Value) -> None:
    """Notes what `op`, in a loop, will read in the next round where it reads `source` now, if that is known."""
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
            k.ahead[source] = Ahead(owner.operands[0], memory.polynomial(k, distance))


def fetch(k: Kernel, source: mlir.Value, at: tuple[Index, ...]) -> None:
    """Asks for the line that the next round reads in this place of `source`, if that was noted."""
    ahead = k.ahead.get(source)
    if ahead is None:
        return
    em = k.em
    access = memory.Access(k, ahead.pointers, at, (1,) * len(at))
    place = em.assign(f"getelementptr {access.stored}, ptr {access.base}, i64 {em.text(ahead.distance)}")
    em.declare("@llvm.prefetch.p0", "declare void @llvm.prefetch.p0(ptr, i32, i32, i32)")
    em.line(f"call void @llvm.prefetch.p0(ptr {place}, i32 0, i32 {_INTO_SECOND_LEVEL}, i32 1)")
