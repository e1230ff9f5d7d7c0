"""acc + Σ a·b over the narrow numbers of each 32-bit lane, where the processor has an instruction for that."""

from __future__ import annotations

from dataclasses import dataclass

from unify.compiler.cpu.codegen.emitter import BYTES, Val
from unify.compiler.cpu.codegen.values import Kernel


@dataclass(frozen=True)
class _Instruction:
    """LLVM's name for it, of a register of `bits`; `lanes` is what it is used for, in several registers if need be."""

    feature: str
    name: str
    lanes: tuple[int, ...] = (4, 8, 16)
    register: int = 16
    accumulates: bool = True  # else the sum of products is added by an instruction of its own


# By the element types of a and b; u8 are bytes taken as unsigned.
_INSTRUCTIONS = {
    ("bfloat", "bfloat"): (
        _Instruction("avx512bf16", "@llvm.x86.avx512bf16.dpbf16ps.{bits}"),
        _Instruction("bf16", "@llvm.aarch64.neon.bfdot.v4f32.v8bf16", register=4),
    ),
    ("i16", "i16"): (
        _Instruction("avx512vnni", "@llvm.x86.avx512.vpdpwssd.{bits}"),
        _Instruction("avx512bw", "@llvm.x86.avx512.pmaddw.d.512", lanes=(16,), accumulates=False),
        _Instruction("avx2", "@llvm.x86.avx2.pmadd.wd", lanes=(8, 16), register=8, accumulates=False),
        _Instruction("avx2", "@llvm.x86.sse2.pmadd.wd", lanes=(4,), accumulates=False),
    ),
    ("u8", "i8"): (
        _Instruction("avx512vnni", "@llvm.x86.avx512.vpdpbusd.{bits}"),
        _Instruction("avxvnni", "@llvm.x86.avx512.vpdpbusd.{bits}", lanes=(4, 8)),
        _Instruction("i8mm", "@llvm.aarch64.neon.usdot.v4i32.v16i8", register=4),
    ),
    ("u8", "u8"): (_Instruction("dotprod", "@llvm.aarch64.neon.udot.v4i32.v16i8", register=4),),
    ("i8", "i8"): (_Instruction("dotprod", "@llvm.aarch64.neon.sdot.v4i32.v16i8", register=4),),
}


def has(k: Kernel, a: str, b: str, lanes: int = 4) -> bool:
    """Whether `add` can be used."""
    return _find(k, a, b, lanes) is not None


def in_one(k: Kernel, a: str, b: str, lanes: int) -> bool:
    """Whether `add` is one instruction, that takes no register for the product."""
    found = _find(k, a, b, lanes) if (a, b) in _INSTRUCTIONS else None
    return found is not None and found.accumulates


def add(k: Kernel, types: tuple[str, str], acc: Val, a: Val, b: Val) -> Val:
    """a and b hold as many bits as acc."""
    em, found = k.em, _find(k, *types, acc.lanes)
    assert found is not None
    if acc.lanes > found.register:
        count = acc.lanes // found.register
        cuts = [[em.slice(v, i * v.lanes // count, v.lanes // count) for v in (acc, a, b)] for i in range(count)]
        return em.concat([add(k, types, *cut) for cut in cuts])
    name = found.name.format(bits=32 * acc.lanes)
    a, b = (_as_narrow(k, v, "i8" if types[1] == "u8" else types[1], acc.lanes) for v in (a, b))
    operands = [acc, a, b] if found.accumulates else [a, b]
    em.declare(name, f"declare {acc.type} {name}({', '.join(v.type for v in operands)})")
    values = ", ".join(map(em.typed, operands))
    total = em.op(acc.element, acc.lanes, f"call {acc.type} {name}({values})")
    if found.accumulates:
        return total
    return em.op(acc.element, acc.lanes, f"add {em.typed(acc)}, {em.text(total)}")


def _as_narrow(k: Kernel, value: Val, element: str, words: int) -> Val:
    if value.element == element:
        return value
    lanes = 4 // BYTES[element] * words
    return k.em.op(element, lanes, f"bitcast {k.em.typed(value)} to <{lanes} x {element}>")


def _find(k: Kernel, a: str, b: str, lanes: int) -> _Instruction | None:
    known = _INSTRUCTIONS[a, b]
    return next((found for found in known if k.features.has(found.feature) and lanes in found.lanes), None)
