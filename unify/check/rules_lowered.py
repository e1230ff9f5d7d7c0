"""Rules that the vendor's last IR shows: what a line of the kernel became on the chip."""

from __future__ import annotations

import itertools
import re
from collections import Counter, defaultdict
from collections.abc import Iterator
from typing import TypeGuard

from unify.compiler import mlir
from unify.compiler.places import Place

from .lowered import Lowered, Memref, Statement, memref_of
from .subject import Hit, Subject, place_of

_VECTOR = re.compile(r"v[a-z]+_|vs?el|broadcast_|reduce_|transpose_|arange_|deinterleave|interleave|copy_ubuf")
_MANY = 64
_ATOMICS = ("tt.atomic_rmw", "tt.atomic_cas")
_EXCHANGES = (1, 2, 3, 10)  # Triton's RMWOp: and, or, xor, xchg
_BITS = {"i1": 8, "i8": 8, "i16": 16, "f16": 16, "bf16": 16, "i32": 32, "f32": 32, "i64": 64}
_OPERATIONS = {
    "addi": "addition", "subi": "subtraction", "muli": "multiplication", "cmpi": "comparison", "remsi": "remainder",
    "remui": "remainder", "divsi": "division", "divui": "division", "maxsi": "maximum", "minsi": "minimum",
    "maxui": "maximum", "minui": "minimum", "addf": "addition", "mulf": "multiplication", "subf": "subtraction",
    "divf": "division", "andi": "and", "ori": "or", "xori": "exclusive or", "shli": "shift", "shrsi": "shift",
    "shrui": "shift", "floordivsi": "division", "ceildivsi": "division",
}  # fmt: skip


def gather(subject: Subject) -> Iterator[Hit]:
    """Loops over a tile that load an element of device memory each."""
    for loop, body in subject.lowered.scalar_loops():
        for statement in body:
            if statement.name == "memref.load" and "gm" in statement.spaces and _has_place(statement):
                yield Hit(_place(statement), statement.text, {"count": _count(loop)})


def scatter(subject: Subject) -> Iterator[Hit]:
    """Loops over a tile that store an element of device memory each."""
    for loop, body in subject.lowered.scalar_loops():
        for statement in body:
            stores = statement.callee.startswith("store_ubuf_to_gm") or (
                statement.name == "memref.store" and "gm" in statement.spaces
            )
            if stores and _has_place(statement):
                yield Hit(_place(statement), statement.text, {"count": _count(loop)})


def wrapped(subject: Subject) -> Iterator[Hit]:
    """Loads of one element after the other whose places are remainders, as in Triton's tutorial on products."""
    lines = {hit.place.line: hit for hit in (*gather(subject), *scatter(subject))}
    for op in subject.operations:
        hit = lines.get(op.location.line) if op.name in ("tt.load", "tt.store") else None
        if hit is not None and hit.place.file == op.location.file and any(map(_is_wrap, _origins(op.operands[0]))):
            yield hit


def _is_wrap(operation: mlir.Operation) -> bool:
    """Whether it is a remainder of a tile, and not of what was loaded, which is an index of its own."""
    is_remainder = operation.name in ("arith.remsi", "arith.remui") and isinstance(
        operation.results[0].type, mlir.Tensor
    )
    return is_remainder and all(op.name != "tt.load" for op in _origins(operation.operands[0]))


def _origins(value: mlir.Value) -> set[mlir.Operation]:
    """What a value is computed from, up to loads; in a loop, what it starts from."""
    found, todo, seen = set[mlir.Operation](), [value], set[mlir.Value]()
    while todo:
        value = todo.pop()
        if value in seen:
            continue
        seen.add(value)
        owner = value.owner
        if isinstance(owner, mlir.Operation):
            found.add(owner)
            todo += owner.operands if owner.name != "tt.load" else ()
        elif owner is not None and owner.parent is not None and owner.parent.parent is not None:
            loop = owner.parent.parent
            if loop.name == "scf.for" and value.index > 0:  # after its counter
                todo.append(loop.operands[2 + value.index])
    return found


