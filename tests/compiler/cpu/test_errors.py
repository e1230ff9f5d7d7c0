"""What cannot be compiled says so, with the line of the user's file."""

from __future__ import annotations

import numpy as np
import pytest
import triton
import triton.language as tl

from unify._errors import CompileError, TargetError

from .harness import compile_kernel


@triton.jit
def huge_kernel(x, out, M: tl.constexpr, N: tl.constexpr):
    m, n = tl.arange(0, M), tl.arange(0, N)
    a, b = tl.load(x + m[:, None]), tl.load(x + n[None, :])
    c = tl.dot(a.to(tl.float64), b.to(tl.float64), out_dtype=tl.float64)
    tl.store(out + m[:, None] * N + n[None, :], tl.dot(c, tl.trans(c), out_dtype=tl.float64))


def test_tile_beyond_the_limit_is_refused_with_its_size(monkeypatch):
    from unify.compiler.cpu.codegen import values

    monkeypatch.setattr(values, "LARGEST_TILE", 1 << 20)
    x = np.zeros(1, np.float32)
    with pytest.raises(CompileError, match=r"test_errors\.py:\d+: .*\[512, 512\] double \(2 MiB.*1 MiB.*smaller"):
        compile_kernel(huge_kernel, {"x": x, "out": np.zeros(1)}, {"M": 512, "N": 512})


@triton.jit
def assembly_kernel(x, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    y = tl.inline_asm_elementwise("shl.b32 $0, $1, 3;", "=r,r", [tl.load(x + i)], dtype=tl.int32, is_pure=True, pack=1)
    tl.store(x + i, y)


def test_inline_assembly_is_refused_by_name():
    with pytest.raises(CompileError, match=r"test_errors\.py:\d+: .*inline assembly.*[Ww]rite it in triton.language"):
        compile_kernel(assembly_kernel, {"x": np.zeros(16, np.int32)}, {"BLOCK": 16})


def test_unknown_architecture_lists_the_known_ones():
    with pytest.raises(TargetError, match="x86-64-v3.*znver4"):
        compile_kernel(assembly_kernel, {"x": np.zeros(16, np.int32)}, {"BLOCK": 16}, arch="i386")
