"""Loops and branches, and what they carry."""

from __future__ import annotations

import numpy as np
import pytest
import triton
import triton.language as tl

from unify._errors import CompileError

from .harness import compare, emulate, written

RNG = np.random.default_rng(11)


def floats(*shape: int) -> np.ndarray:
    return RNG.standard_normal(shape).astype(np.float32)


@triton.jit
def _swap(x, out, n, N: tl.constexpr):
    at = tl.arange(0, N)
    a = tl.load(x + at)
    b = a * 2
    for _ in range(n):
        a, b = b, a + b
    tl.store(out + at, a - 3 * b)


@pytest.mark.parametrize("n", [0, 2, 3, 10])
def test_values_that_change_places_each_round(n: int) -> None:
    x, out = floats(64), np.zeros(64, np.float32)
    emulate(_swap, (1,), {"x": x, "out": out, "n": n}, N=64)
    a, b = x, x * 2
    for _ in range(n):
        a, b = b, a + b
    np.testing.assert_array_equal(out, a - 3 * b)


@triton.jit
def _delay(x, out, n, N: tl.constexpr):
    at = tl.arange(0, N)
    newest = tl.zeros((N,), tl.float32)
    older = tl.full((N,), 1, tl.float32)
    for i in range(n):
        oldest = older
        older = newest
        newest = tl.load(x + i * N + at) + oldest
        tl.store(out + i * N + at, newest - older)


def test_values_that_move_up_each_round() -> None:
    x, out = floats(9, 128), np.zeros((9, 128), np.float32)
    emulate(_delay, (1,), {"x": x, "out": out, "n": 9}, N=128)
    newest, older = np.zeros(128, np.float32), np.ones(128, np.float32)
    for i in range(9):
        oldest, older = older, newest
        newest = x[i] + oldest
        np.testing.assert_array_equal(out[i], newest - older)


@triton.jit
def _nested(x, out, n, m, N: tl.constexpr):
    at = tl.arange(0, N)
    total = tl.zeros((N,), tl.float32)
    for i in range(n):
        part = tl.load(x + i * N + at)
        start = part
        for _ in range(m):
            part = part * 0.5 + start
        total = total + part - start
    tl.store(out + at, total)


@pytest.mark.parametrize(("n", "m"), [(0, 3), (4, 0), (3, 5)])
def test_a_loop_in_a_loop(n: int, m: int) -> None:
    x, out = floats(5, 64), np.full(64, 9, np.float32)
    emulate(_nested, (1,), {"x": x, "out": out, "n": n, "m": m}, N=64)
    total = np.zeros(64, np.float32)
    for i in range(n):
        part = x[i]
        for _ in range(m):
            part = part * np.float32(0.5) + x[i]
        total = total + part - x[i]
    np.testing.assert_array_equal(out, total)


@triton.jit
def _until(x, out, limit, N: tl.constexpr):
    at = tl.arange(0, N)
    value = tl.load(x + at)
    rounds = 0
    while tl.max(value, 0) < limit:
        value = value * 1.5 + 1
        rounds += 1
    tl.store(out + at, value + rounds)


def test_while_with_a_tensor_in_its_condition() -> None:
    x, out = floats(32), np.zeros(32, np.float32)
    emulate(_until, (1,), {"x": x, "out": out, "limit": 100.0}, N=32)
    value, rounds = x, 0
    while value.max() < 100:
        value, rounds = value * np.float32(1.5) + np.float32(1), rounds + 1
    np.testing.assert_array_equal(out, value + np.float32(rounds))


@triton.jit
def _branches(x, out, n, N: tl.constexpr):
    at = tl.program_id(0) * N + tl.arange(0, N)
    value = tl.load(x + at)
    if tl.program_id(0) > n:
        value = value * 2
    elif tl.program_id(0) == n:
        value = tl.zeros((N,), tl.float32) - 1
    else:
        value = value + 1
    tl.store(out + at, value)


def test_each_branch_gives_its_value() -> None:
    x, out = floats(4, 16), np.zeros((4, 16), np.float32)
    emulate(_branches, (4,), {"x": x, "out": out, "n": 2}, N=16)
    np.testing.assert_array_equal(out, np.stack([x[0] + 1, x[1] + 1, np.full(16, -1, np.float32), x[3] * 2]))


@triton.jit
def _early(x, out, n, N: tl.constexpr):
    if tl.program_id(0) >= n:
        return
    at = tl.program_id(0) * N + tl.arange(0, N)
    tl.store(out + at, tl.load(x + at) + 1)


def test_a_program_may_return_early() -> None:
    x, out = floats(4, 16), np.zeros((4, 16), np.float32)
    emulate(_early, (4,), {"x": x, "out": out, "n": 3}, N=16)
    np.testing.assert_array_equal(out[:3], x[:3] + 1)
    assert (out[3] == 0).all()


