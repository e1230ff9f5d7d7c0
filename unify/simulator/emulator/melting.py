"""Elementwise operations whose result need not lie in memory: whoever reads an element computes it.

The vendor's passes melt what has one user and stands directly in front of it. This finds what is left where only a
change of shape, or several cheap uses, stood in the way: a broadcast in front of products and their sum, above all.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

from unify.compiler import mlir
from unify.compiler.cpu.codegen.values import ELEMENTWISE, Unsupported

from .buffers import affine_map, buffer_type, segments

# Too dear to be computed more than once.
_DEAR = ("math.", "arith.div", "arith.rem")


class Lives(Protocol):
    """What has been found out about the buffers of a function."""

    begin: dict[mlir.Operation, int]
    uses: dict[mlir.Value, list[mlir.Operation]]

    def roots_of(self, value: mlir.Value) -> frozenset[object]: ...
    def is_view(self, op: mlir.Operation) -> bool: ...


@dataclass
class Melting:
    """readers: by what is melted, those who compute it in the end. inputs: by reader and number of the operand."""

    readers: dict[mlir.Operation, list[mlir.Operation]] = field(default_factory=dict)
    inputs: dict[tuple[mlir.Operation, int], mlir.Operation] = field(default_factory=dict)


def melting(function: mlir.Operation, lives: Lives, aliases: dict[str, str]) -> Melting:
    """Finds what to melt into what."""
    return _Search(function, lives, aliases).found


class _Search:
    def __init__(self, function: mlir.Operation, lives: Lives, aliases: dict[str, str]) -> None:
        self.lives, self.aliases, self.found = lives, aliases, Melting()
        self.by_root: dict[object, list[tuple[mlir.Value, mlir.Operation]]] = {}
        self.mixed: set[object] = set()
        for value, users in lives.uses.items():
            roots = lives.roots_of(value)
            for root in roots:
                self.by_root.setdefault(root, []).extend((value, user) for user in users if not lives.is_view(user))
            if len(roots) > 1:
                self.mixed |= roots
        pairs = [pair for op in mlir.walk(function) if op.name == "memref.alloc" for pair in self._writes(op)]
        for writer, readers in sorted(pairs, key=lambda pair: -lives.begin[pair[0]]):
            self._consider(writer, readers)

    def _writes(self, made: mlir.Operation) -> list[tuple[mlir.Operation, list[tuple[mlir.Operation, int]]]]:
        """The buffer's life, if it is: written as a whole, read, written as a whole, …; in one block."""
        if made in self.mixed:
            return []
        life: list[tuple[mlir.Operation, list[tuple[mlir.Operation, int]]]] = []
        seen = set[mlir.Operation]()
        for _, op in sorted(self.by_root.get(made, []), key=lambda use: self.lives.begin[use[1]]):
            if op in seen:
                continue
            seen.add(op)
            if op.name != "linalg.generic" or (life and op.parent is not life[0][0].parent):
                return []
            inputs, outputs = segments(op)
            read = [i for i, v in enumerate(inputs) if made in self.lives.roots_of(v)]
            written = [v for v in outputs if made in self.lives.roots_of(v)]
            if read and not written and life:
                life[-1][1].extend((op, i) for i in read)
            elif written and not read and self._overwrites(op, made):
                life.append((op, []))
            else:
                return []
        return life

    def _overwrites(self, op: mlir.Operation, made: mlir.Operation) -> bool:
        """Whether an elementwise operation writes all of a buffer without reading it."""
        block, (inputs, outputs) = op.regions[0].entry, segments(op)
        whole, target = buffer_type(made.results[0]), buffer_type(outputs[0])
        if len(outputs) != 1 or whole is None or target is None or _squeezed(whole) != _squeezed(target):
            return False
        known = all(inner.name in ELEMENTWISE for inner in block.operations[:-1])
        reads = any(block.arguments[-1] in inner.operands for inner in block.operations)
        return (
            known and not reads and self._is_parallel(op) and self._map(op, len(inputs)) == list(range(self._rank(op)))
        )

    def _consider(self, writer: mlir.Operation, readers: Sequence[tuple[mlir.Operation, int]]) -> None:
        body = writer.regions[0].entry.operations
        if not readers or (len(readers) > 1 and any(op.name.startswith(_DEAR) for op in body)):
            return
        if len({op for op, _ in readers}) != len(readers):
            return
        last = [each for op, _ in readers for each in self.found.readers.get(op, [op])]
        if not all(self._fits(writer, op, number) for op, number in readers) or not self._is_stable(writer, last):
            return
        self.found.readers[writer] = last
        for op, number in readers:
            self.found.inputs[op, number] = writer

    def _fits(self, writer: mlir.Operation, reader: mlir.Operation, number: int) -> bool:
        """Whether the reader goes through all elements once each, by axes that the writer has too."""
        source, target = buffer_type(segments(writer)[1][0]), buffer_type(segments(reader)[0][number])
        assert source is not None
        assert target is not None
        loops = self._map(reader, number)
        if loops is None or sorted(loops) != list(range(self._rank(reader))):
            return False
        if _squeezed(source) is None or _squeezed(source) != _squeezed(target):
            return False
        if self._is_parallel(reader):
            return True
        full = [i for i, v in enumerate(segments(writer)[0]) if buffer_type(v) and self._reads_all(writer, i)]
        return len(full) <= 1

    def _reads_all(self, op: mlir.Operation, number: int) -> bool:
        loops = self._map(op, number)
        return loops is None or len(loops) == self._rank(op)

    def _is_stable(self, writer: mlir.Operation, last: Iterable[mlir.Operation]) -> bool:
        """Whether nobody changes what the writer reads until the last reader is done."""
        inputs = {root for v in segments(writer)[0] for root in self.lives.roots_of(v)}
        begin, end = self.lives.begin[writer], max(self.lives.begin[op] for op in last)
        for root in inputs:
            for value, op in self.by_root.get(root, []):
                if begin < self.lives.begin[op] <= end and not _only_reads(op, value):
                    return False
        return True

    # ------------------------------------------------ maps

    def _rank(self, op: mlir.Operation) -> int:
        kinds = op.attributes["iterator_types"]
        assert isinstance(kinds, list)
        return len(kinds)

    def _is_parallel(self, op: mlir.Operation) -> bool:
        kinds = op.attributes["iterator_types"]
        assert isinstance(kinds, list)
        return all("parallel" in str(kind) for kind in kinds)

    def _map(self, op: mlir.Operation, number: int) -> list[int] | None:
        """The loop that each axis of an operand follows; None if an axis follows no single one."""
        maps = op.attributes["indexing_maps"]
        assert isinstance(maps, list)
        text = maps[number].text if isinstance(maps[number], mlir.Raw) else str(maps[number])  # type: ignore[union-attr]
        try:
            _, results = affine_map(self.aliases.get(text, text))
        except Unsupported:
            return None
        if any(list(r.terms.values()) != [1] or r.constant for r in results):
            return None
        return [next(iter(r.terms)) for r in results]


def _squeezed(type_: mlir.Buffer) -> list[int] | None:
    """The shape without axes of one element, of a buffer that is row-major."""
    if type_.strides is not None or mlir.DYNAMIC in type_.shape:
        return None
    return [extent for extent in type_.shape if extent != 1]


def _only_reads(op: mlir.Operation, value: mlir.Value) -> bool:
    if op.name == "linalg.generic":
        return value not in segments(op)[1]
    if op.name == "memref.copy":
        return value is not op.operands[1]
    return op.name == "memref.load"
