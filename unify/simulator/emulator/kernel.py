"""The kernel's function around its program, as include/unify/host_kernel.h wants it, with Ascend's arguments."""

from __future__ import annotations

from dataclasses import dataclass

from unify._errors import CompileError
from unify.compiler import mlir
from unify.compiler.cpu.codegen.emitter import BYTES, Val
from unify.compiler.cpu.codegen.values import Unsupported, compile_error, element_of
from unify.compiler.cpu.processor import Features

from . import calls, control, loops, memory, views
from .buffers import SLACK, Buffer
from .program import Program

_MODULES = (calls, control, loops, views)  # they fill the table of statements
# triton-ascend 3.2.0, driver.py: ffts_addr, syncBlockLock, workspace, then the kernel's own arguments.
PREFIX, _LOCK, _WORKSPACE = 24, 8, 16
# At the end of the vendor's function: the grid and the program's place in it, x, y and z each.
_PLACES = 6
_NAMES = {"f16": "fp16", "bf16": "bf16", "f32": "fp32", "f64": "fp64"}


@dataclass(frozen=True)
class Generated:
    """A kernel as LLVM IR: its own parameters with their offsets, and where the grid stands in the arguments."""

    name: str
    text: str
    scratch_bytes: int
    parameters: tuple[tuple[str, int], ...]
    grid_offset: int


