"""Ranges of integers: which masks are always true, which values are never negative.

TTIR's integers wrap around and have no sign of their own: what may leave its width can be anything.
"""

from __future__ import annotations

from collections.abc import Callable

from unify.compiler import mlir

Range = tuple[int, int]


def _width(type_: mlir.Type) -> int | None:
    if isinstance(type_, mlir.Tensor):
        type_ = type_.element
    name = str(type_)
    if name == "index":
        return 64
    return int(name[1:]) if name[0] == "i" and name[1:].isdigit() else None


def _whole(type_: mlir.Type) -> Range:
    width = _width(type_) or 64
    if width == 1:
        return 0, 1
    return -(1 << (width - 1)), (1 << (width - 1)) - 1


class Bounds:
    """Ranges of one function's values as signed numbers (i1 is 0 or 1), computed on demand.

    `programs` is the most that a grid has along an axis. trusting: a program's number is only divided by what is above
    zero, such as the rows that are left of a group; else it would have no place in the result.
    """

    def __init__(self, programs: int = 1 << 31, trusting: bool = False) -> None:
        self.programs, self.trusting = programs, trusting
        self._known: dict[mlir.Value, Range] = {}

    def of(self, value: mlir.Value) -> Range:
        found = self._known.get(value)
        if found is None:
            whole = _whole(value.type)
            self._known[value] = whole  # while inside a cycle
            low, high = self._find(value)
            found = (low, high) if whole[0] <= low <= high <= whole[1] else whole
            self._known[value] = found
        return found

    def width(self, value: mlir.Value) -> int:
        """Bits of an integer or of its elements."""
        return _width(value.type) or 64

    def may_wrap(self, value: mlir.Value) -> bool:
        """Whether the value is not known to be what its arithmetic gives without an end of its bits."""
        return self.of(value) == _whole(value.type)

    def is_non_negative(self, value: mlir.Value) -> bool:
        return _width(value.type) is not None and self.of(value)[0] >= 0

    def is_always_true(self, value: mlir.Value) -> bool:
        return _width(value.type) == 1 and self.of(value)[0] == 1

    def _find(self, value: mlir.Value) -> Range:
        op = value.owner
        if isinstance(op, mlir.Block):
            return self._argument(op, value)
        rule = _RULES.get(op.name) if op is not None else None
        if rule is None or op is None or _width(value.type) is None:
            return _whole(value.type)
        return rule(self, op)

    def _argument(self, block: mlir.Block, value: mlir.Value) -> Range:
        parent = block.parent.parent if block.parent else None
        if parent is not None and parent.name == "scf.for" and value.index == 0:
            low, high, step = (self.of(v) for v in parent.operands[:3])
            if step[0] > 0:
                last = max(low[0], high[1] - 1)
                is_regular = low[0] == low[1] and step[0] == step[1]
                return low[0], last - (last - low[0]) % step[0] if is_regular else last
        return _whole(value.type)


def _constant(bounds: Bounds, op: mlir.Operation) -> Range:
    value = op.attributes.get("value")
    values = (
        value.values if isinstance(value, mlir.Dense) else (value.value,) if isinstance(value, mlir.Typed) else (value,)
    )
    numbers = [abs(v) if isinstance(v, bool) else v for v in values if isinstance(v, (int, bool))]
    if len(numbers) != len(values):
        return _whole(op.results[0].type)
    return int(min(numbers)), int(max(numbers))


def _binary(f: Callable[[Range, Range], Range]) -> Callable[[Bounds, mlir.Operation], Range]:
    return lambda bounds, op: f(bounds.of(op.operands[0]), bounds.of(op.operands[1]))


def _product(a: Range, b: Range) -> Range:
    corners = [x * y for x in a for y in b]
    return min(corners), max(corners)


