"""Where temporaries lie: buffers whose lives do not overlap share the memory of one program.

The vendor's passes give each iteration of a loop buffers of its own and hand some to the next one. Here each buffer
has one place, so what a loop carries is copied into a place of the loop's at the end of an iteration; tensors are
values, so nobody can tell.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field

from unify._errors import CompileError
from unify.compiler import mlir

from .buffers import buffer_type, bytes_of
from .melting import Melting, melting

# As much as csrc/simulator/image.cpp takes.
LARGEST = 64 << 20
_VIEWS = frozenset([
    "memref.reinterpret_cast", "memref.subview", "memref.cast", "memref.collapse_shape", "memref.expand_shape",
    "memref.reshape", "memref.memory_space_cast", "memref.transpose", "bufferization.to_tensor",
    "bufferization.to_memref", "builtin.unrealized_conversion_cast",
])  # fmt: skip


@dataclass(frozen=True)
class Carry:
    """What a loop hands from one iteration to the next, by the number of the value."""

    loop: mlir.Operation
    number: int
    is_spare: bool = False  # holds a carried value while another place is overwritten that it came from

    def __hash__(self) -> int:
        return hash((id(self.loop), self.number, self.is_spare))

    def __eq__(self, other: object) -> bool:
        return (
            isinstance(other, Carry)
            and other.loop is self.loop
            and (other.number, other.is_spare) == (self.number, self.is_spare)
        )


# What owns memory: the operation that makes a buffer, or a loop. "outside": memory that is not ours.
Root = mlir.Operation | Carry
_OUTSIDE = "outside"


@dataclass(eq=False)
class Place:
    """A stretch of the arena while [first, last] of the program, in numbers of operations."""

    first: int
    last: int
    bytes: int
    offset: int = 0


@dataclass
class Plan:
    """A place for each temporary, and what needs none."""

    places: dict[Root, Place] = field(default_factory=dict)
    bytes: int = 0
    melted: Melting = field(default_factory=Melting)

    def is_carried(self, loop: mlir.Operation, number: int) -> bool:
        """Whether the value is copied into the loop's own place; else only its address goes on."""
        return Carry(loop, number) in self.places


def plan(function: mlir.Operation, aliases: dict[str, str]) -> Plan:
    """Finds a place for each temporary. Raises CompileError if they need too much."""
    return _Planner(function, aliases).plan


