"""Which rows and columns of a product anybody stores: what lies behind an edge need not be multiplied."""

from __future__ import annotations

from collections.abc import Iterator

from unify.compiler import mlir

_DOTS = ("tt.dot", "tt.dot_scaled")
_ELEMENTWISE = ("arith.", "math.", "tt.fp_to_fp", "tt.clampf", "tt.precise_", "tt.bitcast")


def masks(dot: mlir.Operation, axis: int, uses: dict[mlir.Value, list[mlir.Operation]]) -> list[mlir.Value]:
    """Each false for rows (axis 0: [M] or [M, 1]) or columns (1: [N] or [1, N]) of the product that reach no store.

    None if that is not known. The result is followed through what keeps each element in its row or column: elementwise
    operations, loops that carry it, and further products.
    """
    if len(mlir.shape_of(dot.results[0])) != 2:
        return []
    common: dict[mlir.Value, None] | None = None
    crossed: set[mlir.Operation] = set()
    work, seen = [dot.results[0]], {dot.results[0]}
    while work:
        value = work.pop()
        for user in uses.get(value, ()):
            if user.name == "tt.store" and value not in (user.operands[0], *user.operands[2:]):
                found = dict.fromkeys(_factors(user.operands[2], axis)) if len(user.operands) > 2 else {}
                common = found if common is None else {mask: None for mask in common if mask in found}
                continue
            following = _following(user, value, axis)
            if following is None:
                return []
            if user.name in ("scf.for", "scf.yield"):
                crossed.add(_carrier(user))
            work += [v for v in following if v not in seen]
            seen.update(following)
    return [mask for mask in common or () if not any(mlir.is_inside(mask, loop) for loop in crossed)]


def _following(user: mlir.Operation, value: mlir.Value, axis: int) -> list[mlir.Value] | None:
    """The values whose rows or columns come from those of `value` in `user`; None if something else becomes of them."""
    if user.name in _DOTS and user.operands.count(value) == 1:
        return user.results if value in (user.operands[axis], user.operands[2]) else None
    if user.name.startswith(_ELEMENTWISE):
        return user.results if all(mlir.shape_of(v) == mlir.shape_of(value) for v in user.results) else None
    if user.name in ("scf.for", "scf.yield") and (loop := _carrier(user)).name == "scf.for":
        operands = user.operands[3:] if user is loop else user.operands
        carried = [i for i, v in enumerate(operands) if v is value]
        return [v for i in carried for v in (loop.regions[0].entry.arguments[1 + i], loop.results[i])]
    return None


def _factors(mask: mlir.Value, axis: int) -> Iterator[mlir.Value]:
    """What the mask of a store [M, N] is an `and` of, as far as it is the same along the other axis."""
    op, other = mask.owner, 1 - axis
    if not isinstance(op, mlir.Operation):
        return
    if op.name == "arith.andi":
        for part in op.operands:
            yield from _factors(part, axis)
    elif op.name == "tt.broadcast" and mlir.shape_of(mask)[axis] == mlir.shape_of(op.operands[0])[axis]:
        yield from _factors(op.operands[0], axis)
    elif len(mlir.shape_of(mask)) == 2 and mlir.shape_of(mask)[other] == 1:
        is_expanded = op.name == "tt.expand_dims" and op.integer("axis") == other
        yield op.operands[0] if is_expanded else mask


def _carrier(op: mlir.Operation) -> mlir.Operation:
    """What takes the values that a loop starts with, or that a region yields."""
    if op.name != "scf.yield":
        return op
    assert op.parent is not None
    assert op.parent.parent is not None
    assert op.parent.parent.parent is not None
    return op.parent.parent.parent
