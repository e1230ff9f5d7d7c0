"""How the elements of a tensor of integers or pointers relate along each axis.

Two views. `Axes.of` is Triton's axis info: contiguity (runs that grow by one), divisibility (of each run's first) and
constancy (runs of equal values), each a power of two per axis. `Linear` is exact where it applies: base pointer +
constant + sum of stride · index, strides being polynomials in the kernel's scalars, plus what is not linear.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import gcd

from unify.compiler import mlir
from unify.compiler.cpu.bounds import Bounds

# A product of scalars → its integer factor; the empty product is the constant.
Polynomial = dict[tuple[mlir.Value, ...], int]
_MANY = 1 << 40


def poly_add(a: Polynomial, b: Polynomial, sign: int = 1) -> Polynomial:
    out = dict(a)
    for key, factor in b.items():
        out[key] = out.get(key, 0) + sign * factor
    return {key: factor for key, factor in out.items() if factor}


def poly_mul(a: Polynomial, b: Polynomial) -> Polynomial:
    out: Polynomial = {}
    for ka, fa in a.items():
        for kb, fb in b.items():
            key = tuple(sorted(ka + kb, key=id))
            out[key] = out.get(key, 0) + fa * fb
    return {key: factor for key, factor in out.items() if factor}


def constant(value: int) -> Polynomial:
    return {(): value} if value else {}


@dataclass(frozen=True)
class Term:
    """factor · value[index], where axis i of `value` takes the index of axis `axes[i]`, or 0 if that is None."""

    factor: tuple[tuple[tuple[mlir.Value, ...], int], ...]
    value: mlir.Value
    axes: tuple[int | None, ...]


@dataclass
class Linear:
    """base + offset + Σ strides[d] · index[d] + Σ terms; in elements of `pointee` if there is a base."""

    offset: Polynomial = field(default_factory=dict)
    strides: list[Polynomial] = field(default_factory=list)
    terms: list[Term] = field(default_factory=list)
    base: mlir.Value | None = None

    def stride(self, axis: int) -> int | None:
        """The stride along an axis if it is a known number and nothing else varies there."""
        if any(axis in term.axes for term in self.terms):
            return None
        poly = self.strides[axis]
        return poly.get((), 0) if set(poly) <= {()} else None

    @property
    def is_uniform(self) -> bool:
        return not any(self.strides) and not self.terms


@dataclass(frozen=True)
class Step:
    """A loop-carried value that is start + round · step."""

    start: mlir.Value
    step: mlir.Value
    round: mlir.Value


@dataclass(frozen=True)
class Info:
    contiguity: tuple[int, ...]
    divisibility: tuple[int, ...]
    constancy: tuple[int, ...]


def _power(value: int) -> int:
    """The largest power of two that divides the value."""
    return _MANY if value == 0 else min(_MANY, value & -value)


class Axes:
    """Axis facts of one function's values, computed on demand."""

    def __init__(self, steps: dict[mlir.Value, Step], hints: dict[mlir.Value, int]) -> None:
        self.steps = steps
        # An index that wraps around only for large grids is an error of the program, as in Triton's own analyses; one
        # that wraps in the second program already (a hash) is meant to.
        self.bounds = Bounds(programs=2, trusting=True)
        self.hints = hints  # kernel argument → divisibility the caller promised
        self._info: dict[mlir.Value, Info] = {}
        self._linear: dict[mlir.Value, Linear] = {}

    def neighbours(self, pointers: mlir.Value) -> list[int]:
        """The axes along which pointers lead to what lies side by side."""
        linear, info = self.linear(pointers), self.of(pointers)
        strides = [linear.stride(axis) for axis in range(len(linear.strides))]
        known = [stride == 1 or (stride is None and info.contiguity[axis] >= 8) for axis, stride in enumerate(strides)]
        return [axis for axis, extent in enumerate(mlir.shape_of(pointers)) if extent > 1 and known[axis]]

    # ------------------------------------------------ exact forms

    def linear(self, value: mlir.Value) -> Linear:
        found = self._linear.get(value)
        if found is None:
            found = self._linear[value] = self._find_linear(value)
        return found

    def opaque(self, value: mlir.Value) -> Linear:
        """The form of a value of which nothing is known."""
        rank = len(mlir.shape_of(value))
        if rank == 0:
            if isinstance(value.type, mlir.Pointer):
                return Linear(base=value)
            return Linear({(value,): 1})
        same = zip(self.of(value).constancy, mlir.shape_of(value))
        axes = tuple(None if constancy >= extent else axis for axis, (constancy, extent) in enumerate(same))
        return Linear(strides=[{} for _ in range(rank)], terms=[Term((((), 1),), value, axes)])

    def _find_linear(self, value: mlir.Value) -> Linear:
        step = self.steps.get(value)
        if step is not None:
            start, grow = self.linear(step.start), self.linear(step.step)
            if grow.base is None:
                return _add(start, _scale(grow, {(step.round,): 1}), 1)
        op = value.owner
        if not isinstance(op, mlir.Operation):
            return self.opaque(value)
        rule = _LINEAR.get(op.name)
        found = rule(self, op) if rule is not None else None
        return found if found is not None else self.opaque(value)

    # ------------------------------------------------ Triton's axis info

    def of(self, value: mlir.Value) -> Info:
        found = self._info.get(value)
        if found is None:
            rank = max(1, len(mlir.shape_of(value)))
            self._info[value] = Info((1,) * rank, (1,) * rank, (1,) * rank)  # while inside a cycle
            found = self._info[value] = self._find_info(value)
        return found

    def scalar_divisibility(self, value: mlir.Value) -> int:
        return self.of(value).divisibility[0]

    def _find_info(self, value: mlir.Value) -> Info:
        shape = mlir.shape_of(value) or (1,)
        step = self.steps.get(value)
        if step is not None:
            start, grow = self.of(step.start), self.of(step.step)
            div = tuple(gcd(a, b) for a, b in zip(start.divisibility, grow.divisibility))
            same = tuple(gcd(a, b) for a, b in zip(start.constancy, grow.constancy))
            return Info(tuple(gcd(a, b) for a, b in zip(start.contiguity, grow.constancy)), div, same)
        op = value.owner
        if isinstance(op, mlir.Operation):
            rule = _INFO.get(op.name)
            if rule is not None:
                return rule(self, op, shape)
        hint = self.hints.get(value, 1)
        return Info((1,) * len(shape), (hint,) * len(shape), (1,) * len(shape))


