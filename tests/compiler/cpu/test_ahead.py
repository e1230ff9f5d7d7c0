"""Reading ahead for products: the lines of the next round are asked for, and nothing else changes."""

from __future__ import annotations

import ctypes
import mmap
import re
from collections import Counter
from dataclasses import replace

import llvmlite.binding as llvm
import numpy as np
import pytest
import triton
import triton.language as tl

from .harness import compile_kernel

M, N, K, DEPTH = 16, 32, 32, 128


@triton.jit
def by_counter_kernel(x, weight, out, k, stride, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    row, column, inner = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    total = tl.zeros([M, N], dtype=tl.float32)
    for start in range(0, k, K):
        left = tl.load(x + row[:, None] * k + (start + inner)[None, :])
        right = tl.load(weight + column[None, :] * stride + (start + inner)[:, None])
        total = tl.dot(left, right, total, input_precision="ieee")
    tl.store(out + row[:, None] * N + column[None, :], total)


@triton.jit
def by_pointer_kernel(x, weight, out, k, stride, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    row, column, inner = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    total = tl.zeros([M, N], dtype=tl.float32)
    left, right = x + row[:, None] * k + inner[None, :], weight + column[None, :] * stride + inner[:, None]
    for _ in range(0, k, K):
        total = tl.dot(tl.load(left), tl.load(right), total, input_precision="ieee")
        left += K
        right += K
    tl.store(out + row[:, None] * N + column[None, :], total)


@triton.jit
def once_kernel(x, weight, out, k, stride, M: tl.constexpr, N: tl.constexpr, K: tl.constexpr):
    row, column, inner = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    left = tl.load(x + row[:, None] * k + inner[None, :])
    right = tl.load(weight + column[None, :] * stride + inner[:, None])
    tl.store(out + row[:, None] * N + column[None, :], tl.dot(left, right, input_precision="ieee"))


def at_the_end_of_memory(array: np.ndarray) -> np.ndarray:
    """A copy whose last byte is the last of a page."""
    size = -(-array.nbytes // mmap.PAGESIZE) * mmap.PAGESIZE
    held = np.frombuffer(mmap.mmap(-1, size), array.dtype)[size // array.itemsize - array.size :]
    held[:] = array.reshape(-1)
    return held.reshape(array.shape)


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("kernel", [by_counter_kernel, by_pointer_kernel])
def test_a_product_in_a_loop_reads_ahead_and_stays_right_where_memory_ends(kernel, dtype):
    rng = np.random.default_rng(0)
    x, weight = (rng.standard_normal((rows, DEPTH)).astype(dtype) for rows in (M, N))
    arguments = {"x": x, "weight": at_the_end_of_memory(weight), "out": np.zeros((M, N), np.float32)}
    arguments |= {"k": DEPTH, "stride": DEPTH}
    compiled = compile_kernel(kernel, arguments, {"M": M, "N": N, "K": K})
    assert "@llvm.prefetch" in compiled.stages["source"]
    assert compiled.prepare((1,), arguments)() == 0
    expected = x.astype(np.float64) @ weight.astype(np.float64).T
    np.testing.assert_allclose(arguments["out"], expected, rtol=1e-4, atol=1e-4)


def lines_asked_for(kernel, arguments, constants) -> list[int]:
    """The cache lines of `weight`, by number, that a run prefetches, in order."""
    compiled = compile_kernel(kernel, arguments, constants)
    addresses = []
    note = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(addresses.append)
    place = ctypes.cast(note, ctypes.c_void_p).value
    source, count = re.subn(
        r"call void @llvm\.prefetch\.p0\(ptr ([^,]+),[^)]*\)",
        rf"call void inttoptr (i64 {place} to ptr)(ptr \1)",
        compiled.stages["source"],
    )
    assert count
    machine = llvm.Target.from_default_triple().create_target_machine(reloc="pic", codemodel="small")
    compiled.image = replace(compiled.image, object=machine.emit_object(llvm.parse_assembly(source)))
    assert compiled.prepare((1,), arguments)() == 0
    first = arguments["weight"].ctypes.data // 64
    return [address // 64 - first for address in addresses]


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize(
    ("m", "n", "k"), [(8, 64, 64), (32, 64, 64), (32, 32, 32), (64, 128, 32), (32, 128, 256), (64, 64, 16)]
)
def test_each_line_of_the_next_round_is_asked_for_once(dtype, m, n, k):
    x, weight = np.ones((m, 4 * k), dtype), at_the_end_of_memory(np.ones((n, 4 * k), dtype))
    arguments = {"x": x, "weight": weight, "out": np.zeros((m, n), np.float32), "k": 4 * k, "stride": 4 * k}
    asked = Counter(lines_asked_for(by_counter_kernel, arguments, {"M": m, "N": n, "K": k}))
    row, part = (size * x.itemsize // 64 for size in (4 * k, k))
    following = Counter(feature * row + line + part for feature in range(n) for line in range(4 * part))
    assert set(asked) >= set(following)
    if m >= 32 and part:  # while multiplying
        assert asked == following


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("m", [8, 16, 32])
def test_lines_are_asked_for_to_their_end_where_memory_begins_amid_one(dtype, m):
    n, k, rounds = 64, 64, 2
    weight = np.empty(n * rounds * k * 4 + 128, np.uint8)
    weight = weight[-weight.ctypes.data % 64 + 16 :][: n * rounds * k * np.dtype(dtype).itemsize].view(dtype)
    weight = weight.reshape(n, rounds * k)
    weight[:] = 1
    arguments = {"x": np.ones((m, rounds * k), dtype), "weight": weight, "out": np.zeros((m, n), np.float32)}
    arguments |= {"k": rounds * k, "stride": rounds * k}
    asked = lines_asked_for(by_counter_kernel, arguments, {"M": m, "N": n, "K": k})
    row, part = (size * weight.itemsize // 64 for size in (rounds * k, k))
    # A run's first line was read by the round before, to which its beginning belongs.
    in_first_round = set(asked[: len(asked) // rounds])
    assert in_first_round >= {feature * row + part + line for feature in range(n) for line in range(1, part + 1)}


def test_pairs_of_bfloat16_read_ahead():
    arguments = {"x": np.zeros((M, DEPTH), np.uint16), "weight": np.zeros((N, DEPTH), np.uint16)}
    arguments |= {"out": np.zeros((M, N), np.float32), "k": DEPTH, "stride": DEPTH}
    for arch in ("x86-64-v4", "znver4"):
        compiled = compile_kernel(by_counter_kernel, arguments, {"M": M, "N": N, "K": K}, arch=arch)
        assert "@llvm.prefetch" in compiled.stages["source"]


def test_without_a_next_round_there_is_nothing_to_read():
    arguments = {"x": np.zeros((M, K), np.float32), "weight": np.zeros((N, K), np.float32)}
    arguments |= {"out": np.zeros((M, N), np.float32), "k": K, "stride": K}
    assert "@llvm.prefetch" not in compile_kernel(once_kernel, arguments, {"M": M, "N": N, "K": K}).stages["source"]
