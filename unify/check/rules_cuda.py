"""Rules that Triton's Nvidia compiler and ptxas show."""

from __future__ import annotations

import math
import re
from collections.abc import Iterator

from unify.compiler.places import Places

from .subject import Hit, Subject

# CUDA C++ Programming Guide, technical specifications by compute capability: shared memory of one block, in KiB.
_SHARED_KIB = {75: 64, 80: 163, 86: 99, 87: 163, 89: 99, 90: 227, 100: 227, 103: 227, 110: 227, 120: 99, 121: 99}
_ACCESS = re.compile(
    r"\b(?:tt\.load|tt\.store|ttg\.async_copy_global_to_local)\b.*?"
    r"tensor<((?:\d+x)+)!tt\.ptr<(\w+)>, (#\w+)>.*loc\((#loc\d*)\)$"
)
_LAYOUT = re.compile(r"^(#\w+) = #ttg\.blocked<\{sizePerThread = \[([\d, ]+)\]", re.MULTILINE)
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
    threads = subject.memory.get("threads") or 128
    layouts = dict(_LAYOUT.findall(subject.lines))
    places = Places(subject.lines)
    for line in subject.lines.splitlines():
        access = _ACCESS.search(line)
        if access is None or access[3] not in layouts:
            continue
        size = max(int(re.sub(r"\D", "", access[2])), 8) // 8
        width = size * max(int(count) for count in layouts[access[3]].split(","))
        of_thread = size * math.prod(int(extent) for extent in access[1].split("x")[:-1]) // threads
        place = places.of(access[4])
        if place is not None and width < min(_NARROW, of_thread):
            yield Hit(place, line.strip(), {"bytes": width})
