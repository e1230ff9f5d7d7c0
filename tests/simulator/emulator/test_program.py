"""Single operations on numbers and registers, against NumPy and the CPU target."""

from __future__ import annotations

import numpy as np
import pytest
import triton
import triton.language as tl

from unify._errors import CompileError
from unify.simulator import emulator

from ...compiler.cpu.harness import compile_kernel, ttir
from .harness import Emulated, compare, emulate, linalg, tool, written

RNG = np.random.default_rng(19)


@triton.jit
def _functions(x, out, N: tl.constexpr):
    at = tl.arange(0, N)
    a = tl.load(x + at)
    tl.store(out + at, tl.sin(a) + tl.cos(a) + tl.log2(a) + tl.exp2(a) + tl.sqrt(a) + tl.rsqrt(a) + tl.erf(a))
    tl.store(out + N + at, tl.floor(a) + tl.ceil(a) + tl.abs(-a) + tl.fma(a, a, a) + tl.sigmoid(a) + tl.log(a))
    tl.store(out + 2 * N + at, tl.clamp(a, 0.5, 1.0) + tl.minimum(a, 2.0) + tl.sqrt_rn(a) + tl.div_rn(a, a + 2))


@pytest.mark.parametrize("n", [4, 64, 256])
def test_functions_agree_with_the_cpu_target(n: int) -> None:
    x = (RNG.random(n) * 4 + 0.1).astype(np.float32)
    compare(_functions, (1,), {"x": x, "out": np.zeros(3 * n, np.float32)}, rtol=2e-6, atol=2e-6, N=n)