def strided(subject: Subject) -> Iterator[Hit]:
    """Copies between device memory and the chip whose last axis has gaps."""
    for call, _, outside, _ in _copies(subject.lowered):
        stride = _last_stride(outside)
        if stride != 1 and outside.shape[-1:] != (1,):
            words = f"{stride} elements" if stride is not None else "a distance that only a launch knows"
            yield Hit(_place(call), str(_shown(outside)), {"stride": words})


def row_padding(subject: Subject) -> Iterator[Hit]:
    """Tiles whose rows are shorter than the places that they have on the chip."""
    for call, _, outside, inside in _copies(subject.lowered):
        row, strides = inside.shape[-1:], inside.strides
        if strides is None or len(strides) < 2 or len(inside.shape) < 2 or _last_stride(outside) != 1:
            continue
        width = _BITS.get(inside.element, 32) // 8
        place = strides[-2]
        if row[0] is not None and place is not None and strides[-1] == 1 and place > row[0] > 1:
            details: dict[str, object] = {"bytes": row[0] * width, "padded": place * width}
            yield Hit(_place(call), str(_shown(inside)), details)


def scalar_arithmetic(subject: Subject) -> Iterator[Hit]:
    """Loops over a tile that compute an element each, in one unit that has no vectors."""
    scans = _scans(subject)
    for loop, body in subject.lowered.scalar_loops():
        if any("gm" in s.spaces or s.callee for s in body) or _line(loop) in scans:
            continue
        for statement in body:
            operation = _OPERATIONS.get(statement.name.removeprefix("arith."))
            type_ = statement.text.rpartition(": ")[2]
            if operation is not None and type_ in _BITS and _has_place(statement):
                details: dict[str, object] = {"operation": operation, "type": _words(type_), "count": _count(loop)}
                yield Hit(_place(statement), statement.text, details)


def sequential_scan(subject: Subject) -> Iterator[Hit]:
    """tl.cumsum and others, as a loop."""
    scans = _scans(subject)
    for loop, body in subject.lowered.scalar_loops():
        found = next((s for s in body if s.name.startswith("arith.") and s.name[-1] == "f"), None) or loop
        if _line(loop) in scans and _has_place(loop):
            yield Hit(_place(loop), found.text, {"count": _count(loop)})


def integer_compare(subject: Subject) -> Iterator[Hit]:
    """An order of integers by their maximum and an equality."""
    for calls in _by_place(subject.lowered).values():
        names = [call.callee for call in calls]
        if any(re.match(r"v(max|min)s?_\w*int(8|16|32|64)_t", name) for name in names):
            equal = next((call for call in calls if re.match(r"vcmps?_eq_\w*int(8|16|32|64)_t", call.callee)), None)
            if equal is not None:
                yield Hit(_place(equal), ", ".join(f"@{name}" for name in names))


def integer_division(subject: Subject) -> Iterator[Hit]:
    """A quotient of int32 by way of float32. The operands are converted where they were loaded, maybe lines above."""
    written = {_line_of(op) for op in subject.operations if _is_division_of_int32(op)}
    for calls in _by_place(subject.lowered).values():
        parts = [call for call in calls if re.match(r"vdivs?_\w*float|vcast_float_to_u?int32_t", call.callee)]
        if len({call.callee[:5] for call in parts}) == 2 and _line(parts[0]) in written:
            yield Hit(_place(parts[0]), ", ".join(f"@{call.callee}" for call in parts))


def _is_division_of_int32(operation: mlir.Operation) -> bool:
    is_division = operation.name in ("arith.divsi", "arith.divui", "arith.remsi", "arith.remui")
    type_ = operation.results[0].type if is_division else None
    return isinstance(type_, mlir.Tensor) and str(type_.element) == "i32"


def masked_fill(subject: Subject) -> Iterator[Hit]:
    """Tiles that are filled before they are loaded, where only their masked store uses them."""
    lowered = subject.lowered
    loaded = {(load.place, _destination(lowered, load)) for load in lowered.calls(r"load_gm_to_ubuf")}
    loads = [op for op in subject.operations if op.name == "tt.load"]
    needed = {_line_of(load) for load in loads if _is_used_beyond_its_mask(load, subject)}
    for call in lowered.calls(r"broadcast_scalar_"):
        if (call.place, _destination(lowered, call)) in loaded and _line(call) not in needed:
            yield Hit(_place(call), call.text)