@triton.jit
def _flash(q, k, v, out, scale, n, M: tl.constexpr, N: tl.constexpr, D: tl.constexpr):
    head, dim = tl.program_id(1) * n * D, tl.arange(0, D)
    rows, columns = tl.program_id(0) * M + tl.arange(0, M), tl.arange(0, N)
    query = tl.load(q + head + rows[:, None] * D + dim[None, :])
    top, mass = tl.full((M,), -1e30, tl.float32), tl.zeros((M,), tl.float32)
    total = tl.zeros((M, D), tl.float32)
    for start in range(0, (tl.program_id(0) + 1) * M, N):
        place = head + (start + columns)[:, None] * D + dim[None, :]
        keys, values = tl.load(k + place), tl.load(v + place)
        score = tl.dot(query, tl.trans(keys)) * scale
        score = tl.where(rows[:, None] >= (start + columns)[None, :], score, -1e30)
        higher = tl.maximum(top, tl.max(score, 1))
        power, fade = tl.exp(score - higher[:, None]), tl.exp(top - higher)
        mass = mass * fade + tl.sum(power, 1)
        total = total * fade[:, None] + tl.dot(power.to(values.dtype), values)
        top = higher
    tl.store(out + head + rows[:, None] * D + dim[None, :], (total / mass[:, None]).to(out.dtype.element_ty))


@pytest.mark.parametrize("dtype", [np.float16, np.float32])
def test_attention_block_by_block(dtype: type) -> None:
    q, k, v = (floats(2, 128, 32).astype(dtype) for _ in range(3))
    out = np.zeros_like(q)
    arguments = {"q": q, "k": k, "v": v, "out": out, "scale": 0.17, "n": 128}
    emulate(_flash, (4, 2), arguments, M=32, N=32, D=32)
    score = np.einsum("hmd,hnd->hmn", q.astype(np.float64), k.astype(np.float64)) * 0.17
    score = np.where(np.tril(np.ones((128, 128), bool)), score, -np.inf)
    power = np.exp(score - score.max(-1, keepdims=True))
    expected = power / power.sum(-1, keepdims=True) @ v.astype(np.float64)
    np.testing.assert_allclose(out, expected, rtol=0, atol=4e-3 if dtype is np.float16 else 2e-6)


