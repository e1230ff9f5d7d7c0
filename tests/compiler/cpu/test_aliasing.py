"""Programs that overwrite what they read: all of a load comes before a later store, whatever shares a loop nest."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import triton.language as tl

import unify as un

SIZES = (16, 64, 1024)
Array = np.ndarray[Any, Any]


@un.jit
def reversed_(a, B: tl.constexpr):
    i = tl.arange(0, B)
    x = tl.load(a + i)
    tl.store(a + B - 1 - i, x)


@un.jit
def shifted(a, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(a + (i + 1) % B, tl.load(a + i))


@un.jit
def rolled_sum(a, B: tl.constexpr):
    i = tl.arange(0, B)
    for _ in range(3):
        tl.store(a + i, tl.load(a + i) + tl.load(a + (i + 1) % B))


@un.jit
def interleaved(a, B: tl.constexpr):
    i = tl.arange(0, B // 2)
    both = tl.interleave(tl.load(a + i), tl.load(a + B // 2 + i))
    tl.store(a + tl.arange(0, B), both)


@un.jit
def one_place(a, B: tl.constexpr):
    place = a + tl.arange(0, B) * 0
    tl.store(place, tl.load(place) + 1)


@un.jit
def atomic(a, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.atomic_add(a + i, tl.load(a + (i + B - 1) % B))


@un.jit
def halves(a, B: tl.constexpr):
    i = tl.arange(0, B // 2)
    x, y = tl.load(a + i), tl.load(a + B // 2 + i)
    tl.store(a + i, x - y)
    tl.store(a + B // 2 + i, x + y)


def first_plus_one(a: Array) -> Array:
    return np.concatenate([a[:1] + 1, a[1:]])


def rolled_three_times(a: Array) -> Array:
    for _ in range(3):
        a = a + np.roll(a, -1)
    return a


CASES: list[tuple[un.Kernel, Callable[[Array], Array]]] = [
    (reversed_, lambda a: a[::-1]),
    (shifted, lambda a: np.roll(a, 1)),
    (rolled_sum, rolled_three_times),
    (interleaved, lambda a: np.stack(np.split(a, 2), 1).ravel()),
    (one_place, first_plus_one),
    (atomic, lambda a: a + np.roll(a, 1)),
    (halves, lambda a: np.concatenate([np.subtract(*np.split(a, 2)), np.add(*np.split(a, 2))])),
]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kernel", "expected"), CASES, ids=[kernel.fn.__name__ for kernel, _ in CASES])
def test_a_load_is_whole_before_a_store_moves_its_elements(
    kernel: un.Kernel, expected: Callable[[Array], Array], size: int
) -> None:
    a = np.random.default_rng(size).integers(0, 99, size).astype(np.float32)
    want = expected(a).copy()
    kernel[1](a, B=size)
    np.testing.assert_array_equal(a, want)


@un.jit
def turned(a, B: tl.constexpr):
    place = a + tl.arange(0, B)[:, None] * B + tl.arange(0, B)[None, :]
    tl.store(place, tl.trans(tl.load(place)))


@pytest.mark.parametrize("size", [8, 64])
def test_a_matrix_is_transposed_in_place(size: int) -> None:
    a = np.random.default_rng(size).standard_normal((size, size), np.float32)
    want = a.T.copy()
    turned[1](a, B=size)
    np.testing.assert_array_equal(a, want)


@un.jit
def exchanged(a, b, B: tl.constexpr):
    i = tl.arange(0, B)
    x, y = tl.load(a + i), tl.load(b + i)
    tl.store(b + i, x)
    tl.store(a + B - 1 - i, y)


@un.jit
def scattered(a, index, B: tl.constexpr):
    place = a + tl.load(index + tl.arange(0, B))
    tl.store(place, tl.load(place) + 1)


@un.jit
def summed_and_overwritten(a, out, B: tl.constexpr):
    i = tl.arange(0, B)
    x = tl.load(a + i)
    total = tl.sum(x, 0)
    scaled = tl.exp(x) * tl.exp(-x)
    tl.store(a + B - 1 - i, x * 0 + i)
    tl.store(out, total)
    tl.store(out + 1, tl.sum(scaled, 0))


@pytest.mark.parametrize("size", SIZES)
def test_stores_of_several_values_keep_their_order(size: int) -> None:
    random = np.random.default_rng(size)
    a = random.integers(0, 99, size).astype(np.float32)
    b = a + 100
    want = b[::-1].copy(), a.copy()
    exchanged[1](a, b, B=size)
    np.testing.assert_array_equal((a, b), want)

    index = random.integers(0, size // 2, size).astype(np.int32)  # with repetitions
    want_a = a.copy()
    want_a[index] = a[index] + 1
    scattered[1](a, index, B=size)
    np.testing.assert_array_equal(a, want_a)

    a = random.standard_normal(size).astype(np.float32)
    total, out = a.sum(dtype=np.float64), np.zeros(2, np.float32)
    summed_and_overwritten[1](a, out, B=size)
    np.testing.assert_allclose(out, [total, size], rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(a, np.arange(size)[::-1])


@un.jit
def doubled(a, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(a + i, tl.load(a + i) * 2)


@pytest.mark.parametrize("kernel", [doubled, halves], ids=["one place", "two halves"])
def test_in_place_at_its_own_position_needs_no_copy(kernel: un.Kernel) -> None:
    kernel[1](np.ones(4096, np.float32), B=4096)
    assert kernel.binaries[-1].shared_bytes < 4096


@un.jit
def stored_twice(a, B: tl.constexpr):
    i = tl.arange(0, B)
    tl.store(a + i, i)
    tl.store(a + B - i, i)


@pytest.mark.parametrize("size", SIZES)
def test_the_later_of_two_stores_wins(size: int) -> None:
    a = np.zeros(size + 1, np.int32)
    stored_twice[1](a, B=size)
    np.testing.assert_array_equal(a, [0, *range(size - 1, -1, -1)])


@un.jit
def grown_in_a_loop(a, step, grown, seen, rounds, B: tl.constexpr):
    # What advances from round to round is computed where it is read: here from what was loaded before the stores.
    i = tl.arange(0, B)
    start, by = tl.load(a + B - 1 - i), tl.load(step + i)
    value = start
    for _ in range(rounds):
        tl.store(seen + i, value)
        tl.store(step + i, 100)
        value += by
    tl.store(a + i, value * 8)
    tl.store(grown + i, value)


@pytest.mark.parametrize("size", SIZES)
def test_what_grows_from_a_load_is_of_before_the_stores(size: int) -> None:
    a, step = np.arange(size, dtype=np.int32), np.arange(size, dtype=np.int32) % 7
    grown, seen = np.zeros((2, size), np.int32)
    wanted = a[::-1] + 3 * step
    last = wanted - step
    grown_in_a_loop[1](a, step, grown, seen, 3, B=size)
    np.testing.assert_array_equal(grown, wanted)
    np.testing.assert_array_equal(seen, last)
    np.testing.assert_array_equal(a, wanted * 8)
