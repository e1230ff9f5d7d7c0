"""What is written differently for the vendor's programs means the same: on the CPU it gives the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import triton.language as tl

import unify as un
from unify.compiler import Options, Specialization, Target, compile_ttir, mlir, to_ttir, toolchain
from unify.compiler.ascend_text import vendor_text


@un.jit
def high_kernel(a, b, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.umulhi(tl.load(a + i), tl.load(b + i)))


@un.jit
def single_kernel(a, b, out):
    tl.store(out, tl.umulhi(tl.load(a), tl.load(b)))


@un.jit
def unnamed_kernel(a, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    x = tl.load(a + i)
    tl.store(out + i, tl.umulhi(x, x + 1) + tl.umulhi(x, x + 2))


@un.jit
def narrow_kernel(a, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(a + i).to(tl.int8))


def text_of(kernel: un.Kernel, types: dict[str, str], **constants: int) -> str:
    types = types | dict.fromkeys(constants, "constexpr")
    return to_ttir(kernel, Specialization(types, constants), num_warps=4, num_stages=3, debug=False)


@pytest.mark.parametrize("bits", [32, 64])
@pytest.mark.parametrize("unsigned", [False, True])
def test_the_upper_half_of_a_product(unsigned: bool, bits: int) -> None:
    dtype, half = np.dtype(f"uint{bits}"), bits // 2
    ones = (1 << bits) - 1
    edges = np.array([0, 1, 2, ones >> half, 1 << half, ones >> 1, (ones >> 1) + 1, ones], dtype)
    random = np.random.default_rng(0).integers(0, ones, 192, dtype, endpoint=True)
    a = np.concatenate([np.repeat(edges, 8), random])
    b = np.concatenate([np.tile(edges, 8), random[::-1]])
    out = np.zeros_like(a)
    element = f"{'u' if unsigned else 'i'}{bits}"
    text = vendor_text(text_of(high_kernel, {"a": f"*{element}", "b": f"*{element}", "out": f"*i{bits}"}, BLOCK=256))
    assert "mulhiui" not in text
    binary = compile_ttir("high_kernel", text, Target("cpu"), Options())
    un.Module.from_binary(binary, "cpu").function()[1](*(x.view(f"int{bits}") for x in (a, b, out)))
    un.synchronize("cpu")
    products = [int(x) * int(y) >> bits for x, y in zip(a, b, strict=True)]
    np.testing.assert_array_equal(out, np.array(products, dtype))


def test_products_without_a_name_are_written_so_that_the_vendor_reads_them() -> None:
    if not toolchain.is_installed("ascend"):
        pytest.skip("needs the vendor's compilers: unify toolchain install ascend")
    un.compile(unnamed_kernel, "ascend:910B3", {"a": "*i32", "out": "*i32"}, {"BLOCK": 64})


def test_a_scalar_has_an_upper_half_too() -> None:
    text = vendor_text(text_of(single_kernel, {"a": "*i32", "b": "*i32", "out": "*i32"}))
    a, b, out = np.array([-1], np.int32), np.array([-2], np.int32), np.zeros(1, np.int32)
    binary = compile_ttir("single_kernel", text, Target("cpu"), Options())
    un.Module.from_binary(binary, "cpu").function()[1](a, b, out)
    un.synchronize("cpu")
    assert int(out.view(np.uint32)[0]) == 0xFFFFFFFF * 0xFFFFFFFE >> 32


def test_flags_that_an_older_mlir_does_not_know_are_left_out() -> None:
    text = text_of(narrow_kernel, {"a": "*i32", "out": "*i8"}, BLOCK=16)
    assert "trunci" in text
    line = next(line for line in vendor_text(text).splitlines() if "trunci" in line)
    assert "overflow" not in line
    assert mlir.NO_LAYOUT not in vendor_text(text)