@triton.jit
def _paged(q, cache, table, lengths, out, columns, SIZE: tl.constexpr, D: tl.constexpr):
    row, dim, place = tl.program_id(0), tl.arange(0, D), tl.arange(0, SIZE)
    length = tl.load(lengths + row)
    query = tl.load(q + row * D + dim)
    total, mass = tl.zeros((D,), tl.float32), 0.0
    for i in range((length + SIZE - 1) // SIZE):
        block = tl.load(table + row * columns + i)
        keys = tl.load(cache + block * SIZE * D + place[:, None] * D + dim[None, :])
        weight = tl.where(i * SIZE + place < length, tl.exp(tl.sum(keys * query[None, :], 1)), 0.0)
        total += tl.sum(keys * weight[:, None], 0)
        mass += tl.sum(weight, 0)
    tl.store(out + row * D + dim, total / mass)


def test_blocks_found_through_a_table() -> None:
    q, cache = floats(3, 32), floats(12, 16, 32) * np.float32(0.3)
    table = RNG.permutation(12).astype(np.int32).reshape(3, 4)
    arguments = {
        "q": q, "cache": cache, "table": table, "lengths": np.array([5, 64, 33], np.int32),
        "out": np.zeros((3, 32), np.float32), "columns": 4,
    }  # fmt: skip
    compare(_paged, (3,), arguments, rtol=1e-4, atol=1e-5, SIZE=16, D=32)


# ---------------------------------------------------------------- conditions


@triton.jit
def _hops(x, out, n):
    k, total, value = 0, 0, tl.load(x + tl.program_id(0))
    is_on = value > 0
    while (is_on & (k < n)) | ((total < 3) & (k < 50) & (value != 0)):
        following = tl.load(x + (tl.program_id(0) + k) % n)
        is_on = (following % 3 != 0) & (following != 7)
        if following > 2:
            step = 0
            while (step < following) and (total % 5 != 4):
                total += step
                step += 1
        else:
            total += 1
        k += 1
    tl.store(out + 2 * tl.program_id(0), k)
    tl.store(out + 2 * tl.program_id(0) + 1, total)


def _hops_in_python(x: list[int], start: int) -> tuple[int, int]:
    k, total, is_on = 0, 0, x[start] > 0
    while (is_on and k < len(x)) or (total < 3 and k < 50 and x[start] != 0):
        following = x[(start + k) % len(x)]
        is_on = following % 3 != 0 and following != 7
        step = 0
        while following > 2 and step < following and total % 5 != 4:
            total, step = total + step, step + 1
        total, k = total + (following <= 2), k + 1
    return k, total


def test_while_with_conditions_that_loops_inside_change() -> None:
    x, out = RNG.integers(1, 12, 40).astype(np.int32), np.zeros((40, 2), np.int32)
    x[::7] = 0
    emulate(_hops, (40,), {"x": x, "out": out, "n": 40})
    np.testing.assert_array_equal(out, [_hops_in_python(x.tolist(), start) for start in range(40)])


@triton.jit
def _closer(x, y, out, n, N: tl.constexpr):
    i = tl.program_id(0) * N + tl.arange(0, N)
    a, b, count = tl.load(x + i), tl.load(y + i), 0
    while (tl.max(tl.abs(a - b)) > 0.5) & (count < n):
        middle = (a + b) * 0.5
        if tl.sum((middle > 0).to(tl.int32)) * 2 > N:
            a, b = middle, b * 0.5
        else:
            a, b = b, middle
        count += 1
    tl.store(out + i, a + count)


def test_while_with_tiles_that_change_places_under_a_condition_on_all_of_them() -> None:
    x, y = (RNG.standard_normal((6, 32)).astype(np.float32) * scale for scale in (9, 1))
    out = np.zeros_like(x)
    emulate(_closer, (6,), {"x": x, "y": y, "out": out, "n": 20}, N=32)
    counts = set()
    for a, b, got in zip(x, y, out):
        count = 0
        while np.abs(a - b).max() > 0.5 and count < 20:
            middle = (a + b) * np.float32(0.5)
            a, b = (middle, b * np.float32(0.5)) if (middle > 0).sum() * 2 > 32 else (b, middle)
            count += 1
        counts.add(count)
        np.testing.assert_allclose(got, a + count, rtol=1e-6)
    assert len(counts) > 1


@triton.jit
def _chain(following, out):
    at, total, factor, is_done = tl.program_id(0), tl.full((), 0, tl.int64), 1.0, False
    while not is_done:
        at = tl.load(following + at)
        total += at.to(tl.int64) * 4294967296
        factor *= 1.5
        is_done = (at == 0) or (factor > 1000.0)
    tl.store(out + tl.program_id(0), total)


def test_while_carries_flags_floats_and_long_integers() -> None:
    following, out = RNG.permutation(40).astype(np.int32), np.zeros(40, np.int64)
    emulate(_chain, (40,), {"following": following, "out": out})
    for start in range(40):
        at, total = start, 0
        for _ in range(18):  # 1.5 ** 18 > 1000
            at = int(following[at])
            total += at << 32
            if at == 0:
                break
        assert out[start] == total


@triton.jit
def _ways_out(x, out, N: tl.constexpr):
    p, i = tl.program_id(0), tl.program_id(0) * N + tl.arange(0, N)
    if p == 1:
        return
    elif p == 2:
        tl.store(out + i, 7.0)
        return
    else:
        tl.store(out + i, 1.0)
    if tl.max(tl.load(x + i)) > 1.5:
        return
    tl.store(out + i, tl.load(x + i))


def test_several_ways_out() -> None:
    x = RNG.standard_normal((12, 16)).astype(np.float32)
    out = np.zeros_like(x)
    emulate(_ways_out, (12,), {"x": x, "out": out}, N=16)
    expected = np.where(x.max(1, keepdims=True) > 1.5, np.float32(1), x)
    expected[1:3] = np.array([[0], [7]])
    assert 0 < (expected[3:] == 1).all(1).sum() < 9
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize("inner", [True, False])
def test_blocks_that_jump_are_refused(inner: bool) -> None:
    # Triton's early returns are branches of scf where the vendor's adapter takes them; it leaves no others.
    jump = '"cf.br"()[^next] : () -> () ^next:'
    body = f'"scf.execute_region"() ({{ {jump} "scf.yield"() : () -> () }}) : () -> ()' if inner else jump
    with pytest.raises(CompileError, match="several basic blocks"):
        written(body, np.zeros(1, np.int32), 1)


@triton.jit
def _either_tile(x, out, n, M: tl.constexpr, N: tl.constexpr):
    place = tl.arange(0, M)[:, None] * N + tl.arange(0, N)[None, :]
    tile = tl.load(x + place)
    chosen = tile + 1 if n > 10 else tile
    tl.store(out + place, chosen)
    tl.store(out + M * N + tl.arange(0, M * N), tl.reshape(chosen, (M * N,)) * 2)


@pytest.mark.parametrize("n", [5, 15])
def test_a_tile_of_two_axes_comes_out_of_a_branch(n: int) -> None:
    x, out = RNG.standard_normal((16, 8)).astype(np.float32), np.zeros((2, 16, 8), np.float32)
    emulate(_either_tile, (1,), {"x": x, "out": out, "n": n}, M=16, N=8)
    expected = x + 1 if n > 10 else x
    np.testing.assert_array_equal(out, np.stack([expected, expected * 2]))
