"""Which arguments a kernel may write to."""

from __future__ import annotations

import pytest
import triton
import triton.language as tl

from unify.compiler import Specialization, to_ttir
from unify.compiler.effects import written_arguments

# Triton 3.9 removed them in favour of tensor descriptors.
HAS_BLOCK_POINTERS = pytest.mark.skipif(
    tuple(map(int, triton.__version__.split(".")[:2])) >= (3, 9), reason="this Triton has no block pointers"
)


@triton.jit
def copies(x, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    tl.store(out + i, tl.load(x + i, mask=i < n), mask=i < n)


@triton.jit
def walks(x, out, n, BLOCK: tl.constexpr):
    """Both pointers are carried through the loop."""
    i = tl.arange(0, BLOCK)
    read, write = x + i, out + i
    for _ in range(n):
        tl.store(write, tl.load(read))
        read += BLOCK
        write += BLOCK


@triton.jit
def swaps(x, out, n, BLOCK: tl.constexpr):
    """Through the loop, each becomes the other."""
    i = tl.arange(0, BLOCK)
    a, b = x + i, out + i
    for _ in range(n):
        tl.store(a, tl.load(b))
        a, b = b, a


@triton.jit
def chooses(x, out, n, BLOCK: tl.constexpr):
    target = out
    if n > 3:
        target = x
    tl.store(target, 1.0)


@triton.jit
def stores_perhaps(x, out, n, BLOCK: tl.constexpr):
    """A branch without another and without results."""
    if n > 3:
        tl.store(out, tl.load(x))


@triton.jit
def repeats(x, out, n, BLOCK: tl.constexpr):
    left = n
    while left > 0:
        tl.store(out, tl.load(x))
        out += 1
        left -= 1


@triton.jit
def counts(x, out, n, BLOCK: tl.constexpr):
    tl.atomic_add(out, tl.load(x))


@triton.jit
def exchanges(x, out, n, BLOCK: tl.constexpr):
    tl.atomic_cas(out, tl.load(x), 1.0)


@triton.jit
def recasts(x, out, n, BLOCK: tl.constexpr):
    tl.store(out.to(tl.pointer_type(tl.int32)), tl.load(x.to(tl.pointer_type(tl.int32), bitcast=True)))


@triton.jit
def leaves_early(x, out, n, BLOCK: tl.constexpr):
    if n > 3:
        return
    tl.store(out, tl.load(x))


@triton.jit
def reads(x, out, n, BLOCK: tl.constexpr):
    tl.device_assert(tl.load(x) < tl.load(out))


@triton.jit
def blocks(x, out, n, BLOCK: tl.constexpr):
    source = tl.make_block_ptr(x, (n,), (1,), (0,), (BLOCK,), (0,))
    target = tl.make_block_ptr(out, (n,), (1,), (0,), (BLOCK,), (0,))
    tl.store(target, tl.load(source))


@pytest.mark.parametrize(
    ("kernel", "names"),
    [
        (copies, "out"), (walks, "out"), (swaps, "x out"), (chooses, "x out"),
        (stores_perhaps, "out"), (repeats, "out"), (counts, "out"), (exchanges, "out"),
        (recasts, "out"), (leaves_early, "out"), (reads, ""),
        pytest.param(blocks, "out", marks=HAS_BLOCK_POINTERS),
    ],
)  # fmt: skip
def test_what_is_stored_through_is_written_and_what_is_loaded_is_not(kernel, names: str) -> None:
    types = {"x": "*fp32", "out": "*fp32", "n": "i32", "BLOCK": "constexpr"}
    ttir = to_ttir(kernel, Specialization(types, {"BLOCK": 16}), num_warps=4, num_stages=1, debug=True)
    assert {["x", "out", "n"][index] for index in written_arguments(ttir)} == set(names.split())