def _constant_of(op: mlir.Operation) -> int | None:
    value = op.attributes.get("value")
    if isinstance(value, mlir.Typed) and not isinstance(value.value, float):
        return int(value.value)
    if isinstance(value, mlir.Dense) and value.is_splat and not isinstance(value.values[0], float):
        return int(value.values[0])
    return None


# ---------------------------------------------------------------- linear forms by operation


def _add(a: Linear, b: Linear, sign: int) -> Linear:
    terms = list(a.terms)
    for term in b.terms:
        factor = tuple((key, factor * sign) for key, factor in term.factor)
        terms.append(Term(factor, term.value, term.axes))
    return Linear(
        poly_add(a.offset, b.offset, sign),
        [poly_add(x, y, sign) for x, y in zip(a.strides, b.strides)],
        terms,
        a.base if a.base is not None else b.base,
    )


def _scale(a: Linear, factor: Polynomial) -> Linear:
    terms = [
        Term(
            tuple(sorted(poly_mul(dict(t.factor), factor).items(), key=lambda e: [id(v) for v in e[0]])),
            t.value,
            t.axes,
        )
        for t in a.terms
    ]
    return Linear(poly_mul(a.offset, factor), [poly_mul(s, factor) for s in a.strides], terms)


def _lin_constant(axes: Axes, op: mlir.Operation) -> Linear | None:
    value = _constant_of(op)
    if value is None:
        return None
    return Linear(constant(value), [{} for _ in mlir.shape_of(op.results[0])])


def _lin_range(axes: Axes, op: mlir.Operation) -> Linear:
    return Linear(constant(op.integer("start")), [constant(1)])


def _lin_splat(axes: Axes, op: mlir.Operation) -> Linear:
    inner = axes.linear(op.operands[0])
    return Linear(inner.offset, [{} for _ in mlir.shape_of(op.results[0])], [], inner.base)


def _lin_sum(sign: int) -> Callable[[Axes, mlir.Operation], Linear | None]:
    def rule(axes: Axes, op: mlir.Operation) -> Linear | None:
        a, b = axes.linear(op.operands[0]), axes.linear(op.operands[1])
        if op.name == "tt.addptr":
            b = _widened(axes, op.operands[1]) or axes.opaque(op.operands[1])
        if not mlir.shape_of(op.results[0]) and (a.base is not None or b.base is not None):
            return None  # a scalar pointer is computed once, by itself
        if b.base is not None:
            return None
        return _add(a, b, sign)

    return rule


