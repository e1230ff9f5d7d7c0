"""One program of a kernel while its code is written: what each value is, loops, and single operations."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from unify.compiler import mlir
from unify.compiler.cpu.codegen import float8
from unify.compiler.cpu.codegen.arith import constant_of, literal
from unify.compiler.cpu.codegen.emitter import Emitter, LoopBody, Scope, Val
from unify.compiler.cpu.codegen.values import ELEMENTWISE, Kernel, Unsupported, compile_error
from unify.compiler.cpu.processor import Features

from .buffers import SLACK, Buffer, Size
from .memory import Plan, Root

Statement = Callable[["Program", mlir.Operation], None]
# Operation name → how it is written where it stands.
STATEMENT: dict[str, Statement] = {}
# A temporary of so many bytes is a variable, which LLVM can keep in registers.
_VARIABLE = 64
_NAME = re.compile(r"%[\w.]+")
_FLOAT_ARITHMETIC = frozenset(
    f"arith.{name}f"
    for name in ("add", "sub", "mul", "div", "rem", "neg", "cmp", "maximum", "minimum", "maxnum", "minnum")
)


def statement(*names: str) -> Callable[[Statement], Statement]:
    """Registers the function that writes these operations."""

    def register(rule: Statement) -> Statement:
        STATEMENT.update(dict.fromkeys(names, rule))
        return rule

    return register


class Writer(Emitter):
    """As the CPU compiler's, except: functions without effects are moved out of loops as well, and what that compiler
    may fuse into one rounding stays two, unless `may_contract`."""

    may_contract = False

    def is_pure(self, text: str) -> bool:
        return super().is_pure(text) or (text.startswith("call ") and "@printf" not in text)

    def assign(self, text: str) -> str:
        if not self.may_contract and text.startswith(("fadd contract", "fsub contract", "fmul contract")):
            text = text.replace("contract ", "", 1)
        return super().assign(text)

    def start(self, label: str) -> None:
        super().start(label)
        self.scopes[-1].memo.clear()

    def depth_of_names(self, text: Size) -> int:
        """The innermost loop that an expression is computed in."""
        names = _NAME.findall(text) if isinstance(text, str) else []
        return max((self._depths.get(name, 0) for name in names), default=0)


class _Bounds:
    """What the CPU compiler's code generator asks about ranges of values."""

    def of(self, value: mlir.Value) -> tuple[int, int]:
        owner = value.owner
        if isinstance(owner, mlir.Operation) and owner.name == "arith.constant" and str(value.type) != "i1":
            number = owner.integer("value")
            return number, number
        return -(2**63), 2**63 - 1

    def is_non_negative(self, value: mlir.Value) -> bool:
        return self.of(value)[0] >= 0

    def is_always_true(self, value: mlir.Value) -> bool:
        return False


class _NoPlan:
    bounds = _Bounds()


