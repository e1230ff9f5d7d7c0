"""Reductions and scans over every axis, type and block size, against NumPy."""

from __future__ import annotations

import numpy as np
import pytest
import triton
import triton.language as tl

from .harness import run


@triton.jit
def reduce_kernel(x, out, M: tl.constexpr, N: tl.constexpr, AXIS: tl.constexpr, OP: tl.constexpr):
    i, j = tl.arange(0, M), tl.arange(0, N)
    value = tl.load(x + i[:, None] * N + j[None, :])
    if OP == "sum":
        r = tl.sum(value, AXIS)
    elif OP == "max":
        r = tl.max(value, AXIS)
    elif OP == "min":
        r = tl.min(value, AXIS)
    elif OP == "argmax":
        r = tl.argmax(value, AXIS)
    elif OP == "argmin":
        r = tl.argmin(value, AXIS)
    else:
        r = tl.xor_sum(value, AXIS)
    if AXIS == 0:
        tl.store(out + j, r)
    elif AXIS == 1:
        tl.store(out + i, r)
    else:
        tl.store(out, r)


INTEGERS = ["int32", "int8", "int64"]
CASES = [(op, dtype) for op in ("sum", "max", "min", "argmax", "argmin") for dtype in ("float32", "float16", *INTEGERS)]


@pytest.mark.parametrize(("op", "dtype"), [*CASES, *(("xor_sum", dtype) for dtype in INTEGERS)])
@pytest.mark.parametrize(("m", "n"), [(64, 64), (4, 512), (512, 4), (1, 128), (128, 1), (2, 2), (16, 32)])
@pytest.mark.parametrize("axis", [0, 1])
def test_reduction_along_an_axis(op, dtype, m, n, axis):
    rng = np.random.default_rng(m * n)
    x = rng.integers(-4 if op == "sum" else -60, 4 if op == "sum" else 60, (m, n)).astype(dtype)
    kind = np.int32 if op.startswith("arg") or (op in ("sum", "xor_sum") and dtype == "int8") else dtype
    out = np.zeros(n if axis == 0 else m, kind)
    run(reduce_kernel, (1,), {"x": x, "out": out}, M=m, N=n, AXIS=axis, OP=op)
    if op == "xor_sum":
        want = np.bitwise_xor.reduce(x.astype(kind), axis)
    else:
        want = getattr(np, op)(x.astype(kind) if op == "sum" else x, axis)
    np.testing.assert_array_equal(out, want)


@pytest.mark.parametrize("op", ["sum", "max", "min"])
def test_reduction_to_a_scalar(op):
    x = np.random.default_rng(0).integers(-100, 100, (16, 64)).astype(np.float32)
    out = np.zeros(1, np.float32)
    run(reduce_kernel, (1,), {"x": x, "out": out}, M=16, N=64, AXIS=None, OP=op)
    assert out[0] == getattr(np, op)(x)


@triton.jit
def nan_kernel(x, out, N: tl.constexpr):
    tl.store(out, tl.max(tl.load(x + tl.arange(0, N)), 0))


def test_max_ignores_nan():
    x = np.random.default_rng(0).standard_normal(256).astype(np.float32)
    out = np.zeros(1, np.float32)
    x[[0, 17, 255]] = np.nan
    run(nan_kernel, (1,), {"x": x, "out": out}, N=256)
    assert out[0] == np.nanmax(x)