def _lin_product(axes: Axes, op: mlir.Operation) -> Linear | None:
    a, b = axes.linear(op.operands[0]), axes.linear(op.operands[1])
    if a.base is not None or b.base is not None:
        return None
    if b.is_uniform:
        return _scale(a, b.offset)
    return _scale(b, a.offset) if a.is_uniform else None


def _lin_shift(axes: Axes, op: mlir.Operation) -> Linear | None:
    a, b = axes.linear(op.operands[0]), axes.linear(op.operands[1])
    if not b.is_uniform or set(b.offset) - {()} or not 0 <= b.offset.get((), 0) < 32:
        return None
    return _scale(a, constant(1 << b.offset.get((), 0)))


def _lin_zero_extend(axes: Axes, op: mlir.Operation) -> Linear | None:
    return _widened(axes, op.operands[0]) if axes.bounds.is_non_negative(op.operands[0]) else None


def _lin_sign_extend(axes: Axes, op: mlir.Operation) -> Linear | None:
    return _widened(axes, op.operands[0])


def _widened(axes: Axes, value: mlir.Value) -> Linear | None:
    """The form of an integer that becomes wider; None if it is one without the wraps that the program means.

    Those of fewer than 32 bits have to be known not to wrap. Those of 32 are taken to be indices, which do not, unless
    a constant alone leaves them.
    """
    inner, bits = axes.linear(value), axes.bounds.width(value)
    if inner.base is not None or (bits < 32 and axes.bounds.may_wrap(value)):
        return None
    constants = [poly.get((), 0) for poly in (inner.offset, *inner.strides)]
    return None if any(abs(number) >= 1 << (bits - 1) for number in constants) else inner


def _lin_expand(axes: Axes, op: mlir.Operation) -> Linear:
    inner, axis = axes.linear(op.operands[0]), op.integer("axis")
    strides = list(inner.strides)
    strides.insert(axis, {})
    terms = [Term(t.factor, t.value, tuple(a if a is None or a < axis else a + 1 for a in t.axes)) for t in inner.terms]
    return Linear(inner.offset, strides, terms, inner.base)


def _lin_broadcast(axes: Axes, op: mlir.Operation) -> Linear:
    inner, source, shape = axes.linear(op.operands[0]), mlir.shape_of(op.operands[0]), mlir.shape_of(op.results[0])
    grown = {i for i, (a, b) in enumerate(zip(source, shape)) if a != b}
    strides = [{} if i in grown else stride for i, stride in enumerate(inner.strides)]
    terms = [Term(t.factor, t.value, tuple(None if a in grown else a for a in t.axes)) for t in inner.terms]
    return Linear(inner.offset, strides, terms, inner.base)


def _lin_trans(axes: Axes, op: mlir.Operation) -> Linear:
    inner, order = axes.linear(op.operands[0]), op.integers("order") or ()
    place = {source: target for target, source in enumerate(order)}
    terms = [Term(t.factor, t.value, tuple(None if a is None else place[a] for a in t.axes)) for t in inner.terms]
    return Linear(inner.offset, [inner.strides[source] for source in order], terms, inner.base)


_LINEAR: dict[str, Callable[[Axes, mlir.Operation], Linear | None]] = {
    "arith.constant": _lin_constant,
    "tt.make_range": _lin_range,
    "tt.splat": _lin_splat,
    "arith.addi": _lin_sum(1),
    "arith.subi": _lin_sum(-1),
    "tt.addptr": _lin_sum(1),
    "arith.muli": _lin_product,
    "arith.shli": _lin_shift,
    "arith.extsi": _lin_sign_extend,
    "arith.extui": _lin_zero_extend,
    "tt.expand_dims": _lin_expand,
    "tt.broadcast": _lin_broadcast,
    "tt.trans": _lin_trans,
}

# ---------------------------------------------------------------- axis info by operation


def _info_constant(axes: Axes, op: mlir.Operation, shape: tuple[int, ...]) -> Info:
    value = _constant_of(op)
    if value is None:
        return Info((1,) * len(shape), (1,) * len(shape), (1,) * len(shape))
    return Info((1,) * len(shape), (_power(value),) * len(shape), shape)


def _info_range(axes: Axes, op: mlir.Operation, shape: tuple[int, ...]) -> Info:
    return Info(shape, (_power(op.integer("start")),), (1,))


