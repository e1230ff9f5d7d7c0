"""Structured and unstructured control flow. Carried scalars live in stack slots (LLVM makes registers of them), carried
tensors in tiles of the arena."""

from __future__ import annotations

from collections.abc import Sequence

from unify.compiler import mlir
from unify.compiler.cpu.codegen import nest
from unify.compiler.cpu.codegen.emitter import Val
from unify.compiler.cpu.codegen.values import Advance, Kernel, Slot, Tile, element_of, is_tensor, statement


class Carrier:
    """The places through which a set of values is handed over at a join of control flow."""

    def __init__(self, k: Kernel, values: Sequence[mlir.Value]) -> None:
        self.k, self.values = k, list(values)
        self.places: list[Slot | Tile] = [k.allocate_for(v) if is_tensor(v) else Slot(k, v.type) for v in values]

    def give(self, sources: Sequence[mlir.Value | None]) -> None:
        """Hands over: all sources are computed before any place changes that another one still reads."""
        k = self.k
        tensors = [(s, p) for s, p in zip(sources, self.places) if s is not None and isinstance(p, Tile)]
        scalars = []
        for source, place in zip(sources, self.places):
            if source is not None and not isinstance(place, Tile):
                nest.settle(k, [source])
                scalars.append((place, k.scalar(source)))
        nest.flush_all(k)
        targets = {id(p) for _, p in tensors}
        copies: list[tuple[Tile, Tile]] = []
        together: dict[tuple[int, ...], list[tuple[mlir.Value, Tile]]] = {}
        # What reads another place is computed in one nest with it if each position needs itself only, else first.
        for source, place in tensors:
            if k.bindings.get(source) is place:
                continue
            read = [(t, pointwise) for t, pointwise in _tiles_read(k, source) if id(t) in targets]
            if all(pointwise and t.shape == place.shape for t, pointwise in read):
                together.setdefault(place.shape, []).append((source, place))
            else:
                copy = k.allocate(place.shape, place.element, fastest=place.fastest)
                nest.fill(k, source, copy)
                copies.append((copy, place))
        nest.flush_all(k)
        for pairs in together.values():
            nest.fill_together(k, pairs)
        for copy, place in copies:
            copy_tile(k, copy, place)
        for place, value in scalars:
            place.put(k, value)

    def take(self, targets: Sequence[mlir.Value]) -> None:
        """Binds values to what was handed over."""
        for value, place in zip(targets, self.places):
            self.k.bindings[value] = place if isinstance(place, Tile) else place.get(self.k)


def _tiles_read(k: Kernel, value: mlir.Value) -> list[tuple[Tile, bool]]:
    return [(bound, same) for v, same in nest.sources(k, [value]) if isinstance(bound := k.bindings.get(v), Tile)]


def copy_tile(k: Kernel, source: Tile, target: Tile) -> None:
    k.em.declare("@llvm.memcpy.p0.p0.i64", "declare void @llvm.memcpy.p0.p0.i64(ptr, ptr, i64, i1)")
    a, b = k.tile_address(target), k.tile_address(source)
    k.em.line(f"call void @llvm.memcpy.p0.p0.i64(ptr align 64 {a}, ptr align 64 {b}, i64 {source.bytes}, i1 false)")


class _Arena:
    """Tiles allocated inside are free again afterwards."""

    def __init__(self, k: Kernel) -> None:
        self.k = k

    def __enter__(self) -> None:
        self.top, self.packed = self.k.scratch_top, dict(self.k.packed)

    def __exit__(self, *_: object) -> None:
        self.k.scratch_top, self.k.packed = self.top, self.packed


# ---------------------------------------------------------------- scf.for


