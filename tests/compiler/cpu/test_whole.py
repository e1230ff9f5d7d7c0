"""Tiles without masks: taken only where each mask holds for every element, integers that wrap around included."""

from __future__ import annotations

import numpy as np
import pytest
import triton
import triton.language as tl
from hypothesis import given, settings, strategies as st

from .harness import compile_kernel

SIZE = 16
LARGEST = 2**31 - 1


@triton.jit
def compare_kernel(out, start, bound, STRIDE: tl.constexpr, HOW: tl.constexpr, SIZE: tl.constexpr):
    place = tl.arange(0, SIZE)
    x = start + place * STRIDE
    if HOW == "<":
        inside = x < bound
    elif HOW == "<=":
        inside = x <= bound
    elif HOW == ">":
        inside = x > bound
    elif HOW == ">=":
        inside = x >= bound
    elif HOW == "reversed":
        inside = bound > x
    elif HOW == "extended":
        inside = x.to(tl.int64) < bound
    elif HOW == "unsigned":
        inside = x.to(tl.uint32, bitcast=True) < bound.to(tl.uint32, bitcast=True)
    tl.store(out + place, place, mask=inside)


def expected(start: int, bound: int, stride: int, how: str) -> np.ndarray:
    x = (start + stride * np.arange(SIZE, dtype=np.int64)).astype(np.int32)  # wraps around
    limit = np.int32(bound)
    if how == "unsigned":
        return x.view(np.uint32) < limit.view(np.uint32)
    rules = {
        "<": x < limit,
        "<=": x <= limit,
        ">": x > limit,
        ">=": x >= limit,
        "reversed": limit > x,
        "extended": x < limit,
    }
    return rules[how]


edges = st.sampled_from([0, -1, 5, 100, LARGEST, LARGEST - 8, -LARGEST - 1, -LARGEST + 6])


@settings(max_examples=60, deadline=None)
@given(
    edges,
    edges,
    st.integers(-40, 40),
    st.integers(-40, 40),
    st.sampled_from([1, 3, -1, -7, 1 << 28, 0x1C00_0000]),
    st.data(),
)
def test_what_is_stored_is_what_the_comparison_says(start, bound, more, beyond, stride, data):
    how = data.draw(st.sampled_from(["<", "<=", ">", ">=", "reversed", "unsigned", "extended"]))
    start, bound = (max(-LARGEST - 1, min(LARGEST, x)) for x in (start + more, bound + beyond))
    out = np.full(SIZE, -1, np.int32)
    arguments = {"out": out, "start": start, "bound": bound}
    types = {"start": "i32", "bound": "i32"}
    constants = {"STRIDE": stride, "HOW": how, "SIZE": SIZE}
    assert compile_kernel(compare_kernel, arguments, constants, types=types).prepare((1,), arguments)() == 0
    np.testing.assert_array_equal(out >= 0, expected(start, bound, stride, how))


@triton.jit
def copy_kernel(x, out, rows, columns, M: tl.constexpr, N: tl.constexpr):
    i = tl.program_id(0) * M + tl.arange(0, M)
    j = tl.program_id(1) * N + tl.arange(0, N)
    inside = (i < rows)[:, None] & (j < columns)[None, :]
    value = tl.load(x + i[:, None] * columns + j[None, :], mask=inside, other=-1)
    tl.store(out + i[:, None] * columns + j[None, :], value + 1, mask=inside)


@pytest.mark.parametrize("shape", [(32, 64), (33, 64), (32, 65), (31, 63), (1, 1), (65, 7)])
def test_inner_and_edge_tiles_together_cover_the_array(shape):
    x = np.random.default_rng(0).integers(0, 100, shape).astype(np.int32)
    out = np.full((shape[0] + 1, shape[1]), -7, np.int32)
    arguments = {"x": x, "out": out, "rows": shape[0], "columns": shape[1]}
    types = {"rows": "i32", "columns": "i32"}
    kernel = compile_kernel(copy_kernel, arguments, {"M": 16, "N": 32}, types=types)
    assert kernel.prepare((-(-shape[0] // 16), -(-shape[1] // 32)), arguments)() == 0
    np.testing.assert_array_equal(out[:-1], x + 1)
    assert (out[-1] == -7).all()
    if kernel.target.vector_bytes == 32 and shape == (31, 63):
        assert " store <8 x i32>" in kernel.stages["llvm"]  # without a mask
        assert "@llvm.masked.store.v8i32" in kernel.stages["llvm"]