class _Planner:
    def __init__(self, function: mlir.Operation, aliases: dict[str, str]) -> None:
        self.plan = Plan()
        self.begin: dict[mlir.Operation, int] = {}
        self.end: dict[mlir.Operation, int] = {}
        self.roots: dict[mlir.Value, frozenset[Root | str]] = {}
        self.uses: dict[mlir.Value, list[mlir.Operation]] = {}
        self.first_use: dict[Root, int] = {}
        self.last_inside: dict[Carry, int] = {}  # of what a loop carries: its last use before it is handed on
        self._number(function, 0)
        for argument in function.regions[0].entry.arguments:
            self.roots[argument] = frozenset([_OUTSIDE])
        self._walk(function.regions[0])
        self.plan.melted = melting(function, self, aliases)
        for value, users in self.uses.items():
            for user in users:
                for actual in self.plan.melted.readers.get(user, [user]):
                    self._note_use(value, actual)
        self._coalesce()
        self._arrange()

    # ------------------------------------------------ order

    def _number(self, op: mlir.Operation, at: int) -> int:
        self.begin[op] = at
        for operand in op.operands:
            if buffer_type(operand) is not None:
                self.uses.setdefault(operand, []).append(op)
        for region in op.regions:
            for block in region.blocks:
                for inner in block.operations:
                    at = self._number(inner, at + 1)
        self.end[op] = at + 1
        return at + 1

    # ------------------------------------------------ what each buffer is a part of

    def _walk(self, region: mlir.Region) -> None:
        for block in region.blocks:
            for op in block.operations:
                self._visit(op)

    def _visit(self, op: mlir.Operation) -> None:
        if op.name in ("scf.for", "scf.while"):
            self._loop(op)
            return
        for region in op.regions:
            self._walk(region)
        results = [r for r in op.results if buffer_type(r) is not None]
        if op.name == "scf.if":
            yields = [region.entry.operations[-1] for region in op.regions if region.entry.operations]
            for result in results:
                self.roots[result] = self._union(y.operands[result.index] for y in yields)
        elif op.name in _VIEWS:
            self.roots[op.results[0]] = self._of(op.operands[0])
        elif op.name == "arith.select" and results:
            self.roots[op.results[0]] = self._union(op.operands[1:])
        elif op.name in ("memref.get_global", "hivm.hir.pointer_cast"):
            self.roots[op.results[0]] = frozenset([_OUTSIDE])
        else:  # memref.alloc, or a call that returns a tensor
            for result in results:
                self._own(op, result, self.begin[op], self.end[op])
                self.roots[result] = frozenset([op])

    def _loop(self, op: mlir.Operation) -> None:
        arguments = op.regions[0].entry.arguments[1 if op.name == "scf.for" else 0 :]
        carried = [
            (i, start, argument)
            for i, (start, argument) in enumerate(zip(starts_of(op), arguments))
            if buffer_type(argument) is not None
        ]
        for _, start, argument in carried:
            self.roots[argument] = self._of(start) & {_OUTSIDE}
        self._walk_loop(op)
        for i, start, argument in carried:
            if not self._of(start) | self._of(handed_by(op)[i]) <= {_OUTSIDE}:
                key = Carry(op, i)
                self._own(key, argument, self.begin[op], self.end[op])
                self.roots[argument] = frozenset([key])
        self._walk_loop(op)
        for i, _, argument in carried:
            others = {Carry(op, j) for j, _, _ in carried if j != i}
            handed = handed_by(op)[i]
            if Carry(op, i) in self.plan.places and self._of(handed) & others:
                self._own(Carry(op, i, is_spare=True), handed, self.end[op] - 1, self.end[op])
            if op.name == "scf.for":
                self.roots[op.results[i]] = self.roots[argument]

    def _walk_loop(self, op: mlir.Operation) -> None:
        self._walk(op.regions[0])
        if op.name == "scf.while":
            before, after = op.regions
            passed = before.entry.operations[-1].operands[1:]
            for value, argument, result in zip(passed, after.entry.arguments, op.results):
                if buffer_type(argument) is not None:
                    self.roots[argument] = self.roots[result] = self._of(value)
            self._walk(after)

    def _own(self, root: Root, value: mlir.Value, first: int, last: int) -> None:
        type_ = buffer_type(value)
        assert type_ is not None
        self.plan.places[root] = Place(first, last, bytes_of(type_))

    def roots_of(self, value: mlir.Value) -> frozenset[object]:
        return self._of(value)

    def is_view(self, op: mlir.Operation) -> bool:
        return op.name in _VIEWS

    def _of(self, value: mlir.Value) -> frozenset[Root | str]:
        return self.roots.get(value, frozenset())

    def _union(self, values: Iterable[mlir.Value]) -> frozenset[Root | str]:
        return frozenset().union(*(self._of(v) for v in values))

    # ------------------------------------------------ lives

    def _note_use(self, value: mlir.Value, user: mlir.Operation) -> None:
        if user.name in _VIEWS:
            return
        for root in self._of(value):
            if isinstance(root, str):
                continue
            first, last = self._span(root, user)
            place = self.plan.places[root]
            if isinstance(root, Carry) or root.name != "memref.alloc":  # written where it is made
                place.first = min(place.first, first)
                if isinstance(root, Carry) and self.begin[root.loop] < self.begin[user] < self.end[root.loop]:
                    self.last_inside[root] = max(self.last_inside.get(root, 0), last)
            else:
                place.first = first if root not in self.first_use else min(place.first, first)
            self.first_use[root] = min(self.first_use.get(root, first), first)
            place.last = max(place.last, last)

    def _span(self, root: Root, user: mlir.Operation) -> tuple[int, int]:
        """A use, or the outermost loop around it that is not around the making of the buffer."""
        made = root.loop if isinstance(root, Carry) else root
        first, last, op = self.begin[user], self.end[user], user
        while (around := _around(op)) is not None:
            if self.begin[around] <= self.begin[made] and self.end[made] <= self.end[around]:
                break
            if around.name in ("scf.for", "scf.while", "linalg.generic"):
                first, last = self.begin[around], self.end[around]
            op = around
        return first, last

    # ------------------------------------------------ one place for two

    def _coalesce(self) -> None:
        """A loop takes over the place of its start, or what an iteration makes is made in the loop's place."""
        for root in list(self.plan.places):
            if isinstance(root, Carry) and not root.is_spare:
                self._take_start(root)
                self._make_in_place(root)

    def _take_start(self, key: Carry) -> None:
        start = starts_of(key.loop)[key.number]
        roots = self._of(start)
        if len(roots) != 1 or not isinstance(start.owner, mlir.Operation):
            return
        (root,) = roots
        is_whole = start.owner.name == "memref.alloc" or (isinstance(root, Carry) and start.owner is root.loop)
        if isinstance(root, str) or not is_whole or start.owner.parent is not key.loop.parent:
            return
        users = [u for value, users in self.uses.items() if root in self._of(value) for u in users]
        if all(self.begin[u] <= self.begin[key.loop] for u in users if self._is_after_making(root, u)) and (
            users.count(key.loop) == 1
        ):
            self._merge(self.plan.places[root], self.plan.places[key])

    def _is_after_making(self, root: Root, user: mlir.Operation) -> bool:
        return not isinstance(root, Carry) or self.begin[user] >= self.end[root.loop]

    def _make_in_place(self, key: Carry) -> None:
        if key.loop.name != "scf.for" or Carry(key.loop, key.number, is_spare=True) in self.plan.places:
            return
        handed = handed_by(key.loop)
        made = handed[key.number].owner
        if not isinstance(made, mlir.Operation) or made.name != "memref.alloc" or made.parent is not _body(key.loop):
            return
        if sum(made in self._of(value) for value in handed if buffer_type(value) is not None) != 1:
            return
        if self.last_inside.get(key, 0) <= self.first_use.get(made, 0):
            self._merge(self.plan.places[key], self.plan.places[made])

    def _merge(self, kept: Place, other: Place) -> None:
        kept.first, kept.last = min(kept.first, other.first), max(kept.last, other.last)
        for root, place in self.plan.places.items():
            if place is other:
                self.plan.places[root] = kept

    # ------------------------------------------------ offsets

    def _arrange(self) -> None:
        placed: list[Place] = []
        for place in sorted(set(self.plan.places.values()), key=lambda p: (p.first, -p.bytes)):
            size = (place.bytes + 63) // 64 * 64
            neighbours = sorted(
                (p for p in placed if p.first <= place.last and place.first <= p.last), key=lambda p: p.offset
            )
            offset = 0
            for other in neighbours:
                if offset + size <= other.offset:
                    break
                offset = max(offset, other.offset + (other.bytes + 63) // 64 * 64)
            place.offset = offset
            placed.append(place)
            self.plan.bytes = max(self.plan.bytes, offset + size)
        if self.plan.bytes > LARGEST:
            raise CompileError(
                f"emulator: the kernel's tiles take {self.plan.bytes >> 20} MiB at a time; the limit is "
                f"{LARGEST >> 20} MiB. Use smaller block sizes."
            )


def starts_of(loop: mlir.Operation) -> list[mlir.Value]:
    """What a loop's first iteration takes."""
    return loop.operands[3:] if loop.name == "scf.for" else loop.operands


def handed_by(loop: mlir.Operation) -> list[mlir.Value]:
    """What an iteration hands to the next one."""
    return loop.regions[-1].entry.operations[-1].operands


def _body(loop: mlir.Operation) -> mlir.Block:
    return loop.regions[0].entry


def _around(op: mlir.Operation) -> mlir.Operation | None:
    region = op.parent.parent if op.parent is not None else None
    return region.parent if region is not None else None