@statement("scf.for")
def for_(k: Kernel, op: mlir.Operation) -> None:
    em = k.em
    lower, upper, step, *starts = op.operands
    body = op.regions[0].entry
    nest.settle(k, [lower, upper, step])
    nest.flush_all(k)
    _hoist_packing(k, op)
    low, high, by = (em.text(k.scalar(v)) for v in (lower, upper, step))
    element = element_of(lower.type)
    steps = k.plan.steps
    kept = [i for i, argument in enumerate(body.arguments[1:]) if argument not in steps]
    carrier = Carrier(k, [op.results[i] for i in kept])
    carrier.give([starts[i] for i in kept])
    counter, rounds = Slot(k, lower.type), Slot(k, mlir.Scalar("i32"))
    counter.put(k, Val(element, 1, low))
    round_ = k.plan.rounds.get(op)
    if round_ is not None:
        rounds.put(k, Val("i32", 1, "0"))
    head, inside, after = em.label("for"), em.label("do"), em.label("done")
    em.branch(head)
    em.start(head)
    current = counter.get(k)
    signed = "u" if op.boolean("unsignedCmp") else "s"
    em.line(f"br i1 {em.assign(f'icmp {signed}lt {element} {current.text}, {high}')}, label %{inside}, label %{after}")
    em.start(inside)
    k.bindings[body.arguments[0]] = current
    if round_ is not None:
        k.bindings[round_] = rounds.get(k)
    for argument in body.arguments[1:]:
        if argument in steps:
            known = steps[argument]
            k.bindings[argument] = Advance(known.start, known.step, known.round)
    carrier.take([body.arguments[1 + i] for i in kept])
    with _Arena(k):
        run_block(k, body, last=False)
        carrier.give([body.operations[-1].operands[i] for i in kept])
    counter.put(k, Val(element, 1, em.assign(f"add {element} {current.text}, {by}")))
    if round_ is not None:
        rounds.put(k, Val("i32", 1, em.assign(f"add i32 {em.text(k.scalar(round_))}, 1")))
    em.branch(head)
    em.start(after)
    carrier.take([op.results[i] for i in kept])
    _finish_advances(k, op, body, rounds)


def _finish_advances(k: Kernel, op: mlir.Operation, body: mlir.Block, rounds: Slot) -> None:
    """What an advancing tensor is after the loop."""
    round_ = k.plan.rounds.get(op)
    if round_ is None:
        return
    final = mlir.Value("rounds", mlir.Scalar("i32"))
    k.bindings[final] = rounds.get(k)
    for argument, result in zip(body.arguments[1:], op.results):
        known = k.plan.steps.get(argument)
        if known is not None:
            k.bindings[result] = Advance(known.start, known.step, final)
            k.plan.axes.steps[result] = type(known)(known.start, known.step, final)


def _hoist_packing(k: Kernel, loop: mlir.Operation) -> None:
    """Operands of a dot inside the loop that do not change there are brought into the dot's layout once."""
    from unify.compiler.cpu.codegen import dot

    for inner in mlir.walk(loop):
        if inner.name == "tt.dot":
            for side, operand in enumerate(inner.operands[:2]):
                if _is_ready(k, operand):
                    dot.pack(k, inner, side)


def _is_ready(k: Kernel, value: mlir.Value) -> bool:
    """Everything that the value is computed from is known already, in front of the loop."""
    return value in k.bindings or nest.is_pending(k, value) or value.owner in k.state["done"]


# ---------------------------------------------------------------- scf.if, scf.while


@statement("scf.if")
def if_(k: Kernel, op: mlir.Operation) -> None:
    em = k.em
    nest.settle(k, op.operands)
    nest.flush_all(k)
    condition = em.text(k.scalar(op.operands[0]))
    carrier = Carrier(k, op.results)
    labels = [em.label("if"), em.label("else")]
    after = em.label("fi")
    has_else = len(op.regions) > 1 and bool(op.regions[1].entry.operations)
    em.line(f"br i1 {condition}, label %{labels[0]}, label %{labels[1] if has_else else after}")
    for region, label in zip(op.regions, labels):
        if not region.entry.operations:
            continue
        em.start(label)
        with _Arena(k):
            run_block(k, region.entry, last=False)
            carrier.give(region.entry.operations[-1].operands)
        em.branch(after)
    em.start(after)
    carrier.take(op.results)


