"""TTIR to LLVM IR text: one function per operation, found by the operation's name.

The tables are filled by the modules imported here; a new operation is an entry in one of them.
"""

from __future__ import annotations

from dataclasses import dataclass

from unify.compiler import mlir, signature
from unify.compiler.cpu.codegen import (
    arith,
    atomic,
    bytedot,
    control,
    convert,
    debug,
    dot,
    gather,
    layout,
    libdevice,
    map,
    math,
    memory,
    nest,
    program,
    reduce,
    scan,
)
from unify.compiler.cpu.codegen.emitter import BYTES, Emitter, Val
from unify.compiler.cpu.codegen.values import (
    ELEMENTWISE,
    INLINE,
    STATEMENT,
    Kernel,
    Unsupported,
    compile_error,
    element_of,
    is_tensor,
)
from unify.compiler.cpu.processor import Features
from unify.compiler.cpu.tiling import Plan
from unify.compiler.effects import origins

__all__ = ["Generated", "generate", "run_operation"]
_MODULES = (
    arith,
    atomic,
    bytedot,
    control,
    convert,
    debug,
    dot,
    gather,
    layout,
    libdevice,
    map,
    math,
    memory,
    nest,
    program,
    reduce,
    scan,
)


@dataclass(frozen=True)
class Generated:
    """One kernel as LLVM IR, and how it wants to be called."""

    name: str
    text: str
    scratch_bytes: int
    parameters: tuple[tuple[str, str, int], ...]  # name, type, offset in the packed arguments
    args_bytes: int


def run_operation(k: Kernel, op: mlir.Operation) -> None:
    """Writes what has to happen where the operation stands; most tensors only exist where they are used."""
    try:
        _run(k, op)
    except Unsupported as problem:
        raise compile_error(op, problem.what, problem.advice) from None


def _run(k: Kernel, op: mlir.Operation) -> None:
    written = STATEMENT.get(op.name)
    if written is not None:
        written(k, op)
        return
    if op.name not in ELEMENTWISE and op.name not in INLINE:
        raise Unsupported(f"the operation {op.name} is not supported by the CPU target")
    for result in op.results:
        if is_tensor(result):
            if result in k.plan.stored:
                nest.store_value(k, result)
        else:
            nest.settle(k, op.operands)
            with k.em.nest():
                k.bindings[result] = k.block(result, (), ())