def generate(module: mlir.Module, features: Features, strict: bool) -> Generated:
    function = _kernel_of(module)
    try:
        plan = memory.plan(function, module.aliases)
    except Unsupported as problem:
        raise compile_error(function, f"the emulator cannot run this kernel: {problem.what}") from None
    p = Program(features, plan, module, strict)
    body = function.regions[0]
    if len(body.blocks) != 1:
        raise compile_error(function, "the emulator cannot run a kernel of several basic blocks")
    arguments = body.entry.arguments
    kinds = [_kind(function, a) for a in arguments]
    names = _names(len(arguments))
    for argument, name, (element, pointee) in zip(arguments, names, kinds):
        p.values[argument] = Buffer(name, pointee, (mlir.DYNAMIC,), (1,)) if pointee else Val(element, 1, name)
    p.run_block(body.entry)
    offsets, grid = _offsets([element for element, _ in kinds[2:-_PLACES]])
    name = function.string("sym_name")
    text = _module(p, name, [element for element, _ in kinds], offsets, grid)
    own = arguments[2:-_PLACES]
    parameters = tuple((_triton_name(a.type), offset) for a, offset in zip(own, offsets))
    return Generated(name, text, (plan.bytes + SLACK + 63) // 64 * 64, parameters, grid)


def _kernel_of(module: mlir.Module) -> mlir.Operation:
    found = [
        op
        for op in module.operation.regions[0].entry.operations
        if op.name == "func.func" and "WorkspaceArgIdx" in op.attributes
    ]
    if len(found) != 1:
        raise CompileError(f"emulator: expected one kernel in the vendor's module, found {len(found)}.")
    (function,) = found
    if (function.integer("SyncBlockLockArgIdx"), function.integer("WorkspaceArgIdx")) != (0, 1):
        raise CompileError("emulator: the vendor's kernel takes its lock and workspace elsewhere than at 0 and 1.")
    return function


def _kind(function: mlir.Operation, argument: mlir.Value) -> tuple[str, str]:
    """A parameter's LLVM type, and what it points to."""
    type_ = argument.type
    try:
        if isinstance(type_, mlir.Buffer):
            if len(type_.shape) != 1 or type_.strides is not None:
                raise Unsupported(f"a parameter of type {type_}")
            return "ptr", element_of(type_.element)
        return element_of(type_), ""
    except Unsupported as problem:
        raise compile_error(function, f"the emulator cannot pass {problem.what}") from None


def _names(count: int) -> list[str]:
    """The last three as the CPU compiler calls them."""
    return [*(f"%arg{i}" for i in range(count - 3)), "%pid0", "%pid1", "%pid2"]


def _triton_name(type_: mlir.Type) -> str:
    if isinstance(type_, mlir.Buffer):
        return "*" + _triton_name(type_.element)
    return _NAMES.get(str(type_), str(type_))


def _offsets(elements: list[str]) -> tuple[list[int], int]:
    """Pointers and 64-bit numbers at multiples of 8; all else takes 4 bytes, small floats as float."""
    offsets, end = [], PREFIX
    for element in elements:
        size = 8 if BYTES[element] == 8 else 4
        end = (end + size - 1) // size * size
        offsets.append(end)
        end += size
    return offsets, end


def _module(p: Program, name: str, elements: list[str], offsets: list[int], grid: int) -> str:
    formals = [f"{element} {formal}" for element, formal in zip(elements, _names(len(elements)))]
    lines = [*p.em.globals, *p.em.declarations.values(), ""]
    lines += [
        f'define internal i32 @"{name}.program"({", ".join(formals)}, ptr noalias %scratch, ptr %fault)'
        " alwaysinline #0 {",
        "entry:",
        *p.em.allocas,
        *p.em.scopes[0].lines,
        "  ret i32 0",
        "}",
        "",
    ]
    lines += _entry(name, elements, [_LOCK, _WORKSPACE, *offsets], grid)
    bits = p.features.vector_bytes * 8
    lines += [
        f'attributes #0 = {{ nounwind "target-cpu"="{p.features.cpu}" "target-features"="{p.features.text}"'
        f' "prefer-vector-width"="{bits}" "min-legal-vector-width"="{bits}" }}'
    ]
    return "\n".join(lines) + "\n"


def _entry(name: str, elements: list[str], offsets: list[int], grid: int) -> list[str]:
    """The loop over program numbers. Block b is program (b / (gy · gz) % gx, b / gz % gy, b % gz): z runs fastest, as
    the vendor's own lowering computes it."""
    lines = [
        f'define i32 @"{name}"(ptr %call, i64 %begin, i64 %end) #0 {{',
        "entry:",
        "  %args = load ptr, ptr %call, align 8",
        "  %scratch.at = getelementptr i8, ptr %call, i64 24",
        "  %scratch = load ptr, ptr %scratch.at, align 8",
        "  %fault.at = getelementptr i8, ptr %call, i64 32",
        "  %fault = load ptr, ptr %fault.at, align 8",
    ]
    for i, (element, offset) in enumerate(zip(elements, offsets)):
        lines.append(f"  %arg{i}.at = getelementptr i8, ptr %args, i64 {offset}")
        stored = {"i1": "i8", "half": "float", "bfloat": "float"}.get(element, element)
        lines.append(f"  %arg{i}.in = load {stored}, ptr %arg{i}.at, align {BYTES[stored]}")
        how = {"i1": "trunc", "half": "fptrunc", "bfloat": "fptrunc"}.get(element, "bitcast")
        lines.append(f"  %arg{i} = {how} {stored} %arg{i}.in to {element}")
    for i, axis in enumerate("xyz"):
        lines.append(f"  %g{axis}.at = getelementptr i8, ptr %args, i64 {grid + 4 * i}")
        lines.append(f"  %g{axis} = load i32, ptr %g{axis}.at, align 4")
        lines.append(f"  %n{axis} = zext i32 %g{axis} to i64")
    passed = [f"{element} %arg{i}" for i, element in enumerate(elements[:-_PLACES])]
    passed += ["i32 %gx", "i32 %gy", "i32 %gz", "i32 %x", "i32 %y", "i32 %z", "ptr %scratch", "ptr %fault"]
    return [
        *lines,
        "  %some = icmp ult i64 %begin, %end",
        "  br i1 %some, label %loop, label %out",
        "loop:",
        "  %id = phi i64 [ %begin, %entry ], [ %next, %following ]",
        "  %z.wide = urem i64 %id, %nz",
        "  %rest = udiv i64 %id, %nz",
        "  %y.wide = urem i64 %rest, %ny",
        "  %more = udiv i64 %rest, %ny",
        "  %x.wide = urem i64 %more, %nx",
        *(f"  %{axis} = trunc i64 %{axis}.wide to i32" for axis in "xyz"),
        f'  %status = call i32 @"{name}.program"({", ".join(passed)})',
        "  %is.well = icmp eq i32 %status, 0",
        "  br i1 %is.well, label %following, label %out",
        "following:",
        "  %next = add i64 %id, 1",
        "  %again = icmp ult i64 %next, %end",
        "  br i1 %again, label %loop, label %out",
        "out:",
        "  %result = phi i32 [ 0, %entry ], [ %status, %loop ], [ 0, %following ]",
        "  ret i32 %result",
        "}",
    ]
