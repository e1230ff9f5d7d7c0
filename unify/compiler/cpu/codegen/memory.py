"""Loads and stores: whole registers where addresses run on, masks as predicates, gathers where nothing is known."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial

import numpy as np

from unify.compiler import mlir
from unify.compiler.cpu.axis import Linear, Polynomial, Term
from unify.compiler.cpu.codegen.emitter import BYTES, STORED, ZERO, Index, Val
from unify.compiler.cpu.codegen.guard import guard
from unify.compiler.cpu.codegen.values import Kernel, element_of, inline, statement

Block = tuple[int, ...]
Position = tuple[Index, ...]

# A run of lanes with a stride up to this is read as whole registers and sorted out, which beats a gather.
_LARGEST_STRIDE = 4
# Bytes at the start of the arena, for the loads that a mask switched off.
_SWITCHED_OFF = 64


# ---------------------------------------------------------------- addresses


def polynomial(k: Kernel, poly: Polynomial) -> Val:
    """Its value as an i64, computed in front of the nest."""
    key = ("poly", frozenset(poly.items()))
    found = k.em.find(key)
    if found is not None:
        return found  # type: ignore[return-value]
    with k.em.at_depth(k.em.floor):
        total = ""
        for atoms, factor in poly.items():
            product = str(factor) if not atoms or factor != 1 else ""
            for atom in atoms:
                value = _wide(k, k.scalar(atom))
                product = k.em.text(value) if not product else k.em.assign(f"mul i64 {k.em.text(value)}, {product}")
            total = product if not total else k.em.assign(f"add i64 {total}, {product}")
        result = Val("i64", 1, total or "0")
        k.em.remember(key, result)
    return result


def _wide(k: Kernel, value: Val, unsigned: bool = False) -> Val:
    if value.element == "i64":
        return value
    to = "i64" if value.lanes == 1 else f"<{value.lanes} x i64>"
    key = ("wide", value)
    found = k.em.find(key)
    if found is None:
        found = k.em.op("i64", value.lanes, f"{'zext' if unsigned else 'sext'} {k.em.typed(value)} to {to}")
        k.em.remember(key, found)
    return found  # type: ignore[return-value]


class Access:
    """Where the elements of one block are: `base` and, per lane, a known distance or a computed one."""

    def __init__(self, k: Kernel, pointer: mlir.Value, at: Position, block: Block) -> None:
        self.k, self.block = k, block
        self.element = element_of(pointee(pointer))
        self.stored = STORED.get(self.element, self.element)
        self.lanes = int(np.prod(block, dtype=np.int64)) if block else 1
        linear = k.plan.axes.linear(pointer)
        self.distances: np.ndarray | None = None
        self.vector: Val | None = None  # the lanes' pointers, where nothing better is known
        if linear.base is None:
            value = k.block(pointer, at, block)
            self.vector = value
            self.base = k.em.text(value) if self.lanes == 1 else ""
            if self.lanes == 1:
                self.distances = np.zeros(1, dtype=np.int64)
            return
        self._from_linear(linear, at, block)

    # -- from a linear form

    def _from_linear(self, linear: Linear, at: Position, block: Block) -> None:
        k = self.k
        strides: list[int | None] = []
        irregular = []
        for axis, extent in enumerate(block):
            stride: int | None = 0
            if extent > 1:
                poly = linear.strides[axis]
                stride = poly.get((), 0) if set(poly) <= {()} else None
            strides.append(stride)
        uniform = []
        for term in linear.terms:
            lane_strides: list[int | None] = [self._term_stride(term, i, at, block) for i in range(len(term.axes))]
            is_lost = any(s and t is not None and strides[t] is None for t, s in zip(term.axes, lane_strides))
            if is_lost or any(s is None for s in lane_strides):
                irregular.append(term)
                continue
            uniform.append(term)
            for target, extra in zip(term.axes, lane_strides):
                before = strides[target] if target is not None else None
                if target is not None and before is not None:
                    strides[target] = before + (extra or 0)
        self.base = self._scalar_part(linear, uniform, at)
        self.distances = np.zeros(self.lanes, dtype=np.int64)
        grid = np.indices(block).reshape(len(block), -1) if block else np.zeros((0, 1), dtype=np.int64)
        varying: list[Val] = []
        for axis, stride in enumerate(strides):
            if stride is None:
                factor = polynomial(k, linear.strides[axis])
                lanes = k.em.const_vector("i64", [int(v) for v in grid[axis]])
                product = f"mul {k.em.typed(lanes)}, {k.em.text(k.em.splat(factor, self.lanes))}"
                varying.append(k.em.op("i64", self.lanes, product))
            else:
                self.distances += stride * grid[axis]
        for term in irregular:
            varying.append(self._term_vector(term, at, block))
        if varying:
            total = k.em.const_vector("i64", [int(v) for v in self.distances])
            for value in varying:
                total = k.em.op("i64", self.lanes, f"add {k.em.typed(total)}, {k.em.text(value)}")
            self.vector = k.em.op(
                "ptr", self.lanes, f"getelementptr {self.stored}, ptr {self.base}, {k.em.typed(total)}"
            )
            self.distances = None

    def _term_stride(self, term: Term, i: int, at: Position, block: Block) -> int | None:
        """How much the term grows from lane to lane along its axis i; None if that is not known."""
        axis = term.axes[i]
        if axis is None or block[axis] == 1:
            return 0
        info = self.k.plan.axes.of(term.value)
        if self.k.alignment(at[axis]) % block[axis]:
            return None
        if info.constancy[i] >= block[axis]:
            return 0
        factor = dict(term.factor)
        if info.contiguity[i] >= block[axis] and set(factor) <= {()}:
            return factor.get((), 0)
        return None

    def _term_value(self, term: Term, at: Position, block: Block) -> Val:
        axes = term.axes
        where = tuple(ZERO if a is None else at[a] for a in axes)
        return self.k.block(term.value, where, tuple(1 if a is None else block[a] for a in axes))

    def _term_vector(self, term: Term, at: Position, block: Block) -> Val:
        k = self.k
        value = _wide(k, self._term_value(term, at, block))
        factor = dict(term.factor)
        if factor != {(): 1}:
            scale = k.em.splat(polynomial(k, factor), value.lanes)
            value = k.em.op("i64", value.lanes, f"mul {k.em.typed(value)}, {k.em.text(scale)}")
        axes = [a for a in term.axes if a is not None and block[a] > 1]
        grid = np.indices(block).reshape(len(block), -1)
        own = [block[a] for a in axes]
        mask = np.ravel_multi_index([grid[a] for a in axes], own) if axes else np.zeros(self.lanes, dtype=int)
        if axes != sorted(axes):
            order = [block[a] for a in (x for x in term.axes if x is not None and block[x] > 1)]
            mask = np.ravel_multi_index([grid[a] for a in axes], order)
        return k.em.shuffle(value, [int(m) for m in mask])

    def _scalar_part(self, linear: Linear, uniform: Sequence[Term], at: Position) -> str:
        """The address of the block's first element, each part computed in front of the loops that it does not need."""
        k, em = self.k, self.k.em
        assert linear.base is not None
        pointer = em.text(k.scalar(linear.base))
        fixed = linear.offset.get((), 0)
        moving = {key: f for key, f in linear.offset.items() if key}
        parts: list[tuple[int, object, Callable[[], Val]]] = []  # depth, key, what makes the distance
        if moving:
            parts.append((em.floor, ("o", id(linear)), partial(polynomial, k, moving)))
        for axis, index in enumerate(at):
            poly = linear.strides[axis]
            if not poly:
                continue
            number = poly.get((), 0) if set(poly) <= {()} else None
            if number is not None:
                fixed += number * index.constant
            elif index.constant:
                scaled = {key: f * index.constant for key, f in poly.items()}
                parts.append((em.floor, ("c", axis, index.constant), partial(polynomial, k, scaled)))
            for counter, factor in index.terms:
                scaled = {key: f * factor for key, f in poly.items()}
                depth = em.counters[counter].depth
                parts.append((depth, ("t", axis, counter, factor), partial(self._times, scaled, counter)))
        for term in uniform:
            where = tuple(ZERO if a is None else at[a] for a in term.axes)
            use = ("u", term.value, where, term.factor)
            parts.append((em.depth_of(where), use, partial(self._term_scalar, term, at)))
        for depth, key, make in sorted(parts, key=lambda part: part[0]):
            memo = ("gep", self.stored, pointer, key)
            found = em.find(memo)
            if found is None:
                with em.at_depth(depth):
                    found = em.assign(f"getelementptr {self.stored}, ptr {pointer}, i64 {em.text(make())}")
                    em.remember(memo, found)
            pointer = str(found)
        return em.assign(f"getelementptr {self.stored}, ptr {pointer}, i64 {fixed}") if fixed else pointer

    def _times(self, poly: Polynomial, counter: str) -> Val:
        if poly == {(): 1}:
            return Val("i64", 1, counter)
        factor = polynomial(self.k, poly) if set(poly) != {()} else self.k.em.integer(poly[()])
        return self.k.em.op("i64", 1, f"mul i64 {counter}, {self.k.em.text(factor)}")

    def _term_scalar(self, term: Term, at: Position) -> Val:
        k = self.k
        where = tuple(ZERO if a is None else at[a] for a in term.axes)
        value = _wide(k, k.block(term.value, where, tuple(1 for _ in where)))
        factor = dict(term.factor)
        if factor == {(): 1}:
            return value
        return k.em.op("i64", 1, f"mul i64 {k.em.text(value)}, {k.em.text(polynomial(k, factor))}")

    # -- what it looks like

    @property
    def run(self) -> int:
        """Lanes that stand next to each other in memory, from the first on and repeating; 0 if unknown."""
        if self.distances is None:
            return 0
        run = self.lanes
        while run > 1:
            groups = self.distances.reshape(-1, run)
            if (groups - groups[:, :1] == np.arange(run)).all():
                return run
            run //= 2
        return 1

    def pointer(self, distance: int) -> str:
        if not distance:
            return self.base
        return self.k.em.assign(f"getelementptr {self.stored}, ptr {self.base}, i64 {distance}")

    def pointers(self) -> Val:
        """A vector of all lanes' pointers."""
        if self.vector is None:
            assert self.distances is not None
            distances = self.k.em.const_vector("i64", [int(d) for d in self.distances])
            text = f"getelementptr {self.stored}, ptr {self.base}, {self.k.em.typed(distances)}"
            self.vector = self.k.em.op("ptr", self.lanes, text)
        return self.vector