def generate(function: mlir.Operation, plan: Plan, features: Features, check_bounds: bool = False) -> Generated:
    name = function.string("sym_name")
    k = Kernel(Emitter(), features, plan)
    k.state["done"] = set()
    body = function.regions[0]
    k.origins = origins(function) if check_bounds else None
    parameters, args_bytes = _parameters(function, check_bounds)
    for i, argument in enumerate(body.entry.arguments):
        k.bindings[argument] = Val(element_of(argument.type), 1, f"%arg{i}")
        k.arguments[argument] = i
    control.run_blocks(k, body)
    text = _module(k, name, parameters)
    return Generated(name, text, (k.scratch_bytes + 63) // 64 * 64, parameters, args_bytes)


# ---------------------------------------------------------------- around the body


def _parameters(function: mlir.Operation, check_bounds: bool) -> tuple[tuple[tuple[str, str, int], ...], int]:
    """The kernel's own, and to check bounds, where the memory of each pointer begins and ends."""
    found, end = signature.packed(function)
    offset = (end + 7) // 8 * 8
    pointers = [name for name, type_, _ in found if type_[0] == "*"] if check_bounds else []
    for i, name in enumerate(pointers):
        found += [(name, "low", offset + 16 * i), (name, "high", offset + 16 * i + 8)]
    return tuple(found), offset + 16 * len(pointers)


def _module(k: Kernel, name: str, parameters: tuple[tuple[str, str, int], ...]) -> str:
    arguments = [(element_of(argument.type), f"%arg{i}") for argument, i in k.arguments.items()]
    pointers = [i for argument, i in k.arguments.items() if isinstance(argument.type, mlir.Pointer)]
    if k.origins is not None:
        arguments += [("i64", f"%{end}{i}") for i in pointers for end in ("low", "high")]
    formals = [f"{element} {argument}" for element, argument in arguments]
    formals += [f"i32 %pid{i}" for i in range(3)] + [f"i32 %grid{i}" for i in range(3)]
    formals += ["ptr noalias %scratch", "ptr %fault"]
    lines = [*k.em.globals, *k.em.declarations.values(), ""]
    lines += [
        f'define internal i32 @"{name}.program"({", ".join(formals)}) alwaysinline #0 {{',
        "entry:",
        *k.em.allocas,
    ]
    lines += [*k.em.scopes[0].lines, "}", ""]
    lines += _entry(name, arguments, parameters, k.closing)
    bits = k.features.vector_bytes * 8
    lines += [
        f'attributes #0 = {{ nounwind "target-cpu"="{k.features.cpu}" "target-features"="{k.features.text}"'
        f' "prefer-vector-width"="{bits}" "min-legal-vector-width"="{bits}" }}'
    ]
    lines += ["!0 = !{i32 1}"]  # of stores past the caches
    return "\n".join(lines) + "\n"


def _entry(
    name: str, arguments: list[tuple[str, str]], parameters: tuple[tuple[str, str, int], ...], last: str
) -> list[str]:
    """The loop over program numbers (host_kernel.h): x runs fastest. `last` stands behind it."""
    lines = [
        f'define i32 @"{name}"(ptr %call, i64 %begin, i64 %end) #0 {{',
        "entry:",
        "  %args = load ptr, ptr %call, align 8",
        "  %scratch.at = getelementptr i8, ptr %call, i64 24",
        "  %scratch = load ptr, ptr %scratch.at, align 8",
        "  %fault.at = getelementptr i8, ptr %call, i64 32",
        "  %fault = load ptr, ptr %fault.at, align 8",
    ]
    for i in range(3):
        lines.append(f"  %grid{i}.at = getelementptr i8, ptr %call, i64 {8 + 4 * i}")
        lines.append(f"  %grid{i} = load i32, ptr %grid{i}.at, align 4")
    for (element, argument), (_, _, offset) in zip(arguments, parameters, strict=True):
        lines.append(f"  {argument}.at = getelementptr i8, ptr %args, i64 {offset}")
        if element == "i1":
            lines.append(f"  {argument}.byte = load i8, ptr {argument}.at")
            lines.append(f"  {argument} = trunc i8 {argument}.byte to i1")
        else:
            lines.append(f"  {argument} = load {element}, ptr {argument}.at, align {BYTES[element]}")
    passed = [f"{element} {argument}" for element, argument in arguments]
    passed += ["i32 %x", "i32 %y", "i32 %z", *(f"i32 %grid{i}" for i in range(3)), "ptr %scratch", "ptr %fault"]
    lines += [
        "  %gx = zext i32 %grid0 to i64",
        "  %gy = zext i32 %grid1 to i64",
        "  %some = icmp ult i64 %begin, %end",
        "  br i1 %some, label %loop, label %out",
        "loop:",
        "  %id = phi i64 [ %begin, %entry ], [ %next, %more ]",
        "  %rest = udiv i64 %id, %gx",
        "  %x.wide = urem i64 %id, %gx",
        "  %z.wide = udiv i64 %rest, %gy",
        "  %y.wide = urem i64 %rest, %gy",
        "  %x = trunc i64 %x.wide to i32",
        "  %y = trunc i64 %y.wide to i32",
        "  %z = trunc i64 %z.wide to i32",
        f'  %status = call i32 @"{name}.program"({", ".join(passed)})',
        "  %failed = icmp ne i32 %status, 0",
        "  br i1 %failed, label %fail, label %more",
        "more:",
        "  %next = add i64 %id, 1",
        "  %again = icmp ult i64 %next, %end",
        "  br i1 %again, label %loop, label %out",
        "fail:",
        "  ret i32 %status",
        "out:",
        f"  {last}",
        "  ret i32 0",
        "}",
    ]
    return lines
