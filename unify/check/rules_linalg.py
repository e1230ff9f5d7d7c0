"""Rules by what the vendor made of loads, stores and assertions: where a kernel means something else on the chip.

Each was seen in the texts of triton-ascend 3.2.0 and AscendNPU IR 1.2.0, and is told only where it is seen again.
"""

from __future__ import annotations

from collections.abc import Iterator

from unify.compiler import mlir

from .lowered import Statement
from .subject import Hit, Subject, hits, place_of

_READS = ("memref.load", "memref.copy")
_LARGER = ("tt.broadcast", "tt.expand_dims", "tt.splat")


def masked_load(subject: Subject) -> Iterator[Hit]:
    """Masked loads that read the whole tile and choose afterwards, or go through all of its elements."""
    for operation in _masked(subject, "tt.load", operands=2):
        if _keeps_inside(operation.operands[0], _peeled(operation.operands[1])):
            continue
        found = _at(subject.linalg.statements, operation)
        chosen = [s for s in found if s.name == "arith.select"]
        if not any(s.name == "scf.if" and s.loops and s.loops[-1] in found for s in found):
            chosen += [s for s in found if s.name in _READS and s.loops and s.loops[-1] in found and s.loops[-1].rounds]
        if chosen:
            yield Hit(place_of(operation), chosen[0].text)


def masked_store(subject: Subject) -> Iterator[Hit]:
    """Masked stores that read the whole tile, choose, and write the whole tile: a copy of it is at their place."""
    for operation in _masked(subject, "tt.store", operands=3):
        reads = [s for s in _at(subject.linalg.statements, operation) if s.name == "memref.copy"]
        if reads:
            yield Hit(place_of(operation), reads[0].text)


def lost_assertion(subject: Subject) -> Iterator[Hit]:
    """tl.device_assert, in a kernel compiled for debugging, of which nothing is left."""
    for operation in _of(subject, "tt.assert"):
        if subject.lines and not any("assert" in s.callee for s in _at(subject.lowered.statements, operation)):
            yield from hits(iter([operation]))


def _masked(subject: Subject, name: str, operands: int) -> Iterator[mlir.Operation]:
    return (operation for operation in _of(subject, name) if len(operation.operands) >= operands)


def _keeps_inside(address: mlir.Value, mask: mlir.Value) -> bool:
    """Whether the places are chosen by the mask already: tl.where(mask, index, 0)."""
    pending, seen = [address], set[mlir.Operation]()
    while pending:
        owner = pending.pop().owner
        if not isinstance(owner, mlir.Operation) or owner in seen:
            continue
        if owner.name == "arith.select" and _peeled(owner.operands[0]) is mask:
            return True
        seen.add(owner)
        pending += owner.operands
    return False


def _peeled(mask: mlir.Value) -> mlir.Value:
    """A mask before it was made as large as a tile."""
    while isinstance(mask.owner, mlir.Operation) and mask.owner.name in _LARGER:
        mask = mask.owner.operands[0]
    return mask


def _of(subject: Subject, name: str) -> Iterator[mlir.Operation]:
    return (operation for operation in subject.operations if operation.name == name and operation.location.file)


def _at(statements: list[Statement], operation: mlir.Operation) -> list[Statement]:
    """What stands for an operation, by its file, line and column."""
    place = place_of(operation)
    return [
        s
        for s in statements
        if s.place and (s.place.file, s.place.line, s.place.column) == (place.file, place.line, place.column)
    ]