def _info_splat(axes: Axes, op: mlir.Operation, shape: tuple[int, ...]) -> Info:
    return Info((1,) * len(shape), (axes.scalar_divisibility(op.operands[0]),) * len(shape), shape)


def _info_expand(axes: Axes, op: mlir.Operation, shape: tuple[int, ...]) -> Info:
    inner, axis = axes.of(op.operands[0]), op.integer("axis")

    def grow(values: tuple[int, ...], new: int) -> tuple[int, ...]:
        return (*values[:axis], new, *values[axis:])

    # Along the new axis of extent 1 each element starts a run: the weakest divisibility of the others holds.
    return Info(grow(inner.contiguity, 1), grow(inner.divisibility, 1), grow(inner.constancy, 1))


def _info_broadcast(axes: Axes, op: mlir.Operation, shape: tuple[int, ...]) -> Info:
    inner, source = axes.of(op.operands[0]), mlir.shape_of(op.operands[0])
    grown = [a != b for a, b in zip(source, shape)]
    return Info(
        tuple(1 if g else c for g, c in zip(grown, inner.contiguity)),
        inner.divisibility,
        tuple(n if g else c for g, n, c in zip(grown, shape, inner.constancy)),
    )


def _info_trans(axes: Axes, op: mlir.Operation, shape: tuple[int, ...]) -> Info:
    inner, order = axes.of(op.operands[0]), op.integers("order") or ()
    return Info(*(tuple(v[i] for i in order) for v in (inner.contiguity, inner.divisibility, inner.constancy)))


def _info_sum(axes: Axes, op: mlir.Operation, shape: tuple[int, ...]) -> Info:
    a, b = axes.of(op.operands[0]), axes.of(op.operands[1])
    scale = 1
    if op.name == "tt.addptr":
        b = _info_widened(axes, op.operands[1])
    if op.name == "tt.addptr":  # in elements: an aligned pointer is divisible by alignment / size
        from unify.compiler.cpu.codegen.emitter import BYTES
        from unify.compiler.cpu.codegen.values import element_of

        pointer = op.operands[0].type
        pointer = pointer.element if isinstance(pointer, mlir.Tensor) else pointer
        scale = BYTES[element_of(pointer.pointee)] if isinstance(pointer, mlir.Pointer) else 1
    contiguity = tuple(
        max(gcd(ca, kb), gcd(ka, cb) if op.name != "arith.subi" else 1)
        for ca, ka, cb, kb in zip(a.contiguity, a.constancy, b.contiguity, b.constancy)
    )
    divisibility = tuple(gcd(x, y * scale) for x, y in zip(a.divisibility, b.divisibility))
    return Info(contiguity, divisibility, tuple(gcd(x, y) for x, y in zip(a.constancy, b.constancy)))


def _info_product(axes: Axes, op: mlir.Operation, shape: tuple[int, ...]) -> Info:
    a, b = axes.of(op.operands[0]), axes.of(op.operands[1])
    # Inside a run of consecutive values only the first one's divisibility is known.
    da = tuple(d if c == 1 else 1 for d, c in zip(a.divisibility, a.contiguity))
    db = tuple(d if c == 1 else 1 for d, c in zip(b.divisibility, b.contiguity))
    same = tuple(gcd(x, y) for x, y in zip(a.constancy, b.constancy))
    return Info((1,) * len(shape), tuple(min(_MANY, x * y) for x, y in zip(da, db)), same)


def _info_remainder(axes: Axes, op: mlir.Operation, shape: tuple[int, ...]) -> Info:
    a, b = axes.of(op.operands[0]), axes.of(op.operands[1])
    # A run does not wrap inside if its start and the modulus are both multiples of its length (Triton's RemOp rule).
    run = tuple(
        gcd(gcd(ca, da), gcd(db, kb))
        for ca, da, db, kb in zip(a.contiguity, a.divisibility, b.divisibility, b.constancy)
    )
    if not axes.bounds.is_non_negative(op.operands[0]):  # rounding towards zero breaks runs below it
        run = (1,) * len(shape)
    divisibility = tuple(gcd(x, y) for x, y in zip(a.divisibility, b.divisibility))
    return Info(run, divisibility, tuple(gcd(x, y) for x, y in zip(a.constancy, b.constancy)))


