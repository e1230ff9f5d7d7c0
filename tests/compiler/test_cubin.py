"""How many bytes a cubin says that its functions take."""

from __future__ import annotations

import random

import pytest
import triton.language as tl

import unify as un
from unify.compiler import cubin


@un.jit
def mixed_kernel(x, n, half, double, flag, out):
    tl.store(out, tl.load(x) + n + half + double + flag)


@un.jit
def pointer_kernel(out):
    tl.store(out, 1.0)


TYPES = {"x": "*fp32", "n": "i32", "half": "fp16", "double": "fp64", "flag": "i8", "out": "*fp64"}


@pytest.fixture(scope="module")
def mixed() -> un.Binary:
    return un.compile(mixed_kernel, "cuda:90", TYPES)


@pytest.mark.parametrize("arch", [80, 90, 100, 120])
def test_ptxas_writes_what_the_parameters_of_the_ptx_add_up_to(arch: int) -> None:
    # Triton's two pointers stand behind the parameters.
    for kernel, types, own in ((mixed_kernel, TYPES, 40), (pointer_kernel, {"out": "*fp32"}, 8)):
        binary = un.compile(kernel, f"cuda:{arch}", types)
        assert cubin.argument_bytes(binary.image) == {binary.name: own + 16} == {binary.name: binary.args_bytes}


def test_what_is_no_cubin_says_nothing(mixed: un.Binary) -> None:
    cpu = un.compile(pointer_kernel, "cpu", {"out": "*fp32"}).image
    for image in (b"", b"\x7fELF", b"x" * 100, cpu, mixed.image[:64], mixed.image[:1000]):
        assert cubin.argument_bytes(image) == {}


def test_a_damaged_cubin_raises_nothing(mixed: un.Binary) -> None:
    rng = random.Random(0)
    for _ in range(2000):
        image = bytearray(mixed.image)
        for _ in range(rng.randrange(1, 20)):
            image[rng.randrange(len(image))] = rng.randrange(256)
        assert isinstance(cubin.argument_bytes(bytes(image)), dict)