@triton.jit
def _whole(x, y, flags, out, N: tl.constexpr):
    at = tl.arange(0, N)
    a, b, flag = tl.load(x + at).to(tl.int64), tl.load(y + at).to(tl.int64), tl.load(flags + at)
    tl.store(out + at, tl.where(flag, a * 1000000007 + b, a // 7 + b % 5))
    tl.store(out + N + at, (a << 3) ^ (b >> 2) & ~a | 5)
    tl.store(flags + at, flag ^ (b > 3))


def test_whole_numbers_of_all_sizes_agree_with_the_cpu_target() -> None:
    arguments = {
        "x": RNG.integers(-100, 100, 64).astype(np.int8), "y": RNG.integers(-(2**15), 2**15, 64).astype(np.int16),
        "flags": RNG.random(64) < 0.5, "out": np.zeros(128, np.int64),
    }  # fmt: skip
    compare(_whole, (1,), arguments, N=64)


@triton.jit
def _unsigned(x, out, floats, N: tl.constexpr):
    at = tl.arange(0, N)
    value = tl.load(x + at)
    tl.store(out + at, value // 3 + value % 7 + (value >> 3))
    tl.store(floats + at, value.to(tl.float32) + tl.load(floats + at).to(tl.uint32).to(tl.float32))


def test_unsigned_numbers_agree_with_the_cpu_target() -> None:
    arguments = {
        "x": RNG.integers(0, 2**32, 64).astype(np.uint32), "out": np.zeros(64, np.uint32),
        "floats": (RNG.random(64) * 1000).astype(np.float32),
    }  # fmt: skip
    compare(_unsigned, (1,), arguments, N=64)


@triton.jit
def _halves(x, y, out, n, N: tl.constexpr):
    at = tl.arange(0, N)
    a, b = tl.load(x + at, at < n, other=1.0), tl.load(y + at, at < n, other=2.0)
    tl.store(out + at, a * a + a / 3, at < n)
    tl.store(y + at, (b * b + b).to(tl.bfloat16), at < n)


@pytest.mark.parametrize("n", [1, 31, 64])
def test_short_floats_round_as_on_the_cpu_target(n: int) -> None:
    y = (RNG.standard_normal(64).astype(np.float32).view(np.uint32) >> 16).astype(np.uint16)
    arguments = {"x": RNG.standard_normal(64).astype(np.float16), "y": y, "out": np.zeros(64, np.float16), "n": n}
    # The CPU target fuses a product and a sum, the emulator rounds twice.
    compare(_halves, (1,), arguments, rtol=2.0**-7, atol=1e-3, types={"y": "*bf16"}, N=64)


@triton.jit
def _bits(codes, scale, out, N: tl.constexpr):
    at = tl.arange(0, N)
    code = tl.load(codes + at).to(tl.int32) & 0xFF
    value = (((code & 0x80) << 24) | ((code & 0x7F) << 20)).to(tl.float32, bitcast=True) * 1.329227995784916e36
    tl.store(out + at, value * tl.load(scale))


def test_float8_read_as_bytes() -> None:
    codes = np.arange(256, dtype=np.uint8)
    out = np.zeros(256, np.float32)
    emulate(_bits, (1,), {"codes": codes.view(np.int8), "scale": np.array([0.5], np.float32), "out": out}, N=256)
    exponent, mantissa = (codes.astype(int) >> 3) & 15, codes.astype(int) & 7
    size = np.where(exponent == 0, mantissa / 8 * 2.0**-6, (1 + mantissa / 8) * 2.0 ** (exponent - 7.0))
    np.testing.assert_array_equal(out, np.where(codes > 127, -size, size) * 0.5)


@triton.jit
def _high(x, y, out, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(out + at, tl.umulhi(tl.load(x + at), tl.load(y + at)))


def test_the_high_half_of_a_product_is_of_unsigned_numbers() -> None:
    x, y = (RNG.integers(-(2**31), 2**31, 64).astype(np.int32) for _ in range(2))
    out = np.zeros(64, np.int32)
    emulate(_high, (1,), {"x": x, "y": y, "out": out}, N=64)
    product = x.view(np.uint32).astype(np.uint64) * y.view(np.uint32)
    np.testing.assert_array_equal(out.view(np.uint32), product >> np.uint64(32))


@pytest.mark.parametrize("number", [-8, -7, -1, 0, 6, 7])
@pytest.mark.parametrize("divisor", [3, -3, 7])
def test_divisions_that_round_up_and_down(number: int, divisor: int) -> None:
    out, places = np.zeros(3, np.int32), ""
    operations = ["floordivsi", "ceildivsi", "ceildivui"]
    for i, operation in enumerate(operations):
        places += f"""
    %at{i} = "arith.constant"() <{{value = {i} : index}}> : () -> index
    %v{i} = "arith.{operation}"(%n, %by) : (i32, i32) -> i32
    "memref.store"(%v{i}, %out, %at{i}) : (i32, memref<?xi32>, index) -> ()"""
    written(f'%by = "arith.constant"() <{{value = {divisor} : i32}}> : () -> i32 {places}', out, number)
    unsigned = -(-(number % 2**32) // (divisor % 2**32))
    np.testing.assert_array_equal(out, [number // divisor, -(-number // divisor), np.int64(unsigned).astype(np.int32)])


@triton.jit
def _double(x, out, N: tl.constexpr):
    at = tl.arange(0, N)
    value = tl.load(x + at)
    tl.store(out + at, tl.exp(value) + tl.sqrt(tl.abs(value)))


def test_doubles() -> None:
    x, out = RNG.standard_normal(32), np.zeros(32)
    emulate(_double, (1,), {"x": x, "out": out}, N=32)
    np.testing.assert_allclose(out, np.exp(x) + np.sqrt(np.abs(x)), rtol=1e-14)


# ---------------------------------------------------------------- atomic operations


@triton.jit
def _ranks(expert, count, rank, out, N: tl.constexpr):
    row = tl.program_id(0)
    tl.store(rank + row, tl.atomic_add(count + tl.load(expert + row), 1))
    at = tl.arange(0, N)
    tl.atomic_add(out + tl.load(expert + row) * N + at, at + row)


def test_atomic_sums_and_what_they_return() -> None:
    expert = RNG.integers(0, 4, 40).astype(np.int32)
    count, rank, out = np.zeros(4, np.int32), np.zeros(40, np.int32), np.zeros((4, 16), np.int32)
    emulate(_ranks, (40,), {"expert": expert, "count": count, "rank": rank, "out": out}, N=16)
    np.testing.assert_array_equal(count, np.bincount(expert, minlength=4))
    expected = np.zeros_like(out)
    np.add.at(expected, expert, np.arange(16, dtype=np.int32) + np.arange(40, dtype=np.int32)[:, None])
    np.testing.assert_array_equal(out, expected)
    for e in range(4):
        np.testing.assert_array_equal(rank[expert == e], np.arange(count[e]))


@triton.jit
def _collisions(x, place, out, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.atomic_add(out + tl.load(place + at), tl.load(x + at))


def test_lanes_that_add_to_one_place() -> None:
    x, place, out = (
        RNG.integers(0, 9, 64).astype(np.float32),
        RNG.integers(0, 5, 64).astype(np.int32),
        np.zeros(5, np.float32),
    )
    emulate(_collisions, (1,), {"x": x, "place": place, "out": out}, N=64)
    np.testing.assert_array_equal(out, np.bincount(place, x, minlength=5).astype(np.float32))


@triton.jit
def _others(x, y, out, N: tl.constexpr):
    at = tl.arange(0, N)
    value = tl.load(y + at)
    tl.atomic_max(x + at, value)
    tl.atomic_min(x + N + at, value)
    tl.atomic_and(x + 2 * N + at, value)
    tl.atomic_or(x + 3 * N + at, value)
    tl.atomic_xor(x + 4 * N + at, value)
    tl.store(out + at, tl.atomic_add(x + 5 * N + at, value))


def test_other_atomic_operations_agree_with_the_cpu_target() -> None:
    x, y = (RNG.integers(-(2**31), 2**31, n).astype(np.int32) for n in (6 * 16, 16))
    compare(_others, (1,), {"x": x, "y": y, "out": np.zeros(16, np.int32)}, N=16)


@triton.jit
def _exchange(x, y, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.atomic_cas(x + at, tl.load(y + at), tl.full((N,), 7, tl.int32))
    tl.atomic_xchg(x + N + at, tl.load(y + at))


def test_compare_and_exchange_in_memory() -> None:
    x = np.concatenate([np.arange(16), np.zeros(16)]).astype(np.int32)
    y = np.where(np.arange(16) % 3 == 0, np.arange(16), -1).astype(np.int32)
    emulate(_exchange, (1,), {"x": x, "y": y}, N=16)
    np.testing.assert_array_equal(x[:16], np.where(np.arange(16) % 3 == 0, 7, np.arange(16)))
    np.testing.assert_array_equal(x[16:], y)


@triton.jit
def _exchange_results(x, found, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(found + at, tl.atomic_cas(x + at, tl.full((N,), 3, tl.int32), tl.full((N,), 7, tl.int32)))
    tl.store(found + N + at, tl.atomic_xchg(x + N + at, at + 100))


@pytest.mark.parametrize("is_950", [False, True])
def test_what_compare_and_exchange_give_back_is_what_the_vendor_makes_of_it(is_950: bool) -> None:
    x, found = np.tile(np.arange(16, dtype=np.int32), 2), np.zeros(32, np.int32)
    compiled = compile_kernel(_exchange_results, {"x": x, "found": found}, {"N": 16})
    Emulated(compiled, is_950=is_950).launch((1,), {"x": x, "found": found})
    # Triton's atomic_cas gives the old value, 3; triton-ascend 3.2.0 reads the memory after it.
    np.testing.assert_array_equal(found[:16], np.where(np.arange(16) == 3, 7, np.arange(16)))
    np.testing.assert_array_equal(found[16:], np.arange(16))
    np.testing.assert_array_equal(x, [*found[:16], *range(100, 116)])


@triton.jit
def _eighths(x, out, N: tl.constexpr):
    at = tl.arange(0, N)
    tl.store(out + at, tl.load(x + at) + tl.load(out + at))


def test_arithmetic_with_float8_is_refused() -> None:
    # The 950's compiler takes it, and does not say how it rounds.
    text = ttir(_eighths, {"x": "*fp8e5", "out": "*fp8e5", "N": "constexpr"}, {"N": 32}, set())
    with pytest.raises(CompileError, match=r"test_program.py:\d+: .* arith.addf: arithmetic with float8"):
        emulator.build(linalg(text, is_950=True), tool("bishengir-opt"))