class Program(Kernel):
    """Everything known while the kernel is written."""

    def __init__(self, features: Features, plan: Plan, module: mlir.Module, strict: bool) -> None:
        self.writer = Writer()
        stand_in: Any = _NoPlan()
        super().__init__(self.writer, features, stand_in)
        self.values: dict[mlir.Value, Val | Buffer] = {}
        self.strict = strict
        self.memory = plan
        self.aliases = module.aliases
        top = module.operation.regions[0].entry.operations
        self.globals = {op.string("sym_name"): op for op in top if op.name == "memref.global"}
        self.functions = {op.string("sym_name"): op for op in top if op.name == "func.func"}
        self.exact: set[mlir.Operation] = set()  # products that lose nothing, and the sums that they go into
        self.lanes = features.vector_bytes // 4
        self._places: dict[int, str] = {}

    # ------------------------------------------------ values

    def value(self, value: mlir.Value) -> Val:
        bound = self.values[value]
        assert isinstance(bound, Val)
        return bound

    def buffer(self, value: mlir.Value) -> Buffer:
        bound = self.values[value]
        assert isinstance(bound, Buffer)
        return bound

    def size(self, value: mlir.Value) -> Size:
        """An index, as a number if it is one."""
        text = self.em.text(self.value(value))
        return text if text.startswith("%") else int(text)

    def alias(self, attribute: mlir.Attribute) -> str:
        """The text of an attribute that the module may have named in front of it."""
        text = attribute.text if isinstance(attribute, mlir.Raw) else str(attribute)
        return self.aliases.get(text, text)

    def literal(self, number: float, element: str) -> Val:
        return Val(element, 1, literal(number, element))

    def place(self, root: Root) -> str:
        """The address of a temporary."""
        found = self.memory.places[root]
        if id(found) not in self._places:
            name = self.em.name("place")
            if found.bytes <= _VARIABLE:
                self.em.allocas.append(f"  {name} = alloca [{found.bytes + SLACK} x i8], align 64")
            else:
                self.em.allocas.append(f"  {name} = getelementptr i8, ptr %scratch, i64 {found.offset}")
            self._places[id(found)] = name
        return self._places[id(found)]

    # ------------------------------------------------ loops

    @contextmanager
    def loop(self, stop: Size, step: int = 1, start: Size = 0) -> Iterator[Size]:
        """for counter in range(start, stop, step), where step divides the distance."""
        with self.carrying(stop, (), step, start) as body:
            yield body.counter

    @contextmanager
    def carrying(self, stop: Size, starts: Sequence[Val], step: int = 1, start: Size = 0) -> Iterator[LoopBody]:
        """As `loop`, with values that go from one round to the next: body.carried, body.next, and body.results."""
        if isinstance(stop, int) and start == 0 and stop > 0:
            with self.em.loop(stop, step, starts) as body:
                yield body
            return
        with self._guarded(stop, starts, step, start) as body:
            yield body

    @contextmanager
    def _guarded(self, stop: Size, starts: Sequence[Val], step: int, start: Size) -> Iterator[LoopBody]:
        """A loop that may not run at all; nothing is moved out of it."""
        em, parent = self.writer, self.em.scopes[-1]
        head, inside, after = em.label("head"), em.label("inside"), em.label("after")
        counter, following = em.name("i"), em.name("n")
        body = LoopBody(counter, [Val(v.element, v.lanes, em.name("phi")) for v in starts])
        first = [em.text(v) for v in starts]
        em.branch(head)
        before = parent.label
        scope = Scope([], inside, counter)
        em.scopes.append(scope)
        floor, em.floor = em.floor, len(em.scopes) - 1
        em.enter([counter, *(v.text or "" for v in body.carried)])
        yield body
        last = [em.text(v) for v in body.next]
        em.floor = floor
        em.scopes.pop()
        lines = [f"{head}:", f"  {counter} = phi i64 [ {start}, %{before} ], [ {following}, %{scope.label} ]"]
        lines += (
            f"  {phi.text} = phi {phi.type} [ {one}, %{before} ], [ {other}, %{scope.label} ]"
            for phi, one, other in zip(body.carried, first, last)
        )
        lines += [f"  {counter}.c = icmp slt i64 {counter}, {stop}"]
        lines += [f"  br i1 {counter}.c, label %{inside}, label %{after}", f"{inside}:", *scope.lines]
        lines += [f"  {following} = add nsw i64 {counter}, {step}", f"  br label %{head}", f"{after}:"]
        parent.lines += lines
        parent.label = after
        body.results = body.carried

    # ------------------------------------------------ operations

    def run(self, op: mlir.Operation) -> None:
        """Writes one operation: on registers, or on what all lanes have in common."""
        try:
            self._run(op)
        except Unsupported as problem:
            raise compile_error(op, f"the emulator cannot run {op.name}: {problem.what}", problem.advice) from None

    def _run(self, op: mlir.Operation) -> None:
        if any(len(region.blocks) > 1 for region in op.regions):
            raise Unsupported("several basic blocks in it")
        rule = STATEMENT.get(op.name)
        if rule is not None:
            rule(self, op)
            return
        self.compute(op)

    def compute(self, op: mlir.Operation) -> None:
        """Writes an operation that the CPU compiler has code for, element by element."""
        elementwise = ELEMENTWISE.get(op.name)
        if elementwise is None:
            raise Unsupported("no code is known for this operation")
        if op.name in _FLOAT_ARITHMETIC and any(float8.format_of(v.type) for v in op.operands):
            raise Unsupported("arithmetic with float8, whose rounding on the chip is nowhere told", "use float16")
        operands = [self.value(v) for v in op.operands]
        wide = max((v.lanes for v in operands), default=1)
        self.writer.may_contract = not self.strict or op in self.exact
        result = elementwise(self, op, [self.em.splat(v, wide) for v in operands])
        self.writer.may_contract = not self.strict
        if result.lanes > 1 and result.repeats is not None:
            result = result.repeats
        self.values[op.results[0]] = result

    def run_block(self, block: mlir.Block) -> None:
        """Writes a block without its terminator."""
        for op in block.operations[:-1]:
            self.run(op)


