"""Stores past the caches, where all programs together write more than these hold.

An ordinary store reads the line that it writes to, and what it leaves in the cache drives out what is still needed. The
size is the tile's, times the programs of the grid.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from unify.compiler import mlir
from unify.compiler.cpu.codegen import memory
from unify.compiler.cpu.codegen.emitter import BYTES, STORED, ZERO, Val
from unify.compiler.cpu.codegen.values import Kernel, element_of, shape_of

if TYPE_CHECKING:
    from unify.compiler.cpu.codegen.nest import Walk

LEAST_BYTES = 32 << 20
_LEAST_RUN = 256  # bytes side by side: what fills no line has to be joined with it in memory


def look(k: Kernel, stores: list[mlir.Operation], walk: Walk) -> Val | None:
    """Whether these stores, which one nest does, should and can go past the caches; None if they never can."""
    if not stores or not all(_runs_on(k, op, walk) for op in stores) or k.origins is not None:
        return None
    if not k.features.triple.startswith("x86_64") or k.plan.publishes:
        return None
    em = k.em
    # A later ordinary store, which tells others that the results are there, could overtake such stores: the fence
    # stands behind a call's last program, and a program that tells others itself has none of them.
    em.declare("@llvm.x86.sse.sfence", "declare void @llvm.x86.sse.sfence()")
    k.closing = "call void @llvm.x86.sse.sfence()"
    programs = em.assign("zext i32 %grid0 to i64")
    for axis in (1, 2):
        more = em.assign(f"zext i32 %grid{axis} to i64")
        programs = em.assign(f"mul i64 {programs}, {more}")
    tile = sum(_bytes(op) for op in stores)
    condition = em.assign(f"icmp uge i64 {programs}, {-(-LEAST_BYTES // tile)}")
    for op in stores:
        bits = em.assign(f"and i64 {_places(k, op, walk)}, {walk.lanes * _width(op) - 1}")
        aligned = em.assign(f"icmp eq i64 {bits}, 0")
        condition = em.assign(f"and i1 {condition}, {aligned}")
    return Val("i1", 1, condition)


def _runs_on(k: Kernel, op: mlir.Operation, walk: Walk) -> bool:
    """Whether each block of the walk is one register of consecutive elements, in long runs."""
    linear = k.plan.axes.linear(op.operands[0])
    return (
        bool(walk.shape)
        and linear.base is not None
        and not linear.terms
        and linear.stride(walk.axis) == 1
        and walk.lanes == walk.block[walk.axis]
        and walk.lanes * _width(op) >= 16  # movnt's least
        and walk.shape[walk.axis] * _width(op) >= _LEAST_RUN
    )


def _places(k: Kernel, op: mlir.Operation, walk: Walk) -> str:
    """The bits of the tile's address and of all strides, in bytes: which of them are set anywhere."""
    em, linear = k.em, k.plan.axes.linear(op.operands[0])
    access = memory.Access(k, op.operands[0], (ZERO,) * len(walk.shape), (1,) * len(walk.shape))
    bits = em.assign(f"ptrtoint ptr {access.base} to i64")
    for axis, (stride, extent) in enumerate(zip(linear.strides, walk.shape)):
        if axis != walk.axis and extent > 1:
            factor = em.text(memory.polynomial(k, stride))
            bits = em.assign(f"or i64 {bits}, {em.assign(f'mul i64 {factor}, {_width(op)}')}")
    return bits


def _width(op: mlir.Operation) -> int:
    element = element_of(op.operands[1].type)
    return BYTES[STORED.get(element, element)]


def _bytes(op: mlir.Operation) -> int:
    total = _width(op)
    for extent in shape_of(op.operands[1]):
        total *= extent
    return total