def pointee(pointer: mlir.Value) -> mlir.Type:
    type_ = pointer.type.element if isinstance(pointer.type, mlir.Tensor) else pointer.type
    assert isinstance(type_, mlir.Pointer)
    return type_.pointee


# ---------------------------------------------------------------- loading


def _operands(op: mlir.Operation) -> tuple[mlir.Value, mlir.Value | None, mlir.Value | None]:
    """pointer, mask, other"""
    sizes = op.integers("operandSegmentSizes") or tuple(1 if i < len(op.operands) else 0 for i in range(3))
    rest = list(op.operands[1:])
    mask = rest.pop(0) if sizes[1] else None
    return op.operands[0], mask, rest.pop(0) if sizes[2] else None


def mask_of(op: mlir.Operation) -> mlir.Value | None:
    """The mask of a load or store, if it has one."""
    if op.name == "tt.store":
        return op.operands[2] if len(op.operands) > 2 else None
    return _operands(op)[1]


@inline("tt.load")
def load(k: Kernel, op: mlir.Operation, _: int, at: Position, block: Block) -> Val:
    pointer, mask_value, other_value = _operands(op)
    mask = _mask(k, mask_value, at, block)
    access = Access(k, pointer, at, block)
    _guard(k, op, access, mask)
    if mask is None:
        loaded = _load(k, access, None, None)
    else:
        other = k.block(other_value, at, block) if other_value is not None else None
        loaded = _load(k, access, mask, other)
    if access.element == "i1":
        zero = "0" if loaded.lanes == 1 else "zeroinitializer"
        return k.em.op("i1", loaded.lanes, f"icmp ne {k.em.typed(loaded)}, {zero}")
    if loaded.repeats is not None:
        return k.em.splat(k.from_stored(loaded.repeats, access.element), loaded.lanes)
    return k.from_stored(loaded, access.element)


