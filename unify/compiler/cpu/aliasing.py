"""Which accesses of a program may meet in memory at other positions than their own.

Loads are evaluated block by block beside the stores of the same shape. That keeps Triton's meaning, all of a load
before a later store, if a block's load reads nothing that the stores of other blocks write. Assumed is what Triton's
programs on a GPU depend on as well: two arguments of a kernel are the same memory or apart, and rows whose stride is an
argument do not overlap.
"""

from __future__ import annotations

from math import gcd

from unify.compiler import mlir
from unify.compiler.cpu.axis import Axes, Linear, Polynomial, poly_add
from unify.compiler.effects import UNKNOWN, origins


class Aliasing:
    """Facts about the accesses of one function."""

    def __init__(self, function: mlir.Operation, axes: Axes) -> None:
        self.axes = axes
        # The arguments of a function that others call may be parts of one buffer.
        self.origins = origins(function) if function.string("sym_visibility") == "public" else None
        self._answers: dict[tuple[mlir.Value, mlir.Value, bool], bool] = {}

    def may_meet(self, load: mlir.Value, store: mlir.Value, at_same_position: bool) -> bool:
        """Whether an element of `load` may be where the store at another position goes; both are pointer tensors.

        at_same_position: what is loaded at a position is used there.
        """
        question = load, store, at_same_position
        if question not in self._answers:
            self._answers[question] = self._find(*question)
        return self._answers[question]

    def may_share(self, a: mlir.Value, b: mlir.Value) -> bool:
        """Whether two pointer tensors may lead into one argument's memory."""
        if self.origins is None:
            return True
        return UNKNOWN in self.origins[a] | self.origins[b] or bool(self.origins[a] & self.origins[b])

    def _find(self, load: mlir.Value, store: mlir.Value, at_same_position: bool) -> bool:
        if not self.may_share(load, store):
            return False
        x, y = self._absolute(load), self._absolute(store)
        if x.base is not y.base or load.type != store.type or x.terms or y.terms:
            return load is not store or not at_same_position or not self._are_distinct(y, store)
        apart = poly_add(x.offset, y.offset, -1)
        if not apart and x.strides == y.strides and at_same_position:
            return not self._are_distinct(y, store)
        return not _are_apart(apart, x, y, mlir.shape_of(load), mlir.shape_of(store))

    def _absolute(self, pointers: mlir.Value) -> Linear:
        """With scalar pointers resolved: from the argument on, where that is possible."""
        found = self.axes.linear(pointers)
        offset, base = found.offset, found.base
        while base is not None and isinstance(base.owner, mlir.Operation) and base.owner.name == "tt.addptr":
            step = self.axes.linear(base.owner.operands[1])
            if not step.is_uniform:
                break
            offset, base = poly_add(offset, step.offset), base.owner.operands[0]
        return Linear(offset, found.strides, found.terms, base)

    def _are_distinct(self, linear: Linear, pointers: mlir.Value) -> bool:
        """Whether each position of a tensor of pointers has an address of its own."""
        if linear.terms:
            return False
        axes = [(stride, n) for stride, n in zip(linear.strides, mlir.shape_of(pointers)) if n > 1]
        reach = 0
        for step, extent in sorted((abs(s.get((), 0)), n) for s, n in axes if set(s) <= {()}):
            if step <= reach:
                return False
            reach += step * (extent - 1)
        return True


def _are_apart(
    difference: Polynomial, x: Linear, y: Linear, x_shape: tuple[int, ...], y_shape: tuple[int, ...]
) -> bool:
    """Whether two sets of addresses share none: their ranges do not touch, or a common stride steps past."""
    strides = [(s, n) for line, shape in ((x, x_shape), (y, y_shape)) for s, n in zip(line.strides, shape) if n > 1]
    if set(difference) - {()} or any(set(s) - {()} for s, _ in strides):
        return False
    distance = difference.get((), 0)
    step = gcd(*(s.get((), 0) for s, _ in strides))
    if step and distance % step:
        return True
    low_x, high_x = _range(x, x_shape)
    low_y, high_y = _range(y, y_shape)
    return distance + low_x > high_y or distance + high_x < low_y


def _range(line: Linear, shape: tuple[int, ...]) -> tuple[int, int]:
    reaches = [s.get((), 0) * (n - 1) for s, n in zip(line.strides, shape)]
    return sum(r for r in reaches if r < 0), sum(r for r in reaches if r > 0)