@statement("scf.while")
def while_(k: Kernel, op: mlir.Operation) -> None:
    em = k.em
    nest.flush_all(k)
    before, after = op.regions[0].entry, op.regions[1].entry
    entering, leaving = Carrier(k, before.arguments), Carrier(k, op.results)
    entering.give(op.operands)
    head, inside, done = em.label("while"), em.label("do"), em.label("done")
    em.branch(head)
    em.start(head)
    entering.take(before.arguments)
    with _Arena(k):
        run_block(k, before, last=False)
        condition = before.operations[-1]
        nest.settle(k, condition.operands[:1])
        leaving.give(condition.operands[1:])
        em.line(f"br i1 {em.text(k.scalar(condition.operands[0]))}, label %{inside}, label %{done}")
    em.start(inside)
    leaving.take(after.arguments)
    with _Arena(k):
        run_block(k, after, last=False)
        entering.give(after.operations[-1].operands)
    em.branch(head)
    em.start(done)
    leaving.take(op.results)


# ---------------------------------------------------------------- branches between blocks


def _block_carrier(k: Kernel, block: mlir.Block) -> tuple[str, Carrier]:
    key = ("block", block)
    if key not in k.state:
        k.state[key] = (k.em.label("bb"), Carrier(k, block.arguments))
    found: tuple[str, Carrier] = k.state[key]
    return found


def enter_block(k: Kernel, block: mlir.Block) -> None:
    label, carrier = _block_carrier(k, block)
    k.em.start(label)
    carrier.take(block.arguments)


@statement("cf.br")
def branch(k: Kernel, op: mlir.Operation) -> None:
    label, carrier = _block_carrier(k, op.successors[0])
    carrier.give(op.operands)
    k.em.branch(label)


@statement("cf.cond_br")
def conditional_branch(k: Kernel, op: mlir.Operation) -> None:
    em = k.em
    nest.settle(k, op.operands[:1])
    nest.flush_all(k)
    sizes = op.integers("operandSegmentSizes") or (1, 0, 0)
    condition = em.text(k.scalar(op.operands[0]))
    given = [op.operands[1 : 1 + sizes[1]], op.operands[1 + sizes[1] :]]
    ways = [em.label("way"), em.label("way")]
    em.line(f"br i1 {condition}, label %{ways[0]}, label %{ways[1]}")
    for way, target, operands in zip(ways, op.successors, given):
        em.start(way)
        label, carrier = _block_carrier(k, target)
        carrier.give(operands)
        em.branch(label)


@statement("tt.return")
def return_(k: Kernel, op: mlir.Operation) -> None:
    calls = k.state.get("calls")
    if calls:
        carrier, after = calls[-1]
        carrier.give(op.operands)
        k.em.branch(after)
        return
    nest.flush_all(k)
    k.em.line("ret i32 0")


@statement("tt.call")
def call(k: Kernel, op: mlir.Operation) -> None:
    """The callee's body stands here (calls.py); its returns lead to the end."""
    body = op.regions[0]
    carrier, arguments, after = Carrier(k, op.results), Carrier(k, body.entry.arguments), k.em.label("called")
    arguments.give(op.operands)
    arguments.take(body.entry.arguments)
    k.state.setdefault("calls", []).append((carrier, after))
    run_blocks(k, body)
    k.state["calls"].pop()
    k.em.start(after)
    carrier.take(op.results)


# ---------------------------------------------------------------- walking a block


def run_blocks(k: Kernel, region: mlir.Region) -> None:
    """Writes all blocks of a region; its entry's arguments are bound already."""
    for i, block in enumerate(region.blocks):
        if i:
            enter_block(k, block)
        run_block(k, block)


def run_block(k: Kernel, block: mlir.Block, last: bool = True) -> None:
    """Writes the operations of a block; its terminator too if `last`, else whoever owns the region handles it."""
    from unify.compiler.cpu.codegen import run_operation

    for op in block.operations if last else block.operations[:-1]:
        run_operation(k, op)
        k.state["done"].add(op)