def _guard(k: Kernel, op: mlir.Operation, access: Access, mask: Val | None) -> None:
    if k.origins is not None:
        guard(k, op, Val("ptr", 1, access.base) if access.lanes == 1 else access.pointers(), mask)


def _mask(k: Kernel, mask: mlir.Value | None, at: Position, block: Block) -> Val | None:
    if mask is None or mask in k.whole or k.plan.bounds.is_always_true(mask):
        return None
    if _is_uniform(k, mask, at, block):
        value = k.em.splat(k.block(mask, at, (1,) * len(block)), math.prod(block))
    else:
        value = k.block(mask, at, block)
    constant = value.repeats.text if value.repeats is not None else value.text
    return None if constant in ("true", "1", "-1") else value


def _is_uniform(k: Kernel, mask: mlir.Value, at: Position, block: Block) -> bool:
    """Whether all lanes of the block are known to have the same answer."""
    constancy = k.plan.axes.of(mask).constancy
    return all(
        extent == 1 or (same >= extent and k.alignment(start) % extent == 0)
        for same, start, extent in zip(constancy, at, block)
    )


def _load(k: Kernel, access: Access, mask: Val | None, other: Val | None) -> Val:
    em, lanes = k.em, access.lanes
    if other is not None and other.repeats is not None:
        other = em.splat(k.to_stored(other.repeats), lanes)
    elif other is not None:
        other = k.to_stored(other)
    if lanes == 1:
        return _load_scalar(k, access, mask, other)
    if access.distances is not None and not access.distances.any() and (mask is None or mask.repeats is not None):
        once = _load_scalar(k, access, mask.repeats if mask else None, em.extract(other, 0) if other else None)
        if other is None or other.repeats is not None or mask is None:
            return em.splat(once, lanes)
    run = access.run
    if run > 1 and (run >= 4 or run == lanes):
        assert access.distances is not None
        parts = []
        for start in range(0, lanes, run):
            part_mask = em.slice(mask, start, run) if mask is not None else None
            part_other = em.slice(other, start, run) if other is not None else None
            address = access.pointer(int(access.distances[start]))
            parts.append(load_run(k, address, access.stored, run, part_mask, part_other))
        return em.concat(parts)
    stride = _common_stride(access)
    if stride is not None:
        return _load_strided(k, access, stride, mask, other)
    return _gather(k, access, mask, other)