def _is_used_beyond_its_mask(load: mlir.Operation, subject: Subject) -> bool:
    """Whether `other` may matter: all that is computed from it, element by element, is not stored under its mask."""
    mask = load.operands[1] if len(load.operands) > 1 else None
    todo, seen = [load.results[0]], set[mlir.Value]()
    while todo:
        value = todo.pop()
        for user in subject.operations if value not in seen else ():
            if value not in user.operands:
                continue
            if user.name == "tt.store" and value is user.operands[1] and user.operands[2:] == [mask]:
                continue
            if not user.name.startswith(("arith.", "math.")):
                return True
            todo += user.results
        seen.add(value)
    return False


def no_double_buffer(subject: Subject) -> Iterator[Hit]:
    """Loads in a loop that have one place, where two of them do not fit."""
    lowered = subject.lowered
    for call, destination, _, inside in _copies(lowered):
        memory = {"ub": "ub", "cbuf": "l1"}.get(inside.space)
        if memory is None or not call.loops or call.callee.startswith("store"):
            continue
        root = lowered.root(destination, call)
        used, limit = subject.memory.get(f"{memory}_bytes"), subject.memory.get(f"{memory}_limit")
        if root is None or root.name != "hivm.hir.pointer_cast" or not used or not limit:
            continue
        size = _size(memref_of(root.text.partition(" : ")[2]))
        if size is not None and used + size > limit:
            details: dict[str, object] = {"memory": memory.upper(), "used": used // 1024, "limit": limit // 1024}
            yield Hit(_place(call), root.text, details)


def barrier(subject: Subject) -> Iterator[Hit]:
    """tl.debug_barrier."""
    written = {place_of(op) for op in subject.operations if op.name in ("ttg.barrier", "gpu.barrier")}
    for statement in subject.lowered.statements:
        if statement.place in written and "PIPE_ALL" in statement.text:
            yield Hit(_place(statement), statement.text)


def atomic_lock(subject: Subject) -> Iterator[Hit]:
    """Atomics that the chip has no instruction for: the lock of one in a loop is held for the whole of the loop."""
    for lock, inside in _locks(subject.lowered):
        atomics = [op for op in subject.operations if op.name in _ATOMICS and _line_of(op) in inside]
        for atomic in [op for op in atomics if _needs_lock(op, subject)] or atomics:
            yield Hit(place_of(atomic), lock.text, {"around": _held(lock, atomic, subject)})


def _locks(lowered: Lowered) -> Iterator[tuple[Statement, set[tuple[str, int]]]]:
    """Each lock, and the lines of what is done while it is held."""
    for number, lock in enumerate(lowered.statements):
        if lock.callee == "sync_block_lock":
            rest = lowered.statements[number:]
            yield lock, {_line(s) for s in itertools.takewhile(lambda s: s.callee != "sync_block_unlock", rest)}


def _needs_lock(atomic: mlir.Operation, subject: Subject) -> bool:
    """Sums and extremes have an instruction, which gives nothing back."""
    is_used = any(value is atomic.results[0] for op in subject.operations for value in op.operands)
    return is_used or atomic.name == "tt.atomic_cas" or atomic.integer("atomic_rmw_op") in _EXCHANGES


def _held(lock: Statement, atomic: mlir.Operation, subject: Subject) -> str:
    is_persistent = bool(subject.memory.get("persistent"))
    if is_persistent and not lock.loops:
        return ", and holds it around all programs of a block: the cores work one after the other"
    loops = [op for op in subject.operations if op.name in ("scf.for", "scf.while") and atomic in mlir.walk(op)]
    return ", and holds it around its whole loop" if len(lock.loops) - is_persistent < len(loops) else ""


def many_operations(subject: Subject) -> Iterator[Hit]:
    """Functions of Triton's library that become very long."""
    calls = [call for call in subject.lowered.calls(r"") if _VECTOR.match(call.callee) and _place(call).in_library]
    found = Counter((_place(call).file, _place(call).line) for call in calls)
    for (file, line), count in found.items():
        if count >= _MANY:
            names = Counter(call.callee for call in calls if (_place(call).file, _place(call).line) == (file, line))
            shown = ", ".join(f"{number} × @{name}" for name, number in names.most_common(3))
            yield Hit(Place(file, line), shown, {"count": count})


def cube_to_vector(subject: Subject) -> Iterator[Hit]:
    """Products that leave the cube core in each round of a loop."""
    least = 1 if subject.memory.get("persistent") else 0  # the loop over the programs is ours
    if subject.memory.get("mode") != "mix":
        return
    for call in subject.lowered.calls(r"fixpipe_"):
        if _is_in_users_loop(call, least):
            yield Hit(_place(call), call.text)


# ---------------------------------------------------------------- parts


def _is_in_users_loop(call: Statement, least: int) -> bool:
    """Whether one of the loops around it is the user's: parts of a tile are the compiler's own, from 0 by 1."""
    return any(not re.search(r"= %c0(?:_\w+)? to .* step %c1\b", loop.text) for loop in call.loops[least:])


def _copies(lowered: Lowered) -> Iterator[tuple[Statement, str, Memref, Memref]]:
    """Calls that move a tile: the call, the value inside the chip, and both types before they were made general."""
    for call in lowered.calls(r"load_gm_to_ubuf|store_ubuf_to_gm|nd2nz"):
        sides: dict[bool, tuple[str, Memref]] = {}
        for value in call.operands[:2]:
            cast = lowered.maker(value, call)
            type_ = memref_of(cast.text.partition(" : ")[2]) if cast is not None else None
            if type_ is not None:
                sides.setdefault(type_.space == "gm", (value, type_))
        if sides.keys() == {True, False} and not _is_scalar(sides[True][1]):
            yield call, sides[False][0], sides[True][1], sides[False][1]


def _destination(lowered: Lowered, call: Statement) -> Statement | None:
    """The memory that a call writes to, its second argument."""
    return lowered.root(call.operands[1], call) if len(call.operands) > 1 else None


def _is_scalar(memref: Memref) -> bool:
    return all(extent == 1 for extent in memref.shape)


def _last_stride(memref: Memref) -> int | None:
    return 1 if memref.strides is None else memref.strides[-1] if memref.strides else 1


def _shown(memref: Memref) -> str:
    shape = "x".join("?" if extent is None else str(extent) for extent in memref.shape)
    strides = ", ".join("?" if stride is None else str(stride) for stride in memref.strides or ())
    return f"memref<{shape}x{memref.element}, strided<[{strides}]>, {memref.space}>"


def _size(memref: Memref | None) -> int | None:
    if memref is None:
        return None
    size = _BITS.get(memref.element, 32) // 8
    for extent in memref.shape:
        if extent is None:
            return None
        size *= extent
    return size


def _scans(subject: Subject) -> set[tuple[str, int]]:
    places = [place_of(op) for op in subject.operations if op.name == "tt.scan"]
    return {(place.file, place.line) for place in places}


def _by_place(lowered: Lowered) -> dict[Place, list[Statement]]:
    found: dict[Place, list[Statement]] = defaultdict(list)
    for call in lowered.calls(r"v"):
        found[_place(call)].append(call)
    return found


def _has_place(statement: Statement) -> TypeGuard[Statement]:
    return statement.place is not None


def _place(statement: Statement) -> Place:
    assert statement.place is not None
    return statement.place


def _line_of(operation: mlir.Operation) -> tuple[str, int]:
    return operation.location.file, operation.location.line


def _line(statement: Statement) -> tuple[str, int]:
    return (statement.place.file, statement.place.line) if statement.place is not None else ("", 0)


def _count(loop: Statement) -> object:
    return loop.rounds if loop.rounds is not None else "The"


def _words(type_: str) -> str:
    return {"i": "int", "f": "float", "b": "bfloat"}[type_[0]] + re.sub(r"\D", "", type_)
