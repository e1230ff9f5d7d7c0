"""Loops, branches, early returns, functions and what they carry."""

from __future__ import annotations

import numpy as np
import pytest
import triton
import triton.language as tl

from .harness import compile_kernel, run

# Triton 3.9 warns of an argument that 3.6 wants.
pytestmark = pytest.mark.filterwarnings("ignore:.*can_reorder")


@triton.jit
def fibonacci_kernel(out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    a, b = i, i + 1
    for _ in range(n):
        a, b = b, a + b
    tl.store(out + i, a)


def test_carried_tensors_change_places():
    out = np.zeros(64, np.int32)
    run(fibonacci_kernel, (1,), {"out": out, "n": 7}, BLOCK=64)
    want = [np.arange(64), np.arange(64) + 1]
    for _ in range(7):
        want = [want[1], want[0] + want[1]]
    np.testing.assert_array_equal(out, want[0])


@triton.jit
def turn_kernel(x, out, n, M: tl.constexpr):
    i, j = tl.arange(0, M)[:, None], tl.arange(0, M)[None, :]
    a = tl.load(x + i * M + j)
    for step in range(n):
        a = tl.trans(a) * 2 + step
    tl.store(out + i * M + j, a)


@pytest.mark.parametrize("n", [0, 1, 2, 3])
def test_carried_tensor_that_is_turned_each_round(n):
    x = np.random.default_rng(0).standard_normal((32, 32)).astype(np.float32)
    out = np.zeros_like(x)
    run(turn_kernel, (1,), {"x": x, "out": out, "n": n}, M=32)
    want = x
    for step in range(n):
        want = want.T * 2 + step
    np.testing.assert_allclose(out, want, rtol=1e-6)


@triton.jit
def branch_kernel(x, out, n, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    value = tl.load(x + i)
    pid = tl.program_id(0)
    if pid % 2 == 0:
        value = value * 2
        scale = tl.sum(value, 0)
    elif pid > n:
        value = -value
        scale = 1.0
    else:
        scale = 3.0
    tl.store(out + pid * BLOCK + i, value * scale)


def test_branches_hand_over_scalars_and_tensors():
    x = np.arange(32, dtype=np.float32)
    out = np.zeros((6, 32), np.float32)
    run(branch_kernel, (6,), {"x": x, "out": out, "n": 3}, BLOCK=32)
    want = [x * 2 * (x * 2).sum() if p % 2 == 0 else -x if p > 3 else 3 * x for p in range(6)]
    np.testing.assert_allclose(out, want)


@triton.jit
def while_kernel(x, out, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    value = tl.load(x + i)
    rounds = 0
    while tl.max(value, 0) > 1.0:
        value = value * 0.5
        rounds += 1
    tl.store(out + i, value)
    tl.store(out + BLOCK, rounds)


def test_while_loop_over_a_reduction():
    x = np.linspace(1, 1000, 64).astype(np.float32)
    out = np.zeros(65, np.float32)
    run(while_kernel, (1,), {"x": x, "out": out}, BLOCK=64)
    np.testing.assert_allclose(out[:64], x / 1024)
    assert out[64] == 10


@triton.jit
def early_kernel(x, out, n, BLOCK: tl.constexpr):
    pid = tl.program_id(0)
    i = tl.arange(0, BLOCK)
    if pid >= n:
        tl.store(out + pid * BLOCK + i, i.to(tl.float32))
        return
    value = tl.load(x + i)
    if tl.sum(value, 0) < 0:
        return
    tl.store(out + pid * BLOCK + i, value + pid)


@pytest.mark.parametrize("sign", [1, -1])
def test_early_return(sign):
    x = np.arange(16, dtype=np.float32) * sign
    out = np.full((4, 16), 99, np.float32)
    run(early_kernel, (4,), {"x": x, "out": out, "n": 2}, BLOCK=16)
    np.testing.assert_array_equal(out[2:], [np.arange(16)] * 2)
    np.testing.assert_array_equal(out[:2], [x, x + 1] if sign > 0 else np.full((2, 16), 99))


@triton.jit
def nested_kernel(x, out, n, m, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    base = tl.exp(tl.load(x + i))
    total = tl.zeros([BLOCK], tl.float32)
    for a in range(n):
        part = tl.zeros([BLOCK], tl.float32)
        for b in range(a, m, 2):
            part += base * b
        if a % 2 == 1:
            total += part
        else:
            total -= part
    tl.store(out + i, total)


def test_nested_loops_with_a_branch():
    x = np.random.default_rng(1).standard_normal(64).astype(np.float32)
    out = np.zeros_like(x)
    run(nested_kernel, (1,), {"x": x, "out": out, "n": 5, "m": 9}, BLOCK=64)
    factor = sum((1 if a % 2 else -1) * sum(range(a, 9, 2)) for a in range(5))
    np.testing.assert_allclose(out, np.exp(x) * factor, rtol=1e-5)


@triton.jit
def advance_kernel(x, out, n, stride, BLOCK: tl.constexpr):
    i = tl.arange(0, BLOCK)
    p = x + i
    total = tl.zeros([BLOCK], tl.float32)
    for _ in range(n):
        total += tl.load(p)
        p += stride
    tl.store(out + i, total)
    tl.store(out + BLOCK + i, tl.load(p))


@pytest.mark.parametrize("n", [0, 1, 5])
def test_pointers_that_advance_are_right_after_the_loop_too(n):
    x = np.random.default_rng(2).standard_normal(1000).astype(np.float32)
    out = np.zeros(64, np.float32)
    run(advance_kernel, (1,), {"x": x, "out": out, "n": n, "stride": 37}, BLOCK=32)
    np.testing.assert_allclose(
        out[:32], sum((x[37 * s : 37 * s + 32] for s in range(n)), np.zeros(32)), rtol=1e-5, atol=1e-6
    )
    np.testing.assert_array_equal(out[32:], x[37 * n : 37 * n + 32])


@triton.jit
def assert_kernel(x, n):
    value = tl.load(x + tl.program_id(0))
    tl.device_assert(value < n, "value too large")


def test_failed_assertion_stops_the_grid_and_names_the_line():
    x = np.array([1, 2, 7, 1, 9], np.int32)
    arguments = {"x": x, "n": 5}
    kernel = compile_kernel(assert_kernel, arguments, debug=True)
    assert kernel.prepare((2,), arguments)() == 0
    assert kernel.prepare((5,), arguments)() != 0
    fault = kernel.fault
    assert (fault.kind, tuple(fault.program)) == (1, (2, 0, 0))
    assert b"value too large" in fault.message
    assert fault.file.endswith(b"test_control.py")
    assert fault.line > 0


@triton.jit
def layout_kernel(x, y, out, N: tl.constexpr, OP: tl.constexpr):
    i = tl.arange(0, N)
    a, b = tl.load(x + i), tl.load(y + i)
    if OP == "join":
        r = tl.reshape(tl.join(a, b), [2 * N])
    elif OP == "interleave":
        r = tl.interleave(a, b)
    elif OP == "split":
        c, d = tl.split(tl.reshape(tl.interleave(a, b), [N, 2]))
        r = tl.cat(d, c, can_reorder=True)
    elif OP == "permute":
        r = tl.reshape(tl.permute(tl.reshape(tl.interleave(a, b), [4, N // 8, 1, 4]), [3, 2, 0, 1]), [2 * N])
    elif OP == "flip":
        r = tl.flip(tl.interleave(a, b), 0)
    else:
        r = tl.sort(tl.interleave(a, b))
    tl.store(out + tl.arange(0, 2 * N), r)


@pytest.mark.parametrize("op", ["join", "interleave", "split", "permute", "flip", "sort"])
@pytest.mark.parametrize("n", [8, 64, 256])
def test_elements_move_to_their_places(op, n):
    rng = np.random.default_rng(4)
    x, y = rng.standard_normal(n).astype(np.float32), rng.standard_normal(n).astype(np.float32)
    out = np.zeros(2 * n, np.float32)
    run(layout_kernel, (1,), {"x": x, "y": y, "out": out}, N=n, OP=op)
    mixed = np.stack([x, y], 1).ravel()
    want = {
        "join": mixed, "interleave": mixed, "split": np.concatenate([y, x]), "flip": mixed[::-1],
        "sort": np.sort(mixed), "permute": mixed.reshape(4, n // 8, 1, 4).transpose(3, 2, 0, 1).ravel(),
    }[op]  # fmt: skip
    np.testing.assert_array_equal(out, want)