@triton.jit
def softmax_kernel(x, out, n, row, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    value = tl.load(x + tl.program_id(0) * row + i, mask=i < n, other=-float("inf"))
    e = tl.exp(value - tl.max(value, 0))
    tl.store(out + tl.program_id(0) * row + i, e / tl.sum(e, 0), mask=i < n)


@pytest.mark.parametrize("n", [1, 7, 16, 100, 1000, 4096])
def test_softmax_rows(n):
    x = np.random.default_rng(n).standard_normal((3, n)).astype(np.float32) * 5
    out = np.zeros_like(x)
    run(softmax_kernel, (3,), {"x": x, "out": out, "n": n, "row": n}, BLOCK=max(16, triton.next_power_of_2(n)))
    distance = x.astype(np.float64) - x.max(1, keepdims=True)
    e = np.exp(distance)
    # The distance is rounded to half a step of float32, which exp turns into a relative error; then some steps more.
    rtol = np.abs(distance).max() * 2**-24 + 8 * 2**-23
    np.testing.assert_allclose(out, e / e.sum(1, keepdims=True), rtol=rtol)


@triton.jit
def _multiply_add(a1, b1, a2, b2):
    return a1 * a2, b1 * a2 + b2


@triton.jit
def scan_kernel(
    x, y, out, M: tl.constexpr, N: tl.constexpr, AXIS: tl.constexpr, OP: tl.constexpr, REVERSE: tl.constexpr
):
    place = tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
    value = tl.load(x + place)
    if OP == "sum":
        r = tl.cumsum(value, AXIS, reverse=REVERSE)
    elif OP == "prod":
        r = tl.cumprod(value, AXIS, reverse=REVERSE)
    else:
        _, r = tl.associative_scan((value, tl.load(y + place)), AXIS, _multiply_add, reverse=REVERSE)
    tl.store(out + place, r)


@pytest.mark.parametrize("op", ["sum", "prod", "linear"])
@pytest.mark.parametrize("axis", [0, 1])
@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize(("m", "n"), [(8, 64), (32, 4), (1, 16), (16, 1)])
def test_scan_along_an_axis(op, axis, reverse, m, n):
    rng = np.random.default_rng(7)
    x, y = (rng.uniform(0.7, 1.2, (m, n)).astype(np.float32) for _ in range(2))
    out = np.zeros_like(x)
    run(scan_kernel, (1,), {"x": x, "y": y, "out": out}, M=m, N=n, AXIS=axis, OP=op, REVERSE=reverse)
    a, b = (np.moveaxis(v.astype(np.float64), axis, 0)[:: -1 if reverse else 1] for v in (x, y))
    if op == "sum":
        want = np.cumsum(a, 0)
    elif op == "prod":
        want = np.cumprod(a, 0)
    else:
        want = b.copy()
        for i in range(1, len(b)):
            want[i] = want[i - 1] * a[i] + b[i]
    np.testing.assert_allclose(out, np.moveaxis(want[:: -1 if reverse else 1], 0, axis), rtol=1e-5)


@triton.jit
def byte_dot_kernel(codes, x, out, N: tl.constexpr, A_UNSIGNED: tl.constexpr, NIBBLE: tl.constexpr):
    n, byte = tl.arange(0, N), tl.arange(0, 4)
    a = tl.load(codes + n[:, None] * 4 + byte[None, :])
    if NIBBLE:
        a = a & 15
    b = tl.load(x + byte)
    tl.store(out + n, tl.load(out + n) + tl.sum(a.to(tl.int32) * b[None, :].to(tl.int32), axis=1))


@pytest.mark.parametrize("a_type", ["uint8", "int8"])
@pytest.mark.parametrize("b_type", ["uint8", "int8"])
@pytest.mark.parametrize("nibble", [False, True])
@pytest.mark.parametrize("arch", ["", "x86-64-v3", "x86-64-v4"])
@pytest.mark.parametrize("n", [16, 64, 2])
def test_sum_of_byte_products_is_exact(a_type, b_type, nibble, arch, n):
    from .harness import compile_kernel

    rng = np.random.default_rng(0)
    codes = rng.integers(0, 256, (n, 4)).astype(np.uint8).view(a_type)
    x = rng.integers(0, 256, 4).astype(np.uint8).view(b_type)
    out = rng.integers(-1000, 1000, n).astype(np.int32)
    a = (codes & 15 if nibble else codes).astype(np.int64)
    want = out + (a * x.astype(np.int64)).sum(1)
    arguments = {"codes": codes, "x": x, "out": out}
    kernel = compile_kernel(
        byte_dot_kernel, arguments, {"N": n, "A_UNSIGNED": a_type == "uint8", "NIBBLE": nibble}, arch=arch
    )
    assert kernel.prepare((1,), arguments)() == 0
    np.testing.assert_array_equal(out, want)


@triton.jit
def byte_dots_kernel(codes, x, out, N: tl.constexpr, TERMS: tl.constexpr, NIBBLE: tl.constexpr):
    n, byte = tl.arange(0, N), tl.arange(0, 4)
    total = tl.load(out + n)
    for term in tl.static_range(TERMS):
        a = tl.load(codes + term * N * 4 + n[:, None] * 4 + byte[None, :])
        if NIBBLE:
            a = a & 15
        b = tl.load(x + term * 4 + byte)
        total += tl.sum(a.to(tl.int32) * b[None, :].to(tl.int32), axis=1)
    tl.store(out + n, total)


@pytest.mark.parametrize("a_type", ["uint8", "int8"])
@pytest.mark.parametrize("b_type", ["uint8", "int8"])
@pytest.mark.parametrize("nibble", [False, True])
@pytest.mark.parametrize("arch", ["", "x86-64-v3"])
@pytest.mark.parametrize("extreme", [0x80, 0xFF, 0x7F, None])
def test_byte_products_added_one_after_another_do_not_saturate(a_type, b_type, nibble, arch, extreme):
    from .harness import compile_kernel

    terms, n = 20, 16
    rng = np.random.default_rng(0)
    codes, x = rng.integers(0, 256, (terms, n, 4)).astype(np.uint8), rng.integers(0, 256, (terms, 4)).astype(np.uint8)
    if extreme is not None:
        codes[:], x[:] = extreme, extreme
    codes, x = codes.view(a_type), x.view(b_type)
    out = rng.integers(-1000, 1000, n).astype(np.int32)
    a = (codes & 15 if nibble else codes).astype(np.int64)
    want = out + (a * x[:, None].astype(np.int64)).sum((0, 2))
    arguments = {"codes": codes, "x": x, "out": out}
    constants = {"N": n, "TERMS": terms, "NIBBLE": nibble}
    assert compile_kernel(byte_dots_kernel, arguments, constants, arch=arch).prepare((1,), arguments)() == 0
    np.testing.assert_array_equal(out, want)
