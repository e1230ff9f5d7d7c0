"""Lets unify's own CPU device run what the emulator makes of a kernel, so that whole operations can be compared."""

from __future__ import annotations

from dataclasses import replace

from unify.compiler import cpu
from unify.compiler.cpu import link
from unify.compiler.target import Binary, Options, Target, register_target
from unify.simulator import emulator
from unify.simulator.section import HostKernel

from .harness import linalg, tool

_LLVM = {"fp16": "half", "bf16": "bfloat", "fp32": "float", "fp64": "double", "i1": "i8"}


def compile_emulated(ttir: str, target: Target, options: Options) -> Binary:
    """The CPU target's binary with the emulator's code in it."""
    binary, stages = cpu.compile(ttir, target, options), dict[str, str]()
    kernel = emulator.build(linalg(ttir), tool("bishengir-opt"), stages=stages)
    parameters = [(parameter.type, parameter.offset) for parameter in binary.parameters]
    text = stages["source"] + _entry(kernel, parameters)
    image = link.link(text, link.features(""))
    return replace(binary, name=f"{kernel.name}.cpu", image=image, shared_bytes=kernel.scratch_bytes)


def register() -> None:
    register_target("cpu", compile_emulated)


def _entry(kernel: HostKernel, parameters: list[tuple[str, int]]) -> str:
    """A kernel of the CPU device: arguments are packed anew, and programs are numbered as the chip does it."""
    lines = [
        f'define i32 @"{kernel.name}.cpu"(ptr %call, i64 %begin, i64 %end) #0 {{',
        "entry:",
        f"  %block = alloca [{kernel.args_bytes} x i8], align 16",
        "  %own = alloca { ptr, [4 x i32], ptr, ptr }",
        f"  store [{kernel.args_bytes} x i8] zeroinitializer, ptr %block",
        "  %whole = load { ptr, [4 x i32], ptr, ptr }, ptr %call",
        "  store { ptr, [4 x i32], ptr, ptr } %whole, ptr %own",
        "  store ptr %block, ptr %own",
        "  %given = load ptr, ptr %call",
    ]
    for i, ((type_, source), (_, target)) in enumerate(zip(parameters, kernel.parameters, strict=True)):
        element = "ptr" if type_[0] == "*" else _LLVM.get(type_, type_.replace("u", "i"))
        lines += [
            f"  %from{i} = getelementptr i8, ptr %given, i64 {source}",
            f"  %value{i} = load {element}, ptr %from{i}, align 1",
            f"  %to{i} = getelementptr i8, ptr %block, i64 {target}",
        ]
        if element in ("half", "bfloat"):
            lines += [f"  %wide{i} = fpext {element} %value{i} to float", f"  store float %wide{i}, ptr %to{i}"]
        else:
            lines.append(f"  store {element} %value{i}, ptr %to{i}")
    for i in range(3):
        lines += [
            f"  %grid.from{i} = getelementptr i8, ptr %call, i64 {8 + 4 * i}",
            f"  %grid{i} = load i32, ptr %grid.from{i}",
            f"  %grid.to{i} = getelementptr i8, ptr %block, i64 {kernel.args_bytes - 12 + 4 * i}",
            f"  store i32 %grid{i}, ptr %grid.to{i}",
            f"  %n{i} = zext i32 %grid{i} to i64",
        ]
    lines += [
        "  br label %head",
        "head:",
        "  %id = phi i64 [ %begin, %entry ], [ %next, %body ]",
        "  %more = icmp ult i64 %id, %end",
        "  br i1 %more, label %body, label %out",
        "body:",
        "  %x = urem i64 %id, %n0",
        "  %rest = udiv i64 %id, %n0",
        "  %y = urem i64 %rest, %n1",
        "  %z = udiv i64 %rest, %n1",
        "  %xy = mul i64 %x, %n1",
        "  %row = add i64 %xy, %y",
        "  %rows = mul i64 %row, %n2",
        "  %first = add i64 %rows, %z",
        "  %last = add i64 %first, 1",
        f'  call i32 @"{kernel.name}"(ptr %own, i64 %first, i64 %last)',
        "  %next = add i64 %id, 1",
        "  br label %head",
        "out:",
        "  ret i32 0",
        "}",
    ]
    return "\n".join(lines) + "\n"
