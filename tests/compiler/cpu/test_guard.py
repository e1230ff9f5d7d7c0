"""UNIFY_CHECK_BOUNDS: an access outside of its argument's memory is an error that says where."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import triton.language as tl

import unify as un
from unify.errors import KernelFault


@pytest.fixture(autouse=True)
def checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("UNIFY_CHECK_BOUNDS", "1")


def kernels() -> dict[str, Callable[..., Any]]:
    """Made anew for each test: a kernel compiled without the checks would be used again."""

    @un.jit
    def loads(x, out, n, SIZE: tl.constexpr):
        at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
        tl.store(out + at % 64, tl.load(x + at, mask=at < n))

    @un.jit
    def stores(x, out, n, SIZE: tl.constexpr):
        at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
        tl.store(out + at, 1.0, mask=at < n)

    @un.jit
    def adds(x, out, n, SIZE: tl.constexpr):
        at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
        tl.atomic_add(out + at, 1.0, mask=at < n)

    @un.jit
    def gathers(x, out, n, SIZE: tl.constexpr):
        at = tl.program_id(0) * SIZE + tl.arange(0, SIZE)
        far = tl.where(at == n - 1, n * 3, 0)
        tl.store(out + at % 64, tl.load(x + far))

    @un.jit
    def reads_one(x, out, n, SIZE: tl.constexpr):
        if tl.program_id(0) == 1:
            tl.store(out, tl.load(x + n))

    @un.jit
    def strides(x, out, n, SIZE: tl.constexpr):
        at = tl.arange(0, SIZE)
        tl.store(out + at % 64, tl.load(x + at * 3, mask=at * 3 < n))

    return {kernel.fn.__name__: kernel for kernel in (loads, stores, adds, gathers, reads_one, strides)}


@pytest.mark.parametrize("name", ["loads", "stores", "adds", "strides"])
@pytest.mark.parametrize("size", [1, 16, 128])
def test_what_stays_inside_runs(name: str, size: int) -> None:
    x, out = un.ones(100, un.float32), un.zeros(100, un.float32)
    kernels()[name][(-(-100 // size),)](x, out, 100, SIZE=size)
    un.synchronize()


@pytest.mark.parametrize(
    ("name", "what", "place"),
    [
        ("loads", "a load of 4 bytes through 'x'", 400),
        ("stores", "a store of 4 bytes through 'out'", 400),
        ("adds", "an atomic access of 4 bytes through 'out'", 400),
    ],
)
@pytest.mark.parametrize("size", [1, 16, 128])
@pytest.mark.parametrize("numpy", [False, True])
def test_the_first_element_outside_is_named(name: str, what: str, place: int, size: int, numpy: bool) -> None:
    x, out = un.ones(100, un.float32), un.zeros(100, un.float32)
    if numpy:
        x, out = np.ones(100, np.float32), np.zeros(100, np.float32)
    kernel = kernels()[name]
    with pytest.raises(KernelFault) as caught:
        kernel[(-(-101 // size),)](x, out, 101, SIZE=size)
        un.synchronize()
    message = str(caught.value)
    assert what in message
    assert f"at byte {place} " in message
    assert re.search(rf"test_guard\.py:\d+, program \({100 // size}, 0, 0\)", message)
    assert name in message


def test_lanes_that_are_gathered() -> None:
    x, out = un.ones(64, un.int16), un.zeros(64, un.int16)
    with pytest.raises(KernelFault, match="a load of 2 bytes through 'x', at byte 384 "):
        kernels()["gathers"][(4,)](x, out, 64, SIZE=16)
        un.synchronize()


def test_a_single_element() -> None:
    x, out = un.ones(8, un.float64), un.zeros(8, un.float64)
    kernel = kernels()["reads_one"]
    kernel[(2,)](x, out, 7, SIZE=1)
    with pytest.raises(KernelFault, match=r"a load of 8 bytes through 'x', at byte -8 .*program \(1, 0, 0\)"):
        kernel[(2,)](x, out, -1, SIZE=1)
        un.synchronize()


def test_a_view_may_reach_the_rest_of_its_array() -> None:
    x, out = un.ones(100, un.float32), un.zeros(64, un.float32)
    kernels()["reads_one"][(2,)](x[50:60], out, -50, SIZE=1)
    with pytest.raises(KernelFault, match="at byte 200 "):
        kernels()["reads_one"][(2,)](x[50:60], out, 50, SIZE=1)
        un.synchronize()


def test_a_pointer_of_two_arguments_is_good_in_either() -> None:
    @un.jit
    def chooses(x, out, n, SIZE: tl.constexpr):
        source = x
        if n > 4:
            source = out
        tl.store(out, tl.load(source + n))

    x, out = un.ones(4, un.float32), un.zeros(8, un.float32)
    chooses[(1,)](x, out, 3, SIZE=1)
    chooses[(1,)](x, out, 7, SIZE=1)
    with pytest.raises(KernelFault, match="a load of 4 bytes through '.*' or '.*', at byte"):
        chooses[(1,)](x, out, 1 << 20, SIZE=1)
        un.synchronize()


def test_what_a_table_of_pointers_points_to_is_not_checked() -> None:
    @un.jit
    def follows(table, out, SIZE: tl.constexpr):
        source = tl.load(table).to(tl.pointer_type(tl.float32))
        tl.store(out + tl.arange(0, SIZE), tl.load(source + tl.arange(0, SIZE)))

    x, out = np.arange(16, dtype=np.float32), np.zeros(16, np.float32)
    follows[(1,)](np.array([x.ctypes.data]), out, SIZE=16)
    np.testing.assert_array_equal(out, x)
