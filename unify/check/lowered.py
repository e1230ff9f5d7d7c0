"""The vendor's last IR of a kernel, statement by statement, with the user's lines: enough of it to see what is slow."""

from __future__ import annotations

import re
from collections import defaultdict
from dataclasses import dataclass

from unify.compiler.places import Place, Places

_LOCATION = re.compile(r"\s*loc\(((?:[^()]|\([^()]*\))*)\)\s*$")
_STATEMENT = re.compile(r"^(?:(?P<results>%[\w$.:, %-]+) = )?(?P<name>[\w.]+)(?P<rest>.*)$")
_CALL = re.compile(r"@(?:_mlir_ciface_)?(\w+)\((.*?)\)")
_SPACE = re.compile(r"#hivm\.address_space<(\w+)>")
_MEMREF = re.compile(r"memref<(?P<shape>(?:[\d?]+x)*)(?P<element>\w+)(?:, strided<\[(?P<strides>[^\]]*)\])?")
# Other views of the same memory.
_VIEWS = ("memref.cast", "memref.subview", "memref.collapse_shape", "memref.expand_shape", "memref.reinterpret_cast")


@dataclass(frozen=True)
class Memref:
    """A type of memory: extents and strides, None where they are known at run time only."""

    shape: tuple[int | None, ...]
    element: str
    strides: tuple[int | None, ...] | None
    space: str


@dataclass(eq=False)
class Statement:
    """One line of the IR. callee: of a call; loops: those around it, outermost first, by their statements."""

    name: str
    text: str
    place: Place | None
    callee: str
    function: int
    loops: tuple[Statement, ...]
    results: tuple[str, ...]

    @property
    def operands(self) -> tuple[str, ...]:
        """The values that a call is given, or that stand behind the statement's name."""
        found = _CALL.search(self.text) if self.callee else None
        inside = found[2] if found is not None else self.text.partition(self.name)[2].partition(" : ")[0]
        return tuple(re.findall(r"%[\w$.-]+", inside))

    @property
    def counter(self) -> str:
        """What a loop counts with."""
        found = re.search(r"scf\.for (%\w+) =", self.text)
        return found[1] if found is not None else ""

    @property
    def rounds(self) -> int | None:
        """Of a loop from 0 by 1 with a constant end."""
        found = re.search(r"= %c[01](?:_\w+)? to %c(\d+)\w* step %c1\b", self.text)
        return int(found[1]) if found is not None else None

    @property
    def spaces(self) -> tuple[str, ...]:
        """The kinds of memory that it names: gm, ub, cbuf, cc."""
        return tuple(_SPACE.findall(self.text))


class Lowered:
    """All statements of a module, and who made which value."""

    def __init__(self, statements: list[Statement]) -> None:
        self.statements = statements
        self._makers = {(s.function, result): s for s in statements for result in s.results}
        self._bodies: dict[Statement, list[Statement]] = defaultdict(list)
        for statement in statements:
            if statement.loops:
                self._bodies[statement.loops[-1]].append(statement)

    @staticmethod
    def of(text: str) -> Lowered:
        """Reads a module; an empty text is one without statements."""
        return Lowered(list(_read(text)) if text else [])

    def calls(self, pattern: str) -> list[Statement]:
        """Calls of the vendor's library whose names match from their beginning, where a user's line is known."""
        return [s for s in self.statements if s.callee and s.place is not None and re.match(pattern, s.callee)]

    def body(self, loop: Statement) -> list[Statement]:
        """What stands right inside a loop, not inside one in it."""
        return self._bodies[loop]

    def maker(self, value: str, by: Statement) -> Statement | None:
        """The statement that a value of another one comes from."""
        return self._makers.get((by.function, value))

    def root(self, value: str, by: Statement) -> Statement | None:
        """The statement that makes the memory of which a value is a view."""
        found = self.maker(value, by)
        for _ in range(32):
            if found is None or found.name not in _VIEWS or not found.operands:
                return found
            found = self.maker(found.operands[0], by)
        return found

    def scalar_loops(self) -> list[tuple[Statement, list[Statement]]]:
        """Loops over the elements of a tile, done one by one: what they count is an index into on-chip memory."""
        found = []
        for loop, body in self._bodies.items():
            if loop.name == "scf.for" and any(_is_indexed(statement, loop.counter) for statement in body):
                found.append((loop, body))
        return found


def _is_indexed(statement: Statement, counter: str) -> bool:
    if statement.name not in ("memref.load", "memref.store") or "ub" not in statement.spaces or not counter:
        return False
    return re.search(rf"\[[^\]]*{re.escape(counter)}\b[^\]]*\]", statement.text) is not None


def _read(text: str) -> list[Statement]:
    places = Places(text)
    statements: list[Statement] = []
    around: list[Statement | None] = []  # what the open braces belong to
    function = 0
    for raw in text.splitlines():
        line, place = raw.strip(), None
        if (located := _LOCATION.search(line)) is not None:
            place, line = places.of(located[1]), line[: located.start()].rstrip()
        if line.startswith("}") and around:
            closed = around.pop()
            if closed is not None and closed.place is None:  # a loop's place stands behind its end
                closed.place = place
        found = _STATEMENT.match(line)
        if found is None or line.startswith(("#", "}", "^", "//")):
            if line.endswith("{"):  # } else {
                around.append(None)
            continue
        name = found["name"]
        function += name in ("func.func", "llvm.func")
        callee = _CALL.search(line) if name in ("func.call", "call", "llvm.call") else None
        results = tuple(re.findall(r"%[\w$.-]+", (found["results"] or "")))
        loops = tuple(s for s in around if s is not None and s.name in ("scf.for", "scf.while"))
        statement = Statement(name, line, place, callee[1] if callee is not None else "", function, loops, results)
        statements.append(statement)
        if line.endswith("{"):
            around.append(statement)
    return statements


def memref_of(text: str) -> Memref | None:
    """The first type of memory that a text names."""
    found = _MEMREF.search(text)
    if found is None:
        return None
    shape = tuple(_number(extent) for extent in found["shape"].split("x")[:-1])
    strides = found["strides"]
    space = _SPACE.search(text[found.start() :])
    return Memref(
        shape,
        found["element"],
        None if strides is None else tuple(_number(stride) for stride in strides.split(",") if stride.strip()),
        space[1] if space is not None else "",
    )


def _number(text: str) -> int | None:
    return int(text) if text.strip().lstrip("-").isdigit() else None