def _info_quotient(axes: Axes, op: mlir.Operation, shape: tuple[int, ...]) -> Info:
    a, b = axes.of(op.operands[0]), axes.of(op.operands[1])
    constancy = []
    for ca, da, ka, db, kb in zip(a.contiguity, a.divisibility, a.constancy, b.divisibility, b.constancy):
        run = gcd(gcd(ca, da), gcd(db, kb))  # consecutive values inside one multiple of the divisor
        if not axes.bounds.is_non_negative(op.operands[0]):
            run = 1
        constancy.append(max(run, gcd(ka, kb)))
    return Info((1,) * len(shape), (1,) * len(shape), tuple(constancy))


def _info_extend(axes: Axes, op: mlir.Operation, shape: tuple[int, ...]) -> Info:
    is_exact = op.name == "arith.extsi" or axes.bounds.is_non_negative(op.operands[0])
    return _info_widened(axes, op.operands[0], is_exact)


def _info_widened(axes: Axes, value: mlir.Value, is_exact: bool = True) -> Info:
    """Runs end where a narrow integer wraps around, and where one without a sign goes below zero."""
    info = axes.of(value)
    if is_exact and not (axes.bounds.width(value) < 32 and axes.bounds.may_wrap(value)):
        return info
    return Info((1,) * len(info.contiguity), info.divisibility, info.constancy)


def _info_bitwise(axes: Axes, op: mlir.Operation, shape: tuple[int, ...]) -> Info:
    a, b = axes.of(op.operands[0]), axes.of(op.operands[1])
    same = tuple(gcd(x, y) for x, y in zip(a.constancy, b.constancy))
    return Info((1,) * len(shape), (1,) * len(shape), same)


# slt, sge, ult and uge compare a run with its bound; sgt, sle, ugt and ule a bound with its run (arith.cmpi).
_BELOW, _ABOVE = frozenset([2, 5, 6, 9]), frozenset([4, 3, 8, 7])


def _info_compare(axes: Axes, op: mlir.Operation, shape: tuple[int, ...]) -> Info:
    """Where runs and a bound are multiples of n, `run < bound` holds for n neighbours or for none (as in Triton)."""
    same = _info_bitwise(axes, op, shape).constancy
    predicate = op.integer("predicate")
    if predicate not in _BELOW | _ABOVE:
        return Info((1,) * len(shape), (1,) * len(shape), same)
    run, bound = (axes.of(v) for v in (op.operands if predicate in _BELOW else op.operands[::-1]))
    groups = (
        gcd(c, d, e, k) for c, d, e, k in zip(run.contiguity, run.divisibility, bound.divisibility, bound.constancy)
    )
    return Info((1,) * len(shape), (1,) * len(shape), tuple(max(pair) for pair in zip(same, groups)))


def _info_shift(axes: Axes, op: mlir.Operation, shape: tuple[int, ...]) -> Info:
    b = axes.linear(op.operands[1])
    amount = b.offset.get((), 0) if b.is_uniform and set(b.offset) <= {()} else None
    a = axes.of(op.operands[0])
    if amount is None or not 0 <= amount < 31:
        return _info_bitwise(axes, op, shape)
    if op.name == "arith.shli":
        div = tuple(min(_MANY, (d if c == 1 else 1) << amount) for d, c in zip(a.divisibility, a.contiguity))
        return Info((1,) * len(shape), div, a.constancy)
    runs = tuple(max(k, gcd(gcd(c, d), 1 << amount)) for c, d, k in zip(a.contiguity, a.divisibility, a.constancy))
    return Info((1,) * len(shape), (1,) * len(shape), runs)


_INFO: dict[str, Callable[[Axes, mlir.Operation, tuple[int, ...]], Info]] = {
    "arith.constant": _info_constant,
    "tt.make_range": _info_range,
    "tt.splat": _info_splat,
    "tt.expand_dims": _info_expand,
    "tt.broadcast": _info_broadcast,
    "tt.trans": _info_trans,
    "arith.addi": _info_sum,
    "arith.subi": _info_sum,
    "tt.addptr": _info_sum,
    "arith.muli": _info_product,
    "arith.remsi": _info_remainder,
    "arith.remui": _info_remainder,
    "arith.divsi": _info_quotient,
    "arith.divui": _info_quotient,
    "arith.extsi": _info_extend,
    "arith.extui": _info_extend,
    "arith.andi": _info_bitwise,
    "arith.ori": _info_bitwise,
    "arith.xori": _info_bitwise,
    "arith.cmpi": _info_compare,
    "arith.shli": _info_shift,
    "arith.shrsi": _info_shift,
    "arith.shrui": _info_shift,
}
