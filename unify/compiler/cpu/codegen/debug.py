"""tt.assert: a failed assertion ends the program and says where."""

from __future__ import annotations

from unify.compiler import mlir
from unify.compiler.cpu.codegen import nest
from unify.compiler.cpu.codegen.emitter import Index, Val
from unify.compiler.cpu.codegen.values import Kernel, is_tensor, shape_of, statement


def _string(k: Kernel, text: str) -> str:
    data = text.encode() + b"\0"
    body = "".join(chr(b) if 32 <= b < 127 and b not in (34, 92) else f"\\{b:02X}" for b in data)
    return k.em.constant_array(f"[{len(data)} x i8]", f'c"{body}"')


@statement("tt.assert")
def assert_(k: Kernel, op: mlir.Operation) -> None:
    em, condition = k.em, op.operands[0]
    nest.flush_all(k)
    if k.plan.bounds.is_always_true(condition):
        return
    with em.nest():
        if not is_tensor(condition):
            holds = k.scalar(condition)
        else:
            slot = em.name("holds")
            em.allocas.append(f"  {slot} = alloca i1")
            em.line(f"store i1 true, ptr {slot}")
            shape = shape_of(condition)

            def body(at: list[Index]) -> None:
                value = k.block(condition, tuple(at), (1,) * len(shape))
                before = em.assign(f"load i1, ptr {slot}")
                em.line(f"store i1 {em.assign(f'and i1 {before}, {em.text(value)}')}, ptr {slot}")

            nest.for_each(k, [(extent, 1) for extent in shape], body, unrolled=1)
            holds = Val("i1", 1, em.assign(f"load i1, ptr {slot}"))
    good, bad = em.label("holds"), em.label("fails")
    em.line(f"br i1 {em.text(holds)}, label %{good}, label %{bad}")
    em.start(bad)
    _report(k, op)
    em.line("ret i32 1")
    em.start(good)


def _report(k: Kernel, op: mlir.Operation) -> None:
    """Fills struct unify_host_fault (host_kernel.h)."""
    fields = [(0, "i32 1"), (4, f"i32 {op.location.line}"), *((8 + 4 * i, f"i32 %pid{i}") for i in range(3))]
    fields += [(20, "i32 -1"), (24, "i64 0")]
    fields += [(32, f"ptr {_string(k, op.string('message'))}"), (40, f"ptr {_string(k, op.location.file)}")]
    for offset, value in fields:
        address = k.em.assign(f"getelementptr i8, ptr %fault, i64 {offset}")
        k.em.line(f"store {value}, ptr {address}")
