"""What a program says when it ends early: struct unify_host_fault (host_kernel.h)."""

from __future__ import annotations

from unify.compiler import mlir
from unify.compiler.cpu.codegen.values import Kernel


def string(k: Kernel, text: str) -> str:
    """The address of a constant, ended by a zero."""
    data = text.encode() + b"\0"
    body = "".join(chr(b) if 32 <= b < 127 and b not in (34, 92) else f"\\{b:02X}" for b in data)
    return k.em.constant_array(f"[{len(data)} x i8]", f'c"{body}"')


def report(k: Kernel, op: mlir.Operation, kind: int, message: str, argument: int = -1, offset: str = "0") -> None:
    """Fills the fault; the caller returns 1 afterwards."""
    fields = [(0, f"i32 {kind}"), (4, f"i32 {op.location.line}"), *((8 + 4 * i, f"i32 %pid{i}") for i in range(3))]
    fields += [(20, f"i32 {argument}"), (24, f"i64 {offset}")]
    fields += [(32, f"ptr {string(k, message)}"), (40, f"ptr {string(k, op.location.file)}")]
    for place, value in fields:
        address = k.em.assign(f"getelementptr i8, ptr %fault, i64 {place}")
        k.em.line(f"store {value}, ptr {address}")