def _quotient(a: Range, b: Range) -> Range:
    if b[0] <= 0:
        return -(1 << 63), (1 << 63) - 1
    corners = [abs(x) // y * (1 if x >= 0 else -1) for x in a for y in b]
    return min(corners), max(corners)


def _division(bounds: Bounds, op: mlir.Operation) -> Range:
    a, b = (bounds.of(v) for v in op.operands)
    if bounds.trusting and a[0] >= 0 and b[1] > 0 and _is_program_number(op.operands[0]):
        b = max(1, b[0]), b[1]
    return _quotient(a, b)


def _is_program_number(value: mlir.Value) -> bool:
    op = value.owner
    if not isinstance(op, mlir.Operation):
        return False
    is_part = op.name in ("arith.remsi", "arith.divsi") and _is_program_number(op.operands[0])
    return op.name == "tt.get_program_id" or is_part


def _remainder(a: Range, b: Range) -> Range:
    if b[0] <= 0:
        return (0, a[1]) if a[0] >= 0 else (a[0], max(a[1], 0))
    return (0, min(a[1], b[1] - 1)) if a[0] >= 0 else (-(b[1] - 1), b[1] - 1)


def _and(a: Range, b: Range) -> Range:
    highs = [r[1] for r in (a, b) if r[0] >= 0]
    return (0, min(highs)) if highs else (-(1 << 63), (1 << 63) - 1)


def _or(a: Range, b: Range) -> Range:
    if a[0] < 0 or b[0] < 0:
        return -(1 << 63), (1 << 63) - 1
    return max(a[0], b[0]), (1 << max(a[1].bit_length(), b[1].bit_length())) - 1


def _shift_left(a: Range, b: Range) -> Range:
    if b[0] != b[1] or not 0 <= b[0] < 64:
        return -(1 << 63), (1 << 63) - 1
    return a[0] << b[0], a[1] << b[0]


def _shift_right(bounds: Bounds, op: mlir.Operation) -> Range:
    a, b = bounds.of(op.operands[0]), bounds.of(op.operands[1])
    if b[0] != b[1] or not 0 <= b[0] < 64:
        return (0, a[1]) if a[0] >= 0 else _whole(op.results[0].type)
    if op.name == "arith.shrui" and a[0] < 0:
        return 0, ((1 << (_width(op.results[0].type) or 64)) - 1) >> b[0]
    return a[0] >> b[0], a[1] >> b[0]


def _compare(bounds: Bounds, op: mlir.Operation) -> Range:
    a, b = bounds.of(op.operands[0]), bounds.of(op.operands[1])
    predicate = op.integer("predicate")
    if predicate >= 6:
        if a[0] < 0 or b[0] < 0:
            return 0, 1
        predicate -= 4  # ult … uge on values that are not negative
    if predicate in (4, 5):
        a, b, predicate = b, a, predicate - 2
    true = {2: a[1] < b[0], 3: a[1] <= b[0], 0: a[0] == a[1] == b[0] == b[1], 1: a[1] < b[0] or b[1] < a[0]}
    false = {2: a[0] >= b[1], 3: a[0] > b[1], 0: a[1] < b[0] or b[1] < a[0], 1: a[0] == a[1] == b[0] == b[1]}
    return (1, 1) if true[predicate] else (0, 0) if false[predicate] else (0, 1)


def _zero_extend(bounds: Bounds, op: mlir.Operation) -> Range:
    low, high = bounds.of(op.operands[0])
    if low >= 0:
        return low, high
    return 0, (1 << (_width(op.operands[0].type) or 64)) - 1


def _truncate(bounds: Bounds, op: mlir.Operation) -> Range:
    inner, whole = bounds.of(op.operands[0]), _whole(op.results[0].type)
    return inner if whole[0] <= inner[0] and inner[1] <= whole[1] else whole


def _select(bounds: Bounds, op: mlir.Operation) -> Range:
    a, b = bounds.of(op.operands[1]), bounds.of(op.operands[2])
    return min(a[0], b[0]), max(a[1], b[1])


def _same(bounds: Bounds, op: mlir.Operation) -> Range:
    return bounds.of(op.operands[0])


_RULES: dict[str, Callable[[Bounds, mlir.Operation], Range]] = {
    "arith.constant": _constant,
    "tt.make_range": lambda bounds, op: (op.integer("start"), op.integer("end") - 1),
    "tt.get_program_id": lambda bounds, op: (0, bounds.programs - 1),
    "tt.get_num_programs": lambda bounds, op: (1, min(bounds.programs, (1 << 31) - 1)),
    "arith.addi": _binary(lambda a, b: (a[0] + b[0], a[1] + b[1])),
    "arith.subi": _binary(lambda a, b: (a[0] - b[1], a[1] - b[0])),
    "arith.muli": _binary(_product),
    "arith.divsi": _division,
    "arith.remsi": _binary(_remainder),
    "arith.andi": _binary(_and),
    "arith.ori": _binary(_or),
    "arith.shli": _binary(_shift_left),
    "arith.shrsi": _shift_right,
    "arith.shrui": _shift_right,
    "arith.cmpi": _compare,
    "arith.extsi": _same,
    "arith.extui": _zero_extend,
    "arith.trunci": _truncate,
    "arith.select": _select,
    "arith.minsi": _binary(lambda a, b: (min(a[0], b[0]), min(a[1], b[1]))),
    "arith.maxsi": _binary(lambda a, b: (max(a[0], b[0]), max(a[1], b[1]))),
    "tt.splat": _same,
    "tt.expand_dims": _same,
    "tt.broadcast": _same,
    "tt.trans": _same,
    "tt.reshape": _same,
}