def _load_scalar(k: Kernel, access: Access, mask: Val | None, other: Val | None) -> Val:
    em, size = k.em, BYTES[access.stored]
    address = access.base
    if mask is None:
        return em.op(access.stored, 1, f"load {access.stored}, ptr {address}, align {size}")
    # Switched-off loads read the arena's first line instead: no branch.
    safe = em.assign(f"select i1 {em.text(mask)}, ptr {address}, ptr %scratch")
    loaded = em.op(access.stored, 1, f"load {access.stored}, ptr {safe}, align {size}")
    rest = em.text(other) if other is not None else _zero(access.stored)
    return em.op(access.stored, 1, f"select i1 {em.text(mask)}, {em.typed(loaded)}, {access.stored} {rest}")


def _zero(element: str) -> str:
    return {"half": "0.0", "bfloat": "0.0", "float": "0.0", "double": "0.0", "ptr": "null"}.get(element, "0")


def load_run(k: Kernel, address: str, element: str, lanes: int, mask: Val | None, other: Val | None) -> Val:
    """Consecutive elements."""
    em, type_ = k.em, f"<{lanes} x {element}>"
    size = BYTES[element]
    if mask is None:
        return em.op(element, lanes, f"load {type_}, ptr {address}, align {size}")
    rest = em.text(other) if other is not None else "zeroinitializer"
    if mask.repeats is not None and lanes * size <= _SWITCHED_OFF:  # as a scalar: prefetchers miss masked loads
        holds = em.text(mask.repeats)
        safe = em.assign(f"select i1 {holds}, ptr {address}, ptr %scratch")
        loaded = em.op(element, lanes, f"load {type_}, ptr {safe}, align {size}")
        return em.op(element, lanes, f"select i1 {holds}, {em.typed(loaded)}, {type_} {rest}")
    name = f"@llvm.masked.load.v{lanes}{_suffix(element)}.p0"
    em.declare(name, f"declare {type_} {name}(ptr, <{lanes} x i1>, {type_})")
    return em.op(element, lanes, f"call {type_} {name}(ptr align {size} {address}, {em.typed(mask)}, {type_} {rest})")


