"""What is written differently for the vendor's programs means the same: on the CPU it gives the same numbers."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton.language as tl

import unify as un
from unify.compiler import Options, Specialization, Target, compile_ttir, mlir, to_ttir
from unify.compiler.ascend_text import vendor_text

from ..installed import NEEDS_ASCEND


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


@NEEDS_ASCEND
def test_products_without_a_name_are_written_so_that_the_vendor_reads_them() -> None:
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


@un.jit
def short_floats_kernel(a, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(a + i).to(out.dtype.element_ty))
    tl.store(out + BLOCK, tl.load(a + BLOCK).to(out.dtype.element_ty))


@pytest.mark.parametrize(("source", "target"), [("fp16", "bf16"), ("bf16", "fp16")])
def test_one_short_float_becomes_the_other(source: str, target: str) -> None:
    dtypes = {"fp16": torch.float16, "bf16": torch.bfloat16}
    text = vendor_text(text_of(short_floats_kernel, {"a": f"*{source}", "out": f"*{target}"}, BLOCK=1 << 15))
    assert "fp_to_fp" not in text
    # Half of all numbers, and a single one.
    numbers = torch.arange(0, 1 << 16, 2, dtype=torch.int32).to(torch.int16).view(dtypes[source])
    numbers = torch.cat([numbers, torch.tensor([1 / 3], dtype=dtypes[source])])
    out = torch.zeros(len(numbers), dtype=dtypes[target])
    binary = compile_ttir("short_floats_kernel", text, Target("cpu"), Options())
    un.Module.from_binary(binary, "cpu").function()[1](numbers, out)
    un.synchronize("cpu")
    expected = numbers.to(dtypes[target])
    is_normal = expected.abs().float() >= torch.finfo(dtypes[target]).tiny  # smaller ones some processors take for zero
    torch.testing.assert_close(out[is_normal], expected[is_normal], rtol=0, atol=0)


@NEEDS_ASCEND
@pytest.mark.parametrize("chip", ["910B3", "950"])
def test_the_vendor_takes_what_is_written_for_it(chip: str) -> None:
    kernels = [(short_floats_kernel, types, {"BLOCK": 256}) for types in (
        {"a": "*fp16", "out": "*bf16"}, {"a": "*bf16", "out": "*fp16"}
    )]  # fmt: skip
    numbers = {"a": "*i32", "b": "*i32", "out": "*i32"}
    for kernel, types, constants in [*kernels, (high_kernel, numbers, {"BLOCK": 256}), (single_kernel, numbers, {})]:
        assert un.compile(kernel, f"ascend:{chip}", types, constants).metadata["status"] == "lowered"
