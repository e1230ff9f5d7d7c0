"""The suite's kernels in Triton, for backends that compile it. What each does stands in `spec.KERNELS`."""

from __future__ import annotations

import functools

import triton.language as tl

import unify as un
from unify.compiler import Specialization, Target, compile

from .spec import KERNELS, Kernel

BLOCK = 256


@un.jit
def fill(x, n, value, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + i, value, mask=i < n)


@un.jit
def copy(x, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n), mask=i < n)


@un.jit
def affine(x, n, factor, shift, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(x + i, tl.load(x + i, mask=i < n) * factor + shift, mask=i < n)


@un.jit
def add(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n) + tl.load(y + i, mask=i < n), mask=i < n)


@un.jit
def place(out):
    x, y, z = tl.program_id(0), tl.program_id(1), tl.program_id(2)
    tl.store(out + (z * tl.num_programs(1) + y) * tl.num_programs(0) + x, x + 100 * y + 10000 * z)


@un.jit
def numbers(integers, a, b, c, d, reals, e, f, g):
    tl.store(integers, a)
    tl.store(integers + 1, b)
    tl.store(integers + 2, c)
    tl.store(integers + 3, d)
    tl.store(integers + 4, g)
    tl.store(reals, e)
    tl.store(reals + 1, f)


@un.jit
def count(counts):
    tl.atomic_add(counts + tl.program_id(0), 1)


@un.jit
def spin(out, rounds):
    value = 1
    for _ in range(rounds):
        value = value * 1664525 + 1013904223
    tl.store(out, value)


@un.jit
def fault(x):
    tl.store(x + (1 << 46), 1.0)


_SOURCES = {kernel.fn.__name__: kernel for kernel in (fill, copy, affine, add, place, numbers, count, spin, fault)}


def compiled(device: un.Device, name: str) -> Kernel | None:
    """The kernel for a device's target; None where Triton has no way to say it. Raises TargetError, CompileError."""
    if name not in _SOURCES:
        return None
    return _compiled(device.target, name)


@functools.cache
def _compiled(target: str, name: str) -> Kernel:
    kernel = _SOURCES[name]
    declared = KERNELS[name].partition(")")[0].removeprefix("(").split(", ")
    types = {parameter: kind for kind, parameter in (text.split() for text in declared)}
    constants = {"BLOCK": BLOCK} if "BLOCK" in kernel.fn.__code__.co_varnames else {}
    full = {**types, **dict.fromkeys(constants, "constexpr")}
    binary = compile(kernel, Target.parse(target), Specialization(types=full, constants=constants))
    return Kernel(
        image=binary.image,
        name=binary.name,
        signature=", ".join(types.values()),
        threads=binary.threads,
        elements=BLOCK,
        shared_bytes=binary.shared_bytes,
        binary=binary,
    )
