"""Rules that a kernel's TTIR shows: what a chip does not have, and what it understands otherwise."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator

from unify.compiler import mlir

from .subject import Hit, Subject, hits, place_of, words

_ARITHMETIC = ("arith.", "math.", "tt.reduce", "tt.scan", "tt.dot", "tt.load", "tt.store", "tt.fp_to_fp")
_ATOMICS = ("tt.atomic_rmw", "tt.atomic_cas")
_ACQUIRE_RELEASE, _GPU = 4, 1  # Triton's MemSemantic and MemSyncScope
_EXCHANGES = {1: "and", 2: "or", 3: "xor", 10: "xchg"}  # Triton's RMWOp
_COPIES = 16


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
    """Calls of functions that Nvidia's library has; those that are known here too are compiled."""
    for operation in _named(subject, "tt.extern_elementwise"):
        if subject.kind == "ascend" or subject.reason:
            yield from hits(iter([operation]), symbol=operation.string("symbol"))


def inline_assembly(subject: Subject) -> Iterator[Hit]:
    """tl.inline_asm_elementwise."""
    for operation in _named(subject, "tt.elementwise_inline_asm"):
        for hit in hits(iter([operation])):
            shown = next((s.text for s in subject.lowered.statements if s.name == "llvm.inline_asm"), None)
            yield Hit(hit.place, shown or f"{operation.name} {operation.string('asm_string')!r}")


def spin_lock(subject: Subject) -> Iterator[Hit]:
    """Loops whose condition is what an atomic found."""
    for loop in _named(subject, "scf.while"):
        inside = [
            op for block in loop.regions[0].blocks for operation in block.operations for op in mlir.walk(operation)
        ]
        yield from hits(op for op in inside if op.name in (*_ATOMICS, "tt.atomic_poll"))


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
    """Loads and stores that stand many times for one place of the source."""
    found = Counter(place_of(op) for op in _named(subject, "tt.load", "tt.store") if op.location.file)
    for place, count in found.items():
        if count >= _COPIES:
            operation = next(op for op in subject.operations if place_of(op) == place)
            yield Hit(place, f"{count} × {words(operation)}", {"count": count})


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
