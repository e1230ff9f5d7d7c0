"""tl.dot in every type, shape and layout against float64 NumPy, and the loops around it."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import triton
import triton.language as tl

from .harness import compile_kernel, run


@triton.jit
def dot_kernel(
    a,
    b,
    c,
    out,
    am,
    ak,
    bk,
    bn,
    M: tl.constexpr,
    N: tl.constexpr,
    K: tl.constexpr,
    TRANS: tl.constexpr,
    ADD: tl.constexpr,
):
    m, n, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, K)
    x = tl.load(a + m[:, None] * am + k[None, :] * ak)
    if TRANS:
        y = tl.trans(tl.load(b + n[:, None] * bn + k[None, :] * bk))
    else:
        y = tl.load(b + k[:, None] * bk + n[None, :] * bn)
    if ADD:
        r = tl.dot(x, y, tl.load(c + m[:, None] * N + n[None, :]), out_dtype=out.dtype.element_ty)
    else:
        r = tl.dot(x, y, out_dtype=out.dtype.element_ty)
    tl.store(out + m[:, None] * N + n[None, :], r)


def _operand(rng, shape, dtype, turned):
    if dtype == "int8":
        value = rng.integers(-128, 128, shape).astype(np.int8)
    else:
        value = rng.standard_normal(shape).astype(np.float32)
    exact = value
    if dtype == "bfloat16":
        bits = torch.from_numpy(value).bfloat16()
        value, exact = bits.view(torch.uint16).numpy(), bits.float().numpy()
    elif dtype != "int8":
        value = value.astype(dtype)
        exact = value
    return (np.asfortranarray(value) if turned else value), exact.astype(np.float64)


@pytest.mark.parametrize("arch", ["", "x86-64-v3"])
@pytest.mark.parametrize("dtype", ["float32", "bfloat16", "float16", "int8", "float64"])
@pytest.mark.parametrize(
    "shape", [(64, 64, 64), (16, 128, 32), (1, 64, 64), (4, 16, 16), (2, 8, 4), (32, 4, 2), (64, 2, 16)]
)
@pytest.mark.parametrize("layout", ["rows", "turned_a", "turned_b", "trans", "add"])
def test_dot_agrees_with_numpy(arch, dtype, shape, layout):
    rng = np.random.default_rng(0)
    m, n, k = shape
    a, exact_a = _operand(rng, (m, k), dtype, layout == "turned_a")
    b, exact_b = _operand(rng, (k, n), dtype, layout in ("turned_b", "trans"))
    kind = {"int8": np.int32, "float64": np.float64}.get(dtype, np.float32)
    c = (rng.standard_normal((m, n)) * 10).astype(kind)
    out = np.zeros((m, n), kind)
    size = a.itemsize
    arguments = {"a": a, "b": b, "c": c, "out": out, "am": a.strides[0] // size, "ak": a.strides[1] // size,
                 "bk": b.strides[0] // size, "bn": b.strides[1] // size}  # fmt: skip
    constants = {"M": m, "N": n, "K": k, "TRANS": layout == "trans", "ADD": layout == "add"}
    assert compile_kernel(dot_kernel, arguments, constants, arch=arch).prepare((1,), arguments)() == 0
    want = exact_a @ exact_b + (c if layout == "add" else 0)
    np.testing.assert_allclose(out, want, rtol=1e-5, atol=0 if dtype == "int8" else 1e-4)


@triton.jit
def matmul_kernel(
    a, b, c, M, N, K, am, ak, bk, bn, cm, cn, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, WRAP: tl.constexpr
):
    pid = tl.program_id(0)
    across = tl.cdiv(N, BN)
    m = (pid // across) * BM + tl.arange(0, BM)
    n = (pid % across) * BN + tl.arange(0, BN)
    k = tl.arange(0, BK)
    if WRAP:
        pa = a + (m % M)[:, None] * am + k[None, :] * ak
        pb = b + k[:, None] * bk + (n % N)[None, :] * bn
    else:
        pa = a + m[:, None] * am + k[None, :] * ak
        pb = b + k[:, None] * bk + n[None, :] * bn
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for step in range(tl.cdiv(K, BK)):
        inside = k < K - step * BK
        if WRAP:
            x = tl.load(pa, mask=inside[None, :], other=0.0)
            y = tl.load(pb, mask=inside[:, None], other=0.0)
        else:
            x = tl.load(pa, mask=inside[None, :] & (m < M)[:, None], other=0.0)
            y = tl.load(pb, mask=inside[:, None] & (n < N)[None, :], other=0.0)
        total = tl.dot(x, y, total)
        pa += BK * ak
        pb += BK * bk
    tl.store(c + m[:, None] * cm + n[None, :] * cn, total, mask=(m < M)[:, None] & (n < N)[None, :])


@pytest.mark.parametrize("wrap", [False, True])
@pytest.mark.parametrize("shape", [(128, 128, 128), (100, 72, 50), (33, 47, 65), (1, 64, 200), (200, 16, 16)])
@pytest.mark.parametrize("block", [(32, 32, 32), (64, 16, 64), (16, 64, 16)])
def test_matmul_of_odd_shapes(wrap, shape, block):
    rng = np.random.default_rng(1)
    m, n, k = shape
    a, b = rng.standard_normal((m, k)).astype(np.float32), rng.standard_normal((k, n)).astype(np.float32)
    c = np.zeros((m, n), np.float32)
    arguments = {"a": a, "b": b, "c": c, "M": m, "N": n, "K": k, "am": k, "ak": 1, "bk": n, "bn": 1, "cm": n, "cn": 1}
    run(
        matmul_kernel,
        (-(-m // block[0]) * -(-n // block[1]),),
        arguments,
        BM=block[0],
        BN=block[1],
        BK=block[2],
        WRAP=wrap,
    )
    np.testing.assert_allclose(c, a.astype(np.float64) @ b, rtol=1e-5, atol=1e-4)


@triton.jit
def two_dots_kernel(x, y, out, n, M: tl.constexpr):
    # The accumulator is read again after the dot that could have overwritten it.
    i, j = tl.arange(0, M)[:, None], tl.arange(0, M)[None, :]
    a, b = tl.load(x + i * M + j), tl.load(y + i * M + j)
    total, other = tl.zeros([M, M], tl.float32), tl.zeros([M, M], tl.float32)
    for _step in range(n):
        before = total
        total = tl.dot(a, b, total)
        other += before * 2
        other = tl.dot(b, total, tl.trans(other))
    tl.store(out + i * M + j, total + other)


def test_accumulator_that_is_read_later_is_not_overwritten():
    rng = np.random.default_rng(2)
    x, y, out = (rng.standard_normal((16, 16)).astype(np.float32) * 0.3 for _ in range(3))
    run(two_dots_kernel, (1,), {"x": x, "y": y, "out": out, "n": 3}, M=16)
    total, other = np.zeros((16, 16)), np.zeros((16, 16))
    for _ in range(3):
        before, total = total, x @ y + total
        other = y @ total + (other + before * 2).T
    np.testing.assert_allclose(out, total + other, rtol=1e-4, atol=1e-4)


@triton.jit
def reshaped_accumulator_kernel(x, y, c, out, M: tl.constexpr, N: tl.constexpr, FOLD: tl.constexpr):
    i, j, k = tl.arange(0, M), tl.arange(0, N), tl.arange(0, M)
    a = tl.load(x + i[:, None] * M + k[None, :])
    b = tl.load(y + k[:, None] * N + j[None, :])
    flat = tl.load(c + tl.arange(0, M * N // FOLD)[:, None] * FOLD + tl.arange(0, FOLD)[None, :])
    total = tl.dot(a, b, tl.reshape(flat, (M, N)) * 2)
    tl.store(out + i[:, None] * N + j[None, :], total)


@pytest.mark.parametrize(("m", "n", "fold"), [(32, 32, 8), (64, 16, 2), (16, 128, 256)])
def test_accumulator_may_be_reshaped(m, n, fold):
    rng = np.random.default_rng(3)
    x, y, c = (rng.standard_normal(s).astype(np.float32) for s in ((m, m), (m, n), (m, n)))
    out = np.zeros((m, n), np.float32)
    run(reshaped_accumulator_kernel, (1,), {"x": x, "y": y, "c": c, "out": out}, M=m, N=n, FOLD=fold)
    np.testing.assert_allclose(out, x.astype(np.float64) @ y + 2 * c, rtol=1e-5, atol=1e-4)


def test_avx2_multiplies_pairs_and_keeps_their_sums_in_registers():
    x = np.zeros((64, 64), np.int8)
    strides = {"am": 64, "ak": 1, "bk": 64, "bn": 1}
    arguments = {"a": x, "b": x, "c": np.zeros((64, 64), np.int32), "out": np.zeros((64, 64), np.int32), **strides}
    constants = {"M": 64, "N": 64, "K": 64, "TRANS": False, "ADD": False}
    lines = compile_kernel(dot_kernel, arguments, constants, arch="x86-64-v3").stages["asm"].splitlines()
    products = [i for i, line in enumerate(lines) if "vpmaddwd" in line]
    between = lines[products[0] : products[-1]]
    assert not [line for line in between if "vpmulld" in line or ("ymm" in line and "(%rsp)" in line)]


def test_operands_as_large_as_each_other_are_packed_one_by_one():
    x, out = np.zeros((64, 64), np.float32), np.zeros((64, 64), np.float32)
    arguments = {"a": x, "b": x, "c": out, "out": out, "am": 64, "ak": 1, "bk": 1, "bn": 64}
    constants = {"M": 64, "N": 64, "K": 64, "TRANS": False, "ADD": False}
    assert "gather" not in compile_kernel(dot_kernel, arguments, constants, arch="znver4").stages["asm"]


@triton.jit
def recurrence_kernel(h, w, out, rounds, SIDE: tl.constexpr, FORM: tl.constexpr):
    i = tl.arange(0, SIDE)
    place = i[:, None] * SIDE + i[None, :]
    state, weight = tl.load(h + place), tl.load(w + place)
    for _ in range(rounds):
        if FORM == "left":
            state = tl.dot(state, weight, state)
        elif FORM == "right":
            state = tl.dot(weight, state, state)
        elif FORM == "all":
            state = tl.dot(state, state, state)
        else:
            state += tl.dot(state, weight)
    tl.store(out + place, state)


@pytest.mark.parametrize("form", ["left", "right", "all", "sum"])
@pytest.mark.parametrize("rounds", [1, 2])
def test_a_product_may_be_added_to_its_own_operand(form, rounds):
    rng = np.random.default_rng(4)
    h, w = (rng.integers(-2, 3, (32, 32)).astype(np.float32) for _ in range(2))
    out, want = np.zeros_like(h), h
    run(recurrence_kernel, (1,), {"h": h, "w": w, "out": out, "rounds": rounds}, SIDE=32, FORM=form)
    for _ in range(rounds):
        left, right = (w, want) if form == "right" else (want, want if form == "all" else w)
        want = left @ right + want
    np.testing.assert_array_equal(out, want)
