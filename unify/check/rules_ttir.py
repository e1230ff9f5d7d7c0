"""Rules that a kernel's TTIR shows: what a chip does not have, and what it understands otherwise."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator

from unify.compiler import ascend_text, mlir
from unify.compiler.places import Place, Places

from .subject import Hit, Subject, hits, place_of, words

_ARITHMETIC = ("arith.", "math.", "tt.reduce", "tt.scan", "tt.dot", "tt.load", "tt.store", "tt.fp_to_fp")
_ATOMICS = ("tt.atomic_rmw", "tt.atomic_cas")
_ACQUIRE_RELEASE, _GPU = 4, 1  # Triton's MemSemantic and MemSyncScope
_EXCHANGES = {1: "and", 2: "or", 3: "xor", 10: "xchg"}  # Triton's RMWOp
_COPIES = 16
_ACCESS = re.compile(r'"(tt\.(?:load|store))"\(.* loc\((#loc\d*)\)$', re.MULTILINE)


def float64(subject: Subject) -> Iterator[Hit]:
    """Tiles of float64."""
    return hits(_with_element(subject, ("f64",)))


def float8(subject: Subject) -> Iterator[Hit]:
    """Conversions of float8, and on the 910 arithmetic with it, which the 950 has."""
    for operation in subject.operations:
        names = {_element(value) for value in (*operation.operands, *operation.results)}
        is_refused = operation.name == "tt.fp_to_fp" or (operation.name.startswith("arith.") and not subject.is_950)
        if is_refused and any(name.startswith("f8") for name in names) and operation.operands:
            yield from hits(iter([operation]))


def libdevice(subject: Subject) -> Iterator[Hit]:
    """Calls of functions that Nvidia's library has, but for those that are compiled here too."""
    for operation in _named(subject, "tt.extern_elementwise"):
        symbol = operation.string("symbol")
        if ascend_text.operation_for(symbol) is None if subject.kind == "ascend" else subject.reason:
            yield from hits(iter([operation]), symbol=symbol)


def inline_assembly(subject: Subject) -> Iterator[Hit]:
    """tl.inline_asm_elementwise."""
    for operation in _named(subject, "tt.elementwise_inline_asm"):
        for hit in hits(iter([operation])):
            shown = next((s.text for s in subject.lowered.statements if s.name == "llvm.inline_asm"), None)
            yield Hit(hit.place, shown or f"{operation.name} {operation.string('asm_string')!r}")


def spin_lock(subject: Subject) -> Iterator[Hit]:
    """Loops whose condition is what an atomic found, or a load of what others may write meanwhile."""
    for loop in _named(subject, "scf.while"):
        inside = [
            op for block in loop.regions[0].blocks for operation in block.operations for op in mlir.walk(operation)
        ]
        asked = [op for op in _condition_of(loop) if op.boolean("isVolatile") or _is_exchange(op)]
        waits = [op for op in inside if op.name in (*_ATOMICS, "tt.atomic_poll")]
        yield from hits(iter(dict.fromkeys(waits + asked)))


def _is_exchange(operation: mlir.Operation) -> bool:
    """An atomic by which a lock is taken; a sum in a loop's body may be a queue of work, where nobody waits."""
    return operation.name == "tt.atomic_cas" or (
        operation.name == "tt.atomic_rmw" and operation.integer("atomic_rmw_op") in _EXCHANGES
    )


def _condition_of(loop: mlir.Operation) -> list[mlir.Operation]:
    """What the condition of an scf.while is computed from, inside of the loop: also by the round before."""
    before, after = (region.entry for region in loop.regions)
    condition, done = before.operations[-1], after.operations[-1]
    found: dict[mlir.Operation, None] = {}
    seen: set[mlir.Value] = set()
    todo = [condition.operands[0]]
    while todo:
        value = todo.pop()
        owner = value.owner
        if value in seen:
            continue
        seen.add(value)
        if owner is before:
            todo.append(done.operands[value.index])
        elif owner is after:
            todo.append(condition.operands[1 + value.index])
        elif isinstance(owner, mlir.Operation) and mlir.is_inside(value, loop):
            found[owner] = None
            todo += owner.operands
            todo += [result for region in owner.regions for result in region.entry.operations[-1].operands]
    return list(found)


def early_return(subject: Subject) -> Iterator[Hit]:
    """Kernels with more than one way out."""
    if subject.memory.get("persistent"):
        return
    branches = [op for op in subject.operations if op.name == "cf.cond_br"]
    yield from hits(iter(branches[:1]))


def atomic_order(subject: Subject) -> Iterator[Hit]:
    """Atomics with an order or a scope of their own."""
    for operation in _named(subject, *_ATOMICS):
        sem, scope = operation.integer("sem", _ACQUIRE_RELEASE), operation.integer("scope", _GPU)
        if (sem, scope) != (_ACQUIRE_RELEASE, _GPU):
            yield Hit(place_of(operation), f"{operation.name} sem = {sem}, scope = {scope}")


def atomic_in_loop(subject: Subject) -> Iterator[Hit]:
    """Atomics, in a loop, that are not sums or extremes."""
    for loop in _named(subject, "scf.for", "scf.while"):
        for operation in mlir.walk(loop):
            name = _EXCHANGES.get(operation.integer("atomic_rmw_op")) if operation.name == "tt.atomic_rmw" else None
            name = "cas" if operation.name == "tt.atomic_cas" else name
            if name is not None:
                yield from hits(iter([operation]), operation=name)


def dot_float32(subject: Subject) -> Iterator[Hit]:
    """Products of float32."""
    return hits(op for op in _named(subject, "tt.dot") if _element(op.operands[0]) == "f32")


def unrolled(subject: Subject) -> Iterator[Hit]:
    """Loads and stores that stand many times for one place of the source, in one call of the function that has it, in a
    kernel that does not fit, or takes much of what there is.
    """
    used, limit = subject.memory.get("ub_bytes"), subject.memory.get("ub_limit")
    if used and limit and used * 4 < limit:  # it is no harm
        return
    found = Counter(_ACCESS.findall(subject.ttir))  # a location of MLIR has all calls that lead there
    places = Places(subject.ttir)
    for (name, location), count in found.items():
        place = places.of(location)
        if place is not None and count >= _COPIES:
            shown = next((words(op) for op in _named(subject, name) if _is_at(op, place)), name)
            yield Hit(place, f"{count} × {shown}", {"count": count})


def _is_at(operation: mlir.Operation, place: Place) -> bool:
    return place_of(operation) == Place(place.file, place.line, place.column)


def _named(subject: Subject, *names: str) -> Iterator[mlir.Operation]:
    return (operation for operation in subject.operations if operation.name in names)


def _with_element(subject: Subject, elements: tuple[str, ...]) -> Iterator[mlir.Operation]:
    for operation in subject.operations:
        values = (*operation.operands, *operation.results)
        is_tile = any(isinstance(value.type, mlir.Tensor) and _element(value) in elements for value in values)
        if is_tile and operation.name.startswith(_ARITHMETIC) and operation.name != "arith.constant":
            yield operation


def _element(value: mlir.Value) -> str:
    kind = value.type.element if isinstance(value.type, mlir.Tensor) else value.type
    return str(kind.pointee if isinstance(kind, mlir.Pointer) else kind)