@statement("arith.constant")
def constant(p: Program, op: mlir.Operation) -> None:
    values, element = constant_of(op)
    if len(values) != 1:
        raise Unsupported("a table of constants that is no buffer")
    p.values[op.results[0]] = p.literal(values[0], element)


@statement("arith.mulsi_extended", "arith.mului_extended")
def full_product(p: Program, op: mlir.Operation) -> None:
    """The low and the high half of a product."""
    em, extend = p.em, "sext" if "si" in op.name else "zext"
    a, b = (p.value(v) for v in op.operands)
    lanes = max(a.lanes, b.lanes)
    bits = int(a.element[1:])
    wide, narrow = _vector(f"i{2 * bits}", lanes), _vector(a.element, lanes)
    left, right = (em.assign(f"{extend} {em.typed(em.splat(v, lanes))} to {wide}") for v in (a, b))
    product = em.assign(f"mul {wide} {left}, {right}")
    by = em.text(em.splat(Val(f"i{2 * bits}", 1, str(bits)), lanes))
    high = em.assign(f"lshr {wide} {product}, {by}")
    for result, text in zip(op.results, (product, high)):
        p.values[result] = em.op(a.element, lanes, f"trunc {wide} {text} to {narrow}")


@statement("arith.addui_extended")
def sum_and_carry(p: Program, op: mlir.Operation) -> None:
    em = p.em
    a, b = (p.value(v) for v in op.operands)
    lanes = max(a.lanes, b.lanes)
    total = em.op(a.element, lanes, f"add {em.typed(em.splat(a, lanes))}, {em.text(em.splat(b, lanes))}")
    carry = em.op("i1", lanes, f"icmp ult {em.typed(total)}, {em.text(em.splat(a, lanes))}")
    p.values[op.results[0]], p.values[op.results[1]] = total, carry


@statement("arith.floordivsi", "arith.ceildivsi", "arith.ceildivui")
def rounding_division(p: Program, op: mlir.Operation) -> None:
    """x // y, or the least whole number that is not less than x / y, of scalars."""
    em = p.em
    a, b = (p.value(v) for v in op.operands)
    if max(a.lanes, b.lanes) > 1:
        raise Unsupported("this rounding, on vectors")
    element, signed = a.element, "s" if "si" in op.name else "u"
    quotient = em.assign(f"{signed}div {em.typed(a)}, {em.text(b)}")
    rest = em.assign(f"{signed}rem {em.typed(a)}, {em.text(b)}")
    inexact = em.assign(f"icmp ne {element} {rest}, 0")
    if signed == "s":
        differ = em.assign(f"xor {em.typed(a)}, {em.text(b)}")
        is_negative = em.assign(f"icmp slt {element} {differ}, 0")
        wanted = is_negative if "floor" in op.name else em.assign(f"xor i1 {is_negative}, true")
        inexact = em.assign(f"and i1 {inexact}, {wanted}")
    step = em.assign(f"zext i1 {inexact} to {element}")
    how = "sub" if "floor" in op.name else "add"
    p.values[op.results[0]] = em.op(element, 1, f"{how} {element} {quotient}, {step}")


@statement("affine.apply")
def apply(p: Program, op: mlir.Operation) -> None:
    from . import buffers

    _, (result,) = buffers.affine_map(p.alias(op.attributes["map"]))
    total: Size = result.constant
    for number, factor in result.terms.items():
        total = buffers.add(p, total, buffers.multiply(p, p.size(op.operands[number]), factor))
    p.values[op.results[0]] = Val("i64", 1, str(total))


def _vector(element: str, lanes: int) -> str:
    return element if lanes == 1 else f"<{lanes} x {element}>"
