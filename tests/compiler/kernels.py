"""Kernels that several files compile: a row of programs, and the two ways to leave early."""

from __future__ import annotations

import triton.language as tl

import unify as un


@un.jit
def add_kernel(x, y, out, n, BLOCK: tl.constexpr):
    i = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n) + tl.load(y + i, mask=i < n), mask=i < n)


@un.jit
def early_kernel(x, n):
    if tl.program_id(0) >= n:
        return
    tl.store(x + tl.program_id(0), 1.0)


@un.jit
def place_of_program(n):
    if tl.program_id(0) >= n:
        return n
    return tl.program_id(0)


@un.jit
def joined_kernel(x, n):
    tl.store(x + place_of_program(n), 1.0)  # the ways of the early return join again here
