"""Along which axis a tensor in memory runs on: the last, unless what is loaded and stored runs along another one.

Tensors that are computed from each other element by element, or handed over by loops and branches, are one family and
lie alike, so that one walk reads and writes all of them register by register. A batch norm over channels that are
neighbours in memory carries its sums this way: row by row they would have to be turned, or the loads gathered.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise

from unify.compiler import mlir
from unify.compiler.cpu.axis import Axes

# A shorter axis does not fill a register.
_SHORTEST = 8
_LOADED, _STORED, _ROWS = 2, 3, 1000
# Operations that go over their operands row by row, or take elements from other positions.
_BY_ROWS = frozenset(
    [
        "tt.dot",
        "tt.dot_scaled",
        "tt.scan",
        "tt.gather",
        "tt.histogram",
        "tt.map_elementwise",
        "tt.atomic_rmw",
        "tt.atomic_cas",
        "tt.trans",
        "tt.reshape",
        "tt.join",
        "tt.split",
        "tt.cat",
    ]
)
# The same constant may stand in unrelated expressions.
_FREE = frozenset(["arith.constant", "tt.splat"])


def find(function: mlir.Operation, axes: Axes) -> dict[mlir.Value, int]:
    """The axis that runs fastest, of the tensors for which that is not the last one."""
    families = _Families()
    for op in mlir.walk(function):
        for a, b in _alike(op):
            families.join(a, b)
    votes: dict[mlir.Value, list[int]] = {}
    for op in mlir.walk(function):
        for value, axis, weight in _votes(op, axes):
            head = families.head(value)
            votes.setdefault(head, [0] * len(mlir.shape_of(value)))[axis] += weight
    chosen = {head: _winner(mlir.shape_of(head), counts) for head, counts in votes.items()}
    members = {value: chosen.get(families.head(value)) for value in [*families.above, *votes]}
    return {
        value: axis for value, axis in members.items() if axis is not None and axis != len(mlir.shape_of(value)) - 1
    }


class _Families:
    def __init__(self) -> None:
        self.above: dict[mlir.Value, mlir.Value] = {}

    def head(self, value: mlir.Value) -> mlir.Value:
        while value in self.above:
            value = self.above[value]
        return value

    def join(self, a: mlir.Value, b: mlir.Value) -> None:
        a, b = self.head(a), self.head(b)
        if a is not b:
            self.above[a] = b


def _alike(op: mlir.Operation) -> Iterator[tuple[mlir.Value, mlir.Value]]:
    """Pairs of tensors that are better laid out alike."""
    for group in _groups(op):
        members = [value for value in group if mlir.shape_of(value) and not _is_free(value)]
        for a, b in pairwise(members):
            if mlir.shape_of(a) == mlir.shape_of(b):
                yield a, b


def _is_free(value: mlir.Value) -> bool:
    return isinstance(value.owner, mlir.Operation) and value.owner.name in _FREE


def _groups(op: mlir.Operation) -> Iterator[tuple[mlir.Value, ...]]:
    if op.name == "scf.for":
        body = op.regions[0].entry
        yield from zip(op.operands[3:], body.arguments[1:], body.operations[-1].operands, op.results)
    elif op.name == "scf.if":
        for region in op.regions:
            if region.entry.operations:
                yield from zip(region.entry.operations[-1].operands, op.results)
    elif op.name == "tt.load":
        yield (*op.operands[2:3], *op.results)
    elif op.name not in _BY_ROWS and len(op.results) == 1 and not op.regions:
        yield (*(v for v in op.operands if mlir.shape_of(v) == mlir.shape_of(op.results[0])), *op.results)


def _votes(op: mlir.Operation, axes: Axes) -> Iterator[tuple[mlir.Value, int, int]]:
    if op.name == "tt.load":
        for axis in axes.neighbours(op.operands[0]):
            yield op.results[0], axis, _LOADED
    elif op.name == "tt.store":
        for axis in axes.neighbours(op.operands[0]):
            yield op.operands[1], axis, _STORED
    elif op.name in _BY_ROWS:
        for value in (*op.operands, *op.results):
            if mlir.shape_of(value):
                yield value, len(mlir.shape_of(value)) - 1, _ROWS


def _winner(shape: tuple[int, ...], counts: list[int]) -> int:
    last = len(shape) - 1
    best = max(range(len(shape)), key=lambda axis: (counts[axis], axis == last))
    return best if shape[best] >= _SHORTEST else last