def _suffix(element: str) -> str:
    return {"half": "f16", "bfloat": "bf16", "float": "f32", "double": "f64", "ptr": "p0"}.get(element, element)


def _common_stride(access: Access) -> int | None:
    if access.distances is None or access.lanes < 4:
        return None
    steps = np.diff(access.distances)
    stride = int(steps[0])
    return stride if 2 <= stride <= _LARGEST_STRIDE and (steps == stride).all() else None


def _load_strided(k: Kernel, access: Access, stride: int, mask: Val | None, other: Val | None) -> Val:
    """Every stride-th element: whole registers, reading no element that the program does not."""
    em, lanes = k.em, access.lanes
    parts = []
    for part in range(stride):
        wanted = [(part * lanes + lane) % stride == 0 for lane in range(lanes)]
        keep = em.const_vector("i1", [int(w) for w in wanted])
        if mask is not None:
            spread = em.shuffle(mask, [(part * lanes + lane) // stride for lane in range(lanes)])
            keep = em.op("i1", lanes, f"and {em.typed(spread)}, {em.text(keep)}")
        parts.append(load_run(k, access.pointer(part * lanes), access.stored, lanes, keep, None))
    while len(parts) & len(parts) - 1:
        parts.append(parts[-1])
    value = em.shuffle(em.concat(parts), [lane * stride for lane in range(lanes)])
    if mask is not None and other is not None:
        value = em.op(value.element, lanes, f"select {em.typed(mask)}, {em.typed(value)}, {em.typed(other)}")
    return value


def _gather(k: Kernel, access: Access, mask: Val | None, other: Val | None) -> Val:
    em, lanes, element = k.em, access.lanes, access.stored
    type_, pointers = f"<{lanes} x {element}>", access.pointers()
    keep = em.typed(mask) if mask is not None else f"<{lanes} x i1> splat (i1 true)"
    rest = em.text(other) if other is not None else "zeroinitializer"
    name = f"@llvm.masked.gather.v{lanes}{_suffix(element)}.v{lanes}p0"
    em.declare(name, f"declare {type_} {name}(<{lanes} x ptr>, <{lanes} x i1>, {type_})")
    size = BYTES[element]
    pointer_text = f"<{lanes} x ptr> align {size} {em.text(pointers)}"
    return em.op(element, lanes, f"call {type_} {name}({pointer_text}, {keep}, {type_} {rest})")


# ---------------------------------------------------------------- storing


def prepare_store(k: Kernel, op: mlir.Operation, at: Position, block: Block) -> Callable[[], None]:
    """Computes address, value and mask of a block; what is returned writes it."""
    pointer, value_operand = op.operands[0], op.operands[1]
    value = k.block(value_operand, at, block)
    mask = _mask(k, mask_of(op), at, block)
    access = Access(k, pointer, at, block)
    _guard(k, op, access, mask)
    value = k.to_stored(value)
    return lambda: _store(k, access, value, mask)


def _store(k: Kernel, access: Access, value: Val, mask: Val | None) -> None:
    em, lanes, size = k.em, access.lanes, BYTES[access.stored]
    if lanes == 1:
        if mask is None:
            em.line(f"store {em.typed(value)}, ptr {access.base}, align {size}")
        else:
            em.text(value)
            with em.conditional(mask):
                em.line(f"store {em.typed(value)}, ptr {access.base}, align {size}")
        return
    if mask is not None and mask.repeats is not None:  # all or none: a branch, for a masked store takes many cycles
        em.text(value)
        with em.conditional(mask.repeats):
            _store(k, access, value, None)
        return
    run = access.run
    if run > 1 and (run >= 4 or run == lanes):
        assert access.distances is not None
        for start in range(0, lanes, run):
            part_mask = em.slice(mask, start, run) if mask is not None else None
            _store_run(k, access.pointer(int(access.distances[start])), em.slice(value, start, run), part_mask)
        return
    type_, pointers = f"<{lanes} x {access.stored}>", access.pointers()
    keep = em.typed(mask) if mask is not None else f"<{lanes} x i1> splat (i1 true)"
    name = f"@llvm.masked.scatter.v{lanes}{_suffix(access.stored)}.v{lanes}p0"
    em.declare(name, f"declare void {name}({type_}, <{lanes} x ptr>, <{lanes} x i1>)")
    em.line(f"call void {name}({em.typed(value)}, <{lanes} x ptr> align {size} {em.text(pointers)}, {keep})")


def _store_run(k: Kernel, address: str, value: Val, mask: Val | None) -> None:
    em, size = k.em, BYTES[value.element]
    if mask is None and k.is_streaming:
        em.line(f"store {em.typed(value)}, ptr {address}, align {size * value.lanes}, !nontemporal !0")
        return
    if mask is None:
        em.line(f"store {em.typed(value)}, ptr {address}, align {size}")
        return
    if k.features.has("avx512f"):
        _masked_store(k, address, value, mask)
        return
    # AVX2's masked stores take a Zen 3 twelve cycles, and NEON has none; most blocks lie on one side of the edge.
    bits, stored = f"i{mask.lanes}", em.typed(value)
    inside = em.assign(f"bitcast {em.typed(mask)} to {bits}")

    def at_the_edge() -> None:
        with em.conditional(Val("i1", 1, em.assign(f"icmp ne {bits} {inside}, 0"))):
            _masked_store(k, address, value, mask)

    with em.conditional(Val("i1", 1, em.assign(f"icmp eq {bits} {inside}, -1")), otherwise=at_the_edge):
        em.line(f"store {stored}, ptr {address}, align {size}")


def _masked_store(k: Kernel, address: str, value: Val, mask: Val) -> None:
    em, size = k.em, BYTES[value.element]
    name = f"@llvm.masked.store.v{value.lanes}{_suffix(value.element)}.p0"
    em.declare(name, f"declare void {name}({value.type}, ptr, <{value.lanes} x i1>)")
    em.line(f"call void {name}({em.typed(value)}, ptr align {size} {address}, {em.typed(mask)})")


@statement("tt.store")
def store(k: Kernel, op: mlir.Operation) -> None:
    from unify.compiler.cpu.codegen import nest

    if not isinstance(op.operands[0].type, mlir.Tensor):
        nest.flush_all(k)
        with k.em.nest():
            prepare_store(k, op, (), ())()
        return
    shape = op.operands[0].type.shape
    nest.add(k, nest.Root(shape, list(op.operands), op=op))


@statement("tt.load")
def load_statement(k: Kernel, op: mlir.Operation) -> None:
    """A scalar load runs where it stands; a tensor's runs in the nest that needs it, unless the plan stores it."""
    from unify.compiler.cpu.codegen import nest

    nest.flush_stores(k)
    if isinstance(op.results[0].type, mlir.Tensor):
        if op.results[0] in k.plan.stored:
            nest.store_value(k, op.results[0])
        return
    nest.settle(k, op.operands)
    with k.em.nest():
        k.bindings[op.results[0]] = load(k, op, 0, (), ())
