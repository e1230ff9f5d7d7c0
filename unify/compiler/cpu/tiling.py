"""Which tensors are kept in memory and which are computed where they are used.

A tensor is stored if it is needed by more than one loop nest and costs more to compute again than to read back, if a
loop would compute it anew each round, or if it is a load that something may overwrite before its last use.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field

from unify.compiler import mlir
from unify.compiler.cpu import orientation
from unify.compiler.cpu.aliasing import Aliasing
from unify.compiler.cpu.axis import Axes, Step
from unify.compiler.cpu.bounds import Bounds

# Operations that run a loop nest of their own over their operands.
ROOTS = frozenset(
    [
        "tt.store",
        "tt.reduce",
        "tt.scan",
        "tt.dot",
        "tt.dot_scaled",
        "tt.histogram",
        "tt.gather",
        "tt.map_elementwise",
        "tt.atomic_rmw",
        "tt.atomic_cas",
        "tt.atomic_load",
        "tt.atomic_store",
        "tt.atomic_poll",
        "tt.assert",
        "tt.print",
        "scf.yield",
        "scf.for",
        "scf.if",
        "scf.while",
        "scf.condition",
        "cf.br",
        "cf.cond_br",
        "tt.return",
        "tt.call",
    ]
)
# Their results are in memory from the start.
STORED = frozenset(
    [
        "tt.reduce",
        "tt.scan",
        "tt.dot",
        "tt.dot_scaled",
        "tt.histogram",
        "tt.gather",
        "tt.map_elementwise",
        "tt.atomic_rmw",
        "tt.atomic_cas",
        "tt.atomic_load",
        "tt.atomic_poll",
        "scf.for",
        "scf.if",
        "scf.while",
        "tt.call",
    ]
)
_STORES = frozenset(["tt.store", "tt.atomic_rmw", "tt.atomic_cas", "tt.atomic_store"])
# What other programs wrote may be seen from these on, as if written here.
_ORDERS = frozenset(["tt.atomic_load", "tt.atomic_poll", "tt.grid_dependency_wait", "ttg.barrier", "gpu.barrier"])
WRITES = _STORES | _ORDERS | {"tt.call"}
# Their results take elements from other positions.
_MOVING = frozenset(
    ["tt.trans", "tt.reshape", "tt.broadcast", "tt.expand_dims", "tt.join", "tt.split", "tt.cat", "tt.gather"]
)
_COST = {
    "tt.load": 4, "tt.gather": 30, "arith.divf": 6, "arith.divsi": 12, "arith.remsi": 12, "arith.divui": 12,
    "arith.remui": 12,
    "math.exp": 12, "math.exp2": 10, "math.log": 14, "math.log2": 14, "math.sin": 20, "math.cos": 20, "math.erf": 20,
    "math.tanh": 20, "math.sqrt": 8, "math.rsqrt": 8, "tt.precise_divf": 6, "tt.approx_divf": 6, "tt.precise_sqrt": 8,
    "tt.extern_elementwise": 30,
    "tt.make_range": 0, "tt.splat": 0, "tt.broadcast": 0, "tt.expand_dims": 0, "arith.constant": 0, "tt.addptr": 0,
    "tt.reshape": 0, "tt.trans": 1, "tt.bitcast": 0, "arith.cmpi": 1, "tt.join": 2, "tt.split": 1, "tt.cat": 2,
}  # fmt: skip
_WORTH_STORING = 6
# Whose results have a linear form if their operands have one.
_LINEAR = frozenset(
    ["arith.addi", "arith.subi", "arith.muli", "arith.shli", "arith.extsi", "arith.extui", "tt.addptr",
     "tt.splat", "tt.broadcast", "tt.expand_dims", "tt.trans"]
)  # fmt: skip
# Read where they are used: what they are made of may be stored.
_FREE = frozenset(["arith.constant", "tt.make_range", "tt.splat", "tt.broadcast", "tt.expand_dims"])


@dataclass(frozen=True)
class ByteDot:
    """sum(ext(a) · ext(b), last axis of 4 bytes): one instruction a register, so it is computed where it is used."""

    operands: tuple[mlir.Value, mlir.Value]  # the bytes, in the shape of the product
    unsigned: tuple[bool, bool]


@dataclass
class Plan:
    axes: Axes
    bounds: Bounds
    aliasing: Aliasing
    stored: set[mlir.Value] = field(default_factory=set)
    steps: dict[mlir.Value, Step] = field(default_factory=dict)
    rounds: dict[mlir.Operation, mlir.Value] = field(default_factory=dict)
    uses: dict[mlir.Value, list[mlir.Operation]] = field(default_factory=dict)
    byte_dots: dict[mlir.Operation, ByteDot] = field(default_factory=dict)
    accumulations: dict[mlir.Operation, tuple[mlir.Operation, mlir.Value]] = field(default_factory=dict)
    publishes: bool = False  # a program may tell others, while it runs, that its results are there
    fastest: dict[mlir.Value, int] = field(default_factory=dict)  # the axis, where it is not the last (orientation.py)

    def is_root(self, op: mlir.Operation) -> bool:
        return op.name in ROOTS and op not in self.byte_dots

    def is_stored(self, op: mlir.Operation) -> bool:
        return op.name in STORED and op not in self.byte_dots


def plan(function: mlir.Operation) -> Plan:
    hints = _hints(function)
    uses = _uses(function)
    rounds, steps = _steps(function)
    axes = Axes(steps, hints)
    fastest = orientation.find(function, axes)
    out = Plan(axes, Bounds(), Aliasing(function, axes), steps=steps, rounds=rounds, uses=uses, fastest=fastest)
    out.publishes = any(op.name in _ORDERS or op.name in _STORES - {"tt.store"} for op in mlir.walk(function))
    _find_byte_dots(function, out)
    _Chooser(function, out).run()
    return out


def _hints(function: mlir.Operation) -> dict[mlir.Value, int]:
    attributes = function.attributes.get("arg_attrs")
    hints = {}
    for argument, entry in zip(function.regions[0].entry.arguments, attributes if isinstance(attributes, list) else []):
        divisor = entry.get("tt.divisibility") if isinstance(entry, dict) else None
        if isinstance(divisor, mlir.Typed):
            hints[argument] = int(divisor.value)
    return hints


def _uses(function: mlir.Operation) -> dict[mlir.Value, list[mlir.Operation]]:
    uses: dict[mlir.Value, list[mlir.Operation]] = {}
    for op in mlir.walk(function):
        for operand in op.operands:
            uses.setdefault(operand, []).append(op)
    return uses


# ---------------------------------------------------------------- loop-carried tensors that only advance


def _is_invariant(value: mlir.Value, loop: mlir.Operation, depth: int = 0) -> bool:
    """Does not change from round to round: defined outside, or computed inside only from such."""
    if not mlir.is_inside(value, loop):
        return True
    op = value.owner
    pure = (
        isinstance(op, mlir.Operation) and (op.name.startswith("arith.") or op.name in _COST) and op.name != "tt.load"
    )
    return bool(pure and depth < 16 and all(_is_invariant(v, loop, depth + 1) for v in op.operands))  # type: ignore[union-attr]


def _steps(function: mlir.Operation) -> tuple[dict[mlir.Operation, mlir.Value], dict[mlir.Value, Step]]:
    rounds: dict[mlir.Operation, mlir.Value] = {}
    steps: dict[mlir.Value, Step] = {}
    for loop in mlir.walk(function):
        if loop.name != "scf.for":
            continue
        body = loop.regions[0].entry
        for argument, start, following in zip(body.arguments[1:], loop.operands[3:], body.operations[-1].operands):
            if not isinstance(argument.type, mlir.Tensor):
                continue
            element = argument.type.element
            grown = isinstance(element, mlir.Pointer) or str(element) in ("i32", "i64")
            op = following.owner
            if not grown or not isinstance(op, mlir.Operation) or op.name not in ("tt.addptr", "arith.addi"):
                continue
            others = [v for v in op.operands if v is not argument]
            if len(others) == 1 and op.operands[0] is argument and _is_invariant(others[0], loop):
                round_ = rounds.setdefault(loop, mlir.Value("round", mlir.Scalar("i32")))
                steps[argument] = Step(start, others[0], round_)
    return rounds, steps


# ---------------------------------------------------------------- sums of products of four bytes


def _find_byte_dots(function: mlir.Operation, out: Plan) -> None:
    for op in mlir.walk(function):
        if op.name == "tt.reduce":
            found = _byte_dot(op)
            if found is not None:
                out.byte_dots[op] = found
    for op in mlir.walk(function):
        if op.name != "arith.addi":
            continue
        for dot, other in (op.operands, op.operands[::-1]):
            if dot.owner in out.byte_dots and len(out.uses[dot]) == 1 and isinstance(dot.owner, mlir.Operation):
                out.accumulations[op] = (dot.owner, other)
                break


def _byte_dot(op: mlir.Operation) -> ByteDot | None:
    operands, body = op.operands, op.regions[0].entry.operations
    type_ = operands[0].type
    if len(operands) != 1 or not isinstance(type_, mlir.Tensor) or str(type_.element) != "i32" or len(type_.shape) < 2:
        return None
    if op.integer("axis") != len(type_.shape) - 1 or type_.shape[-1] != 4:
        return None
    if len(body) != 2 or body[0].name != "arith.addi" or set(body[0].operands) != set(op.regions[0].entry.arguments):
        return None
    product = operands[0].owner
    if not isinstance(product, mlir.Operation) or product.name != "arith.muli":
        return None
    a, b = (_bytes_behind(v) for v in product.operands)
    return ByteDot((a[0], b[0]), (a[1], b[1])) if a is not None and b is not None else None


def _bytes_behind(value: mlir.Value) -> tuple[mlir.Value, bool] | None:
    """The i8 tensor that `value` extends, under the same broadcasts, and whether it is unsigned."""
    op = value.owner
    if not isinstance(op, mlir.Operation):
        return None
    if op.name in ("arith.extui", "arith.extsi"):
        source = op.operands[0]
        is_bytes = isinstance(source.type, mlir.Tensor) and str(source.type.element) == "i8"
        return (source, op.name == "arith.extui") if is_bytes else None
    if op.name != "tt.broadcast" or not isinstance(value.type, mlir.Tensor):
        return None
    inner = _bytes_behind(op.operands[0])
    if inner is None:
        return None
    wide = mlir.Operation("tt.broadcast", [inner[0]], location=op.location)
    wide.results = [mlir.Value("bytes", mlir.Tensor(value.type.shape, mlir.Scalar("i8")), wide)]
    return wide.results[0], inner[1]


# ---------------------------------------------------------------- what to store


def _loops_around(op: mlir.Operation) -> list[mlir.Operation]:
    found = []
    block = op.parent
    while block is not None and block.parent is not None and block.parent.parent is not None:
        parent = block.parent.parent
        if parent.name in ("scf.for", "scf.while"):
            found.append(parent)
        block = parent.parent
    return found


class _Chooser:
    def __init__(self, function: mlir.Operation, out: Plan) -> None:
        self.function, self.plan = function, out
        self.order = {op: i for i, op in enumerate(mlir.walk(function))}
        self.last = {op: max([self.order[o] for o in mlir.walk(op)]) for op in self.order}
        self.writes = [i for op, i in self.order.items() if op.name in WRITES]
        self.unstructured = any(len(region.blocks) > 1 for op in self.order for region in op.regions)
        self.consumers: dict[mlir.Value, set[mlir.Operation]] = {}
        self.readers: dict[mlir.Value, set[mlir.Operation]] = {}
        self.advances: dict[mlir.Value, list[mlir.Value]] = {}  # what starts as, or grows by, a value
        for value, step in self._advancing():
            for source in (step.start, step.step):
                self.advances.setdefault(source, []).append(value)
        self.moved: dict[mlir.Value, bool] = {}
        self.starts: dict[mlir.Operation, bool] = {}
        self.costs: dict[mlir.Value, int] = {}
        self.addresses: dict[mlir.Value, bool] = {}

    def run(self) -> None:
        for op in reversed(list(self.order)):
            for value in op.results:
                if not isinstance(value.type, mlir.Tensor):
                    continue
                self.consumers[value] = self._consumers(value, self.consumers)
                self.readers[value] = self._readers(value)
                if self.plan.is_stored(op) or op.name in _FREE:
                    continue
                if self._is_worth_storing(op, value):
                    self.plan.stored.add(value)

    def _advancing(self) -> Iterator[tuple[mlir.Value, Step]]:
        """Tensors that advance from round to round, inside their loop and behind it."""
        for loop in self.plan.rounds:
            for argument, result in zip(loop.regions[0].entry.arguments[1:], loop.results, strict=True):
                if argument in self.plan.steps:
                    yield argument, self.plan.steps[argument]
                    yield result, self.plan.steps[argument]

    def _readers(self, value: mlir.Value) -> set[mlir.Operation]:
        """The consumers, and those of all that advances from it: these compute it anew where they are."""
        found = self._consumers(value, self.readers)
        return found.union(*(self._readers(advancing) for advancing in self.advances.get(value, ())))

    def _consumers(self, value: mlir.Value, known: dict[mlir.Value, set[mlir.Operation]]) -> set[mlir.Operation]:
        """The operations whose loop nests compute `value`, if it is not stored."""
        found: set[mlir.Operation] = set()
        for user in self.plan.uses.get(value, ()):
            if self.plan.is_root(user):
                found.add(user)
            for result in user.results:
                if result in self.plan.stored:
                    found.add(user)
                elif not self.plan.is_root(user):
                    found |= known.get(result, set())
        return found

    def _cost(self, value: mlir.Value) -> int:
        found = self.costs.get(value)
        if found is not None:
            return found
        op = value.owner
        if not isinstance(op, mlir.Operation) or self.plan.is_stored(op) or value in self.plan.stored:
            cost = 1
        elif _is_uniform(op) or self.plan.bounds.is_always_true(value):
            cost = 0
        elif (columns := _repeated_columns(op)) > 1:
            cost = self._cost(op.operands[0]) // columns  # computed in front of the loop over them
        else:
            cost = _COST.get(op.name, 1) + sum(self._cost(v) for v in op.operands if isinstance(v.type, mlir.Tensor))
            if op.name == "tt.load":
                cost = 4 + self._addressing(op)
        self.costs[value] = min(cost, 1000)
        return self.costs[value]

    def _addressing(self, op: mlir.Operation) -> int:
        linear = self.plan.axes.linear(op.operands[0])
        contiguous = any(linear.stride(axis) == 1 for axis in range(len(linear.strides)))
        return (0 if contiguous else 20) + (2 if len(op.operands) > 1 else 0)

    def _is_worth_storing(self, op: mlir.Operation, value: mlir.Value) -> bool:
        if op.name == "tt.load" and self._may_be_overwritten(op, self.readers[value]):
            return True
        consumers = self.consumers[value]
        if not consumers:
            return False
        if op.name in ("tt.gather",):
            return True
        if self._is_part_of_addresses(value):
            return False
        around = set(_loops_around(op))
        repeated = any(set(_loops_around(user)) - around for user in consumers)
        times = len(consumers) + (3 if repeated else 0)
        if times < 2:
            return False
        if op.name == "tt.load" and not repeated and self._addressing(op) == 0:
            return False  # as cheap to read again from where it is
        return self._cost(value) * (times - 1) >= _WORTH_STORING

    def _is_part_of_addresses(self, value: mlir.Value) -> bool:
        """Whether it is read as a linear form only: what that is made of is looked up, and never the value itself."""
        found = self.addresses.get(value)
        if found is None:
            linear = self.plan.axes.linear(value)
            is_pointer = isinstance(value.type, mlir.Tensor) and isinstance(value.type.element, mlir.Pointer)
            found = not any(term.value is value for term in linear.terms) and (linear.base is not None) == is_pointer
            for user in self.plan.uses.get(value, ()) if found else ():
                if user.name in ("tt.load", "tt.store"):
                    found = found and is_pointer and user.operands[0] is value
                else:
                    found = found and user.name in _LINEAR and all(map(self._is_part_of_addresses, user.results))
            self.addresses[value] = found
        return found

    def _may_be_overwritten(self, op: mlir.Operation, consumers: set[mlir.Operation]) -> bool:
        """Does a write stand between this load and its last use, come round again in a loop, or run beside it?"""
        if any(self._meets_stores_of(op, user) for user in consumers):
            return True
        if self.unstructured and self.writes:
            return any(user.parent is not op.parent for user in consumers) or self._crossed(op, consumers)
        return self._crossed(op, consumers)

    def _meets_stores_of(self, load: mlir.Operation, user: mlir.Operation) -> bool:
        """Whether `user`, or a store before it that may share its loop nest, goes where `load` still has to read."""
        if user.name not in _STORES or user.parent is None:
            return False
        begin, end = self.order[load], self.order[user]
        stores = [op for op in user.parent.operations if op.name in _STORES and begin < self.order[op] <= end]
        return any(_shape(op) == _shape(user) and self._is_met_by(load, op) for op in stores)

    def _is_moved(self, value: mlir.Value) -> bool:
        """Whether some loop nest takes elements of `value` from other positions than its own."""
        found = self.moved.get(value)
        if found is None:
            users = [op for op in self.plan.uses.get(value, ()) if not self.plan.is_root(op)]
            found = any(op.name in _MOVING or any(map(self._is_moved, op.results)) for op in users)
            self.moved[value] = found
        return found

    def _is_met_by(self, load: mlir.Operation, store: mlir.Operation) -> bool:
        is_moved = self._is_moved(load.results[0])
        return self.plan.aliasing.may_meet(load.operands[0], store.operands[0], at_same_position=not is_moved)

    def _crossed(self, op: mlir.Operation, consumers: set[mlir.Operation]) -> bool:
        begin = self.order[op]
        inside = set(_loops_around(op))
        for user in consumers:
            end = self._start_of_run(user)
            if any(begin < i < end for i in self.writes):
                return True
            for loop in _loops_around(user):
                if loop not in inside and any(self.order[loop] < i <= self.last[loop] for i in self.writes):
                    return True
        return False

    def _start_of_run(self, user: mlir.Operation) -> int:
        """The first of the stores that end up in one loop nest with this one: all values there precede all stores."""
        start = self.order[user]
        if user.name != "tt.store" or user.parent is None:
            return start
        operations = user.parent.operations
        for op in reversed(operations[: operations.index(user) + 1]):
            if op.name == "tt.store":
                if _shape(op) != _shape(user) or not _shape(op):
                    break
                start = self.order[op]
                if op not in self.starts:
                    self.starts[op] = self._starts_run(op)
                if self.starts[op]:
                    break
            elif op.name == "tt.load" or self.plan.is_root(op) or any(v in self.plan.stored for v in op.results):
                break
        return start

    def _starts_run(self, store: mlir.Operation) -> bool:
        """Whether a store waits for the nest before it, which loads or stores where it goes."""
        assert store.parent is not None
        operations = store.parent.operations
        before = operations[: operations.index(store)]
        meets = self.plan.aliasing.may_meet
        return any(self._is_met_by(op, store) for op in before if op.name == "tt.load") or any(
            meets(op.operands[0], store.operands[0], at_same_position=True)
            for op in before
            if op.name == "tt.store" and _shape(op) == _shape(store)
        )


def _shape(store: mlir.Operation) -> tuple[int, ...]:
    return mlir.shape_of(store.operands[0])


def _repeated_columns(op: mlir.Operation) -> int:
    """How often a broadcast repeats each element along the last axis."""
    if op.name != "tt.broadcast":
        return 1
    source, target = (v.type for v in (op.operands[0], op.results[0]))
    assert isinstance(source, mlir.Tensor)
    assert isinstance(target, mlir.Tensor)
    return target.shape[-1] // source.shape[-1]


def _is_uniform(op: mlir.Operation) -> bool:
    return op.name in ("tt.splat", "arith.constant")
