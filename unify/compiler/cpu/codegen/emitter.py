"""Writes LLVM IR as text: names, loops, and code placed in the outermost loop whose counter it needs."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field

# Bytes of one element in memory; i1 takes a byte there.
BYTES = {"i1": 1, "i8": 1, "i16": 2, "i32": 4, "i64": 8, "half": 2, "bfloat": 2, "float": 4, "double": 8, "ptr": 8}
# What a load or store moves: 16-bit floats as integers, since x86 without AVX512-FP16 takes them apart otherwise.
STORED = {"i1": "i8", "half": "i16", "bfloat": "i16"}
# What goes into a vector, or comes out of one: without AVX512-BF16, LLVM holds a scalar bfloat as a float, and a call
# into a runtime library rounds it back.
_HELD = {"bfloat": "i16"}
FLOATS = ("half", "bfloat", "float", "double")
# Instructions that give the same for the same operands wherever they stand, and cannot trap.
_PURE = frozenset([
    "add", "sub", "mul", "and", "or", "xor", "shl", "lshr", "ashr", "icmp", "fcmp", "fadd", "fsub", "fmul", "fdiv",
    "fneg", "select", "insertelement", "extractelement", "shufflevector", "bitcast", "getelementptr", "sext", "zext",
    "trunc", "fpext", "fptrunc", "sitofp", "uitofp", "ptrtoint", "inttoptr",
])  # fmt: skip
_NAME = re.compile(r"%\w+")


@dataclass(eq=False, slots=True)
class Val:
    """`lanes` elements in a register (a scalar if 1). One that repeats a scalar knows it, and becomes a vector late."""

    element: str
    lanes: int
    text: str | None
    repeats: Val | None = None

    @property
    def type(self) -> str:
        return self.element if self.lanes == 1 else f"<{self.lanes} x {self.element}>"


@dataclass(frozen=True, slots=True)
class Index:
    """A position along an axis: constant + sum of loop counter · factor."""

    terms: tuple[tuple[str, int], ...] = ()
    constant: int = 0

    def __add__(self, other: int | Index) -> Index:
        """Where indices are cut by bits, the sum of two must not carry."""
        if isinstance(other, Index):
            return Index(self.terms + other.terms, self.constant + other.constant)
        return Index(self.terms, self.constant + other) if other else self

    def __mul__(self, factor: int) -> Index:
        return Index(tuple((counter, factor * f) for counter, f in self.terms), factor * self.constant)


ZERO = Index()


@dataclass(slots=True)
class Scope:
    """The body of a loop that is being written; scope 0 is the program itself."""

    lines: list[str]
    label: str
    counter: str = ""
    memo: dict[object, object] = field(default_factory=dict)
    known: dict[str, str] = field(default_factory=dict)  # pure instructions, of what is now its last block: their names


@dataclass(slots=True)
class Counter:
    depth: int
    step: int
    stop: int


class Emitter:
    def __init__(self) -> None:
        self.scopes = [Scope([], "entry")]
        self.counters: dict[str, Counter] = {}
        self.declarations: dict[str, str] = {}
        self.globals: list[str] = []
        self.allocas: list[str] = []
        self._depths: dict[str, int] = {}  # of the scopes that names were given in
        self._next = 0

    # ------------------------------------------------ names and lines

    def name(self, prefix: str = "v") -> str:
        self._next += 1
        return f"%{prefix}{self._next}"

    def label(self, prefix: str) -> str:
        self._next += 1
        return f"{prefix}{self._next}"

    def line(self, text: str) -> None:
        self.scopes[-1].lines.append("  " + text)

    def assign(self, text: str) -> str:
        """The name of what the instruction gives. A pure one is written once, in front of the loops that it ignores."""
        if not self.is_pure(text):
            return self._written(text, self.scopes[-1])
        for scope in self.scopes:
            if text in scope.known:
                return scope.known[text]
        depth = max((self._depths.get(name, 0) for name in _NAME.findall(text)), default=0)
        scope = self.scopes[min(max(depth, self.floor), len(self.scopes) - 1)]
        scope.known[text] = name = self._written(text, scope)
        return name

    def is_pure(self, text: str) -> bool:
        """Whether an instruction may be moved in front of loops, and need be written once only."""
        return text.partition(" ")[0] in _PURE

    def enter(self, names: Iterable[str]) -> None:
        """Tells that names are given in the innermost scope."""
        self._depths.update(dict.fromkeys(names, len(self.scopes) - 1))

    def _written(self, text: str, scope: Scope) -> str:
        self._next += 1
        name = f"%v{self._next}"
        scope.lines.append(f"  {name} = {text}")
        self._depths[name] = next(i for i, each in enumerate(self.scopes) if each is scope)
        return name

    def start(self, label: str) -> None:
        """Begins a basic block; the previous one must have been ended."""
        scope = self.scopes[-1]
        scope.lines.append(f"{label}:")
        scope.label = label
        scope.known.clear()  # this block may be reached around the last one

    def branch(self, label: str) -> None:
        self.line(f"br label %{label}")

    def declare(self, name: str, signature: str) -> None:
        """signature: the whole line, e.g. 'declare float @expf(float)'."""
        self.declarations[name] = signature

    def constant_array(self, type_: str, body: str) -> str:
        name = f"@data{len(self.globals)}"
        self.globals.append(f"{name} = private unnamed_addr constant {type_} {body}, align 64")
        return name

    # ------------------------------------------------ values

    def op(self, element: str, lanes: int, text: str) -> Val:
        return Val(element, lanes, self.assign(text))

    def text(self, value: Val) -> str:
        """The register (or literal) that holds all lanes."""
        if value.text is not None:
            return value.text
        assert value.repeats is not None
        return self._splat(value.repeats, value.lanes)

    def _splat(self, scalar: Val, lanes: int) -> str:
        text = scalar.text
        assert text is not None
        if not text.startswith("%"):
            return f"splat ({scalar.element} {text})"
        held = _HELD.get(scalar.element, scalar.element)
        vector = f"<{lanes} x {held}>"
        first = self.assign(f"insertelement {vector} poison, {held} {self._bits(text, scalar.element, held)}, i64 0")
        whole = self.assign(f"shufflevector {vector} {first}, {vector} poison, <{lanes} x i32> zeroinitializer")
        return self._bits(whole, held, scalar.element, lanes)

    def _bits(self, text: str, source: str, target: str, lanes: int = 1) -> str:
        if source == target:
            return text
        before, after = (e if lanes == 1 else f"<{lanes} x {e}>" for e in (source, target))
        return self.assign(f"bitcast {before} {text} to {after}")

    def typed(self, value: Val) -> str:
        return f"{value.type} {self.text(value)}"

    def splat(self, scalar: Val, lanes: int) -> Val:
        if lanes == scalar.lanes:
            return scalar
        return Val(scalar.element, lanes, None, scalar)

    def shuffle(self, a: Val, mask: Sequence[int], b: Val | None = None) -> Val:
        """Lanes mask[i] of a followed by b; -1 leaves a lane undefined."""
        if a.repeats is not None and b is None:
            return self.splat(a.repeats, len(mask))
        if b is None and len(mask) == a.lanes and all(m == i for i, m in enumerate(mask)):
            return a
        if len(mask) == 1:
            source, lane = (a, mask[0]) if mask[0] < a.lanes else (b, mask[0] - a.lanes)
            assert source is not None
            return self.extract(source, lane)
        if a.lanes == 1:
            return self.splat(a, len(mask)) if b is None else self.concat([(a, b)[m] for m in mask])
        lanes = ", ".join("i32 poison" if m < 0 else f"i32 {m}" for m in mask)
        second = self.typed(b) if b is not None else f"{a.type} poison"
        return self.op(a.element, len(mask), f"shufflevector {self.typed(a)}, {second}, <{len(mask)} x i32> <{lanes}>")

    def extract(self, value: Val, lane: int) -> Val:
        if value.lanes == 1:
            return value
        if value.repeats is not None:
            return value.repeats
        element = value.element
        held = _HELD.get(element, element)
        whole = self._bits(self.text(value), element, held, value.lanes)
        one = self.assign(f"extractelement <{value.lanes} x {held}> {whole}, i64 {lane}")
        return Val(element, 1, self._bits(one, held, element))

    def slice(self, value: Val, start: int, count: int) -> Val:
        return self.shuffle(value, range(start, start + count))

    def concat(self, parts: Sequence[Val]) -> Val:
        """All lanes of the parts, in order; the parts have the same number of lanes, a power of two of them."""
        parts = list(parts)
        if len(parts) > 1 and parts[0].lanes == 1:
            total, element = len(parts), parts[0].element
            held, text = _HELD.get(element, element), "poison"
            for i, part in enumerate(parts):
                one = self._bits(self.text(part), element, held)
                text = self.assign(f"insertelement <{total} x {held}> {text}, {held} {one}, i64 {i}")
            return Val(element, total, self._bits(text, held, element, total))
        while len(parts) > 1:
            parts = [
                self.shuffle(a, range(2 * a.lanes), b if b is not a else None)
                if b is not a
                else self.shuffle(a, [*range(a.lanes), *range(a.lanes)])
                for a, b in zip(parts[::2], parts[1::2])
            ]
        return parts[0]

    def integer(self, value: int, element: str = "i64") -> Val:
        return Val(element, 1, str(value))

    def const_vector(self, element: str, values: Sequence[int]) -> Val:
        if len(values) == 1:
            return Val(element, 1, str(values[0]))
        if len(set(values)) == 1:
            return self.splat(Val(element, 1, str(values[0])), len(values))
        return Val(element, len(values), "<" + ", ".join(f"{element} {v}" for v in values) + ">")

    # ------------------------------------------------ places

    @contextmanager
    def at_depth(self, depth: int) -> Iterator[None]:
        """What is written inside goes in front of the loops deeper than `depth`, if they are in this nest or branch."""
        depth = max(depth, self.floor)
        if depth >= len(self.scopes) - 1:
            yield
            return
        rest = self.scopes[depth + 1 :]
        del self.scopes[depth + 1 :]
        try:
            yield
        finally:
            self.scopes.extend(rest)

    def depth_of(self, at: Sequence[Index]) -> int:
        depth = self.floor
        for index in at:
            for counter, _ in index.terms:
                depth = max(depth, self.counters[counter].depth)
        return depth

    # Code never moves out of this scope (an `if` around it, or the start of the nest).
    floor = 0

    def find(self, key: object) -> object | None:
        for scope in reversed(self.scopes):
            if key in scope.memo:
                return scope.memo[key]
        return None

    def remember(self, key: object, value: object) -> None:
        self.scopes[-1].memo[key] = value

    @contextmanager
    def nest(self) -> Iterator[None]:
        """A stretch whose memo is forgotten at its end, and out of which no code moves."""
        parent = self.scopes[-1]
        self.scopes.append(Scope(parent.lines, parent.label))
        previous, self.floor = self.floor, len(self.scopes) - 1
        try:
            yield
        finally:
            self.floor = previous
            parent.label = self.scopes.pop().label

    @contextmanager
    def loop(self, stop: int, step: int, carried: Sequence[Val] = (), tag: str = "loop") -> Iterator[LoopBody]:
        """for counter in range(0, stop, step), at least once; `carried` start values become phis.

        The body must set `body.next` to the values for the next round; `body.results` hold the last ones.
        """
        counter = self.name("i")
        label = self.label(tag)
        body = LoopBody(counter, [Val(v.element, v.lanes, self.name("phi")) for v in carried])
        starts = [self.text(v) for v in carried]
        scope = Scope([], label, counter)
        self.scopes.append(scope)
        depth = len(self.scopes) - 1
        self.counters[counter] = Counter(depth, step, stop)
        self.enter([counter, *(phi.text or "" for phi in body.carried)])
        yield body
        for value in body.next:
            self.text(value)
        self.scopes.pop()
        parent = self.scopes[-1]
        after = self.name("n")
        done = self.name("c")
        parent.lines.append(f"  br label %{label}")
        parent.lines.append(f"{label}:")
        parent.lines.append(f"  {counter} = phi i64 [ 0, %{parent.label} ], [ {after}, %{scope.label} ]")
        for phi, start, following in zip(body.carried, starts, body.next):
            parent.lines.append(
                f"  {phi.text} = phi {phi.type} [ {start}, %{parent.label} ], [ {following.text}, %{scope.label} ]"
            )
        parent.lines.extend(scope.lines)
        parent.lines.append(f"  {after} = add nuw nsw i64 {counter}, {step}")
        parent.lines.append(f"  {done} = icmp ult i64 {after}, {stop}")
        end = f"{label}.end"
        parent.lines.append(f"  br i1 {done}, label %{label}, label %{end}")
        parent.lines.append(f"{end}:")
        parent.label = end
        body.results = list(body.next)

    def derived(self, counter: str, instruction: str, step: int, stop: int) -> Index:
        """A counter computed from another one; indices are split by bits, so a sum that carries needs its own name."""
        depth = self.counters[counter].depth
        with self.at_depth(depth):
            name = self.assign(instruction)
        self.counters[name] = Counter(depth, step, stop)
        return Index(((name, 1),))

    @contextmanager
    def conditional(self, condition: Val, otherwise: Callable[[], None] | None = None) -> Iterator[None]:
        """Runs what is written inside only if the i1 scalar `condition` holds, else what `otherwise` writes."""
        inside, other, after = self.label("then"), self.label("else"), self.label("endif")
        scope = self.scopes[-1]
        self.line(f"br i1 {self.text(condition)}, label %{inside}, label %{other if otherwise else after}")
        with self._branch(inside, after):
            yield
        if otherwise is not None:
            with self._branch(other, after):
                otherwise()
        scope.lines.append(f"{after}:")
        scope.label = after

    @contextmanager
    def _branch(self, label: str, after: str) -> Iterator[None]:
        parent = self.scopes[-1]
        parent.lines.append(f"{label}:")
        self.scopes.append(Scope(parent.lines, label))
        previous, self.floor = self.floor, len(self.scopes) - 1
        try:
            yield
        finally:
            self.floor = previous
            self.scopes.pop()
            self.branch(after)


@dataclass(slots=True)
class LoopBody:
    counter: str
    carried: list[Val]
    next: list[Val] = field(default_factory=list)
    results: list[Val] = field(default_factory=list)

    @property
    def index(self) -> Index:
        return Index(((self.counter, 1),))
