"""Rules that Triton's Nvidia compiler and ptxas show."""

from __future__ import annotations

import math
import re
from collections import defaultdict
from collections.abc import Iterator

from unify.compiler import mlir

from .places import Place
from .subject import Hit, Subject, place_of

# CUDA C++ Programming Guide, technical specifications by compute capability: shared memory of one block, in KiB.
_SHARED_KIB = {75: 64, 80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 103: 227, 110: 227, 120: 99, 121: 99}
_ACCESS = re.compile(r"\b(?:ld|st)\.global[\w.:]*?(?:\.v(\d))?\.[bfus](\d+)\b")
_PLACE = re.compile(r"^\s*\.loc\s+(\d+) (\d+) (\d+)")
_FILE = re.compile(r'^\s*\.file\s+(\d+) "(.*)"', re.MULTILINE)
_NARROW = 4


def spills(subject: Subject) -> Iterator[Hit]:
    """What registers did not hold; ptxas does not say which line."""
    count = subject.memory.get("spill_bytes")
    if count:
        yield Hit(subject.place, f"ptxas: {count} bytes spill stores", {"bytes": count})


def shared_memory(subject: Subject) -> Iterator[Hit]:
    """More of it than a block can have."""
    limit = _SHARED_KIB.get(int(subject.target.partition(":")[2] or 0))
    used = subject.memory.get("shared_bytes") or 0
    if limit is not None and used > limit * 1024:
        yield Hit(subject.place, f"{used} bytes", {"used": -(-used // 1024), "limit": limit})


def narrow_access(subject: Subject) -> Iterator[Hit]:
    """Tiles that threads load or store in pieces of less than 4 bytes, where each has more than one piece."""
    tiles = _tiles(subject)
    threads = subject.memory.get("threads") or 128
    widths: dict[tuple[str, int], list[tuple[int, str]]] = defaultdict(list)
    files = dict(_FILE.findall(subject.lines))
    place: tuple[str, int] | None = None
    for line in subject.lines.splitlines():
        if (moved := _PLACE.match(line)) is not None:
            place = files.get(moved[1], ""), int(moved[2])
        elif place is not None and (access := _ACCESS.search(line)) is not None:
            widths[place].append((int(access[1] or 1) * int(access[2]) // 8, line.strip()))
    for at, accesses in widths.items():
        width, shown = max(accesses)
        if width < min(_NARROW, tiles.get(at, 0) // threads):
            yield Hit(Place(*at), shown, {"bytes": width})


def _tiles(subject: Subject) -> dict[tuple[str, int], int]:
    """The bytes of the tile that a line loads or stores."""
    found = {}
    for operation in subject.operations:
        if operation.name in ("tt.load", "tt.store"):
            pointers = operation.operands[0].type
            if isinstance(pointers, mlir.Tensor) and isinstance(pointers.element, mlir.Pointer):
                bits = int(re.sub(r"\D", "", str(pointers.element.pointee)) or 8)
                place = place_of(operation)
                found[place.file, place.line] = math.prod(pointers.shape) * max(bits, 8) // 8
    return found
